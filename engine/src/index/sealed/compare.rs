//! Whether the index of a sealed segment says what the segment's events say.

use std::collections::HashSet;

use uuid::Uuid;

use super::check::StreamVisitor;
use super::{Identity, SealedIndex, StreamEntry, event, id_hash, kind, stream_hash};
use crate::event::StreamKey;
use crate::index::file::IndexProblem;
use crate::index::filter::MULTIPLIER;
use crate::index::names::Names;
use crate::log::format::get;

/// Stands for the stream of a record that was taken out.
const REMOVED: u32 = u32::MAX;

/// How a stream is wrong in an index.
pub(crate) const OTHER_STREAM: &str = "it says something else of a stream than the segment";

/// How the events of a stream are wrong in an index.
const OTHER_EVENTS: &str = "it has other events of a stream than the segment";

/// Room for more events is made when they come.
const EVENTS_EXPECTED_MAX: u64 = 1 << 20;

/// A longer index is read page by page, some of them more than once.
const HELD_BYTES_MAX: u64 = 64 << 20;

/// What was read of a segment's events, in the memory of 16 bytes an event: which events a stream has, and which ids they have, are digests.
pub(crate) struct Logged {
    store_id: Uuid,
    base_lsn: u64,
    /// By position.
    events: Vec<LoggedEvent>,
    removed: usize,
    streams: Vec<LoggedStream>,
    /// By stream.
    tips: Vec<Tip>,
    ids: IdsDigest,
    /// Of aggregates and events.
    types: Names,
}

struct LoggedEvent {
    /// As in an index.
    place: u32,
    stream: u32,
    aggregate_type: u32,
    event_type: u32,
}

struct LoggedStream {
    hash: u64,
    first_version: u64,
    /// The newest earlier segment with events of it, 0 if there is none, as the index says once it was compared.
    previous_segment: Option<u64>,
}

/// What changes with each event of a stream.
#[derive(Default)]
struct Tip {
    /// A digest of the numbers of its events, in order.
    digest: u64,
    count: u32,
    aggregate_type: u32,
}

impl Tip {
    fn push(&mut self, slot: u32) {
        self.count += 1;
        self.digest = (self.digest ^ u64::from(slot)).wrapping_mul(MULTIPLIER);
    }
}

/// A digest of ids with the numbers of their events, the same in any order.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct IdsDigest(u64);

impl IdsDigest {
    fn push(&mut self, hash: u64, slot: u32) {
        // A hash is random already: a wrong one, or two that changed places, change the sum.
        self.0 = self.0.wrapping_add(hash.wrapping_mul(u64::from(slot) * 2 + 1));
    }
}

/// What the log says of an event.
pub(crate) struct EventRead<'a> {
    pub(crate) id: Uuid,
    pub(crate) event_type: &'a str,
    /// Its record entry's.
    pub(crate) lsn: u64,
    /// The number of its stream.
    pub(crate) stream: u32,
}

impl Logged {
    /// Nothing was read yet of this segment.
    pub(crate) fn new(identity: &Identity) -> Self {
        let expected = identity.end_position.saturating_sub(identity.base_position).min(EVENTS_EXPECTED_MAX);
        Self {
            store_id: identity.store_id,
            base_lsn: identity.base_lsn,
            events: Vec::with_capacity(usize::try_from(expected).unwrap_or(0)),
            removed: 0,
            streams: Vec::new(),
            tips: Vec::new(),
            ids: IdsDigest::default(),
            types: Names::default(),
        }
    }

    /// How many events were read.
    pub(crate) fn event_count(&self) -> u64 {
        self.events.len() as u64
    }

    /// Takes in that the next record was taken out, whose entry is here.
    pub(crate) fn push_removed(&mut self, lsn: u64) {
        let place = self.place(lsn);
        self.events.push(LoggedEvent { place, stream: REMOVED, aggregate_type: 0, event_type: 0 });
        self.removed += 1;
    }

    fn place(&self, lsn: u64) -> u32 {
        u32::try_from(lsn.saturating_sub(self.base_lsn) / 8).unwrap_or(u32::MAX)
    }

