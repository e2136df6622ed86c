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
    let mut done = Compression::default();
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
        let Compressed::Prepared(prepared) = compress(storage, &segment)? else {
            done.left += 1;
            continue;
        };
        prepared.publish(storage).map_err(|error| io("name", &prepared.name, &error))?;
        entry.generation = prepared.header.generation;
        done.segments += 1;
        done.bytes_before += prepared.plain_bytes;
        done.bytes_after += prepared.file_bytes;
    }
    if done.segments > 0 {
        manifest.replace(storage).map_err(|error| io("write", MANIFEST, &error))?;
    }
    for name in storage.list("").map_err(|error| io("list", "", &error))? {
        let replaced = parse_name(&name)
            .is_some_and(|(sequence, generation)| manifest.segments.iter().any(|entry| entry.sequence == sequence && entry.generation != generation));
        if replaced {
            storage.remove(&name).map_err(|error| io("remove", &name, &error))?;
        }
    }
    Ok(done)
}
