//! Moving history: in a thread that Python does not know, which tells how far it is and can be stopped.

mod lines;
mod maintenance;
mod mirror;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::maintenance::{BackupReport, ForkReport, SalvageReport, ScavengeReport, VerifyReport};
use eventuali::{Completion, Compression, Error, Operation, Result};
use eventuali_sql::{Difference, DifferenceKind, Moved, Progress, Verified, export, verify};
use parking_lot::{Condvar, Mutex};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use uuid::Uuid;

use super::config::configured;
use super::{Ask, PyEventStore};
use crate::bridge::{self, Effort, configuration};

pub(crate) use lines::{start_check_eventsourcing, start_export_lines, start_import_eventsourcing, start_import_lines};
pub(crate) use maintenance::{start_backup, start_check, start_compress, start_fork, start_salvage, start_scavenge};
pub(crate) use mirror::{PyMirror, start_mirror};

/// Refuses the name of a store that cannot be meant: what was moved to a new store in memory would be gone with it.
#[pyfunction]
pub(crate) fn check_moved(py: Python<'_>, place: PathBuf, kind: Option<&str>, options: &Bound<'_, PyDict>) -> PyResult<()> {
    let config = configured(place, kind, options)?;
    if config.is_in_memory() {
        return Err(configuration(py, &format!("{config} names a new store in memory, which nobody else has: pass the open store itself")));
    }
    Ok(())
}

/// What the thread that moves and Python share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Default)]
struct State {
    /// How far it is; nothing if Python knows that.
    progress: Option<Progress>,
    outcome: Option<std::result::Result<Outcome, Failure>>,
    stop: bool,
    waker: Option<Waker>,
}

enum Outcome {
    /// What was asked for can be used.
    IsThere,
    Moved(Moved),
    Verified(Verified),
    Checked(VerifyReport),
    Salvaged(SalvageReport),
    BackedUp(BackupReport),
    Forked(ForkReport),
    Scavenged(ScavengeReport),
    Compressed(Compression),
}

