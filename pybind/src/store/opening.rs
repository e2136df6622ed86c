//! Opening a store, and closing every store before the interpreter ends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use eventuali::{Completion, Durability, EventStore, Follow, OpenOutcome, OpenReport, Position};
use eventuali_sql::Store;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::arguments::{at_least_or_none, flag};
use super::config::configured;
use super::in_thread::in_thread;
use super::{Ask, PyEventStore};
use crate::bridge::{self, Effort};

/// A store that Python has open.
pub(crate) struct Handle {
    store: Store,
    place: String,
    durability: Durability,
    /// Whether an append waits: for the disk, or for a database.
    waits: bool,
    /// Whether another process may write to it.
    follows: bool,
    closed: AtomicBool,
}

impl Handle {
    fn new(store: Store, place: String) -> Self {
        let durability = store.as_dyn().capabilities().durability;
        let follows = store.open_report().is_some_and(|report| report.outcome == OpenOutcome::ReadOnly);
        let waits = durability == Durability::Sync || !matches!(store, Store::Embedded(_));
        Self { store, place, durability, waits, follows, closed: AtomicBool::new(false) }
    }

    pub(super) fn store(&self) -> &dyn EventStore {
        self.store.as_dyn()
    }

    /// Sees what another process has made visible, without the GIL: that may be much, and what comes next finds it taken in.
    pub(super) fn catch_up(&self, py: Python<'_>) {
        if self.follows && !self.is_closed() {
            // What comes next meets the same error, and tells it.
            let _ = py.detach(|| self.store().head().wait());
        }
    }

    /// The store as what it is.
    pub(super) fn kind(&self) -> &Store {
        &self.store
    }

    /// What opening found, where the store is an embedded one.
    pub(super) fn report(&self) -> Option<&OpenReport> {
        self.store.open_report()
    }

    /// Where the store is, as people spell it.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// Whether an append waits: for the disk, or for a database.
    pub(super) fn waits(&self) -> bool {
        self.waits
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
    let closed = open.iter().try_for_each(|handle| {
        handle.mark_closed();
        // There is nobody left to tell of a failure; what was acknowledged is safe whatever becomes of this. A server that does
        // not answer is waited for, unless Ctrl-C says otherwise.
        bridge::wait(py, &mut handle.store().close()).map(drop)
    });
    bridge::stop_listeners(py)?;
    closed
}

/// Opens the store that a connection string or a config names.
#[pyfunction]
#[pyo3(signature = (place, kind, options, *, accept_loss_after, read_up_to_damage, read_only, existing, blocking))]
#[expect(clippy::too_many_arguments, reason = "each is a keyword in Python, where there is one caller")]
pub(crate) fn open(
    py: Python<'_>,
    place: PathBuf,
    kind: Option<&str>,
    options: &Bound<'_, PyDict>,
    accept_loss_after: Option<&Bound<'_, PyAny>>,
    read_up_to_damage: &Bound<'_, PyAny>,
    read_only: &Bound<'_, PyAny>,
    existing: bool,
    blocking: bool,
) -> PyResult<Py<PyAny>> {
    let mut config = configured(place, kind, options)?;
    if let Some(position) = at_least_or_none("accept_loss_after", 0, accept_loss_after)? {
        config = config.accept_loss_after(Position(position));
    }
    if flag("read_up_to_damage", read_up_to_damage)? {
        config = config.read_up_to_damage();
    }
    // A config may say more of what is seen.
    if flag("read_only", read_only)? && !options.contains("read_only")? {
        config = config.read_only(Follow::Visible);
    }
    if existing {
        config = config.existing();
    }
    let shown = config.to_string();
    let asked = if config.opens_at_once() { Completion::ready(config.open()) } else { in_thread(|| config.open()) };
    let answer = move |py: Python<'_>, store: Store| {
        let handle = Arc::new(Handle::new(store, shown.clone()));
        remember(py, &handle)?;
        Py::new(py, PyEventStore::new(handle, blocking)).map(Py::into_any)
    };
    let job = Ask { asked, effort: Effort::DISK, answer };
    if blocking { bridge::block_on(py, job) } else { bridge::start(py, job) }
}

/// Writes a new `MANIFEST` from the segment files, where the old one is damaged or missing.
#[pyfunction]
pub(crate) fn rebuild_manifest(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| eventuali::rebuild_manifest(path)).map_err(|error| bridge::raise(py, &error))
}
