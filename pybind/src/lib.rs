//! The Python module.

mod aggregate;
mod aggregate_class;
mod bridge;
mod domain;
mod errors;
mod event;
mod event_class;
mod load;
mod metadata;
mod replay;
mod store;
mod stream;
mod text;

#[pyo3::pymodule]
mod _eventuali {
    #[pymodule_export]
    use crate::aggregate::PyAggregate;
    #[pymodule_export]
    use crate::bridge::Pending;
    #[pymodule_export]
    use crate::domain::classes_changed;
    #[pymodule_export]
    use crate::event::PyEvent;
    #[pymodule_export]
    use crate::metadata::PyEventMetadata;
    #[pymodule_export]
    use crate::replay::envelope_of;
    #[pymodule_export]
    use crate::store::{PyCapabilities, PyEventStore, PyOpenReport, PyReceipt, PyRetention, check_config, close_all, open, rebuild_manifest};
    #[pymodule_export]
    use crate::store::{
        PyMirror, PyMove, check_moved, start_backup, start_check, start_check_eventsourcing, start_compress, start_export, start_export_lines,
        start_fork, start_import_eventsourcing, start_import_lines, start_mirror, start_salvage, start_scavenge, start_verify,
    };
    #[pymodule_export]
    use crate::stream::{PyBatches, PyEventStream, PySyncBatches, PySyncEventStream};
}
