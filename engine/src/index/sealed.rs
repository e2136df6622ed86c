//! The index of one sealed segment: where its events are, which streams, types and ids it has.

mod check;
mod compare;
mod origin;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::sync::Arc;

pub(crate) use compare::{EventRead, Logged, OTHER_STREAM};
use parking_lot::Mutex;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::file::layout::IDENTITY_BYTES;
use super::file::{FileKind, IndexProblem, Page, PagedFile, Section};
use super::filter::{self, Filter};
use crate::log::format::{NAME_BYTES_MAX, get, put};
use crate::log::storage::Storage;

/// The identity in the file's head: the segment that it was made from, whichever of its generations.
pub(crate) mod identity {
    /// Store id (16 bytes).
    pub(crate) const STORE_ID: usize = 0;
    /// Sequence number (u64).
    pub(crate) const SEQUENCE: usize = STORE_ID + 16;
    /// Salt of the segment (u64).
    pub(crate) const SALT: usize = SEQUENCE + 8;
    /// LSN of its first frame (u64).
    pub(crate) const BASE_LSN: usize = SALT + 8;
    /// LSN behind its seal (u64).
    pub(crate) const END_LSN: usize = BASE_LSN + 8;
    /// Position of its first event (u64).
    pub(crate) const BASE_POSITION: usize = END_LSN + 8;
    /// Position behind its last event (u64).
    pub(crate) const END_POSITION: usize = BASE_POSITION + 8;
    /// Length.
    #[cfg_attr(not(test), expect(dead_code, reason = "the document states it"))]
    pub(crate) const BYTES: usize = END_POSITION + 8;
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
    /// The events, by number.
    pub(crate) const EVENTS: u32 = 1;
    /// The streams, sorted by hash.
    pub(crate) const STREAMS: u32 = 2;
    /// The numbers of the streams' events.
    pub(crate) const SLOTS: u32 = 3;
    /// The events' ids, sorted by hash.
    pub(crate) const IDS: u32 = 4;
    /// Filter of the streams' hashes.
    pub(crate) const STREAM_FILTER: u32 = 5;
    /// Filter of the ids' hashes.
    pub(crate) const ID_FILTER: u32 = 6;
    /// The aggregate types, by number.
    pub(crate) const AGGREGATE_TYPES: u32 = 7;
    /// The kinds, by number.
    pub(crate) const KINDS: u32 = 8;
    /// The text of names: bytes.
    pub(crate) const TEXT: u32 = 9;
    /// Reserved for tags.
    #[cfg_attr(not(test), expect(dead_code, reason = "no event can be looked for by its tags yet"))]
    pub(crate) const TAGS: u32 = 10;
}

/// An entry of the events.
pub(crate) mod event {
    /// LSN of the event's record entry, less the base LSN, in units of 8 bytes (u32).
    pub(crate) const PLACE: usize = 0;
    /// Number of its kind (u16).
    pub(crate) const KIND: usize = PLACE + 4;
    /// Length.
    pub(crate) const BYTES: usize = KIND + 2;
}

/// An entry of the streams.
pub(crate) mod stream {
    /// Hash of the stream (u64).
    pub(crate) const HASH: usize = 0;
    /// Version of its first event in this segment (u64).
    pub(crate) const FIRST_VERSION: usize = HASH + 8;
    /// Sequence of the newest segment with earlier events of the stream, its own if it has another run of them; 0 if there is none (u64).
    pub(crate) const PREVIOUS_SEGMENT: usize = FIRST_VERSION + 8;
    /// Number of its aggregate type (u32).
    pub(crate) const AGGREGATE_TYPE: usize = PREVIOUS_SEGMENT + 8;
    /// How many events it has in this segment (u32).
    pub(crate) const COUNT: usize = AGGREGATE_TYPE + 4;
    /// Where their numbers begin (u32).
    pub(crate) const SLOTS_AT: usize = COUNT + 4;
    /// Reserved, 0 (u32).
    pub(crate) const RESERVED: usize = SLOTS_AT + 4;
    /// Length.
    pub(crate) const BYTES: usize = RESERVED + 4;
}

