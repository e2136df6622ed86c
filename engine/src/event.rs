//! Events: what is appended ([`NewEvent`]), what is read back ([`Event`]), and their parts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{Body, BodyLayout};
use crate::error::{Error, Result};
use crate::retention::SYSTEM;
use crate::version::{AggregateVersion, Position};

/// A moment in microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The present, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(micros(since)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let span = Duration::from_micros(time.0.unsigned_abs());
        if time.0 < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
    }
}

/// Bytes that are known to be one JSON value in UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Vec<u8>);

impl Json {
    /// Checks that `bytes` are one JSON value, and keeps them to the last byte.
    ///
    /// # Errors
    /// [`Error::Serialization`] if they are not JSON; nothing is not JSON either.
    ///
    /// ```
    /// use eventuali::Json;
    /// assert_eq!(Json::new(b"{\"a\": 1.0}".to_vec())?.as_bytes(), b"{\"a\": 1.0}");
    /// assert!(Json::new(b"{'a': 1}".to_vec()).is_err());
    /// # Ok::<(), eventuali::Error>(())
    /// ```
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        let text = std::str::from_utf8(&bytes).map_err(|error| Error::Serialization { reason: format!("it is not UTF-8: {error}") })?;
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| Error::Serialization { reason: format!("it is not JSON: {error}") })?;
        Ok(Self(bytes))
    }

    /// Turns a value into JSON.
    ///
    /// # Errors
    /// [`Error::Serialization`] with serde's reason.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        serde_json::to_vec(value).map(Self).map_err(|error| Error::Serialization { reason: error.to_string() })
    }

    /// Takes bytes that a JSON serializer has just made, without reading them again.
    ///
    /// The caller vouches for them: bytes that are not JSON would be stored and refused by every reader.
    #[must_use]
    pub fn from_serializer(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// The payload of a new event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventData {
    /// One JSON value: readable everywhere, also in SQL.
    Json(Json),
    /// A Protobuf message's bytes: smaller, but opaque without its schema. No bytes are a valid message.
    Protobuf(Vec<u8>),
}

impl EventData {
    /// A JSON payload from anything serde can serialize.
    ///
    /// # Errors
    /// [`Error::Serialization`] with serde's reason.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Json::from_value(value).map(Self::Json)
    }

    /// The payload's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Json(json) => json.as_bytes(),
            Self::Protobuf(bytes) => bytes,
        }
    }

    /// How the bytes are to be read.
    #[must_use]
    pub fn format(&self) -> DataFormat {
        match self {
            Self::Json(_) => DataFormat::Json,
            Self::Protobuf(_) => DataFormat::Protobuf,
        }
    }
}

/// How the bytes of a stored payload are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataFormat {
    /// One JSON value.
    Json,
    /// A Protobuf message.
    Protobuf,
}

/// What is known about an event beside its payload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventMetadata {
    /// The id of the message that caused this event.
    pub causation_id: Option<String>,
    /// The id of the conversation that this event belongs to.
    pub correlation_id: Option<String>,
    /// Who did it.
    pub user_id: Option<String>,
    /// Anything else, by name.
    pub headers: BTreeMap<String, String>,
}

impl EventMetadata {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { causation_id, correlation_id, user_id, headers } = self;
        causation_id.is_none() && correlation_id.is_none() && user_id.is_none() && headers.is_empty()
    }
}

/// A label of an event, such as `course:7`, by which it can be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag(pub String);

/// An event that is not stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Given by the writer, unique in the store: what makes a repeated append safe.
    pub id: Uuid,
    /// What happened, such as `OrderPlaced`.
    pub event_type: String,
    /// The version of the payload's schema.
    pub schema_version: u32,
    /// The payload.
    pub data: EventData,
    /// Causation, correlation, user, headers.
    pub metadata: EventMetadata,
    /// Labels to find it by.
    pub tags: Vec<Tag>,
    /// When it happened; the time of the commit if `None`.
    pub timestamp: Option<Timestamp>,
}

impl NewEvent {
    /// An event with a fresh id (UUID v7), schema version 1, and neither metadata nor tags.
    #[must_use]
    pub fn new(event_type: impl Into<String>, data: EventData) -> Self {
        Self {
            id: Uuid::now_v7(),
            event_type: event_type.into(),
            schema_version: 1,
            data,
            metadata: EventMetadata::default(),
            tags: Vec::new(),
            timestamp: None,
        }
    }

    /// An event with a JSON payload from anything serde can serialize.
    ///
    /// # Errors
    /// [`Error::Serialization`] with serde's reason.
    ///
    /// ```
    /// let event = eventuali::NewEvent::json("OrderPlaced", &serde_json::json!({"total": 12}))?;
    /// assert_eq!(event.data.as_bytes(), br#"{"total":12}"#);
    /// # Ok::<(), eventuali::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(event_type: impl Into<String>, payload: &T) -> Result<Self> {
        Ok(Self::new(event_type, EventData::json(payload)?))
    }
}

/// A stored event: a view into the bytes that were read, verified, and not yet parsed.
///
/// Cloning it is cheap. It keeps the block it was read with alive (up to 256 KiB); [`Event::detach`] gives one that keeps
/// only itself.
#[derive(Clone)]
pub struct Event {
    pub(crate) block: Arc<[u8]>,
    pub(crate) body: BodyLayout,
    pub(crate) position: Position,
    pub(crate) version: AggregateVersion,
    pub(crate) timestamp: Timestamp,
}

