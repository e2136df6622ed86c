//! Events under way to Python: one cursor, iterated with `for` or with `async for`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec;

use eventuali::{Event, EventReader};
use parking_lot::Mutex;
use pyo3::exceptions::{PyStopAsyncIteration, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3::{IntoPyObjectExt, intern};

use crate::bridge::{self, Job, Parking, Step, Waiter, turn};
use crate::event::{PyEvent, typed_event};

/// From so many events on, the next read is expected to be long enough to be done without the GIL.
const LONG_READ: u64 = 128;

/// Events read, and yet to be read. Shared by a stream and its batches.
pub(crate) struct Cursor {
    state: Mutex<State>,
}

struct State {
    /// Nothing once the stream was closed or has ended.
    reader: Option<EventReader>,
    ready: vec::IntoIter<Event>,
    large: bool,
}

impl Cursor {
    /// A cursor over what `reader` reads; `expected` events, so far as is known.
    pub(crate) fn new(reader: EventReader, expected: u64) -> Arc<Self> {
        let state = State { reader: Some(reader), ready: Vec::new().into_iter(), large: expected > LONG_READ };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn next(&self, py: Python<'_>) -> Option<Event> {
        bridge::lock(py, &self.state).ready.next()
    }

    fn rest(&self, py: Python<'_>) -> Vec<Event> {
        std::mem::take(&mut bridge::lock(py, &self.state).ready).collect()
    }

    /// Reads the next batch if there is none: true at the end, `None` if the waker will be called.
    fn fill(&self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Option<bool>> {
        let mut guard = bridge::lock(py, &self.state);
        let state = &mut *guard;
        if state.ready.len() > 0 {
            return Ok(Some(false));
        }
        let Some(reader) = &mut state.reader else { return Ok(Some(true)) };
        let Some(read) = waiter.batch(py, reader, state.large)? else { return Ok(None) };
        let (batch, error) = match read {
            Ok(Some(batch)) => (batch, None),
            Ok(None) => (Vec::new(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        turn::worked(batch.len());
        state.large = batch.len() as u64 > LONG_READ;
        if batch.is_empty() {
            state.reader = None;
        }
        let ended = batch.is_empty();
        state.ready = batch.into_iter();
        drop(guard);
        error.map_or(Ok(Some(ended)), |error| Err(bridge::raise(py, &error)))
    }

    fn describe(&self, py: Python<'_>, name: &str) -> String {
        let state = bridge::lock(py, &self.state);
        let open = state.reader.is_some() || state.ready.len() > 0;
        format!("<{name}, {}>", if open { "open" } else { "ended" })
    }

    fn close(&self, py: Python<'_>) {
        let mut state = bridge::lock(py, &self.state);
        let left = (state.reader.take(), std::mem::take(&mut state.ready));
        drop(state);
        drop(left);
    }
}

/// What an iteration yields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One event after the other, as its class.
    Typed,
    /// Lists of stored events, undecoded.
    Batches,
}

impl Shape {
    /// The next item of what has been read.
    fn take(self, py: Python<'_>, cursor: &Cursor) -> PyResult<Option<Py<PyAny>>> {
        match self {
            Self::Typed => {
                let Some(event) = cursor.next(py) else { return Ok(None) };
                typed_event(py, event).map(Some).map_err(|error| bridge::not_stop_iteration(py, error))
            }
            Self::Batches => {
                let events = cursor.rest(py);
                if events.is_empty() {
                    return Ok(None);
                }
                let events = events.into_iter().map(|event| Py::new(py, PyEvent::from_stored(event))).collect::<PyResult<Vec<_>>>()?;
                PyList::new(py, events).map(|list| Some(list.into_any().unbind()))
            }
        }
    }

    fn next_blocking(self, py: Python<'_>, cursor: &Cursor) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if let Some(item) = self.take(py, cursor)? {
                return Ok(Some(item));
            }
            // Parked with the cursor free: other threads may read on, and so may the handler of a signal.
            let parking = Parking::here();
            loop {
                match cursor.fill(py, &Waiter::Wake(parking.waker()))? {
                    Some(true) => return Ok(None),
                    Some(false) => break,
                    None => parking.wait(py)?,
                }
            }
        }
    }
}

/// The next item, to be awaited. Nothing is taken from the stream before it is there, so that cancelling loses nothing.
#[pyclass(module = "eventuali._eventuali", frozen)]
struct Upcoming {
    cursor: Arc<Cursor>,
    shape: Shape,
    /// The loop has just had its turn.
    given: AtomicBool,
    /// What the loop's future is awaited with, while a read is under way.
    waiting: Mutex<Option<Py<PyAny>>>,
}

impl Upcoming {
    fn new(cursor: &Arc<Cursor>, shape: Shape) -> Self {
        Self { cursor: Arc::clone(cursor), shape, given: AtomicBool::new(false), waiting: Mutex::new(None) }
    }

    fn set_waiting(&self, py: Python<'_>, iterator: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *bridge::lock(py, &self.waiting), iterator);
        drop(before);
    }

    /// What to yield to the loop, if the read under way still is.
    fn wait_on(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let waiting = bridge::lock(py, &self.waiting).take();
        let Some(iterator) = waiting else { return Ok(None) };
        match iterator.call_method0(py, intern!(py, "__next__")) {
            Ok(yielded) => {
                self.set_waiting(py, Some(iterator));
                Ok(Some(yielded))
            }
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[pymethods]
impl Upcoming {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        // What an earlier, cancelled await waited for is of no use any more.
        slf.get().set_waiting(slf.py(), None);
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(yielded) = self.wait_on(py)? {
            return Ok(yielded);
        }
        if !self.given.swap(false, Ordering::Relaxed) && turn::due() {
            bridge::require_asyncio(py)?;
            self.given.store(true, Ordering::Relaxed);
            return Ok(py.None());
        }
        loop {
            if let Some(item) = self.shape.take(py, &self.cursor)? {
                return Err(PyStopIteration::new_err(item));
            }
            match self.cursor.fill(py, &Waiter::Wake(std::task::Waker::noop()))? {
                Some(true) => return Err(PyStopAsyncIteration::new_err(())),
                Some(false) => {}
                None => {
                    let pending = bridge::Pending::when_woken(py, Box::new(Fill(Arc::clone(&self.cursor))))?;
                    if pending.is_none(py) {
                        continue;
                    }
                    self.set_waiting(py, Some(pending.call_method0(py, intern!(py, "__await__"))?));
                    if let Some(yielded) = self.wait_on(py)? {
                        return Ok(yielded);
                    }
                }
            }
        }
    }
}

/// Reads the next batch into the cursor, where it is safe from cancellation.
struct Fill(Arc<Cursor>);

impl Job for Fill {
    fn step(&mut self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Step> {
        Ok(self.0.fill(py, waiter)?.map_or(Step::Wait, |_| Step::Done(py.None())))
    }
}

/// An answer that is there already, to be awaited.
#[pyclass(module = "eventuali._eventuali", frozen)]
struct Ready(Py<PyAny>);

impl Ready {
    fn with<'py>(answer: impl IntoPyObject<'py>, py: Python<'py>) -> PyResult<Self> {
        answer.into_py_any(py).map(Self)
    }
}

#[pymethods]
impl Ready {
    fn __await__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err((self.0.clone_ref(py),)))
    }
}

/// One side of a stream: a cursor and what it yields.
struct Side {
    cursor: Arc<Cursor>,
    shape: Shape,
    upcoming: Py<Upcoming>,
}

impl Side {
    fn new(py: Python<'_>, cursor: Arc<Cursor>, shape: Shape) -> PyResult<Self> {
        let upcoming = Py::new(py, Upcoming::new(&cursor, shape))?;
        Ok(Self { cursor, shape, upcoming })
    }

    /// The same awaitable serves as long as there are events to take; one that may have to wait is new.
    fn anext(&self, py: Python<'_>) -> PyResult<Py<Upcoming>> {
        if bridge::lock(py, &self.cursor.state).ready.len() > 0 {
            return Ok(self.upcoming.clone_ref(py));
        }
        Py::new(py, Upcoming::new(&self.cursor, self.shape))
    }
}

macro_rules! asynchronous {
    ($class:ident $name:literal $($more:tt)*) => {
        #[pymethods]
        impl $class {
            $($more)*

            fn __repr__(&self, py: Python<'_>) -> String {
                self.0.cursor.describe(py, $name)
            }

            fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
                slf
            }

            fn __anext__(&self, py: Python<'_>) -> PyResult<Py<Upcoming>> {
                self.0.anext(py)
            }

            fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Ready> {
                let py = slf.py();
                Ready::with(slf, py)
            }

            #[pyo3(signature = (*_exception))]
            fn __aexit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<Ready> {
                self.aclose(py)
            }

            fn aclose(&self, py: Python<'_>) -> PyResult<Ready> {
                self.0.cursor.close(py);
                Ready::with(py.None(), py)
            }
        }
    };
}

macro_rules! synchronous {
    ($class:ident $name:literal $($more:tt)*) => {
        #[pymethods]
        impl $class {
            $($more)*

            fn __repr__(&self, py: Python<'_>) -> String {
                self.0.cursor.describe(py, $name)
            }

            fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
                slf
            }

            fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
                self.0.shape.next_blocking(py, &self.0.cursor)
            }

            fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
                slf
            }

            #[pyo3(signature = (*_exception))]
            fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) {
                self.close(py);
            }

            fn close(&self, py: Python<'_>) {
                self.0.cursor.close(py);
            }
        }
    };
}

