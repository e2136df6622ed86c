//! How a SQL store is opened.

use std::time::Duration;

use eventuali::{Error, Result};

use crate::table::TableName;

/// Room is kept for every connection that there may be, also for those that nobody ever needs.
const CONNECTIONS_MAX: u32 = 10_000;

/// Options of a SQL store; each has a value that fits most programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SqlOptions {
    pub(crate) table: TableName,
    pub(crate) max_connections: u32,
    pub(crate) acquire_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) statement_timeout: Duration,
    pub(crate) synchronous: Synchronous,
}

/// What opening does where there is no store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Missing {
    /// It makes one: a program needs no step before its first start. A place that is mistyped is a new store.
    #[default]
    Create,
    /// It refuses: a place that is mistyped is told. Somebody else has to make the store.
    Refuse,
}

/// When SQLite syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Synchronous {
    /// At every commit: an acknowledged append survives a power failure.
    #[default]
    Full,
    /// At checkpoints: an acknowledged append survives the end of the process; a power failure may lose a recent suffix.
    Normal,
}

impl Default for SqlOptions {
    fn default() -> Self {
        Self {
            table: TableName::default(),
            max_connections: 10,
            acquire_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_mins(1),
            synchronous: Synchronous::Full,
        }
    }
}

impl SqlOptions {
    /// # Errors
    /// [`Configuration`](Error::Configuration) for a number that cannot work.
    pub(crate) fn check(&self) -> Result<()> {
        if !(2..=CONNECTIONS_MAX).contains(&self.max_connections) {
            return Err(Error::configuration(format!(
                "max_connections is {}, but must be from 2 to {CONNECTIONS_MAX}: one writes, the others read",
                self.max_connections
            )));
        }
        for (name, timeout) in
            [("acquire_timeout", self.acquire_timeout), ("lock_timeout", self.lock_timeout), ("statement_timeout", self.statement_timeout)]
        {
            if timeout < Duration::from_millis(1) || timeout > Duration::from_hours(24) {
                return Err(Error::configuration(format!("{name} is {timeout:?}, but must be from 1 ms to 24 hours")));
            }
        }
        Ok(())
    }
}
