//! The events that are appended.

use std::path::Path;

use eventuali::{AppendBatch, Durability, EventData, EventStore, ExpectedVersion, Json, LogStore, NewEvent, OpenOptions};
use uuid::Uuid;

use crate::Result;
use crate::bare::layout;

/// The payload of a small event, in bytes.
pub const PAYLOAD_BYTES: usize = 200;

const AGGREGATE_TYPE: &str = "Account";
const EVENT_TYPE: &str = "MoneyDeposited";

/// How event ids are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// UUID v7: they grow with time, as those of `NewEvent` do.
    Growing,
    /// UUID v4: no order at all.
    Random,
}

/// Names an aggregate: always 15 bytes.
#[must_use]
pub fn aggregate_id(number: usize) -> String {
    format!("account-{number:07}")
}

/// One event with a JSON payload of so many bytes (2 at least).
#[must_use]
pub fn event(payload_bytes: usize, ids: Ids) -> NewEvent {
    let mut json = Vec::with_capacity(payload_bytes);
    json.push(b'"');
    json.resize(payload_bytes - 1, b'x');
    json.push(b'"');
    let mut event = NewEvent::new(EVENT_TYPE, EventData::Json(Json::from_serializer(json)));
    if ids == Ids::Random {
        event.id = Uuid::new_v4();
    }
    event
}

/// A batch of `events` events of one aggregate.
#[must_use]
pub fn batch(aggregate: usize, events: usize, payload_bytes: usize, ids: Ids) -> AppendBatch {
    let events = (0..events).map(|_| event(payload_bytes, ids)).collect();
    AppendBatch::one(aggregate_id(aggregate), AGGREGATE_TYPE, ExpectedVersion::Any, events)
}

/// Small events, `events` in each of `batches` batches, over `aggregates` aggregates in turn.
#[must_use]
pub fn batches(batches: usize, events: usize, aggregates: usize) -> Vec<AppendBatch> {
    (0..batches).map(|number| batch(number % aggregates, events, PAYLOAD_BYTES, Ids::Growing)).collect()
}

/// How long a frame of `events` such events is on disk.
#[must_use]
pub fn frame_bytes(events: usize, payload_bytes: usize) -> usize {
    let body = layout::BODY_NAMES + aggregate_id(0).len() + AGGREGATE_TYPE.len() + EVENT_TYPE.len() + payload_bytes;
    (layout::HEADER_BYTES + events * (layout::ENTRY_BYTES + body)).next_multiple_of(layout::ALIGN)
}

/// A store to be filled and read: how many events, in what batches, of how many aggregates.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many events.
    pub events: usize,
    /// How many an append has.
    pub batch: usize,
    /// How many aggregates they belong to, in turn.
    pub aggregates: usize,
    /// The payload of each.
    pub payload_bytes: usize,
    /// How their ids are given out.
    pub ids: Ids,
}

/// Fills a store of this shape and closes it in order.
///
/// # Errors
/// Those of the store.
pub fn fill(path: &Path, shape: Shape) -> Result<()> {
    let store = open(path, Durability::Os)?;
    for number in 0..shape.events / shape.batch {
        store.append(batch(number % shape.aggregates, shape.batch, shape.payload_bytes, shape.ids)).wait()?;
    }
    store.close().wait()?;
    Ok(())
}

/// Opens or creates the store in a directory.
///
/// # Errors
/// Those of opening.
pub fn open(path: &Path, durability: Durability) -> Result<LogStore> {
    Ok(OpenOptions::new().durability(durability).open(path)?)
}
