//! Whether the index of a sealed segment says what the segment's events say.

use std::cell::Cell;
use std::collections::HashSet;

use uuid::Uuid;

use super::{SealedIndex, StreamEntry, event, id_hash, kind, stream_hash};
use crate::event::StreamKey;
use crate::index::file::IndexProblem;
use crate::index::names::Names;
use crate::log::format::get;

/// Stands for the stream of a record that was taken out.
const REMOVED: u32 = u32::MAX;

/// Of a stream whose events are shown: which it is in the log, the event before, and how many were taken out.
type Shown = (Option<u32>, Option<u32>, u32);
const NOTHING: Shown = (None, None, 0);

/// What was read of a segment's events, in the memory of 24 bytes an event.
pub(crate) struct Logged {
    store_id: Uuid,
    base_lsn: u64,
    /// By position.
    events: Vec<LoggedEvent>,
    streams: Vec<LoggedStream>,
    /// Of aggregates and events.
    types: Names,
}

struct LoggedEvent {
    id_hash: u64,
    /// As in an index.
    place: u32,
    stream: u32,
    event_type: u32,
}

struct LoggedStream {
    hash: u64,
    first_version: u64,
    aggregate_type: u32,
    count: u32,
    /// The newest earlier segment with events of it, 0 if there is none; `None` if nobody knows.
    previous_segment: Option<u64>,
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
    /// Nothing was read yet of the segment that begins here.
    pub(crate) fn new(store_id: Uuid, base_lsn: u64) -> Self {
        Self { store_id, base_lsn, events: Vec::new(), streams: Vec::new(), types: Names::default() }
    }

    /// How many events were read.
    pub(crate) fn event_count(&self) -> u64 {
        self.events.len() as u64
    }

    /// Takes in that the next record was taken out, whose entry is here.
    pub(crate) fn push_removed(&mut self, lsn: u64) {
        let place = self.place(lsn);
        self.events.push(LoggedEvent { id_hash: 0, place, stream: REMOVED, event_type: 0 });
    }

    fn place(&self, lsn: u64) -> u32 {
        u32::try_from(lsn.saturating_sub(self.base_lsn) / 8).unwrap_or(u32::MAX)
    }

    /// The number of a stream, whose first event in the segment follows.
    pub(crate) fn add_stream(&mut self, key: &StreamKey<'_>, aggregate_type: &str, first_version: u64, previous_segment: Option<u64>) -> u32 {
        let number = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        let hash = stream_hash(self.store_id, key.tenant, key.aggregate_id);
        self.streams.push(LoggedStream { hash, first_version, aggregate_type: self.types.number(aggregate_type), count: 0, previous_segment });
        number
    }

    /// Takes in the next event.
    pub(crate) fn push(&mut self, event: &EventRead<'_>) {
        let place = self.place(event.lsn);
        let (id_hash, event_type) = (id_hash(self.store_id, event.id), self.types.number(event.event_type));
        // A log in which a segment stands twice is damaged, and then its events are not counted here.
        let Some(stream) = self.streams.get_mut(event.stream as usize) else { return };
        stream.count += 1;
        self.events.push(LoggedEvent { id_hash, place, stream: event.stream, event_type });
    }

    /// The number of an event's aggregate type, and of its own.
    fn kind(&self, event: &LoggedEvent) -> (u32, u32) {
        (self.streams[event.stream as usize].aggregate_type, event.event_type)
    }
}

