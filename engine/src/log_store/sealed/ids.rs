//! Whether an event id is stored in a sealed segment, and where.

use std::sync::Arc;

use uuid::Uuid;

use super::{Files, Sealed, SealedSegment, SegmentIndex, Shared};
use crate::error::{Error, Result};
use crate::index::file::IndexProblem;
use crate::index::run::Run;
use crate::index::sealed::id_hash;
use crate::index::{Candidates, IdLookup};
use crate::log::runs::FOLDER;

/// The smallest and the largest of a segment's event ids; `None` if it has no events.
pub(super) type IdRange = Option<(Uuid, Uuid)>;

/// What is known of the largest event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LargestId {
    Unknown,
    /// Of all segments up to this one; `None` if they have no events.
    UpTo(u64, Option<Uuid>),
}

impl LargestId {
    /// A segment was sealed, behind this one.
    pub(super) fn add(&mut self, behind: u64, sequence: u64, largest: Option<Uuid>) {
        if let Self::UpTo(known, before) = *self
            && known == behind
        {
            *self = Self::UpTo(sequence, before.max(largest));
        }
    }
}

/// What a look-up of an id needs.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    id: Uuid,
    hash: u64,
    files: &'a Files,
}

impl SealedSegment {
    fn id_range(self: &Arc<Self>, files: &Files, shared: &Shared) -> Result<IdRange> {
        if let Some(range) = self.id_range.get() {
            return Ok(*range);
        }
        let range = self.look(files, shared, |index| {
            Ok(match index {
                SegmentIndex::File(file) => file.id_range(),
                SegmentIndex::Memory(part) => part.largest_id().map(|largest| (Uuid::nil(), largest)),
            })
        })?;
        Ok(*self.id_range.get_or_init(|| range))
    }
}

impl Sealed {
    /// Whether an id is larger than every one here; `None` if that is not known without reading.
    pub(crate) fn all_smaller(&self, id: Uuid) -> Option<bool> {
        match *self.shared.largest_id.lock() {
            // It may know of later segments than these, and then says no more often than it has to.
            LargestId::UpTo(last, largest) if last >= self.last_sequence() => Some(largest.is_none_or(|largest| largest < id)),
            _ => None,
        }
    }

    /// Finds out what the largest id is, so that it is known from now on.
    fn learn_largest_id(&self, files: &Files) -> Result<()> {
        if self.all_smaller(Uuid::nil()).is_some() {
            return Ok(());
        }
        let (runs, mut largest, mut left) = (self.runs(files), None, &self.segments[..]);
        while let Some((segment, earlier)) = left.split_last() {
            if let Some(run) = runs.covering(segment.named.sequence) {
                largest = largest.max(Some(run.largest_id()));
                left = &left[..left.partition_point(|segment| segment.named.sequence < run.identity().first_segment)];
            } else {
                largest = largest.max(segment.id_range(files, &self.shared)?.map(|(_, largest)| largest));
                left = earlier;
            }
        }
        let mut known = self.shared.largest_id.lock();
        if *known == LargestId::Unknown {
            *known = LargestId::UpTo(self.last_sequence(), largest);
        }
        Ok(())
    }

    /// Where an id may be, for segments whose index is in a file.
    pub(crate) fn find_id(&self, id: Uuid, files: &Files) -> Result<Candidates> {
        self.learn_largest_id(files)?;
        let mut candidates = Candidates::default();
        if self.all_smaller(id) == Some(true) {
            return Ok(candidates);
        }
        let wanted = Wanted { id, hash: id_hash(files.segments.origin(), id), files };
        let (runs, mut left) = (self.runs(files), &self.segments[..]);
        while let Some((segment, later)) = left.split_first() {
            let run = runs.covering(segment.named.sequence).filter(|run| run.identity().first_segment == segment.named.sequence);
            if let Some(run) = run {
                let end = left.partition_point(|segment| segment.named.sequence <= run.identity().last_segment);
                match self.find_in_run(&left[..end], run, wanted, &mut candidates) {
                    Ok(()) => {
                        left = &left[end..];
                        continue;
                    }
                    Err(Failed::Store(error)) => return Err(error),
                    Err(Failed::Run(IndexProblem::Io(error))) => {
                        return Err(Error::io("read a run in", files.storage.path().join(FOLDER), &error));
                    }
                    Err(Failed::Run(problem)) => self.discard(run, &problem),
                }
            }
            self.find_in_segment(segment, wanted, &mut candidates)?;
            left = later;
        }
        Ok(candidates)
    }

    /// Looks where the parts of a run say that it may be.
    fn find_in_run(&self, segments: &[Arc<SealedSegment>], run: &Run, wanted: Wanted<'_>, out: &mut Candidates) -> Result<(), Failed> {
        if run.is_outside(wanted.id) {
            return Ok(());
        }
        for part in run.parts().map_err(Failed::Run)? {
            if part.is_outside(wanted.id) || !run.may_hold_id(part, wanted.hash).map_err(Failed::Run)? {
                continue;
            }
            let is_of_part = |segment: &&Arc<SealedSegment>| (part.first_segment..=part.last_segment).contains(&segment.named.sequence);
            for segment in segments.iter().filter(is_of_part) {
                self.find_in_segment(segment, wanted, out).map_err(Failed::Store)?;
            }
        }
        Ok(())
    }

    fn find_in_segment(&self, segment: &Arc<SealedSegment>, wanted: Wanted<'_>, out: &mut Candidates) -> Result<()> {
        let range = segment.id_range(wanted.files, &self.shared)?;
        if range.is_none_or(|(smallest, largest)| wanted.id < smallest || wanted.id > largest) {
            return Ok(());
        }
        let found = segment.look(wanted.files, &self.shared, |index| match index {
            SegmentIndex::File(file) => {
                let slots = file.ids(wanted.hash)?;
                let positions = slots.into_iter().map(|slot| segment.named.base_position + u64::from(slot)).collect();
                Ok(Candidates { positions, ranges: Vec::new() })
            }
            SegmentIndex::Memory(part) => Ok(match part.find_id(wanted.id, 0, u64::MAX) {
                IdLookup::Look(candidates) => candidates,
                IdLookup::Absent | IdLookup::InFlight => Candidates::default(),
            }),
        })?;
        out.add(found);
        Ok(())
    }
}

/// Why an id could not be looked for in a run.
enum Failed {
    Run(IndexProblem),
    Store(Error),
}
