//! `PyEventStore`: the core behind both `EventStore` classes. It turns arguments into requests, and requests into jobs.

mod answers;
mod append;
mod arguments;
mod config;
mod in_thread;
mod load;
mod moving;
mod opening;
mod write;

use std::sync::Arc;

use eventuali::{AggregateVersion, Completion, Position, ReadAll, ReadStream, Receipt, Retention};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::bridge::{self, Effort, Job, Step, Waiter};
use crate::metadata::metadata_argument;
use crate::stream::stream;
use crate::text::id;

pub(crate) use answers::{PyCapabilities, PyOpenReport, PyReceipt, PyRetention};
use append::Append;
use arguments::{aggregate_type_filter, at_least, at_least_or_none, event_type_filter, flag, until};
pub(crate) use config::check_config;
use load::Load;
pub(crate) use moving::{
    PyMirror, PyMove, check_moved, start_backup, start_check, start_check_eventsourcing, start_compress, start_export, start_export_lines,
    start_fork, start_import_eventsourcing, start_import_lines, start_mirror, start_salvage, start_scavenge, start_verify,
};
pub(crate) use opening::{Handle, close_all, open, rebuild_manifest};
use write::Save;

type Metadata<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// The core of an `EventStore`: every method answers at once where it need not wait; else, for asyncio, it gives a `Pending`.
#[pyclass(module = "eventuali._eventuali", name = "EventStoreCore", frozen)]
pub(crate) struct PyEventStore {
    handle: Arc<Handle>,
    /// Made for the synchronous shell: every method waits on the spot.
    blocking: bool,
}

impl PyEventStore {
    fn new(handle: Arc<Handle>, blocking: bool) -> Self {
        Self { handle, blocking }
    }

    fn run(&self, py: Python<'_>, job: impl Job) -> PyResult<Py<PyAny>> {
        if self.blocking { bridge::block_on(py, job) } else { bridge::start(py, job) }
    }

