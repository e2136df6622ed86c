//! Import from a table that the Python library `eventsourcing` has written.

use std::collections::HashMap;
use std::ops::ControlFlow;

use eventuali::{
    AggregateVersion, Error, Event, EventData, EventMetadata, HistoryItem, Json, NewEvent, Position, Result, StoreIdentity, StreamKey, Timestamp,
};
use serde::Deserialize;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::Progress;
use super::export::{Moved, move_events};
use super::source::{Items, Source};
use crate::config::Store;
use crate::connection::{self, Place};
use crate::sql::remote::Remote;

/// How many rows are read at once.
const PAGE: i64 = 1000;

/// What event ids are made from, together with the originator and its version; and the id of the store that such a table stands for.
const NAMESPACE: Uuid = Uuid::from_u128(0x6576_656e_7475_616c_695f_6573_696d_706f);

/// The headers that keep what has no other place.
const TOPIC: &str = "eventsourcing.topic";
const NOTIFICATION_ID: &str = "eventsourcing.notification_id";
const ORIGINATOR_VERSION: &str = "eventsourcing.originator_version";

/// Moves the events of an `eventsourcing` application into a store: those of its `stored_events` table (or another, by name; on
/// Postgres perhaps `schema.table`), in SQLite (`sqlite://application.db`) or Postgres, in the order of their notification ids.
///
/// The originator becomes the aggregate; the last part of the topic the event type, the class before it the aggregate type; the time
/// is taken from the state. The state's bytes are the payload as they are: JSON, or, if they are compressed, encrypted or of another
/// transcoder, opaque bytes. Positions count from 1 without a gap, versions from 1 in each aggregate. The topic, the notification id
/// and a version that was another one are kept as headers. Ids are made from originator and version, so that importing again goes on
/// where it ended.
///
/// # Errors
/// [`Configuration`](Error::Configuration) for an address or table that cannot be; [`Database`](Error::Database) if it is no such table;
/// [`Diverged`](Error::Diverged) if the target holds other events.
pub fn import_eventsourcing(address: &str, table: Option<&str>, target: &Store, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Moved> {
    let mut source = StoredEvents::open(connection::parse(address)?, table.unwrap_or("stored_events"))?;
    move_events(&mut source, target, progress)
}

/// Whether there is an application of the library to be imported: what can be known before a target is made.
///
/// # Errors
/// Those of opening it, as in [`import_eventsourcing`].
pub fn check_eventsourcing(address: &str, table: Option<&str>) -> Result<()> {
    StoredEvents::open(connection::parse(address)?, table.unwrap_or("stored_events")).map(drop)
}

/// A row of the table.
struct Stored {
    notification_id: i64,
    originator_id: String,
    originator_version: i64,
    topic: String,
    state: Vec<u8>,
}

enum Table {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
}

struct StoredEvents {
    remote: Remote,
    table: Table,
    rows: String,
    last: Option<u64>,
}

/// A table's name, quoted; a schema may stand before it.
fn quoted(name: &str) -> Result<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let sound =
        |part: &&str| !part.is_empty() && part.len() <= 63 && part.chars().all(|character| character.is_alphanumeric() || "_-$".contains(character));
    if parts.len() > 2 || !parts.iter().all(sound) {
        let shown: String = name.chars().take(64).collect();
        return Err(Error::configuration(format!(
            "{shown:?} cannot be the name of a table; it is written stored_events, or schema.stored_events on Postgres"
        )));
    }
    Ok(parts.iter().map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join("."))
}

fn database(error: &sqlx::Error) -> Error {
    let refusal = error.as_database_error();
    let code = refusal.and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned);
    let message = refusal.map_or_else(|| error.to_string(), |refusal| refusal.message().to_owned());
    Error::Database { store: "the database to be imported".to_owned(), code, message }
}

impl StoredEvents {
    fn open(place: Place, name: &str) -> Result<Self> {
        let remote = Remote::new()?;
        let name = quoted(name)?;
        let (table, rows) = match place {
            #[cfg(feature = "sqlite")]
            Place::SqliteFile(path) => {
                use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
                let connect = SqliteConnectOptions::new().filename(&path).read_only(true);
                let pool = remote.block(async move {
                    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(connect).await;
                    pool.map_err(|error| Error::configuration(format!("{path:?} cannot be opened: {error}")))
                })?;
                let rows = format!(
                    "SELECT rowid, CAST(originator_id AS TEXT), originator_version, topic, state FROM {name} WHERE rowid > ? ORDER BY rowid LIMIT ?"
                );
                (Table::Sqlite(pool), rows)
            }
            #[cfg(feature = "postgres")]
            Place::Postgres(address) => {
                let pool = remote.block(async move { sqlx::PgPool::connect(&address.0).await.map_err(|error| database(&error)) })?;
                let rows = format!(
                    "SELECT notification_id, originator_id::text, originator_version, topic, state FROM {name} WHERE notification_id > $1 \
                     ORDER BY notification_id LIMIT $2"
                );
                (Table::Postgres(pool), rows)
            }
            _ => {
                return Err(Error::configuration(
                    "an eventsourcing application is imported from sqlite://application.db or postgresql://user:password@host:5432/database",
                ));
            }
        };
        let mut source = Self { remote, table, rows, last: None };
        source.last = Some(source.count(&name)?);
        Ok(source)
    }

