//! Aggregates at the border between Python and the store.

use std::sync::Arc;

use eventuali::{AggregateVersion, EventMetadata, ExpectedVersion, Position, Receipt, StreamAppend};
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};
use uuid::Uuid;

use crate::aggregate_class::{AggregateClass, Route};
use crate::domain::{Domain, Slot, slot};
use crate::errors;
use crate::event::{PyEvent, Stream, owned};
use crate::event_class::EventClass;
use crate::metadata::PyEventMetadata;
use crate::text;

/// What an aggregate is to the store: id, type, version, pending events, batch in doubt.
#[pyclass(frozen, module = "eventuali._eventuali", name = "AggregateCore")]
pub(crate) struct PyAggregate {
    class: Arc<AggregateClass>,
    stream: Arc<Stream>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the pending events.
    version: u64,
    pending: Vec<Pending>,
    in_doubt: Option<InDoubt>,
    /// Whether a handler runs.
    applying: bool,
}

struct Pending {
    event: Py<PyAny>,
    envelope: Py<PyEvent>,
    /// What was made of the event when it was applied, and what is stored of it.
    payload: Py<PyBytes>,
}

impl Pending {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { event: self.event.clone_ref(py), envelope: self.envelope.clone_ref(py), payload: self.payload.clone_ref(py) }
    }
}

/// The first so many pending events were sent with this metadata, and there was no answer yet.
struct InDoubt {
    events: usize,
    metadata: Arc<EventMetadata>,
    /// All that were sent in the same append, itself included; none if it was alone.
    companions: Option<Py<Companions>>,
}

/// Aggregates whose batches were sent in one append, and which share its fate.
///
/// Each of them holds it and it holds each of them, so it is an object of its own that the garbage collector can follow: the
/// batch may stay in doubt for as long as anybody has one of them, and no longer.
#[pyclass(frozen, module = "eventuali._eventuali")]
pub(crate) struct Companions(Mutex<Vec<Py<PyAggregate>>>);

impl Companions {
    pub(crate) fn new(py: Python<'_>, cores: &[Py<PyAggregate>]) -> PyResult<Py<Self>> {
        Py::new(py, Self(Mutex::new(cores.iter().map(|core| core.clone_ref(py)).collect())))
    }
}

#[pymethods]
impl Companions {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds the lock holds the GIL as well, and so is not there while the collector is.
        self.0.try_lock().map_or(Ok(()), |cores| cores.iter().try_for_each(|core| visit.call(core)))
    }

    fn __clear__(&self) {
        let cores = std::mem::take(&mut *self.0.lock());
        drop(cores);
    }
}

impl State {
    fn stored_version(&self) -> u64 {
        self.version - self.pending.len() as u64
    }
}

/// What is pickled: id, version, pending events, how many of them are in doubt, and the metadata these were sent with.
type Pickled<E> = (String, u64, E, usize, Option<Py<PyEventMetadata>>);

/// The core of an aggregate.
///
/// # Errors
/// `TypeError` if it is not an `Aggregate`.
pub(crate) fn core_of<'py>(aggregate: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAggregate>> {
    let py = aggregate.py();
    let core = aggregate.getattr(intern!(py, "__eventuali_core__")).ok();
    if let Some(Ok(core)) = core.map(Bound::cast_into::<PyAggregate>) {
        return Ok(core);
    }
    let problem = if aggregate.is_instance(Domain::get(py)?.aggregate_base.bind(py))? {
        "was made without its constructor; construct it, or load it from a store"
    } else {
        "is not an aggregate; give an object of a subclass of Aggregate"
    };
    Err(PyTypeError::new_err(format!("{} {problem}", aggregate.get_type().qualname()?)))
}

impl PyAggregate {
    /// A core without events.
    pub(crate) fn without_events(class: Arc<AggregateClass>, id: String) -> Self {
        let stream = Arc::new(Stream { aggregate_id: id, aggregate_type: Arc::clone(&class.aggregate_type) });
        Self { class, stream, state: Mutex::default() }
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.stream.aggregate_id
    }

    /// The version of the last event that is known to be stored.
    pub(crate) fn version(&self) -> AggregateVersion {
        AggregateVersion(self.state.lock().stored_version())
    }

    /// Whether a batch was sent and neither acknowledged nor refused.
    pub(crate) fn in_doubt(&self) -> bool {
        self.state.lock().in_doubt.is_some()
    }

    /// All whose batches were sent in one append with the batch in doubt, which share its fate; `None` if it was sent alone.
    pub(crate) fn companions(&self, py: Python<'_>) -> Option<Vec<Py<Self>>> {
        let companions = self.state.lock().in_doubt.as_ref()?.companions.as_ref()?.clone_ref(py);
        let cores = companions.get().0.lock();
        Some(cores.iter().map(|core| core.clone_ref(py)).collect())
    }

