//! Events at the border between Python and the store.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use eventuali::{AggregateVersion, DataFormat, Event, EventData, EventMetadata, Json, NewEvent, Position, Tag, Timestamp};
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString};
use uuid::{ContextV7, Uuid};

use crate::domain::{self, Domain, Slot, slot};
use crate::errors;
use crate::event_class::EventClass;
use crate::metadata::PyEventMetadata;

/// The stream that an event belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) aggregate_id: String,
    pub(crate) aggregate_type: Arc<str>,
}

/// An event's envelope: everything but its payload's fields. Of a stored event, it is decoded when it is asked for.
///
/// In Python it is also what a stored event is whose class is not known.
#[pyclass(frozen, module = "eventuali._eventuali", name = "StoredEvent")]
pub(crate) struct PyEvent {
    source: Source,
    data: PyOnceLock<Py<PyAny>>,
}

enum Source {
    /// Read from a store.
    Stored(Event),
    /// Made in this process, or unpickled.
    Made(Made),
}

struct Made {
    id: Uuid,
    event_type: Arc<str>,
    event_version: u32,
    stream: Arc<Stream>,
    timestamp: Timestamp,
    format: DataFormat,
    tags: Vec<Tag>,
    fate: Mutex<Fate>,
}

/// What is not known from the beginning.
struct Fate {
    version: Option<AggregateVersion>,
    /// Kept until it is stored.
    payload: Option<Py<PyBytes>>,
    stored: Option<(Position, Arc<EventMetadata>)>,
}

impl PyEvent {
    /// The envelope of an event that was read from a store.
    pub(crate) fn from_stored(event: Event) -> Self {
        Self { source: Source::Stored(event), data: PyOnceLock::new() }
    }

    /// The envelope of a new event; its id is made here.
    pub(crate) fn new(
        class: &EventClass,
        stream: &Arc<Stream>,
        version: Option<AggregateVersion>,
        timestamp: Option<Timestamp>,
        payload: Py<PyBytes>,
    ) -> Self {
        let now = SystemTime::now();
        Self::made(Made {
            id: new_id(now),
            event_type: Arc::clone(&class.event_type),
            event_version: class.event_version,
            stream: Arc::clone(stream),
            timestamp: timestamp.unwrap_or_else(|| now.into()),
            format: DataFormat::Json,
            tags: Vec::new(),
            fate: Mutex::new(Fate { version, payload: Some(payload), stored: None }),
        })
    }

    fn made(made: Made) -> Self {
        Self { source: Source::Made(made), data: PyOnceLock::new() }
    }

    /// The event as it is appended; `None` if its payload is not kept any more, because it is stored.
    fn to_new_event(&self, py: Python<'_>, metadata: &EventMetadata) -> Option<NewEvent> {
        let payload = self.payload_bytes(py)?;
        Some(self.with_payload(payload.as_bytes(py).to_vec(), metadata))
    }

    /// The event as it is appended, with its payload.
    pub(crate) fn with_payload(&self, payload: Vec<u8>, metadata: &EventMetadata) -> NewEvent {
        NewEvent {
            id: self.id(),
            event_type: self.event_type().to_owned(),
            schema_version: self.event_version(),
            data: match self.format() {
                DataFormat::Json => EventData::Json(Json::from_serializer(payload)),
                DataFormat::Protobuf => EventData::Protobuf(payload),
            },
            metadata: metadata.clone(),
            tags: match &self.source {
                Source::Stored(event) => event.tags().unwrap_or_default(),
                Source::Made(made) => made.tags.clone(),
            },
            timestamp: Some(self.time()),
        }
    }

    /// It is stored now: its payload is not kept any more.
    pub(crate) fn mark_stored(&self, position: Position, version: AggregateVersion, metadata: &Arc<EventMetadata>) {
        if let Source::Made(made) = &self.source {
            let mut fate = made.fate.lock();
            fate.version = Some(version);
            // A repeated append is answered with what the first one stored.
            fate.stored.get_or_insert_with(|| (position, Arc::clone(metadata)));
            let payload = fate.payload.take();
            drop(fate);
            drop(payload);
        }
    }

    fn id(&self) -> Uuid {
        match &self.source {
            Source::Stored(event) => event.id(),
            Source::Made(made) => made.id,
        }
    }

    fn time(&self) -> Timestamp {
        match &self.source {
            Source::Stored(event) => event.timestamp(),
            Source::Made(made) => made.timestamp,
        }
    }

    fn format(&self) -> DataFormat {
        match &self.source {
            Source::Stored(event) => event.format(),
            Source::Made(made) => made.format,
        }
    }

