//! The events whose handlers run while their aggregates are loaded.
//!
//! Most handlers only read an event's fields, and forget the event. So it gets its envelope when someone asks for it, or
//! when the handler has kept the event.

use eventuali::Event;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::domain::Domain;
use crate::event::PyEvent;

struct Running {
    /// The address of the event's object, which the loader keeps alive.
    object: usize,
    event: Event,
    has_envelope: bool,
}

/// One for each load under way, the innermost last.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

/// Runs a handler with a stored event.
///
/// # Errors
/// What the handler raises.
pub(crate) fn run(domain: &Domain, handler: &Bound<'_, PyAny>, aggregate: &Bound<'_, PyAny>, typed: &Bound<'_, PyAny>, event: Event) -> PyResult<()> {
    let object = typed.as_ptr() as usize;
    RUNNING.lock().push(Running { object, event, has_envelope: false });
    let result = handler.call1((aggregate, typed));
    let finished = {
        let mut running = RUNNING.lock();
        running.iter().rposition(|each| each.object == object).map(|at| running.swap_remove(at))
    };
    if let Some(Running { event, has_envelope: false, .. }) = finished {
        #[expect(deprecated, reason = "the replacement is unsafe code, which has no place here")]
        let kept = typed.get_refcnt() > 1;
        if kept {
            domain.set_envelope(typed, &Bound::new(typed.py(), PyEvent::from_stored(event))?)?;
        }
    }
    result.map(drop)
}

/// The envelope of an event whose handler runs; it keeps it from now on.
///
/// # Errors
/// None that a caller could cause.
#[pyfunction]
#[pyo3(name = "replayed_envelope")]
pub(crate) fn envelope_of<'py>(event: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyEvent>>> {
    let object = event.as_ptr() as usize;
    let stored = {
        let mut running = RUNNING.lock();
        let Some(found) = running.iter_mut().rfind(|each| each.object == object) else { return Ok(None) };
        found.has_envelope = true;
        found.event.clone()
    };
    let envelope = Bound::new(event.py(), PyEvent::from_stored(stored))?;
    Domain::get(event.py())?.set_envelope(event, &envelope)?;
    Ok(Some(envelope))
}
