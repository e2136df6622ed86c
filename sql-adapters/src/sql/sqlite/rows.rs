//! Events as SQLite's rows: how they are inserted, and how pages of them are read.

use std::borrow::Cow;
use std::fmt::Display;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use eventuali::{Error, Event, EventData, Position, Tag, Timestamp};
use futures_util::{TryStream, TryStreamExt};
use serde::Deserialize;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, ValueRef as _};
use uuid::Uuid;

use super::Trouble;
use crate::sql::database::{Of, Page, signed, unsigned};
use crate::sql::decide::Row;
use crate::sql::row::{Columns, PROTOBUF, metadata_text, tags_text};

/// How many rows one statement inserts at most: few different numbers, so that the statements are prepared once.
pub(super) const ROWS: [usize; 4] = [1, 4, 16, 64];

/// How many rows SQLite's thread is ahead of the reader.
pub(super) const ROWS_AHEAD: usize = 128;
/// Larger payloads are withheld where many rows are asked for at once: they are read in pages of a few.
const PAYLOAD_AMONG_MANY_BYTES: usize = 16 << 10;
pub(super) const FEW: u64 = 4;

/// How long the next row is waited for without sleeping.
const AWAKE: Duration = Duration::from_micros(100);

/// What is inserted beside the epoch, in the order in which it is bound, and what stands there where nothing is bound: most rows say
/// the same, and each text that is bound is copied twice.
const INSERTED: [(&str, Option<&str>); 15] = [
    ("timestamp", Some("?")),
    ("global_position", None),
    ("id", None),
    ("tenant", Some("''")),
    ("aggregate_id", None),
    ("aggregate_type", None),
    ("event_type", None),
    ("event_version", None),
    ("aggregate_version", None),
    ("event_data", None),
    ("event_data_type", Some("'json'")),
    ("event_bytes", None),
    ("metadata", Some("'{}'")),
    ("tags", None),
    ("timestamp_micros", None),
];

