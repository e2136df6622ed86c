//! Where a store is and how it is opened, as a value.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf, absolute};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use eventuali::{Compress, Durability, Error, EventStore, Follow, LogStore, OpenOptions, OpenReport, Position, Result, SealedReads};

use crate::connection::{self, Address, Place};
use crate::options::{Missing, SqlOptions, Synchronous};
#[cfg(feature = "postgres")]
use crate::sql::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::sql::sqlite::{SqliteFile, SqliteStore};
use crate::table::TableName;

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
    sql: SqlOptions,
    missing: Missing,
}

impl Config {
    /// The embedded engine in memory; every opening makes a new store, and there is nothing to choose.
    #[must_use]
    pub fn memory() -> Self {
        Self::of(Place::Memory)
    }

    /// The embedded engine in a directory. Any path is taken as it is, also one that is no connection string.
    #[must_use]
    pub fn embedded(path: impl Into<PathBuf>) -> Self {
        Self::of(Place::Directory(path.into()))
    }

    /// A SQLite file, made if it is not there; any path is taken as it is.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self::of(Place::SqliteFile(path.into()))
    }

    /// SQLite in memory; every opening makes a new store.
    #[must_use]
    pub fn sqlite_in_memory() -> Self {
        Self::of(Place::SqliteMemory)
    }

    /// A Postgres database, by its URL: `postgresql://user:password@host:5432/database?sslmode=verify-full&sslrootcert=…`.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) if it is no such URL; the message shows no password.
    pub fn postgres(url: &str) -> Result<Self> {
        let config = Self::parse(url)?;
        match config.place {
            Place::Postgres(_) => Ok(config),
            _ => Err(Error::configuration("this is no address of a Postgres database; it is written postgresql://user:password@host:5432/database")),
        }
    }

    fn of(place: Place) -> Self {
        Self { place, options: OpenOptions::new(), sql: SqlOptions::default(), missing: Missing::Create }
    }

    /// What a connection string names.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) with the spelling that was probably meant. It shows no password.
    pub fn parse(text: &str) -> Result<Self> {
        let place = connection::parse(text)?;
        #[cfg(feature = "postgres")]
        if let Place::Postgres(address) = &place {
            PostgresStore::check(address)?;
        }
        Ok(Self::of(place))
    }

    /// Only a store that is there: opening makes none. For what is to be read, a mistyped place or table is refused so, and not
    /// made and found empty.
    ///
    /// ```
    /// use eventuali_sql::Config;
    ///
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// let ordres = folder.path().join("ordres");
    /// assert!(Config::embedded(&ordres).existing().open().is_err());
    /// assert!(!ordres.exists());
    /// ```
    #[must_use]
    pub fn existing(mut self) -> Self {
        self.missing = Missing::Refuse;
        self
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

    /// How the embedded engine reads sealed segments.
    #[must_use]
    pub fn sealed_reads(self, sealed_reads: SealedReads) -> Self {
        self.change(|options| options.sealed_reads(sealed_reads))
    }

    /// Which sealed segments the embedded engine compresses while the store is open.
    #[must_use]
    pub fn compression(self, compression: Compress) -> Self {
        self.change(|options| options.compression(compression))
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

    /// Opens the embedded engine for reading only, beside the process that writes, if one does.
    #[must_use]
    pub fn read_only(self, follow: Follow) -> Self {
        self.change(|options| options.read_only(follow))
    }

    /// The name of the events table of a SQL store, `events` if none is chosen; other tables are named after it. Lower-case
    /// letters, digits and underscores.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) if it cannot be the name of a table.
    pub fn table_name(mut self, name: &str) -> Result<Self> {
        self.sql.table = TableName::new(name)?;
        Ok(self)
    }

    /// How many connections a SQL store has at most, 10 if nothing is chosen: one writes, the others read.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.sql.max_connections = connections;
        self
    }

    /// How long a read or append of a SQL store waits for a connection, 30 s if nothing is chosen.
    #[must_use]
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.sql.acquire_timeout = timeout;
        self
    }

    /// How long a statement of a SQL store waits for a lock that another process holds, 10 s if nothing is chosen.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.sql.lock_timeout = timeout;
        self
    }

    /// How long a statement may take on a Postgres server, 1 min if nothing is chosen.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.sql.statement_timeout = timeout;
        self
    }

    /// When SQLite syncs.
    #[must_use]
    pub fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.sql.synchronous = synchronous;
        self
    }

    fn change(self, change: impl FnOnce(OpenOptions) -> OpenOptions) -> Self {
        Self { options: change(self.options), ..self }
    }

    /// The directory or file of the store, as it was given (`~` expanded); `None` in memory and on a server.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Memory | Place::SqliteMemory | Place::Postgres(_) => None,
            Place::Directory(path) | Place::SqliteFile(path) => Some(path),
        }
    }

    /// Whether opening has to wait for nothing: neither for a disk nor for a database.
    #[must_use]
    pub fn opens_at_once(&self) -> bool {
        self.place == Place::Memory
    }

    /// Whether it names a store in memory: opening it makes a new one.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory | Place::SqliteMemory)
    }

    /// Opens the store, or creates it unless it is to be an [`existing`](Self::existing) one; of a directory's parents none is created.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) if the path or an option cannot be used, with the path as it was resolved, or if there
    /// is no store and none is to be made, and those of [`OpenOptions::open`].
    pub fn open(self) -> Result<Store> {
        self.check()?;
        match self.place {
            Place::Directory(path) | Place::SqliteFile(path) if path.as_os_str().is_empty() => {
                Err(Error::configuration("the path of the store is empty; use . for the current directory"))
            }
            Place::Directory(path) if self.missing == Missing::Refuse && !holds_a_store(&path) => {
                Err(no_store(&absolute(&path).unwrap_or(path).display().to_string()))
            }
            Place::Directory(path) => self.options.open(path).map(Store::Embedded),
            Place::Memory => LogStore::memory().map(Store::Embedded),
            Place::SqliteMemory => open_sqlite(None, self.sql, self.missing),
            Place::SqliteFile(path) => open_sqlite(Some(path), self.sql, self.missing),
            Place::Postgres(address) => open_postgres(address, self.sql, self.missing),
        }
    }

    /// Looks at the options alone: nothing is opened or created. One that the store does not have is refused, not ignored.
    ///
    /// # Errors
    /// [`Configuration`](Error::Configuration) with the options that the store does have, or with the range of a number.
    pub fn check(&self) -> Result<()> {
        let (embedded, sql) = (OpenOptions::new(), SqlOptions::default());
        let of_sql = self.sql != sql;
        let of_embedded = self.options != embedded;
        let refused = |message| Err(Error::configuration(message));
        match &self.place {
            Place::Memory | Place::SqliteMemory if self.missing == Missing::Refuse => {
                refused("a store in memory is a new one each time it is opened: use the open store itself, or name a place")
            }
            Place::Directory(_) if of_sql => {
                refused("table names, connections, timeouts and synchronous are options of SQL stores; a directory has durability and segment_bytes")
            }
            Place::Memory if of_sql || (of_embedded && self.options != embedded.durability(Durability::Memory)) => refused(
                "memory:// has no options: it keeps nothing on disk that could be durable, damaged or split; use a directory such as ./orders for them",
            ),
            Place::SqliteMemory | Place::SqliteFile(_) | Place::Postgres(_) if of_embedded => refused(
                "durability, segment_bytes, sealed_reads, compression, accept_loss_after, read_up_to_damage and read_only are options of a directory; SQLite has synchronous, and Postgres its own settings",
            ),
            Place::SqliteMemory if self.sql.synchronous != sql.synchronous => {
                refused("sqlite://:memory: keeps nothing on disk, so there is nothing to synchronise; use a file such as sqlite://events.db")
            }
            Place::SqliteMemory | Place::SqliteFile(_) if self.sql.statement_timeout != sql.statement_timeout => {
                refused("SQLite has no statement_timeout; lock_timeout says how long it waits for another process")
            }
            Place::Postgres(_) if self.sql.synchronous != sql.synchronous => {
                refused("synchronous is an option of SQLite; on Postgres it is the server's synchronous_commit")
            }
            Place::SqliteMemory | Place::SqliteFile(_) | Place::Postgres(_) => self.sql.check(),
            Place::Memory | Place::Directory(_) => Ok(()),
        }
    }
}

