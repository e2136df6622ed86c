//! Connections to a server: the first one is made at once or not at all, the others come from a pool.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventuali::{Error, Result};
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Postgres};
use tokio::time::timeout;

use super::faults::{UNREACHABLE, fault, is_outdated};
use crate::options::SqlOptions;
use crate::sql::database::Failure;

/// How long it may take to find out why there was no connection in time.
const ASKING_WHY: Duration = Duration::from_secs(1);

/// The connections of a store.
pub(super) struct Connections {
    /// What messages call the database.
    pub(super) shown: String,
    pub(super) pool: PgPool,
    connect: PgConnectOptions,
    /// The server refuses what connections prepared that were made before.
    outdated: Arc<Mutex<Option<Instant>>>,
}

impl Connections {
    /// Also gives the first connection, which is none of the pool's: a pool would try again and again where a server refuses.
    pub(super) async fn open(url: &str, options: &SqlOptions) -> Result<(Self, PgConnection)> {
        let connect = PgConnectOptions::from_str(url).map_err(|_| not_a_url())?;
        let connect = if connect.get_application_name().is_some() { connect } else { connect.application_name("eventuali") };
        let shown = shown(&connect);
        let settings = format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET timezone = 'UTC'",
            options.statement_timeout.as_millis(),
            options.lock_timeout.as_millis()
        );
        let first = in_time(&shown, options.acquire_timeout, async {
            let mut first = connect.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(&*settings)).execute(&mut first).await?;
            Ok(first)
        });
        let first = first.await?;
        let outdated = Arc::new(Mutex::new(None::<Instant>));
        let before = Arc::clone(&outdated);
        let pool = PgPoolOptions::new()
            .before_acquire(move |_, connection| {
                let is_newer = before.lock().is_none_or(|moment| connection.age < moment.elapsed());
                Box::pin(async move { Ok(is_newer) })
            })
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(async move { sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(connect.clone());
        Ok((Self { shown, pool, connect, outdated }, first))
    }

    /// A connection of the pool, which waits for a server that restarts.
    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, Failure> {
        match self.pool.acquire().await {
            Ok(connection) => Ok(connection),
            Err(sqlx::Error::PoolTimedOut) => Err(Failure::All(self.why_none().await)),
            Err(error) => Err(fault(&self.shown, &error)),
        }
    }

    /// What a failure means; after some failures no connection is used again that was made before.
    pub(super) fn fault(&self, error: &sqlx::Error) -> Failure {
        if is_outdated(error) {
            *self.outdated.lock() = Some(Instant::now());
        }
        fault(&self.shown, error)
    }

    /// Why there was no connection in time: the pool does not tell.
    async fn why_none(&self) -> Error {
        match in_time(&self.shown, ASKING_WHY, self.connect.connect()).await {
            Err(error) => error,
            Ok(connection) => {
                // It was made to see whether one can be.
                let _ = connection.close_hard().await;
                let most = self.pool.options().get_max_connections();
                let reason = format!("none of the store's {most} connections was free in time");
                Error::Unavailable { store: self.shown.clone(), reason, remedy: "or allow more with max_connections" }
            }
        }
    }
}

async fn in_time<T>(shown: &str, limit: Duration, connecting: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    let reason = || format!("no connection could be made in time ({limit:?})");
    match timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(|error| fault(shown, &error).error()),
        Err(_) => Err(Error::Unavailable { store: shown.to_owned(), reason: reason(), remedy: UNREACHABLE }),
    }
}

pub(super) fn not_a_url() -> Error {
    Error::configuration(
        "this is no address of a Postgres database; it is written postgresql://user:password@host:5432/database?sslmode=require, percent-encoded",
    )
}

/// The address without secrets.
fn shown(connect: &PgConnectOptions) -> String {
    let host = match connect.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", connect.get_host(), connect.get_port()),
    };
    // Without a name it is that of the user, which is where a password may have been written by mistake.
    match connect.get_database() {
        None => format!("postgresql://{host}"),
        Some(database) if database.contains([':', '@', '=', '&', ';', '?', '#']) || database.contains(char::is_whitespace) => {
            format!("postgresql://{host}/…")
        }
        Some(database) => format!("postgresql://{host}/{database}"),
    }
}
