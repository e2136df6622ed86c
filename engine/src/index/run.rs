//! A run: where the streams and event ids of a range of segments are to be looked for, merged from the segments' indexes.

mod merge;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::file::layout::{IDENTITY_BYTES, SUMMARY_BYTES};
use super::file::{FileKind, IndexProblem, PagedFile, Section, write};
use super::filter::{self, Filter};
use super::sealed::{Identity, SealedIndex};
use crate::log::format::{get, put};
use crate::log::storage::Storage;

/// The identity in the file's head: the segments that it was made from.
pub(crate) mod identity {
    /// Store id (16 bytes).
    pub(crate) const STORE_ID: usize = 0;
    /// Sequence of the first segment (u64).
    pub(crate) const FIRST_SEGMENT: usize = STORE_ID + 16;
    /// Sequence of the last segment (u64).
    pub(crate) const LAST_SEGMENT: usize = FIRST_SEGMENT + 8;
    /// Digest of all segments (u64).
    pub(crate) const MEMBERS: usize = LAST_SEGMENT + 8;
    /// Length.
    #[cfg_attr(not(test), expect(dead_code, reason = "the document states it"))]
    pub(crate) const BYTES: usize = MEMBERS + 8;
}

/// The summary in the file's head.
pub(crate) mod summary {
    /// The smallest event id; zeros if there are no events (16 bytes).
    pub(crate) const SMALLEST_ID: usize = 0;
    /// The largest event id; zeros if there are no events (16 bytes).
    pub(crate) const LARGEST_ID: usize = SMALLEST_ID + 16;
    /// Length.
    #[cfg_attr(not(test), expect(dead_code, reason = "the document states it"))]
    pub(crate) const BYTES: usize = LARGEST_ID + 16;
}

/// The sections.
pub(crate) mod section {
    /// The streams, sorted by hash.
    pub(crate) const STREAMS: u32 = 1;
    /// Filter of the streams' hashes.
    pub(crate) const STREAM_FILTER: u32 = 2;
    /// Filter of the ids' hashes.
    pub(crate) const ID_FILTER: u32 = 3;
}

/// An entry of the streams.
pub(crate) mod stream {
    /// Hash of the stream (u64).
    pub(crate) const HASH: usize = 0;
    /// Sequence of the newest segment with events under this hash (u64).
    pub(crate) const NEWEST_SEGMENT: usize = HASH + 8;
    /// Length.
    pub(crate) const BYTES: usize = NEWEST_SEGMENT + 8;
}

/// Which segments a run is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunIdentity {
    pub(crate) store_id: Uuid,
    pub(crate) first_segment: u64,
    pub(crate) last_segment: u64,
    /// A digest of its segments, made by [`members`].
    pub(crate) members: u64,
}

/// The digest of a run's segments: of sequence and end of each, in order.
pub(crate) fn members(segments: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let mut bytes = Vec::new();
    for (sequence, end_lsn) in segments {
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&end_lsn.to_le_bytes());
    }
    xxh3_64(&bytes)
}

/// What a run is merged from.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    Segment(&'a SealedIndex),
    Run(&'a Run),
}

/// A hash, and the newest segment in which it is.
type Place = (u64, u64);

impl<'a> Input<'a> {
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

/// A run, open. It holds its head in memory, and the filter of streams once that was asked for.
pub(crate) struct Run {
    file: PagedFile,
    identity: RunIdentity,
    streams: Section,
    stream_filter: Section,
    id_filter: Section,
    loaded_filter: OnceLock<Filter>,
}

impl RunIdentity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        put(&mut bytes, identity::STORE_ID, *self.store_id.as_bytes());
        put(&mut bytes, identity::FIRST_SEGMENT, self.first_segment.to_le_bytes());
        put(&mut bytes, identity::LAST_SEGMENT, self.last_segment.to_le_bytes());
        put(&mut bytes, identity::MEMBERS, self.members.to_le_bytes());
        bytes
    }

    pub(crate) fn covers(&self, segment: u64) -> bool {
        (self.first_segment..=self.last_segment).contains(&segment)
    }
}

/// The range of the ids of all indexes.
fn summary_of(indexes: &[&SealedIndex]) -> [u8; SUMMARY_BYTES] {
    let ranges = || indexes.iter().filter_map(|index| index.id_range());
    let smallest = ranges().map(|(smallest, _)| smallest).min().unwrap_or(Uuid::nil());
    let largest = ranges().map(|(_, largest)| largest).max().unwrap_or(Uuid::nil());
    let mut bytes = [0; SUMMARY_BYTES];
    put(&mut bytes, summary::SMALLEST_ID, *smallest.as_bytes());
    put(&mut bytes, summary::LARGEST_ID, *largest.as_bytes());
    bytes
}

fn decode(entry: &[u8]) -> Place {
    (u64::from_le_bytes(get(entry, stream::HASH)), u64::from_le_bytes(get(entry, stream::NEWEST_SEGMENT)))
}

