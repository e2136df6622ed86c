//! The Python side of the domain, as the extension sees it: each class is looked at once, and what was found is kept.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use eventuali::{DataFormat, Event};
use parking_lot::Mutex;
use pyo3::exceptions::{PyAttributeError, PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString, PyType};
use pyo3::{IntoPyObjectExt, intern};

use crate::errors;
use crate::event::PyEvent;

/// More event types than any program has; beyond it the answers are found anew.
const RESOLVED_MAX: usize = 65_536;

/// Functions and settings of the Python side.
pub(crate) struct Domain {
    pub(crate) domain_event: Py<PyType>,
    read_slot: Py<PyAny>,
    write_slot: Py<PyAny>,
    plan_of: Py<PyAny>,
    payload_of: Py<PyAny>,
    check: Py<PyAny>,
    resolve: Py<PyAny>,
    pub(crate) aggregate: Py<PyType>,
    pub(crate) begin_load: Py<PyAny>,
    pub(crate) missing_handler: Py<PyAny>,
    writing: Py<PyDict>,
    reading: Py<PyDict>,
}

impl Domain {
    /// Looks it up at first use; importing the package does not.
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static DOMAIN: PyOnceLock<Domain> = PyOnceLock::new();
        DOMAIN.get_or_try_init(py, || {
            let event = py.import("eventuali.event")?;
            let aggregate = py.import("eventuali.aggregate")?;
            let round_trip = py.import("eventuali._roundtrip")?;
            let domain_event = event.getattr("DomainEvent")?.cast_into::<PyType>()?;
            let slot = domain_event.getattr("__eventuali_envelope__")?;
            let writing = PyDict::new(py);
            writing.set_item("round_trip", true)?;
            writing.set_item("by_alias", true)?;
            writing.set_item("warnings", "error")?;
            let reading = PyDict::new(py);
            reading.set_item("extra", "ignore")?;
            Ok(Self {
                domain_event: domain_event.unbind(),
                read_slot: slot.getattr("__get__")?.unbind(),
                write_slot: slot.getattr("__set__")?.unbind(),
                plan_of: round_trip.getattr("plan_of")?.unbind(),
                payload_of: round_trip.getattr("payload_of")?.unbind(),
                check: round_trip.getattr("check")?.unbind(),
                resolve: py.import("eventuali._registry")?.getattr("resolve")?.unbind(),
                aggregate: aggregate.getattr("Aggregate")?.cast_into::<PyType>()?.unbind(),
                begin_load: aggregate.getattr("begin_load")?.unbind(),
                missing_handler: aggregate.getattr("missing_handler")?.unbind(),
                writing: writing.unbind(),
                reading: reading.unbind(),
            })
        })
    }

    /// The envelope that an event has been given; `None` before that.
    pub(crate) fn envelope<'py>(&self, event: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyEvent>>> {
        match self.read_slot.bind(event.py()).call1((event,)) {
            Ok(envelope) if envelope.is_none() => Ok(None),
            Ok(envelope) => Ok(Some(envelope.cast_into()?)),
            Err(unset) if unset.is_instance_of::<PyAttributeError>(event.py()) => Ok(None),
            Err(error) => Err(error),
        }
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

/// What is known about a class of events.
pub(crate) struct EventClass {
    pub(crate) class: Py<PyType>,
    pub(crate) event_type: Arc<str>,
    pub(crate) event_version: u32,
    to_json: Py<PyAny>,
    validate_json: Py<PyAny>,
    /// Whether each event is read back when it is applied, not only the first one.
    check_each: AtomicBool,
    checked: AtomicBool,
    /// Fields whose offset from UTC decides whether they come back.
    moments: Vec<Py<PyString>>,
    /// Models inside, of which a subclass would not come back.
    nested: Vec<Py<PyType>>,
}

/// An integer of so many digits is not read back by any JSON reader that Python has.
const DIGITS_MAX: usize = 4_300;

impl EventClass {
    /// What is known about the class of `event`.
    ///
    /// # Errors
    /// `TypeError` if it is not a `DomainEvent`; `SerializationError` if a field of its class can never come back.
    pub(crate) fn of(event: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        Self::of_class(&event.get_type())
    }

    fn of_class(class: &Bound<'_, PyType>) -> PyResult<Arc<Self>> {
        if let Some(known) = CLASSES.lock().get(&(class.as_ptr() as usize)) {
            return Ok(Arc::clone(known));
        }
        let py = class.py();
        let domain = Domain::get(py)?;
        if !class.is_subclass(domain.domain_event.bind(py))? {
            return Err(PyTypeError::new_err(format!("{} is not an event; give an object of a subclass of DomainEvent", class.qualname()?)));
        }
        let plan = domain.plan_of.bind(py).call1((class,))?;
        let (event_type, event_version, to_json, validate_json, check_each, moments, nested) = plan.extract::<Plan>()?;
        let found = Arc::new(Self {
            class: class.clone().unbind(),
            event_type: event_type.into(),
            event_version,
            to_json,
            validate_json,
            check_each: AtomicBool::new(check_each),
            checked: AtomicBool::new(false),
            moments,
            nested,
        });
        CLASSES.lock().insert(class.as_ptr() as usize, Arc::clone(&found));
        Ok(found)
    }

