//! The naive model: a `Vec` of events that says what a store has to answer, and a store around it.

mod keeping;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use keeping::Keeping;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{Error, EventIdProblem, Result};
use crate::event::{Event, NewEvent, StreamKey, Timestamp};
use crate::retention::Retention;
use crate::store::{
    AppendBatch, BatchSource, Capabilities, Completion, Durability, EventReader, EventStore, Operation, ReadAll, ReadStream, Receipt, StoreIdentity,
    StreamAppend, StreamInfo,
};
use crate::testing::Home;
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// What a store has to answer, found the slow and obvious way.
#[derive(Debug, Clone, Default)]
pub struct Model {
    events: Vec<Event>,
    last_commit: Timestamp,
    keeping: Keeping,
}

impl Model {
    /// Appends a batch, or says why not.
    ///
    /// # Errors
    /// Those of [`EventStore::append`].
    pub fn append(&mut self, batch: &AppendBatch) -> Result<Vec<Receipt>> {
        batch.check()?;
        if let Some(receipts) = self.repeated(batch)? {
            return Ok(receipts);
        }
        let before = self.clone();
        let stored = self.store(batch);
        if stored.is_err() {
            *self = before;
        }
        stored
    }

    /// The events of one stream.
    #[must_use]
    pub fn read(&self, query: &ReadStream) -> Vec<Event> {
        let key = StreamKey { tenant: &query.tenant, aggregate_id: &query.aggregate_id };
        let mut found = self.events.clone();
        let first = self.first_live(&key);
        found.retain(|event| is_of(event, &key) && event.version.0 >= first);
        found.retain(|event| query.after.is_none_or(|after| event.version > after));
        found.retain(|event| query.before.is_none_or(|before| event.version < before));
        turn_and_cut(found, query.backwards, query.limit)
    }

    /// The events of all streams.
    #[must_use]
    pub fn read_all(&self, query: &ReadAll) -> Vec<Event> {
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        let mut found = self.events.clone();
        found.retain(|event| query.include_system || !event.event_type().starts_with('$'));
        found.retain(|event| event.version.0 >= self.first_live(&StreamKey { tenant: event.tenant(), aggregate_id: event.aggregate_id() }));
        found.retain(|event| query.after.is_none_or(|after| event.position > after));
        found.retain(|event| query.before.is_none_or(|before| event.position < before));
        found.retain(|event| named(&query.event_types, event.event_type()));
        found.retain(|event| named(&query.aggregate_types, event.aggregate_type()));
        turn_and_cut(found, query.backwards, query.limit)
    }

    /// What is known about a stream.
    #[must_use]
    pub fn stream(&self, key: &StreamKey<'_>) -> Option<StreamInfo> {
        if self.is_deleted(key) { None } else { self.ever(key) }
    }

    /// What was known about a stream before it was deleted, if it was.
    fn ever(&self, key: &StreamKey<'_>) -> Option<StreamInfo> {
        let last = self.events.iter().rfind(|event| is_of(event, key))?;
        Some(StreamInfo { aggregate_type: last.aggregate_type().to_owned(), version: last.version, last_position: last.position })
    }

    /// The position of the last event.
    #[must_use]
    pub fn head(&self) -> Position {
        Position(self.events.len() as u64)
    }

    fn version(&self, key: &StreamKey<'_>) -> AggregateVersion {
        self.ever(key).map_or(AggregateVersion::NONE, |stream| stream.version)
    }

