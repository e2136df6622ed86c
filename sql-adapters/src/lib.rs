//! Opens an event store by its connection string, or by a typed config.
//!
//! | connection string | store |
//! |---|---|
//! | `memory://` | the embedded engine, in memory; always a new store |
//! | `./orders`, `../orders`, `/var/lib/orders`, `~/orders` | the embedded engine in that directory, made if it is not there |
//! | `eventuali:///var/lib/orders` | the same, as a URL (absolute, percent-encoded) |
//! | `sqlite://events.db`, `sqlite:///var/lib/events.db`, `sqlite://:memory:` | SQLite: a file, made if it is not there, or memory |
//! | `postgresql://user:password@host:5432/database`, `postgres://…` | Postgres; its tables are made if they are not there |
//!
//! Whatever is probably a slip, such as `orders` or `:memory:`, is refused with the spelling that was meant. No error and
//! no `Debug` shows a password.
//!
//! ```
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! # let directory = folder.path().join("orders").display().to_string();
//! let store = eventuali_sql::open(&directory)?;
//! assert_eq!(store.head().wait()?.0, 0);
//! store.close().wait()?;
//!
//! let refused = eventuali_sql::open("orders").err().map(|error| error.to_string());
//! assert!(refused.is_some_and(|message| message.contains("./orders")));
//! # Ok::<(), eventuali::Error>(())
//! ```

mod config;
mod connection;
#[cfg(feature = "sql")]
mod json;
#[cfg(feature = "sql")]
mod moving;
mod options;
#[cfg(feature = "sql")]
mod sql;
mod table;

use std::sync::Arc;

use eventuali::{EventStore, Result};

pub use config::{Config, Store};
#[cfg(feature = "sql")]
pub use json::comparable_json;
#[cfg(feature = "sql")]
pub use moving::{
    Difference, DifferenceKind, Mirror, MirrorStatus, Moved, Progress, Verified, check_eventsourcing, export, export_json_lines,
    import_eventsourcing, import_json_lines, verify,
};
pub use options::Synchronous;
#[cfg(feature = "postgres")]
pub use sql::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sql::sqlite::SqliteStore;

/// Opens the store that a connection string names, with the default options.
///
/// # Errors
/// Those of [`Config::parse`] and [`Config::open`].
pub fn open(text: &str) -> Result<Arc<dyn EventStore>> {
    Config::parse(text)?.open().map(Store::into_dyn)
}
