//! What is kept of an aggregate's events, and the system events that say so.
//!
//! The bytes of these events are in `docs/file-format.md`.

use std::borrow::Cow;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::{Event, EventData, Json, NewEvent, StreamKey};
use crate::version::AggregateVersion;

/// The aggregate id and aggregate type of the store's own stream.
pub(crate) const SYSTEM: &str = "$";
/// The event type of a deletion.
pub(crate) const DELETED: &str = "$deleted";
/// The event type of retention settings.
pub(crate) const RETENTION: &str = "$retention";

/// How many of an aggregate's events are kept: all that every limit here lets stand, and its last one in any case.
///
/// What is not kept is always a prefix of the aggregate's events. Reads leave it out at once;
/// [`scavenge`](crate::maintenance::scavenge) gives its space back. What was left out once stays left out, also when the
/// limits are lifted.
///
/// ```
/// use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent, ReadStream, Retention};
///
/// let store = LogStore::memory()?;
/// for degrees in 0..5 {
///     let read = NewEvent::json("Read", &degrees)?;
///     store.append(AppendBatch::one("sensor-1", "Sensor", ExpectedVersion::Any, vec![read])).wait()?;
/// }
/// store.set_retention("sensor-1".into(), Retention::new().max_count(2)).wait()?;
/// let versions: Vec<u64> = store.read(ReadStream::of("sensor-1")).map(|event| Ok(event?.version().0)).collect::<Result<_, eventuali::Error>>()?;
/// assert_eq!(versions, [4, 5]);
/// # Ok::<(), eventuali::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Retention {
    /// Events from the first one on that is not older than this, by its timestamp; to the microsecond.
    pub max_age: Option<Duration>,
    /// The newest events, at most so many; at least 1.
    pub max_count: Option<u64>,
    /// The events from this version on.
    pub truncate_before: Option<AggregateVersion>,
}

impl Retention {
    /// No limits: everything is kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps what follows the leading events that are older than this.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Keeps the newest events, at most so many.
    #[must_use]
    pub fn max_count(mut self, count: u64) -> Self {
        self.max_count = Some(count);
        self
    }

    /// Keeps the events from this version on.
    #[must_use]
    pub fn truncate_before(mut self, version: AggregateVersion) -> Self {
        self.truncate_before = Some(version);
        self
    }

    /// The same as it is stored, if it can be.
    pub(crate) fn checked(self) -> Result<Self> {
        if self.max_count == Some(0) {
            return Err(Error::configuration(
                "max_count is 0, but retention keeps an aggregate's last event; use at least 1, or delete the aggregate",
            ));
        }
        Ok(Self { max_age: self.max_age.map(|age| Duration::from_micros(micros(age))), ..self })
    }

    /// The first version that count and truncation leave of a stream, whose versions up to `after` are left out already.
    pub(crate) fn first_kept(&self, version: u64, after: u64) -> u64 {
        let truncated = self.truncate_before.map_or(0, |before| before.0);
        let counted = self.max_count.map_or(0, |count| version.saturating_sub(count).saturating_add(1));
        // The last event stays in any case.
        truncated.max(counted).max(after.saturating_add(1)).min(version.max(1))
    }

    /// The time before which an event is too old.
    pub(crate) fn oldest(&self, now: i64) -> Option<i64> {
        self.max_age.map(|age| now.saturating_sub(i64::try_from(micros(age)).unwrap_or(i64::MAX)))
    }
}

fn micros(age: Duration) -> u64 {
    u64::try_from(age.as_micros()).unwrap_or(u64::MAX)
}

/// What one of a store's own events says of an aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The aggregate's tenant; empty if there is none.
    pub tenant: String,
    /// The aggregate.
    pub aggregate_id: String,
    /// The type that it has, or had.
    pub aggregate_type: String,
    /// What has become of it.
    pub change: Change,
}

/// What has become of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was deleted.
    Deleted {
        /// The version that its last event had.
        version: u64,
        /// The position of that event.
        position: u64,
    },
    /// It has these limits from now on.
    Limited {
        /// Its versions up to this are left out whatever the limits are.
        after: u64,
        /// The limits.
        retention: Retention,
    },
}

#[derive(Serialize, Deserialize)]
struct DeletedPayload<'a> {
    tenant: Cow<'a, str>,
    aggregate_id: Cow<'a, str>,
    aggregate_type: Cow<'a, str>,
    version: u64,
    position: u64,
}

#[derive(Serialize, Deserialize)]
struct RetentionPayload<'a> {
    tenant: Cow<'a, str>,
    aggregate_id: Cow<'a, str>,
    aggregate_type: Cow<'a, str>,
    after: u64,
    max_age_micros: Option<u64>,
    max_count: Option<u64>,
    truncate_before: Option<u64>,
}