    /// The batch in doubt is sent in one append with those of others.
    pub(crate) fn set_companions(&self, py: Python<'_>, companions: &Py<Companions>) {
        if let Some(sent) = &mut self.state.lock().in_doubt {
            sent.companions = Some(companions.clone_ref(py));
        }
    }

    /// Its stored events make this version now; handlers run from here to `set_version(…, false)`.
    pub(crate) fn set_version(&self, version: u64, applying: bool) {
        let mut state = self.state.lock();
        state.version = version;
        state.applying = applying;
    }

    /// What a save sends next: the batch in doubt if there is one, else all pending events, which count as in doubt from now on.
    pub(crate) fn begin_save(&self, py: Python<'_>, metadata: &Arc<EventMetadata>) -> Option<StreamAppend> {
        let mut state = self.state.lock();
        if state.pending.is_empty() {
            return None;
        }
        let all = state.pending.len();
        let sent = state.in_doubt.get_or_insert_with(|| InDoubt { events: all, metadata: Arc::clone(metadata), companions: None });
        let (count, metadata) = (sent.events, Arc::clone(&sent.metadata));
        let sent = &state.pending[..count];
        let events = sent.iter().map(|pending| pending.envelope.get().with_payload(pending.payload.as_bytes(py).to_vec(), &metadata)).collect();
        Some(StreamAppend {
            aggregate_id: self.stream.aggregate_id.clone(),
            aggregate_type: self.stream.aggregate_type.to_string(),
            expected: ExpectedVersion::Exact(AggregateVersion(state.stored_version())),
            events,
        })
    }

    /// The batch was stored: removes exactly what was sent, and completes the envelopes of those events.
    pub(crate) fn saved(&self, _py: Python<'_>, receipt: &Receipt) {
        let mut state = self.state.lock();
        // Two saves may have sent the same batch: only the first answer finds it.
        let stored = receipt.version.0.saturating_sub(state.stored_version());
        let count = usize::try_from(stored).unwrap_or(usize::MAX).min(state.pending.len());
        let Some(sent) = state.in_doubt.take_if(|sent| sent.events <= count) else { return };
        let first = state.stored_version() + 1;
        let mark = |version: u64, pending: &Pending| {
            let position = Position(receipt.position.0 - (receipt.version.0 - version));
            pending.envelope.get().mark_stored(position, AggregateVersion(version), &sent.metadata);
        };
        if sent.events == 1 {
            // The usual case keeps the place for the next one.
            let done = state.pending.remove(0);
            drop(state);
            mark(first, &done);
        } else {
            let done: Vec<_> = state.pending.drain(..sent.events).collect();
            drop(state);
            (first..).zip(&done).for_each(|(version, pending)| mark(version, pending));
        }
    }

    /// The batch was certainly not stored: its events are pending again, and nothing is in doubt.
    pub(crate) fn not_saved(&self) {
        let refused = self.state.lock().in_doubt.take();
        drop(refused);
    }

    fn misuse(&self, py: Python<'_>, name: &str, message: &str) -> PyErr {
        let facts = PyDict::new(py);
        let filled = facts.set_item("aggregate_id", self.id()).and_then(|()| facts.set_item("aggregate_type", &*self.stream.aggregate_type));
        filled.err().unwrap_or_else(|| errors::error(py, name, message, &facts))
    }

    fn apply_next(&self, aggregate: &Bound<'_, PyAny>, event: &Bound<'_, PyAny>, version: u64) -> PyResult<Pending> {
        let py = aggregate.py();
        let domain = Domain::get(py)?;
        let route = self.class.route(event, self.id())?;
        let validated = match slot(event)? {
            Slot::Free { validated } => validated,
            Slot::Taken(envelope) => return Err(owned(py, envelope.get())),
        };
        let payload = route.event.serialize(event, validated)?;
        let envelope = PyEvent::new(&route.event, &self.stream, Some(AggregateVersion(version)), None, payload.clone().unbind());
        let envelope = Bound::new(py, envelope)?;
        domain.set_envelope(event, &envelope)?;
        if let Err(error) = handle(&self.class, &route, aggregate, event) {
            domain.clear_envelope(event)?;
            return Err(error);
        }
        Ok(Pending { event: event.clone().unbind(), envelope: envelope.unbind(), payload: payload.unbind() })
    }
}

