//! One asyncio event loop and the operations that wait on it.
//!
//! The engine's threads only post keys into the loop's [`Mailbox`]; the loop's own thread fetches them and sets all futures in one go.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};
use pyo3::{IntoPyObjectExt, intern};

use super::mailbox::Mailbox;
use super::{Job, Step, Waiter, errors, turn};

/// So long may completing futures take before the loop has a turn.
const DRAIN_MAX: Duration = Duration::from_millis(1);
/// How often a listener looks whether its loop still lives.
const LISTEN: Duration = Duration::from_secs(1);

/// What waits on one event loop.
#[pyclass(module = "eventuali._eventuali", frozen)]
pub(crate) struct EventLoop {
    watched: Py<PyWeakrefReference>,
    mailbox: Arc<Mailbox>,
    slots: Mutex<Slots>,
    listener: Mutex<Option<Py<PyAny>>>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

enum Slot {
    Free,
    /// Being carried on right now; `again` if it was woken meanwhile.
    Busy {
        again: bool,
    },
    Parked(Waiting),
}

/// A job that waits, who wants its answer, and how the engine wakes it.
struct Waiting {
    job: Box<dyn Job>,
    future: Py<PyAny>,
    waker: Waker,
}

/// What became of a job that was to wait.
pub(crate) enum Parked {
    /// It did not have to wait after all.
    Done(Py<PyAny>),
    /// It waits, and this future gets the answer.
    Future(Py<PyAny>),
    /// The loop is to have a turn first.
    Turn(Box<dyn Job>),
}

thread_local! {
    /// The loop that last ran in this thread: found without a look into [`all`].
    static CURRENT: std::cell::RefCell<Option<Py<EventLoop>>> = const { std::cell::RefCell::new(None) };
}

/// Every loop that something ever waited on, as long as it lives.
fn all(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static ALL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let all = ALL.get_or_try_init(py, || py.import("weakref")?.call_method0("WeakKeyDictionary").map(Bound::unbind))?;
    Ok(all.bind(py))
}

/// What waits on every loop that lives. The references are listed in one step: `values` goes from one to the next in Python, and fails where
/// another thread adds its loop meanwhile.
fn known_loops(py: Python<'_>) -> PyResult<Vec<Bound<'_, EventLoop>>> {
    let all = all(py)?;
    let mut known = Vec::new();
    for reference in all.call_method0("keyrefs")?.try_iter()? {
        let event_loop = reference?.call0()?;
        if event_loop.is_none() {
            // It is gone since.
            continue;
        }
        if let Ok(found) = all.call_method1(intern!(py, "get"), (event_loop,))?.cast_into::<EventLoop>() {
            known.push(found);
        }
    }
    Ok(known)
}

/// The asyncio loop that runs in this thread.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let running = FUNCTION.import(py, "asyncio", "_get_running_loop")?.call0()?;
    if running.is_none() {
        return Err(errors::unsupported(
            py,
            "eventuali's EventStore needs a running asyncio event loop, and there is none in this thread; \
             under trio, in threads and in plain programs use eventuali.sync.EventStore",
        ));
    }
    Ok(running)
}

impl EventLoop {
    /// What waits on the loop that runs in this thread.
    pub(crate) fn running(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        let running = running_loop(py)?;
        let known = CURRENT.with_borrow(|current| current.as_ref().map(|current| current.clone_ref(py).into_bound(py)));
        if let Some(known) = known
            && known.get().watched.bind(py).upgrade().is_some_and(|event_loop| event_loop.is(&running))
        {
            return Ok(known);
        }
        let found = match all(py)?.call_method1(intern!(py, "get"), (&running,))?.cast_into::<Self>() {
            Ok(found) => found,
            Err(_) => Self::watch(py, &running)?,
        };
        let before = CURRENT.with_borrow_mut(|current| current.replace(found.clone().unbind()));
        drop(before);
        Ok(found)
    }

