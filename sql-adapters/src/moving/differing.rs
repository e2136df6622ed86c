//! In what two events differ.

use eventuali::{DataFormat, Event, Position, Result};
use uuid::Uuid;

use crate::json::{append_comparable_json, comparable_json};

/// The first event in which two stores differ.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Where it is.
    pub position: Position,
    /// What is different.
    pub kind: DifferenceKind,
    /// The id of the source's event there.
    pub source_event: Option<Uuid>,
    /// The id of the target's event there.
    pub target_event: Option<Uuid>,
}

/// What is different about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// The target does not have it.
    MissingInTarget,
    /// The source does not have it.
    MissingInSource,
    /// Both have an event there, and these parts of it differ, by name.
    Differs(Vec<&'static str>),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = |event: Option<Uuid>| event.map_or_else(|| "none".to_owned(), |id| id.to_string());
        match &self.kind {
            DifferenceKind::MissingInTarget => write!(f, "the target lacks the event at position {} ({})", self.position, id(self.source_event)),
            DifferenceKind::MissingInSource => {
                write!(f, "the target has an event at position {} ({}) that the source lacks", self.position, id(self.target_event))
            }
            DifferenceKind::Differs(parts) => write!(
                f,
                "the events at position {} differ in {}: {} in the source, {} in the target",
                self.position,
                parts.join(", "),
                id(self.source_event),
                id(self.target_event)
            ),
        }
    }
}

/// The names of the parts in which two events differ.
pub(super) fn differing(one: &Event, other: &Event) -> Result<Vec<&'static str>> {
    let payload = one.payload() == other.payload()
        || (one.format() == DataFormat::Json
            && other.format() == DataFormat::Json
            && comparable_json(one.payload()) == comparable_json(other.payload()));
    let parts = [
        ("position", one.position() == other.position()),
        ("event id", one.id() == other.id()),
        ("tenant", one.tenant() == other.tenant()),
        ("aggregate id", one.aggregate_id() == other.aggregate_id()),
        ("aggregate type", one.aggregate_type() == other.aggregate_type()),
        ("aggregate version", one.version() == other.version()),
        ("event type", one.event_type() == other.event_type()),
        ("schema version", one.schema_version() == other.schema_version()),
        ("format", one.format() == other.format()),
        ("timestamp", one.timestamp() == other.timestamp()),
        ("payload", payload),
        ("metadata", one.metadata()? == other.metadata()?),
        ("tags", one.tags()? == other.tags()?),
    ];
    Ok(parts.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect())
}

/// Appends an event to what is digested: every part, each with its length before it.
pub(super) fn digested(event: &Event, out: &mut Vec<u8>) -> Result<()> {
    let mut part = |bytes: &[u8]| add(out, |out| out.extend_from_slice(bytes));
    part(&event.position().0.to_le_bytes());
    part(&event.version().0.to_le_bytes());
    part(&event.timestamp().0.to_le_bytes());
    part(event.id().as_bytes());
    part(&event.schema_version().to_le_bytes());
    for name in [event.tenant(), event.aggregate_id(), event.aggregate_type(), event.event_type()] {
        part(name.as_bytes());
    }
    match event.format() {
        DataFormat::Json => {
            part(b"json");
            add(out, |out| append_comparable_json(event.payload(), out));
        }
        DataFormat::Protobuf => {
            part(b"protobuf");
            part(event.payload());
        }
    }
    if event.has_extras() {
        let mut part = |bytes: &[u8]| add(out, |out| out.extend_from_slice(bytes));
        let metadata = event.metadata()?;
        for value in [&metadata.causation_id, &metadata.correlation_id, &metadata.user_id] {
            part(if value.is_some() { b"1" } else { b"0" });
            part(value.as_deref().unwrap_or_default().as_bytes());
        }
        part(&(metadata.headers.len() as u64).to_le_bytes());
        for (name, value) in &metadata.headers {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        let tags = event.tags()?;
        part(&(tags.len() as u64).to_le_bytes());
        for tag in tags {
            part(tag.0.as_bytes());
        }
    }
    Ok(())
}

/// Appends a part with its length before it.
fn add(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    write(out);
    let length = (out.len() - start - 8) as u64;
    out[start..start + 8].copy_from_slice(&length.to_le_bytes());
}
