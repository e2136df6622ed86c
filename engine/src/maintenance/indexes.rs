//! The index files of sealed segments, compared with what was read of the segments.

use super::Damage;
use super::source::{Source, damage, is_of_the_system};
use crate::error::{Error, Result};
use crate::index::file::IndexProblem;
use crate::index::sealed::{Logged, SealedIndex};
use crate::log::segment::index_name;
use crate::log::storage::{Access, Storage};

/// What it takes to mend an index file.
const WAY_OUT: &str = "delete this file: it is made again from the segment, and nothing is lost with it";

/// What takes in the events of a segment that is read, if the segment has an index file.
pub(super) fn logged(storage: &dyn Storage, source: &Source) -> Result<Option<Logged>> {
    let Some(identity) = &source.indexed_as else { return Ok(None) };
    let name = index_name(identity.sequence);
    match storage.open(&name, Access::Read) {
        Ok(_) => Ok(Some(Logged::new(identity))),
        Err(error) if is_of_the_system(error.kind()) => Err(Error::io("read", storage.path().join(name), &error)),
        Err(_) => Ok(None),
    }
}

/// Compares the index file of a segment with all that was read of it, if that is whole, or else with itself; what is wrong with it.
/// What it says of the segments before is kept in `logged`; `memory` can be used for the next one.
pub(super) fn compare(storage: &dyn Storage, source: &Source, logged: &mut Logged, is_whole: bool, memory: &mut Vec<u8>) -> Result<Option<Damage>> {
    let Some(mut identity) = source.indexed_as else { return Ok(None) };
    if identity.end_position == 0 {
        if !is_whole {
            return Ok(None);
        }
        identity.end_position = identity.base_position + logged.event_count();
    }
    let name = index_name(identity.sequence);
    let compared =
        SealedIndex::open(storage, &name, &identity).and_then(|mut index| if is_whole { index.compare(logged, memory) } else { index.check() });
    match compared {
        // One that is missing is made again, and so is one that was removed meanwhile.
        Ok(()) | Err(IndexProblem::Missing | IndexProblem::Stopped) => Ok(None),
        Err(IndexProblem::Damaged(reason)) => Ok(Some(damaged(source, reason))),
        Err(IndexProblem::Io(error)) if is_of_the_system(error.kind()) => Err(Error::io("read", storage.path().join(name), &error)),
        Err(IndexProblem::Io(error)) => Ok(Some(damaged(source, &format!("it cannot be read: {error}")))),
    }
}

/// The damage of a segment's index file.
pub(super) fn damaged(source: &Source, reason: &str) -> Damage {
    let name = index_name(source.sequence);
    damage(&name, Some(source.sequence), 0, None, (0, 0), format!("the index file is damaged: {reason}; {WAY_OUT}"))
}
