//! What is known about a class of aggregates: which handler takes which event.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use eventuali::Event;
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyType};

use crate::domain::{self, Domain, unreadable};
use crate::errors;
use crate::event_class::EventClass;

/// How events of one class reach an aggregate.
pub(crate) struct Route {
    pub(crate) event: Arc<EventClass>,
    /// The type under which such events are stored.
    pub(crate) stored_as: String,
    /// The method, called with the aggregate and the event.
    pub(crate) handler: Py<PyAny>,
}

/// Routes by the type under which an event is stored. Replaced as a whole, so that a load looks things up without a lock.
pub(crate) type Routes = Arc<HashMap<String, Arc<Route>>>;

/// A class of aggregates.
pub(crate) struct AggregateClass {
    pub(crate) class: Py<PyType>,
    pub(crate) aggregate_type: Arc<str>,
    /// Whether it has private attributes beside its fields.
    pub(crate) has_private: bool,
    /// Names that may stand among its fields' values.
    names: Py<PyFrozenSet>,
    handlers: Py<PyAny>,
    /// By the address of the event's class, which the route keeps alive.
    by_class: Mutex<HashMap<usize, Arc<Route>>>,
    by_type: Mutex<Routes>,
}

/// By the address of the class, which the entry keeps alive.
static CLASSES: LazyLock<Mutex<HashMap<usize, Arc<AggregateClass>>>> = LazyLock::new(Mutex::default);

/// Forgets what was found out about classes of aggregates.
pub(crate) fn forget() {
    // Taken out first: dropping the last reference to a class runs Python code, which must not find it locked.
    let known = std::mem::take(&mut *CLASSES.lock());
    drop(known);
}

impl AggregateClass {
    /// What is known about `class`.
    ///
    /// # Errors
    /// `TypeError` if it is not a subclass of `Aggregate`.
    pub(crate) fn of(class: &Bound<'_, PyType>) -> PyResult<Arc<Self>> {
        if let Some(known) = CLASSES.lock().get(&(class.as_ptr() as usize)) {
            return Ok(Arc::clone(known));
        }
        let aggregate = Domain::get(class.py())?.aggregate_base.bind(class.py());
        if class.is(aggregate) || !class.is_subclass(aggregate)? {
            return Err(PyTypeError::new_err(format!("{} is not a class of aggregates; give a subclass of Aggregate", class.qualname()?)));
        }
        let found = Arc::new(Self {
            class: class.clone().unbind(),
            aggregate_type: class.getattr("aggregate_type")?.extract::<String>()?.into(),
            has_private: class.getattr("__private_attributes__")?.is_truthy()?,
            names: class.getattr("__eventuali_names__")?.cast_into()?.unbind(),
            handlers: class.getattr("__eventuali_handlers__")?.unbind(),
            by_class: Mutex::default(),
            by_type: Mutex::default(),
        });
        CLASSES.lock().insert(class.as_ptr() as usize, Arc::clone(&found));
        Ok(found)
    }

    /// The route of an event that is applied.
    ///
    /// # Errors
    /// `TypeError` if it is no event; `MissingHandlerError`; `SerializationError` if its class can never come back.
    pub(crate) fn route(&self, event: &Bound<'_, PyAny>, aggregate_id: &str) -> PyResult<Arc<Route>> {
        let address = event.get_type_ptr() as usize;
        if let Some(route) = self.by_class.lock().get(&address) {
            return Ok(Arc::clone(route));
        }
        let route = self.find(event.py(), EventClass::of(event)?, aggregate_id, None)?;
        self.by_class.lock().insert(address, Arc::clone(&route));
        Ok(route)
    }

    /// Whether all that has a value is declared; a slip of the pen in a handler is not.
    ///
    /// # Errors
    /// `UndeclaredFieldError` naming the first one that is not.
    pub(crate) fn check_fields(&self, values: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = values.py();
        let names = self.names.bind(py);
        for name in values.keys() {
            if !names.contains(&name)? {
                let class = self.class.bind(py).qualname()?;
                let facts = PyDict::new(py);
                facts.set_item("aggregate_type", &*self.aggregate_type)?;
                facts.set_item("field", &name)?;
                let message = format!("a handler of {class} set {name}, which is not a field; declare it in the class, or mend its name");
                return Err(errors::error(py, "UndeclaredFieldError", &message, &facts));
            }
        }
        Ok(())
    }

    /// The routes found so far.
    pub(crate) fn routes(&self) -> Routes {
        Arc::clone(&self.by_type.lock())
    }

    /// The route of a stored event; `routes` has it from now on.
    ///
    /// # Errors
    /// `DeserializationError` if no class is known for it; `AmbiguousEventError`; `MissingHandlerError`.
    pub(crate) fn stored_route(&self, py: Python<'_>, event: &Event, routes: &mut Routes) -> PyResult<Arc<Route>> {
        let Some(class) = domain::resolve(Some(self.class.bind(py)), py, event)? else {
            let reason = "no class of events has this type: import the module that defines it, or name its class with event_type= or formerly=";
            return Err(unreadable(py, event, reason, None));
        };
        let route = self.find(py, class, event.aggregate_id(), Some(event))?;
        let mut known = self.by_type.lock();
        Arc::make_mut(&mut known).insert(event.event_type().to_owned(), Arc::clone(&route));
        *routes = Arc::clone(&known);
        Ok(route)
    }

    fn find(&self, py: Python<'_>, class: Arc<EventClass>, aggregate_id: &str, stored: Option<&Event>) -> PyResult<Arc<Route>> {
        let handler = self.handlers.bind(py).call_method1("find", (class.class.bind(py),))?;
        if handler.is_none() {
            return Err(self.missing_handler(py, &class, aggregate_id, stored)?);
        }
        let stored_as = stored.map_or_else(|| class.event_type.to_string(), |event| event.event_type().to_owned());
        Ok(Arc::new(Route { event: class, stored_as, handler: handler.unbind() }))
    }

    fn missing_handler(&self, py: Python<'_>, class: &EventClass, aggregate_id: &str, stored: Option<&Event>) -> PyResult<PyErr> {
        let missing = Domain::get(py)?.missing_handler.bind(py).call1((self.class.bind(py), class.class.bind(py)))?;
        let (method, message) = missing.extract::<(String, String)>()?;
        let facts = PyDict::new(py);
        facts.set_item("aggregate_id", aggregate_id)?;
        facts.set_item("aggregate_type", &*self.aggregate_type)?;
        facts.set_item("event_type", &*class.event_type)?;
        facts.set_item("method", method)?;
        facts.set_item("position", stored.map(|event| event.position().0))?;
        let place = stored.map_or_else(String::new, |event| format!("at position {}: ", event.position()));
        Ok(errors::error(py, "MissingHandlerError", &format!("{place}{message}"), &facts))
    }
}
