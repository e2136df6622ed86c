//! The event ids of a run: a filter for each part of its segments.
//!
//! A part's filter is made from the ids in the segments' indexes, not from other filters, and is copied from run to run. Parts grow with
//! the levels of runs, so that there are few of them; each is made once.

use uuid::Uuid;

use super::{Culprit, Run, Sources, id_part, section};
use crate::index::file::{IndexProblem, Page, Writer};
use crate::index::filter::{self, Making};
use crate::log::format::{get, put};

/// How many blocks of a filter are made at once: 16 MiB. All ids of a part are read once, however many times that is done.
const BLOCKS_AT_ONCE: usize = 1 << 18;

/// Some of a run's segments, and the filter of their events' ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdPart {
    pub(crate) first_segment: u64,
    pub(crate) last_segment: u64,
    /// Where its filter begins among those of the run.
    pub(crate) first_block: u64,
    /// 0 if there are no events.
    pub(crate) blocks: u64,
    pub(crate) smallest_id: Uuid,
    pub(crate) largest_id: Uuid,
}

impl IdPart {
    /// Whether an id is smaller than all of its events' or larger.
    pub(crate) fn is_outside(&self, id: Uuid) -> bool {
        self.blocks == 0 || id < self.smallest_id || id > self.largest_id
    }

    fn encode(&self) -> [u8; id_part::BYTES] {
        let mut bytes = [0; id_part::BYTES];
        put(&mut bytes, id_part::FIRST_SEGMENT, self.first_segment.to_le_bytes());
        put(&mut bytes, id_part::LAST_SEGMENT, self.last_segment.to_le_bytes());
        put(&mut bytes, id_part::BLOCKS, self.blocks.to_le_bytes());
        put(&mut bytes, id_part::SMALLEST_ID, *self.smallest_id.as_bytes());
        put(&mut bytes, id_part::LARGEST_ID, *self.largest_id.as_bytes());
        bytes
    }

    fn decode(entry: &[u8], first_block: u64) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(get(entry, at));
        Self {
            first_segment: u64_at(id_part::FIRST_SEGMENT),
            last_segment: u64_at(id_part::LAST_SEGMENT),
            first_block,
            blocks: u64_at(id_part::BLOCKS),
            smallest_id: Uuid::from_bytes(get(entry, id_part::SMALLEST_ID)),
            largest_id: Uuid::from_bytes(get(entry, id_part::LARGEST_ID)),
        }
    }
}

impl Run {
    /// The parts of its segments, in their order. Read once.
    pub(crate) fn parts(&self) -> Result<&[IdPart], IndexProblem> {
        if let Some(parts) = self.loaded_parts.get() {
            return Ok(parts);
        }
        let unfit = || IndexProblem::Damaged("the parts of its ids do not fit together");
        let (mut parts, mut next_segment, mut next_block) = (Vec::new(), Some(self.identity.first_segment), 0_u64);
        self.file.pages.each(&self.id_parts, 0..self.id_parts.count, &mut Page::new(), |entry| {
            let part = IdPart::decode(entry, next_block);
            if Some(part.first_segment) != next_segment || !(part.first_segment..=self.identity.last_segment).contains(&part.last_segment) {
                return Err(unfit());
            }
            next_segment = part.last_segment.checked_add(1);
            next_block = next_block.checked_add(part.blocks).ok_or_else(unfit)?;
            parts.push(part);
            Ok(())
        })?;
        if next_segment != self.identity.last_segment.checked_add(1) || next_block != self.id_filters.count {
            return Err(unfit());
        }
        Ok(self.loaded_parts.get_or_init(|| parts))
    }

    /// Whether one of a part's segments may have an event whose id has this hash. Reads one page.
    pub(crate) fn may_hold_id(&self, part: &IdPart, hash: u64) -> Result<bool, IndexProblem> {
        filter::may_hold_among(&self.file.pages, &self.id_filters, part.first_block..part.first_block + part.blocks, hash)
    }
}

/// Where the filter of a part comes from.
#[derive(Clone, Copy)]
pub(crate) enum IdSource<'a> {
    /// It is copied from a run that has this part.
    Run(&'a Run, IdPart),
    /// It is made from the indexes of these segments, both included.
    Segments(u64, u64),
}

