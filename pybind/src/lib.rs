//! The Python module.

mod aggregate;
mod bridge;
mod errors;
mod event;
mod store;
mod stream;

#[pyo3::pymodule]
mod _eventuali {
    #[pymodule_export]
    use crate::aggregate::PyAggregate;
    #[pymodule_export]
    use crate::bridge::Pending;
    #[pymodule_export]
    use crate::event::{PyEvent, PyEventMetadata};
    #[pymodule_export]
    use crate::store::{PyCapabilities, PyEventStore, PyOpenReport, PyReceipt, close_all, open, rebuild_manifest};
    #[pymodule_export]
    use crate::stream::{PyBatches, PyEventStream, PySyncBatches, PySyncEventStream};
}
