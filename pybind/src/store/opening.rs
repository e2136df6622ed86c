//! Opening a store in a thread of its own, and closing every store before the interpreter ends.

use std::path::{Component, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{Completion, Durability, Error, EventStore, OpenOptions, OpenReport, Operation, Position, Result};
use eventuali_sql::{Config, Store};
use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::arguments::{at_least_or_none, flag};
use super::{Ask, PyEventStore};
use crate::bridge::{self, Effort};

/// A store that Python has open.
pub(crate) struct Handle {
    store: Arc<dyn EventStore>,
    report: Option<OpenReport>,
    place: String,
    durability: Durability,
    closed: AtomicBool,
}

impl Handle {
    fn new(store: Store, place: String) -> Self {
        let report = store.open_report().cloned();
        let store = store.into_dyn();
        let durability = store.capabilities().durability;
        Self { store, report, place, durability, closed: AtomicBool::new(false) }
    }

    pub(super) fn store(&self) -> &dyn EventStore {
        &*self.store
    }

    /// What opening found, where the store is an embedded one.
    pub(super) fn report(&self) -> Option<&OpenReport> {
        self.report.as_ref()
    }

    /// Where the store is, as people spell it.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// Whether an append waits for the disk.
    pub(super) fn waits(&self) -> bool {
        self.durability == Durability::Sync
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// Every handle that Python has, or had not long ago.
static HANDLES: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

/// Remembers a handle for the end of the interpreter.
fn remember(py: Python<'_>, handle: &Arc<Handle>) -> PyResult<()> {
    static REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    REGISTERED.get_or_try_init(py, || {
        let close_all = py.import("eventuali._eventuali")?.getattr("close_all")?;
        py.import("atexit")?.call_method1("register", (close_all,)).map(drop)
    })?;
    let mut handles = HANDLES.lock();
    handles.retain(|handle| handle.strong_count() > 0);
    handles.push(Arc::downgrade(handle));
    Ok(())
}

/// Closes what was left open; called when the interpreter ends, while threads may still run.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>) -> PyResult<()> {
    let handles = std::mem::take(&mut *HANDLES.lock());
    let open: Vec<_> = handles.iter().filter_map(Weak::upgrade).filter(|handle| !handle.is_closed()).collect();
    py.detach(|| {
        for handle in open {
            handle.mark_closed();
            // There is nobody left to tell; what was acknowledged is safe whatever becomes of this.
            drop(handle.store.close().wait());
        }
    });
    bridge::stop_listeners(py)
}

/// Opens the store that a connection string or a path names.
#[pyfunction]
#[pyo3(signature = (place, *, is_path, durability, interval_ms, accept_loss_after, read_up_to_damage, blocking))]
#[expect(clippy::too_many_arguments, reason = "the shells name them")]
pub(crate) fn open(
    py: Python<'_>,
    place: PathBuf,
    is_path: bool,
    durability: Option<&str>,
    interval_ms: Option<u64>,
    accept_loss_after: Option<&Bound<'_, PyAny>>,
    read_up_to_damage: &Bound<'_, PyAny>,
    blocking: bool,
) -> PyResult<Py<PyAny>> {
    let mut options = OpenOptions::new();
    options = match (durability, interval_ms) {
        (Some("interval"), ms) => options.durability(Durability::Interval(Duration::from_millis(ms.unwrap_or(5)))),
        (Some("os"), _) => options.durability(Durability::Os),
        _ => options,
    };
    if let Some(position) = at_least_or_none("accept_loss_after", 0, accept_loss_after)? {
        options = options.accept_loss_after(Position(position));
    }
    if flag("read_up_to_damage", read_up_to_damage)? {
        options = options.read_up_to_damage();
    }
    let refused = |error| bridge::raise(py, &error);
    let config = if is_path { Ok(Config::embedded(place)) } else { named_by(place) }.map_err(refused)?.options(options);
    let (shown, in_memory) = (config.to_string(), config.path().is_none());
    let asked = if in_memory { Completion::ready(config.open()) } else { in_thread(|| config.open()) };
    let answer = move |py: Python<'_>, store: Store| {
        let handle = Arc::new(Handle::new(store, shown.clone()));
        remember(py, &handle)?;
        Py::new(py, PyEventStore::new(handle, blocking)).map(Py::into_any)
    };
    let job = Ask { asked, effort: Effort::DISK, answer };
    if blocking { bridge::block_on(py, job) } else { bridge::start(py, job) }
}

/// What a connection string names; one that is not UTF-8 can only be a path.
fn named_by(place: PathBuf) -> Result<Config> {
    match (place.to_str(), place.components().next()) {
        (Some(text), _) => Config::parse(text),
        (None, None | Some(Component::Normal(_))) => {
            Err(Error::configuration("the connection string has bytes that are not UTF-8; a directory of such a name is given as a pathlib.Path"))
        }
        (None, Some(_)) => Ok(Config::embedded(place)),
    }
}

/// Writes a new `MANIFEST` from the segment files, where the old one is damaged or missing.
#[pyfunction]
pub(crate) fn rebuild_manifest(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| eventuali::rebuild_manifest(path)).map_err(|error| bridge::raise(py, &error))
}

/// Work that may take long, done in a thread that Python does not know.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Completion<T> {
    Completion::running(InThread { work: Some(Box::new(work)), shared: Arc::default() })
}

struct InThread<T> {
    work: Option<Box<dyn FnOnce() -> Result<T> + Send>>,
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<(Option<Result<T>>, Option<Waker>)>,
    done: Condvar,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { state: Mutex::new((None, None)), done: Condvar::new() }
    }
}

impl<T: Send + 'static> InThread<T> {
    fn begin(&mut self) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let done = move || {
            let result = work();
            let waker = {
                let mut state = shared.state.lock();
                state.0 = Some(result);
                state.1.take()
            };
            shared.done.notify_all();
            waker.into_iter().for_each(Waker::wake);
        };
        let started = thread::Builder::new().name("eventuali-open".to_owned()).spawn(done);
        started.map(drop).map_err(|error| Error::Unsupported { message: format!("cannot start a thread: {error}") })
    }
}

impl<T: Send + 'static> Operation<T> for InThread<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        if let Err(error) = self.begin() {
            return Poll::Ready(Err(error));
        }
        let mut state = self.shared.state.lock();
        if let Some(result) = state.0.take() {
            return Poll::Ready(result);
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        if let Err(error) = self.begin() {
            return Some(Err(error));
        }
        let mut state = self.shared.state.lock();
        while state.0.is_none() {
            let Some(deadline) = deadline else {
                self.shared.done.wait(&mut state);
                continue;
            };
            if self.shared.done.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.0.take()
    }
}
