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
use sqlx::Row as _;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use uuid::Uuid;

use super::{Trouble, as_json};
use crate::sql::database::{Collected, Found, Of, Outline, PAGE_BYTES, Page, signed, unsigned};
use crate::sql::decide::Row;
use crate::sql::leaving::IS_THERE;
use crate::sql::row::{Columns, JSON, PROTOBUF, metadata_text, tags_text};

/// How many rows one statement inserts at most: few different numbers, so that the statements are prepared once.
pub(super) const ROWS: [usize; 4] = [1, 4, 16, 64];

/// Events with larger payloads are read row by row, a few in a page.
const PAYLOAD_IN_BLOCK_BYTES: usize = 16 << 10;

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
    payload_bytes: usize,
}

/// In the order of [`Facts`].
const FACTS: &str = "json_array(global_position, id, tenant, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, \
                     event_data_type, metadata, tags, timestamp, timestamp_micros, octet_length(ifnull(event_bytes, event_data)))";
/// Bytes stand in a column of their own; in the other one there is `null` then.
const PAYLOAD: &str = "ifnull(event_bytes, event_data)";
const HEAD: &str = r#"(SELECT head FROM "{table}_state" WHERE id = 1)"#;

/// A statement that gives events with all that is kept of them, each as a row; what they are is to be added.
pub(super) fn select_statement() -> String {
    format!(r#"SELECT {HEAD}, {FACTS}, {PAYLOAD} FROM "{{table}}""#)
}

/// A statement that gives a page of events, each as a row.
pub(super) fn rows_statement(page: &Page) -> String {
    format!("{} {}", select_statement(), condition(page))
}

/// A statement that gives a page of events as one row: the facts of all of them, and their payloads, one behind the other. A row of its
/// own for each event would be copied several times, and handed from thread to thread. In place of an event whose payload is so large
/// that it must not wait for others there is `null`; nothing is read of it but its size.
pub(super) fn block_statement(page: &Page) -> String {
    let is_small = format!("octet_length({PAYLOAD}) <= {PAYLOAD_IN_BLOCK_BYTES}");
    format!(
        r#"SELECT {HEAD}, group_concat(facts, char(10)), group_concat(payload, ''), count(*), count(payload) FROM
           (SELECT iif({is_small}, {FACTS}, 'null') AS facts, iif({is_small}, {PAYLOAD}, NULL) AS payload FROM "{{table}}" {})"#,
        condition(page)
    )
}

/// Binds what the condition of a page asks for.
pub(super) fn bind_page<'q>(mut query: Bound<'q>, page: &'q Page) -> Result<Bound<'q>, Error> {
    if let Of::Stream { tenant, aggregate_id } = &page.of {
        query = query.bind(&**tenant).bind(&**aggregate_id);
    }
    query = query.bind(signed(page.from)).bind(signed(page.to)).bind(signed(page.head));
    if let Of::All { event_types, aggregate_types, .. } = &page.of {
        for names in [event_types, aggregate_types].into_iter().filter(|names| !names.is_empty()) {
            query = query.bind(as_json(names)?);
        }
    }
    Ok(query.bind(signed(page.limit)))
}

/// Which events a page has, in their order. A limit that is a value alone would make SQLite prepare the statement again each time.
fn condition(page: &Page) -> String {
    let order = if page.backwards { "DESC" } else { "ASC" };
    match &page.of {
        Of::All { event_types, aggregate_types, include_system } => {
            let types = |column: &str, names: &[String]| {
                if names.is_empty() { String::new() } else { format!("AND {column} IN (SELECT value FROM json_each(?))") }
            };
            let (events, aggregates) = (types("event_type", event_types), types("aggregate_type", aggregate_types));
            let system = match (*include_system, event_types.is_empty()) {
                (false, _) => "AND event_type NOT GLOB '$*'",
                (true, true) => IS_THERE,
                (true, false) => "",
            };
            format!(
                "WHERE global_position BETWEEN ? AND ? AND global_position <= ? {events} {aggregates} {system} \
                 ORDER BY global_position {order} LIMIT ? + 0"
            )
        }
        Of::Stream { .. } => format!(
            "WHERE tenant = ? AND aggregate_id = ? AND aggregate_version BETWEEN ? AND ? AND global_position <= ? \
             {IS_THERE} ORDER BY aggregate_version {order} LIMIT ? + 0"
        ),
    }
}

impl Facts<'_> {
    /// Why the event of these facts cannot be read: somebody changed its row by hand.
    fn unreadable(&self, reason: &dyn Display) -> Trouble {
        let position = Position(unsigned(self.position));
        Trouble::Store(Error::Deserialization { position, event_type: self.event_type.clone().into_owned(), reason: reason.to_string() })
    }

    fn into_event(self, payload: &[u8]) -> Result<Event, Trouble> {
        let timestamp = match self.timestamp_micros {
            Some(micros) => micros,
            None => self.timestamp.parse::<jiff::Timestamp>().map_err(|error| self.unreadable(&error))?.as_microsecond(),
        };
        let tags: Vec<Tag> = match &self.tags {
            Some(tags) => serde_json::from_str(tags).map_err(|error| self.unreadable(&format_args!("its tags are no list of texts: {error}")))?,
            None => Vec::new(),
        };
        if self.data_type == JSON {
            std::str::from_utf8(payload).map_err(|error| self.unreadable(&error))?;
        }
        let columns = Columns {
            position: self.position,
            id: Uuid::parse_str(&self.id).map_err(|error| self.unreadable(&format_args!("its id is no UUID: {error}")))?,
            tenant: &self.tenant,
            aggregate_id: &self.aggregate_id,
            aggregate_type: &self.aggregate_type,
            event_type: &self.event_type,
            schema_version: self.schema_version,
            version: self.version,
            data_type: &self.data_type,
            payload,
            metadata: &self.metadata,
            tags,
            timestamp,
        };
        Ok(columns.into_event()?)
    }
}

