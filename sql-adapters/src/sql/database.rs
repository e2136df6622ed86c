//! What a database does for a store: one transaction for a group of appends, and pages of events.

use std::collections::HashSet;
use std::future::Future;
use std::time::Duration;

use eventuali::{AppendBatch, Capabilities, Error, Event, Position, ReadAll, ReadStream, Receipt, Result, StoreIdentity, StreamInfo};
use foldhash::fast::RandomState;
use uuid::Uuid;

use super::decide::Key;
use crate::moving::{Origin, Standing};

/// How many events the first pages have: small ones are on their way together with what is done with them.
pub(crate) const PAGE_EVENTS: u64 = 256;
/// A page ends early when its payloads have this size together.
pub(crate) const PAGE_BYTES: usize = 1 << 20;
/// A page of so few events has each of them, however large and however odd.
pub(crate) const FEW: usize = 4;
/// What an event takes beside its payload, about.
const BESIDE_PAYLOAD_BYTES: u64 = 256;

/// How many positions one statement looks through for the events that a filter wants.
const WINDOW: u64 = 1 << 16;

/// A database that holds a store.
pub(crate) trait Database: Send + Sync + 'static {
    /// What it does and promises.
    fn capabilities(&self) -> Capabilities;

    /// How long a connection is waited for.
    fn patience(&self) -> Duration;

    /// Decides and stores these appends in one transaction.
    fn append(&self, batches: &[&AppendBatch]) -> impl Future<Output = Result<Vec<Result<Vec<Receipt>>>, Failure>> + Send;

    /// Stores events as they are behind the last one, in one transaction that also keeps whose they are.
    fn restore(&self, origin: Origin, events: &[Event]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// How far a store that events are moved to has come.
    fn standing(&self) -> impl Future<Output = Result<Standing>> + Send;

    /// Makes everything durable that was committed.
    fn sync(&self) -> impl Future<Output = Result<u64>> + Send;

    /// Which store it is.
    fn identity(&self) -> impl Future<Output = Result<StoreIdentity>> + Send;

    /// The last position.
    fn head(&self) -> impl Future<Output = Result<u64>> + Send;

    /// What is known of a stream.
    fn stream(&self, tenant: &str, aggregate_id: &str) -> impl Future<Output = Result<Option<StreamInfo>>> + Send;

    /// How many events a page has at most, when many were read: each costs the database a statement.
    const PAGE_EVENTS_MAX: u64;

    /// A page as it comes from the database.
    type Raw: Send + 'static;

    /// The next events of a query. A page of more than [`FEW`] may lack events, and then ends before the first one that it lacks.
    fn page(&self, page: &Page) -> impl Future<Output = Result<Self::Raw>> + Send;

    /// What can be told of a page before its events are made of it; `None` if that is not certain, or if nothing is to be made.
    fn outline(page: &Page, raw: &Self::Raw) -> Option<Outline>;

    /// The events of a page.
    fn found(&self, page: &Page, raw: Self::Raw) -> Result<Found>;

    /// Waits for what is under way, and gives every connection back.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The events of a page.
pub(crate) struct Found {
    pub(crate) events: Vec<Event>,
    /// The last position of the store at the moment that the page shows; 0 if nothing was found.
    pub(crate) head: u64,
    /// Whether the page ended because it was full.
    pub(crate) full: bool,
}

/// What the next page depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outline {
    pub(crate) events: u64,
    /// The size of all payloads together.
    pub(crate) payload_bytes: usize,
    /// Where the last event stands.
    pub(crate) last: Option<u64>,
    pub(crate) head: u64,
    pub(crate) full: bool,
}

impl Found {
    pub(crate) fn outline(&self, page: &Page) -> Outline {
        Outline {
            events: self.events.len() as u64,
            payload_bytes: self.events.iter().map(|event| event.payload().len()).sum(),
            last: self.events.last().map(|event| page.place(event)),
            head: self.head,
            full: self.full,
        }
    }
}

/// Collects a page until it is full.
pub(crate) struct Collected {
    found: Found,
    bytes: usize,
    limit: u64,
}

impl Collected {
    pub(crate) fn new(page: &Page) -> Self {
        Self { found: Found { events: Vec::new(), head: 0, full: false }, bytes: 0, limit: page.limit }
    }