    fn count(&self, name: &str) -> Result<u64> {
        let count = format!("SELECT count(*) FROM {name}");
        let counted: i64 = match &self.table {
            #[cfg(feature = "sqlite")]
            Table::Sqlite(pool) => {
                let pool = pool.clone();
                self.remote.block(async move { sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&pool).await.map_err(|error| database(&error)) })?
            }
            #[cfg(feature = "postgres")]
            Table::Postgres(pool) => {
                let pool = pool.clone();
                self.remote.block(async move { sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&pool).await.map_err(|error| database(&error)) })?
            }
        };
        Ok(u64::try_from(counted).unwrap_or(0))
    }

    fn page(&self, after: i64) -> Result<Vec<Stored>> {
        type Columns = (i64, String, i64, String, Vec<u8>);
        let rows = self.rows.clone();
        let page: Vec<Columns> = match &self.table {
            #[cfg(feature = "sqlite")]
            Table::Sqlite(pool) => {
                let pool = pool.clone();
                self.remote.block(async move {
                    sqlx::query_as(AssertSqlSafe(rows)).bind(after).bind(PAGE).fetch_all(&pool).await.map_err(|error| database(&error))
                })?
            }
            #[cfg(feature = "postgres")]
            Table::Postgres(pool) => {
                let pool = pool.clone();
                self.remote.block(async move {
                    sqlx::query_as(AssertSqlSafe(rows)).bind(after).bind(PAGE).fetch_all(&pool).await.map_err(|error| database(&error))
                })?
            }
        };
        let stored = |(notification_id, originator_id, originator_version, topic, state): Columns| Stored {
            notification_id,
            originator_id,
            originator_version,
            topic,
            state,
        };
        Ok(page.into_iter().map(stored).collect())
    }
}

/// What is known of an aggregate: its type and last version.
struct Known {
    aggregate_type: String,
    version: u64,
}

/// Numbers the rows, and turns them into events.
#[derive(Default)]
struct Numbering {
    position: u64,
    aggregates: HashMap<String, Known>,
    timestamp: Timestamp,
}

/// What is taken from a JSON state.
#[derive(Default, Deserialize)]
struct State {
    /// Text, or what the library's transcoder makes of a time: `{"_type_": "datetime_iso", "_data_": "…"}`.
    #[serde(default)]
    timestamp: serde_json::Value,
    #[serde(default)]
    originator_topic: serde_json::Value,
}

impl State {
    fn timestamp(&self) -> Option<Timestamp> {
        self.timestamp.get("_data_").unwrap_or(&self.timestamp).as_str().and_then(moment)
    }
}

/// The names in a topic, `module:Outer.Class.Event`, from the last one back.
fn names(topic: &str) -> impl Iterator<Item = &str> {
    topic.rsplit_once(':').map_or(topic, |(_, names)| names).rsplit('.').filter(|name| !name.starts_with('<'))
}

fn moment(text: &str) -> Option<Timestamp> {
    let zoned = text.parse::<jiff::Timestamp>().ok();
    // A time without a zone is UTC.
    let moment = zoned.or_else(|| format!("{text}Z").parse().ok())?;
    Some(Timestamp(moment.as_microsecond()))
}

impl Numbering {
    fn event(&mut self, stored: Stored) -> Result<Event> {
        self.position += 1;
        let state: State = serde_json::from_slice(&stored.state).unwrap_or_default();
        self.timestamp = state.timestamp().unwrap_or(self.timestamp);
        let aggregate_id = Uuid::parse_str(&stored.originator_id).map_or(stored.originator_id, |id| id.to_string());
        let event_type = names(&stored.topic).next().unwrap_or_default().to_owned();
        let known = self.aggregates.entry(aggregate_id.clone()).or_insert_with(|| {
            let aggregate_type = state.originator_topic.as_str().and_then(|topic| names(topic).next()).or_else(|| names(&stored.topic).nth(1));
            Known { aggregate_type: aggregate_type.unwrap_or("Aggregate").to_owned(), version: 0 }
        });
        known.version += 1;
        let mut headers = vec![(NOTIFICATION_ID.to_owned(), stored.notification_id.to_string())];
        if u64::try_from(stored.originator_version) != Ok(known.version) {
            headers.push((ORIGINATOR_VERSION.to_owned(), stored.originator_version.to_string()));
        }
        let id = Uuid::new_v5(&NAMESPACE, format!("{aggregate_id}/{}", stored.originator_version).as_bytes());
        headers.push((TOPIC.to_owned(), stored.topic));
        let data = match Json::new(&*stored.state) {
            Ok(json) => EventData::Json(json),
            Err(_) => EventData::Protobuf(stored.state),
        };
        let metadata = EventMetadata { headers: headers.into_iter().collect(), ..EventMetadata::default() };
        let event = NewEvent { id, event_type, schema_version: 1, data, metadata, tags: Vec::new(), timestamp: None };
        let stream = StreamKey { tenant: "", aggregate_id: &aggregate_id };
        Event::from_parts(&stream, &known.aggregate_type, &event, Position(self.position), AggregateVersion(known.version), self.timestamp)
    }
}

