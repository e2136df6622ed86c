//! What Python callers pass, as the engine's types.

use std::ops::RangeInclusive;
use std::time::Duration;

use eventuali::{AggregateVersion, ExpectedVersion, Position, Retention, Timestamp};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDelta, PyInt, PyIterator, PyString, PyType};

use crate::bridge::configuration;
use crate::domain::Domain;
use crate::load::Until;
use crate::text::{kind, text};

/// The class that a load makes an object of.
pub(super) fn aggregate_class<'a, 'py>(value: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyType>> {
    value.cast::<PyType>().map_err(|_| PyTypeError::new_err(format!("aggregate_class is a class of aggregates, not {}", kind(value))))
}

/// `True` or `False`.
pub(super) fn flag(option: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    match value.cast::<PyBool>() {
        Ok(value) => Ok(value.is_true()),
        Err(_) => Err(PyTypeError::new_err(format!("{option} is True or False, not {}", kind(value)))),
    }
}

/// Goes through what was given as a list of `what`.
pub(super) fn each<'py>(option: &str, what: &str, values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyIterator>> {
    let domain = Domain::get(values.py())?;
    // An event or aggregate can be iterated as every pydantic model can, and what comes out is nothing that was meant.
    let one = values.is_instance(domain.event_base.bind(values.py()))?
        || values.is_instance(domain.aggregate_base.bind(values.py()))?
        || values.is_instance_of::<PyType>()
        || values.is_instance_of::<PyString>()
        || values.is_instance_of::<PyBytes>();
    if one || (!values.hasattr(intern!(values.py(), "__iter__"))? && !values.hasattr(intern!(values.py(), "__getitem__"))?) {
        return Err(PyTypeError::new_err(format!("{option} is a list of {what}, not {}", kind(values))));
    }
    values.try_iter()
}

/// An aggregate type: its name, or the class that has it.
pub(super) fn aggregate_type(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = value.py();
    if let Ok(name) = value.cast::<PyString>() {
        return text("aggregate_type", name);
    }
    match value.cast::<PyType>() {
        Ok(class) if class.is_subclass(Domain::get(py)?.aggregate_base.bind(py))? => class.getattr(intern!(py, "aggregate_type"))?.extract(),
        _ => Err(PyTypeError::new_err(format!("aggregate_type is a str or a class of aggregates, not {}", value.repr()?))),
    }
}

/// The event types that are read for a name, or for a class: those of a class are its own and its former ones.
fn event_types(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let py = value.py();
    if let Ok(name) = value.cast::<PyString>() {
        return Ok(vec![text("event_type", name)?]);
    }
    match value.cast::<PyType>() {
        Ok(class) if class.is_subclass(Domain::get(py)?.event_base.bind(py))? => {
            let mut names: Vec<String> = class.getattr(intern!(py, "__eventuali_formerly__"))?.extract()?;
            names.push(class.getattr(intern!(py, "event_type"))?.extract()?);
            Ok(names)
        }
        _ => Err(PyTypeError::new_err(format!("each of event_types is a str or a class of events, not {}", value.repr()?))),
    }
}

/// Event types to filter by; none given means all.
pub(super) fn event_type_filter(values: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    filter("event_types", values, event_types)
}

/// Aggregate types to filter by; none given means all.
pub(super) fn aggregate_type_filter(values: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    filter("aggregate_types", values, |value| Ok(vec![aggregate_type(value)?]))
}

fn filter(option: &str, values: Option<&Bound<'_, PyAny>>, names_of: impl Fn(&Bound<'_, PyAny>) -> PyResult<Vec<String>>) -> PyResult<Vec<String>> {
    let Some(values) = values else { return Ok(Vec::new()) };
    if values.is_instance_of::<PyString>() || values.is_instance_of::<PyType>() {
        return Err(PyTypeError::new_err(format!("{option} is a list: {option}=[{}]", values.repr()?)));
    }
    let mut names = Vec::new();
    for value in each(option, "names and classes", values)? {
        names.extend(names_of(&value?)?);
    }
    if names.is_empty() {
        return Err(configuration(values.py(), &format!("{option} is empty, so nothing could be read; leave it out to read all")));
    }
    Ok(names)
}

/// What the caller believes about a stream: a version, or one of the named expectations.
pub(super) fn expected(value: &Bound<'_, PyAny>) -> PyResult<ExpectedVersion> {
    if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() {
        return at_least("expected_version", 0, value).map(|version| ExpectedVersion::Exact(AggregateVersion(version)));
    }
    let name = value.getattr_opt(intern!(value.py(), "name"))?.and_then(|name| name.extract::<String>().ok());
    match name.as_deref() {
        Some("ANY") => Ok(ExpectedVersion::Any),
        Some("NO_STREAM") => Ok(ExpectedVersion::NoStream),
        Some("STREAM_EXISTS") => Ok(ExpectedVersion::Exists),
        _ => Err(PyTypeError::new_err(format!("expected_version is ANY, NO_STREAM, STREAM_EXISTS or a number, not {}", value.repr()?))),
    }
}