    /// Takes an event in; whether there is room for more.
    pub(crate) fn push(&mut self, event: Event, head: u64) -> bool {
        self.bytes += event.payload().len();
        self.found.events.push(event);
        self.found.head = head;
        self.found.full = self.bytes >= PAGE_BYTES || self.found.events.len() as u64 >= self.limit;
        !self.found.full
    }

    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "in SQLite each value has a type of its own"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.found.events.is_empty()
    }

    /// Says that there is more, which another page must have.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "only SQLite gives pages that lack events with large payloads"))]
    pub(crate) fn end_here(&mut self) {
        self.found.full = true;
    }

    /// Whether so much would still come, as large as what came, that a new connection costs less than reading it to the end.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite stops where it is"))]
    pub(crate) fn leaves_much(&self) -> bool {
        let came = self.found.events.len() as u64;
        let left = self.limit.saturating_sub(came);
        self.found.full && (self.bytes as u64 / came.max(1)).saturating_mul(left) > 16 * PAGE_BYTES as u64
    }

    pub(crate) fn found(self) -> Found {
        self.found
    }
}

/// What is said where the one row is missing that every store has.
pub(crate) const NO_STATE: &str = "its row of state, with the store's id and last position, is gone; put it back from a backup";

/// Why a group was not stored.
pub(crate) enum Failure {
    /// The database is at odds with one of its appends: a group of one gets this answer.
    Refused(Error),
    /// Nothing was stored, and trying again would not help: each of its appends gets this answer.
    All(Error),
    /// Nothing was stored, for a reason that may pass.
    Passing(Error),
    /// The connection was lost when it was told to commit: whether it did is not known.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite runs within the process, and has no connection to lose"))]
    InDoubt(Error),
}

impl Failure {
    /// The error for who did not append.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Refused(error) | Self::All(error) | Self::Passing(error) | Self::InDoubt(error) => error,
        }
    }
}

/// Which events come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) of: Of,
    /// Both ends included, in positions of the store or versions of the stream.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// No event behind this position is wanted.
    pub(crate) head: u64,
    pub(crate) backwards: bool,
    pub(crate) limit: u64,
    /// How many events are wanted from here on in all.
    pub(crate) wanted: u64,
    /// How many there were before.
    pub(crate) read: u64,
}

/// What a page is a page of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    /// The store, filtered by types.
    All { event_types: Vec<String>, aggregate_types: Vec<String>, include_system: bool },
    /// One stream.
    Stream { tenant: String, aggregate_id: String },
}

/// Databases count with signed numbers.
const LARGEST: u64 = i64::MAX as u64;

impl Page {
    pub(crate) fn all(query: ReadAll) -> Self {
        let of = Of::All { event_types: query.event_types, aggregate_types: query.aggregate_types, include_system: query.include_system };
        Self::new(of, query.after.map(|after| after.0), query.before.map(|before| before.0), query.backwards, query.limit)
    }

    pub(crate) fn stream(query: ReadStream) -> Self {
        let of = Of::Stream { tenant: query.tenant, aggregate_id: query.aggregate_id };
        Self::new(of, query.after.map(|after| after.0), query.before.map(|before| before.0), query.backwards, query.limit)
    }

