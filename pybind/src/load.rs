//! Building an aggregate from its stored events.

use std::sync::Arc;

use eventuali::{AggregateVersion, Event, Position, Timestamp};
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::aggregate::PyAggregate;
use crate::aggregate_class::{AggregateClass, Route, Routes};
use crate::bridge;
use crate::domain::Domain;
use crate::errors;
use crate::event::moment;
use crate::replay;

/// Where a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// At the last event.
    End,
    /// With the event of this version.
    Version(AggregateVersion),
    /// With the last event at or before this position.
    Position(Position),
    /// Before the first event later than this.
    Time(Timestamp),
}

impl Until {
    fn accepts(self, event: &Event) -> bool {
        match self {
            Self::End => true,
            Self::Version(last) => event.version() <= last,
            Self::Position(last) => event.position() <= last,
            Self::Time(last) => event.timestamp() <= last,
        }
    }
}

/// An aggregate that is being built from its events, batch by batch.
pub(crate) struct LoadedAggregate {
    class: Arc<AggregateClass>,
    routes: Routes,
    core: Py<PyAggregate>,
    aggregate: Py<PyAny>,
    until: Until,
    version: u64,
    /// Its first event, where that is behind the end of this load.
    begins_later: Option<(AggregateVersion, Position, Timestamp)>,
}

impl LoadedAggregate {
    /// An aggregate of `class` without events.
    ///
    /// # Errors
    /// `TypeError` if it is not a class of aggregates; what its default factories raise.
    pub(crate) fn new(class: &Bound<'_, PyType>, id: &str, until: Until) -> PyResult<Self> {
        let py = class.py();
        let known = AggregateClass::of(class)?;
        let core = Py::new(py, PyAggregate::without_events(Arc::clone(&known), id.to_owned()))?;
        let aggregate = Domain::get(py)?.begin_load.bind(py).call1((class, &core))?.unbind();
        Ok(Self { routes: known.routes(), class: known, core, aggregate, until, version: 0, begins_later: None })
    }

    /// Whether it has no events yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.version == 0
    }

    /// Its id.
    pub(crate) fn id(&self) -> String {
        self.core.get().id().to_owned()
    }

    /// Applies the next events; `false` once the rest does not belong to it any more.
    ///
    /// # Errors
    /// `AggregateTypeError`, and what keeps an event from being applied; each names type and position.
    pub(crate) fn feed(&mut self, py: Python<'_>, events: Vec<Event>) -> PyResult<bool> {
        self.core.get().set_version(self.version, true);
        let result = self.apply_all(py, events).and_then(|more| self.check_fields(py).map(|()| more));
        self.core.get().set_version(self.version, false);
        result
    }

    fn apply_all(&mut self, py: Python<'_>, events: Vec<Event>) -> PyResult<bool> {
        let domain = Domain::get(py)?;
        let aggregate = self.aggregate.clone_ref(py).into_bound(py);
        let mut last: Option<Arc<Route>> = None;
        for event in events {
            if !self.until.accepts(&event) {
                self.begins_later = (self.version == 0).then(|| (event.version(), event.position(), event.timestamp()));
                return Ok(false);
            }
            if self.version == 0 {
                self.check_type(py, &event)?;
            }
            // Events of one type often follow each other.
            let route = match last.take_if(|route| *route.stored_as == *event.event_type()) {
                Some(route) => route,
                None => match self.routes.get(event.event_type()) {
                    Some(route) => Arc::clone(route),
                    None => self.class.stored_route(py, &event, &mut self.routes)?,
                },
            };
            let (version, position) = (event.version().0, event.position());
            let typed = route.event.read(py, domain, &event)?;
            if let Err(error) = replay::run(domain, route.handler.bind(py), &aggregate, &typed, event) {
                return Err(self.failed(py, &route.event.event_type, position, error));
            }
            self.version = version;
            last = Some(route);
        }
        Ok(true)
    }

    fn check_fields(&self, py: Python<'_>) -> PyResult<()> {
        let fields = self.aggregate.bind(py).getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
        self.class.check_fields(&fields)
    }

    fn check_type(&self, py: Python<'_>, event: &Event) -> PyResult<()> {
        let (stored, requested) = (event.aggregate_type(), &*self.class.aggregate_type);
        if stored == requested {
            return Ok(());
        }
        let facts = PyDict::new(py);
        facts.set_item("aggregate_id", event.aggregate_id())?;
        facts.set_item("stored_type", stored)?;
        facts.set_item("requested_type", requested)?;
        let message = eventuali::Error::AggregateType {
            aggregate_id: event.aggregate_id().to_owned(),
            stored: stored.to_owned(),
            requested: requested.to_owned(),
        };
        Err(errors::error(py, "AggregateTypeError", &message.to_string(), &facts))
    }

    /// A handler raised `cause`.
    fn failed(&self, py: Python<'_>, event_type: &str, position: Position, cause: PyErr) -> PyErr {
        if !cause.is_instance_of::<PyException>(py) {
            return cause;
        }
        let facts = PyDict::new(py);
        let id = self.core.get().id();
        let filled = facts
            .set_item("event_type", event_type)
            .and_then(|()| facts.set_item("position", position.0))
            .and_then(|()| facts.set_item("aggregate_id", id));
        let message = format!(
            "the handler of {event_type:?} at position {position} raised {} while {id:?} was loaded: {}; \
             a handler only records what was decided: put checks into command methods",
            cause.get_type(py),
            cause.value(py)
        );
        let error = filled.err().unwrap_or_else(|| errors::error(py, "ReplayError", &message, &facts));
        error.set_cause(py, Some(cause));
        error
    }

    /// The aggregate; `None` if it had no events, or `AggregateNotFoundError` if that is one.
    pub(crate) fn finish(self, py: Python<'_>, missing_is_error: bool) -> PyResult<Py<PyAny>> {
        if self.version > 0 {
            return Ok(self.aggregate);
        }
        if missing_is_error { Err(self.missing(py).unwrap_or_else(|broken| broken)) } else { Ok(py.None()) }
    }

    fn missing(&self, py: Python<'_>) -> PyResult<PyErr> {
        let id = self.core.get().id();
        let Some((version, position, time)) = self.begins_later else {
            return Ok(bridge::raise(py, &eventuali::Error::AggregateNotFound { aggregate_id: id.to_owned() }));
        };
        let time = moment(py, time)?;
        let then = match self.until {
            Until::Time(until) => format!("at {}", moment(py, until)?),
            Until::Position(until) => format!("at position {until}"),
            Until::Version(until) => format!("at version {until}"),
            Until::End => "then".to_owned(),
        };
        let message = if version > AggregateVersion(1) {
            format!(
                "nothing is left of aggregate {id:?} as it was {then}: its events before version {version} were deleted or are left out by its limits; \
                 the first one that is kept is of {time}, at position {position}; load it as of then or later"
            )
        } else {
            format!("aggregate {id:?} did not exist {then}: its first event is of {time}, at position {position}; load it as of then or later")
        };
        let facts = PyDict::new(py);
        facts.set_item("aggregate_id", id)?;
        facts.set_item("first_position", position.0)?;
        facts.set_item("first_timestamp", time)?;
        Ok(errors::error(py, "AggregateNotFoundError", &message, &facts))
    }
}
