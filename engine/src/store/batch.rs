//! Appends: what is stored in one atomic step, and the checks that need no store.

use std::collections::HashSet;

use crate::codec;
use crate::error::{Error, EventIdProblem, Result};
use crate::event::{Event, NewEvent, StreamKey, Timestamp};
use crate::log::format::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// One atomic append: events for one or several streams, in the order in which they get their positions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppendBatch {
    /// The tenant of all its streams; empty if tenants are not used.
    pub tenant: String,
    /// What to append. A stream may stand here more than once; later entries see the versions of earlier ones.
    pub streams: Vec<StreamAppend>,
}

/// The events that one append brings to one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAppend {
    /// The aggregate.
    pub aggregate_id: String,
    /// Its type: given by its first event, the same ever after.
    pub aggregate_type: String,
    /// What the writer believes about the stream.
    pub expected: ExpectedVersion,
    /// The events, oldest first. None is allowed: then only the expectation is checked.
    pub events: Vec<NewEvent>,
}

impl AppendBatch {
    /// A batch for one stream.
    #[must_use]
    pub fn one(aggregate_id: impl Into<String>, aggregate_type: impl Into<String>, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        Self::default().and(aggregate_id, aggregate_type, expected, events)
    }

    /// The same batch with events for one more stream.
    #[must_use]
    pub fn and(
        mut self,
        aggregate_id: impl Into<String>,
        aggregate_type: impl Into<String>,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Self {
        self.streams.push(StreamAppend { aggregate_id: aggregate_id.into(), aggregate_type: aggregate_type.into(), expected, events });
        self
    }

    /// The same batch for the streams of a tenant.
    #[must_use]
    pub fn for_tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// Checks all that can be checked without a store: names, sizes, ids that stand twice. What every backend does first.
    ///
    /// # Errors
    /// [`InvalidName`](Error::InvalidName), [`LimitExceeded`](Error::LimitExceeded),
    /// [`EventIdConflict`](Error::EventIdConflict) of an id that stands twice.
    pub fn check(&self) -> Result<()> {
        let events: usize = self.streams.iter().map(|stream| stream.events.len()).sum();
        if events > BATCH_EVENTS_MAX {
            return Err(Error::LimitExceeded { what: "number of events in one append", actual: events as u64, max: BATCH_EVENTS_MAX as u64 });
        }
        let (mut bytes, mut seen) = (0, HashSet::with_capacity(events));
        for stream in &self.streams {
            let key = StreamKey { tenant: &self.tenant, aggregate_id: &stream.aggregate_id };
            codec::check_stream(&key, &stream.aggregate_type)?;
            for event in &stream.events {
                bytes += event.data.as_bytes().len();
                Event::from_parts(&key, &stream.aggregate_type, event, Position::START, AggregateVersion::NONE, Timestamp::default())?;
            }
        }
        if bytes > BATCH_BYTES_MAX {
            return Err(Error::LimitExceeded { what: "size of one append (bytes)", actual: bytes as u64, max: BATCH_BYTES_MAX as u64 });
        }
        match self.streams.iter().flat_map(|stream| &stream.events).find(|event| !seen.insert(event.id)) {
            Some(twice) => Err(Error::EventIdConflict { event_id: twice.id, reason: EventIdProblem::TwiceInBatch }),
            None => Ok(()),
        }
    }
}
