//! The only door to the disk: files of one store, by name, with the duties a durable log needs.

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;

#[cfg(feature = "testing")]
mod faulty;
mod memory;
pub(crate) mod os;

#[cfg(feature = "testing")]
pub use faulty::{Failure, Fault, FaultyStorage, Mistake, OperationKind};
pub use memory::MemoryStorage;

/// The directory of one store.
///
/// Names are relative to it, use `/` between folders, and never come from users' data.
///
/// A file is durable only after its own `sync`; its name (created, renamed, removed) only after `sync_directory` of the
/// folder that holds it. An operation that failed may have happened in part.
pub trait Storage: Any + Send + Sync {
    /// Where the store is, for messages.
    fn path(&self) -> PathBuf;

    /// Takes the writer's lock for as long as the returned value lives.
    ///
    /// # Errors
    /// [`StoreLocked`](crate::Error::StoreLocked) if somebody else holds it.
    fn lock(&self) -> Result<Box<dyn Lock>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is none.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>>;

    /// Creates an empty file, replacing one of the same name. It can be read and written.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Gives a file another name, replacing one that has it.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file of another directory the same name here as well: from then on both lead to the same bytes, and each can be removed
    /// by itself. Nobody may change such a file any more. Whether that was possible; if not, the file has to be copied.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is no such file, `AlreadyExists` if the name is taken here.
    fn share_from(&self, _other: &dyn Storage, _name: &str) -> io::Result<bool> {
        Ok(false)
    }

    /// The names of the files in a folder (`""` is the store's own); empty if there is no such folder.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes sure that a folder exists and that its name is durable.
    ///
    /// # Errors
    /// What the system says.
    fn create_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_directory(&self, folder: &str) -> io::Result<()>;
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only: the file is never changed.
    Read,
    /// Reading a file that nobody changes or cuts any more, in whatever way the storage was asked for.
    Sealed,
    /// Reading and writing.
    Write,
}

/// Held by the one writer of a store; given back by dropping it.
pub trait Lock: Send + Sync {
    /// What it was taken for is refused: removes what taking it has made, so that the directory is as it was. It is held
    /// all the same until it is dropped.
    fn retract(&mut self) {}

    /// Whether it still keeps others out: what it is held on has not been removed. Asked before every write.
    fn keeps_others_out(&self) -> bool {
        true
    }

    /// Whether the storage's names still lead to where it is held. Asked before files are made or replaced by name.
    fn is_in_place(&self) -> bool {
        true
    }
}

/// One open file, used by offset from many threads at once.
pub trait StorageFile: Send + Sync + 'static {
    /// Fills `buffer` from `offset` on as far as the file reaches; the number of bytes read.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system says; then any part of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes contents and length durable.
    ///
    /// # Errors
    /// What the system says. After a failure the contents since the last success may be lost although they can still be
    /// read, and a later success proves nothing about them.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros that need no space.
    ///
    /// # Errors
    /// What the system says.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes sure that `start..end` lies within the file and has space, so that writing there cannot run out of it. New
    /// bytes read as zeros; none is changed.
    ///
    /// # Errors
    /// `StorageFull` if there is not enough space; then the file is as before, but may be longer.
    fn secure_space(&self, start: u64, end: u64, space: Space) -> io::Result<()>;

    /// Whether it may be read from other threads than the one that asks, before anybody does.
    fn may_be_read_ahead(&self) -> bool {
        false
    }
}

/// How space is secured ahead of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Zeros are written: later syncs need not change the file system's own records, which makes them faster.
    Written,
    /// Space is reserved without writing: cheaper where nobody waits for a sync.
    Reserved,
}

/// Fills all of `buffer`, or fails with `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &dyn StorageFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buffer, offset)? == buffer.len() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends before byte {}", offset + buffer.len() as u64)))
}
