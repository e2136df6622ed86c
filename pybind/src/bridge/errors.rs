//! The engine's errors as those of `eventuali.errors`: the same facts, under the same names.

use std::path::Path;

use eventuali::{Error, ExpectedVersion};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{IntoPyObjectExt, intern};

use crate::errors::error;

/// The Python error for an error of the engine.
pub(crate) fn raise(py: Python<'_>, cause: &Error) -> PyErr {
    let facts = PyDict::new(py);
    match describe(py, cause, &facts) {
        Ok(name) => error(py, name, &cause.to_string(), &facts),
        Err(broken) => broken,
    }
}

/// A refusal of an argument, as `ConfigurationError`.
pub(crate) fn configuration(py: Python<'_>, message: &str) -> PyErr {
    error(py, "ConfigurationError", message, &PyDict::new(py))
}

/// What cannot be done here, as `UnsupportedError`.
pub(crate) fn unsupported(py: Python<'_>, message: &str) -> PyErr {
    error(py, "UnsupportedError", message, &PyDict::new(py))
}

/// Fills in the facts; the name of the Python class.
fn describe(py: Python<'_>, cause: &Error, facts: &Bound<'_, PyDict>) -> PyResult<&'static str> {
    let text = |path: &Path| path.display().to_string();
    Ok(match cause {
        Error::Conflict { aggregate_id, expected, actual, deleted } => {
            facts.set_item("aggregate_id", aggregate_id)?;
            facts.set_item("expected_version", expected_version(py, *expected)?)?;
            facts.set_item("actual_version", actual.0)?;
            facts.set_item("deleted", deleted)?;
            "ConflictError"
        }
        Error::AggregateNotFound { aggregate_id } => {
            facts.set_item("aggregate_id", aggregate_id)?;
            "AggregateNotFoundError"
        }
        Error::AggregateType { aggregate_id, stored, requested } => {
            facts.set_item("aggregate_id", aggregate_id)?;
            facts.set_item("stored_type", stored)?;
            facts.set_item("requested_type", requested)?;
            "AggregateTypeError"
        }
        Error::EventIdConflict { event_id, .. } => {
            facts.set_item("event_id", event_id)?;
            "EventIdConflictError"
        }
        Error::InvalidName { what, value, .. } => {
            facts.set_item("what", what)?;
            facts.set_item("value", value)?;
            "InvalidNameError"
        }
        Error::LimitExceeded { what, actual, max } => {
            facts.set_item("what", what)?;
            facts.set_item("actual", actual)?;
            facts.set_item("limit", max)?;
            "LimitExceededError"
        }
        Error::Serialization { .. } => "SerializationError",
        Error::Deserialization { position, event_type, .. } => {
            facts.set_item("position", position.0)?;
            facts.set_item("event_type", event_type)?;
            "DeserializationError"
        }
        Error::Corruption(damage) => {
            facts.set_item("path", text(&damage.path))?;
            facts.set_item("segment", damage.segment)?;
            facts.set_item("offset", damage.offset)?;
            facts.set_item("last_good_position", damage.last_good_position.0)?;
            facts.set_item("next_good_position", damage.next_good_position.map(|position| position.0))?;
            "CorruptionError"
        }
        Error::FormatVersion { path, found, supported, .. } => {
            facts.set_item("path", text(path))?;
            facts.set_item("found", found)?;
            facts.set_item("supported", supported)?;
            "FormatVersionError"
        }
        Error::StoreLocked { path, pid, holder } => {
            facts.set_item("path", text(path))?;
            facts.set_item("pid", pid)?;
            facts.set_item("holder", holder)?;
            "StoreLockedError"
        }
        Error::Closed => "StoreClosedError",
        Error::ForkedProcess => "ForkedProcessError",
        Error::OutcomeUnknown { cause } => {
            facts.set_item("cause", cause)?;
            "OutcomeUnknownError"
        }
        Error::Poisoned { cause } => {
            facts.set_item("cause", cause)?;
            "StorePoisonedError"
        }
        Error::StorageFull { path, needed_bytes } => {
            facts.set_item("path", text(path))?;
            facts.set_item("needed_bytes", needed_bytes)?;
            "StorageFullError"
        }
        Error::Io { operation, path, .. } => {
            facts.set_item("path", text(path))?;
            facts.set_item("operation", operation)?;
            "StorageError"
        }
        Error::EpochsExhausted { epoch, .. } => {
            facts.set_item("what", "number of epochs")?;
            facts.set_item("actual", epoch)?;
            facts.set_item("limit", u32::MAX)?;
            "LimitExceededError"
        }
        Error::HistoryReplaced { path, position, reason } => {
            facts.set_item("path", text(path))?;
            facts.set_item("position", position.0)?;
            facts.set_item("reason", reason)?;
            "HistoryReplacedError"
        }
        Error::Configuration { .. } => "ConfigurationError",
        Error::ReadOnly | Error::Unsupported { .. } => "UnsupportedError",
        _ => return describe_of_databases(cause, facts),
    })
}

/// The same for what only databases, moving and maintenance can meet.
fn describe_of_databases(cause: &Error, facts: &Bound<'_, PyDict>) -> PyResult<&'static str> {
    Ok(match cause {
        Error::Unavailable { store, reason, .. } => {
            facts.set_item("store", store)?;
            facts.set_item("reason", reason)?;
            "StoreUnavailableError"
        }
        Error::Database { store, code, .. } => {
            facts.set_item("store", store)?;
            facts.set_item("code", code)?;
            "DatabaseError"
        }
        Error::Diverged { target, position, reason } => {
            facts.set_item("target", target)?;
            facts.set_item("position", position.0)?;
            facts.set_item("reason", reason)?;
            "DivergedError"
        }
        Error::ForkPosition { path, position, problem, before, after } => {
            facts.set_item("path", path.display().to_string())?;
            facts.set_item("position", position.0)?;
            facts.set_item("reason", problem.to_string())?;
            facts.set_item("before", before.map(|before| before.0))?;
            facts.set_item("after", after.map(|after| after.0))?;
            "ForkPositionError"
        }
        _ => "EventualiError",
    })
}

/// The names of what is expected of a stream, as `eventuali.ExpectedVersion` spells them.
const NAMED: [(ExpectedVersion, &str); 3] =
    [(ExpectedVersion::Any, "ANY"), (ExpectedVersion::NoStream, "NO_STREAM"), (ExpectedVersion::Exists, "STREAM_EXISTS")];

fn expected_version(py: Python<'_>, expected: ExpectedVersion) -> PyResult<Bound<'_, PyAny>> {
    if let ExpectedVersion::Exact(version) = expected {
        return version.0.into_bound_py_any(py);
    }
    let name = NAMED.iter().find(|(named, _)| *named == expected).map_or("ANY", |(_, name)| name);
    py.import(intern!(py, "eventuali.expected"))?.getattr(intern!(py, "ExpectedVersion"))?.getattr(name)
}
