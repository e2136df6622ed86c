//! Merging a run: a stream of entries in, a stream of entries out, and a part of a filter at a time.

use std::cell::Cell;

use uuid::Uuid;

use super::ids::Planned;
use super::{IdSource, OUTSIDE, Place, Run, RunIdentity, decode, merge, section, stream, summary};
use crate::index::file::layout::SUMMARY_BYTES;
use crate::index::file::{FileKind, IndexProblem, write};
use crate::index::filter;
use crate::index::sealed::{Identity, SealedIndex};
use crate::log::format::put;
use crate::log::storage::Storage;

/// How many entries are merged before it is asked again whether to go on.
const AT_ONCE: u64 = 4096;

/// Where a run's streams come from.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    Segment(&'a SealedIndex),
    Run(&'a Run),
}

/// What a run is merged from.
pub(crate) struct Sources<'a> {
    pub(crate) streams: &'a [Input<'a>],
    /// In the order of the segments.
    pub(crate) ids: &'a [IdSource<'a>],
    /// Opens the index of a segment. One at a time is held open.
    pub(crate) index: &'a dyn Fn(u64) -> Result<SealedIndex, IndexProblem>,
    /// Whether to give up. Asked every few thousand entries.
    pub(crate) stop: &'a dyn Fn() -> bool,
    /// Where it is noted which of them is damaged.
    pub(crate) damaged: &'a Cell<Option<Culprit>>,
}

/// What turned out to be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Culprit {
    /// The index file of this segment.
    Segment(u64),
    /// The run that begins with this segment.
    Run(u64),
}

impl Sources<'_> {
    /// Fails if it is time to give up.
    pub(super) fn go_on(&self) -> Result<(), IndexProblem> {
        if (self.stop)() { Err(IndexProblem::Stopped) } else { Ok(()) }
    }

    /// Notes whose fault a problem is.
    pub(super) fn blame<T>(&self, culprit: Culprit, result: Result<T, IndexProblem>) -> Result<T, IndexProblem> {
        if matches!(result, Err(IndexProblem::Damaged(_))) {
            self.damaged.set(Some(culprit));
        }
        result
    }

    /// The entries of all inputs.
    fn places(&self) -> impl Iterator<Item = impl Iterator<Item = Result<Place, IndexProblem>>> {
        self.streams.iter().map(|input| input.places().map(|place| self.blame(input.culprit(), place)))
    }

    /// Fails after every few thousand entries if it is time to give up.
    pub(super) fn go_on_after(&self, entries: u64) -> Result<(), IndexProblem> {
        if entries.is_multiple_of(AT_ONCE) { self.go_on() } else { Ok(()) }
    }
}

impl<'a> Input<'a> {
    fn culprit(&self) -> Culprit {
        match self {
            Self::Segment(index) => Culprit::Segment(index.identity().sequence),
            Self::Run(run) => Culprit::Run(run.identity().first_segment),
        }
    }

    /// The hashes of its streams, sorted.
    fn places(self) -> Box<dyn Iterator<Item = Result<Place, IndexProblem>> + 'a> {
        match self {
            Self::Segment(index) => {
                let Identity { sequence, .. } = *index.identity();
                Box::new(index.stream_entries().map(move |stream| Ok((stream?.hash, sequence))))
            }
            Self::Run(run) => Box::new(run.places()),
        }
    }
}

/// The range of the ids of all parts.
fn summary_of(parts: &[Planned<'_>]) -> [u8; SUMMARY_BYTES] {
    let ranges = || parts.iter().map(|planned| &planned.part).filter(|part| part.blocks > 0);
    let smallest = ranges().map(|part| part.smallest_id).min().unwrap_or(Uuid::nil());
    let largest = ranges().map(|part| part.largest_id).max().unwrap_or(Uuid::nil());
    let mut bytes = [0; SUMMARY_BYTES];
    put(&mut bytes, summary::SMALLEST_ID, *smallest.as_bytes());
    put(&mut bytes, summary::LARGEST_ID, *largest.as_bytes());
    bytes
}

impl Run {
    /// Merges a run. Holds a page of each input of streams in memory, and a part of a filter, whatever their size.
    ///
    /// It is there completely when this returns, also after a power failure, or not at all.
    ///
    /// # Errors
    /// `Damaged` if one of the inputs is; `Stopped` if it was given up; `Io` if an input cannot be read or the run cannot be written.
    pub(crate) fn write(storage: &dyn Storage, name: &str, identity: &RunIdentity, sources: &Sources<'_>) -> Result<(), IndexProblem> {
        let parts = Planned::all(sources)?;
        write(storage, name, (FileKind::Run, &identity.encode(), &summary_of(&parts)), |writer| {
            writer.section(section::STREAMS, stream::BYTES)?;
            let places = merge::sorted(sources.places())?;
            for (number, place) in (1..).zip(merge::newest(places)) {
                let (hash, newest) = place?;
                let newest = newest.checked_sub(identity.first_segment).filter(|_| identity.covers(newest)).ok_or(OUTSIDE)?;
                let mut bytes = [0; stream::BYTES];
                put(&mut bytes, stream::HASH, hash.to_le_bytes());
                put(&mut bytes, stream::NEWEST_SEGMENT, u32::try_from(newest).map_err(|_| OUTSIDE)?.to_le_bytes());
                writer.push(&bytes)?;
                sources.go_on_after(number)?;
            }
            let (pages, streams) = writer.read_back()?;
            let hashes = (1..).zip(pages.iter(&streams, |entry| decode(entry, 0).0)).map(|(number, hash)| {
                sources.go_on_after(number)?;
                hash
            });
            filter::write(writer, section::STREAM_FILTER, streams.count, hashes)?;
            Planned::write_all(&parts, sources, writer)
        })
    }
}