impl Event {
    /// Builds a stored event from its parts, as a store that keeps columns does; also one of a store's own, whose names begin with `$`.
    ///
    /// # Errors
    /// Those of an append: a name or size beyond the limits.
    pub fn from_parts(
        stream: &StreamKey<'_>,
        aggregate_type: &str,
        event: &NewEvent,
        position: Position,
        version: AggregateVersion,
        timestamp: Timestamp,
    ) -> Result<Self> {
        let mut bytes = Vec::with_capacity(event.data.as_bytes().len() + 256);
        let is_own = stream.tenant.is_empty() && stream.aggregate_id.starts_with(SYSTEM) && aggregate_type == SYSTEM;
        if is_own && event.event_type.starts_with(SYSTEM) {
            Body::encode_system(&mut bytes, stream.aggregate_id, event)?;
        } else {
            Body::encode(&mut bytes, stream, aggregate_type, event, None)?;
        }
        let body = BodyLayout::parse(&bytes, 0, bytes.len()).map_err(|reason| Error::Serialization { reason: reason.to_owned() })?;
        Ok(Self { block: bytes.into(), body, position, version, timestamp })
    }

    /// Whether `body` is an encoded body with the same types, schema version and payload; metadata and tags do not count.
    pub(crate) fn has_same_content(&self, body: &[u8]) -> bool {
        fn content(body: Body<'_>) -> (&str, &str, u32, DataFormat, &[u8]) {
            (body.aggregate_type(), body.event_type(), body.schema_version(), body.format(), body.payload())
        }
        BodyLayout::parse(body, 0, body.len()).is_ok_and(|layout| content(self.parts()) == content(layout.of(body)))
    }

    /// Its types as bytes: who looks at many events need not check again that they are text.
    pub(crate) fn types(&self) -> (&[u8], &[u8]) {
        self.parts().types()
    }

    /// Its record body.
    pub(crate) fn body_bytes(&self) -> &[u8] {
        self.body.bytes(&self.block)
    }

    fn parts(&self) -> Body<'_> {
        self.body.of(&self.block)
    }

    /// Its place in the whole store.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its place within its aggregate.
    #[must_use]
    pub fn version(&self) -> AggregateVersion {
        self.version
    }

    /// When it happened, as its writer said, or when it was committed.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.parts().id()
    }

    /// The tenant of its stream; empty if none was given.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.parts().tenant()
    }

    /// The aggregate it belongs to.
    #[must_use]
    pub fn aggregate_id(&self) -> &str {
        self.parts().aggregate_id()
    }

    /// The type of that aggregate.
    #[must_use]
    pub fn aggregate_type(&self) -> &str {
        self.parts().aggregate_type()
    }

    /// What happened.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.parts().event_type()
    }

    /// The version of the payload's schema.
    #[must_use]
    pub fn schema_version(&self) -> u32 {
        self.parts().schema_version()
    }

    /// How the payload's bytes are to be read.
    #[must_use]
    pub fn format(&self) -> DataFormat {
        self.parts().format()
    }

    /// The payload's bytes, exactly as they were appended.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.parts().payload()
    }

    /// The payload as a value.
    ///
    /// # Errors
    /// [`Error::Deserialization`] if it is not JSON or does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let fail = |reason: String| Error::Deserialization { position: self.position, event_type: self.event_type().to_owned(), reason };
        match self.format() {
            DataFormat::Json => serde_json::from_slice(self.payload()).map_err(|error| fail(error.to_string())),
            DataFormat::Protobuf => Err(fail("its payload is Protobuf, not JSON".to_owned())),
        }
    }

    /// Whether it carries any metadata or tags (reading them costs a decode).
    #[must_use]
    pub fn has_extras(&self) -> bool {
        self.parts().has_extras()
    }

    /// Causation, correlation, user, headers.
    ///
    /// # Errors
    /// [`Error::Deserialization`] if what is stored cannot be decoded.
    pub fn metadata(&self) -> Result<EventMetadata> {
        self.extras().map(|(metadata, _)| metadata)
    }

    /// Its labels.
    ///
    /// # Errors
    /// [`Error::Deserialization`] if what is stored cannot be decoded.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        self.extras().map(|(_, tags)| tags)
    }

    fn extras(&self) -> Result<(EventMetadata, Vec<Tag>)> {
        self.parts().extras().map_err(|reason| Error::Deserialization { position: self.position, event_type: self.event_type().to_owned(), reason })
    }

    /// The same event in a block of its own, so that keeping it keeps nothing else in memory.
    #[must_use]
    pub fn detach(&self) -> Self {
        let bytes = self.body.bytes(&self.block);
        Self { block: bytes.into(), body: self.body.moved_to(0), ..*self }
    }
}

impl PartialEq for Event {
    /// Equal if every stored byte, the position, version and timestamp are equal.
    fn eq(&self, other: &Self) -> bool {
        (self.position, self.version, self.timestamp) == (other.position, other.version, other.timestamp)
            && self.body.bytes(&self.block) == other.body.bytes(&other.block)
    }
}

impl Eq for Event {}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("position", &self.position.0)
            .field("aggregate_id", &self.aggregate_id())
            .field("version", &self.version.0)
            .field("event_type", &self.event_type())
            .field("payload", &String::from_utf8_lossy(&self.payload()[..self.payload().len().min(200)]))
            .finish_non_exhaustive()
    }
}

/// Names one stream: the events of one aggregate of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamKey<'a> {
    /// The tenant; empty if tenants are not used.
    pub tenant: &'a str,
    /// The aggregate.
    pub aggregate_id: &'a str,
}

impl<'a> From<&'a str> for StreamKey<'a> {
    fn from(aggregate_id: &'a str) -> Self {
        Self { tenant: "", aggregate_id }
    }
}
