//! Where a store is and how it is opened, as a value.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use eventuali::{Durability, Error, EventStore, LogStore, OpenOptions, OpenReport, Position, Result};

use crate::connection::{self, Place};

/// Where a store is, and how it is to be opened.
///
/// ```
/// use eventuali::Durability;
/// use eventuali_sql::Config;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let path = folder.path().join("orders");
/// let store = Config::embedded(&path).durability(Durability::Os).open()?;
/// assert_eq!(store.open_report().map(|report| report.head.0), Some(0));
/// assert_eq!(Config::parse("memory://")?, Config::memory());
/// # Ok::<(), eventuali::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    place: Place,
    options: OpenOptions,
}

impl Config {
    /// The embedded engine in memory; every opening makes a new store, and there is nothing to choose.
    #[must_use]
    pub fn memory() -> Self {
        Self { place: Place::Memory, options: OpenOptions::new() }
    }

    /// The embedded engine in a directory. Any path is taken as it is, also one that is no connection string.
    #[must_use]
    pub fn embedded(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Directory(path.into()), options: OpenOptions::new() }
    }

    /// What a connection string names.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) with the spelling that was probably meant, [`Unsupported`](Error::Unsupported)
    /// for SQL stores. Neither shows a password.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self { place: connection::parse(text)?, options: OpenOptions::new() })
    }

    /// How the embedded engine is opened, all at once.
    #[must_use]
    pub fn options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }

    /// What an acknowledged append has survived.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        self.change(|options| options.durability(durability))
    }

    /// How large a segment file grows before the next one is begun, in bytes.
    #[must_use]
    pub fn segment_bytes(self, bytes: u64) -> Self {
        self.change(|options| options.segment_bytes(bytes))
    }

    /// Gives up everything after `position`, the last good position that a refusal named.
    #[must_use]
    pub fn accept_loss_after(self, position: Position) -> Self {
        self.change(|options| options.accept_loss_after(position))
    }

    /// Opens a damaged store for reading up to the damage.
    #[must_use]
    pub fn read_up_to_damage(self) -> Self {
        self.change(OpenOptions::read_up_to_damage)
    }

    fn change(self, change: impl FnOnce(OpenOptions) -> OpenOptions) -> Self {
        Self { options: change(self.options), ..self }
    }

    /// The directory of the store, as it was given (`~` expanded); `None` in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Memory => None,
            Place::Directory(path) => Some(path),
        }
    }

    /// Opens the store, or creates it; of a directory's parents none is created.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) if the path or an option cannot be used, with the path as it was resolved, and
    /// those of [`OpenOptions::open`].
    pub fn open(self) -> Result<Store> {
        match self.place {
            Place::Directory(path) if path.as_os_str().is_empty() => {
                Err(Error::configuration("the path of the store is empty; use . for the current directory"))
            }
            Place::Directory(path) => self.options.open(path).map(Store::Embedded),
            Place::Memory => {
                let nothing_chosen = [OpenOptions::new(), OpenOptions::new().durability(Durability::Memory)].contains(&self.options);
                if nothing_chosen { LogStore::memory().map(Store::Embedded) } else { Err(memory_has_no_options()) }
            }
        }
    }
}

fn memory_has_no_options() -> Error {
    Error::configuration(
        "memory:// has no options: it keeps nothing on disk that could be durable, damaged or split; use a directory such as ./orders for them",
    )
}

impl FromStr for Config {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Config {
    /// The place alone, as a connection string or path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Memory => f.write_str(connection::MEMORY),
            Place::Directory(path) => path.display().fmt(f),
        }
    }
}

/// An open store, of whatever kind its config named.
#[non_exhaustive]
pub enum Store {
    /// The embedded engine.
    Embedded(LogStore),
}

impl Store {
    /// The store behind the trait.
    #[must_use]
    pub fn into_dyn(self) -> Arc<dyn EventStore> {
        match self {
            Self::Embedded(store) => Arc::new(store),
        }
    }

    /// What opening found and did, where the store is an embedded one.
    #[must_use]
    pub fn open_report(&self) -> Option<&OpenReport> {
        match self {
            Self::Embedded(store) => Some(store.open_report()),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(store) => f.debug_tuple("Embedded").field(store.open_report()).finish(),
        }
    }
}
