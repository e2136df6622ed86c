//! The index files of sealed segments, compared with what was read of the segments.

use std::sync::Arc;

use super::Damage;
use super::source::{Source, damage, is_of_the_system};
use crate::error::{Error, Result};
use crate::index::file::IndexProblem;
use crate::index::sealed::{Logged, SealedIndex};
use crate::log::segment::index_name;
use crate::log::storage::{Access, Storage};

/// What it takes to mend an index file.
const WAY_OUT: &str = "delete this file: it is made again from the segment, and nothing is lost with it";

/// A segment that is being read, and what was read of it if it has an index file.
pub(super) struct Reading {
    source: Arc<Source>,
    logged: Option<Logged>,
    /// Whether everything that was read of the segment is whole.
    is_whole: bool,
}

impl Reading {
    pub(super) fn begin(storage: &dyn Storage, source: &Arc<Source>) -> Result<Self> {
        let mut logged = None;
        if let Some(identity) = &source.indexed_as {
            let name = index_name(identity.sequence);
            match storage.open(&name, Access::Read) {
                Ok(_) => logged = Some(Logged::new(identity.store_id, identity.base_lsn)),
                Err(error) if is_of_the_system(error.kind()) => return Err(Error::io("read", storage.path().join(name), &error)),
                Err(_) => {}
            }
        }
        Ok(Self { source: Arc::clone(source), logged, is_whole: true })
    }

    pub(super) fn is_of(&self, source: &Arc<Source>) -> bool {
        Arc::ptr_eq(&self.source, source)
    }

    /// What was read is compared with an index file; `None` if there is none.
    pub(super) fn logged(&mut self) -> Option<&mut Logged> {
        self.logged.as_mut()
    }

    /// Something of it is damaged: it can no longer be told what its index file should say.
    pub(super) fn is_damaged(&mut self) {
        self.is_whole = false;
    }

    /// Compares the index file with all that was read; what is wrong with it.
    pub(super) fn finish(self, storage: &dyn Storage) -> Result<Option<Damage>> {
        let (Some(mut logged), Some(mut identity)) = (self.logged, self.source.indexed_as) else { return Ok(None) };
        if identity.end_position == 0 {
            if !self.is_whole {
                return Ok(None);
            }
            identity.end_position = identity.base_position + logged.event_count();
        }
        let name = index_name(identity.sequence);
        let compared =
            SealedIndex::open(storage, &name, &identity).and_then(|index| if self.is_whole { index.compare(&mut logged) } else { index.check() });
        let reason = match compared {
            // One that is missing is made again, and so is one that was removed meanwhile.
            Ok(()) | Err(IndexProblem::Missing | IndexProblem::Stopped) => return Ok(None),
            Err(IndexProblem::Damaged(reason)) => reason.to_owned(),
            Err(IndexProblem::Io(error)) if is_of_the_system(error.kind()) => {
                return Err(Error::io("read", storage.path().join(name), &error));
            }
            Err(IndexProblem::Io(error)) => format!("it cannot be read: {error}"),
        };
        Ok(Some(damage(&name, Some(identity.sequence), 0, None, (0, 0), format!("the index file is damaged: {reason}; {WAY_OUT}"))))
    }
}
