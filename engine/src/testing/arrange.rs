//! What the cases have in common: a store to test, events to append, and answers to compare.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::event::{DataFormat, Event, EventData, EventMetadata, Json, NewEvent, StreamKey, Tag};
use crate::store::{AppendBatch, Completion, EventStore, ReadAll, ReadStream, Receipt, StreamInfo};
use crate::testing::{Backend, Home};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// No operation of a sound store takes so long, however busy the machine is.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// The aggregate type where it does not matter.
pub(super) const THING: &str = "Thing";

/// The store under test.
pub(super) struct Subject {
    home: Box<dyn Home>,
    pub(super) store: Arc<dyn EventStore>,
}

impl Subject {
    pub(super) fn new(backend: &dyn Backend) -> Self {
        let home = backend.create();
        let store = home.open();
        Self { home, store }
    }

    /// Closes the store and opens it again.
    pub(super) fn reopen(&mut self) {
        self.store.close().wait().expect("the store closes");
        self.store = self.home.open();
    }

    /// Opens the store again after its last handle was dropped.
    pub(super) fn drop_and_reopen(self) -> Self {
        let Self { home, store } = self;
        drop(store);
        Self { store: home.open(), home }
    }

    /// Has the backend do with its files what it does while a store is open.
    pub(super) fn tidy(&self) {
        self.home.tidy();
    }

    /// Whether ids of events that are left out may be unknown.
    pub(super) fn forgets(&self) -> bool {
        self.home.forgets()
    }

    pub(super) fn is_persistent(&self) -> bool {
        self.store.capabilities().persistent
    }

    /// A payload in the form in which payloads are compared.
    pub(super) fn comparable(&self, event: &Event) -> Vec<u8> {
        match event.format() {
            DataFormat::Json => self.home.comparable_json(event.payload()),
            DataFormat::Protobuf => event.payload().to_vec(),
        }
    }

    pub(super) fn try_append(&self, batch: &AppendBatch) -> Result<Vec<Receipt>> {
        self.store.append(batch.clone()).wait()
    }

    pub(super) fn append(&self, batch: &AppendBatch) -> Vec<Receipt> {
        self.try_append(batch).expect("the append is stored")
    }

    /// Appends events that do not matter to a stream, and gives their batch.
    pub(super) fn grow(&self, aggregate_id: &str, count: usize) -> AppendBatch {
        let batch = AppendBatch::one(aggregate_id, THING, ExpectedVersion::Any, events(count));
        self.append(&batch);
        batch
    }

    pub(super) fn read(&self, query: ReadStream) -> Vec<Event> {
        self.store.read(query).collect::<Result<_>>().expect("the stream is readable")
    }

    pub(super) fn stream(&self, aggregate_id: &str) -> Vec<Event> {
        self.read(ReadStream::of(aggregate_id))
    }

    pub(super) fn read_all(&self, query: ReadAll) -> Vec<Event> {
        self.store.read_all(query).collect::<Result<_>>().expect("the store is readable")
    }

    pub(super) fn all(&self) -> Vec<Event> {
        self.read_all(ReadAll::new())
    }

    pub(super) fn head(&self) -> u64 {
        self.store.head().wait().expect("the head is known").0
    }

    pub(super) fn info<'a>(&self, key: impl Into<StreamKey<'a>>) -> Option<StreamInfo> {
        self.store.stream(key.into()).wait().expect("the stream is described")
    }

    pub(super) fn version(&self, aggregate_id: &str) -> u64 {
        self.info(aggregate_id).map_or(0, |info| info.version.0)
    }

    /// Asserts that an append is refused, leaves no trace, and gives the reason.
    pub(super) fn refusal(&self, batch: &AppendBatch) -> Error {
        let before = self.all();
        let error = self.try_append(batch).expect_err("the append is refused");
        assert_eq!(self.head(), before.len() as u64, "a refused append ({error}) moves the head");
        assert_eq!(self.all(), before, "a refused append ({error}) leaves a trace");
        error
    }

    /// Asserts that a stored event is what was appended.
    #[track_caller]
    pub(super) fn assert_same(&self, stored: &Event, appended: &NewEvent) {
        let metadata = stored.metadata().expect("the metadata is readable");
        let tags = stored.tags().expect("the tags are readable");
        assert_eq!((stored.id(), stored.event_type()), (appended.id, &*appended.event_type));
        assert_eq!((stored.schema_version(), stored.format()), (appended.schema_version, appended.data.format()));
        let (kept, given) = (stored.payload(), appended.data.as_bytes());
        let same = kept == given || (stored.format() == DataFormat::Json && self.home.comparable_json(kept) == self.home.comparable_json(given));
        assert!(same, "the payload of {stored:?} is what was appended");
        assert_eq!((metadata, tags), (appended.metadata.clone(), appended.tags.clone()));
        if let Some(timestamp) = appended.timestamp {
            assert_eq!(stored.timestamp(), timestamp);
        }
    }

    /// Asserts that stored events are what was appended, in this order.
    #[track_caller]
    pub(super) fn assert_all_same<'a>(&self, stored: &[Event], appended: impl IntoIterator<Item = &'a NewEvent>) {
        let appended: Vec<_> = appended.into_iter().collect();
        assert_eq!(stored.len(), appended.len(), "as many events are stored as were appended");
        for (stored, appended) in stored.iter().zip(appended) {
            self.assert_same(stored, appended);
        }
    }
}