    /// The first page.
    fn new(of: Of, after: Option<u64>, before: Option<u64>, backwards: bool, limit: Option<u64>) -> Self {
        let from = after.map_or(1, |after| after.saturating_add(1)).min(LARGEST);
        let to = before.map_or(LARGEST, |before| before.saturating_sub(1).min(LARGEST));
        // Behind the largest number there is nothing.
        let wanted = if after.is_some_and(|after| after >= LARGEST) { 0 } else { limit.unwrap_or(u64::MAX) };
        Self { of, from, to, head: LARGEST, backwards, limit: wanted.min(PAGE_EVENTS), wanted, read: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.from > self.to || self.limit == 0
    }

    /// Whether events are passed over: then a page may lie anywhere in the store.
    pub(crate) fn is_filtered(&self) -> bool {
        matches!(&self.of, Of::All { event_types, aggregate_types, .. } if !(event_types.is_empty() && aggregate_types.is_empty()))
    }

    /// What one statement looks through: of a filtered store only a part, so that no statement takes long, however rare the events.
    pub(crate) fn window(&self) -> Self {
        let mut window = self.clone();
        if self.is_filtered() {
            if self.backwards {
                window.from = self.from.max(self.to.saturating_sub(WINDOW - 1));
            } else {
                window.to = self.to.min(self.from.saturating_add(WINDOW - 1));
            }
        }
        window
    }

    /// Leaves out what is behind this position.
    pub(crate) fn end_at(&mut self, head: u64) {
        self.head = self.head.min(head);
        if matches!(self.of, Of::All { .. }) {
            self.to = self.to.min(self.head);
        }
    }

    /// The page behind this one, of which `window` was read; of so many events at most.
    pub(crate) fn behind(mut self, window: &Self, read: &Outline, events_max: u64) -> Option<Self> {
        match read.last {
            Some(last) if read.full => {
                self.end_at(read.head);
                self.go_behind(last);
            }
            None if read.full => self.limit = self.limit.min(FEW as u64),
            _ => self.go_behind(if self.backwards { window.from } else { window.to }),
        }
        if read.events > 0 {
            self.wanted -= read.events;
            self.read += read.events;
            let bytes = read.payload_bytes as u64 + read.events * BESIDE_PAYLOAD_BYTES;
            let most = (self.read / 2).clamp(PAGE_EVENTS, events_max);
            self.limit = self.wanted.min((PAGE_BYTES as u64 * read.events / bytes).clamp(1, most));
        }
        Some(self).filter(|page| !page.is_empty())
    }

    /// Goes on behind a position or version, in the direction of reading.
    fn go_behind(&mut self, place: u64) {
        if self.backwards {
            self.to = place.saturating_sub(1);
        } else {
            self.from = place.saturating_add(1);
        }
    }

    /// Where an event stands among those of the page.
    pub(crate) fn place(&self, event: &Event) -> u64 {
        match self.of {
            Of::All { .. } => event.position().0,
            Of::Stream { .. } => event.version().0,
        }
    }
}

/// What must be known of the database to decide these appends: their streams and their ids, each once.
pub(crate) fn asked<'a>(batches: &[&'a AppendBatch]) -> (Vec<Key<'a>>, Vec<Uuid>) {
    let mut seen = HashSet::with_hasher(RandomState::default());
    let mut streams = Vec::new();
    let mut ids = Vec::new();
    for batch in batches {
        for stream in &batch.streams {
            let key = (&*batch.tenant, &*stream.aggregate_id);
            if seen.insert(key) {
                streams.push(key);
            }
            ids.extend(stream.events.iter().map(|event| event.id));
        }
    }
    (streams, ids)
}

/// What is to be stored of events that are moved, given how far the target has come: those behind its head.
pub(crate) fn behind<'e>(shown: &str, standing: Standing, origin: Origin, events: &'e [Event]) -> Result<&'e [Event]> {
    let diverged = |position: u64, reason: String| Error::Diverged { target: shown.to_owned(), position: Position(position), reason };
    match standing.origin {
        None if standing.head > 0 => return Err(diverged(1, "it has events of its own".to_owned())),
        Some((store_id, _)) if store_id != origin.store_id => return Err(diverged(1, format!("its events are those of the store {store_id}"))),
        Some((_, position)) if position != standing.head => return Err(diverged(position + 1, "it has events of its own from there on".to_owned())),
        _ => {}
    }
    // Another mover may have been quicker.
    let new = &events[events.partition_point(|event| event.position().0 <= standing.head)..];
    match new.first().map(|event| event.position().0) {
        Some(first) if first != standing.head + 1 => {
            Err(diverged(standing.head, format!("its last event is there, and the next one to be stored is at {first}")))
        }
        _ => Ok(new),
    }
}

/// The epoch of a store's own events: behind events that were moved here it is another one than theirs, because their origin may
/// give the same positions to other events.
pub(crate) fn own_epoch(epoch: i64, head: i64, source_position: Option<i64>) -> i64 {
    if source_position == Some(head) { epoch + 1 } else { epoch }
}

/// As a number of the database.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// As a number of the store.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
