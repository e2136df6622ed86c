//! What becomes of appends, given what the database knew when their transaction had locked it. Pure: nothing is read or written.

use std::borrow::Cow;
use std::collections::HashMap;

use eventuali::{
    AggregateVersion, AppendBatch, DataFormat, Durability, Error, Event, EventIdProblem, NewEvent, Position, Receipt, Result, StreamAppend, Timestamp,
};
use foldhash::fast::RandomState;
use uuid::Uuid;

/// A stream of the appends: its tenant and aggregate id.
pub(crate) type Key<'a> = (&'a str, &'a str);

/// What the database knew.
pub(crate) struct Known<'a> {
    /// The last position that was given.
    pub(crate) head: u64,
    /// The time of this commit.
    pub(crate) now: Timestamp,
    /// The streams of the appends, as far as they have events.
    pub(crate) streams: HashMap<Key<'a>, Stream<'a>, RandomState>,
    /// The events that have one of the appends' ids.
    pub(crate) events: HashMap<Uuid, Event, RandomState>,
}

impl<'a> Known<'a> {
    pub(crate) fn new(head: u64, now: Timestamp) -> Self {
        Self { head, now, streams: HashMap::default(), events: HashMap::default() }
    }

    /// Takes in what the database says of the key at a place among those that it was asked for.
    pub(crate) fn add_stream(&mut self, keys: &[Key<'a>], place: i64, aggregate_type: String, version: u64, deleted: bool) {
        if let Some(key) = usize::try_from(place).ok().and_then(|place| keys.get(place)) {
            self.streams.insert(*key, Stream { aggregate_type: aggregate_type.into(), version, deleted });
        }
    }
}

/// What is known of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Stream<'a> {
    pub(crate) aggregate_type: Cow<'a, str>,
    pub(crate) version: u64,
    /// Whether it was deleted at that version.
    pub(crate) deleted: bool,
}

/// An event that is to be stored.
pub(crate) struct Row<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) aggregate_id: &'a str,
    pub(crate) aggregate_type: &'a str,
    pub(crate) event: &'a NewEvent,
    pub(crate) position: u64,
    pub(crate) version: u64,
    pub(crate) timestamp: Timestamp,
}

#[cfg(feature = "sqlite")]
impl<'a> Row<'a> {
    /// The row of an event that is stored elsewhere.
    pub(crate) fn of(stored: &'a Event, event: &'a NewEvent) -> Self {
        Self {
            tenant: stored.tenant(),
            aggregate_id: stored.aggregate_id(),
            aggregate_type: stored.aggregate_type(),
            event,
            position: stored.position().0,
            version: stored.version().0,
            timestamp: stored.timestamp(),
        }
    }
}

/// The answers to the appends, in their order, and what is to be stored for those that were accepted.
pub(crate) struct Decided<'a> {
    pub(crate) answers: Vec<Result<Vec<Receipt>>>,
    pub(crate) rows: Vec<Row<'a>>,
}

/// Decides appends one after the other, each seeing what the ones before it store.
pub(crate) fn decide<'a>(
    known: Known<'a>,
    batches: impl IntoIterator<Item = &'a AppendBatch>,
    durability: Durability,
    same_json: SameJson,
) -> Decided<'a> {
    let batches = batches.into_iter();
    let (events, mut before) = (batches.size_hint().0, Vec::new());
    let new = HashMap::with_capacity_and_hasher(events, RandomState::default());
    let mut deciding = Deciding { known, durability, same_json, rows: Vec::with_capacity(events), new };
    let answers = batches.map(|batch| deciding.batch(batch, &mut before)).collect();
    Decided { answers, rows: deciding.rows }
}

/// Whether a stored JSON payload is what the database makes of one that is appended.
pub(crate) type SameJson = fn(&[u8], &[u8]) -> bool;

struct Deciding<'a> {
    known: Known<'a>,
    durability: Durability,
    same_json: SameJson,
    rows: Vec<Row<'a>>,
    /// The rows by their events' ids.
    new: HashMap<Uuid, usize, RandomState>,
}

/// What an id that is stored already belongs to.
struct Stored<'s> {
    position: u64,
    version: u64,
    stream: (&'s str, &'s str),
    same: bool,
}

impl<'a> Deciding<'a> {
    fn batch(&mut self, batch: &'a AppendBatch, before: &mut Vec<(Key<'a>, Option<Stream<'a>>)>) -> Result<Vec<Receipt>> {
        if let Some(receipts) = self.repeated(batch)? {
            return Ok(receipts);
        }
        let first_row = self.rows.len();
        before.clear();
        let mut receipts = Vec::with_capacity(batch.streams.len());
        for stream in &batch.streams {
            match self.stream(&batch.tenant, stream, before) {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => {
                    self.undo(first_row, before);
                    return Err(error);
                }
            }
        }
        Ok(receipts)
    }

