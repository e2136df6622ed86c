//! The file of a store, which may be removed or replaced underneath it: SQLite goes on writing to what nobody will find again.

use std::path::{Path, PathBuf};
use std::{fs, io};

use eventuali::{Error, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::faults::fault;
use crate::config::no_store;
use crate::options::SqlOptions;
use crate::sql::schema;

/// What tells a file from another one of the same name.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = ();

/// A file that was opened.
pub(super) struct Opened {
    path: PathBuf,
    identity: Identity,
}

impl Opened {
    /// The file that is there now.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        match identity(&path) {
            Ok(identity) => Ok(Self { path, identity }),
            Err(error) => Err(gone("open", path, error.kind(), &error.to_string())),
        }
    }

    /// Whether `operation` would find the file.
    ///
    /// # Errors
    /// [`Io`](Error::Io) if its path names no file any more, or another one.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(gone(operation, self.path.clone(), io::ErrorKind::NotFound, "another file is in its place")),
            Err(error) => Err(gone(operation, self.path.clone(), error.kind(), &error.to_string())),
        }
    }
}

/// Refuses a file that holds no such store, and leaves it as it is.
pub(super) async fn require_store(path: &Path, shown: &str, options: &SqlOptions) -> Result<()> {
    if !path.exists() {
        return Err(no_store(shown));
    }
    let fail = |error: sqlx::Error| fault(shown, &error).error();
    let connect = SqliteConnectOptions::new().filename(path).busy_timeout(options.lock_timeout);
    let mut connection = connect.connect().await.map_err(fail)?;
    let there = schema::is_in_sqlite(&mut connection, &options.table).await.map_err(fail)?;
    connection.close().await.map_err(fail)?;
    if there { Ok(()) } else { Err(no_store(&options.table.within(shown))) }
}

/// The file's absolute path, if there can be one.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|error| Error::configuration(format!("{path:?} is no path of a file: {error}")))?;
    if absolute.is_dir() {
        return Err(Error::configuration(format!("{absolute:?} is a directory, but a SQLite store is a file; choose another path")));
    }
    match absolute.parent() {
        Some(parent) if !parent.exists() => {
            Err(Error::configuration(format!("{absolute:?} cannot be created: its parent directory does not exist; create it first")))
        }
        Some(parent) if !parent.is_dir() => Err(Error::configuration(format!("{absolute:?} cannot be created: its parent is a file"))),
        _ => Ok(absolute),
    }
}

fn gone(operation: &'static str, path: PathBuf, kind: io::ErrorKind, what: &str) -> Error {
    let message = format!("{what}; nothing was stored: close the store, put the file back and open it again");
    Error::Io { operation, path, kind, message }
}

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;

    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(drop)
}