/// An event of a type, told apart from all others by its payload.
pub(super) fn event(event_type: &str) -> NewEvent {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let json = Json::from_serializer(format!("{{\"number\":{number}}}").into_bytes());
    NewEvent::new(event_type, EventData::Json(json))
}

/// Events whose types do not matter.
pub(super) fn events(count: usize) -> Vec<NewEvent> {
    (0..count).map(|_| event("Happened")).collect()
}

/// An append of one event to one stream, whatever its version.
pub(super) fn one(aggregate_id: &str, event: NewEvent) -> AppendBatch {
    AppendBatch::one(aggregate_id, THING, ExpectedVersion::Any, vec![event])
}

pub(super) fn exact(version: u64) -> ExpectedVersion {
    ExpectedVersion::Exact(AggregateVersion(version))
}

pub(super) fn in_tenant<'a>(tenant: &'a str, aggregate_id: &'a str) -> StreamKey<'a> {
    StreamKey { tenant, aggregate_id }
}

pub(super) fn positions(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.position().0).collect()
}

pub(super) fn versions(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.version().0).collect()
}

/// The position, version and number of events of each receipt.
pub(super) fn places(receipts: &[Receipt]) -> Vec<(u64, u64, u32)> {
    receipts.iter().map(|receipt| (receipt.position.0, receipt.version.0, receipt.events)).collect()
}

/// Everything that can be told apart in an event with all its parts.
pub(super) fn full_event() -> NewEvent {
    let headers = [("trace", "00-ab"), ("", "empty name"), ("empty value", ""), ("emoji", "🦀")];
    let metadata = EventMetadata {
        causation_id: Some("cause".to_owned()),
        correlation_id: Some(String::new()),
        user_id: None,
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let tags = ["order:9", "course:7", "ä/🦀"].map(|tag| Tag(tag.to_owned())).to_vec();
    NewEvent { schema_version: 7, metadata, tags, ..event("Told") }
}

/// Asserts the conflict's facts.
#[track_caller]
pub(super) fn assert_conflict(error: &Error, aggregate_id: &str, expected: ExpectedVersion, actual: u64) {
    match error {
        Error::Conflict { aggregate_id: id, expected: stale, actual: found, deleted } => {
            assert_eq!((&**id, *stale, *found, *deleted), (aggregate_id, expected, AggregateVersion(actual), false));
        }
        other => panic!("expected a conflict, not {other:?}"),
    }
}

/// Asserts that a limit was exceeded, and by how much.
#[track_caller]
pub(super) fn assert_limit(error: &Error, max: u64, actual: u64) {
    match error {
        Error::LimitExceeded { max: limit, actual: size, .. } => assert_eq!((*limit, *size), (max, actual), "{error}"),
        other => panic!("expected an exceeded limit, not {other:?}"),
    }
}

/// Polls once, without anybody to be woken.
pub(super) fn poll_once<T: Unpin>(completion: &mut Completion<T>) -> Poll<Result<T>> {
    pin!(completion).poll(&mut Context::from_waker(Waker::noop()))
}

/// Asserts that a completion answers while the test has patience.
#[track_caller]
pub(super) fn answer_of<T>(mut completion: Completion<T>) -> Result<T> {
    completion.wait_until(Some(Instant::now() + PATIENCE)).expect("the operation ends in time")
}

/// Waits until a condition holds that other threads bring about.
#[track_caller]
pub(super) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain waited until {what}");
        std::thread::yield_now();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Awaits futures together on this thread, without a runtime.
#[track_caller]
pub(super) fn drive<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let deadline = Instant::now() + PATIENCE;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut under_way: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    loop {
        for (future, answer) in &mut under_way {
            if answer.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                *answer = Some(output);
            }
        }
        if under_way.iter().all(|(_, answer)| answer.is_some()) {
            return under_way.into_iter().filter_map(|(_, answer)| answer).collect();
        }
        assert!(Instant::now() < deadline, "the futures answer in time");
        std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The position of the last event, for comparing with receipts.
pub(super) fn at(position: u64) -> Position {
    Position(position)
}