    fn watch<'py>(py: Python<'py>, running: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        forget_closed_loops(py)?;
        let event_loop = || PyWeakrefReference::new(running).map(Bound::unbind);
        #[cfg(unix)]
        {
            let watched = Bound::new(py, Self::new(event_loop()?, Mailbox::with_descriptor()?))?;
            let descriptor = watched.get().mailbox.descriptor();
            match running.call_method1(intern!(py, "add_reader"), (descriptor, watched.getattr(intern!(py, "drain"))?)) {
                Ok(_) => {
                    all(py)?.set_item(running, &watched)?;
                    return Ok(watched);
                }
                Err(error) if error.is_instance_of::<pyo3::exceptions::PyNotImplementedError>(py) => {}
                Err(error) => return Err(error),
            }
        }
        let listened = Bound::new(py, Self::new(event_loop()?, Mailbox::with_listener()))?;
        all(py)?.set_item(running, &listened)?;
        Self::start_listener(&listened)?;
        Ok(listened)
    }

    fn new(watched: Py<PyWeakrefReference>, mailbox: Mailbox) -> Self {
        Self { watched, mailbox: Arc::new(mailbox), slots: Mutex::default(), listener: Mutex::new(None) }
    }

    /// Carries `job` on with a waker of this loop, and keeps it if it has to wait.
    pub(crate) fn park(&self, py: Python<'_>, mut job: Box<dyn Job>) -> PyResult<Parked> {
        let key = self.slots.lock().take();
        let waker = self.mailbox.waker(key);
        let stepped = job.step(py, &Waiter::Wake(&waker));
        if let Ok(Step::Wait) = stepped {
            let future = self.new_future(py);
            let mut slots = self.slots.lock();
            let Ok(future) = future else {
                slots.give_back(key);
                return future.map(Parked::Future);
            };
            slots.slots[key] = Slot::Parked(Waiting { job, future: future.clone_ref(py), waker });
            return Ok(Parked::Future(future));
        }
        self.slots.lock().give_back(key);
        Ok(match stepped? {
            Step::Done(answer) => Parked::Done(answer),
            Step::Turn | Step::Wait => Parked::Turn(job),
        })
    }

    fn new_future(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.watched.bind(py).upgrade() {
            Some(event_loop) => event_loop.call_method0(intern!(py, "create_future")).map(Bound::unbind),
            None => Err(PyRuntimeError::new_err("the event loop is gone")),
        }
    }

    /// Carries on what waits under `key`, if it can.
    fn carry_on(&self, py: Python<'_>, key: usize) {
        let Some(mut waiting) = self.slots.lock().begin(key) else { return };
        let abandoned = waiting.future.call_method0(py, intern!(py, "done")).and_then(|done| done.extract::<bool>(py)).unwrap_or(true);
        let outcome = if abandoned { None } else { Some(waiting.job.step(py, &Waiter::Wake(&waiting.waker))) };
        let again = match outcome {
            Some(Ok(step @ (Step::Wait | Step::Turn))) => self.slots.lock().park(key, waiting) || matches!(step, Step::Turn),
            Some(outcome) => {
                self.slots.lock().give_back(key);
                settle(py, &waiting.future, outcome);
                false
            }
            None => {
                self.slots.lock().give_back(key);
                false
            }
        };
        if again {
            self.mailbox.post(key);
        }
    }

    fn start_listener(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let options = PyDict::new(py);
        options.set_item("target", slf.getattr(intern!(py, "listen"))?)?;
        options.set_item("name", "eventuali-listener")?;
        options.set_item("daemon", true)?;
        let thread = py.import("threading")?.call_method("Thread", (), Some(&options))?;
        thread.call_method0("start")?;
        *slf.get().listener.lock() = Some(thread.unbind());
        Ok(())
    }

    fn is_closed(&self, py: Python<'_>) -> bool {
        match self.watched.bind(py).upgrade() {
            None => true,
            Some(event_loop) => event_loop.call_method0(intern!(py, "is_closed")).and_then(|closed| closed.extract::<bool>()).unwrap_or(true),
        }
    }