/// A number that is not below `least`.
pub(super) fn at_least(option: &str, least: u64, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    if !value.is_instance_of::<PyInt>() || value.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!("{option} is a number, not {}", kind(value))));
    }
    match value.extract::<u64>() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(configuration(value.py(), &format!("{option} is a number from {least} on, up to {}, not {}", u64::MAX, shown(value)?))),
    }
}

/// A number as text; one of thousands of digits is not written out, which Python refuses.
fn shown(number: &Bound<'_, PyAny>) -> PyResult<String> {
    let bits: usize = number.call_method0(intern!(number.py(), "bit_length"))?.extract()?;
    if bits > 1024 { Ok(format!("one of {bits} bits")) } else { Ok(number.repr()?.to_string()) }
}

/// The same, where leaving it out means something.
pub(super) fn at_least_or_none(option: &str, least: u64, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    value.map(|value| at_least(option, least, value)).transpose()
}

/// What a `datetime` in UTC can hold, in microseconds since 1970.
const UTC_MICROS: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// An aware `datetime`, in microseconds.
pub(super) fn timestamp(option: &str, value: &Bound<'_, PyAny>) -> PyResult<Timestamp> {
    static PARTS: PyOnceLock<(Py<PyType>, Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let py = value.py();
    let (class, epoch, microsecond) = PARTS.get_or_try_init(py, || {
        let module = py.import("datetime")?;
        let class = module.getattr("datetime")?.cast_into::<PyType>()?;
        let utc = module.getattr("timezone")?.getattr("utc")?;
        let epoch = class.call1((1970, 1, 1, 0, 0, 0, 0, utc))?.unbind();
        let microsecond = module.getattr("timedelta")?.call1((0, 0, 1))?.unbind();
        PyResult::Ok((class.unbind(), epoch, microsecond))
    })?;
    if !value.is_instance(class.bind(py))? {
        return Err(PyTypeError::new_err(format!("{option} is an aware datetime, not {}", kind(value))));
    }
    if value.call_method0(intern!(py, "utcoffset"))?.is_none() {
        return Err(configuration(py, &format!("{option}={} has no time zone; give it one: value.replace(tzinfo=timezone.utc)", value.repr()?)));
    }
    let micros: i64 = value.sub(epoch)?.floor_div(microsecond)?.extract()?;
    if !UTC_MICROS.contains(&micros) {
        return Err(configuration(
            py,
            &format!("{option}={} lies outside of the years 1 to 9999 in UTC; give it a moment within them", value.repr()?),
        ));
    }
    Ok(Timestamp(micros))
}

/// A `timedelta` that is not negative.
pub(super) fn span(option: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let py = value.py();
    if !value.is_instance_of::<PyDelta>() {
        return Err(PyTypeError::new_err(format!("{option} is a timedelta, not {}", kind(value))));
    }
    value.extract().map_err(|_| configuration(py, &format!("{option} is a time from 0 on, not {value}")))
}

/// How far a load goes.
pub(super) fn until(
    py: Python<'_>,
    version: Option<&Bound<'_, PyAny>>,
    at: Option<&Bound<'_, PyAny>>,
    position: Option<&Bound<'_, PyAny>>,
) -> PyResult<Until> {
    match (version, at, position) {
        (None, None, None) => Ok(Until::End),
        (Some(version), None, None) => Ok(Until::Version(AggregateVersion(at_least("version", 1, version)?))),
        (None, Some(at), None) => timestamp("at", at).map(Until::Time),
        (None, None, Some(position)) => Ok(Until::Position(Position(at_least("position", 1, position)?))),
        _ => Err(configuration(py, "version=, at= and position= each say how far to load: give one of them")),
    }
}

/// How many of an aggregate's events are to be kept.
pub(super) fn retention(
    max_age: Option<&Bound<'_, PyAny>>,
    max_count: Option<&Bound<'_, PyAny>>,
    truncate_before: Option<&Bound<'_, PyAny>>,
) -> PyResult<Retention> {
    Ok(Retention {
        max_age: max_age.map(|age| span("max_age", age)).transpose()?,
        max_count: at_least_or_none("max_count", 1, max_count)?,
        truncate_before: at_least_or_none("truncate_before", 1, truncate_before)?.map(AggregateVersion),
    })
}