    fn undo(&mut self, first_row: usize, before: &mut Vec<(Key<'a>, Option<Stream<'a>>)>) {
        for row in self.rows.drain(first_row..) {
            self.new.remove(&row.event.id);
            self.known.head -= 1;
        }
        for (key, stream) in before.drain(..).rev() {
            match stream {
                Some(stream) => self.known.streams.insert(key, stream),
                None => self.known.streams.remove(&key),
            };
        }
    }

    fn stream(&mut self, tenant: &'a str, append: &'a StreamAppend, before: &mut Vec<(Key<'a>, Option<Stream<'a>>)>) -> Result<Receipt> {
        let key = (tenant, &*append.aggregate_id);
        let known = self.known.streams.get(&key);
        let aggregate_id = || append.aggregate_id.clone();
        if let Some(stored) = known.map(|stream| &stream.aggregate_type).filter(|stored| **stored != append.aggregate_type) {
            let (stored, requested) = (stored.clone().into_owned(), append.aggregate_type.clone());
            return Err(Error::AggregateType { aggregate_id: aggregate_id(), stored, requested });
        }
        let mut version = known.map_or(0, |stream| stream.version);
        let deleted = known.is_some_and(|stream| stream.deleted);
        if !(if deleted { append.expected.accepts_deleted() } else { append.expected.accepts(AggregateVersion(version)) }) {
            return Err(Error::Conflict { aggregate_id: aggregate_id(), expected: append.expected, actual: AggregateVersion(version), deleted });
        }
        for event in &append.events {
            version += 1;
            self.known.head += 1;
            self.new.insert(event.id, self.rows.len());
            self.rows.push(Row {
                tenant,
                aggregate_id: &append.aggregate_id,
                aggregate_type: &append.aggregate_type,
                event,
                position: self.known.head,
                version,
                timestamp: event.timestamp.unwrap_or(self.known.now),
            });
        }
        if !append.events.is_empty() {
            let stream = Stream { aggregate_type: Cow::Borrowed(&append.aggregate_type), version, deleted: false };
            before.push((key, self.known.streams.insert(key, stream)));
        }
        Ok(self.receipt(append, self.known.head, version))
    }

    fn receipt(&self, append: &StreamAppend, position: u64, version: u64) -> Receipt {
        Receipt {
            aggregate_id: append.aggregate_id.clone(),
            position: Position(position),
            version: AggregateVersion(version),
            events: u32::try_from(append.events.len()).unwrap_or(u32::MAX),
            durability: self.durability,
        }
    }

    /// The first receipts, if this batch is the repetition of one that is stored.
    fn repeated(&self, batch: &AppendBatch) -> Result<Option<Vec<Receipt>>> {
        let appended = || batch.streams.iter().flat_map(|stream| stream.events.iter().map(move |event| (stream, event)));
        let conflict = |event_id, reason| Err(Error::EventIdConflict { event_id, reason });
        let Some(known) = appended().find_map(|(stream, event)| self.stored(stream, event).map(|_| event.id)) else { return Ok(None) };
        let mut places = Vec::new();
        for (stream, event) in appended() {
            let Some(stored) = self.stored(stream, event).filter(|stored| stored.stream == (&batch.tenant, &stream.aggregate_id)) else {
                return conflict(known, EventIdProblem::PartlyStored);
            };
            if places.last().is_some_and(|(position, _)| position + 1 != stored.position) {
                return conflict(event.id, EventIdProblem::PartlyStored);
            }
            if !stored.same {
                return conflict(event.id, EventIdProblem::DifferentEvent);
            }
            places.push((stored.position, stored.version));
        }
        let mut end = 0;
        let receipts = batch.streams.iter().map(|stream| {
            end += stream.events.len();
            let (position, version) = if stream.events.is_empty() {
                let version = self.known.streams.get(&(&*batch.tenant, &*stream.aggregate_id)).map_or(0, |stream| stream.version);
                (self.known.head, version)
            } else {
                places[end - 1]
            };
            self.receipt(stream, position, version)
        });
        Ok(Some(receipts.collect()))
    }

    fn stored(&self, append: &StreamAppend, event: &NewEvent) -> Option<Stored<'_>> {
        if let Some(row) = self.new.get(&event.id).map(|row| &self.rows[*row]) {
            let other = row.event;
            let same = (row.aggregate_type, &other.event_type, other.schema_version, &other.data)
                == (&append.aggregate_type, &event.event_type, event.schema_version, &event.data);
            return Some(Stored { position: row.position, version: row.version, stream: (row.tenant, row.aggregate_id), same });
        }
        let stored = self.known.events.get(&event.id)?;
        let (kept, given) = (stored.payload(), event.data.as_bytes());
        let same = (stored.aggregate_type(), stored.event_type(), stored.schema_version(), stored.format())
            == (&append.aggregate_type, &event.event_type, event.schema_version, event.data.format())
            && (kept == given || (stored.format() == DataFormat::Json && (self.same_json)(kept, given)));
        Some(Stored { position: stored.position().0, version: stored.version().0, stream: (stored.tenant(), stored.aggregate_id()), same })
    }
}
