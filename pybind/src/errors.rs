//! The errors of `eventuali.errors`, raised from Rust.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

/// The module `eventuali.errors`.
fn errors(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static ERRORS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    ERRORS.get_or_try_init(py, || py.import("eventuali.errors").map(Bound::unbind)).map(|module| module.bind(py))
}

/// The error `eventuali.errors.<name>(message, **facts)`: every fact becomes an attribute.
pub(crate) fn error<'py>(py: Python<'py>, name: &str, message: &str, facts: &Bound<'py, PyDict>) -> PyErr {
    let raise = || errors(py)?.getattr(name)?.call((message,), Some(facts));
    match raise() {
        Ok(error) => PyErr::from_value(error),
        Err(broken) => broken,
    }
}
