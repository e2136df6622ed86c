//! Appending events without aggregates.

use std::sync::Arc;

use eventuali::{AggregateVersion, EventMetadata, ExpectedVersion, NewEvent, Position, Receipt, StreamAppend, Timestamp};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use super::arguments::{self, each, expected, timestamp};
use super::write::{Sent, one_or_list};
use super::{Handle, PyReceipt};
use crate::bridge::{self, Job, Step, Waiter, configuration, turn};
use crate::domain::Domain;
use crate::event::{PyEvent, event_for_append, mark_appended};
use crate::text::{id, kind};

/// So many events are worked on before the clock is looked at.
const CHUNK: usize = 32;

/// Appends events, to one stream or to several: encodes them a chunk at a time, hands all of them over at once, and completes
/// their envelopes a chunk at a time.
pub(super) struct Append {
    handle: Arc<Handle>,
    metadata: Arc<EventMetadata>,
    /// The `eventuali.StreamAppend`s that were not looked at yet.
    parts: Option<Py<PyIterator>>,
    /// The one whose events are being encoded.
    part: Option<Part>,
    streams: Vec<StreamAppend>,
    /// The events of each stream.
    events: Vec<Vec<Py<PyAny>>>,
    /// Answer with the only receipt.
    single: bool,
    sent: Option<Sent>,
    stored: Option<Stored>,
}

/// What is appended to one stream.
struct Part {
    aggregate_id: String,
    aggregate_type: String,
    expected: ExpectedVersion,
    times: Times,
    rest: Py<PyIterator>,
    encoded: Vec<NewEvent>,
    events: Vec<Py<PyAny>>,
}

/// When the events of a part happened.
enum Times {
    /// All at this time, or when they are appended.
    Same(Option<Timestamp>),
    /// Each at its own.
    Each(Vec<Timestamp>),
}

/// What was acknowledged, and how many envelopes of the stream under way are complete.
struct Stored {
    receipts: Vec<Receipt>,
    stream: usize,
    completed: usize,
}

impl Append {
    /// Events for one stream.
    pub(super) fn one(
        handle: &Arc<Handle>,
        metadata: Arc<EventMetadata>,
        aggregate_id: &Bound<'_, PyAny>,
        events: &Bound<'_, PyAny>,
        aggregate_type: &Bound<'_, PyAny>,
        expected_version: &Bound<'_, PyAny>,
        time: Option<Timestamp>,
    ) -> PyResult<Self> {
        let part = Part::new(aggregate_id, events, aggregate_type, expected_version, Times::Same(time))?;
        Ok(Self::of(handle, metadata, None, Some(part)))
    }

    /// `eventuali.StreamAppend`s.
    pub(super) fn all(handle: &Arc<Handle>, metadata: Arc<EventMetadata>, streams: &Bound<'_, PyAny>) -> PyResult<Self> {
        let parts = items("streams", "StreamAppends", streams)?;
        Ok(Self::of(handle, metadata, Some(parts), None))
    }

    fn of(handle: &Arc<Handle>, metadata: Arc<EventMetadata>, parts: Option<Py<PyIterator>>, part: Option<Part>) -> Self {
        let single = part.is_some();
        Self { handle: Arc::clone(handle), metadata, parts, part, streams: Vec::new(), events: Vec::new(), single, sent: None, stored: None }
    }

    /// Encodes the next chunk; `false` once there is nothing left.
    fn encode(&mut self, py: Python<'_>) -> PyResult<bool> {
        if self.part.is_none() {
            let next = self.parts.as_ref().and_then(|parts| parts.bind(py).clone().next()).transpose()?;
            let Some(next) = next else { return Ok(false) };
            turn::worked(1);
            self.part = Some(Part::of(&next)?);
        }
        let Some(part) = &mut self.part else { return Ok(false) };
        if part.encode(py, &self.metadata)? {
            return Ok(true);
        }
        if let Some(Part { aggregate_id, aggregate_type, expected, encoded, events, .. }) = self.part.take() {
            self.streams.push(StreamAppend { aggregate_id, aggregate_type, expected, events: encoded });
            self.events.push(events);
        }
        Ok(true)
    }

    /// Completes the next chunk of envelopes; the answer once there are none left.
    fn complete(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(stored) = &mut self.stored else { return Ok(None) };
        let Some((receipt, events)) = stored.receipts.get(stored.stream).zip(self.events.get(stored.stream)) else {
            let receipts = std::mem::take(&mut stored.receipts);
            let receipts = receipts.into_iter().map(|receipt| Py::new(py, PyReceipt(receipt))).collect::<PyResult<Vec<_>>>()?;
            return one_or_list(py, receipts, !self.single).map(Some);
        };
        let mut chunk = 0;
        for (back, event) in (stored.completed as u64..).zip(events.iter().rev().skip(stored.completed).take(CHUNK)) {
            let (position, version) = (Position(receipt.position.0 - back), AggregateVersion(receipt.version.0 - back));
            mark_appended(event.bind(py), position, version, &self.metadata)?;
            chunk += 1;
        }
        turn::worked(chunk + 1);
        stored.completed += chunk;
        if stored.completed == events.len() {
            (stored.stream, stored.completed) = (stored.stream + 1, 0);
        }
        Ok(None)
    }
}