/// Events as they come, each as its class: `async for event in stream`.
#[pyclass(module = "eventuali", name = "EventStream", frozen)]
pub(crate) struct PyEventStream(Side);

/// Lists of stored events, undecoded: `async for events in stream.batches()`.
#[pyclass(module = "eventuali", name = "EventBatches", frozen)]
pub(crate) struct PyBatches(Side);

/// Events as they come, each as its class: `for event in stream`.
#[pyclass(module = "eventuali._eventuali", name = "SyncEventStream", frozen)]
pub(crate) struct PySyncEventStream(Side);

/// Lists of stored events, undecoded: `for events in stream.batches()`.
#[pyclass(module = "eventuali._eventuali", name = "SyncEventBatches", frozen)]
pub(crate) struct PySyncBatches(Side);

/// A stream over what `reader` reads, for one shell or the other; `expected` events, so far as is known.
pub(crate) fn stream(py: Python<'_>, reader: EventReader, expected: u64, blocking: bool) -> PyResult<Py<PyAny>> {
    let side = Side::new(py, Cursor::new(reader, expected), Shape::Typed)?;
    if blocking { PySyncEventStream(side).into_py_any(py) } else { PyEventStream(side).into_py_any(py) }
}

asynchronous!(PyEventStream "EventStream"
    fn batches(&self, py: Python<'_>) -> PyResult<PyBatches> {
        Side::new(py, Arc::clone(&self.0.cursor), Shape::Batches).map(PyBatches)
    }
);
asynchronous!(PyBatches "EventBatches");
synchronous!(PySyncEventStream "sync.EventStream"
    fn batches(&self, py: Python<'_>) -> PyResult<PySyncBatches> {
        Side::new(py, Arc::clone(&self.0.cursor), Shape::Batches).map(PySyncBatches)
    }
);
synchronous!(PySyncBatches "sync.EventBatches");
