//! Where events go: any store, which keeps from whom it has them.

use eventuali::{DataFormat, Event, EventData, EventStore, HistoryItem, Json, NewEvent, Result};
use uuid::Uuid;

use crate::config::Store;
use crate::sql::leaving::as_events;

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

    /// Whether it honours limits that leave out more and more, as time goes on and events are appended.
    pub(super) fn honours_limits(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// Stores a part of a history as it is behind the last event.
    pub(super) fn restore(&self, origin: Origin, history: Vec<HistoryItem>) -> Result<()> {
        match self {
            Self::Embedded(store) => store.restore(&history).map(drop),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.restore(origin, as_events(history)?).wait(),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.restore(origin, as_events(history)?).wait(),
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
