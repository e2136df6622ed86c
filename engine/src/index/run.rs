//! A run: where the streams and event ids of a range of segments are to be looked for, merged from indexes of segments and smaller runs.

mod compare;
mod ids;
mod merge;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use ids::{IdPart, IdSource};
use parking_lot::Mutex;
use uuid::Uuid;
pub(crate) use write::{Culprit, Input, Sources};
use xxhash_rust::xxh3::xxh3_64;

use super::file::layout::IDENTITY_BYTES;
use super::file::{FileKind, IndexProblem, PagedFile, Section};
use super::filter::{self, Filter};
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
    /// Filters of the ids' hashes, one for each part, one after the other.
    pub(crate) const ID_FILTERS: u32 = 3;
    /// The parts of the segments that the ids' filters are of.
    pub(crate) const ID_PARTS: u32 = 4;
}

/// An entry of the streams.
pub(crate) mod stream {
    /// Hash of the stream (u64).
    pub(crate) const HASH: usize = 0;
    /// Sequence of the newest segment with events under this hash, less that of the run's first segment (u32).
    pub(crate) const NEWEST_SEGMENT: usize = HASH + 8;
    /// Length.
    pub(crate) const BYTES: usize = NEWEST_SEGMENT + 4;
}

/// An entry of the parts.
pub(crate) mod id_part {
    /// Sequence of its first segment (u64).
    pub(crate) const FIRST_SEGMENT: usize = 0;
    /// Sequence of its last segment (u64).
    pub(crate) const LAST_SEGMENT: usize = FIRST_SEGMENT + 8;
    /// How many blocks its filter has (u64).
    pub(crate) const BLOCKS: usize = LAST_SEGMENT + 8;
    /// The smallest event id; zeros if there are no events (16 bytes).
    pub(crate) const SMALLEST_ID: usize = BLOCKS + 8;
    /// The largest event id; zeros if there are no events (16 bytes).
    pub(crate) const LARGEST_ID: usize = SMALLEST_ID + 16;
    /// Length.
    pub(crate) const BYTES: usize = LARGEST_ID + 16;
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

/// A hash, and the newest segment in which it is.
type Place = (u64, u64);

const OUTSIDE: IndexProblem = IndexProblem::Damaged("it names a segment that is not in the run");

/// A run, open. It holds its head in memory, and as much of the filter of streams as it was given room for, once that was asked for.
pub(crate) struct Run {
    file: PagedFile,
    identity: RunIdentity,
    streams: Section,
    stream_filter: Section,
    id_filters: Section,
    id_parts: Section,
    loaded_parts: OnceLock<Vec<IdPart>>,
    /// How many bytes of the filter may be in memory.
    filter_room: AtomicU64,
    loaded_filter: Mutex<Option<Arc<Filter>>>,
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

fn decode(entry: &[u8], first_segment: u64) -> Place {
    let newest = u32::from_le_bytes(get(entry, stream::NEWEST_SEGMENT));
    (u64::from_le_bytes(get(entry, stream::HASH)), first_segment + u64::from(newest))
}

impl Run {
    /// Opens a run. Reads its first page alone.
    pub(crate) fn open(storage: &dyn Storage, name: &str, expected: &RunIdentity) -> Result<Self, IndexProblem> {
        let file = PagedFile::open(storage, name, FileKind::Run, &expected.encode())?;
        Ok(Self {
            identity: *expected,
            streams: file.section(section::STREAMS, stream::BYTES)?,
            stream_filter: file.section(section::STREAM_FILTER, filter::BLOCK_BYTES)?,
            id_filters: file.section(section::ID_FILTERS, filter::BLOCK_BYTES)?,
            id_parts: file.section(section::ID_PARTS, id_part::BYTES)?,
            loaded_parts: OnceLock::new(),
            filter_room: AtomicU64::new(u64::MAX),
            loaded_filter: Mutex::new(None),
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
        if self.filter()?.may_hold(&self.file.pages, hash)? {
            self.file.pages.find(&self.streams, hash, |entry| found = found.max(Some(decode(entry, self.identity.first_segment).1)))?;
        }
        match found {
            Some(segment) if !self.identity.covers(segment) => Err(OUTSIDE),
            found => Ok(found),
        }
    }

    /// How many bytes its filter of streams has.
    pub(crate) fn filter_bytes(&self) -> u64 {
        self.stream_filter.count * filter::BLOCK_BYTES as u64
    }

    /// How many bytes of memory its filter takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.loaded_filter.lock().as_ref().map_or(0, |filter| filter.memory_bytes())
    }

    /// Gives its filter so much room in memory: what does not fit is asked in the file, a page for each question.
    pub(crate) fn give_filter_room(&self, bytes: u64) {
        self.filter_room.store(bytes, Ordering::Relaxed);
        let mut loaded = self.loaded_filter.lock();
        let Some(filter) = &*loaded else { return };
        let now = filter.memory_bytes() as u64;
        if now > bytes {
            *loaded = Some(Arc::new(filter.shortened(bytes)));
        } else if now + now / 4 < bytes.min(self.filter_bytes()) {
            // What is in memory is read once more only where that makes a difference.
            *loaded = None;
        }
    }

    fn filter(&self) -> Result<Arc<Filter>, IndexProblem> {
        let mut loaded = self.loaded_filter.lock();
        if let Some(filter) = &*loaded {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(Filter::load(&self.file.pages, &self.stream_filter, self.filter_room.load(Ordering::Relaxed))?);
        *loaded = Some(Arc::clone(&filter));
        Ok(filter)
    }

    fn places(&self) -> impl Iterator<Item = Result<Place, IndexProblem>> {
        let first_segment = self.identity.first_segment;
        self.file.pages.iter(&self.streams, move |entry| decode(entry, first_segment))
    }

    /// Reads every page, and whether all that it says fits together.
    #[cfg(test)]
    pub(crate) fn check(&self) -> Result<(), IndexProblem> {
        self.file.check()?;
        self.parts()?;
        let mut before = None;
        for place in self.places() {
            let (hash, newest) = place?;
            if Some(hash) <= before || !self.filter()?.may_hold(&self.file.pages, hash)? {
                return Err(IndexProblem::Damaged("a stream cannot be found by its hash"));
            }
            if !self.identity.covers(newest) {
                return Err(OUTSIDE);
            }
            before = Some(hash);
        }
        Ok(())
    }
}
