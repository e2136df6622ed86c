//! Compressing every sealed segment of a store that is not open.

use std::io;

use super::{Compressed, compress};
use crate::error::{Error, Result};
use crate::log::format::encoding;
use crate::log::manifest::{MANIFEST, Manifest, ManifestProblem};
use crate::log::open::with_lock;
use crate::log::segment::{AttachProblem, Segment, file_name, parse_name};
use crate::log::storage::{Access, Storage};

/// What compressing a store came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compression {
    /// How many segments were compressed.
    pub segments: usize,
    /// How many sealed segments would not have become small enough to be worth it.
    pub left: usize,
    /// How long the files of those that were compressed were, in bytes.
    pub bytes_before: u64,
    /// How long they are.
    pub bytes_after: u64,
}

impl Compression {
    /// Counts a segment that was compressed.
    pub(crate) fn count(&mut self, bytes_before: u64, bytes_after: u64) {
        self.segments += 1;
        self.bytes_before += bytes_before;
        self.bytes_after += bytes_after;
    }
}

/// Compresses what is sealed and pays, makes it count, and removes what it replaces.
///
/// Killed at any moment, it leaves the store as it was or as it is to be; files that nothing names are removed by the next call.
pub(crate) fn compress_closed(storage: &dyn Storage) -> Result<Compression> {
    with_lock(storage, || compress_locked(storage)).map(|(compression, _)| compression)
}

fn compress_locked(storage: &dyn Storage) -> Result<Compression> {
    let io = |operation, name: &str, error: &io::Error| Error::io(operation, storage.path().join(name), error);
    let unusable = |name: &str, reason: &str| Error::configuration(format!("{:?} {reason}; open the store to learn more", storage.path().join(name)));
    let mut manifest = Manifest::read(storage).map_err(|problem| match problem {
        ManifestProblem::Error(error) => error,
        ManifestProblem::Missing => unusable(MANIFEST, "does not exist"),
        ManifestProblem::Damaged(reason) => unusable(MANIFEST, reason),
    })?;
    let (mut done, mut is_changed) = (Compression::default(), false);
    for entry in manifest.segments.iter_mut().filter(|entry| entry.end_lsn.is_some()) {
        let name = file_name(entry.sequence, entry.generation);
        let segment = Segment::attach(storage, &name, Access::Read).map_err(|problem| match problem {
            AttachProblem::Error(error) => error,
            AttachProblem::Missing => unusable(&name, "does not exist"),
            AttachProblem::Damaged(reason) => unusable(&name, reason),
        })?;
        if segment.header.encoding != encoding::PLAIN {
            continue;
        }
        let packed = if entry.is_packed { Compressed::NotWorthIt } else { compress(storage, &segment, &|| false)? };
        let Compressed::Prepared(prepared) = packed else {
            is_changed |= !std::mem::replace(&mut entry.is_packed, true);
            done.left += 1;
            continue;
        };
        prepared.publish(storage).map_err(|error| io("name", &prepared.name, &error))?;
        entry.generation = prepared.header.generation;
        entry.is_packed = true;
        is_changed = true;
        done.count(prepared.plain_bytes, prepared.file_bytes);
    }
    if is_changed {
        manifest.replace(storage).map_err(|error| io("write", MANIFEST, &error))?;
    }
    // The manifest that does not name them may be one that a process before was killed in putting in its place.
    storage.sync_directory("").map_err(|error| io("sync", "", &error))?;
    for name in storage.list("").map_err(|error| io("list", "", &error))? {
        let replaced = parse_name(&name)
            .is_some_and(|(sequence, generation)| manifest.segments.iter().any(|entry| entry.sequence == sequence && entry.generation != generation));
        if replaced {
            storage.remove(&name).map_err(|error| io("remove", &name, &error))?;
        }
    }
    Ok(done)
}
