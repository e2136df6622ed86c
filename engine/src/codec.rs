//! An event's record body: how its names, metadata, tags and payload lie in bytes.
//!
//! The layout is in `docs/file-format.md`. Only here is bincode used, always with a size limit.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::{DataFormat, EventData, EventMetadata, NewEvent, StreamKey, Tag};
use crate::log::format::{METADATA_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX, body};
use crate::retention::SYSTEM;

/// Checks a name against what every backend can hold.
fn check_name(what: &'static str, value: &str, bytes_max: usize) -> Result<()> {
    if value.len() > bytes_max {
        return Err(Error::LimitExceeded { what, actual: value.len() as u64, max: bytes_max as u64 });
    }
    if value.as_bytes().contains(&0) {
        return Err(Error::name(what, value, "contains a NUL character, which not every backend can hold; leave it out"));
    }
    Ok(())
}

/// Checks the names of a stream that a user may write to.
pub(crate) fn check_stream(stream: &StreamKey<'_>, aggregate_type: &str) -> Result<()> {
    if !stream.tenant.is_empty() {
        check_user_name("tenant (bytes)", stream.tenant)?;
    }
    check_user_name("aggregate id (bytes)", stream.aggregate_id)?;
    check_user_name("aggregate type (bytes)", aggregate_type)
}

fn check_user_name(what: &'static str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Error::name(what, value, "is empty; give it a name"));
    }
    if value.starts_with('$') {
        return Err(Error::name(what, value, "begins with '$', which is reserved for the store's own names; choose another"));
    }
    check_name(what, value, NAME_BYTES_MAX)
}

/// The parts of a body that vary: encoded with bincode, present only where one of them is not empty.
#[derive(Serialize, Deserialize)]
struct Extras<'a> {
    metadata: Cow<'a, EventMetadata>,
    tags: Cow<'a, [Tag]>,
}

/// Little-endian, integers of fixed width, never more than the limit: written down in `docs/file-format.md`.
fn extras_config() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<{ body::EXTRAS_BYTES_MAX }>()
}

/// Appends the fixed part of a body, with the lengths of the names, and the names.
fn encode_names(out: &mut Vec<u8>, stream: &StreamKey<'_>, aggregate_type: &str, event_type: &str) -> Result<()> {
    let names = [stream.tenant, stream.aggregate_id, aggregate_type, event_type];
    let lengths = [body::TENANT_BYTES, body::AGGREGATE_ID_BYTES, body::AGGREGATE_TYPE_BYTES, body::EVENT_TYPE_BYTES];
    let mut fixed = [0; body::NAMES];
    for (at, name) in lengths.into_iter().zip(names) {
        let Ok(length) = u16::try_from(name.len()) else {
            return Err(Error::LimitExceeded { what: "name (bytes)", actual: name.len() as u64, max: NAME_BYTES_MAX as u64 });
        };
        fixed[at..at + 2].copy_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(&fixed);
    for name in names {
        out.extend_from_slice(name.as_bytes());
    }
    Ok(())
}

fn encode_extras(out: &mut Vec<u8>, event: &NewEvent) -> Result<usize> {
    if event.tags.is_empty() && event.metadata.is_empty() {
        return Ok(0);
    }
    if event.tags.len() > TAGS_MAX {
        return Err(Error::LimitExceeded { what: "number of tags", actual: event.tags.len() as u64, max: TAGS_MAX as u64 });
    }
    for Tag(tag) in &event.tags {
        if tag.is_empty() || tag.starts_with('$') {
            return Err(Error::name("tag", tag, "is empty or begins with '$', which is reserved; choose another"));
        }
        check_name("tag (bytes)", tag, TAG_BYTES_MAX)?;
    }
    let metadata = &event.metadata;
    let text = [&metadata.causation_id, &metadata.correlation_id, &metadata.user_id].into_iter().flatten().map(String::len).sum::<usize>()
        + metadata.headers.iter().map(|(name, value)| name.len() + value.len() + 16).sum::<usize>();
    if text > METADATA_BYTES_MAX {
        return Err(Error::LimitExceeded { what: "metadata (bytes)", actual: text as u64, max: METADATA_BYTES_MAX as u64 });
    }
    let extras = Extras { metadata: Cow::Borrowed(metadata), tags: Cow::Borrowed(&event.tags) };
    bincode::serde::encode_into_std_write(&extras, out, extras_config()).map_err(|error| Error::Serialization { reason: error.to_string() })
}

/// Where a body lies in a block of bytes, checked when it was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyLayout {
    start: u32,
    length: u32,
}

