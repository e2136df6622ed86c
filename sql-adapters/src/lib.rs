//! Opens an event store by its connection string, or by a typed config.
//!
//! | connection string | store |
//! |---|---|
//! | `memory://` | the embedded engine, in memory; always a new store |
//! | `./orders`, `../orders`, `/var/lib/orders`, `~/orders` | the embedded engine in that directory, made if it is not there |
//! | `eventuali:///var/lib/orders` | the same, as a URL (absolute, percent-encoded) |
//! | `sqlite://…`, `postgresql://…`, `postgres://…` | known, and refused as [`Unsupported`](eventuali::Error::Unsupported) so far |
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
#[cfg_attr(not(test), expect(dead_code, reason = "the SQL stores are the ones to call it"))]
mod json;

use std::sync::Arc;

use eventuali::{EventStore, Result};

pub use config::{Config, Store};

/// Opens the store that a connection string names, with the default options.
///
/// # Errors
/// Those of [`Config::parse`] and [`Config::open`].
pub fn open(text: &str) -> Result<Arc<dyn EventStore>> {
    Config::parse(text)?.open().map(Store::into_dyn)
}
