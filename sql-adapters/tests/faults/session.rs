//! SQL by hand, beside the store.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection};
use tokio::runtime::{Builder, Runtime};

/// A connection to a server, for statements by hand.
pub(crate) struct Session<C: Connection = PgConnection> {
    runtime: Runtime,
    connection: Option<C>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Session {
    pub(crate) fn new(url: &str) -> Self {
        let runtime = runtime();
        let options = PgConnectOptions::from_str(url).expect("an address");
        let connection = runtime.block_on(options.connect()).expect("a connection");
        Self { runtime, connection: Some(connection) }
    }

    /// Runs statements, as they stand.
    #[track_caller]
    pub(crate) fn run(&mut self, statements: &str) {
        let connection = self.connection.as_mut().expect("it is open");
        self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection)).unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// The one number that a statement gives.
    #[track_caller]
    pub(crate) fn number(&mut self, statement: &str) -> i64 {
        let connection = self.connection.as_mut().expect("it is open");
        self.runtime
            .block_on(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection))
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }
}

impl Session<SqliteConnection> {
    pub(crate) fn sqlite(path: &std::path::Path) -> Self {
        let runtime = runtime();
        let connection = runtime.block_on(SqliteConnectOptions::new().filename(path).connect()).expect("a connection");
        Self { runtime, connection: Some(connection) }
    }

    /// The one number that a statement gives.
    #[allow(dead_code, reason = "not every test counts")]
    #[track_caller]
    pub(crate) fn number_in_sqlite(&mut self, statement: &str) -> i64 {
        let connection = self.connection.as_mut().expect("it is open");
        self.runtime
            .block_on(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(connection))
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    #[track_caller]
    pub(crate) fn run_sqlite(&mut self, statements: &str) {
        let connection = self.connection.as_mut().expect("it is open");
        self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection)).unwrap_or_else(|error| panic!("{statements}: {error}"));
    }
}

impl<C: Connection> Drop for Session<C> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // A server that is gone cannot be told.
            let _ = self.runtime.block_on(connection.close());
        }
    }
}