    fn ask_receipt(&self, py: Python<'_>, asked: Completion<Receipt>) -> PyResult<Py<PyAny>> {
        let effort = Effort { large: false, disk: self.handle.waits() };
        self.run(py, Ask { asked, effort, answer: |py: Python<'_>, receipt: Receipt| PyReceipt(receipt).into_py_any(py) })
    }

    fn ask_position(&self, py: Python<'_>, asked: Completion<Position>, effort: Effort) -> PyResult<Py<PyAny>> {
        self.run(py, Ask { asked, effort, answer: |py: Python<'_>, position: Position| position.0.into_py_any(py) })
    }
}

#[pymethods]
impl PyEventStore {
    fn save(&self, py: Python<'_>, aggregate: &Bound<'_, PyAny>, metadata: Metadata<'_, '_>) -> PyResult<Py<PyAny>> {
        self.run(py, Save::one(&self.handle, aggregate, metadata_argument(metadata)?)?)
    }

    fn save_all(&self, py: Python<'_>, aggregates: &Bound<'_, PyAny>, metadata: Metadata<'_, '_>) -> PyResult<Py<PyAny>> {
        self.run(py, Save::all(&self.handle, aggregates, metadata_argument(metadata)?)?)
    }

    #[expect(clippy::too_many_arguments, reason = "the shells name them; here they have a place")]
    fn append(
        &self,
        py: Python<'_>,
        aggregate_id: &Bound<'_, PyAny>,
        events: &Bound<'_, PyAny>,
        aggregate_type: &Bound<'_, PyAny>,
        expected_version: &Bound<'_, PyAny>,
        metadata: Metadata<'_, '_>,
        timestamp: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let (metadata, time) = (metadata_argument(metadata)?, timestamp.map(|time| arguments::timestamp("timestamp", time)).transpose()?);
        self.run(py, Append::one(&self.handle, metadata, aggregate_id, events, aggregate_type, expected_version, time)?)
    }

    fn append_all(&self, py: Python<'_>, streams: &Bound<'_, PyAny>, metadata: Metadata<'_, '_>) -> PyResult<Py<PyAny>> {
        self.run(py, Append::all(&self.handle, metadata_argument(metadata)?, streams)?)
    }

    fn delete(&self, py: Python<'_>, aggregate_id: &Bound<'_, PyAny>, expected_version: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let (aggregate_id, expected) = (id("aggregate_id", aggregate_id)?, arguments::expected(expected_version)?);
        self.ask_receipt(py, self.handle.store().delete(aggregate_id.as_str().into(), expected))
    }

    fn set_retention(
        &self,
        py: Python<'_>,
        aggregate_id: &Bound<'_, PyAny>,
        max_age: Option<&Bound<'_, PyAny>>,
        max_count: Option<&Bound<'_, PyAny>>,
        truncate_before: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let aggregate_id = id("aggregate_id", aggregate_id)?;
        let retention = arguments::retention(max_age, max_count, truncate_before)?;
        self.ask_receipt(py, self.handle.store().set_retention(aggregate_id.as_str().into(), retention))
    }

    fn retention(&self, py: Python<'_>, aggregate_id: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let aggregate_id = id("aggregate_id", aggregate_id)?;
        let asked = self.handle.store().retention(aggregate_id.as_str().into());
        self.run(py, Ask { asked, effort: Effort::SHORT, answer: |py: Python<'_>, retention: Retention| PyRetention(retention).into_py_any(py) })
    }

    /// `missing` says what happens where there is nothing: an error, or `None`.
    #[expect(clippy::too_many_arguments, reason = "the shells name them; here they have a place")]
    fn load(
        &self,
        py: Python<'_>,
        aggregate_class: &Bound<'_, PyAny>,
        aggregate_id: &Bound<'_, PyAny>,
        version: Option<&Bound<'_, PyAny>>,
        at: Option<&Bound<'_, PyAny>>,
        position: Option<&Bound<'_, PyAny>>,
        missing_is_error: bool,
    ) -> PyResult<Py<PyAny>> {
        self.run(
            py,
            Load::new(
                Arc::clone(&self.handle),
                arguments::aggregate_class(aggregate_class)?,
                id("aggregate_id", aggregate_id)?,
                until(py, version, at, position)?,
                missing_is_error,
            )?,
        )
    }

    fn read(
        &self,
        py: Python<'_>,
        aggregate_id: &Bound<'_, PyAny>,
        after_version: &Bound<'_, PyAny>,
        before_version: Option<&Bound<'_, PyAny>>,
        limit: Option<&Bound<'_, PyAny>>,
        backwards: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let limit = at_least_or_none("limit", 0, limit)?;
        let query = ReadStream {
            tenant: String::new(),
            aggregate_id: id("aggregate_id", aggregate_id)?,
            after: Some(AggregateVersion(at_least("after_version", 0, after_version)?)),
            before: at_least_or_none("before_version", 1, before_version)?.map(AggregateVersion),
            limit,
            backwards: flag("backwards", backwards)?,
        };
        self.handle.catch_up(py);
        stream(py, self.handle.store().read(query), limit.unwrap_or(0), self.blocking)
    }

    #[expect(clippy::too_many_arguments, reason = "the shells name them; here they have a place")]
    fn read_all(
        &self,
        py: Python<'_>,
        after: &Bound<'_, PyAny>,
        before: Option<&Bound<'_, PyAny>>,
        event_types: Option<&Bound<'_, PyAny>>,
        aggregate_types: Option<&Bound<'_, PyAny>>,
        limit: Option<&Bound<'_, PyAny>>,
        backwards: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let limit = at_least_or_none("limit", 0, limit)?;
        let query = ReadAll {
            after: Some(Position(at_least("after", 0, after)?)),
            before: at_least_or_none("before", 1, before)?.map(Position),
            event_types: event_type_filter(event_types)?,
            aggregate_types: aggregate_type_filter(aggregate_types)?,
            limit,
            backwards: flag("backwards", backwards)?,
            include_system: false,
            now: None,
        };
        self.handle.catch_up(py);
        stream(py, self.handle.store().read_all(query), limit.unwrap_or(u64::MAX), self.blocking)
    }

    fn head(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.handle.catch_up(py);
        self.ask_position(py, self.handle.store().head(), Effort::SHORT)
    }

    fn durable_position(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.handle.catch_up(py);
        self.ask_position(py, self.handle.store().durable_position(), Effort::SHORT)
    }

    fn sync(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.ask_position(py, self.handle.store().sync(), Effort::DISK)
    }

    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.handle.mark_closed();
        self.run(py, Ask { asked: self.handle.store().close(), effort: Effort::LONG, answer: |py: Python<'_>, ()| Ok(py.None()) })
    }

    fn capabilities(&self) -> PyCapabilities {
        PyCapabilities(self.handle.store().capabilities())
    }

    #[getter]
    fn open_report(&self) -> Option<PyOpenReport> {
        self.handle.report().cloned().map(PyOpenReport)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.handle.is_closed()
    }

    #[getter]
    fn place(&self) -> &str {
        self.handle.place()
    }
}

/// An operation of the engine and what becomes of its answer.
struct Ask<T, F> {
    asked: Completion<T>,
    effort: Effort,
    answer: F,
}

impl<T, F> Job for Ask<T, F>
where
    T: Send + Unpin + 'static,
    F: Fn(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
{
    fn waits(&self) -> bool {
        self.effort.disk
    }

    fn step(&mut self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Step> {
        match waiter.answer(py, &mut self.asked, self.effort)? {
            None => Ok(Step::Wait),
            Some(Ok(answer)) => (self.answer)(py, answer).map(Step::Done),
            Some(Err(error)) => Err(bridge::raise(py, &error)),
        }
    }
}