    /// Makes the next stream, numbered from 0, whose first event in the segment follows.
    pub(crate) fn add_stream(&mut self, key: &StreamKey<'_>, aggregate_type: &str, first_version: u64) {
        let hash = stream_hash(self.store_id, key.tenant, key.aggregate_id);
        self.streams.push(LoggedStream { hash, first_version, previous_segment: None });
        self.tips.push(Tip { aggregate_type: self.types.number(aggregate_type), ..Tip::default() });
    }

    /// Takes in the next event.
    pub(crate) fn push(&mut self, event: &EventRead<'_>) {
        let place = self.place(event.lsn);
        let event_type = self.types.number(event.event_type);
        let slot = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        let tip = &mut self.tips[event.stream as usize];
        tip.push(slot);
        self.ids.push(id_hash(self.store_id, event.id), slot);
        self.events.push(LoggedEvent { place, stream: event.stream, aggregate_type: tip.aggregate_type, event_type });
    }

    /// Whether a record was taken out. An index that was made before says what it was, one that was made since does not.
    fn is_removed(&self, slot: u32) -> bool {
        self.removed > 0 && self.events.get(slot as usize).is_some_and(|event| event.stream == REMOVED)
    }

    /// The newest earlier segment with events of a stream, 0 if there is none, as the index says; `None` if nothing can be told of it.
    pub(crate) fn previous_segment(&self, stream: u32) -> Option<u64> {
        self.streams.get(stream as usize)?.previous_segment
    }
}

impl SealedIndex {
    /// Reads every page, and whether all that it says is what the log says. What it says of the segments before is taken in. `memory` can
    /// be used for the next one.
    pub(crate) fn compare(&mut self, logged: &mut Logged, memory: &mut Vec<u8>) -> Result<(), IndexProblem> {
        if self.event_count() != logged.event_count() {
            // Damaged or not, it is another one.
            self.check()?;
            return Err(IndexProblem::Damaged("it does not have the events that the segment has"));
        }
        self.file.hold(HELD_BYTES_MAX, memory)?;
        let compared = self.compare_all(logged);
        *memory = self.file.let_go();
        compared
    }

    fn compare_all(&self, logged: &mut Logged) -> Result<(), IndexProblem> {
        self.compare_events(logged)?;
        self.compare_streams(logged)?;
        let mut ids = IdsDigest::default();
        self.check_ids(|hash, slot| {
            if !logged.is_removed(slot) {
                ids.push(hash, slot);
            }
            Ok(())
        })?;
        if ids == logged.ids { Ok(()) } else { Err(IndexProblem::Damaged("it has other ids of events than the segment")) }
    }

    fn compare_events(&self, logged: &mut Logged) -> Result<(), IndexProblem> {
        let kinds = self.kinds()?.numbered;
        let kinds: Vec<(u32, u32)> =
            kinds.iter().map(|kind| (logged.types.number(&kind.aggregate_type), logged.types.number(&kind.event_type))).collect();
        let numbered: HashSet<(u32, u32)> = kinds.iter().copied().collect();
        let mut events = logged.events.iter();
        self.check_events(|entry| {
            let Some(event) = events.next() else { return Ok(()) };
            if event.place != u32::from_le_bytes(get(entry, event::PLACE)) {
                return Err(IndexProblem::Damaged("it has another place of an event than the segment"));
            }
            if event.stream == REMOVED {
                return Ok(());
            }
            let number = u16::from_le_bytes(get(entry, event::KIND));
            let said = (event.aggregate_type, event.event_type);
            let same = match kinds.get(usize::from(number)) {
                Some(kind) => *kind == said,
                None => number == kind::OVERFLOW && !numbered.contains(&said),
            };
            if same { Ok(()) } else { Err(IndexProblem::Damaged("it has another type of an event than the segment")) }
        })
    }

    fn compare_streams(&self, logged: &mut Logged) -> Result<(), IndexProblem> {
        let mut aggregate_types = Vec::new();
        for number in 0..u32::try_from(self.aggregate_types.count).unwrap_or(u32::MAX) {
            aggregate_types.push(logged.types.number(&self.aggregate_type(number)?));
        }
        let mut comparing = ComparingStreams { logged, aggregate_types, shown: Shown::default(), found: 0 };
        self.check_streams(&mut comparing)?;
        if comparing.found != logged.streams.len() {
            return Err(IndexProblem::Damaged("it does not have the streams that the segment has"));
        }
        Ok(())
    }
}