/// A statement that inserts so many rows at most: those that nothing was bound to are left out. If one fails the whole transaction is
/// given up, so SQLite need not be able to undo the statement alone.
pub(super) fn insert_statement(rows: usize, epoch: &str) -> String {
    let columns = INSERTED.map(|(name, _)| name).join(", ");
    let values = INSERTED.iter().zip(1..).map(|((_, otherwise), number)| match otherwise {
        Some(otherwise) => format!("ifnull(column{number}, {otherwise})"),
        None => format!("column{number}"),
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let rows = vec![format!("({})", vec!["?"; INSERTED.len()].join(", ")); rows].join(", ");
    format!(r#"INSERT OR FAIL INTO "{{table}}" (epoch, {columns}) SELECT {epoch}, {values} FROM (VALUES {rows}) WHERE column2 NOT NULL"#)
}

/// Which of the statements for several numbers of rows has room for so many.
pub(super) fn fitting(rows: usize) -> usize {
    ROWS.partition_point(|room| *room < rows)
}

pub(super) type Bound<'q> = Query<'q, sqlx::Sqlite, SqliteArguments>;

pub(super) fn bind_rows<'q>(mut insert: Bound<'q>, rows: &[Row<'_>], epoch: i64) -> Result<Bound<'q>, Trouble> {
    // Events of one group mostly have one time, and few types.
    let group = rows.first().map_or(Timestamp(0), |row| row.timestamp);
    let (group_text, group_micros) = timestamp_text(group);
    insert = insert.bind(epoch).bind(group_text);
    let (mut aggregate_types, mut event_types) = (Shared::default(), Shared::default());
    for row in rows {
        let payload = row.event.data.as_bytes();
        let (data, bytes, data_type) = match &row.event.data {
            EventData::Json(_) => (std::str::from_utf8(payload).map_err(Trouble::not_text)?, None, None),
            EventData::Protobuf(_) => ("null", Some(payload), Some(PROTOBUF)),
        };
        let (timestamp, micros) = match Some(row.timestamp).filter(|timestamp| *timestamp != group).map(timestamp_text) {
            Some((timestamp, micros)) => (Some(timestamp), micros),
            None => (None, group_micros),
        };
        insert = insert
            .bind(timestamp)
            .bind(signed(row.position))
            .bind(Arc::<str>::from(row.event.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) as &str))
            .bind(Some(row.tenant).filter(|tenant| !tenant.is_empty()))
            .bind(Arc::<str>::from(row.aggregate_id))
            .bind(aggregate_types.share(row.aggregate_type))
            .bind(event_types.share(&row.event.event_type))
            .bind(i64::from(row.event.schema_version))
            .bind(signed(row.version))
            .bind(Arc::<str>::from(data))
            .bind(data_type)
            .bind(bytes)
            .bind(Some(&row.event.metadata).filter(|metadata| !metadata.is_empty()).map(metadata_text).transpose()?)
            .bind(tags_text(&row.event.tags)?)
            .bind(micros);
    }
    Ok(insert)
}

/// A text that is shared by those who want the same one after the other.
#[derive(Default)]
struct Shared(Option<Arc<str>>);

impl Shared {
    fn share(&mut self, text: &str) -> Arc<str> {
        match &self.0 {
            Some(last) if **last == *text => Arc::clone(last),
            _ => Arc::clone(self.0.insert(text.into())),
        }
    }
}

/// What is said of an event beside its payload, as one value: to take a value of its own for each column costs more than the JSON.
#[derive(Deserialize)]
struct Facts<'r> {
    head: Option<i64>,
    position: i64,
    #[serde(borrow)]
    id: Cow<'r, str>,
    #[serde(borrow)]
    tenant: Cow<'r, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'r, str>,
    #[serde(borrow)]
    aggregate_type: Cow<'r, str>,
    #[serde(borrow)]
    event_type: Cow<'r, str>,
    schema_version: i64,
    version: i64,
    #[serde(borrow)]
    data_type: Cow<'r, str>,
    #[serde(borrow)]
    metadata: Cow<'r, str>,
    tags: Option<String>,
    #[serde(borrow)]
    timestamp: Cow<'r, str>,
    timestamp_micros: Option<i64>,
}

/// In the order of [`Facts`].
const FACTS: &str = r#"json_array((SELECT head FROM "{table}_state" WHERE id = 1), global_position, id, tenant, aggregate_id, aggregate_type, event_type,
                       event_version, aggregate_version, event_data_type, metadata, tags, timestamp, timestamp_micros)"#;

/// A statement that gives events with all that is kept of them; what they are is to be added.
pub(super) fn select_statement() -> String {
    format!(r#"SELECT {FACTS}, event_data, event_bytes FROM "{{table}}""#)
}

/// Only where the payload is so small that many such rows may wait for their reader.
fn select_among_many() -> String {
    let size = "octet_length(event_data) + ifnull(octet_length(event_bytes), 0)";
    let small = |column: &str| format!("CASE WHEN {size} <= {PAYLOAD_AMONG_MANY_BYTES} THEN {column} END");
    format!(r#"SELECT {FACTS}, {}, {} FROM "{{table}}""#, small("event_data"), small("event_bytes"))
}

/// Whether a row lacks its payload because that is large.
pub(super) fn is_withheld(row: &SqliteRow) -> sqlx::Result<bool> {
    Ok(row.try_get_raw(1)?.is_null())
}

pub(super) fn page_statement(page: &Page, among_many: bool) -> String {
    let order = if page.backwards { "DESC" } else { "ASC" };
    let select = if among_many { select_among_many() } else { select_statement() };
    match &page.of {
        Of::All { event_types, aggregate_types, include_system } => {
            let types = |column: &str, names: &[String]| {
                if names.is_empty() { String::new() } else { format!("AND {column} IN (SELECT value FROM json_each(?))") }
            };
            let (events, aggregates) = (types("event_type", event_types), types("aggregate_type", aggregate_types));
            let system = if *include_system { "" } else { "AND event_type NOT GLOB '$*'" };
            format!(
                "{select} WHERE global_position BETWEEN ? AND ? AND global_position <= ? {events} {aggregates} {system} \
                 ORDER BY global_position {order} LIMIT ?"
            )
        }
        Of::Stream { .. } => format!(
            "{select} WHERE tenant = ? AND aggregate_id = ? AND aggregate_version BETWEEN ? AND ? AND global_position <= ? \
             ORDER BY aggregate_version {order} LIMIT ?"
        ),
    }
}

impl Facts<'_> {
    /// Why the event of these facts cannot be read: somebody changed its row by hand.
    fn unreadable(&self, reason: &dyn Display) -> Trouble {
        let position = Position(unsigned(self.position));
        Trouble::Store(Error::Deserialization { position, event_type: self.event_type.clone().into_owned(), reason: reason.to_string() })
    }
}

/// Why a row's facts cannot be read.
fn not_facts(row: &[u8], error: &serde_json::Error) -> Trouble {
    match serde_json::from_str::<Facts<'_>>(&String::from_utf8_lossy(row)) {
        Ok(facts) => facts.unreadable(&"one of its columns is not UTF-8"),
        Err(_) => Trouble::Database(sqlx::Error::Decode(error.to_string().into())),
    }
}

/// The event of a row, and the last position of the store.
pub(super) fn event(row: &SqliteRow) -> Result<(Event, u64), Trouble> {
    let text: &[u8] = row.try_get_unchecked(0)?;
    let facts: Facts<'_> = serde_json::from_slice(text).map_err(|error| not_facts(text, &error))?;
    let timestamp = match facts.timestamp_micros {
        Some(micros) => micros,
        None => facts.timestamp.parse::<jiff::Timestamp>().map_err(|error| facts.unreadable(&error))?.as_microsecond(),
    };
    let tags: Vec<Tag> = match &facts.tags {
        Some(tags) => serde_json::from_str(tags).map_err(|error| facts.unreadable(&format_args!("its tags are no list of texts: {error}")))?,
        None => Vec::new(),
    };
    let columns = Columns {
        position: facts.position,
        id: Uuid::parse_str(&facts.id).map_err(|error| facts.unreadable(&format_args!("its id is no UUID: {error}")))?,
        tenant: &facts.tenant,
        aggregate_id: &facts.aggregate_id,
        aggregate_type: &facts.aggregate_type,
        event_type: &facts.event_type,
        schema_version: facts.schema_version,
        version: facts.version,
        data: row.try_get(1).map_err(|error| facts.unreadable(&error))?,
        data_type: &facts.data_type,
        bytes: row.try_get(2)?,
        metadata: &facts.metadata,
        tags,
        timestamp,
    };
    let head = facts.head.ok_or(sqlx::Error::RowNotFound)?;
    Ok((columns.into_event()?, unsigned(head)))
}

/// A moment as RFC 3339 text that sorts by time; what text has no year for is kept as a number beside it.
fn timestamp_text(timestamp: Timestamp) -> (String, Option<i64>) {
    const YEARS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
    match jiff::Timestamp::from_microsecond(timestamp.0) {
        Ok(moment) if YEARS.contains(&timestamp.0) => (format!("{moment:.6}"), None),
        _ => ((if timestamp.0 < 0 { "-infinity" } else { "infinity" }).to_owned(), Some(timestamp.0)),
    }
}

/// The next answer, which is waited for awake at first: to wake this thread for each row would cost SQLite's thread more than the rows.
pub(super) async fn soon<S: TryStream + Unpin>(answers: &mut S) -> Result<Option<S::Ok>, S::Error> {
    let start = Instant::now();
    poll_fn(|context| {
        loop {
            match answers.try_poll_next_unpin(context) {
                Poll::Pending if start.elapsed() < AWAKE => yield_now(),
                answer => return answer.map(Option::transpose),
            }
        }
    })
    .await
}