/// An entry of the ids.
pub(crate) mod id {
    /// Hash of the id (u64).
    pub(crate) const HASH: usize = 0;
    /// Number of the event (u32).
    pub(crate) const SLOT: usize = HASH + 8;
    /// Length.
    pub(crate) const BYTES: usize = SLOT + 4;
}

/// An entry of the aggregate types.
pub(crate) mod aggregate_type {
    /// Where its name begins in the text (u32).
    pub(crate) const TEXT: usize = 0;
    /// Length of its name (u32).
    pub(crate) const TEXT_BYTES: usize = TEXT + 4;
    /// Length.
    pub(crate) const BYTES: usize = TEXT_BYTES + 4;
}

/// An entry of the kinds.
pub(crate) mod kind {
    /// Number of the aggregate type (u32).
    pub(crate) const AGGREGATE_TYPE: usize = 0;
    /// How many events are of this kind (u32).
    pub(crate) const COUNT: usize = AGGREGATE_TYPE + 4;
    /// Where the event type begins in the text (u32).
    pub(crate) const TEXT: usize = COUNT + 4;
    /// Length of the event type (u32).
    pub(crate) const TEXT_BYTES: usize = TEXT + 4;
    /// Length.
    pub(crate) const BYTES: usize = TEXT_BYTES + 4;
    /// The number of the kinds that could not be numbered.
    pub(crate) const OVERFLOW: u16 = u16::MAX;
    /// The number of events that were taken out, which have neither stream nor id here. In an index that has as many kinds it is one of them.
    pub(crate) const REMOVED: u16 = OVERFLOW - 1;
}

/// Which segment an index is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store_id: Uuid,
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) base_lsn: u64,
    pub(crate) end_lsn: u64,
    pub(crate) base_position: u64,
    /// The position behind its last event.
    pub(crate) end_position: u64,
}

/// An event of the segment; its number, or slot, is its place in the list of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventEntry {
    /// (LSN of its record entry - base LSN) / 8.
    pub(crate) place: u32,
    pub(crate) kind: u16,
    /// `None` if it was taken out.
    pub(crate) id: Option<Uuid>,
}

/// What a segment has of a stream. Several streams can have one hash: whose events these are, the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamEntry {
    pub(crate) hash: u64,
    pub(crate) aggregate_type: u32,
    /// The version of its first event in this segment.
    pub(crate) first_version: u64,
    pub(crate) count: u32,
    /// Where the numbers of its events begin.
    pub(crate) slots_at: u32,
    /// Sequence of the newest segment with earlier events of the stream, its own if it has another run of them; 0 if there is none.
    pub(crate) previous_segment: u64,
}

/// What the index of a segment is made from.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) identity: Identity,
    pub(crate) aggregate_types: Vec<String>,
    /// Number of the aggregate type, and event type. A kind's number is its place; [`kind::OVERFLOW`] is that of all that
    /// could not be numbered.
    pub(crate) kinds: Vec<(u32, String)>,
    /// By position.
    pub(crate) events: Vec<EventEntry>,
    /// In any order.
    pub(crate) streams: Vec<StreamEntry>,
    /// For each stream the numbers of its events in the order of versions. Every event stands here once that was not taken out.
    pub(crate) slots: Vec<u32>,
}

/// The kinds of a segment's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// By number.
    pub(crate) numbered: Vec<Kind>,
    /// How many events are of a kind that could not be numbered, or were taken out; what they are, the log says.
    pub(crate) overflowed: u64,
}

/// One kind of event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) aggregate_type: String,
    pub(crate) event_type: String,
    /// How many events are of this kind.
    pub(crate) count: u32,
}

/// The index of a sealed segment, open. It holds its head in memory, and the filter of streams once that was asked for.
pub(crate) struct SealedIndex {
    file: PagedFile,
    identity: Identity,
    events: Section,
    streams: Section,
    slots: Section,
    ids: Section,
    stream_filter: Section,
    id_filter: Section,
    aggregate_types: Section,
    kinds: Section,
    text: Section,
    loaded_filter: Mutex<Option<Arc<Filter>>>,
}

/// How the filter of streams is asked before they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskFilter {
    /// It is kept in memory from now on: nothing else tells which segments to pass over.
    InMemory,
    /// It reads a page.
    InFile,
    /// Something else has told already that the stream is there.
    Not,
}