    /// Lets go of everything that waited on a loop that will never run again.
    fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        self.mailbox.stop();
        let abandoned = std::mem::take(&mut *self.slots.lock());
        drop(abandoned);
        let listener = self.listener.lock().take();
        match listener {
            Some(thread) => thread.call_method1(py, "join", (5,)).map(drop),
            None => Ok(()),
        }
    }
}

/// Gives the future its answer; one that was cancelled meanwhile has no use for it.
fn settle(py: Python<'_>, future: &Py<PyAny>, outcome: PyResult<Step>) {
    let set = match outcome {
        Ok(Step::Done(answer)) => future.call_method1(py, intern!(py, "set_result"), (answer,)),
        Ok(Step::Turn | Step::Wait) => return,
        Err(error) => {
            super::not_stop_iteration(py, error).into_py_any(py).and_then(|error| future.call_method1(py, intern!(py, "set_exception"), (error,)))
        }
    };
    if let Err(error) = set {
        error.write_unraisable(py, Some(future.bind(py)));
    }
}

#[pymethods]
impl EventLoop {
    /// Carries on everything that was posted; called by the loop.
    fn drain(&self, py: Python<'_>) {
        let mut keys = Vec::new();
        self.mailbox.fetch(&mut keys);
        let began = Instant::now();
        turn::taken();
        for (count, &key) in keys.iter().enumerate() {
            if count % 64 == 63 && began.elapsed() >= DRAIN_MAX {
                keys[count..].iter().for_each(|&key| self.mailbox.post(key));
                return;
            }
            self.carry_on(py, key);
        }
    }

    /// Passes the bell on to a loop that cannot watch it itself, from a thread of its own.
    fn listen(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mailbox = Arc::clone(&slf.get().mailbox);
        let drain = slf.getattr(intern!(py, "drain"))?;
        while !mailbox.is_stopped() {
            let rang = py.detach(|| mailbox.listen(LISTEN));
            if slf.get().is_closed(py) {
                break;
            }
            if rang && let Some(event_loop) = slf.get().watched.bind(py).upgrade() {
                // It may have been closed since it was asked.
                if event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (&drain,)).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        let slots = self.slots.lock();
        format!("<EventLoop of eventuali, {} waiting>", slots.slots.len() - slots.free.len())
    }
}

impl Slots {
    fn take(&mut self) -> usize {
        let key = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[key] = Slot::Busy { again: false };
        key
    }

    fn give_back(&mut self, key: usize) {
        self.slots[key] = Slot::Free;
        self.free.push(key);
    }

    /// Takes out what is parked under `key`; a key that was posted too often finds nothing.
    fn begin(&mut self, key: usize) -> Option<Waiting> {
        let slot = self.slots.get_mut(key)?;
        match std::mem::replace(slot, Slot::Busy { again: false }) {
            Slot::Parked(waiting) => Some(waiting),
            Slot::Busy { .. } => {
                *slot = Slot::Busy { again: true };
                None
            }
            Slot::Free => {
                *slot = Slot::Free;
                None
            }
        }
    }

    /// Keeps a job that has to wait on; true if it was woken while it was carried on.
    fn park(&mut self, key: usize, waiting: Waiting) -> bool {
        matches!(std::mem::replace(&mut self.slots[key], Slot::Parked(waiting)), Slot::Busy { again: true })
    }
}

/// Operations that waited on a loop that was closed hold on to it through their futures: let them go.
fn forget_closed_loops(py: Python<'_>) -> PyResult<()> {
    for known in known_loops(py)? {
        if known.get().is_closed(py) {
            known.get().abandon(py)?;
        }
    }
    Ok(())
}

/// Sends every listener home and waits for it, before the interpreter ends.
pub(crate) fn stop_listeners(py: Python<'_>) -> PyResult<()> {
    for known in known_loops(py)? {
        known.get().abandon(py)?;
    }
    Ok(())
}
