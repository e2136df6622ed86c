//! What the server's and the driver's errors mean for a store.

use std::borrow::Cow;

use eventuali::Error;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::sql::database::{Failure, NO_STATE};

/// What helps where nothing is known but that there was no answer.
pub(super) const UNREACHABLE: &str = "and see whether the server is up and reachable";

/// Whether a statement was prepared when its columns had other types.
pub(super) fn is_outdated(error: &sqlx::Error) -> bool {
    let refusal = error.as_database_error().and_then(|refusal| refusal.try_downcast_ref::<PgDatabaseError>());
    refusal.is_some_and(|refusal| refusal.routine() == Some("RevalidateCachedQuery"))
}

/// What a failure means for appends.
pub(super) fn fault(shown: &str, error: &sqlx::Error) -> Failure {
    let store = || shown.to_owned();
    let unavailable_until = |reason: String, remedy| Error::Unavailable { store: store(), reason, remedy };
    let unavailable = |reason: String| unavailable_until(reason, UNREACHABLE);
    let sqlx::Error::Database(refusal) = error else {
        return match error {
            sqlx::Error::Migrate(migration) => match &**migration {
                MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => fault(shown, cause),
                other => Failure::All(Error::Database { store: store(), code: None, message: other.to_string() }),
            },
            sqlx::Error::PoolClosed => Failure::All(Error::Closed),
            sqlx::Error::RowNotFound => Failure::All(Error::Database { store: store(), code: None, message: NO_STATE.to_owned() }),
            sqlx::Error::PoolTimedOut => Failure::All(unavailable("no connection was free, or could be made, in time".to_owned())),
            sqlx::Error::Tls(reason) => Failure::All(Error::configuration(format!("{shown} cannot be reached by TLS: {reason}"))),
            // The certificate or the protocol does not satisfy what was asked for.
            sqlx::Error::Io(reason) if reason.kind() == std::io::ErrorKind::InvalidData => {
                Failure::All(Error::configuration(format!("{shown} cannot be reached by TLS: {reason}")))
            }
            sqlx::Error::Io(reason) => Failure::Passing(unavailable(reason.to_string())),
            sqlx::Error::Protocol(reason) => Failure::Passing(unavailable(reason.clone())),
            sqlx::Error::WorkerCrashed => Failure::Passing(unavailable("the connection ended".to_owned())),
            other => Failure::All(Error::Database { store: store(), code: None, message: other.to_string() }),
        };
    };
    if is_outdated(error) {
        return Failure::Passing(unavailable_until("the columns of its tables were changed".to_owned(), "which makes new connections"));
    }
    let code = refusal.code().map(Cow::into_owned).unwrap_or_default();
    let message = refusal.message().to_owned();
    match &*code {
        // Serialization failures and deadlocks; a server that stops, restarts, or is a standby after a failover;
        // a transaction that took so long that the server ended it.
        "40001" | "40P01" | "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "25P03" | "25P04" | "53400" => Failure::Passing(unavailable(message)),
        // Too many connections.
        "53300" => Failure::Passing(unavailable_until(message, "and have the stores' max_connections together fit into the server's")),
        code if code.starts_with("08") => Failure::Passing(unavailable(message)),
        // Timeouts of locks and statements.
        "55P03" => Failure::All(unavailable_until(message, "or allow more time with lock_timeout")),
        "57014" => Failure::All(unavailable_until(message, "or allow more time with statement_timeout")),
        "53100" => Failure::All(Error::StorageFull { path: shown.into(), needed_bytes: None }),
        // Wrong password, unknown role, no right to connect, unknown database.
        "28P01" | "28000" | "3D000" => Failure::All(Error::configuration(format!("{shown} refused the connection: {message}"))),
        // Values that the columns cannot hold, constraints, limits of the server.
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => {
            Failure::Refused(Error::Database { store: store(), code: Some(code.to_owned()), message })
        }
        code => Failure::All(Error::Database { store: store(), code: Some(code.to_owned()), message }),
    }
}

/// What a failure to commit means: only a server that goes on in the same session says that nothing was stored.
pub(super) fn commit_fault(shown: &str, error: &sqlx::Error) -> Failure {
    let rolled_back = error.as_database_error().and_then(|refusal| refusal.try_downcast_ref::<PgDatabaseError>());
    match fault(shown, error) {
        failure if rolled_back.is_some_and(|refusal| refusal.severity() == PgSeverity::Error) => failure,
        failure => Failure::InDoubt(failure.error()),
    }
}
