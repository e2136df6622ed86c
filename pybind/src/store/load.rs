//! Loading an aggregate.

use std::sync::Arc;
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
    /// Where the first event is looked for if none is found; nothing if it was.
    further: Option<Arc<Handle>>,
}

impl Load {
    pub(super) fn new(handle: Arc<Handle>, class: &Bound<'_, PyType>, id: String, until: Until, missing_is_error: bool) -> PyResult<Self> {
        let aggregate = LoadedAggregate::new(class, &id, until)?;
        let mut query = ReadStream::of(id);
        if let Until::Version(AggregateVersion(version)) = until {
            query.before = version.checked_add(1).map(AggregateVersion);
        }
        handle.catch_up(class.py());
        let reader = handle.store().read(query);
        // Whether anything follows the version is asked only where nothing is found up to it.
        let further = matches!(until, Until::Version(_)).then_some(handle);
        Ok(Self { reader, ready: Vec::new().into_iter(), large: false, aggregate: Some(aggregate), missing_is_error, further })
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<Step> {
        match self.aggregate.take() {
            Some(aggregate) => aggregate.finish(py, self.missing_is_error).map(Step::Done),
            None => Ok(Step::Done(py.None())),
        }
    }

    /// What reads the first event that there is, where none was found up to the version that was asked for: to tell why.
    fn first_event(&mut self) -> Option<EventReader> {
        let aggregate = self.aggregate.as_ref().filter(|aggregate| self.missing_is_error && aggregate.is_empty())?;
        let first = ReadStream::of(aggregate.id()).limit(1);
        self.further.take().map(|handle| handle.store().read(first))
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
                Some(Ok(None)) => match self.first_event() {
                    Some(reader) => self.reader = reader,
                    None => return self.finish(py),
                },
                Some(Ok(Some(batch))) => {
                    self.large = batch.len() > CHUNK;
                    self.ready = batch.into_iter();
                }
                Some(Err(error)) => return Err(bridge::raise(py, &error)),
            }
        }
    }
}