impl Run {
    /// Merges a run: the streams of all inputs, the ids of all indexes. Holds a page of each in memory, whatever their size.
    ///
    /// It is there completely when this returns, also after a power failure, or not at all.
    ///
    /// # Errors
    /// `Damaged` if one of the inputs is; `Io` if one cannot be read or the run cannot be written.
    pub(crate) fn write(
        storage: &dyn Storage,
        name: &str,
        identity: &RunIdentity,
        stream_inputs: &[Input<'_>],
        id_inputs: &[&SealedIndex],
    ) -> Result<(), IndexProblem> {
        write(storage, name, (FileKind::Run, &identity.encode(), &summary_of(id_inputs)), |writer| {
            writer.section(section::STREAMS, stream::BYTES)?;
            let places = merge::sorted(stream_inputs.iter().map(|input| input.places()))?;
            for place in merge::newest(places) {
                let (hash, newest) = place?;
                if !identity.covers(newest) {
                    return Err(IndexProblem::Damaged("it names a segment that is not in the run"));
                }
                let mut bytes = [0; stream::BYTES];
                put(&mut bytes, stream::HASH, hash.to_le_bytes());
                put(&mut bytes, stream::NEWEST_SEGMENT, newest.to_le_bytes());
                writer.push(&bytes)?;
            }
            let (pages, streams) = writer.read_back()?;
            filter::write(writer, section::STREAM_FILTER, streams.count, pages.iter(&streams, |entry| decode(entry).0))?;
            let ids = id_inputs.iter().map(|index| index.event_count()).sum();
            filter::write(writer, section::ID_FILTER, ids, merge::sorted(id_inputs.iter().map(|index| index.id_hashes()))?)
        })
    }

    /// Opens a run. Reads its first page alone.
    pub(crate) fn open(storage: &dyn Storage, name: &str, expected: &RunIdentity) -> Result<Self, IndexProblem> {
        let file = PagedFile::open(storage, name, FileKind::Run, &expected.encode())?;
        Ok(Self {
            identity: *expected,
            streams: file.section(section::STREAMS, stream::BYTES)?,
            stream_filter: file.section(section::STREAM_FILTER, filter::BLOCK_BYTES)?,
            id_filter: file.section(section::ID_FILTER, filter::BLOCK_BYTES)?,
            loaded_filter: OnceLock::new(),
            file,
        })
    }

    /// The segments that it is of.
    pub(crate) fn identity(&self) -> &RunIdentity {
        &self.identity
    }

    /// Whether an id is smaller than all of its events' or larger. Reads nothing.
    pub(crate) fn is_outside(&self, id: Uuid) -> bool {
        let id_at = |at: usize| Uuid::from_bytes(get(&self.file.summary, at));
        id < id_at(summary::SMALLEST_ID) || id > id_at(summary::LARGEST_ID)
    }

    /// The largest event id; zeros if there are no events. Reads nothing.
    pub(crate) fn largest_id(&self) -> Uuid {
        Uuid::from_bytes(get(&self.file.summary, summary::LARGEST_ID))
    }

    /// How many streams it knows, or fewer by those that share a hash.
    #[cfg(test)]
    pub(crate) fn stream_count(&self) -> u64 {
        self.streams.count
    }

    /// The newest of its segments with events of a stream of this hash.
    pub(crate) fn find(&self, hash: u64) -> Result<Option<u64>, IndexProblem> {
        let mut found = None;
        if self.filter()?.may_hold(hash) {
            self.file.pages.find(&self.streams, hash, |entry| found = found.max(Some(decode(entry).1)))?;
        }
        match found {
            Some(segment) if !self.identity.covers(segment) => Err(IndexProblem::Damaged("it names a segment that is not in the run")),
            found => Ok(found),
        }
    }

    /// Whether one of its segments may have an event whose id has this hash. Reads one page.
    pub(crate) fn may_hold_id(&self, hash: u64) -> Result<bool, IndexProblem> {
        filter::may_hold(&self.file.pages, &self.id_filter, hash)
    }

    fn filter(&self) -> Result<&Filter, IndexProblem> {
        if let Some(filter) = self.loaded_filter.get() {
            return Ok(filter);
        }
        let loaded = Filter::load(&self.file.pages, &self.stream_filter)?;
        Ok(self.loaded_filter.get_or_init(|| loaded))
    }

    fn places(&self) -> impl Iterator<Item = Result<Place, IndexProblem>> {
        self.file.pages.iter(&self.streams, decode)
    }

    /// Reads every page, and whether all that it says fits together.
    #[cfg(test)]
    pub(crate) fn check(&self) -> Result<(), IndexProblem> {
        self.file.check()?;
        let mut before = None;
        for place in self.places() {
            let (hash, newest) = place?;
            if Some(hash) <= before || !self.filter()?.may_hold(hash) {
                return Err(IndexProblem::Damaged("a stream cannot be found by its hash"));
            }
            if !self.identity.covers(newest) {
                return Err(IndexProblem::Damaged("it names a segment that is not in the run"));
            }
            before = Some(hash);
        }
        Ok(())
    }
}