    /// The first receipts, if this batch is the repetition of one that is stored.
    fn repeated(&self, batch: &AppendBatch) -> Result<Option<Vec<Receipt>>> {
        let appended: Vec<(&StreamAppend, &NewEvent)> =
            batch.streams.iter().flat_map(|stream| stream.events.iter().map(move |event| (stream, event))).collect();
        let conflict = |event_id: Uuid, reason| Err(Error::EventIdConflict { event_id, reason });
        let ids: HashMap<Uuid, &Event> = self.events.iter().map(|event| (event.id(), event)).collect();
        let found: Vec<Option<&Event>> = appended.iter().map(|(_, new)| ids.get(&new.id).copied()).collect();
        let Some(known) = found.iter().position(Option::is_some) else { return Ok(None) };
        for (at, ((stream, new), stored)) in appended.iter().zip(&found).enumerate() {
            let Some(stored) = stored.filter(|stored| is_of(stored, &key_of(batch, stream))) else {
                return conflict(appended[known].1.id, EventIdProblem::PartlyStored);
            };
            if at > 0 && found[at - 1].is_none_or(|previous| previous.position.0 + 1 != stored.position.0) {
                return conflict(new.id, EventIdProblem::PartlyStored);
            }
            let same_payload = (stored.payload(), stored.format()) == (new.data.as_bytes(), new.data.format());
            if !same_payload || stored.event_type() != new.event_type {
                return conflict(new.id, EventIdProblem::DifferentEvent);
            }
        }
        let mut found = found.into_iter().flatten();
        let receipts = batch.streams.iter().map(|stream| {
            let last = found.by_ref().take(stream.events.len()).last();
            let (position, version) =
                last.map_or_else(|| (self.head(), self.version(&key_of(batch, stream))), |event| (event.position, event.version));
            receipt(stream, position, version)
        });
        Ok(Some(receipts.collect()))
    }

    /// Checks and stores the batch stream by stream; what was stored before an error is for the caller to undo.
    fn store(&mut self, batch: &AppendBatch) -> Result<Vec<Receipt>> {
        let mut receipts: Vec<Receipt> = Vec::new();
        self.last_commit = self.last_commit.max(Timestamp::now());
        for stream in &batch.streams {
            let key = key_of(batch, stream);
            self.check(&key, stream)?;
            for event in &stream.events {
                let (position, version) = (Position(self.head().0 + 1), AggregateVersion(self.version(&key).0 + 1));
                let timestamp = event.timestamp.unwrap_or(self.last_commit);
                self.events.push(Event::from_parts(&key, &stream.aggregate_type, event, position, version, timestamp)?);
            }
            receipts.push(receipt(stream, self.head(), self.version(&key)));
        }
        Ok(receipts)
    }

    fn check(&self, key: &StreamKey<'_>, stream: &StreamAppend) -> Result<()> {
        let info = self.ever(key);
        if let Some(StreamInfo { aggregate_type: stored, .. }) = &info
            && *stored != stream.aggregate_type
        {
            let (stored, requested) = (stored.clone(), stream.aggregate_type.clone());
            return Err(Error::AggregateType { aggregate_id: stream.aggregate_id.clone(), stored, requested });
        }
        let actual = info.map_or(AggregateVersion::NONE, |info| info.version);
        self.expect(key, stream.expected, actual)
    }

    fn expect(&self, key: &StreamKey<'_>, expected: ExpectedVersion, actual: AggregateVersion) -> Result<()> {
        let deleted = self.is_deleted(key);
        if if deleted { expected.accepts_deleted() } else { expected.accepts(actual) } {
            return Ok(());
        }
        Err(Error::Conflict { aggregate_id: key.aggregate_id.to_owned(), expected, actual, deleted })
    }
}

fn key_of<'a>(batch: &'a AppendBatch, stream: &'a StreamAppend) -> StreamKey<'a> {
    StreamKey { tenant: &batch.tenant, aggregate_id: &stream.aggregate_id }
}

fn is_of(event: &Event, key: &StreamKey<'_>) -> bool {
    (event.tenant(), event.aggregate_id()) == (key.tenant, key.aggregate_id)
}

fn turn_and_cut(mut events: Vec<Event>, backwards: bool, limit: Option<u64>) -> Vec<Event> {
    if backwards {
        events.reverse();
    }
    events.truncate(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
    events
}

fn receipt(stream: &StreamAppend, position: Position, version: AggregateVersion) -> Receipt {
    let events = u32::try_from(stream.events.len()).unwrap_or(u32::MAX);
    Receipt { aggregate_id: stream.aggregate_id.clone(), position, version, events, durability: Durability::Memory }
}

/// The home of a [`ModelStore`]: its events outlive the handles, as if they were on disk.
#[derive(Debug, Clone, Default)]
pub struct ModelHome(Arc<Mutex<Model>>);

impl Home for ModelHome {
    fn open(&self) -> Arc<dyn EventStore> {
        Arc::new(ModelStore { model: Arc::clone(&self.0), closed: Arc::default() })
    }
}

/// The naive model behind the [`EventStore`] trait: the simplest store that passes the suite.
#[derive(Debug)]
pub struct ModelStore {
    model: Arc<Mutex<Model>>,
    closed: Arc<AtomicBool>,
}

impl ModelStore {
    fn later<T: Send + 'static>(&self, work: impl FnOnce(&mut Model) -> T + Send + 'static) -> Completion<T> {
        let (model, closed) = (Arc::clone(&self.model), Arc::clone(&self.closed));
        later(move || if closed.load(Ordering::SeqCst) { Err(Error::Closed) } else { Ok(work(&mut model.lock())) })
    }

    fn reader(&self, find: impl FnOnce(&Model) -> Vec<Event>) -> EventReader {
        if self.closed.load(Ordering::SeqCst) {
            return reader(|| Err(Error::Closed));
        }
        let found = find(&self.model.lock());
        reader(|| Ok(found))
    }
}