    /// Its payload, unless only its event has it.
    pub(crate) fn payload_bytes(&self, py: Python<'_>) -> Option<Py<PyBytes>> {
        match &self.source {
            Source::Stored(event) => Some(PyBytes::new(py, event.payload()).unbind()),
            Source::Made(made) => made.fate.lock().payload.as_ref().map(|payload| payload.clone_ref(py)),
        }
    }

    fn version_if_known(&self) -> Option<AggregateVersion> {
        match &self.source {
            Source::Stored(event) => Some(event.version()),
            Source::Made(made) => made.fate.lock().version,
        }
    }

    fn stored(&self, py: Python<'_>) -> PyResult<Option<(Position, Arc<EventMetadata>)>> {
        match &self.source {
            Source::Made(made) => Ok(made.fate.lock().stored.clone()),
            Source::Stored(event) => match event.metadata() {
                Ok(metadata) => Ok(Some((event.position(), Arc::new(metadata)))),
                Err(error) => Err(domain::unreadable(py, event, &error.to_string(), None)),
            },
        }
    }

    /// What it lacks because it is not stored yet.
    fn lacks(&self, py: Python<'_>, part: &str) -> PyErr {
        self.incomplete(py, part, "it gets one when it is stored; save its aggregate first")
    }

    fn incomplete(&self, py: Python<'_>, part: &str, why: &str) -> PyErr {
        let facts = PyDict::new(py);
        let filled = facts.set_item("event_type", self.event_type()).and_then(|()| facts.set_item("attribute", part));
        let message = format!("{} of {:?} has no {part}: {why}", self.event_type(), self.aggregate_id());
        filled.err().unwrap_or_else(|| errors::error(py, "EnvelopeError", &message, &facts))
    }
}

#[pymethods]
impl PyEvent {
    /// The type under which it is stored.
    #[getter]
    pub(crate) fn event_type(&self) -> &str {
        match &self.source {
            Source::Stored(event) => event.event_type(),
            Source::Made(made) => &made.event_type,
        }
    }

    /// The version of its payload's schema.
    #[getter]
    fn event_version(&self) -> u32 {
        match &self.source {
            Source::Stored(event) => event.schema_version(),
            Source::Made(made) => made.event_version,
        }
    }

    /// Its id, unique in the store.
    #[getter]
    fn event_id(&self) -> Uuid {
        self.id()
    }

    /// The aggregate that it belongs to.
    #[getter]
    pub(crate) fn aggregate_id(&self) -> &str {
        match &self.source {
            Source::Stored(event) => event.aggregate_id(),
            Source::Made(made) => &made.stream.aggregate_id,
        }
    }

    /// The type of that aggregate.
    #[getter]
    pub(crate) fn aggregate_type(&self) -> &str {
        match &self.source {
            Source::Stored(event) => event.aggregate_type(),
            Source::Made(made) => &made.stream.aggregate_type,
        }
    }

    /// Its place within its aggregate.
    #[getter]
    fn aggregate_version(&self, py: Python<'_>) -> PyResult<u64> {
        self.version_if_known().map(|version| version.0).ok_or_else(|| self.lacks(py, "aggregate_version"))
    }

