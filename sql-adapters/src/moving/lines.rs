//! JSON lines: a store as text, one event a line, readable without this library.

use std::borrow::Cow;
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventuali::{
    AggregateVersion, DataFormat, Error, Event, EventData, EventStore, HistoryItem, Json, NewEvent, Position, Result, StoreIdentity, StreamKey, Tag,
    Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Progress;
use super::export::{Moved, move_events};
use super::source::{Items, Source, StoreSource};
use crate::config::Store;
use crate::sql::row::Metadata;

/// The first line: of which store the events are.
#[derive(Serialize, Deserialize)]
struct Head {
    eventuali_json_lines: u32,
    store_id: Uuid,
    epoch: u32,
}

/// The version of the lines' form, and the oldest one that is read: in that one nothing is left out.
const VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;

/// Positions at which nothing is left: the first and the last one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeftOut {
    left_out: (u64, u64),
}

/// An event.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    position: u64,
    event_id: Uuid,
    #[serde(default, skip_serializing_if = "str::is_empty", borrow)]
    tenant: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    aggregate_version: u64,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(default = "first_version")]
    event_version: u32,
    /// Microseconds since 1970-01-01 UTC.
    timestamp_micros: i64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty", borrow)]
    metadata: Metadata<'a>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Tag>,
    /// A JSON payload as it is, if it has no line breaks.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    /// The text of a JSON payload that has line breaks.
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    data_text: Option<Cow<'a, str>>,
    /// A Protobuf payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

fn first_version() -> u32 {
    1
}

/// A payload that is there, also if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn io(operation: &str, error: &std::io::Error) -> Error {
    Error::Serialization { reason: format!("the JSON lines cannot be {operation}: {error}") }
}

