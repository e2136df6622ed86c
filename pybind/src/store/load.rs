//! Loading an aggregate.

use std::vec;

use eventuali::{AggregateVersion, Event, EventReader, ReadStream};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::Handle;
use crate::bridge::{self, Job, Step, Waiter, turn};
use crate::load::{LoadedAggregate, Until};

/// So many events are applied before the clock is looked at.
const CHUNK: usize = 128;

/// Builds an aggregate from its events, and gives the loop its turns meanwhile.
pub(super) struct Load {
    reader: EventReader,
    ready: vec::IntoIter<Event>,
    /// A batch this long was read, so the next may be: it is read without the GIL.
    large: bool,
    /// Nothing once it was finished.
    aggregate: Option<LoadedAggregate>,
    /// Without it, the answer is `None` if there is no such aggregate.
    missing_is_error: bool,
}

impl Load {
    pub(super) fn new(handle: &Handle, class: &Bound<'_, PyType>, id: String, until: Until, missing_is_error: bool) -> PyResult<Self> {
        let aggregate = LoadedAggregate::new(class, &id, until)?;
        let mut query = ReadStream::of(id);
        if let Until::Version(AggregateVersion(version)) = until {
            query.before = version.checked_add(1).map(AggregateVersion);
        }
        handle.catch_up(class.py());
        Ok(Self { reader: handle.store().read(query), ready: Vec::new().into_iter(), large: false, aggregate: Some(aggregate), missing_is_error })
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<Step> {
        match self.aggregate.take() {
            Some(aggregate) => aggregate.finish(py, self.missing_is_error).map(Step::Done),
            None => Ok(Step::Done(py.None())),
        }
    }

    fn next_chunk(&mut self) -> Vec<Event> {
        if self.ready.len() <= CHUNK { std::mem::take(&mut self.ready).collect() } else { self.ready.by_ref().take(CHUNK).collect() }
    }
}

impl Job for Load {
    fn step(&mut self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Step> {
        loop {
            let chunk = self.next_chunk();
            if !chunk.is_empty() {
                turn::worked(chunk.len());
                let more = self.aggregate.as_mut().map_or(Ok(false), |aggregate| aggregate.feed(py, chunk))?;
                if !more {
                    return self.finish(py);
                }
                if turn::overdue() {
                    return Ok(Step::Turn);
                }
                continue;
            }
            match waiter.batch(py, &mut self.reader, self.large)? {
                None => return Ok(Step::Wait),
                Some(Ok(None)) => return self.finish(py),
                Some(Ok(Some(batch))) => {
                    self.large = batch.len() > CHUNK;
                    self.ready = batch.into_iter();
                }
                Some(Err(error)) => return Err(bridge::raise(py, &error)),
            }
        }
    }
}