/// Why a row's facts cannot be read.
fn not_facts(row: &[u8], error: &serde_json::Error) -> Trouble {
    match serde_json::from_str::<Facts<'_>>(&String::from_utf8_lossy(row)) {
        Ok(facts) => facts.unreadable(&"one of its columns is not UTF-8"),
        Err(_) => Trouble::Database(sqlx::Error::Decode(error.to_string().into())),
    }
}

fn head(row: &SqliteRow) -> sqlx::Result<u64> {
    row.try_get::<Option<i64>, _>(0)?.map(unsigned).ok_or(sqlx::Error::RowNotFound)
}

/// The event of a row, and the last position of the store.
pub(super) fn event(row: &SqliteRow) -> Result<(Event, u64), Trouble> {
    let text: &[u8] = row.try_get_unchecked(1)?;
    let facts: Facts<'_> = serde_json::from_slice(text).map_err(|error| not_facts(text, &error))?;
    Ok((facts.into_event(row.try_get_unchecked(2)?)?, head(row)?))
}

/// What can be told of a page that came as one row, if nothing is left out of it.
pub(super) fn outline(row: &SqliteRow, page: &Page) -> sqlx::Result<Option<Outline>> {
    let (events, whole): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
    let payload_bytes = payloads(row)?.len();
    if whole < events || payload_bytes >= PAGE_BYTES {
        return Ok(None);
    }
    // A line of JSON has no line within.
    let last = facts(row)?.rsplit(|byte| *byte == b'\n').next().filter(|last| !last.is_empty());
    let last = last.map(serde_json::from_slice::<Facts<'_>>).transpose().map_err(|error| sqlx::Error::Decode(error.into()))?;
    let place = |facts: Facts<'_>| if matches!(page.of, Of::All { .. }) { facts.position } else { facts.version };
    let (events, last) = (unsigned(events), last.map(|facts| unsigned(place(facts))));
    Ok(Some(Outline { events, payload_bytes, last, head: head(row)?, full: events >= page.limit }))
}

fn facts(row: &SqliteRow) -> sqlx::Result<&[u8]> {
    Ok(row.try_get_unchecked::<Option<_>, _>(1)?.unwrap_or_default())
}

fn payloads(row: &SqliteRow) -> sqlx::Result<&[u8]> {
    Ok(row.try_get_unchecked::<Option<_>, _>(2)?.unwrap_or_default())
}

/// The events of a page that came as one row, up to the first one that must be read by itself, as one must be whose row cannot be read.
pub(super) fn events(row: &SqliteRow, page: &Page) -> Result<Found, Trouble> {
    let mut payloads = payloads(row)?;
    let mut collected = Collected::new(page);
    for facts in serde_json::Deserializer::from_slice(facts(row)?).into_iter::<Option<Facts<'_>>>() {
        let event = facts.ok().flatten().and_then(|facts| {
            let payload = payloads.split_off(..facts.payload_bytes)?;
            facts.into_event(payload).ok()
        });
        let Some(event) = event else {
            collected.end_here();
            break;
        };
        if !collected.push(event, head(row)?) {
            break;
        }
    }
    Ok(collected.found())
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
