//! `EventMetadata` for Python.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use eventuali::EventMetadata;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy, PyString, PyTuple};

use crate::text::{id, kind, text};

/// What is known about an event beside its payload: who caused it, and in which conversation.
#[pyclass(frozen, eq, module = "eventuali._eventuali", name = "EventMetadata")]
#[derive(PartialEq, Eq)]
pub(crate) struct PyEventMetadata(pub(crate) Arc<EventMetadata>);

/// What `metadata=` of a save or append means: an `EventMetadata`, or nothing.
pub(crate) fn metadata_argument(metadata: Option<&Bound<'_, PyAny>>) -> PyResult<Arc<EventMetadata>> {
    static NOTHING: LazyLock<Arc<EventMetadata>> = LazyLock::new(Arc::default);
    let Some(metadata) = metadata else { return Ok(Arc::clone(&NOTHING)) };
    match metadata.cast::<PyEventMetadata>() {
        Ok(metadata) => Ok(Arc::clone(&metadata.get().0)),
        Err(_) => Err(PyTypeError::new_err(format!("metadata is an EventMetadata, not {}", kind(metadata)))),
    }
}

/// `headers=`: a mapping of strings to strings.
fn headers_argument(headers: &Bound<'_, PyAny>) -> PyResult<BTreeMap<String, String>> {
    let wrong = |what: &Bound<'_, PyAny>| PyTypeError::new_err(format!("headers must map strings to strings, not {}", kind(what)));
    let Ok(items) = headers.call_method0(intern!(headers.py(), "items")) else { return Err(wrong(headers)) };
    let header = |item: PyResult<Bound<'_, PyAny>>| {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
        let part = |part: &Bound<'_, PyAny>| part.cast::<PyString>().map_err(|_| wrong(part)).and_then(|part| text("headers", part));
        Ok((part(&name)?, part(&value)?))
    };
    items.try_iter()?.map(header).collect()
}

fn id_argument(option: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<String>> {
    value.map(|value| id(option, value)).transpose()
}

#[pymethods]
impl PyEventMetadata {
    #[new]
    #[pyo3(signature = (*, causation_id = None, correlation_id = None, user_id = None, headers = None))]
    fn new(
        causation_id: Option<&Bound<'_, PyAny>>,
        correlation_id: Option<&Bound<'_, PyAny>>,
        user_id: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let headers = match headers {
            None => BTreeMap::new(),
            Some(headers) => headers_argument(headers)?,
        };
        Ok(Self(Arc::new(EventMetadata {
            causation_id: id_argument("causation_id", causation_id)?,
            correlation_id: id_argument("correlation_id", correlation_id)?,
            user_id: id_argument("user_id", user_id)?,
            headers,
        })))
    }

    /// The id of the message that caused the event.
    #[getter]
    fn causation_id(&self) -> Option<&str> {
        self.0.causation_id.as_deref()
    }

    /// The id of the conversation that the event belongs to.
    #[getter]
    fn correlation_id(&self) -> Option<&str> {
        self.0.correlation_id.as_deref()
    }

    /// Who did it.
    #[getter]
    fn user_id(&self) -> Option<&str> {
        self.0.user_id.as_deref()
    }

    /// Anything else, by name.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMappingProxy>> {
        Ok(PyMappingProxy::new(py, self.header_dict(py)?.as_mapping()))
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let EventMetadata { causation_id, correlation_id, user_id, headers } = &*self.0;
        (causation_id, correlation_id, user_id, headers).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let mut parts = Vec::new();
        for (name, value) in self.texts() {
            if let Some(value) = value {
                parts.push(format!("{name}={}", PyString::new(py, value).repr()?));
            }
        }
        if !self.0.headers.is_empty() {
            parts.push(format!("headers={}", self.header_dict(py)?.repr()?));
        }
        Ok(format!("EventMetadata({})", parts.join(", ")))
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let arguments = PyDict::new(py);
        for (name, value) in self.texts() {
            arguments.set_item(name, value)?;
        }
        arguments.set_item("headers", self.header_dict(py)?)?;
        Ok((PyTuple::empty(py), arguments))
    }
}

impl PyEventMetadata {
    fn texts(&self) -> [(&'static str, Option<&str>); 3] {
        [("causation_id", self.causation_id()), ("correlation_id", self.correlation_id()), ("user_id", self.user_id())]
    }

    fn header_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        (&self.0.headers).into_pyobject(py)
    }
}
