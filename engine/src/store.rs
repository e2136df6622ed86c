//! The [`EventStore`] trait: what every backend does, and the shapes of its requests and answers.

mod batch;
mod reader;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::{StreamKey, Timestamp};
use crate::retention::Retention;
use crate::version::{AggregateVersion, ExpectedVersion, Position};

pub use batch::{AppendBatch, StreamAppend};
pub use reader::{BatchSource, EventReader};

/// A durable, ordered log of events, grouped in streams.
///
/// Every method that may wait returns a [`Completion`]: await it, or call [`Completion::wait`] from synchronous code.
pub trait EventStore: Send + Sync + 'static {
    /// Stores all events of `batch`, or none of them.
    ///
    /// Positions follow the order of the batch without a gap. When the completion succeeds, the events are as durable as
    /// [`Capabilities::durability`] says and every later read sees them. The same batch (same ids, same order, same
    /// payloads) appended again stores nothing and returns the first answer.
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict), [`AggregateType`](crate::Error::AggregateType),
    /// [`EventIdConflict`](crate::Error::EventIdConflict), [`InvalidName`](crate::Error::InvalidName),
    /// [`LimitExceeded`](crate::Error::LimitExceeded), [`StorageFull`](crate::Error::StorageFull): nothing was stored.
    /// [`OutcomeUnknown`](crate::Error::OutcomeUnknown): repeat it with the same ids after opening the store again.
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>>;

    /// The events of one stream, in the order of their versions (or against it).
    fn read(&self, query: ReadStream) -> EventReader;

    /// The events of all streams, in the order of their positions (or against it), up to the head at the time of the call.
    fn read_all(&self, query: ReadAll) -> EventReader;

    /// What the store knows about a stream without reading its events; `None` if it has none.
    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>>;

    /// Deletes an aggregate: from now on it has no events, and is as durably gone as an append would be durable. Its id can be used
    /// again, by an append that expects [`NoStream`](crate::ExpectedVersion::NoStream) or [`Any`](crate::ExpectedVersion::Any);
    /// versions and type go on where they were.
    ///
    /// The receipt has the version at which it was deleted, and the position of the system event that says so. Deleting it
    /// again at that version, or whatever its version, stores nothing and returns the first answer.
    ///
    /// # Errors
    /// [`AggregateNotFound`](crate::Error::AggregateNotFound) if it never had events, [`Conflict`](crate::Error::Conflict), those of
    /// [`EventStore::append`], and [`Unsupported`](crate::Error::Unsupported) where [`Capabilities::retention`] is false.
    fn delete(&self, key: StreamKey<'_>, expected: ExpectedVersion) -> Completion<Receipt> {
        let _ = (key, expected);
        Completion::ready(Err(without_retention(self.capabilities().backend)))
    }

    /// Sets how many of an aggregate's events are kept, in place of what was set before: reads leave out the others at once.
    ///
    /// The receipt has the aggregate's version, and the position of the system event that says so. Setting the same again stores
    /// nothing and returns the first answer.
    ///
    /// # Errors
    /// [`AggregateNotFound`](crate::Error::AggregateNotFound) if it has no events, [`Configuration`](crate::Error::Configuration) if a limit
    /// would leave none, those of [`EventStore::append`], and [`Unsupported`](crate::Error::Unsupported) where
    /// [`Capabilities::retention`] is false.
    fn set_retention(&self, key: StreamKey<'_>, retention: Retention) -> Completion<Receipt> {
        let _ = (key, retention);
        Completion::ready(Err(without_retention(self.capabilities().backend)))
    }

    /// How many of an aggregate's events are kept; no limits if none were set.
    ///
    /// # Errors
    /// Those of reading, and [`Unsupported`](crate::Error::Unsupported) where [`Capabilities::retention`] is false.
    fn retention(&self, key: StreamKey<'_>) -> Completion<Retention> {
        let _ = key;
        Completion::ready(Err(without_retention(self.capabilities().backend)))
    }

    /// The position of the last event that reads can see; 0 if there is none. Events that are left out count.
    fn head(&self) -> Completion<Position>;

    /// The position up to which nothing can be lost any more, also when the power fails.
    fn durable_position(&self) -> Completion<Position>;

    /// Completes when everything that was visible at the time of the call is on disk.
    fn sync(&self) -> Completion<Position>;

    /// Finishes what is under way and releases the store. Closing it again does nothing.
    fn close(&self) -> Completion<()>;

    /// Which store this is, whatever path or address leads to it.
    fn identity(&self) -> Completion<StoreIdentity>;

    /// What this backend does and promises.
    fn capabilities(&self) -> Capabilities;
}