fn hash_seed(store_id: Uuid) -> u64 {
    u64::from_le_bytes(get(store_id.as_bytes(), 0))
}

/// The hash of a stream: of tenant, a zero byte and aggregate id.
pub(crate) fn stream_hash(store_id: Uuid, tenant: &str, aggregate_id: &str) -> u64 {
    let parts = [tenant.as_bytes(), &[0], aggregate_id.as_bytes()];
    let length = tenant.len() + 1 + aggregate_id.len();
    let mut short = [0; 128];
    if length > short.len() {
        return xxh3_64_with_seed(&parts.concat(), hash_seed(store_id));
    }
    short[..tenant.len()].copy_from_slice(parts[0]);
    short[tenant.len() + 1..length].copy_from_slice(parts[2]);
    xxh3_64_with_seed(&short[..length], hash_seed(store_id))
}

/// The hash of an event's id.
pub(crate) fn id_hash(store_id: Uuid, id: Uuid) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), hash_seed(store_id))
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        use identity as at;
        let mut bytes = [0; IDENTITY_BYTES];
        put(&mut bytes, at::STORE_ID, *self.store_id.as_bytes());
        put(&mut bytes, at::SEQUENCE, self.sequence.to_le_bytes());
        put(&mut bytes, at::SALT, self.salt.to_le_bytes());
        put(&mut bytes, at::BASE_LSN, self.base_lsn.to_le_bytes());
        put(&mut bytes, at::END_LSN, self.end_lsn.to_le_bytes());
        put(&mut bytes, at::BASE_POSITION, self.base_position.to_le_bytes());
        put(&mut bytes, at::END_POSITION, self.end_position.to_le_bytes());
        bytes
    }
}

impl StreamEntry {
    fn encode(&self) -> [u8; stream::BYTES] {
        let mut bytes = [0; stream::BYTES];
        put(&mut bytes, stream::HASH, self.hash.to_le_bytes());
        put(&mut bytes, stream::FIRST_VERSION, self.first_version.to_le_bytes());
        put(&mut bytes, stream::PREVIOUS_SEGMENT, self.previous_segment.to_le_bytes());
        put(&mut bytes, stream::AGGREGATE_TYPE, self.aggregate_type.to_le_bytes());
        put(&mut bytes, stream::COUNT, self.count.to_le_bytes());
        put(&mut bytes, stream::SLOTS_AT, self.slots_at.to_le_bytes());
        bytes
    }

    fn decode(entry: &[u8]) -> Self {
        Self {
            hash: u64::from_le_bytes(get(entry, stream::HASH)),
            aggregate_type: u32::from_le_bytes(get(entry, stream::AGGREGATE_TYPE)),
            first_version: u64::from_le_bytes(get(entry, stream::FIRST_VERSION)),
            count: u32::from_le_bytes(get(entry, stream::COUNT)),
            slots_at: u32::from_le_bytes(get(entry, stream::SLOTS_AT)),
            previous_segment: u64::from_le_bytes(get(entry, stream::PREVIOUS_SEGMENT)),
        }
    }
}

impl SealedIndex {
    /// Opens the index of a segment. Reads its first page alone.
    pub(crate) fn open(storage: &dyn Storage, name: &str, expected: &Identity) -> Result<Self, IndexProblem> {
        let file = PagedFile::open(storage, name, FileKind::Segment, &expected.encode())?;
        Ok(Self {
            identity: *expected,
            events: file.section(section::EVENTS, event::BYTES)?,
            streams: file.section(section::STREAMS, stream::BYTES)?,
            slots: file.section(section::SLOTS, 4)?,
            ids: file.section(section::IDS, id::BYTES)?,
            stream_filter: file.section(section::STREAM_FILTER, filter::BLOCK_BYTES)?,
            id_filter: file.section(section::ID_FILTER, filter::BLOCK_BYTES)?,
            aggregate_types: file.section(section::AGGREGATE_TYPES, aggregate_type::BYTES)?,
            kinds: file.section(section::KINDS, kind::BYTES)?,
            text: file.section(section::TEXT, 1)?,
            loaded_filter: Mutex::new(None),
            file,
        })
    }