impl Part {
    fn new(
        aggregate_id: &Bound<'_, PyAny>,
        events: &Bound<'_, PyAny>,
        aggregate_type: &Bound<'_, PyAny>,
        expected_version: &Bound<'_, PyAny>,
        times: Times,
    ) -> PyResult<Self> {
        let (aggregate_id, aggregate_type) = (id("aggregate_id", aggregate_id)?, arguments::aggregate_type(aggregate_type)?);
        let expected = expected(expected_version)?;
        refuse_a_single_event(events)?;
        let rest = items("events", "events", events)?;
        Ok(Self { aggregate_id, aggregate_type, expected, times, rest, encoded: Vec::new(), events: Vec::new() })
    }

    /// What an `eventuali.StreamAppend` says.
    fn of(stream: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = stream.py();
        let Some(events) = stream.getattr_opt(intern!(py, "events"))? else {
            return Err(PyTypeError::new_err(format!("append_all takes StreamAppends, not {}", kind(stream))));
        };
        let timestamps = stream.getattr(intern!(py, "timestamps"))?;
        let times = if timestamps.is_none() {
            Times::Same(None)
        } else {
            Times::Each(each("timestamps", "datetimes", &timestamps)?.map(|time| timestamp("timestamps", &time?)).collect::<PyResult<_>>()?)
        };
        Self::new(
            &stream.getattr(intern!(py, "aggregate_id"))?,
            &events,
            &stream.getattr(intern!(py, "aggregate_type"))?,
            &stream.getattr(intern!(py, "expected_version"))?,
            times,
        )
    }

    /// Encodes the next chunk; `false` once there is nothing left.
    fn encode(&mut self, py: Python<'_>, metadata: &Arc<EventMetadata>) -> PyResult<bool> {
        let mut rest = self.rest.bind(py).clone();
        for _ in 0..CHUNK {
            turn::worked(1);
            let Some(event) = rest.next().transpose()? else { return self.check_times(py).map(|()| false) };
            let time = match &self.times {
                Times::Same(time) => *time,
                Times::Each(times) => times.get(self.events.len()).copied(),
            };
            self.encoded.push(event_for_append(&event, &self.aggregate_id, &self.aggregate_type, time, metadata)?);
            self.events.push(event.unbind());
        }
        Ok(true)
    }

    fn check_times(&self, py: Python<'_>) -> PyResult<()> {
        match &self.times {
            Times::Each(times) if times.len() != self.events.len() => {
                let (id, events, times) = (&self.aggregate_id, self.events.len(), times.len());
                Err(configuration(py, &format!("{id:?} has {events} events and {times} timestamps: give one for each, or none")))
            }
            _ => Ok(()),
        }
    }
}

impl Job for Append {
    fn waits(&self) -> bool {
        self.handle.waits()
    }

    fn step(&mut self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Step> {
        while self.sent.is_none() && self.encode(py)? {
            if turn::overdue() {
                return Ok(Step::Turn);
            }
        }
        if self.stored.is_none() {
            let (handle, streams) = (&self.handle, &mut self.streams);
            let sent = self.sent.get_or_insert_with(|| Sent::new(handle, std::mem::take(streams)));
            match waiter.answer(py, &mut sent.asked, sent.effort)? {
                None => return Ok(Step::Wait),
                Some(Ok(receipts)) => self.stored = Some(Stored { receipts, stream: 0, completed: 0 }),
                Some(Err(error)) => return Err(bridge::raise(py, &error)),
            }
        }
        loop {
            if turn::overdue() {
                return Ok(Step::Turn);
            }
            if let Some(answer) = self.complete(py)? {
                return Ok(Step::Done(answer));
            }
        }
    }
}

/// Goes through what was given as a list, as it is now: the loop has turns before its end is reached.
fn items(option: &str, what: &str, values: &Bound<'_, PyAny>) -> PyResult<Py<PyIterator>> {
    match values.cast::<PyList>() {
        Ok(list) => each(option, what, list.get_slice(0, list.len()).as_any()).map(Bound::unbind),
        Err(_) => each(option, what, values).map(Bound::unbind),
    }
}

/// An event can be iterated as every pydantic model can, and what comes out is nothing that could be stored.
fn refuse_a_single_event(events: &Bound<'_, PyAny>) -> PyResult<()> {
    if events.is_instance_of::<PyList>() {
        return Ok(());
    }
    let py = events.py();
    if events.is_instance(Domain::get(py)?.event_base.bind(py))? || events.is_instance_of::<PyEvent>() {
        return Err(PyTypeError::new_err(format!("append takes a list of events: [{}]", events.repr()?)));
    }
    Ok(())
}
