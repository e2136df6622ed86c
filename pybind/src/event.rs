//! Events at the border between Python and the store.

use std::sync::Arc;

use eventuali::{AggregateVersion, Event, EventMetadata, NewEvent, Position, Timestamp};
use pyo3::prelude::*;

/// An event's envelope: everything but its payload's fields.
#[pyclass(frozen, module = "eventuali._eventuali", name = "StoredEvent")]
pub(crate) struct PyEvent {}

impl PyEvent {
    /// The envelope of an event that was read from a store.
    pub(crate) fn from_stored(_event: Event) -> Self {
        todo!()
    }

    /// The event as it is appended.
    pub(crate) fn to_new_event(&self, _metadata: &EventMetadata) -> PyResult<NewEvent> {
        todo!()
    }
}

/// Metadata for Python.
#[pyclass(frozen, module = "eventuali._eventuali", name = "EventMetadata")]
pub(crate) struct PyEventMetadata {}

/// What `metadata=` of a save or append means: an `EventMetadata`, or nothing.
pub(crate) fn metadata_argument(_metadata: Option<&Bound<'_, PyEventMetadata>>) -> Arc<EventMetadata> {
    todo!()
}

/// The typed event for one stored event, or a `StoredEvent` where no class is known for it.
///
/// # Errors
/// `DeserializationError` with the position where the class refuses the payload.
pub(crate) fn typed_event(_py: Python<'_>, _event: Event) -> PyResult<Py<PyAny>> {
    todo!()
}

/// What `append` sends for an event; gives it its id, payload and timestamp at first use, and keeps them on the event.
pub(crate) fn event_for_append(
    _event: &Bound<'_, PyAny>,
    _aggregate_id: &str,
    _aggregate_type: &str,
    _timestamp: Option<Timestamp>,
    _metadata: &Arc<EventMetadata>,
) -> PyResult<NewEvent> {
    todo!()
}

/// Completes the envelope of an event after a successful append.
pub(crate) fn mark_appended(
    _event: &Bound<'_, PyAny>,
    _position: Position,
    _version: AggregateVersion,
    _metadata: &Arc<EventMetadata>,
) -> PyResult<()> {
    todo!()
}
