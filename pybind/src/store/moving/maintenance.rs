//! Looking after a store's files, in the thread of a move.

use std::path::PathBuf;
use std::sync::Arc;

use eventuali::maintenance::{
    BackupReport, Damage, Extent, ForkReport, PositionRange, SalvageReport, ScavengeReport, StreamLoss, Transfer, VerifyReport, backup, fork,
    salvage, scavenge_with, verify,
};
use eventuali::{Compression, Error, LogStore, Position};
use eventuali_sql::Store;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::{Outcome, PyEventStore, PyMove};
use crate::bridge::configuration;
use crate::store::Handle;
use crate::store::arguments::at_least_or_none;

type DamageParts = (String, Option<u64>, u64, Option<u64>, Option<u64>, Option<u64>, String, String);

fn damage_parts(damage: &Damage) -> DamageParts {
    let position = |position: Option<Position>| position.map(|position| position.0);
    (
        damage.file.clone(),
        damage.segment,
        damage.offset,
        damage.length,
        position(damage.first_position),
        position(damage.last_position),
        damage.reason.clone(),
        damage.to_string(),
    )
}

fn ranges(ranges: &[PositionRange]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.first, range.last)).collect()
}

fn transfers(transfers: &[Transfer]) -> Vec<(u64, u64, u64)> {
    transfers.iter().map(|run| (run.first, run.last, run.new_first)).collect()
}

type StreamParts = (String, String, Vec<(u64, u64)>, Vec<(u64, u64, u64)>);

fn stream_parts(stream: &StreamLoss) -> StreamParts {
    (stream.tenant.clone(), stream.aggregate_id.clone(), ranges(&stream.lost), transfers(&stream.kept))
}

/// What verifying a store's files found, for Python.
pub(super) fn checked(py: Python<'_>, report: &VerifyReport) -> PyResult<Py<PyAny>> {
    let damage: Vec<DamageParts> = report.damage.iter().map(damage_parts).collect();
    (
        report.events,
        report.removed,
        report.frames,
        report.segments,
        report.bytes,
        report.last_position.0,
        report.unpromised_bytes,
        damage,
        report.damaged_places,
        report.complete,
    )
        .into_py_any(py)
}

/// What salvaging has saved, for Python.
pub(super) fn salvaged(py: Python<'_>, report: &SalvageReport) -> PyResult<Py<PyAny>> {
    let damage: Vec<DamageParts> = report.damage.iter().map(damage_parts).collect();
    let streams: Vec<StreamParts> = report.streams.iter().map(stream_parts).collect();
    (
        report.store_id,
        report.events,
        report.removed,
        transfers(&report.kept),
        ranges(&report.lost),
        report.unknown_after.map(|position| position.0),
        streams,
        damage,
        (report.damaged_places, report.unpromised_bytes, report.complete),
    )
        .into_py_any(py)
}

/// What a backup holds, for Python.
pub(super) fn backed_up(py: Python<'_>, report: &BackupReport) -> PyResult<Py<PyAny>> {
    (report.store_id, report.events, report.position.0, report.segments, report.bytes, &report.digest, report.complete).into_py_any(py)
}

/// What a fork consists of, for Python.
pub(super) fn forked(py: Python<'_>, report: &ForkReport) -> PyResult<Py<PyAny>> {
    (report.store_id, report.parent_id, report.position.0, report.shared_segments, report.copied_segments, report.copied_bytes).into_py_any(py)
}

/// The embedded store of a handle; a database has none.
fn embedded<'a>(handle: &'a Handle, instead: &str) -> Result<&'a LogStore, Error> {
    match handle.kind() {
        Store::Embedded(store) => Ok(store),
        _ => Err(Error::Configuration { message: format!("{} is a database: {instead}", handle.place()) }),
    }
}

/// What scavenging has given back, for Python.
pub(super) fn scavenged(py: Python<'_>, report: &ScavengeReport) -> PyResult<Py<PyAny>> {
    (report.events, report.segments, report.bytes_before, report.bytes_after, report.left, report.complete).into_py_any(py)
}

/// What compressing came to, for Python.
pub(super) fn compressed(py: Python<'_>, done: Compression) -> PyResult<Py<PyAny>> {
    (done.segments, done.left, done.bytes_before, done.bytes_after).into_py_any(py)
}

#[pyfunction]
pub(crate) fn start_compress(py: Python<'_>, store: &PyEventStore, blocking: bool) -> PyResult<PyMove> {
    let handle = Arc::clone(&store.handle);
    PyMove::begin(py, blocking, move |_| {
        let store = embedded(&handle, "only the files of a store in a directory are compressed")?;
        Ok(Outcome::Compressed(store.compress()?))
    })
}

#[pyfunction]
pub(crate) fn start_scavenge(py: Python<'_>, store: &PyEventStore, extent: &Bound<'_, PyAny>, blocking: bool) -> PyResult<PyMove> {
    let extent = match extent.extract::<&str>() {
        Ok("everything") => Extent::Everything,
        Ok("worthwhile") => Extent::Worthwhile,
        _ => return Err(configuration(py, &format!("extent is \"everything\" or \"worthwhile\", not {}", extent.repr()?))),
    };
    let handle = Arc::clone(&store.handle);
    PyMove::begin(py, blocking, move |shared| {
        let Store::Embedded(store) = handle.kind() else {
            let message = format!("{} is a database, which keeps every event: aggregates are deleted in stores in a directory alone", handle.place());
            return Err(Error::Unsupported { message }.into());
        };
        Ok(Outcome::Scavenged(scavenge_with(store, extent, |progress| shared.report(progress))?))
    })
}

#[pyfunction]
pub(crate) fn start_backup(py: Python<'_>, store: &PyEventStore, target: PathBuf, blocking: bool) -> PyResult<PyMove> {
    let handle = Arc::clone(&store.handle);
    PyMove::begin(py, blocking, move |shared| {
        let store = embedded(&handle, "back it up with its own tools, or move its history to a store in a directory with export")?;
        Ok(Outcome::BackedUp(backup(store, target, |progress| shared.report(progress))?))
    })
}

#[pyfunction]
#[pyo3(signature = (store, target, at, blocking))]
pub(crate) fn start_fork(py: Python<'_>, store: &PyEventStore, target: PathBuf, at: Option<&Bound<'_, PyAny>>, blocking: bool) -> PyResult<PyMove> {
    let at = at_least_or_none("at", 0, at)?.map(Position);
    let handle = Arc::clone(&store.handle);
    PyMove::begin(py, blocking, move |_| {
        let store = embedded(&handle, "only a store in a directory or in memory can be forked; move its history to one with export")?;
        Ok(Outcome::Forked(fork(store, target, at)?))
    })
}

#[pyfunction]
pub(crate) fn start_check(py: Python<'_>, path: PathBuf, blocking: bool) -> PyResult<PyMove> {
    PyMove::begin(py, blocking, move |shared| Ok(Outcome::Checked(verify(path, |progress| shared.report(progress))?)))
}

#[pyfunction]
pub(crate) fn start_salvage(py: Python<'_>, path: PathBuf, target: PathBuf, blocking: bool) -> PyResult<PyMove> {
    PyMove::begin(py, blocking, move |shared| Ok(Outcome::Salvaged(salvage(path, target, |progress| shared.report(progress))?)))
}
