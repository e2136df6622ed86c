//! A mirror that Python has started.

use std::process;
use std::sync::Arc;
use std::thread;

use eventuali::{Completion, Error};
use eventuali_sql::{Mirror, MirrorStatus};
use parking_lot::Mutex;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::bridge::{self, Effort};
use crate::store::in_thread::in_thread;
use crate::store::{Ask, PyEventStore};

/// An export that stays.
#[pyclass(module = "eventuali._eventuali", name = "MirrorCore", frozen)]
pub(crate) struct PyMirror {
    state: Arc<Mutex<State>>,
    blocking: bool,
    /// In a forked child there is no thread that could be waited for.
    process: u32,
}

enum State {
    Running(Mirror),
    /// How far it has come.
    Stopped(MirrorStatus),
}

impl State {
    fn status(&self) -> (MirrorStatus, bool) {
        match self {
            Self::Running(mirror) => (mirror.status(), mirror.is_running()),
            Self::Stopped(status) => (status.clone(), false),
        }
    }
}

fn status_parts(py: Python<'_>, (status, running): (MirrorStatus, bool)) -> PyResult<Py<PyAny>> {
    let waiting = status.waiting.map(|error| bridge::raise(py, &error).into_value(py));
    (status.position.0, status.events, waiting, running).into_py_any(py)
}

#[pymethods]
impl PyMirror {
    fn status(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let status = bridge::lock(py, &self.state).status();
        status_parts(py, status)
    }

    /// Ends it, with an error if one has ended it before; once it was stopped, only tells how far it has come.
    fn stop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if process::id() != self.process {
            return Err(bridge::raise(py, &Error::ForkedProcess));
        }
        let asked = {
            let mut state = bridge::lock(py, &self.state);
            let (status, _) = state.status();
            match std::mem::replace(&mut *state, State::Stopped(status.clone())) {
                State::Stopped(_) => Completion::ready(Ok(status)),
                State::Running(mirror) => {
                    let stopped = Arc::clone(&self.state);
                    in_thread(move || {
                        let status = mirror.stop()?;
                        *stopped.lock() = State::Stopped(status.clone());
                        Ok(status)
                    })
                }
            }
        };
        let job = Ask { asked, effort: Effort::DISK, answer: |py: Python<'_>, status: MirrorStatus| status_parts(py, (status, false)) };
        if self.blocking { bridge::block_on(py, job) } else { bridge::start(py, job) }
    }
}

impl Drop for PyMirror {
    fn drop(&mut self) {
        // Who drops it has the GIL, and its last transaction may take long.
        let state = Arc::clone(&self.state);
        drop(thread::Builder::new().name("eventuali-mirror-end".to_owned()).spawn(move || drop(state)));
    }
}

/// Both stores stay open until it is stopped.
#[pyfunction]
pub(crate) fn start_mirror(py: Python<'_>, source: &PyEventStore, target: &PyEventStore, blocking: bool) -> PyResult<Py<PyAny>> {
    let (source, target) = (source.handle.kind().clone().into_dyn(), target.handle.kind().clone());
    let answer = move |py: Python<'_>, mirror: Mirror| {
        let state = Arc::new(Mutex::new(State::Running(mirror)));
        Py::new(py, PyMirror { state, blocking, process: process::id() }).map(Py::into_any)
    };
    let job = Ask { asked: in_thread(move || Mirror::start(source, target)), effort: Effort::DISK, answer };
    if blocking { bridge::block_on(py, job) } else { bridge::start(py, job) }
}