/// Writes every event of a store as JSON lines, once it is durable: a line with the store's id and epoch, then one for each event, in the order
/// of their positions. JSON payloads keep every byte. Where events are left out that were deleted or limited, a line has the first and the last
/// of their positions.
///
/// # Errors
/// Those of reading the store; [`Serialization`](Error::Serialization) if the lines cannot be written.
///
/// ```
/// use std::ops::ControlFlow;
/// use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent};
/// use eventuali_sql::{Config, export_json_lines, import_json_lines};
///
/// let store = LogStore::memory()?;
/// let placed = NewEvent::json("OrderPlaced", &serde_json::json!({"total": 12}))?;
/// store.append(AppendBatch::one("order-42", "Order", ExpectedVersion::NoStream, vec![placed])).wait()?;
///
/// let mut lines = Vec::new();
/// export_json_lines(&store, &mut lines, |_| ControlFlow::Continue(()))?;
/// assert!(String::from_utf8_lossy(&lines).contains(r#""data":{"total":12}"#));
///
/// let copy = Config::memory().open()?;
/// let moved = import_json_lines(&mut &lines[..], &copy, |_| ControlFlow::Continue(()))?;
/// assert_eq!(moved.position.0, 1);
/// # Ok::<(), eventuali::Error>(())
/// ```
pub fn export_json_lines(source: &dyn EventStore, lines: &mut dyn Write, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Moved> {
    let start = Instant::now();
    let mut source = StoreSource::whole(source);
    let (identity, last_position) = (source.identity()?, source.last_position()?);
    let mut write = |line: &dyn erased::Line| -> Result<()> {
        line.write(lines)?;
        lines.write_all(b"\n").map_err(|error| io("written", &error))
    };
    write(&Head { eventuali_json_lines: VERSION, store_id: identity.store_id, epoch: identity.epoch })?;
    let (mut events, mut position, mut complete) = (0, 0, true);
    for batch in source.read_from(1)? {
        for item in &batch? {
            match item {
                HistoryItem::Event(event) => {
                    write_event(event, &mut write)?;
                    events += 1;
                }
                HistoryItem::LeftOut { first, last } => write(&LeftOut { left_out: (first.0, last.0) })?,
            }
            position = item.last().0;
        }
        if progress(&Progress { position, last_position, events, elapsed: start.elapsed() }).is_break() {
            complete = false;
            break;
        }
    }
    lines.flush().map_err(|error| io("written", &error))?;
    Ok(Moved { events, position: Position(position), complete })
}

/// A line of either kind, whose type `write` need not know.
mod erased {
    use std::io::Write;

    use eventuali::{Error, Result};
    use serde::Serialize;

    pub(super) trait Line {
        fn write(&self, out: &mut dyn Write) -> Result<()>;
    }

    impl<T: Serialize> Line for T {
        fn write(&self, out: &mut dyn Write) -> Result<()> {
            serde_json::to_writer(out, self).map_err(|error| Error::Serialization { reason: format!("the JSON lines cannot be written: {error}") })
        }
    }
}

fn write_event(event: &Event, write: &mut dyn FnMut(&dyn erased::Line) -> Result<()>) -> Result<()> {
    let (metadata, tags) = if event.has_extras() { (event.metadata()?, event.tags()?) } else { Default::default() };
    let payload = event.payload();
    let (mut data, mut data_text, mut data_base64) = (None, None, None);
    match event.format() {
        DataFormat::Protobuf => data_base64 = Some(STANDARD.encode(payload)),
        DataFormat::Json => {
            let text = std::str::from_utf8(payload).map_err(|error| Error::Deserialization {
                position: event.position(),
                event_type: event.event_type().to_owned(),
                reason: format!("its payload is not UTF-8: {error}"),
            })?;
            match serde_json::from_str::<&RawValue>(text) {
                // White space around a value is not part of it.
                Ok(raw) if raw.get().len() == text.len() && !text.contains(['\n', '\r']) => data = Some(raw),
                _ => data_text = Some(Cow::Borrowed(text)),
            }
        }
    }
    write(&Line {
        position: event.position().0,
        event_id: event.id(),
        tenant: Cow::Borrowed(event.tenant()),
        aggregate_id: Cow::Borrowed(event.aggregate_id()),
        aggregate_type: Cow::Borrowed(event.aggregate_type()),
        aggregate_version: event.version().0,
        event_type: Cow::Borrowed(event.event_type()),
        event_version: event.schema_version(),
        timestamp_micros: event.timestamp().0,
        metadata: Metadata::of(&metadata),
        tags,
        data,
        data_text,
        data_base64,
    })
}

/// Moves the events of JSON lines, as [`export_json_lines`] writes them, into a store; what it has of them already is passed over.
/// The first line may be missing: then the store has no name, and only its events tell whose they are.
///
/// # Errors
/// [`Diverged`](Error::Diverged) if the target holds other events; [`Serialization`](Error::Serialization) with the number of a line
/// that is not an event. What stands before that line may have been stored.
pub fn import_json_lines(lines: &mut dyn BufRead, target: &Store, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Moved> {
    let mut source = Lines { text: lines, number: 0, identity: None, pending: None };
    source.read_head()?;
    move_events(&mut source, target, progress)
}

struct Lines<'a> {
    text: &'a mut dyn BufRead,
    number: u64,
    identity: Option<StoreIdentity>,
    /// A line that was read in search of the head and is an event.
    pending: Option<String>,
}

/// How many events are handed on at once.
const BATCH: usize = 1024;

impl Lines<'_> {
    fn read_head(&mut self) -> Result<()> {
        let Some(line) = self.line()? else { return Ok(()) };
        if let Ok(head) = serde_json::from_str::<Head>(&line) {
            if !(OLDEST_VERSION..=VERSION).contains(&head.eventuali_json_lines) {
                let found = head.eventuali_json_lines;
                return Err(self.refuse(&format!("its form is version {found}, and this release knows {OLDEST_VERSION} to {VERSION}")));
            }
            self.identity = Some(StoreIdentity { store_id: head.store_id, epoch: head.epoch });
        } else {
            self.pending = Some(line);
        }
        Ok(())
    }

    /// The next line that is not empty.
    fn line(&mut self) -> Result<Option<String>> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        loop {
            let mut line = String::new();
            self.number += 1;
            if self.text.read_line(&mut line).map_err(|error| io("read", &error))? == 0 {
                return Ok(None);
            }
            line.truncate(line.trim_end().len());
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn refuse(&self, reason: &str) -> Error {
        Error::Serialization { reason: format!("line {} is no event: {reason}", self.number) }
    }

    /// What a line has, which is behind the last line's.
    fn item_at(&self, next: &mut Option<u64>, line: &str) -> Result<HistoryItem> {
        let item = self.item(line)?;
        let position = item.first().0;
        match next.replace(item.last().0.saturating_add(1)) {
            Some(expected) if position > expected => Err(self.refuse(&format!("position {expected} is missing before it"))),
            Some(expected) if position < expected => Err(self.refuse(&format!("it has position {position}, which is not behind the line before"))),
            _ => Ok(item),
        }
    }

    fn item(&self, line: &str) -> Result<HistoryItem> {
        if let Ok(LeftOut { left_out: (first, last) }) = serde_json::from_str(line) {
            if first == 0 || first > last {
                return Err(self.refuse(&format!("it leaves out the positions {first} to {last}, which are none")));
            }
            return Ok(HistoryItem::LeftOut { first: Position(first), last: Position(last) });
        }
        self.event(line).map(HistoryItem::Event)
    }

    fn event(&self, line: &str) -> Result<Event> {
        let line: Line<'_> = serde_json::from_str(line).map_err(|error| {
            let (text, column) = (error.to_string(), error.column());
            // It counts the lines of this one.
            let what = text.rsplit_once(" at line ").map_or(&*text, |(what, _)| what);
            self.refuse(&format!("{what} (column {column})"))
        })?;
        let data = match (line.data, line.data_text, line.data_base64) {
            (Some(raw), None, None) => EventData::Json(Json::new(raw.get())?),
            (None, Some(text), None) => EventData::Json(Json::new(text.into_owned())?),
            (None, None, Some(bytes)) => EventData::Protobuf(STANDARD.decode(bytes).map_err(|error| self.refuse(&error.to_string()))?),
            _ => return Err(self.refuse("it has none or more than one of data, data_text and data_base64")),
        };
        let event = NewEvent {
            id: line.event_id,
            event_type: line.event_type.into_owned(),
            schema_version: line.event_version,
            data,
            metadata: line.metadata.into_metadata(),
            tags: line.tags,
            timestamp: None,
        };
        let stream = StreamKey { tenant: &line.tenant, aggregate_id: &line.aggregate_id };
        let (position, version) = (Position(line.position), AggregateVersion(line.aggregate_version));
        Event::from_parts(&stream, &line.aggregate_type, &event, position, version, Timestamp(line.timestamp_micros))
    }
}

impl Source<'_> for Lines<'_> {
    fn identity(&self) -> Result<StoreIdentity> {
        Ok(self.identity.unwrap_or(StoreIdentity { store_id: Uuid::nil(), epoch: 0 }))
    }

    fn last_position(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn reads_again(&self) -> bool {
        false
    }

    fn read_from(&mut self, position: u64) -> Result<Items<'_>> {
        // Lines may begin behind the first event only where the target has what comes before.
        let mut next = (position == 1).then_some(1);
        Ok(Box::new(std::iter::from_fn(move || {
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                match self.line().and_then(|line| line.map(|line| self.item_at(&mut next, &line)).transpose()) {
                    Ok(Some(item)) if item.last().0 < position => {}
                    Ok(Some(item)) => batch.push(item),
                    Ok(None) => break,
                    Err(error) => return Some(Err(error)),
                }
            }
            (!batch.is_empty()).then_some(Ok(batch))
        })))
    }
}
