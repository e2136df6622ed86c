//! JSON lines in files that Python has opened, and the tables of another library.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use eventuali::Result;
use eventuali_sql::{Moved, check_eventsourcing, export_json_lines, import_eventsourcing, import_json_lines};
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};

use super::{Failure, Outcome, PyMove};
use crate::store::PyEventStore;
use crate::text::kind;

/// How much is read or written at once.
const CHUNK: usize = 256 << 10;

/// A binary file of Python, read or written in another thread; it keeps what its methods raise.
struct File {
    method: Py<PyAny>,
    raised: Option<PyErr>,
}

impl File {
    fn of(method: &Bound<'_, PyAny>) -> Self {
        Self { method: method.clone().unbind(), raised: None }
    }

    /// Calls the method; what it raises is kept, and stands behind the error that is returned.
    fn call<T>(&mut self, call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> io::Result<T> {
        let called = Python::try_attach(|py| call(self.method.bind(py)));
        match called.unwrap_or_else(|| Err(PyOSError::new_err("the interpreter has ended"))) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.raised = Some(error);
                Err(io::Error::other("a method of the file raised an exception"))
            }
        }
    }

    /// What came of it; what the file raised goes before.
    fn outcome(self, moved: Result<Moved>) -> std::result::Result<Outcome, Failure> {
        match self.raised {
            Some(error) => Err(Failure::File(error)),
            None => Ok(Outcome::Moved(moved?)),
        }
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(|read| {
            let answer = read.call1((buffer.len(),))?;
            let Ok(bytes) = answer.cast::<PyBytes>() else {
                return Err(PyTypeError::new_err(format!("the file gave {}, not bytes: open it with mode 'rb'", kind(&answer))));
            };
            let bytes = bytes.as_bytes();
            let Some(part) = buffer.get_mut(..bytes.len()) else {
                return Err(PyOSError::new_err("the file gave more bytes than it was asked for"));
            };
            part.copy_from_slice(bytes);
            Ok(bytes.len())
        })
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(|write| {
            let written = write.call1((PyBytes::new(write.py(), bytes),))?;
            // A buffered file takes everything, and need not say so.
            if written.is_instance_of::<PyInt>() { written.extract() } else { Ok(bytes.len()) }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `write` is the method of a binary file.
#[pyfunction]
pub(crate) fn start_export_lines(py: Python<'_>, source: &PyEventStore, write: &Bound<'_, PyAny>, blocking: bool) -> PyResult<PyMove> {
    let (source, file) = (Arc::clone(&source.handle), File::of(write));
    PyMove::begin(py, blocking, move |shared| {
        let mut lines = BufWriter::with_capacity(CHUNK, file);
        let moved = export_json_lines(source.store(), &mut lines, |progress| shared.report(progress));
        lines.into_parts().0.outcome(moved)
    })
}

/// `read` is the method of a binary file.
#[pyfunction]
pub(crate) fn start_import_lines(py: Python<'_>, read: &Bound<'_, PyAny>, target: &PyEventStore, blocking: bool) -> PyResult<PyMove> {
    let (target, file) = (Arc::clone(&target.handle), File::of(read));
    PyMove::begin(py, blocking, move |shared| {
        let mut lines = BufReader::with_capacity(CHUNK, file);
        let moved = import_json_lines(&mut lines, target.kind(), |progress| shared.report(progress));
        lines.into_inner().outcome(moved)
    })
}

/// `address` is that of a database with the events of an `eventsourcing` application.
#[pyfunction]
pub(crate) fn start_check_eventsourcing(py: Python<'_>, address: String, table: Option<String>, blocking: bool) -> PyResult<PyMove> {
    PyMove::begin(py, blocking, move |_| Ok(check_eventsourcing(&address, table.as_deref()).map(|()| Outcome::IsThere)?))
}

#[pyfunction]
pub(crate) fn start_import_eventsourcing(
    py: Python<'_>,
    address: String,
    table: Option<String>,
    target: &PyEventStore,
    blocking: bool,
) -> PyResult<PyMove> {
    let target = Arc::clone(&target.handle);
    PyMove::begin(py, blocking, move |shared| {
        let moved = import_eventsourcing(&address, table.as_deref(), target.kind(), |progress| shared.report(progress));
        Ok(Outcome::Moved(moved?))
    })
}