    /// The segment that it is of.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How many events the segment has.
    pub(crate) fn event_count(&self) -> u64 {
        self.events.count
    }

    /// How many streams have events in the segment.
    #[cfg(test)]
    pub(crate) fn stream_count(&self) -> u64 {
        self.streams.count
    }

    /// Adds place and kind of the events with these numbers, both ends included.
    pub(crate) fn places(&self, from_slot: u32, to_slot: u32, out: &mut Vec<(u32, u16)>) -> Result<(), IndexProblem> {
        let range = u64::from(from_slot)..u64::from(to_slot) + 1;
        self.file.pages.each(&self.events, range, &mut Page::new(), |entry| {
            out.push((u32::from_le_bytes(get(entry, event::PLACE)), u16::from_le_bytes(get(entry, event::KIND))));
            Ok(())
        })
    }

    /// The kinds of the segment's events.
    pub(crate) fn kinds(&self) -> Result<Kinds, IndexProblem> {
        if self.kinds.count > u64::from(kind::OVERFLOW) {
            return Err(IndexProblem::Damaged("it has more kinds than can be numbered"));
        }
        let (mut numbered, mut rest) = (Vec::new(), self.events.count);
        let (mut of_kinds, mut of_text, mut of_types) = (Page::new(), Page::new(), [Page::new(), Page::new()]);
        self.file.pages.each(&self.kinds, 0..self.kinds.count, &mut of_kinds, |entry| {
            let u32_at = |at: usize| u32::from_le_bytes(get(entry, at));
            let aggregate_type = self.aggregate_type_in(u32_at(kind::AGGREGATE_TYPE), &mut of_types)?;
            let event_type = self.text(u32_at(kind::TEXT), u32_at(kind::TEXT_BYTES), &mut of_text)?;
            let count = u32_at(kind::COUNT);
            rest = rest.checked_sub(u64::from(count)).ok_or(IndexProblem::Damaged("it counts more events than it has"))?;
            numbered.push(Kind { aggregate_type, event_type, count });
            Ok(())
        })?;
        Ok(Kinds { numbered, overflowed: rest })
    }

    /// What the segment has of the streams with this hash.
    pub(crate) fn streams(&self, hash: u64, filter: AskFilter) -> Result<Vec<StreamEntry>, IndexProblem> {
        let may_be_there = match filter {
            AskFilter::InMemory => self.filter()?.may_hold(&self.file.pages, hash)?,
            AskFilter::InFile => filter::may_hold(&self.file.pages, &self.stream_filter, hash)?,
            AskFilter::Not => true,
        };
        let mut found = Vec::new();
        if may_be_there {
            self.file.pages.find(&self.streams, hash, |entry| found.push(StreamEntry::decode(entry)))?;
        }
        Ok(found)
    }

    fn filter(&self) -> Result<Arc<Filter>, IndexProblem> {
        let mut loaded = self.loaded_filter.lock();
        if let Some(filter) = &*loaded {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(Filter::load(&self.file.pages, &self.stream_filter, u64::MAX)?);
        *loaded = Some(Arc::clone(&filter));
        Ok(filter)
    }

    /// How many bytes of memory its filter takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.loaded_filter.lock().as_ref().map_or(0, |filter| filter.memory_bytes())
    }

    /// Lets go of its filter: a run is asked first from now on.
    pub(crate) fn let_go_of_filter(&self) {
        *self.loaded_filter.lock() = None;
    }

    /// Adds the numbers of those of a stream's events in this segment whose versions are `from_version..=to_version`.
    pub(crate) fn stream_slots(&self, stream: &StreamEntry, from_version: u64, to_version: u64, out: &mut Vec<u32>) -> Result<(), IndexProblem> {
        let number = |version: u64| version.saturating_sub(stream.first_version).min(u64::from(stream.count));
        let (from, to) = (number(from_version), number(to_version.saturating_add(1)));
        let range = u64::from(stream.slots_at) + from..u64::from(stream.slots_at) + to;
        self.file.pages.each(&self.slots, range, &mut Page::new(), |entry| {
            let slot = u32::from_le_bytes(get(entry, 0));
            if u64::from(slot) >= self.events.count {
                return Err(IndexProblem::Damaged("a stream has an event that the segment does not have"));
            }
            out.push(slot);
            Ok(())
        })
    }

