//! The Python side of the domain, as the extension sees it: each class is looked at once, and what was found is kept.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use eventuali::Event;
use parking_lot::Mutex;
use pyo3::exceptions::{PyAttributeError, PyException};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};
use pyo3::{IntoPyObjectExt, intern};

use crate::event::PyEvent;
use crate::event_class::{self, EventClass};
use crate::{aggregate_class, errors, replay};

/// More event types than any program has; beyond it the answers are found anew.
const RESOLVED_MAX: usize = 65_536;

/// Functions and settings of the Python side.
pub(crate) struct Domain {
    pub(crate) event_base: Py<PyType>,
    write_slot: Py<PyAny>,
    pub(crate) plan_of: Py<PyAny>,
    pub(crate) payload_of: Py<PyAny>,
    pub(crate) check: Py<PyAny>,
    resolve: Py<PyAny>,
    pub(crate) aggregate_base: Py<PyType>,
    pub(crate) begin_load: Py<PyAny>,
    pub(crate) missing_handler: Py<PyAny>,
    pub(crate) writing: Py<PyDict>,
    pub(crate) writing_warily: Py<PyDict>,
    pub(crate) reading: Py<PyDict>,
}

impl Domain {
    /// Looks it up at first use; importing the package does not.
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static DOMAIN: PyOnceLock<Domain> = PyOnceLock::new();
        DOMAIN.get_or_try_init(py, || {
            let event = py.import("eventuali.event")?;
            let aggregate = py.import("eventuali.aggregate")?;
            let round_trip = py.import("eventuali._roundtrip")?;
            let event_base = event.getattr("DomainEvent")?.cast_into::<PyType>()?;
            let slot = event_base.getattr("__eventuali_envelope__")?;
            let writing = PyDict::new(py);
            writing.set_item("round_trip", true)?;
            writing.set_item("by_alias", true)?;
            let writing_warily = writing.copy()?;
            writing_warily.set_item("warnings", "error")?;
            let reading = PyDict::new(py);
            reading.set_item("extra", "ignore")?;
            Ok(Self {
                event_base: event_base.unbind(),
                write_slot: slot.getattr("__set__")?.unbind(),
                plan_of: round_trip.getattr("plan_of")?.unbind(),
                payload_of: round_trip.getattr("payload_of")?.unbind(),
                check: round_trip.getattr("check")?.unbind(),
                resolve: py.import("eventuali._registry")?.getattr("resolve")?.unbind(),
                aggregate_base: aggregate.getattr("Aggregate")?.cast_into::<PyType>()?.unbind(),
                begin_load: aggregate.getattr("begin_load")?.unbind(),
                missing_handler: aggregate.getattr("missing_handler")?.unbind(),
                writing: writing.unbind(),
                writing_warily: writing_warily.unbind(),
                reading: reading.unbind(),
            })
        })
    }

    /// Gives an event its envelope.
    pub(crate) fn set_envelope(&self, event: &Bound<'_, PyAny>, envelope: &Bound<'_, PyEvent>) -> PyResult<()> {
        self.write_slot.bind(event.py()).call1((event, envelope)).map(drop)
    }

    /// Takes its envelope from an event.
    pub(crate) fn clear_envelope(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        self.write_slot.bind(event.py()).call1((event, event.py().None())).map(drop)
    }
}

/// What an event has in the place of its envelope.
pub(crate) enum Slot<'py> {
    /// No envelope yet.
    Free {
        /// Whether its fields went through the class's validator.
        validated: bool,
    },
    /// It belongs to an aggregate.
    Taken(Bound<'py, PyEvent>),
}

/// What an event has in the place of its envelope.
pub(crate) fn slot<'py>(event: &Bound<'py, PyAny>) -> PyResult<Slot<'py>> {
    match event.getattr(intern!(event.py(), "__eventuali_envelope__")) {
        Ok(nothing) if nothing.is_none() => Ok(Slot::Free { validated: true }),
        Ok(envelope) => Ok(envelope.cast_into().map_or(Slot::Free { validated: false }, Slot::Taken)),
        Err(unset) if unset.is_instance_of::<PyAttributeError>(event.py()) => {
            Ok(replay::envelope_of(event)?.map_or(Slot::Free { validated: true }, Slot::Taken))
        }
        Err(error) => Err(error),
    }
}

/// A stored event that its class refuses.
pub(crate) fn unreadable(py: Python<'_>, event: &Event, reason: &str, cause: Option<PyErr>) -> PyErr {
    let problem =
        eventuali::Error::Deserialization { position: event.position(), event_type: event.event_type().to_owned(), reason: reason.to_owned() };
    let facts = PyDict::new(py);
    let filled = facts.set_item("position", event.position().0).and_then(|()| facts.set_item("event_type", event.event_type()));
    if let Err(broken) = filled {
        return broken;
    }
    let error = errors::error(py, "DeserializationError", &problem.to_string(), &facts);
    error.set_cause(py, cause);
    error
}

type ByTypes = HashMap<String, HashMap<String, Option<Arc<EventClass>>>>;

/// By aggregate type and event type.
static RESOLVED: LazyLock<Mutex<ByTypes>> = LazyLock::new(Mutex::default);

/// Forgets what was found out about classes: another one was defined, and may be the better answer.
#[pyfunction]
pub(crate) fn classes_changed() {
    // Taken out first: dropping the last reference to a class runs Python code, which must not find these locked.
    let resolved = std::mem::take(&mut *RESOLVED.lock());
    drop(resolved);
    event_class::forget();
    aggregate_class::forget();
}

/// The class of a stored event, where one is known, as a reader of the whole store finds it.
///
/// # Errors
/// `AmbiguousEventError` if several classes claim it.
pub(crate) fn class_of(py: Python<'_>, event: &Event) -> PyResult<Option<Arc<EventClass>>> {
    if let Some(known) = RESOLVED.lock().get(event.aggregate_type()).and_then(|types| types.get(event.event_type())) {
        return Ok(known.clone());
    }
    let found = resolve(None, py, event)?;
    let mut resolved = RESOLVED.lock();
    let types = resolved.entry(event.aggregate_type().to_owned()).or_default();
    if types.len() < RESOLVED_MAX {
        types.insert(event.event_type().to_owned(), found.clone());
    }
    Ok(found)
}

/// The class of a stored event, as `aggregate` finds it.
///
/// # Errors
/// `AmbiguousEventError` if several classes claim it.
pub(crate) fn resolve(aggregate: Option<&Bound<'_, PyType>>, py: Python<'_>, event: &Event) -> PyResult<Option<Arc<EventClass>>> {
    let domain = Domain::get(py)?;
    let found = domain.resolve.bind(py).call1((aggregate, event.aggregate_type(), event.event_type())).map_err(|error| at(py, error, event))?;
    if found.is_none() { Ok(None) } else { EventClass::of_class(found.cast::<PyType>()?).map(Some) }
}

/// An error about a stored event, which now says where the event is.
fn at(py: Python<'_>, error: PyErr, event: &Event) -> PyErr {
    let place = || {
        let value = error.value(py);
        value.setattr(intern!(py, "position"), event.position().0)?;
        let message = format!("at position {}: {}", event.position(), value.str()?);
        value.setattr(intern!(py, "args"), (message,).into_bound_py_any(py)?)
    };
    if error.is_instance_of::<PyException>(py) { place().err().unwrap_or(error) } else { error }
}
