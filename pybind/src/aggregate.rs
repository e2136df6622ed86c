//! Aggregates at the border between Python and the store.

use std::sync::Arc;

use eventuali::{AggregateVersion, Event, EventMetadata, Position, Receipt, StreamAppend, Timestamp};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// What an aggregate is to the store: id, type, version, pending events, batch in doubt.
#[pyclass(frozen, module = "eventuali._eventuali", name = "AggregateCore")]
pub(crate) struct PyAggregate {}

/// The core of an aggregate.
///
/// # Errors
/// `TypeError` if it is not an `Aggregate`.
pub(crate) fn core_of<'py>(_aggregate: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAggregate>> {
    todo!()
}

impl PyAggregate {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        todo!()
    }

    /// Its type.
    pub(crate) fn aggregate_type(&self) -> &str {
        todo!()
    }

    /// What a save sends next: the batch in doubt if there is one, else all pending events, which count as in doubt from now on.
    pub(crate) fn begin_save(&self, _py: Python<'_>, _metadata: &Arc<EventMetadata>) -> PyResult<Option<StreamAppend>> {
        todo!()
    }

    /// The batch was stored: removes exactly what was sent, and completes the envelopes of those events.
    pub(crate) fn saved(&self, _py: Python<'_>, _receipt: &Receipt) {
        todo!()
    }

    /// The batch was certainly not stored: its events are pending again, and nothing is in doubt.
    pub(crate) fn not_saved(&self) {
        todo!()
    }

    /// Whether a batch is in doubt: sent, and neither acknowledged nor refused.
    pub(crate) fn in_doubt(&self) -> bool {
        todo!()
    }

    /// The version that it has with its pending events left out: that of the last event known to be stored.
    pub(crate) fn version(&self) -> AggregateVersion {
        todo!()
    }

    /// Whether there is anything to send.
    pub(crate) fn has_pending(&self) -> bool {
        todo!()
    }
}

/// Where a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// At the last event.
    End,
    /// With the event of this version.
    Version(AggregateVersion),
    /// With the last event at or before this position.
    Position(Position),
    /// Before the first event later than this.
    Time(Timestamp),
}

/// An aggregate that is being built from its events, batch by batch.
pub(crate) struct LoadedAggregate {}

impl LoadedAggregate {
    /// An aggregate of `class` without events.
    pub(crate) fn new(_class: &Bound<'_, PyType>, _id: &str, _until: Until) -> PyResult<Self> {
        todo!()
    }

    /// Applies the next events; `false` once the rest does not belong to it any more.
    pub(crate) fn feed(&mut self, _py: Python<'_>, _events: Vec<Event>) -> PyResult<bool> {
        todo!()
    }

    /// The aggregate; `None` if it had no events.
    pub(crate) fn finish(self, _py: Python<'_>) -> Option<Py<PyAny>> {
        todo!()
    }
}