impl SealedIndex {
    /// Reads every page, and whether all that it says is what the log says.
    pub(crate) fn compare(&self, logged: &mut Logged) -> Result<(), IndexProblem> {
        if self.event_count() != logged.event_count() {
            // Damaged or not, it is another one.
            self.check()?;
            return Err(IndexProblem::Damaged("it does not have the events that the segment has"));
        }
        self.compare_events(logged)?;
        self.compare_streams(logged)?;
        self.check_ids(|hash, slot| {
            let event = &logged.events[slot as usize];
            let same = event.id_hash == hash || event.is_removed();
            if same { Ok(()) } else { Err(IndexProblem::Damaged("it has another id of an event than the segment")) }
        })
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
            if event.is_removed() {
                return Ok(());
            }
            let number = u16::from_le_bytes(get(entry, event::KIND));
            let same = match kinds.get(usize::from(number)) {
                Some(kind) => *kind == logged.kind(event),
                None => number == kind::OVERFLOW && !numbered.contains(&logged.kind(event)),
            };
            if same { Ok(()) } else { Err(IndexProblem::Damaged("it has another type of an event than the segment")) }
        })
    }

    fn compare_streams(&self, logged: &mut Logged) -> Result<(), IndexProblem> {
        let mut aggregate_types = Vec::new();
        for number in 0..u32::try_from(self.aggregate_types.count).unwrap_or(u32::MAX) {
            aggregate_types.push(logged.types.number(&self.aggregate_type(number)?));
        }
        let (shown, mut streams) = (Cell::new(NOTHING), 0);
        let logged = &*logged;
        let show_event = |_: &StreamEntry, slot: u32| {
            let (of, before, removed) = shown.get();
            let stream = logged.events[slot as usize].stream;
            if stream == REMOVED && of.is_none() {
                shown.set((of, before, removed + 1));
                return Ok(());
            }
            if of.is_some_and(|of| of != stream) || before >= Some(slot) {
                return Err(IndexProblem::Damaged("it has other events of a stream than the segment"));
            }
            shown.set((Some(stream), Some(slot), removed));
            Ok(())
        };
        let show = |entry: StreamEntry| {
            let (of, _, removed) = shown.replace(NOTHING);
            if of.is_none() && removed > 0 {
                // All of it was taken out since the index was made.
                return Ok(());
            }
            streams += 1;
            let stream = of.map(|number| &logged.streams[number as usize]);
            let entry = StreamEntry { first_version: entry.first_version + u64::from(removed), count: entry.count - removed, ..entry };
            if stream.is_some_and(|stream| stream.is(&entry, aggregate_types.get(entry.aggregate_type as usize))) {
                Ok(())
            } else {
                Err(IndexProblem::Damaged("it says something else of a stream than the segment"))
            }
        };
        self.check_streams(show_event, show)?;
        if streams != logged.streams.len() {
            return Err(IndexProblem::Damaged("it does not have the streams that the segment has"));
        }
        Ok(())
    }
}

impl LoggedEvent {
    /// Whether it was taken out: an index that was made before says what it was, one that was made since does not.
    fn is_removed(&self) -> bool {
        self.stream == REMOVED
    }
}

impl LoggedStream {
    fn is(&self, entry: &StreamEntry, aggregate_type: Option<&u32>) -> bool {
        (self.hash, self.first_version, self.count) == (entry.hash, entry.first_version, entry.count)
            && aggregate_type == Some(&self.aggregate_type)
            && self.previous_segment.is_none_or(|previous| previous == entry.previous_segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Before;
    use crate::index::part::Part;
    use crate::index::sealed::tests::identity;
    use crate::index::sealed::{Contents, Identity};
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
        let (mut logged, mut part) = (Logged::new(identity.store_id, identity.base_lsn), Part::new(7, identity.base_position));
        let mut ids = Vec::new();
        let mut numbers = std::collections::HashMap::new();
        for (slot, (aggregate_id, event_type)) in (0_u64..).zip(EVENTS) {
            let (key, aggregate_type) = (key(aggregate_id), &aggregate_id[..5]);
            let number = *numbers.entry(aggregate_id).or_insert_with(|| logged.add_stream(&key, aggregate_type, 5, Some(3)));
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
        let index = SealedIndex::open(&storage, "x.idx", &contents.identity).expect("an index");
        index.check().expect("sound in itself");
        match index.compare(&mut logged) {
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
    fn whatever_else_an_index_says_is_found() {
        let (place, kind) = ("it has another place of an event than the segment", "it has another type of an event than the segment");
        let (events, stream) = ("it has other events of a stream than the segment", "it says something else of a stream than the segment");
        assert_eq!(difference(|contents| contents.events[2].place += 1), place);
        assert_eq!(difference(|contents| contents.events[0].kind = 1), kind);
        assert_eq!(difference(|contents| contents.events[0].kind = kind::OVERFLOW), kind);
        assert_eq!(difference(|contents| contents.kinds[0].1 = "Paid".to_owned()), kind);
        assert_eq!(difference(|contents| contents.events[2].id = Some(id(99))), "it has another id of an event than the segment");
        assert_eq!(difference(|contents| stream_of(contents, "order-1").first_version = 6), stream);
        assert_eq!(difference(|contents| stream_of(contents, "order-1").previous_segment = 2), stream);
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
