//! Where events go: any store, which keeps from whom it has them.

use eventuali::{
    AggregateVersion, AppendBatch, DataFormat, Error, Event, EventData, EventStore, ExpectedVersion, Json, LogStore, NewEvent, Position, ReadAll,
    Result, StreamAppend,
};
use uuid::Uuid;

use crate::config::Store;

/// The store that moved events are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) store_id: Uuid,
    pub(crate) epoch: u32,
}

/// How far a target has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its last position.
    pub(crate) head: u64,
    /// The origin of its events and the last position that came from there, if it keeps that.
    pub(crate) origin: Option<(Uuid, u64)>,
}

/// How many events are appended to the engine in one batch, and how many bytes of payload.
const BATCH: (usize, usize) = (4096, 8 << 20);

impl Store {
    pub(super) fn standing(&self) -> Result<Standing> {
        match self {
            Self::Embedded(store) => Ok(Standing { head: store.head().wait()?.0, origin: None }),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.standing().wait(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.standing().wait(),
        }
    }

    /// Stores events as they are behind the last one.
    pub(super) fn restore(&self, origin: Origin, events: Vec<Event>) -> Result<()> {
        match self {
            Self::Embedded(store) => append(store, &events),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.restore(origin, events).wait(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.restore(origin, events).wait(),
        }
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Embedded(_) => "the embedded store".to_owned(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.shown().to_owned(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.shown().to_owned(),
        }
    }

    /// The store behind the trait, borrowed.
    #[must_use]
    pub fn as_dyn(&self) -> &dyn EventStore {
        match self {
            Self::Embedded(store) => store,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store,
        }
    }

    /// The event at a position.
    pub(super) fn event_at(&self, position: u64) -> Result<Option<Event>> {
        let query = ReadAll::new().after(Position(position.saturating_sub(1))).before(Position(position.saturating_add(1))).include_system();
        self.as_dyn().read_all(query).next().transpose()
    }
}

/// The engine numbers events itself: it gives these the numbers that they had.
fn append(store: &LogStore, events: &[Event]) -> Result<()> {
    let mut rest = events;
    while let Some(first) = rest.first() {
        let mut batch = AppendBatch::default().for_tenant(first.tenant());
        let (mut count, mut bytes) = (0, 0);
        for event in rest.iter().take_while(|event| event.tenant() == first.tenant()) {
            bytes += event.payload().len();
            if count == BATCH.0 || (count > 0 && bytes > BATCH.1) {
                break;
            }
            let new = new_event(event)?;
            match batch.streams.last_mut() {
                Some(stream) if stream.aggregate_id == event.aggregate_id() => stream.events.push(new),
                _ => batch.streams.push(StreamAppend {
                    aggregate_id: event.aggregate_id().to_owned(),
                    aggregate_type: event.aggregate_type().to_owned(),
                    expected: ExpectedVersion::Exact(AggregateVersion(event.version().0.saturating_sub(1))),
                    events: vec![new],
                }),
            }
            count += 1;
        }
        let (batch_events, behind) = rest.split_at(count);
        let receipts = store.append(batch).wait()?;
        let wanted = batch_events.last().map(Event::position);
        let given = receipts.last().map(|receipt| receipt.position);
        if wanted != given {
            return Err(Error::Diverged {
                target: "the embedded store".to_owned(),
                position: given.unwrap_or_default(),
                reason: "another writer stored events there meanwhile".to_owned(),
            });
        }
        rest = behind;
    }
    Ok(())
}

/// The event as it was before it was stored, with its id and time.
pub(crate) fn new_event(event: &Event) -> Result<NewEvent> {
    let payload = event.payload().to_vec();
    let data = match event.format() {
        DataFormat::Json => EventData::Json(Json::from_serializer(payload)),
        DataFormat::Protobuf => EventData::Protobuf(payload),
    };
    Ok(NewEvent {
        id: event.id(),
        event_type: event.event_type().to_owned(),
        schema_version: event.schema_version(),
        data,
        metadata: event.metadata()?,
        tags: event.tags()?,
        timestamp: Some(event.timestamp()),
    })
}