    /// When it happened: aware, in UTC.
    #[getter]
    fn timestamp<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        moment(py, self.time())
    }

    /// Its place in the whole store.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<u64> {
        if let Source::Stored(event) = &self.source {
            return Ok(event.position().0);
        }
        self.stored(py)?.map(|(position, _)| position.0).ok_or_else(|| self.lacks(py, "position"))
    }

    /// Causation, correlation, user and headers.
    #[getter]
    fn metadata(&self, py: Python<'_>) -> PyResult<PyEventMetadata> {
        self.stored(py)?.map(|(_, metadata)| PyEventMetadata(metadata)).ok_or_else(|| self.lacks(py, "metadata"))
    }

    /// The labels by which it can be found.
    #[getter]
    fn tags(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let tags = match &self.source {
            Source::Made(made) => made.tags.clone(),
            Source::Stored(event) => event.tags().map_err(|error| domain::unreadable(py, event, &error.to_string(), None))?,
        };
        Ok(tags.into_iter().map(|Tag(tag)| tag).collect())
    }

    /// The payload's bytes, exactly as they were appended.
    #[getter]
    fn payload(&self, py: Python<'_>) -> PyResult<Py<PyBytes>> {
        self.payload_bytes(py).ok_or_else(|| self.incomplete(py, "payload", "its event has it, as its fields"))
    }

    /// The payload as Python values, decoded at first use.
    #[getter]
    fn data(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let decode = || {
            if self.format() == DataFormat::Protobuf {
                return Err(PyTypeError::new_err(format!("the payload of {} is Protobuf, not JSON; use .payload", self.event_type())));
            }
            py.import("pydantic_core")?.call_method1("from_json", (self.payload(py)?,)).map(Bound::unbind)
        };
        self.data.get_or_try_init(py, decode).map(|data| data.clone_ref(py))
    }

    fn __eq__(&self, py: Python<'_>, other: &Self) -> bool {
        let payloads = (self.payload_bytes(py), other.payload_bytes(py));
        let equal = matches!(&payloads, (Some(one), Some(two)) if one.as_bytes(py) == two.as_bytes(py));
        self.id() == other.id() && self.event_type() == other.event_type() && (equal || matches!(payloads, (None, None)))
    }

    fn __hash__(&self) -> u64 {
        self.id().as_u64_pair().1
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let position = match &self.source {
            Source::Stored(event) => Some(event.position()),
            Source::Made(_) => self.stored(py)?.map(|(position, _)| position),
        };
        let place = position.map_or_else(|| "not stored yet".to_owned(), |position| format!("position={position}"));
        let version = self.version_if_known().map_or_else(String::new, |version| format!(", aggregate_version={version}"));
        let text = |text: &str| PyString::new(py, text).repr().map(|quoted| quoted.to_string());
        Ok(format!("StoredEvent({}, aggregate_id={}{version}, {place})", text(self.event_type())?, text(self.aggregate_id())?))
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let rows = PyDict::new(py);
        for part in ["event_type", "aggregate_type", "aggregate_id", "aggregate_version", "position", "timestamp", "data"] {
            if let Ok(value) = slf.getattr(part) {
                rows.set_item(part, value)?;
            }
        }
        py.import("eventuali._notebook")?.getattr("table")?.call1((this.event_type(), rows))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (State,))> {
        let (py, this) = (slf.py(), slf.get());
        let stored = this.stored(py)?;
        let state = State {
            event_type: this.event_type().to_owned(),
            event_version: this.event_version(),
            id: this.id().as_u128(),
            aggregate_id: this.aggregate_id().to_owned(),
            aggregate_type: this.aggregate_type().to_owned(),
            version: this.version_if_known().map(|version| version.0),
            timestamp: this.time().0,
            is_json: this.format() == DataFormat::Json,
            tags: this.tags(py)?,
            payload: this.payload_bytes(py),
            position: stored.as_ref().map(|(position, _)| position.0),
            metadata: stored.map(|(_, metadata)| Py::new(py, PyEventMetadata(metadata))).transpose()?,
        };
        Ok((slf.get_type().getattr("_restore")?, (state,)))
    }

    #[staticmethod]
    fn _restore(state: State) -> Self {
        let metadata = state.metadata.map(|metadata| Arc::clone(&metadata.get().0)).unwrap_or_default();
        Self::made(Made {
            id: Uuid::from_u128(state.id),
            event_type: state.event_type.into(),
            event_version: state.event_version,
            stream: Arc::new(Stream { aggregate_id: state.aggregate_id, aggregate_type: state.aggregate_type.into() }),
            timestamp: Timestamp(state.timestamp),
            format: if state.is_json { DataFormat::Json } else { DataFormat::Protobuf },
            tags: state.tags.into_iter().map(Tag).collect(),
            fate: Mutex::new(Fate {
                version: state.version.map(AggregateVersion),
                payload: state.payload,
                stored: state.position.map(|position| (Position(position), metadata)),
            }),
        })
    }
}

/// An envelope as it is pickled.
#[derive(FromPyObject, IntoPyObject)]
struct State {
    #[pyo3(item)]
    event_type: String,
    #[pyo3(item)]
    event_version: u32,
    #[pyo3(item)]
    id: u128,
    #[pyo3(item)]
    aggregate_id: String,
    #[pyo3(item)]
    aggregate_type: String,
    #[pyo3(item)]
    version: Option<u64>,
    #[pyo3(item)]
    timestamp: i64,
    #[pyo3(item)]
    is_json: bool,
    #[pyo3(item)]
    tags: Vec<String>,
    #[pyo3(item)]
    payload: Option<Py<PyBytes>>,
    #[pyo3(item)]
    position: Option<u64>,
    #[pyo3(item)]
    metadata: Option<Py<PyEventMetadata>>,
}