    /// The name of an aggregate type.
    pub(crate) fn aggregate_type(&self, number: u32) -> Result<String, IndexProblem> {
        self.aggregate_type_in(number, &mut [Page::new(), Page::new()])
    }

    fn aggregate_type_in(&self, number: u32, [of_types, of_text]: &mut [Page; 2]) -> Result<String, IndexProblem> {
        let range = u64::from(number)..u64::from(number) + 1;
        let mut text = (0, 0);
        self.file.pages.each(&self.aggregate_types, range, of_types, |entry| {
            text = (u32::from_le_bytes(get(entry, aggregate_type::TEXT)), u32::from_le_bytes(get(entry, aggregate_type::TEXT_BYTES)));
            Ok(())
        })?;
        self.text(text.0, text.1, of_text)
    }

    fn text(&self, at: u32, bytes: u32, page: &mut Page) -> Result<String, IndexProblem> {
        if bytes as usize > NAME_BYTES_MAX {
            return Err(IndexProblem::Damaged("a name in it is longer than names can be"));
        }
        let mut text = Vec::with_capacity(bytes as usize);
        self.file.pages.each(&self.text, u64::from(at)..u64::from(at) + u64::from(bytes), page, |byte| {
            text.extend_from_slice(byte);
            Ok(())
        })?;
        String::from_utf8(text).map_err(|_| IndexProblem::Damaged("a name in it is not UTF-8"))
    }

    /// The smallest and the largest event id; `None` if there are no events. Reads nothing.
    pub(crate) fn id_range(&self) -> Option<(Uuid, Uuid)> {
        let id_at = |at: usize| Uuid::from_bytes(get(&self.file.summary, at));
        (self.ids.count > 0).then(|| (id_at(summary::SMALLEST_ID), id_at(summary::LARGEST_ID)))
    }

    /// The numbers of the events whose ids have this hash. The filter is asked in the file: one page, as a rule, if there is none.
    pub(crate) fn ids(&self, hash: u64) -> Result<Vec<u32>, IndexProblem> {
        let mut found = Vec::new();
        if filter::may_hold(&self.file.pages, &self.id_filter, hash)? {
            self.file.pages.find(&self.ids, hash, |entry| found.push(u32::from_le_bytes(get(entry, id::SLOT))))?;
        }
        if found.iter().any(|slot| u64::from(*slot) >= self.events.count) {
            return Err(IndexProblem::Damaged("an id belongs to an event that the segment does not have"));
        }
        Ok(found)
    }

    /// All streams, sorted by hash.
    pub(crate) fn stream_entries(&self) -> impl Iterator<Item = Result<StreamEntry, IndexProblem>> {
        self.file.pages.iter(&self.streams, StreamEntry::decode)
    }

    /// How many event ids it has: one for each event that was not taken out.
    pub(crate) fn id_count(&self) -> u64 {
        self.ids.count
    }

    /// Whether it says that records were taken out of the segment.
    pub(crate) fn has_removed(&self) -> bool {
        self.ids.count < self.events.count
    }

    /// Gives the hashes of streams, sorted, from the first that is not smaller than `hash` on, as long as `take` wants more.
    pub(crate) fn stream_hashes_from(&self, hash: u64, mut take: impl FnMut(u64) -> bool) -> Result<(), IndexProblem> {
        self.file.pages.each_from(&self.streams, hash, |entry| Ok(take(u64::from_le_bytes(get(entry, stream::HASH)))))
    }

    /// Gives the hashes of ids, sorted, from the first that is not smaller than `hash` on, as long as `take` wants more.
    pub(crate) fn id_hashes_from(&self, hash: u64, mut take: impl FnMut(u64) -> bool) -> Result<(), IndexProblem> {
        let mut before = hash;
        self.file.pages.each_from(&self.ids, hash, |entry| {
            let hash = u64::from_le_bytes(get(entry, id::HASH));
            if hash < before {
                return Err(IndexProblem::Damaged("the hashes of an index are not sorted"));
            }
            before = hash;
            Ok(take(hash))
        })
    }
}
