//! What a store answers: receipts, capabilities, the open report.

use std::time::Duration;

use eventuali::{Capabilities, Durability, OpenOutcome, OpenReport, Receipt, Retention};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arguments;

/// The name of a durability, as configs spell it.
fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Sync => "sync",
        Durability::Interval(_) => "interval",
        Durability::Os => "os",
        Durability::Memory => "memory",
    }
}

/// What became of a save or append to one stream.
#[pyclass(module = "eventuali", name = "Receipt", frozen, eq)]
#[derive(PartialEq, Eq)]
pub(crate) struct PyReceipt(pub(crate) Receipt);

#[pymethods]
impl PyReceipt {
    #[getter]
    fn aggregate_id(&self) -> &str {
        &self.0.aggregate_id
    }

    #[getter]
    fn position(&self) -> u64 {
        self.0.position.0
    }

    #[getter]
    fn version(&self) -> u64 {
        self.0.version.0
    }

    #[getter]
    fn events(&self) -> u32 {
        self.0.events
    }

    #[getter]
    fn durability(&self) -> &'static str {
        durability_name(self.0.durability)
    }

    fn __repr__(&self) -> String {
        let Receipt { aggregate_id, position, version, events, durability } = &self.0;
        let durability = durability_name(*durability);
        format!("<Receipt {aggregate_id:?}: {events} event(s), version {version}, position {position}, {durability}>")
    }
}

/// What a store does and promises.
#[pyclass(module = "eventuali", name = "Capabilities", frozen, eq)]
#[derive(PartialEq, Eq)]
pub(crate) struct PyCapabilities(pub(crate) Capabilities);

#[pymethods]
impl PyCapabilities {
    #[getter]
    fn backend(&self) -> &'static str {
        self.0.backend
    }

    #[getter]
    fn durability(&self) -> Option<&'static str> {
        // What is not appended to acknowledges nothing, and what its writer promises stands nowhere.
        self.0.writable.then(|| durability_name(self.0.durability))
    }

    #[getter]
    fn persistent(&self) -> bool {
        self.0.persistent
    }

    #[getter]
    fn writable(&self) -> bool {
        self.0.writable
    }

    #[getter]
    fn exact_json(&self) -> bool {
        self.0.exact_json
    }

    #[getter]
    fn retention(&self) -> bool {
        self.0.retention
    }

    fn __repr__(&self) -> String {
        let Capabilities { backend, durability, persistent, writable, .. } = self.0;
        let durability = if writable { durability_name(durability) } else { "None" };
        let truth = |it: bool| if it { "True" } else { "False" };
        format!("<Capabilities {backend}, durability={durability}, persistent={}, writable={}>", truth(persistent), truth(writable))
    }
}

/// How many of an aggregate's events are kept.
#[pyclass(module = "eventuali", name = "Retention", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct PyRetention(pub(crate) Retention);

#[pymethods]
impl PyRetention {
    #[new]
    #[pyo3(signature = (*, max_age = None, max_count = None, truncate_before = None))]
    fn new(max_age: Option<&Bound<'_, PyAny>>, max_count: Option<&Bound<'_, PyAny>>, truncate_before: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        arguments::retention(max_age, max_count, truncate_before).map(Self)
    }

    /// How it is made again: for `copy` and `pickle`.
    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let named = PyDict::new(py);
        named.set_item("max_age", self.max_age())?;
        named.set_item("max_count", self.max_count())?;
        named.set_item("truncate_before", self.truncate_before())?;
        Ok((PyTuple::empty(py), named))
    }

    #[getter]
    fn max_age(&self) -> Option<Duration> {
        self.0.max_age
    }

    #[getter]
    fn max_count(&self) -> Option<u64> {
        self.0.max_count
    }

    #[getter]
    fn truncate_before(&self) -> Option<u64> {
        self.0.truncate_before.map(|version| version.0)
    }

    fn __repr__(&self) -> String {
        let number = |number: Option<u64>| number.map_or_else(|| "None".to_owned(), |number| number.to_string());
        let age = self.0.max_age.map_or_else(|| "None".to_owned(), |age| format!("{}s", age.as_secs_f64()));
        format!("<Retention max_age={age}, max_count={}, truncate_before={}>", number(self.max_count()), number(self.truncate_before()))
    }
}

/// What opening a store found and did.
#[pyclass(module = "eventuali", name = "OpenReport", frozen, eq)]
#[derive(PartialEq, Eq)]
pub(crate) struct PyOpenReport(pub(crate) OpenReport);

#[pymethods]
impl PyOpenReport {
    #[getter]
    fn outcome(&self) -> &'static str {
        match self.0.outcome {
            OpenOutcome::Created => "created",
            OpenOutcome::Recovered { .. } => "recovered",
            OpenOutcome::LossAccepted { .. } => "loss_accepted",
            OpenOutcome::Damaged { .. } => "damaged",
            OpenOutcome::ReadOnly => "read_only",
            _ => "clean",
        }
    }

    #[getter]
    fn head(&self) -> u64 {
        self.0.head.0
    }

    #[getter]
    fn rewritten_bytes(&self) -> u64 {
        self.0.rewritten_bytes
    }

    #[getter]
    fn cut_bytes(&self) -> u64 {
        if let OpenOutcome::Recovered { bytes, .. } = self.0.outcome { bytes } else { 0 }
    }

    #[getter]
    fn cut_frames(&self) -> u64 {
        if let OpenOutcome::Recovered { frames, .. } = self.0.outcome { frames } else { 0 }
    }

    #[getter]
    fn last_good_position(&self) -> Option<u64> {
        match self.0.outcome {
            OpenOutcome::LossAccepted { after: position } | OpenOutcome::Damaged { up_to: position, .. } => Some(position.0),
            _ => None,
        }
    }

    #[getter]
    fn damage(&self) -> Option<String> {
        if let OpenOutcome::Damaged { damage, .. } = &self.0.outcome { Some(damage.to_string()) } else { None }
    }

    fn __repr__(&self) -> String {
        format!("<OpenReport {}, head={}, rewritten_bytes={}>", self.outcome(), self.head(), self.rewritten_bytes())
    }
}