/// A new id (UUID v7) of this moment: later ones are greater, also within one tick of the clock.
fn new_id(now: SystemTime) -> Uuid {
    thread_local! {
        static CONTEXT: ContextV7 = const { ContextV7::new() };
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    CONTEXT.with(|context| Uuid::new_v7(uuid::Timestamp::from_unix(context, since.as_secs(), since.subsec_nanos())))
}

/// A moment as an aware `datetime` in UTC.
pub(crate) fn moment(py: Python<'_>, time: Timestamp) -> PyResult<Bound<'_, PyAny>> {
    static EPOCH: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let (epoch, span) = EPOCH.get_or_try_init(py, || {
        let datetime = py.import("datetime")?;
        let utc = datetime.getattr("timezone")?.getattr("utc")?;
        let epoch = datetime.getattr("datetime")?.call1((1970, 1, 1, 0, 0, 0, 0, utc))?;
        Ok::<_, PyErr>((epoch.unbind(), datetime.getattr("timedelta")?.unbind()))
    })?;
    epoch.bind(py).add(span.bind(py).call1((0, 0, time.0))?)
}

/// The typed event for one stored event, or a `StoredEvent` where no class is known for it.
///
/// # Errors
/// `DeserializationError` with the position where the class refuses the payload.
pub(crate) fn typed_event(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    match domain::class_of(py, &event)? {
        Some(class) => {
            let domain = Domain::get(py)?;
            let typed = class.read(py, domain, &event)?;
            domain.set_envelope(&typed, &Bound::new(py, PyEvent::from_stored(event))?)?;
            Ok(typed.unbind())
        }
        None => Ok(Py::new(py, PyEvent::from_stored(event))?.into_any()),
    }
}

/// What `append` sends for an event; gives it its id, payload and timestamp at first use, and keeps them on the event.
///
/// # Errors
/// `TypeError` if it is no event; `EventOwnedError` if it belongs to another aggregate; `SerializationError`.
pub(crate) fn event_for_append(
    event: &Bound<'_, PyAny>,
    aggregate_id: &str,
    aggregate_type: &str,
    timestamp: Option<Timestamp>,
    metadata: &Arc<EventMetadata>,
) -> PyResult<NewEvent> {
    let py = event.py();
    let again = |envelope: &PyEvent| {
        let belongs = envelope.aggregate_id() == aggregate_id && envelope.aggregate_type() == aggregate_type;
        if belongs { Ok(envelope.to_new_event(py, metadata)) } else { Err(owned(py, envelope)) }
    };
    if let Ok(stored) = event.cast::<PyEvent>() {
        return again(stored.get())?.ok_or_else(|| stored.get().incomplete(py, "payload", "its event has it, as its fields"));
    }
    let class = EventClass::of(event)?;
    let domain = Domain::get(py)?;
    let validated = match slot(event)? {
        Slot::Free { validated } => validated,
        Slot::Taken(envelope) => {
            let envelope = envelope.get();
            return match again(envelope)? {
                Some(event) => Ok(event),
                None => Ok(envelope.with_payload(class.serialize(event, true)?.as_bytes().to_vec(), metadata)),
            };
        }
    };
    let payload = class.serialize(event, validated)?;
    let stream = Arc::new(Stream { aggregate_id: aggregate_id.to_owned(), aggregate_type: aggregate_type.into() });
    let bytes = payload.as_bytes().to_vec();
    let envelope = PyEvent::new(&class, &stream, None, timestamp, payload.unbind());
    let new_event = envelope.with_payload(bytes, metadata);
    domain.set_envelope(event, &Bound::new(py, envelope)?)?;
    Ok(new_event)
}

/// An event that belongs to an aggregate already.
pub(crate) fn owned(py: Python<'_>, envelope: &PyEvent) -> PyErr {
    let facts = PyDict::new(py);
    let filled = facts.set_item("event_type", envelope.event_type()).and_then(|()| facts.set_item("aggregate_id", envelope.aggregate_id()));
    let message = format!(
        "this {} already belongs to {} {:?}; event.model_copy() gives a new event with the same payload",
        envelope.event_type(),
        envelope.aggregate_type(),
        envelope.aggregate_id()
    );
    filled.err().unwrap_or_else(|| errors::error(py, "EventOwnedError", &message, &facts))
}

/// Completes the envelope of an event after a successful append.
pub(crate) fn mark_appended(event: &Bound<'_, PyAny>, position: Position, version: AggregateVersion, metadata: &Arc<EventMetadata>) -> PyResult<()> {
    if let Ok(stored) = event.cast::<PyEvent>() {
        stored.get().mark_stored(position, version, metadata);
    } else if let Slot::Taken(envelope) = slot(event)? {
        envelope.get().mark_stored(position, version, metadata);
    }
    Ok(())
}
