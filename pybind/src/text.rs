//! Text that Python passes: its strings may hold surrogates, which are no characters and which no store can hold.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice, PyString};
use uuid::Uuid;

use crate::errors;

/// So much of a name that cannot be used is shown, in characters.
const SHOWN_MAX: isize = 64;

/// The text of the argument `option`.
///
/// # Errors
/// `InvalidNameError` if it holds a surrogate.
pub(crate) fn text(option: &str, value: &Bound<'_, PyString>) -> PyResult<String> {
    match value.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(not_unicode(option, value).unwrap_or_else(|broken| broken)),
    }
}

/// The text of an id, given as a string or a UUID as the argument `option`.
///
/// # Errors
/// `TypeError` if it is neither, and as [`text`].
pub(crate) fn id(option: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(value) = value.cast::<PyString>() {
        return text(option, value);
    }
    match value.extract::<Uuid>() {
        Ok(uuid) => Ok(uuid.to_string()),
        Err(_) => Err(PyTypeError::new_err(format!("{option} is neither a string nor a UUID, but of type {}", kind(value)))),
    }
}

/// The name of a value's class, for messages.
pub(crate) fn kind(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "that".to_owned(), |name| name.to_string())
}

fn not_unicode(option: &str, value: &Bound<'_, PyString>) -> PyResult<PyErr> {
    let py = value.py();
    let shown = value.get_item(PySlice::new(py, 0, SHOWN_MAX, 1))?;
    let message = format!("{option} {} holds a surrogate, which is no character and cannot be stored; leave it out", shown.repr()?);
    let facts = PyDict::new(py);
    facts.set_item("what", option.replace('_', " "))?;
    facts.set_item("value", shown)?;
    Ok(errors::error(py, "InvalidNameError", &message, &facts))
}