impl BodyLayout {
    /// Checks that `block[start..][..length]` is a body.
    pub(crate) fn parse(block: &[u8], start: usize, length: usize) -> Result<Self, &'static str> {
        let bytes = block.get(start..start + length).ok_or("the body ends outside of its block")?;
        Body(bytes).check()?;
        let (Ok(start), Ok(length)) = (u32::try_from(start), u32::try_from(length)) else {
            return Err("the block is too large");
        };
        Ok(Self { start, length })
    }

    /// The body's bytes.
    pub(crate) fn bytes(self, block: &[u8]) -> &[u8] {
        &block[self.start as usize..][..self.length as usize]
    }

    /// The body, to read its parts.
    pub(crate) fn of(self, block: &[u8]) -> Body<'_> {
        Body(self.bytes(block))
    }

    /// The same body at another place.
    pub(crate) fn moved_to(self, start: u32) -> Self {
        Self { start, ..self }
    }
}

/// The parts of a body whose layout was checked.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a>(&'a [u8]);

/// All names in a body.
#[derive(Clone, Copy)]
pub(crate) struct BodyNames<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) aggregate_id: &'a str,
    pub(crate) aggregate_type: &'a str,
    pub(crate) event_type: &'a str,
}

impl<'a> Body<'a> {
    /// Appends the body of an event to `out`, or leaves `out` as it was. The names of the stream were checked. If there is a
    /// body of the same stream and event type in `out`, `like` may say where it begins: what they share is taken from there.
    pub(crate) fn encode(out: &mut Vec<u8>, stream: &StreamKey<'_>, aggregate_type: &str, event: &NewEvent, like: Option<usize>) -> Result<()> {
        let payload = event.data.as_bytes();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::LimitExceeded { what: "payload (bytes)", actual: payload.len() as u64, max: PAYLOAD_BYTES_MAX as u64 });
        }
        let start = out.len();
        if let Some(like) = like {
            out.extend_from_within(like..like + Body(&out[like..]).names_end());
        } else {
            check_user_name("event type (bytes)", &event.event_type)?;
            encode_names(out, stream, aggregate_type, &event.event_type)?;
        }
        Self::encode_rest(out, start, event)
    }

    /// Appends the body of one of the store's own events to `out`, or leaves `out` as it was.
    pub(crate) fn encode_system(out: &mut Vec<u8>, aggregate_id: &str, event: &NewEvent) -> Result<()> {
        let payload = event.data.as_bytes().len();
        if payload > PAYLOAD_BYTES_MAX {
            return Err(Error::LimitExceeded { what: "payload (bytes)", actual: payload as u64, max: PAYLOAD_BYTES_MAX as u64 });
        }
        check_name("event type (bytes)", &event.event_type, NAME_BYTES_MAX)?;
        let start = out.len();
        encode_names(out, &StreamKey { tenant: "", aggregate_id }, SYSTEM, &event.event_type)?;
        Self::encode_rest(out, start, event)
    }

    /// What follows the names of a body that begins at `start`.
    fn encode_rest(out: &mut Vec<u8>, start: usize, event: &NewEvent) -> Result<()> {
        let fixed = &mut out[start..start + body::NAMES];
        fixed[body::FORMAT] = match event.data {
            EventData::Json(_) => body::FORMAT_JSON,
            EventData::Protobuf(_) => body::FORMAT_PROTOBUF,
        };
        fixed[body::SCHEMA_VERSION..body::SCHEMA_VERSION + 4].copy_from_slice(&event.schema_version.to_le_bytes());
        fixed[body::ID..body::ID + 16].copy_from_slice(event.id.as_bytes());
        match encode_extras(out, event) {
            Ok(extras) => {
                let extras = u32::try_from(extras).unwrap_or(u32::MAX).to_le_bytes();
                out[start + body::EXTRAS_BYTES..][..4].copy_from_slice(&extras);
            }
            Err(error) => {
                out.truncate(start);
                return Err(error);
            }
        }
        out.extend_from_slice(event.data.as_bytes());
        Ok(())
    }

    /// Checks that `bytes` are a body; with its names, which cost a check of their own when they are asked for later.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<(Self, BodyNames<'a>), &'static str> {
        Body(bytes).check().map(|names| (Body(bytes), names))
    }

    fn check(self) -> Result<BodyNames<'a>, &'static str> {
        let bytes = self.0;
        if bytes.len() < body::NAMES {
            return Err("the body is shorter than its fixed part");
        }
        let names_end = self.names_end();
        if names_end + self.extras_bytes() > bytes.len() {
            return Err("the names and metadata are longer than the body");
        }
        if bytes[body::FORMAT] > body::FORMAT_PROTOBUF || bytes[body::FLAGS] != 0 {
            return Err("the body uses a payload format or flag that this release does not know");
        }
        let not_text = "a name is not UTF-8";
        let names = std::str::from_utf8(&bytes[body::NAMES..names_end]).map_err(|_| not_text)?;
        let (tenant, names) = names.split_at_checked(self.u16(body::TENANT_BYTES)).ok_or(not_text)?;
        let (aggregate_id, names) = names.split_at_checked(self.u16(body::AGGREGATE_ID_BYTES)).ok_or(not_text)?;
        let (aggregate_type, event_type) = names.split_at_checked(self.u16(body::AGGREGATE_TYPE_BYTES)).ok_or(not_text)?;
        Ok(BodyNames { tenant, aggregate_id, aggregate_type, event_type })
    }

    fn u16(self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn extras_bytes(self) -> usize {
        self.u32(body::EXTRAS_BYTES) as usize
    }

    fn aggregate_id_start(self) -> usize {
        body::NAMES + self.u16(body::TENANT_BYTES)
    }

    fn aggregate_type_start(self) -> usize {
        self.aggregate_id_start() + self.u16(body::AGGREGATE_ID_BYTES)
    }

    fn event_type_start(self) -> usize {
        self.aggregate_type_start() + self.u16(body::AGGREGATE_TYPE_BYTES)
    }

    fn names_end(self) -> usize {
        self.event_type_start() + self.u16(body::EVENT_TYPE_BYTES)
    }

    fn text(self, start: usize, end: usize) -> &'a str {
        // The layout was checked to be UTF-8 when it was parsed; the bytes cannot have changed since.
        std::str::from_utf8(&self.0[start..end]).unwrap_or_default()
    }

    pub(crate) fn id(self) -> Uuid {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[body::ID..body::ID + 16]);
        Uuid::from_bytes(id)
    }

    pub(crate) fn schema_version(self) -> u32 {
        self.u32(body::SCHEMA_VERSION)
    }

    pub(crate) fn format(self) -> DataFormat {
        if self.0[body::FORMAT] == body::FORMAT_JSON { DataFormat::Json } else { DataFormat::Protobuf }
    }

    pub(crate) fn tenant(self) -> &'a str {
        self.text(body::NAMES, self.aggregate_id_start())
    }

    pub(crate) fn aggregate_id(self) -> &'a str {
        self.text(self.aggregate_id_start(), self.aggregate_type_start())
    }

    pub(crate) fn aggregate_type(self) -> &'a str {
        self.text(self.aggregate_type_start(), self.event_type_start())
    }

    pub(crate) fn event_type(self) -> &'a str {
        self.text(self.event_type_start(), self.names_end())
    }

    /// Its aggregate type and its event type, as the bytes that they were found to be text of.
    pub(crate) fn types(self) -> (&'a [u8], &'a [u8]) {
        let (start, middle) = (self.aggregate_type_start(), self.event_type_start());
        (&self.0[start..middle], &self.0[middle..][..self.u16(body::EVENT_TYPE_BYTES)])
    }

    pub(crate) fn has_extras(self) -> bool {
        self.extras_bytes() > 0
    }

    pub(crate) fn payload(self) -> &'a [u8] {
        &self.0[self.names_end() + self.extras_bytes()..]
    }

    pub(crate) fn extras(self) -> Result<(EventMetadata, Vec<Tag>), String> {
        if !self.has_extras() {
            return Ok((EventMetadata::default(), Vec::new()));
        }
        let bytes = &self.0[self.names_end()..][..self.extras_bytes()];
        let (extras, used): (Extras<'static>, usize) =
            bincode::serde::decode_from_slice(bytes, extras_config()).map_err(|error| format!("its metadata cannot be decoded: {error}"))?;
        if used != bytes.len() {
            return Err("its metadata is followed by unknown bytes".to_owned());
        }
        Ok((extras.metadata.into_owned(), extras.tags.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_event() -> impl Strategy<Value = NewEvent> {
        let text = "[a-zäß😀/.]{0,20}";
        let name = "[a-zA-Zäß😀/.]{1,20}";
        let metadata = (proptest::option::of(text), proptest::option::of(text), proptest::collection::btree_map(text, text, 0..4));
        (name, any::<u128>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..300), metadata, proptest::collection::vec(name, 0..4)).prop_map(
            |(event_type, id, schema_version, payload, (causation_id, user_id, headers), tags)| NewEvent {
                id: Uuid::from_u128(id),
                event_type,
                schema_version,
                data: EventData::Protobuf(payload),
                metadata: EventMetadata { causation_id, correlation_id: None, user_id, headers },
                tags: tags.into_iter().map(Tag).collect(),
                timestamp: None,
            },
        )
    }

    proptest! {
        #[test]
        fn an_encoded_body_reads_back_equal(event in any_event(), tenant in "[a-zé]{0,9}", id in "[a-zé]{1,9}") {
            let mut bytes = vec![7; 3];
            let stream = StreamKey { tenant: &tenant, aggregate_id: &id };
            Body::encode(&mut bytes, &stream, "Thing", &event, None).expect("within the limits");
            let (start, length) = (bytes.len(), bytes.len() - 3);
            Body::encode(&mut bytes, &stream, "Thing", &event, Some(3)).expect("within the limits");
            prop_assert_eq!(&bytes[3..start], &bytes[start..]);
            let layout = BodyLayout::parse(&bytes, start, length).expect("a body");
            let read = layout.of(&bytes);
            prop_assert_eq!((read.tenant(), read.aggregate_id(), read.aggregate_type()), (&*tenant, &*id, "Thing"));
            prop_assert_eq!((read.id(), read.event_type(), read.schema_version()), (event.id, &*event.event_type, event.schema_version));
            prop_assert_eq!((read.format(), read.payload()), (DataFormat::Protobuf, event.data.as_bytes()));
            prop_assert_eq!(read.extras().expect("extras"), (event.metadata, event.tags));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(layout) = BodyLayout::parse(&bytes, 0, bytes.len()) {
                let body = layout.of(&bytes);
                let _ = (body.tenant(), body.aggregate_id(), body.aggregate_type(), body.event_type(), body.payload(), body.extras());
            }
        }
    }
}
