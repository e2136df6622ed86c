//! What SQLite's refusals mean.

use eventuali::Error;
use sqlx::migrate::MigrateError;

use crate::sql::database::{Failure, NO_STATE};

/// Whether another process holds the lock.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // SQLITE_BUSY, whatever kind of it
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// Whether a constraint refused what was to be stored.
pub(super) fn is_constraint(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // SQLITE_CONSTRAINT, whatever kind of it
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 19)
}

/// Whether a column that must have a value was to have none.
pub(super) fn is_without_value(error: &sqlx::Error) -> bool {
    // SQLITE_CONSTRAINT_NOTNULL
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "1299")
}

/// What SQLite's refusal means for appends.
pub(super) fn fault(shown: &str, error: &sqlx::Error) -> Failure {
    let store = || shown.to_owned();
    let sqlx::Error::Database(refusal) = error else {
        return match error {
            sqlx::Error::Migrate(migration) => match &**migration {
                MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => fault(shown, cause),
                other => Failure::All(Error::Database { store: store(), code: None, message: other.to_string() }),
            },
            sqlx::Error::PoolClosed => Failure::All(Error::Closed),
            sqlx::Error::RowNotFound => Failure::All(Error::Database { store: store(), code: None, message: NO_STATE.to_owned() }),
            sqlx::Error::PoolTimedOut => Failure::Passing(Error::Unavailable {
                store: store(),
                reason: "no connection was free in time".to_owned(),
                remedy: "or allow more with max_connections",
            }),
            other => Failure::All(Error::Database { store: store(), code: None, message: other.to_string() }),
        };
    };
    let code = refusal.code().map(std::borrow::Cow::into_owned);
    let primary = code.as_deref().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    let message = refusal.message().to_owned();
    match primary {
        // SQLITE_BUSY, SQLITE_LOCKED
        Some(5 | 6) => Failure::All(Error::Unavailable {
            store: store(),
            reason: format!("another process writes to it ({message})"),
            remedy: "or allow more time with lock_timeout",
        }),
        // SQLITE_READONLY
        Some(8) => {
            let message = format!("{message} (also who only reads a store needs the right to write to the file and its directory)");
            Failure::All(Error::Database { store: store(), code, message })
        }
        // SQLITE_FULL
        Some(13) => Failure::All(Error::StorageFull { path: shown.into(), needed_bytes: None }),
        // SQLITE_CANTOPEN
        Some(14) => Failure::All(Error::configuration(format!("{shown} cannot be opened: {message}"))),
        // SQLITE_NOTADB
        Some(26) => Failure::All(Error::configuration(format!("{shown} is a file, but no SQLite database; choose another path"))),
        // SQLITE_CONSTRAINT, SQLITE_MISMATCH, SQLITE_TOOBIG
        Some(18..=20) => Failure::Refused(Error::Database { store: store(), code, message }),
        _ => Failure::All(Error::Database { store: store(), code, message }),
    }
}

/// What a refused commit means: after a failed write or sync nobody knows what the disk has.
pub(super) fn commit_fault(shown: &str, error: &sqlx::Error) -> Failure {
    match fault(shown, error) {
        Failure::All(Error::Database { code, message, .. }) => {
            Failure::All(Error::OutcomeUnknown { cause: format!("{shown} could not commit ({}): {message}", code.unwrap_or_default()) })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Connection};

    use super::*;

    #[test]
    fn a_file_that_may_only_be_read_says_which_right_is_needed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let connect = SqliteConnectOptions::new().filename(folder.path().join("events.db")).create_if_missing(true);
        let refusal = runtime.block_on(async {
            connect.connect().await.expect("a database").close().await.expect("closed");
            let mut reading = connect.create_if_missing(false).read_only(true).connect().await.expect("it can be read");
            sqlx::query("CREATE TABLE t (a)").execute(&mut reading).await.expect_err("it cannot be written")
        });
        let error = fault("sqlite://events.db", &refusal).error();
        assert!(matches!(&error, Error::Database { code: Some(code), .. } if code == "8"), "{error:?}");
        assert!(error.to_string().contains("the right to write to the file and its directory"), "{error}");
    }
}