/// Whether a directory has files of a store. What cannot be looked at is left to the opening.
fn holds_a_store(path: &Path) -> bool {
    match path.read_dir() {
        Ok(mut entries) => entries.any(|entry| entry.is_ok_and(|entry| is_of_a_store(Path::new(&entry.file_name())))),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

fn is_of_a_store(name: &Path) -> bool {
    name == Path::new("MANIFEST") || name.extension().is_some_and(|extension| extension == "seg")
}

/// The refusal of a place that has no store.
pub(crate) fn no_store(place: &str) -> Error {
    Error::configuration(format!("there is no store in {place}, and none was made: check the spelling"))
}

#[cfg(feature = "sqlite")]
fn open_sqlite(path: Option<PathBuf>, options: SqlOptions, missing: Missing) -> Result<Store> {
    let file = path.map_or(SqliteFile::Memory, SqliteFile::File);
    SqliteStore::open(file, options, missing).map(Store::Sqlite)
}

#[cfg(not(feature = "sqlite"))]
fn open_sqlite(_path: Option<PathBuf>, _options: SqlOptions, _missing: Missing) -> Result<Store> {
    Err(Error::Unsupported { message: "this program was built without SQLite: build it with the feature `sqlite` of eventuali-sql".to_owned() })
}

#[cfg(feature = "postgres")]
fn open_postgres(address: Address, options: SqlOptions, missing: Missing) -> Result<Store> {
    PostgresStore::open(address, options, missing).map(Store::Postgres)
}

#[cfg(not(feature = "postgres"))]
fn open_postgres(_address: Address, _options: SqlOptions, _missing: Missing) -> Result<Store> {
    Err(Error::Unsupported { message: "this program was built without Postgres: build it with the feature `postgres` of eventuali-sql".to_owned() })
}

impl FromStr for Config {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Config {
    /// The place alone, as a connection string or path, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Memory => f.write_str(connection::MEMORY),
            Place::Directory(path) => path.display().fmt(f),
            Place::SqliteMemory => f.write_str("sqlite://:memory:"),
            Place::SqliteFile(path) => write!(f, "sqlite://{}", path.display()),
            Place::Postgres(address) => f.write_str(&address.shown()),
        }
    }
}

/// An open store, of whatever kind its config named. Clones are handles on the same store.
#[derive(Clone)]
#[non_exhaustive]
pub enum Store {
    /// The embedded engine.
    Embedded(LogStore),
    /// A SQLite file, or SQLite in memory.
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteStore),
    /// A Postgres database.
    #[cfg(feature = "postgres")]
    Postgres(PostgresStore),
}

impl Store {
    /// The store behind the trait.
    #[must_use]
    pub fn into_dyn(self) -> Arc<dyn EventStore> {
        match self {
            Self::Embedded(store) => Arc::new(store),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => Arc::new(store),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => Arc::new(store),
        }
    }

    /// What opening found and did, where the store is an embedded one.
    #[must_use]
    pub fn open_report(&self) -> Option<&OpenReport> {
        match self {
            Self::Embedded(store) => Some(store.open_report()),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            _ => None,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(store) => f.debug_tuple("Embedded").field(store.open_report()).finish(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.fmt(f),
        }
    }
}