/// Compares the streams of an index with those of the log.
struct ComparingStreams<'a> {
    logged: &'a mut Logged,
    /// The numbers of the index' aggregate types among the types that were read.
    aggregate_types: Vec<u32>,
    shown: Shown,
    found: usize,
}

/// What was shown of a stream's events: the first that is left, all that are, and how many were taken out.
#[derive(Default)]
struct Shown {
    first: Option<u32>,
    left: Tip,
    removed: u32,
}

impl StreamVisitor for ComparingStreams<'_> {
    fn event(&mut self, slot: u32) -> Result<(), IndexProblem> {
        if self.logged.is_removed(slot) {
            self.shown.removed += 1;
        } else {
            self.shown.first.get_or_insert(slot);
            self.shown.left.push(slot);
        }
        Ok(())
    }

    fn end_of_stream(&mut self, entry: &StreamEntry) -> Result<(), IndexProblem> {
        let Shown { first, left, removed } = std::mem::take(&mut self.shown);
        if first.is_none() && removed > 0 {
            // All of it was taken out since the index was made.
            return Ok(());
        }
        // Which stream it is, its first event that is left says.
        let Logged { events, streams, tips, .. } = &mut *self.logged;
        let number = first.and_then(|slot| events.get(slot as usize)).map_or(REMOVED, |event| event.stream) as usize;
        let (Some(stream), Some(tip)) = (streams.get_mut(number), tips.get(number)) else { return Err(IndexProblem::Damaged(OTHER_EVENTS)) };
        if (left.digest, left.count) != (tip.digest, tip.count) || stream.previous_segment.is_some() {
            return Err(IndexProblem::Damaged(OTHER_EVENTS));
        }
        // What is taken out of a stream is always its beginning.
        let said = (entry.hash, entry.first_version + u64::from(removed), self.aggregate_types.get(entry.aggregate_type as usize));
        if said != (stream.hash, stream.first_version, Some(&tip.aggregate_type)) {
            return Err(IndexProblem::Damaged(OTHER_STREAM));
        }
        stream.previous_segment = Some(entry.previous_segment);
        self.found += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Before;
    use crate::index::part::Part;
    use crate::index::sealed::Contents;
    use crate::index::sealed::tests::identity;
    use crate::log::storage::MemoryStorage;

    /// The events of a segment as aggregate and event type; the aggregate's name tells its type.
    const EVENTS: [(&str, &str); 7] = [
        ("order-1", "Placed"),
        ("order-2", "Placed"),
        ("buyer-1", "Came"),
        ("order-1", "Shipped"),
        ("buyer-1", "Placed"),
        ("order-1", "Placed"),
        ("order-3", "Placed"),
    ];

    fn key(aggregate_id: &'static str) -> StreamKey<'static> {
        StreamKey { tenant: "", aggregate_id }
    }

    fn id(slot: u64) -> Uuid {
        Uuid::from_u128(u128::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    fn own_identity() -> Identity {
        Identity { end_position: 1001 + EVENTS.len() as u64, ..identity(7) }
    }

    /// What the log says, and what its index is made from. Every stream goes on from version 4, in segment 3.
    fn segment() -> (Logged, Contents) {
        let identity = own_identity();
        let (mut logged, mut part) = (Logged::new(&identity), Part::new(7, identity.base_position));
        let mut ids = Vec::new();
        let mut numbers = std::collections::HashMap::new();
        for (slot, (aggregate_id, event_type)) in (0_u64..).zip(EVENTS) {
            let (key, aggregate_type) = (key(aggregate_id), &aggregate_id[..5]);
            let next = u32::try_from(numbers.len()).expect("few");
            let number = *numbers.entry(aggregate_id).or_insert_with(|| {
                logged.add_stream(&key, aggregate_type, 5);
                next
            });
            let lsn = identity.base_lsn + 200 * slot;
            logged.push(&EventRead { id: id(slot), event_type, lsn, stream: number });
            let stream = part.stream(&key).map_or_else(|| part.add_stream(&key, aggregate_type, Before { version: 4, segment: 3 }), Ok);
            let stream = stream.expect("there is room");
            let kind = part.kind(stream, event_type);
            part.push(stream, kind, id(slot), lsn);
            ids.push(Some(id(slot)));
        }
        let contents = part.contents(identity, &ids, |_| Ok(3)).expect("they fit together");
        (logged, contents)
    }

    /// How an index that is sound in itself differs from the log.
    fn difference(change: impl FnOnce(&mut Contents)) -> &'static str {
        let (mut logged, mut contents) = segment();
        change(&mut contents);
        let storage = MemoryStorage::new();
        SealedIndex::write(&storage, "x.idx", &contents).expect("memory");
        let mut index = SealedIndex::open(&storage, "x.idx", &contents.identity).expect("an index");
        index.check().expect("sound in itself");
        match index.compare(&mut logged, &mut Vec::new()) {
            Ok(()) => "",
            Err(IndexProblem::Damaged(reason)) => reason,
            Err(problem) => panic!("{problem:?}"),
        }
    }

    fn stream_of<'a>(contents: &'a mut Contents, aggregate_id: &str) -> &'a mut StreamEntry {
        let hash = stream_hash(own_identity().store_id, "", aggregate_id);
        contents.streams.iter_mut().find(|stream| stream.hash == hash).expect("it is there")
    }

    #[test]
    fn an_index_that_says_what_the_log_says_is_sound() {
        assert_eq!(difference(|_| {}), "");
    }

    #[test]
    fn what_an_index_says_of_the_segments_before_is_told() {
        let (mut logged, mut contents) = segment();
        stream_of(&mut contents, "order-2").previous_segment = 2;
        assert_eq!(logged.previous_segment(0), None);
        let storage = MemoryStorage::new();
        SealedIndex::write(&storage, "x.idx", &contents).expect("memory");
        SealedIndex::open(&storage, "x.idx", &contents.identity).expect("an index").compare(&mut logged, &mut Vec::new()).expect("the same");
        assert_eq!([0, 1, 2, 3, 4].map(|stream| logged.previous_segment(stream)), [Some(3), Some(2), Some(3), Some(3), None]);
    }

    #[test]
    fn whatever_else_an_index_says_is_found() {
        let (place, kind) = ("it has another place of an event than the segment", "it has another type of an event than the segment");
        let (events, stream) = ("it has other events of a stream than the segment", "it says something else of a stream than the segment");
        assert_eq!(difference(|contents| contents.events[2].place += 1), place);
        assert_eq!(difference(|contents| contents.events[0].kind = 1), kind);
        assert_eq!(difference(|contents| contents.events[0].kind = kind::OVERFLOW), kind);
        assert_eq!(difference(|contents| contents.kinds[0].1 = "Paid".to_owned()), kind);
        assert_eq!(difference(|contents| contents.events[2].id = Some(id(99))), "it has other ids of events than the segment");
        assert_eq!(difference(|contents| stream_of(contents, "order-1").first_version = 6), stream);
        assert_eq!(difference(|contents| stream_of(contents, "order-1").hash ^= 1), stream);
        assert_eq!(difference(|contents| stream_of(contents, "order-2").aggregate_type = 1), stream);
        assert_eq!(difference(|contents| contents.aggregate_types[1] = "payer".to_owned()), kind);
        let swapped = |contents: &mut Contents| {
            let at = stream_of(contents, "order-1").slots_at as usize;
            contents.slots.swap(at, at + 1);
        };
        assert_eq!(difference(swapped), events);
        let moved = |contents: &mut Contents| {
            let (one, other) = (stream_of(contents, "order-1").slots_at as usize, stream_of(contents, "buyer-1").slots_at as usize);
            contents.slots.swap(one, other);
        };
        assert_eq!(difference(moved), events);
        let fewer = |contents: &mut Contents| {
            let left = stream_of(contents, "order-3").slots_at;
            contents.streams.retain(|stream| stream.slots_at != left);
            contents.slots.remove(left as usize);
            contents.events.pop();
        };
        assert_eq!(difference(fewer), "it does not have the events that the segment has");
    }
}