/// Runs the handler; where it raises, what it rebound is put back.
fn handle(class: &AggregateClass, route: &Route, aggregate: &Bound<'_, PyAny>, event: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = aggregate.py();
    let fields = aggregate.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    let before = fields.copy()?;
    let private = if class.has_private { aggregate.getattr(intern!(py, "__pydantic_private__"))?.cast_into::<PyDict>().ok() } else { None };
    let private = private.map(|private| private.copy().map(|before| (private, before))).transpose()?;
    let mut result = route.handler.bind(py).call1((aggregate, event)).map(drop);
    if result.is_ok() && fields.len() != before.len() {
        result = class.check_fields(&fields);
    }
    if result.is_err() {
        for (now, before) in private.iter().chain([&(fields, before)]) {
            now.clear();
            now.update(before.as_mapping())?;
        }
    }
    result
}

#[pymethods]
impl PyAggregate {
    #[new]
    #[pyo3(signature = (class_, id = None))]
    fn py_new(class_: &Bound<'_, PyType>, id: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let id = match id {
            None => Uuid::now_v7().to_string(),
            Some(id) => text::id("id", id)?,
        };
        Ok(Self::without_events(AggregateClass::of(class_)?, id))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds the lock holds the GIL as well, and so is not there while the collector is.
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        state.in_doubt.as_ref().map_or(Ok(()), |sent| visit.call(&sent.companions))
    }

    #[getter(id)]
    fn py_id(&self) -> &str {
        self.id()
    }

    #[getter(version)]
    fn py_version(&self) -> u64 {
        self.state.lock().version
    }

    #[getter]
    fn pending_events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let events: Vec<_> = self.state.lock().pending.iter().map(|pending| pending.event.clone_ref(py)).collect();
        PyTuple::new(py, events)
    }

    /// Applies an event to the aggregate whose core this is.
    fn apply(&self, aggregate: &Bound<'_, PyAny>, event: &Bound<'_, PyAny>) -> PyResult<()> {
        let version = {
            let mut state = self.state.lock();
            if state.applying {
                drop(state);
                let message = "apply was called while an event is being applied; a handler only records what its event says: \
                               apply further events in a command method, and use an aggregate in one thread at a time";
                return Err(self.misuse(aggregate.py(), "ReentrantApplyError", message));
            }
            state.applying = true;
            state.version + 1
        };
        let result = self.apply_next(aggregate, event, version);
        let mut state = self.state.lock();
        state.applying = false;
        state.pending.push(result?);
        state.version = version;
        Ok(())
    }

    /// A core of its own with the same events.
    fn copy(&self, py: Python<'_>) -> Self {
        let state = self.state.lock();
        let pending = state.pending.iter().map(|pending| pending.clone_ref(py));
        let in_doubt = state.in_doubt.as_ref().map(|sent| InDoubt { events: sent.events, metadata: Arc::clone(&sent.metadata), companions: None });
        let state = State { version: state.version, pending: pending.collect(), in_doubt, applying: false };
        Self { class: Arc::clone(&self.class), stream: Arc::clone(&self.stream), state: Mutex::new(state) }
    }

    /// What is pickled of it.
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Pickled<Bound<'py, PyTuple>>> {
        let pending = self.pending_events(py)?;
        let state = self.state.lock();
        let sent = state.in_doubt.as_ref().map(|sent| (sent.events, Arc::clone(&sent.metadata)));
        let version = state.version;
        drop(state);
        let (count, metadata) = sent.map_or((0, None), |(count, metadata)| (count, Some(metadata)));
        let metadata = metadata.map(|metadata| Py::new(py, PyEventMetadata(metadata))).transpose()?;
        Ok((self.id().to_owned(), version, pending, count, metadata))
    }

    #[staticmethod]
    fn restore(class_: &Bound<'_, PyType>, state: Pickled<Vec<Bound<'_, PyAny>>>) -> PyResult<Self> {
        let (id, version, events, count, metadata) = state;
        let core = Self::without_events(AggregateClass::of(class_)?, id);
        let pending = events.into_iter().map(|event| {
            let Slot::Taken(envelope) = slot(&event)? else {
                return Err(PyTypeError::new_err("a pending event has lost its envelope"));
            };
            let payload = match envelope.get().payload_bytes(event.py()) {
                Some(payload) => payload,
                None => EventClass::of(&event)?.serialize(&event, true)?.unbind(),
            };
            Ok(Pending { event: event.unbind(), envelope: envelope.unbind(), payload })
        });
        let in_doubt = metadata.map(|metadata| InDoubt { events: count, metadata: Arc::clone(&metadata.get().0), companions: None });
        let pending = pending.collect::<PyResult<_>>()?;
        *core.state.lock() = State { version, pending, in_doubt, applying: false };
        Ok(core)
    }
}
