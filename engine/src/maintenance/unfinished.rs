//! The directory of a new store, which gets its name only when the store is complete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::log::names::UNFINISHED_STORE;
use crate::log::storage::Storage;
use crate::log::storage::os::{LOCK, OsStorage};

/// The names of a new store's directory: while it is written, and when it is finished.
pub(super) struct Unfinished {
    target: PathBuf,
    unfinished: PathBuf,
}

impl Unfinished {
    /// The names for what `maker` writes to `target`, which must not exist yet, nor lie within the store that it is made from.
    pub(super) fn of(maker: &str, source: Option<&Path>, target: &Path) -> Result<Self> {
        let target = std::path::absolute(target).map_err(|error| Error::configuration(format!("{target:?} is no path of a store: {error}")))?;
        if fs::symlink_metadata(&target).is_ok() {
            return Err(Error::configuration(format!("{target:?} exists already; {maker} writes a new store, so choose another path")));
        }
        let (Some(name), Some(parent)) = (target.file_name(), target.parent()) else {
            return Err(Error::configuration(format!("{target:?} is no path of a new store; choose another")));
        };
        let look = |path: &Path| fs::canonicalize(path).map_err(|error| Error::io("look up", path, &error));
        if !parent.is_dir() {
            return Err(Error::configuration(format!("{target:?} cannot be created: its parent directory does not exist; create it first")));
        }
        if let Some(source) = source
            && look(parent)?.starts_with(look(source)?)
        {
            return Err(Error::configuration(format!(
                "{target:?} lies within the store that it is made from, which is left as it is; choose another path"
            )));
        }
        let mut unfinished = name.to_owned();
        unfinished.push(format!(".{maker}.tmp"));
        Ok(Self { unfinished: parent.join(unfinished), target })
    }

    /// Has `write` write the new store, and gives it its name if it is complete. If not, nothing is left.
    pub(super) fn make<T>(&self, write: impl FnOnce(&OsStorage) -> Result<T>, is_complete: impl FnOnce(&T) -> bool) -> Result<T> {
        let storage = self.begin()?;
        let mut lock = storage.lock()?;
        self.clear(&storage)?;
        let written = match write(&storage) {
            Ok(written) if is_complete(&written) => written,
            ended => {
                // Should that fail too, the next attempt does it.
                let _ = self.clear(&storage);
                lock.retract();
                let _ = fs::remove_file(self.unfinished.join(UNFINISHED_STORE));
                let _ = fs::remove_dir(&self.unfinished);
                return ended;
            }
        };
        if cfg!(windows) {
            // A directory with open files cannot be renamed there.
            drop(lock);
            self.finish()?;
        } else {
            self.finish()?;
            drop(lock);
        }
        Ok(written)
    }

    /// The directory to write to: a new one, or what an earlier attempt has left, and nothing else.
    fn begin(&self) -> Result<OsStorage> {
        let io = |error: io::Error| Error::io("create", &self.unfinished, &error);
        match OsStorage::create_unfinished_directory(&self.unfinished) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.require_remains()?,
            created => created.map_err(io)?,
        }
        fs::write(self.unfinished.join(UNFINISHED_STORE), []).map_err(io)?;
        Ok(OsStorage::new(self.unfinished.clone()))
    }

    /// Refuses what no earlier attempt has left: its files are somebody's.
    fn require_remains(&self) -> Result<()> {
        let io = |error: io::Error| Error::io("look up", &self.unfinished, &error);
        let is_folder = fs::symlink_metadata(&self.unfinished).map_err(io)?.is_dir();
        // One that was killed right after it made the directory has left it empty.
        if is_folder && (self.unfinished.join(UNFINISHED_STORE).exists() || fs::read_dir(&self.unfinished).map_err(io)?.next().is_none()) {
            return Ok(());
        }
        Err(Error::configuration(format!(
            "{:?} is where the new store is written to, and is not what an unfinished one has left; move it away, or choose another path",
            self.unfinished
        )))
    }

    /// Removes what an earlier attempt has left, all but its lock and its mark.
    fn clear(&self, storage: &OsStorage) -> Result<()> {
        let io = |error: io::Error| Error::io("clear", &self.unfinished, &error);
        for name in storage.list("").map_err(io)?.into_iter().filter(|name| name != LOCK && name != UNFINISHED_STORE) {
            let path = self.unfinished.join(name);
            let is_folder = fs::symlink_metadata(&path).map_err(io)?.is_dir();
            if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(io)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        fs::rename(&self.unfinished, &self.target)
            .and_then(|()| OsStorage::sync_parent(&self.target))
            .map_err(|error| Error::io("finish", &self.target, &error))?;
        // It says nothing any more, and whoever opens the store would remove it.
        let _ = fs::remove_file(self.target.join(UNFINISHED_STORE));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(target: &Path, is_complete: bool) -> Result<()> {
        Unfinished::of("backup", None, target)?
            .make(|storage| storage.create("a").map(drop).map_err(|error| Error::io("create", "a", &error)), |()| is_complete)
    }

    #[test]
    fn only_what_an_unfinished_store_has_left_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, unfinished) = (folder.path().join("copy"), folder.path().join("copy.backup.tmp"));
        let names = |path: &Path| fs::read_dir(path).expect("listed").map(|entry| entry.expect("listed").file_name()).collect::<Vec<_>>();
        let refused = || assert!(matches!(make(&target, true), Err(Error::Configuration { message }) if message.contains("move it away")));
        fs::create_dir(&unfinished).expect("made");
        fs::write(unfinished.join("MANIFEST"), "somebody's").expect("written");
        refused();
        assert_eq!(names(&unfinished), ["MANIFEST"]);
        fs::remove_dir_all(&unfinished).expect("removed");
        fs::write(&unfinished, "somebody's").expect("written");
        refused();
        fs::remove_file(&unfinished).expect("removed");
        #[cfg(unix)]
        {
            let elsewhere = folder.path().join("elsewhere");
            fs::create_dir(&elsewhere).expect("made");
            std::os::unix::fs::symlink(&elsewhere, &unfinished).expect("linked");
            refused();
            assert!(names(&elsewhere).is_empty());
            fs::remove_file(&unfinished).expect("removed");
        }
        // What was stopped leaves nothing, what was killed its mark.
        make(&target, false).expect("stopped");
        assert!(!unfinished.exists() && !target.exists());
        fs::create_dir_all(unfinished.join("index")).expect("made");
        fs::write(unfinished.join(UNFINISHED_STORE), "").expect("written");
        make(&target, true).expect("finished");
        assert!(!unfinished.exists());
        assert!(names(&target).iter().all(|name| name == "a" || name == LOCK), "{:?}", names(&target));
    }
}
