//! What the disk needs on Linux and macOS.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstat};

use crate::log::sys;

pub(super) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// The same options, for a file that only its owner can read.
pub(super) fn private(mut options: OpenOptions) -> OpenOptions {
    options.mode(0o600);
    options
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Gives `start..end` space without writing; `false` if this file system cannot.
pub(super) fn reserve(file: &File, start: u64, end: u64) -> io::Result<bool> {
    match fallocate(file.as_fd(), FallocateFlags::empty(), start, end - start) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the path leads to this open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(open), Ok(named)) if identity(&open) == identity(&named))
}

/// Whether this open file still has a name.
pub(super) fn is_linked(file: &File) -> bool {
    fstat(file).is_ok_and(|state| state.st_nlink > 0)
}

/// The directory of a store, whatever the path that led to it.
///
/// The lock file belongs to it: when a directory is removed under an open store, its number is given to the next one, while
/// that of the lock file is the store's for as long as it holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryId {
    device: u64,
    inode: u64,
    lock: Option<u64>,
}

impl DirectoryId {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let lock = fs::metadata(path.join(super::LOCK)).ok().map(|lock| lock.ino());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), lock })
    }
}

/// The kernel's lock on a file: given back only by closing the descriptor, which the kernel does when the process dies.
pub(super) struct HeldLock {
    /// `None` only while it is dropped.
    file: Option<File>,
    generation: u32,
}

impl HeldLock {
    /// Takes the lock, or fails with `WouldBlock` if somebody else holds it.
    pub(super) fn take(file: File) -> Result<Self, (File, io::Error)> {
        let taken = sys::with_lock_descriptors(|descriptors| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            descriptors.push(file.as_raw_fd());
            Ok::<_, rustix::io::Errno>(())
        });
        match taken {
            Ok(()) => Ok(Self { file: Some(file), generation: sys::fork_generation() }),
            Err(error) => Err((file, error.into())),
        }
    }

    /// The locked file.
    pub(super) fn file(&self) -> &File {
        self.file.as_ref().expect("a lock has its file until it is dropped")
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if self.generation == sys::fork_generation() {
            sys::with_lock_descriptors(|descriptors| {
                descriptors.retain(|descriptor| *descriptor != file.as_raw_fd());
                drop(file);
            });
        } else {
            // A forked child closed its copy when it was made; the number may be another file's by now.
            let _ = file.into_raw_fd();
        }
    }
}
