//! One segment file as it is read here: whatever its header is worth.

use std::io;
use std::sync::Arc;

use super::Damage;
use crate::error::Error;
use crate::index::sealed::Identity;
use crate::log::manifest::DIGEST_BYTES;
use crate::log::segment::FIRST_FRAME;
use crate::log::storage::StorageFile;
use crate::version::Position;

/// What is read again by itself where reading a larger piece has failed.
const PAGE_BYTES: usize = 4096;

/// A segment file, and what it takes to verify its frames.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) seed: u32,
    pub(super) base_lsn: u64,
    /// What the manifest says that its frames come to.
    pub(super) digest: Option<[u8; DIGEST_BYTES]>,
    /// What its index file must say of itself, if it is sealed. An end position of 0: that of its last event tells.
    pub(super) indexed_as: Option<Identity>,
}

impl Source {
    /// Where in the file the frame with this LSN is.
    pub(super) fn offset(&self, lsn: u64) -> u64 {
        lsn - self.base_lsn + FIRST_FRAME
    }

    /// The LSN of a frame at this offset.
    pub(super) fn lsn(&self, offset: u64) -> u64 {
        offset - FIRST_FRAME + self.base_lsn
    }

    /// A damaged place in this file. Positions reach from the first up to, and without, the second.
    pub(super) fn damage(&self, offset: u64, length: Option<u64>, positions: (u64, u64), reason: impl Into<String>) -> Damage {
        damage(&self.name, Some(self.sequence), offset, length, positions, reason)
    }
}

/// A damaged place. Positions reach from the first up to, and without, the second.
pub(super) fn damage(file: &str, segment: Option<u64>, offset: u64, length: Option<u64>, positions: (u64, u64), reason: impl Into<String>) -> Damage {
    let concerned = positions.0 < positions.1;
    Damage {
        file: file.to_owned(),
        segment,
        offset,
        length,
        first_position: concerned.then_some(Position(positions.0)),
        last_position: concerned.then(|| Position(positions.1 - 1)),
        reason: reason.into(),
    }
}

/// Whether an error of opening says nothing of the file: nobody may, or the system has no room for one more.
pub(super) fn is_of_the_system(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory)
}

/// The same of an error.
pub(super) fn is_error_of_the_system(error: &Error) -> bool {
    matches!(error, Error::Io { kind, .. } if is_of_the_system(*kind))
}

/// Reads as far as the file reaches. What cannot be read is zeros, and is told.
pub(super) fn read_tolerantly(file: &dyn StorageFile, buffer: &mut [u8], offset: u64) -> io::Result<(usize, Option<Unreadable>)> {
    if let Ok(read) = file.read_at(buffer, offset) {
        return Ok((read, None));
    }
    let length = file.length()?;
    let wanted = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
    let mut unreadable = None;
    for (number, page) in buffer[..wanted].chunks_mut(PAGE_BYTES).enumerate() {
        let at = offset + (number * PAGE_BYTES) as u64;
        match file.read_at(page, at) {
            // The file has been cut meanwhile.
            Ok(read) if read < page.len() => return Ok((number * PAGE_BYTES + read, unreadable)),
            Ok(_) => {}
            Err(error) => {
                page.fill(0);
                unreadable.get_or_insert_with(|| Unreadable { offset: at, reason: format!("it cannot be read: {error}") });
            }
        }
    }
    Ok((wanted, unreadable))
}

/// Where the first bytes are that the system does not give, and what it says.
pub(super) struct Unreadable {
    pub(super) offset: u64,
    pub(super) reason: String,
}
