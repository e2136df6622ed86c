//! Sealed segments read through memory maps, for who prefers fewer system calls to errors.
//!
//! One of the two files with unsafe code; the other is `sys.rs`.
#![expect(unsafe_code, reason = "a memory map has no safe form: whoever cuts the file takes its pages away")]

use std::fs::File;
use std::io;
use std::ptr;

use memmap2::{Mmap, MmapOptions};

use super::super::{Space, StorageFile};

/// A file that nobody changes any more, in memory.
pub(super) struct MappedFile(Mmap);

impl MappedFile {
    pub(super) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes are only read through `copy_nonoverlapping` below, never borrowed, and everything that is made of
        // them is verified by checksums. That the file is not cut is promised by who opens it with `Access::Sealed`: this
        // program never changes a sealed segment. Where another one cuts it, the system ends the process with SIGBUS, which
        // is what `SealedReads::Mapped` says.
        unsafe { MmapOptions::new().map(file) }.map(Self)
    }
}

fn unchangeable<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a sealed segment is never changed"))
}

impl StorageFile for MappedFile {
    fn may_be_read_ahead(&self) -> bool {
        true
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let count = buffer.len().min(self.0.len() - from);
        // SAFETY: `from + count` is at most the length of the map, which lives as long as `self`; the buffer has room for
        // `count` bytes and is nobody else's, so the two do not overlap. Both are ensured by the two lines above.
        unsafe { ptr::copy_nonoverlapping(self.0.as_ptr().add(from), buffer.as_mut_ptr(), count) };
        Ok(count)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        unchangeable()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        unchangeable()
    }

    fn secure_space(&self, _start: u64, _end: u64, _space: Space) -> io::Result<()> {
        unchangeable()
    }
}
