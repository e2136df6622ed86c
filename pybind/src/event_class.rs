//! What is known about a class of events: how its events become bytes, and come back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use eventuali::{DataFormat, Event};
use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};

use crate::domain::{Domain, unreadable};

/// What is known about a class of events.
pub(crate) struct EventClass {
    pub(crate) class: Py<PyType>,
    pub(crate) event_type: Arc<str>,
    pub(crate) event_version: u32,
    to_json: Py<PyAny>,
    /// Whether it writes such events without being told how.
    plain: bool,
    validate_json: Py<PyAny>,
    /// Whether it ignores unknown fields without being told to.
    lenient: bool,
    /// Whether each event is read back when it is applied, not only the first one.
    check_each: AtomicBool,
    checked: AtomicBool,
    /// Whether what was validated may have been changed since, in a list or the like.
    mutable: bool,
    /// Fields whose offset from UTC decides whether they come back.
    moments: Vec<Py<PyString>>,
    /// Models inside, of which a subclass would not come back.
    nested: Vec<Py<PyType>>,
}

/// An integer of so many digits is not read back by any JSON reader that Python has.
const DIGITS_MAX: usize = 4_300;

/// By the address of the class, which the entry keeps alive.
static CLASSES: LazyLock<Mutex<HashMap<usize, Arc<EventClass>>>> = LazyLock::new(Mutex::default);

/// Forgets what was found out about classes of events.
pub(crate) fn forget() {
    // Taken out first: dropping the last reference to a class runs Python code, which must not find it locked.
    let known = std::mem::take(&mut *CLASSES.lock());
    drop(known);
}

impl EventClass {
    /// What is known about the class of `event`.
    ///
    /// # Errors
    /// `TypeError` if it is not a `DomainEvent`; `SerializationError` if a field of its class can never come back.
    pub(crate) fn of(event: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        Self::of_class(&event.get_type())
    }

    /// What is known about `class`.
    ///
    /// # Errors
    /// As [`EventClass::of`].
    pub(crate) fn of_class(class: &Bound<'_, PyType>) -> PyResult<Arc<Self>> {
        if let Some(known) = CLASSES.lock().get(&(class.as_ptr() as usize)) {
            return Ok(Arc::clone(known));
        }
        let py = class.py();
        let domain = Domain::get(py)?;
        if !class.is_subclass(domain.event_base.bind(py))? {
            return Err(PyTypeError::new_err(format!("{} is not an event; give an object of a subclass of DomainEvent", class.qualname()?)));
        }
        let found = domain.plan_of.bind(py).call1((class,))?;
        let (event_type, event_version, to_json, plain, validate_json, lenient, check_each, mutable, moments, nested) = found.extract::<Plan>()?;
        let found = Arc::new(Self {
            class: class.clone().unbind(),
            event_type: event_type.into(),
            event_version,
            to_json,
            plain,
            validate_json,
            lenient,
            check_each: AtomicBool::new(check_each),
            checked: AtomicBool::new(false),
            mutable,
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
    pub(crate) fn serialize<'py>(&self, event: &Bound<'py, PyAny>, validated: bool) -> PyResult<Bound<'py, PyBytes>> {
        let py = event.py();
        let domain = Domain::get(py)?;
        let to_json = self.to_json.bind(py);
        // Asking pydantic to be wary costs more than all the rest, so it is asked only where there may be a reason.
        let written = match (self.mutable || !validated, self.plain) {
            (true, _) => to_json.call((event,), Some(domain.writing_warily.bind(py))),
            (false, true) => to_json.call1((event,)),
            (false, false) => to_json.call((event,), Some(domain.writing.bind(py))),
        };
        let payload = match written {
            Ok(payload) => payload.cast_into::<PyBytes>()?,
            Err(failure) if failure.is_instance_of::<PyException>(py) => {
                return Ok(domain.payload_of.bind(py).call1((event, failure.value(py)))?.cast_into()?);
            }
            Err(interrupt) => return Err(interrupt),
        };
        if !validated || !self.checked.load(Ordering::Relaxed) || self.is_doubtful(event, payload.as_bytes())? {
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
                if !seconds.is_multiple_of(60) || micros != 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The event of this class that is stored as `event`; it has no envelope yet.
    ///
    /// # Errors
    /// `DeserializationError` with the position, if the class refuses the payload.
    pub(crate) fn read<'py>(&self, py: Python<'py>, domain: &Domain, event: &Event) -> PyResult<Bound<'py, PyAny>> {
        if event.format() != DataFormat::Json {
            return Err(unreadable(py, event, "its payload is Protobuf, not JSON", None));
        }
        let payload = PyBytes::new(py, event.payload());
        let validate = self.validate_json.bind(py);
        let read = if self.lenient { validate.call1((payload,)) } else { validate.call((payload,), Some(domain.reading.bind(py))) };
        match read {
            Ok(typed) => Ok(typed),
            Err(failure) if failure.is_instance_of::<PyException>(py) => {
                let reason = failure.value(py).to_string();
                Err(unreadable(py, event, &reason, Some(failure)))
            }
            Err(interrupt) => Err(interrupt),
        }
    }
}

type Plan = (String, u32, Py<PyAny>, bool, Py<PyAny>, bool, bool, bool, Vec<Py<PyString>>, Vec<Py<PyType>>);
