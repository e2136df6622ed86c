//! What is awaited when an operation has to wait.

use std::task::Waker;

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyGenericAlias, PyType};

use super::event_loop::{EventLoop, Parked, running_loop};
use super::{Job, Step, Waiter, lock};

/// An operation that needs the event loop: to wait for the disk, or to give others a turn.
#[pyclass(module = "eventuali._eventuali", frozen)]
pub(crate) struct Pending {
    state: Mutex<State>,
}

enum State {
    /// Goes on when it is resumed for the second time.
    Turn { job: Box<dyn Job>, given: bool },
    /// Completed by the loop's future.
    Future(Py<PyAny>),
    /// As above, awaited: the future's iterator.
    Awaiting(Py<PyAny>),
    /// Nothing to wait for any more.
    Spent,
}

/// An answer, or what to await for it.
enum Next {
    Answer(Py<PyAny>),
    Resume(State),
}

impl Pending {
    /// Carries the job on after the loop had a turn.
    pub(crate) fn after_a_turn(py: Python<'_>, job: Box<dyn Job>) -> PyResult<Py<PyAny>> {
        Self::with(py, State::Turn { job, given: false })
    }

    /// Carries the job on when the engine says so.
    pub(crate) fn when_woken(py: Python<'_>, job: Box<dyn Job>) -> PyResult<Py<PyAny>> {
        match park(py, job)? {
            Next::Answer(answer) => Ok(answer),
            Next::Resume(state) => Self::with(py, state),
        }
    }

    fn with(py: Python<'_>, state: State) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, Self { state: Mutex::new(state) })?.into_any())
    }
}

#[pymethods]
impl Pending {
    /// `Pending[Receipt]`, for annotations.
    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, answer: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(class.py(), class.as_any(), answer)
    }

    fn __await__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        let py = slf.py();
        let future = match &*lock(py, &slf.get().state) {
            State::Future(future) => Some(future.clone_ref(py)),
            _ => None,
        };
        match future {
            Some(future) => future.into_bound(py).call_method0(intern!(py, "__await__")),
            None => Ok(slf.into_any()),
        }
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let state = std::mem::replace(&mut *lock(py, &self.state), State::Spent);
        let next = match state {
            State::Turn { job, given: false } => {
                require_asyncio(py)?;
                super::turn::taken();
                Next::Resume(State::Turn { job, given: true })
            }
            State::Turn { mut job, given: true } => {
                match job.step(py, &Waiter::Wake(Waker::noop())).map_err(|error| not_stop_iteration(py, error))? {
                    Step::Done(answer) => Next::Answer(answer),
                    Step::Turn => {
                        super::turn::taken();
                        Next::Resume(State::Turn { job, given: true })
                    }
                    Step::Wait => park(py, job)?,
                }
            }
            State::Future(future) => Next::Resume(State::Awaiting(future.call_method0(py, intern!(py, "__await__"))?)),
            State::Awaiting(iterator) => Next::Resume(State::Awaiting(iterator)),
            State::Spent => return Err(PyRuntimeError::new_err("this operation was awaited already")),
        };
        match next {
            Next::Answer(answer) => Err(PyStopIteration::new_err((answer,))),
            Next::Resume(State::Future(future)) => self.forward(py, future.call_method0(py, intern!(py, "__await__"))?),
            Next::Resume(State::Awaiting(iterator)) => self.forward(py, iterator),
            Next::Resume(state) => {
                *lock(py, &self.state) = state;
                Ok(py.None())
            }
        }
    }
}

impl Pending {
    fn forward(&self, py: Python<'_>, iterator: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let yielded = iterator.call_method0(py, intern!(py, "__next__"))?;
        *lock(py, &self.state) = State::Awaiting(iterator);
        Ok(yielded)
    }
}

fn park(py: Python<'_>, job: Box<dyn Job>) -> PyResult<Next> {
    let event_loop = EventLoop::running(py)?;
    Ok(match event_loop.get().park(py, job).map_err(|error| not_stop_iteration(py, error))? {
        Parked::Done(answer) => Next::Answer(answer),
        Parked::Future(future) => Next::Resume(State::Future(future)),
        Parked::Turn(job) => Next::Resume(State::Turn { job, given: false }),
    })
}

/// Refuses to wait on anything but asyncio, in words rather than with a stray `None`.
pub(crate) fn require_asyncio(py: Python<'_>) -> PyResult<()> {
    running_loop(py).map(drop)
}

/// A `StopIteration` from a handler or validator would look like an answer to whoever awaits.
pub(crate) fn not_stop_iteration(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let wrapped = PyRuntimeError::new_err("a handler or validator raised StopIteration");
    wrapped.set_cause(py, Some(error));
    wrapped
}