/// Why it ended early.
enum Failure {
    Store(Error),
    /// A file's method raised this.
    File(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Shared {
    /// Notes how far it is, and whether it is to go on.
    fn report(&self, progress: &Progress) -> ControlFlow<()> {
        self.change(|state| {
            state.progress = Some(*progress);
            if state.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, waker) = {
            let mut state = self.state.lock();
            (change(&mut state), state.waker.take())
        };
        self.told.notify_all();
        waker.into_iter().for_each(Waker::wake);
        changed
    }
}

/// What Python is told next.
enum Told {
    Progress(Progress),
    Ended,
}

/// Waits for what there is to tell.
struct Next(Arc<Shared>);

impl Next {
    fn take(state: &mut State) -> Option<Told> {
        match state.progress.take() {
            Some(progress) => Some(Told::Progress(progress)),
            None => state.outcome.is_some().then_some(Told::Ended),
        }
    }
}

impl Operation<Told> for Next {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Told>> {
        let mut state = self.0.state.lock();
        if let Some(told) = Self::take(&mut state) {
            return Poll::Ready(Ok(told));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<Told>> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(told) = Self::take(&mut state) {
                return Some(Ok(told));
            }
            match deadline {
                None => self.0.told.wait(&mut state),
                Some(deadline) if self.0.told.wait_until(&mut state, deadline).timed_out() => return Self::take(&mut state).map(Ok),
                Some(_) => {}
            }
        }
    }
}

/// Events under way from one store to another, or being compared.
#[pyclass(module = "eventuali._eventuali", name = "Move", frozen)]
pub(crate) struct PyMove {
    shared: Arc<Shared>,
    blocking: bool,
}

impl PyMove {
    fn begin<W>(py: Python<'_>, blocking: bool, work: W) -> PyResult<Self>
    where
        W: FnOnce(&Shared) -> std::result::Result<Outcome, Failure> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let carry_out = move || {
            let outcome = work(&told);
            told.change(|state| state.outcome = Some(outcome));
        };
        let started = thread::Builder::new().name("eventuali-move".to_owned()).spawn(carry_out);
        started.map_err(|error| bridge::raise(py, &Error::Unsupported { message: format!("cannot start a thread: {error}") }))?;
        Ok(Self { shared, blocking })
    }
}

#[pymethods]
impl PyMove {
    /// How far it is next; nothing when it has ended.
    fn next(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let asked = Completion::running(Next(Arc::clone(&self.shared)));
        let answer = |py: Python<'_>, told: Told| match told {
            Told::Progress(progress) => progress_parts(progress).into_py_any(py),
            Told::Ended => Ok(py.None()),
        };
        let job = Ask { asked, effort: Effort::DISK, answer };
        if self.blocking { bridge::block_on(py, job) } else { bridge::start(py, job) }
    }

    /// What became of it, once `next` has given nothing.
    fn outcome(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.shared.state.lock().outcome.take() {
            Some(Ok(Outcome::IsThere)) => ().into_py_any(py),
            Some(Ok(Outcome::Moved(moved))) => (moved.events, moved.position.0, moved.complete).into_py_any(py),
            Some(Ok(Outcome::Verified(found))) => {
                (found.events, found.digest, found.difference.as_ref().map(difference_parts), found.complete, found.left_out).into_py_any(py)
            }
            Some(Ok(Outcome::Checked(report))) => maintenance::checked(py, &report),
            Some(Ok(Outcome::Salvaged(report))) => maintenance::salvaged(py, &report),
            Some(Ok(Outcome::BackedUp(report))) => maintenance::backed_up(py, &report),
            Some(Ok(Outcome::Forked(report))) => maintenance::forked(py, &report),
            Some(Ok(Outcome::Scavenged(report))) => maintenance::scavenged(py, &report),
            Some(Ok(Outcome::Compressed(done))) => maintenance::compressed(py, done),
            Some(Err(Failure::Store(error))) => Err(bridge::raise(py, &error)),
            Some(Err(Failure::File(error))) => Err(error),
            None => Ok(py.None()),
        }
    }

    fn stop(&self) {
        self.shared.state.lock().stop = true;
    }
}

/// Longer than this is not worth telling, and Python has a limit.
const LEFT_MAX: Duration = Duration::from_hours(24 * 365 * 100);

type ProgressParts = (u64, u64, Option<u64>, Duration, f64, Option<Duration>);

fn progress_parts(progress: Progress) -> ProgressParts {
    let left = progress.time_left().filter(|left| *left < LEFT_MAX);
    (progress.events, progress.position, progress.last_position, progress.elapsed, progress.rate(), left)
}

type DifferenceParts = (u64, &'static str, Option<Uuid>, Option<Uuid>, Vec<&'static str>, String);

fn difference_parts(difference: &Difference) -> DifferenceParts {
    let (kind, parts) = match &difference.kind {
        DifferenceKind::MissingInTarget => ("missing in target", Vec::new()),
        DifferenceKind::MissingInSource => ("missing in source", Vec::new()),
        DifferenceKind::Differs(parts) => ("differs", parts.clone()),
        _ => ("unknown", Vec::new()),
    };
    (difference.position.0, kind, difference.source_event, difference.target_event, parts, difference.to_string())
}

#[pyfunction]
pub(crate) fn start_export(py: Python<'_>, source: &PyEventStore, target: &PyEventStore, blocking: bool) -> PyResult<PyMove> {
    let (source, target) = (Arc::clone(&source.handle), Arc::clone(&target.handle));
    PyMove::begin(py, blocking, move |shared| Ok(Outcome::Moved(export(source.store(), target.kind(), |progress| shared.report(progress))?)))
}

#[pyfunction]
pub(crate) fn start_verify(py: Python<'_>, source: &PyEventStore, target: &PyEventStore, blocking: bool) -> PyResult<PyMove> {
    let (source, target) = (Arc::clone(&source.handle), Arc::clone(&target.handle));
    PyMove::begin(py, blocking, move |shared| Ok(Outcome::Verified(verify(source.store(), target.store(), |progress| shared.report(progress))?)))
}
