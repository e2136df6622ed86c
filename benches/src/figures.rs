//! The figures to reach, each in a file of its own.

pub mod compression;
pub mod concurrent;
pub mod forking;
pub mod growth;
pub mod memory;
pub mod reading;
pub mod sql;
pub mod written;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Result;

/// Where the files of the figures are: a folder of their own on a real disk, gone afterwards.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// A new folder in the one that `EVENTUALI_BENCH_DIR` names, or beside this program.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new() -> Result<Self> {
        let parent = match std::env::var_os("EVENTUALI_BENCH_DIR") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default(),
        };
        Ok(Self { folder: tempfile::Builder::new().prefix("figures-").tempdir_in(parent)? })
    }

    /// The path of a file or store in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