impl Source<'_> for StoredEvents {
    fn identity(&self) -> Result<StoreIdentity> {
        Ok(StoreIdentity { store_id: NAMESPACE, epoch: 0 })
    }

    fn last_position(&self) -> Result<Option<u64>> {
        Ok(self.last)
    }

    /// Reads from the beginning, because positions, versions and types are counted.
    fn read_from(&mut self, position: u64) -> Result<Items<'_>> {
        let mut numbering = Numbering::default();
        let mut after = i64::MIN;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                let page = match self.page(after) {
                    Ok(page) => page,
                    Err(error) => return Some(Err(error)),
                };
                after = page.last()?.notification_id;
                let events: Result<Vec<HistoryItem>> = page.into_iter().map(|stored| numbering.event(stored).map(HistoryItem::Event)).collect();
                let events = events.map(|mut events| {
                    events.retain(|event| event.first().0 >= position);
                    events
                });
                if !matches!(&events, Ok(events) if events.is_empty()) {
                    return Some(events);
                }
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: i64, originator_id: &str, originator_version: i64, topic: &str, state: &str) -> Stored {
        let (originator_id, topic, state) = (originator_id.to_owned(), topic.to_owned(), state.as_bytes().to_vec());
        Stored { notification_id: number, originator_id, originator_version, topic, state }
    }

    #[test]
    fn a_row_becomes_an_event_of_its_aggregate() {
        let mut numbering = Numbering::default();
        let dog = "7a9b73cb5a944d52bbaf764253ccd786";
        let registered =
            r#"{"timestamp":{"_type_":"datetime_iso","_data_":"2026-11-24T01:49:24.247669+00:00"},"originator_topic":"zoo:Dog","name":"Fido"}"#;
        let first = numbering.event(stored(7, dog, 1, "zoo:Animal.Registered", registered)).expect("an event");
        assert_eq!((first.aggregate_id(), first.aggregate_type(), first.event_type()), ("7a9b73cb-5a94-4d52-bbaf-764253ccd786", "Dog", "Registered"));
        assert_eq!((first.position().0, first.version().0, first.timestamp().0), (1, 1, 1_795_484_964_247_669));
        assert_eq!(first.payload(), registered.as_bytes());
        let headers = first.metadata().expect("metadata").headers;
        assert_eq!((&*headers[TOPIC], &*headers[NOTIFICATION_ID], headers.get(ORIGINATOR_VERSION)), ("zoo:Animal.Registered", "7", None));

        let opaque = numbering.event(stored(9, dog, 5, "zoo:make.<locals>.Animal.Renamed", "\u{1}not JSON")).expect("an event");
        assert_eq!((opaque.aggregate_type(), opaque.event_type(), opaque.format()), ("Dog", "Renamed", eventuali::DataFormat::Protobuf));
        assert_eq!((opaque.position().0, opaque.version().0, opaque.timestamp()), (2, 2, first.timestamp()));
        assert_eq!(opaque.metadata().expect("metadata").headers[ORIGINATOR_VERSION], "5");

        let other = numbering.event(stored(10, "order-1", 1, "shop:Order.Placed", "{}")).expect("an event");
        assert_eq!((other.aggregate_id(), other.aggregate_type(), other.version().0), ("order-1", "Order", 1));
        assert_eq!(numbering.event(stored(11, "n", 1, "shop:Noted", "{}")).expect("an event").aggregate_type(), "Aggregate");
    }

    #[test]
    fn times_are_read_with_and_without_zone() {
        for text in ["2026-11-24T01:49:24.247669+00:00", "2026-11-24T02:49:24.247669+01:00", "2026-11-24T01:49:24.247669"] {
            assert_eq!(moment(text), Some(Timestamp(1_795_484_964_247_669)), "{text}");
        }
        assert_eq!(moment("yesterday"), None);
    }

    #[test]
    fn hostile_table_names_are_refused() {
        for name in ["", "a.b.c", "a\"b", "a b", ".", "a;", "stored_events; DROP TABLE x"] {
            assert!(quoted(name).is_err(), "{name}");
        }
        assert_eq!(quoted("public.dogs_events").expect("a name"), "\"public\".\"dogs_events\"");
    }
}
