//! Whether an event id is stored in a sealed segment, and where.

use uuid::Uuid;

use super::{Files, Sealed, SegmentIndex};
use crate::error::{Error, Result};
use crate::index::file::IndexProblem;
use crate::index::sealed::id_hash;
use crate::index::{Candidates, IdLookup};
use crate::log::runs::FOLDER;

impl Sealed {
    /// Whether an id is larger than every one here; `None` if that is not known without reading.
    pub(crate) fn all_smaller(&self, id: Uuid) -> Option<bool> {
        let mut known = true;
        let runs = self.shared.runs.lock().clone().unwrap_or_default();
        for segment in &self.segments {
            if let Some(run) = runs.covering(segment.named.sequence) {
                if run.largest_id() >= id {
                    return Some(false);
                }
                continue;
            }
            match segment.largest_id.get() {
                Some(largest) if largest.is_some_and(|largest| largest >= id) => return Some(false),
                Some(_) => {}
                None => known = false,
            }
        }
        known.then_some(true)
    }

    /// Where an id may be, for segments whose index is in a file.
    pub(crate) fn find_id(&self, id: Uuid, files: &Files) -> Result<Candidates> {
        let hash = id_hash(files.segments.origin(), id);
        let mut candidates = Candidates::default();
        let (runs, mut passed_over) = (self.runs(files), 0);
        for segment in &self.segments {
            if segment.named.sequence <= passed_over {
                continue;
            }
            if let Some(run) = runs.covering(segment.named.sequence)
                && run.identity().first_segment == segment.named.sequence
            {
                match if run.is_outside(id) { Ok(false) } else { run.may_hold_id(hash) } {
                    Ok(true) => {}
                    Ok(false) => {
                        passed_over = run.identity().last_segment;
                        continue;
                    }
                    Err(IndexProblem::Io(error)) => return Err(Error::io("read a run in", files.storage.path().join(FOLDER), &error)),
                    Err(problem) => self.discard(run, &problem),
                }
            }
            if segment.largest_id(files, &self.shared)?.is_none_or(|largest| largest < id) {
                continue;
            }
            segment
                .look(files, &self.shared, |index| match index {
                    SegmentIndex::File(file) => {
                        let slots = file.ids(hash)?;
                        Ok(Candidates {
                            positions: slots.into_iter().map(|slot| segment.named.base_position + u64::from(slot)).collect(),
                            ranges: Vec::new(),
                        })
                    }
                    SegmentIndex::Memory(part) => Ok(match part.find_id(id, 0, u64::MAX) {
                        IdLookup::Look(candidates) => candidates,
                        IdLookup::Absent | IdLookup::InFlight => Candidates::default(),
                    }),
                })
                .map(|found| candidates.add(found))?;
        }
        Ok(candidates)
    }
}