impl Notice {
    /// The aggregate that it is about.
    #[must_use]
    pub fn key(&self) -> StreamKey<'_> {
        StreamKey { tenant: &self.tenant, aggregate_id: &self.aggregate_id }
    }

    /// The event that says so.
    pub(crate) fn event(&self) -> Result<NewEvent> {
        let tenant = Cow::Borrowed(&*self.tenant);
        let (aggregate_id, aggregate_type) = (Cow::Borrowed(&*self.aggregate_id), Cow::Borrowed(&*self.aggregate_type));
        let (event_type, json) = match self.change {
            Change::Deleted { version, position } => {
                (DELETED, Json::from_value(&DeletedPayload { tenant, aggregate_id, aggregate_type, version, position })?)
            }
            Change::Limited { after, retention } => {
                let (max_age_micros, max_count) = (retention.max_age.map(micros), retention.max_count);
                let truncate_before = retention.truncate_before.map(|version| version.0);
                let payload = RetentionPayload { tenant, aggregate_id, aggregate_type, after, max_age_micros, max_count, truncate_before };
                (RETENTION, Json::from_value(&payload)?)
            }
        };
        Ok(NewEvent::new(event_type, EventData::Json(json)))
    }

    /// What a system event says; `None` if it is of a type that says nothing of an aggregate's events.
    ///
    /// # Errors
    /// Why its payload cannot be understood.
    pub(crate) fn of(event_type: &str, payload: &[u8]) -> Result<Option<Self>, String> {
        match event_type {
            DELETED => {
                let said: DeletedPayload<'_> = parse(payload)?;
                let change = Change::Deleted { version: said.version, position: said.position };
                Ok(Some(Self::about(said.tenant, said.aggregate_id, said.aggregate_type, change)))
            }
            RETENTION => {
                let said: RetentionPayload<'_> = parse(payload)?;
                let retention = Retention {
                    max_age: said.max_age_micros.map(Duration::from_micros),
                    max_count: said.max_count,
                    truncate_before: said.truncate_before.map(AggregateVersion),
                };
                let change = Change::Limited { after: said.after, retention };
                Ok(Some(Self::about(said.tenant, said.aggregate_id, said.aggregate_type, change)))
            }
            _ => Ok(None),
        }
    }

    /// What an event says, if it is one of a store's own; `None` if it says nothing of an aggregate's events.
    ///
    /// ```
    /// use eventuali::{AppendBatch, Change, EventStore, ExpectedVersion, LogStore, NewEvent, Notice, ReadAll};
    ///
    /// let store = LogStore::memory()?;
    /// let placed = NewEvent::json("OrderPlaced", &12)?;
    /// store.append(AppendBatch::one("order-42", "Order", ExpectedVersion::NoStream, vec![placed])).wait()?;
    /// store.delete("order-42".into(), ExpectedVersion::Any).wait()?;
    /// let events: Vec<_> = store.read_all(ReadAll::new().include_system()).collect::<Result<_, _>>()?;
    /// let notice = Notice::of_event(&events[0])?.expect("a notice");
    /// assert_eq!((&*notice.aggregate_id, notice.change), ("order-42", Change::Deleted { version: 1, position: 1 }));
    /// # Ok::<(), eventuali::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Deserialization`](Error::Deserialization) if its payload cannot be understood.
    pub fn of_event(event: &Event) -> Result<Option<Self>> {
        let (position, event_type) = (event.position(), event.event_type());
        Self::of(event_type, event.payload()).map_err(|reason| Error::Deserialization { position, event_type: event_type.to_owned(), reason })
    }

    fn about(tenant: Cow<'_, str>, aggregate_id: Cow<'_, str>, aggregate_type: Cow<'_, str>, change: Change) -> Self {
        Self { tenant: tenant.into_owned(), aggregate_id: aggregate_id.into_owned(), aggregate_type: aggregate_type.into_owned(), change }
    }
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_retention() -> impl Strategy<Value = Retention> {
        let age = proptest::option::of(any::<u64>().prop_map(Duration::from_micros));
        let version = proptest::option::of(any::<u64>().prop_map(AggregateVersion));
        (age, proptest::option::of(1..u64::MAX), version).prop_map(|(max_age, max_count, truncate_before)| Retention {
            max_age,
            max_count,
            truncate_before,
        })
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (any::<u64>(), any::<u64>()).prop_map(|(version, position)| Change::Deleted { version, position }),
            (any::<u64>(), any_retention()).prop_map(|(after, retention)| Change::Limited { after, retention }),
        ]
    }

    proptest! {
        #[test]
        fn what_a_system_event_says_reads_back_equal(tenant in ".{0,9}", id in ".{1,9}", change in any_change()) {
            let notice = Notice { tenant, aggregate_id: id, aggregate_type: "Thing".to_owned(), change };
            let event = notice.event().expect("JSON");
            prop_assert_eq!(Notice::of(&event.event_type, event.data.as_bytes()), Ok(Some(notice)));
        }

        #[test]
        fn the_last_event_is_always_kept(retention in any_retention(), version in 1..u64::MAX, after in any::<u64>()) {
            let first = retention.first_kept(version, after);
            prop_assert!((1..=version).contains(&first), "{first} of {version}");
        }

        #[test]
        fn hostile_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "[{}\",:a-z0-9]{0,60}") {
            for event_type in [DELETED, RETENTION, "$other"] {
                let _ = (Notice::of(event_type, &bytes), Notice::of(event_type, text.as_bytes()));
            }
        }
    }

    #[test]
    fn each_limit_says_where_what_is_kept_begins() {
        let (none, version) = (Retention::new(), 10);
        assert_eq!(none.first_kept(version, 0), 1);
        assert_eq!(none.first_kept(version, 4), 5);
        assert_eq!(none.max_count(3).first_kept(version, 0), 8);
        assert_eq!(none.max_count(30).first_kept(version, 0), 1);
        assert_eq!(none.truncate_before(AggregateVersion(6)).first_kept(version, 0), 6);
        assert_eq!(none.truncate_before(AggregateVersion(60)).first_kept(version, 0), 10);
        assert_eq!(none.truncate_before(AggregateVersion(6)).max_count(3).first_kept(version, 8), 9);
        assert_eq!(none.max_age(Duration::from_micros(7)).oldest(100), Some(93));
        assert_eq!(none.max_age(Duration::MAX).oldest(i64::MIN), Some(i64::MIN));
        assert!(none.max_count(0).checked().is_err());
    }
}
