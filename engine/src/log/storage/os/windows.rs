//! What the disk needs on Windows.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::windows::fs::FileExt;
use std::path::{Path, PathBuf};

/// A directory has its parent's access rules here.
pub(super) fn create_private_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

/// A file has its directory's access rules here.
pub(super) fn private(options: OpenOptions) -> OpenOptions {
    options
}

/// A directory cannot be synced here: whether a name survives a power failure is left to the file system.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(super) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.seek_write(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives `start..end` space without writing: a longer file that is not sparse has it.
pub(super) fn reserve(file: &File, _start: u64, end: u64) -> io::Result<bool> {
    file.set_len(end)?;
    Ok(true)
}

pub(super) fn host_name() -> String {
    env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_owned())
}

/// Whether the path leads to this open file: one that is open here cannot be removed or replaced.
pub(super) fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

/// Whether this open file still has a name: one that is open here cannot be removed.
pub(super) fn is_linked(_file: &File) -> bool {
    true
}

/// A directory, whatever the path that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryId(PathBuf);

impl DirectoryId {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::canonicalize(path).map(Self)
    }
}

/// The system's lock on a file: given back by closing the handle, which the system does when the process dies. While it is
/// held, other processes cannot read the file, and so do not learn who holds it.
pub(super) struct HeldLock(File);

impl HeldLock {
    /// Takes the lock, or fails with `WouldBlock` if somebody else holds it.
    pub(super) fn take(file: File) -> Result<Self, (File, io::Error)> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err((file, io::ErrorKind::WouldBlock.into())),
            Err(TryLockError::Error(error)) => Err((file, error)),
        }
    }

    /// The locked file.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}