/// What became of one stream's part of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The aggregate.
    pub aggregate_id: String,
    /// The position of the last of these events; where there were none, the head of the log.
    pub position: Position,
    /// The stream's version with these events.
    pub version: AggregateVersion,
    /// How many events it was.
    pub events: u32,
    /// What the acknowledgement means.
    pub durability: Durability,
}

/// What an acknowledged append has survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// On disk, directory entry included: survives the end of the process and a power failure. Costs a sync for each group of appends.
    #[default]
    Sync,
    /// Handed to the operating system and synced within the interval: survives the end of the process; a power failure loses at most the interval.
    Interval(Duration),
    /// Handed to the operating system: survives the end of the process; a power failure may lose a recent suffix.
    Os,
    /// In memory: ends with the process.
    Memory,
}

/// Which events of one stream to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadStream {
    /// The tenant; empty if tenants are not used.
    pub tenant: String,
    /// The aggregate.
    pub aggregate_id: String,
    /// Only events after this version.
    pub after: Option<AggregateVersion>,
    /// Only events before this version.
    pub before: Option<AggregateVersion>,
    /// At most so many.
    pub limit: Option<u64>,
    /// Newest first.
    pub backwards: bool,
}

impl ReadStream {
    /// All events of an aggregate, oldest first.
    #[must_use]
    pub fn of(aggregate_id: impl Into<String>) -> Self {
        Self { aggregate_id: aggregate_id.into(), ..Self::default() }
    }

    /// Only events after `version`.
    #[must_use]
    pub fn after(mut self, version: AggregateVersion) -> Self {
        self.after = Some(version);
        self
    }

    /// Only events before `version`.
    #[must_use]
    pub fn before(mut self, version: AggregateVersion) -> Self {
        self.before = Some(version);
        self
    }

    /// At most `count` events.
    #[must_use]
    pub fn limit(mut self, count: u64) -> Self {
        self.limit = Some(count);
        self
    }

    /// Newest first.
    #[must_use]
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }
}

/// Which events of the whole store to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadAll {
    /// Only events after this position.
    pub after: Option<Position>,
    /// Only events before this position.
    pub before: Option<Position>,
    /// Only events of these types; all if empty.
    pub event_types: Vec<String>,
    /// Only events of aggregates of these types; all if empty.
    pub aggregate_types: Vec<String>,
    /// At most so many.
    pub limit: Option<u64>,
    /// Newest first.
    pub backwards: bool,
    /// Also the store's own events, whose types begin with `$`.
    pub include_system: bool,
    /// The time by which it is told how old events are, where a [`max_age`](Retention::max_age) leaves them out; that of reading if `None`.
    pub now: Option<Timestamp>,
}

impl ReadAll {
    /// Everything, oldest first.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it wants events of these types, which are UTF-8.
    pub(crate) fn wants(&self, aggregate_type: &[u8], event_type: &[u8]) -> bool {
        let among = |wanted: &[String], name: &[u8]| wanted.is_empty() || wanted.iter().any(|wanted| wanted.as_bytes() == name);
        among(&self.event_types, event_type) && among(&self.aggregate_types, aggregate_type) && (self.include_system || !event_type.starts_with(b"$"))
    }

    /// Only events after `position`.
    #[must_use]
    pub fn after(mut self, position: Position) -> Self {
        self.after = Some(position);
        self
    }

    /// Only events before `position`.
    #[must_use]
    pub fn before(mut self, position: Position) -> Self {
        self.before = Some(position);
        self
    }

    /// Only events of these types.
    #[must_use]
    pub fn event_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.event_types.extend(types.into_iter().map(Into::into));
        self
    }

    /// Only events of aggregates of these types.
    #[must_use]
    pub fn aggregate_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.aggregate_types.extend(types.into_iter().map(Into::into));
        self
    }

    /// At most `count` events.
    #[must_use]
    pub fn limit(mut self, count: u64) -> Self {
        self.limit = Some(count);
        self
    }

    /// Newest first.
    #[must_use]
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }

    /// How old events are is told by this time, so that two stores can be read as of one moment.
    #[must_use]
    pub fn now(mut self, now: Timestamp) -> Self {
        self.now = Some(now);
        self
    }

    /// Also the store's own events.
    #[must_use]
    pub fn include_system(mut self) -> Self {
        self.include_system = true;
        self
    }
}

/// What a store knows about a stream without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// The type of its aggregate.
    pub aggregate_type: String,
    /// The version of its last visible event.
    pub version: AggregateVersion,
    /// The position of its last visible event.
    pub last_position: Position,
}

/// Which store this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Given when the store was made, and never changed.
    pub store_id: Uuid,
    /// Raised whenever positions that were given once may be given again, to other events.
    pub epoch: u32,
}