impl EventStore for ModelStore {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        let appended = self.later(move |model| model.append(&batch));
        later(move || appended.wait()?)
    }

    fn read(&self, query: ReadStream) -> EventReader {
        self.reader(|model| model.read(&query))
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        self.reader(|model| model.read_all(&query))
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        let (tenant, aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        self.later(move |model| model.stream(&StreamKey { tenant: &tenant, aggregate_id: &aggregate_id }))
    }

    fn delete(&self, key: StreamKey<'_>, expected: ExpectedVersion) -> Completion<Receipt> {
        let (tenant, aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        let deleted = self.later(move |model| model.delete(&StreamKey { tenant: &tenant, aggregate_id: &aggregate_id }, expected));
        later(move || deleted.wait()?)
    }

    fn set_retention(&self, key: StreamKey<'_>, retention: Retention) -> Completion<Receipt> {
        let (tenant, aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        let set = self.later(move |model| model.set_retention(&StreamKey { tenant: &tenant, aggregate_id: &aggregate_id }, retention));
        later(move || set.wait()?)
    }

    fn retention(&self, key: StreamKey<'_>) -> Completion<Retention> {
        let (tenant, aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        self.later(move |model| model.retention(&StreamKey { tenant: &tenant, aggregate_id: &aggregate_id }))
    }

    fn head(&self) -> Completion<Position> {
        self.later(|model| model.head())
    }

    fn durable_position(&self) -> Completion<Position> {
        self.head()
    }

    fn sync(&self) -> Completion<Position> {
        self.head()
    }

    fn close(&self) -> Completion<()> {
        let closed = Arc::clone(&self.closed);
        later(move || {
            closed.store(true, Ordering::SeqCst);
            Ok(())
        })
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        Completion::ready(Ok(StoreIdentity { store_id: Uuid::nil(), epoch: 0 }))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("model", Durability::Memory, true, true).with_retention()
    }
}

/// A completion whose work is done, without waiting, at its first poll or wait.
pub(super) fn later<T: 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Completion<T> {
    Completion::running(Later(Some(work)))
}

/// A reader of what `find` finds at its first poll or call.
pub(super) fn reader(find: impl FnOnce() -> Result<Vec<Event>> + Send + 'static) -> EventReader {
    EventReader::new(Found { find: Some(Box::new(find)), events: Vec::new().into_iter() })
}

struct Later<F>(Option<F>);

impl<F> Later<F> {
    fn work(&mut self) -> F {
        match self.0.take() {
            Some(work) => work,
            None => panic!("a completion was used again after it had answered"),
        }
    }
}

impl<T, F: FnOnce() -> Result<T> + Send> Operation<T> for Later<F> {
    fn poll(&mut self, _context: &mut Context<'_>) -> Poll<Result<T>> {
        Poll::Ready(self.work()())
    }

    fn wait(&mut self, _deadline: Option<Instant>) -> Option<Result<T>> {
        Some(self.work()())
    }
}

type Find = Box<dyn FnOnce() -> Result<Vec<Event>> + Send>;

struct Found {
    find: Option<Find>,
    events: std::vec::IntoIter<Event>,
}

impl BatchSource for Found {
    fn poll_batch(&mut self, _context: &mut Context<'_>) -> Poll<Result<Vec<Event>>> {
        Poll::Ready(self.wait_batch())
    }

    fn wait_batch(&mut self) -> Result<Vec<Event>> {
        if let Some(find) = self.find.take() {
            self.events = find()?.into_iter();
        }
        Ok(self.events.by_ref().take(100).collect())
    }
}