/// A part that is to be written.
pub(super) struct Planned<'a> {
    pub(super) part: IdPart,
    source: IdSource<'a>,
    /// How many ids it has, if it is to be made.
    ids: u64,
}

impl<'a> Planned<'a> {
    /// All parts of a run that is to be merged. Reads the heads of the indexes that parts are made from.
    pub(super) fn all(sources: &Sources<'a>) -> Result<Vec<Self>, IndexProblem> {
        let mut first_block = 0;
        let plan = |source: &IdSource<'a>| {
            let mut planned = match *source {
                IdSource::Run(_, part) => Self { part, source: *source, ids: 0 },
                IdSource::Segments(first, last) => Self::of_segments(first, last, sources)?,
            };
            planned.part.first_block = first_block;
            first_block += planned.part.blocks;
            Ok(planned)
        };
        sources.ids.iter().map(plan).collect()
    }

    fn of_segments(first_segment: u64, last_segment: u64, sources: &Sources<'_>) -> Result<Self, IndexProblem> {
        let (mut ids, mut range) = (0, None);
        for sequence in first_segment..=last_segment {
            let index = sources.blame(Culprit::Segment(sequence), (sources.index)(sequence))?;
            ids += index.id_count();
            if let Some((smallest, largest)) = index.id_range() {
                let (low, high) = range.unwrap_or((smallest, largest));
                range = Some((smallest.min(low), largest.max(high)));
            }
            sources.go_on()?;
        }
        let (smallest_id, largest_id) = range.unwrap_or((Uuid::nil(), Uuid::nil()));
        let blocks = filter::blocks_for(ids);
        let part = IdPart { first_segment, last_segment, first_block: 0, blocks, smallest_id, largest_id };
        Ok(Self { part, source: IdSource::Segments(first_segment, last_segment), ids })
    }

    /// Writes the filters of all parts, then what the parts are.
    pub(super) fn write_all(parts: &[Self], sources: &Sources<'_>, writer: &mut Writer) -> Result<(), IndexProblem> {
        writer.section(section::ID_FILTERS, filter::BLOCK_BYTES)?;
        for planned in parts {
            match planned.source {
                IdSource::Run(run, part) => copy(run, &part, sources, writer)?,
                IdSource::Segments(..) => planned.make(sources, writer)?,
            }
        }
        writer.section(section::ID_PARTS, id_part::BYTES)?;
        parts.iter().try_for_each(|planned| writer.push(&planned.part.encode()))?;
        Ok(())
    }

    /// Makes a filter, a part of it at a time: the hashes in every index are sorted, so that each of them is read once.
    fn make(&self, sources: &Sources<'_>, writer: &mut Writer) -> Result<(), IndexProblem> {
        let (mut from, mut taken) = (0, 0);
        while from < self.part.blocks {
            let mut making = Making::new(self.part.blocks, from, BLOCKS_AT_ONCE);
            for sequence in self.part.first_segment..=self.part.last_segment {
                sources.go_on()?;
                let read = (sources.index)(sequence).and_then(|index| {
                    index.id_hashes_from(making.smallest_hash(), |hash| {
                        let behind = making.add(hash);
                        taken += u64::from(!behind);
                        !behind
                    })
                });
                sources.blame(Culprit::Segment(sequence), read)?;
            }
            making.write(writer)?;
            from = making.end();
        }
        if taken == self.ids { Ok(()) } else { Err(IndexProblem::Damaged("an index does not have one id for each event")) }
    }
}

fn copy(run: &Run, part: &IdPart, sources: &Sources<'_>, writer: &mut Writer) -> Result<(), IndexProblem> {
    let (mut copied, blocks) = (0, part.first_block..part.first_block + part.blocks);
    let written = run.file.pages.each(&run.id_filters, blocks, &mut Page::new(), |block| {
        writer.push(block)?;
        copied += 1;
        sources.go_on_after(copied)
    });
    sources.blame(Culprit::Run(run.identity.first_segment), written)
}