/// What a backend does and promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each says of one thing whether there is that")]
pub struct Capabilities {
    /// The backend's name: `"embedded"`, `"sqlite"`, `"postgres"`.
    pub backend: &'static str,
    /// What an acknowledgement means. Of a store that is only read: the least that holds of the events it shows, whatever their writer promises.
    pub durability: Durability,
    /// Whether events outlive the process.
    pub persistent: bool,
    /// Whether appends are accepted.
    pub writable: bool,
    /// Whether a JSON payload comes back byte for byte; if not, it comes back equal as a JSON value, to the last digit and
    /// character, with other white space and another order of keys.
    pub exact_json: bool,
    /// Whether aggregates can be deleted and their events limited: [`EventStore::delete`], [`EventStore::set_retention`].
    pub retention: bool,
}

/// The refusal of a store that keeps everything.
fn without_retention(backend: &str) -> Error {
    Error::Unsupported {
        message: format!("a store of the kind {backend:?} keeps every event: aggregates are deleted and limited in the embedded store alone"),
    }
}

impl Capabilities {
    /// The capabilities of a backend that keeps every byte.
    #[must_use]
    pub fn new(backend: &'static str, durability: Durability, persistent: bool, writable: bool) -> Self {
        Self { backend, durability, persistent, writable, exact_json: true, retention: false }
    }

    /// The same, of a backend in which aggregates can be deleted and limited.
    #[must_use]
    pub fn with_retention(self) -> Self {
        Self { retention: true, ..self }
    }

    /// The same, of a backend that keeps JSON as values.
    #[must_use]
    pub fn json_as_values(self) -> Self {
        Self { exact_json: false, ..self }
    }
}

/// An operation under way: a future that needs no runtime, with a blocking twin.
///
/// It is lazy, as futures are: nothing happens before the first poll or wait. Dropping it after that abandons the answer,
/// not the operation.
#[must_use = "nothing happens until it is awaited or waited for"]
pub struct Completion<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T>>),
    Running(Box<dyn Operation<T>>),
}

/// How a backend carries out what a [`Completion`] stands for.
pub trait Operation<T>: Send {
    /// Starts or continues it, and wakes the context's task when there is an answer.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>>;

    /// Starts or continues it, and blocks until there is an answer or the deadline has passed (`None`).
    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>>;
}

impl<T> Completion<T> {
    /// An answer that is there already.
    pub fn ready(result: Result<T>) -> Self {
        Self(State::Ready(Some(result)))
    }

    /// An operation to be carried out.
    pub fn running(operation: impl Operation<T> + 'static) -> Self {
        Self(State::Running(Box::new(operation)))
    }

    /// Blocks until there is an answer.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn wait(mut self) -> Result<T> {
        loop {
            if let Some(result) = self.wait_until(None) {
                return result;
            }
        }
    }

    /// Blocks until there is an answer or `deadline` has passed (`None`: it can be waited for again).
    ///
    /// # Panics
    /// If the answer was taken already.
    pub fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        match &mut self.0 {
            State::Ready(result) => Some(take(result)),
            State::Running(operation) => operation.wait(deadline),
        }
    }
}

fn take<T>(result: &mut Option<Result<T>>) -> Result<T> {
    match result.take() {
        Some(result) => result,
        None => panic!("a completion was used again after it had answered"),
    }
}

impl<T> Future for Completion<T>
where
    T: Unpin,
{
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => Poll::Ready(take(result)),
            State::Running(operation) => operation.poll(context),
        }
    }
}

/// A shared store is a store: what takes `&dyn EventStore` takes `&Arc<dyn EventStore>` too.
impl<S: EventStore + ?Sized> EventStore for Arc<S> {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        (**self).append(batch)
    }

    fn read(&self, query: ReadStream) -> EventReader {
        (**self).read(query)
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        (**self).read_all(query)
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        (**self).stream(key)
    }

    fn delete(&self, key: StreamKey<'_>, expected: ExpectedVersion) -> Completion<Receipt> {
        (**self).delete(key, expected)
    }

    fn set_retention(&self, key: StreamKey<'_>, retention: Retention) -> Completion<Receipt> {
        (**self).set_retention(key, retention)
    }

    fn retention(&self, key: StreamKey<'_>) -> Completion<Retention> {
        (**self).retention(key)
    }

    fn head(&self) -> Completion<Position> {
        (**self).head()
    }

    fn durable_position(&self) -> Completion<Position> {
        (**self).durable_position()
    }

    fn sync(&self) -> Completion<Position> {
        (**self).sync()
    }

    fn close(&self) -> Completion<()> {
        (**self).close()
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        (**self).identity()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
}