    /// Turns an event of this class into the bytes to store.
    ///
    /// # Errors
    /// `SerializationError` where they would not come back equal; it names the field.
    pub(crate) fn serialize<'py>(&self, event: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = event.py();
        let domain = Domain::get(py)?;
        let payload = match self.to_json.bind(py).call((event,), Some(domain.writing.bind(py))) {
            Ok(payload) => payload.cast_into::<PyBytes>()?,
            Err(failure) if failure.is_instance_of::<PyException>(py) => {
                return Ok(domain.payload_of.bind(py).call1((event, failure.value(py)))?.cast_into()?);
            }
            Err(interrupt) => return Err(interrupt),
        };
        if !self.checked.load(Ordering::Relaxed) || self.is_doubtful(event, payload.as_bytes())? {
            domain.check.bind(py).call1((event, &payload))?;
            self.checked.store(true, Ordering::Relaxed);
        }
        Ok(payload)
    }

    /// Whether this event may not come back although others of its class do.
    fn is_doubtful(&self, event: &Bound<'_, PyAny>, payload: &[u8]) -> PyResult<bool> {
        let py = event.py();
        if self.check_each.load(Ordering::Relaxed) {
            return Ok(true);
        }
        if payload.len() > DIGITS_MAX && payload.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > DIGITS_MAX) {
            return Ok(true);
        }
        for class in &self.nested {
            if class.bind(py).call_method0(intern!(py, "__subclasses__"))?.is_truthy()? {
                self.check_each.store(true, Ordering::Relaxed);
                return Ok(true);
            }
        }
        for field in &self.moments {
            let moment = event.getattr(field)?;
            let offset = if moment.is_none() { moment } else { moment.call_method0(intern!(py, "utcoffset"))? };
            if !offset.is_none() {
                let seconds: u32 = offset.getattr(intern!(py, "seconds"))?.extract()?;
                let micros: u32 = offset.getattr(intern!(py, "microseconds"))?.extract()?;
                if seconds % 60 != 0 || micros != 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The event of this class that is stored as `event`.
    ///
    /// # Errors
    /// `DeserializationError` with the position, if the class refuses the payload.
    pub(crate) fn read<'py>(&self, py: Python<'py>, domain: &Domain, event: Event) -> PyResult<Bound<'py, PyAny>> {
        if event.format() != DataFormat::Json {
            return Err(unreadable(py, &event, "its payload is Protobuf, not JSON", None));
        }
        let payload = PyBytes::new(py, event.payload());
        match self.validate_json.bind(py).call((payload,), Some(domain.reading.bind(py))) {
            Ok(typed) => {
                domain.set_envelope(&typed, &Bound::new(py, PyEvent::from_stored(event))?)?;
                Ok(typed)
            }
            Err(failure) if failure.is_instance_of::<PyException>(py) => {
                let reason = failure.value(py).to_string();
                Err(unreadable(py, &event, &reason, Some(failure)))
            }
            Err(interrupt) => Err(interrupt),
        }
    }
}

type Plan = (String, u32, Py<PyAny>, Py<PyAny>, bool, Vec<Py<PyString>>, Vec<Py<PyType>>);

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

/// By the address of the class, which the entry keeps alive.
type ByAddress<T> = LazyLock<Mutex<HashMap<usize, Arc<T>>>>;

type ByTypes = HashMap<String, HashMap<String, Option<Arc<EventClass>>>>;

static CLASSES: ByAddress<EventClass> = LazyLock::new(Mutex::default);

/// By aggregate type and event type.
static RESOLVED: LazyLock<Mutex<ByTypes>> = LazyLock::new(Mutex::default);

/// Forgets what was found out about classes: another one was defined, and may be the better answer.
#[pyfunction]
pub(crate) fn classes_changed() {
    // Taken out first: dropping the last reference to a class runs Python code, which must not find these locked.
    let known = std::mem::take(&mut *CLASSES.lock());
    let resolved = std::mem::take(&mut *RESOLVED.lock());
    drop((known, resolved));
    crate::aggregate_class::forget();
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
    if error.is_instance_of::<PyException>(py) {
        if let Err(broken) = place() {
            return broken;
        }
    }
    error
}

impl PartialEq for EventClass {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self, other)
    }
}
