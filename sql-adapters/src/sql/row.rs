//! Events as rows: what the columns hold that databases have no type for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use eventuali::{AggregateVersion, Error, Event, EventData, EventMetadata, Json, NewEvent, Position, Result, StreamKey, Tag, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::leaving::{LEFT_OUT, SYSTEM};

/// What `event_data_type` says.
pub(crate) const JSON: &str = "json";
pub(crate) const PROTOBUF: &str = "protobuf";

/// The `metadata` column: an object with what is set.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Metadata<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl Metadata<'_> {
    pub(crate) fn of(metadata: &EventMetadata) -> Metadata<'_> {
        Metadata {
            causation_id: metadata.causation_id.as_deref().map(Cow::Borrowed),
            correlation_id: metadata.correlation_id.as_deref().map(Cow::Borrowed),
            user_id: metadata.user_id.as_deref().map(Cow::Borrowed),
            headers: metadata.headers.iter().map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value))).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.causation_id.is_none() && self.correlation_id.is_none() && self.user_id.is_none() && self.headers.is_empty()
    }

    pub(crate) fn into_metadata(self) -> EventMetadata {
        EventMetadata {
            causation_id: self.causation_id.map(Cow::into_owned),
            correlation_id: self.correlation_id.map(Cow::into_owned),
            user_id: self.user_id.map(Cow::into_owned),
            headers: self.headers.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        }
    }
}

/// An event's metadata as JSON text; `{}` if nothing is set.
pub(crate) fn metadata_text(metadata: &EventMetadata) -> Result<String> {
    if metadata.is_empty() {
        return Ok("{}".to_owned());
    }
    serde_json::to_string(&Metadata::of(metadata)).map_err(|error| Error::Serialization { reason: error.to_string() })
}

fn metadata_of(text: &str) -> std::result::Result<EventMetadata, serde_json::Error> {
    if text == "{}" {
        return Ok(EventMetadata::default());
    }
    serde_json::from_str::<Metadata<'_>>(text).map(Metadata::into_metadata)
}

/// The `tags` column of a database without arrays: a JSON array, or NULL where there are none.
pub(crate) fn tags_text(tags: &[Tag]) -> Result<Option<String>> {
    if tags.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(tags).map(Some).map_err(|error| Error::Serialization { reason: error.to_string() })
}

/// What the columns of a row say.
pub(crate) struct Columns<'r> {
    pub(crate) position: i64,
    pub(crate) id: Uuid,
    pub(crate) tenant: &'r str,
    pub(crate) aggregate_id: &'r str,
    pub(crate) aggregate_type: &'r str,
    pub(crate) event_type: &'r str,
    pub(crate) schema_version: i64,
    pub(crate) version: i64,
    pub(crate) data_type: &'r str,
    pub(crate) payload: &'r [u8],
    pub(crate) metadata: &'r str,
    pub(crate) timestamp: i64,
    pub(crate) tags: Vec<Tag>,
}

impl Columns<'_> {
    pub(crate) fn into_event(self) -> Result<Event> {
        let position = Position(u64::try_from(self.position).unwrap_or(0));
        let fail = |reason: String| Error::Deserialization { position, event_type: self.event_type.to_owned(), reason };
        let data = match self.data_type {
            JSON => EventData::Json(Json::from_serializer(self.payload.to_vec())),
            PROTOBUF => EventData::Protobuf(self.payload.to_vec()),
            other => return Err(fail(format!("its event_data_type is {other:?}, which this release does not know"))),
        };
        let event = NewEvent {
            id: self.id,
            event_type: self.event_type.to_owned(),
            schema_version: u32::try_from(self.schema_version).map_err(|_| fail(format!("its event_version is {}", self.schema_version)))?,
            data,
            metadata: metadata_of(self.metadata).map_err(|error| fail(format!("its metadata is not that of an event: {error}")))?,
            tags: self.tags,
            timestamp: None,
        };
        // One that was left out keeps the names of an aggregate at most, of which it is no event any more.
        let is_left_out = self.event_type == LEFT_OUT;
        let (tenant, aggregate_id) = if is_left_out { ("", LEFT_OUT) } else { (self.tenant, self.aggregate_id) };
        let aggregate_type = if is_left_out { SYSTEM } else { self.aggregate_type };
        let stream = StreamKey { tenant, aggregate_id };
        let version = AggregateVersion(u64::try_from(self.version).unwrap_or(0));
        Event::from_parts(&stream, aggregate_type, &event, position, version, Timestamp(self.timestamp)).map_err(|error| fail(error.to_string()))
    }
}
