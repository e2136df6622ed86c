//! What can be found in the log without reading it: aggregates, types, event ids. All of it is rebuilt from the log.

mod events;
mod exact;
#[cfg_attr(not(test), expect(dead_code, reason = "index files are not written by the store yet"))]
pub(crate) mod file;
pub(crate) mod filter;
mod ids;
mod kinds;
mod names;
#[cfg_attr(not(test), expect(dead_code, reason = "index files are not written by the store yet"))]
pub(crate) mod run;
#[cfg_attr(not(test), expect(dead_code, reason = "index files are not written by the store yet"))]
pub(crate) mod sealed;
mod streams;

use uuid::Uuid;

use events::{Entry, Events};
use ids::Ids;
pub(crate) use ids::{Candidates, IdLookup};
pub(crate) use kinds::KindId;
use kinds::Kinds;
use names::Names;
pub(crate) use streams::StreamId;
use streams::{Stream, Streams};

use crate::error::{Error, Result};
use crate::event::StreamKey;

/// Where an event is: its position, and the LSN of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) position: u64,
    pub(crate) lsn: u64,
}

/// The index of a log, with everything that was assigned; readers stop at what is visible.
pub(crate) struct Index {
    events: Events,
    streams: Streams,
    ids: Ids,
    aggregate_types: Names,
    kinds: Kinds,
}

/// Which kinds a reader wants.
pub(crate) struct KindFilter {
    wanted: Vec<bool>,
    /// Kinds that could not be numbered must be looked at in the log.
    overflow: bool,
}

impl KindFilter {
    fn accepts(&self, kind: u16) -> bool {
        if kind == KindId::OVERFLOW.0 { self.overflow } else { self.wanted.get(usize::from(kind)).copied().unwrap_or(false) }
    }
}

impl Index {
    /// The index of a log whose first event has this position.
    pub(crate) fn new(first_position: u64) -> Self {
        Self {
            events: Events::new(first_position),
            streams: Streams::default(),
            ids: Ids::default(),
            aggregate_types: Names::default(),
            kinds: Kinds::default(),
        }
    }

    /// The position of the log's first event.
    pub(crate) fn first_position(&self) -> u64 {
        self.events.first_position()
    }

    /// How many bytes of memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.events.memory_bytes()
            + self.streams.memory_bytes()
            + self.ids.memory_bytes()
            + self.aggregate_types.memory_bytes()
            + self.kinds.memory_bytes()
    }

    pub(crate) fn stream(&self, key: &StreamKey<'_>) -> Option<StreamId> {
        self.streams.find(key)
    }

    /// The version of a stream, with what is not visible yet.
    pub(crate) fn version(&self, stream: StreamId) -> u64 {
        self.streams.get(stream).version
    }

    /// The position of a stream's last event, visible or not.
    pub(crate) fn last_position(&self, stream: StreamId) -> u64 {
        self.events.position(self.streams.get(stream).tip)
    }

    pub(crate) fn aggregate_type(&self, stream: StreamId) -> &str {
        self.aggregate_types.get(self.streams.get(stream).aggregate_type)
    }

    /// The version and position of a stream's last event up to `visible`; `None` if it has none yet.
    pub(crate) fn visible_tip(&self, stream: StreamId, visible: u64) -> Option<(u64, u64)> {
        let Stream { mut version, mut tip, .. } = *self.streams.get(stream);
        while self.events.position(tip) > visible {
            version -= 1;
            if version == 0 {
                return None;
            }
            tip = self.events.previous(tip);
        }
        Some((version, self.events.position(tip)))
    }

    /// Finds or makes a stream. A new one has no events yet.
    pub(crate) fn stream_or_new(&mut self, key: &StreamKey<'_>, aggregate_type: &str) -> Result<StreamId> {
        if let Some(found) = self.streams.find(key) {
            return Ok(found);
        }
        let aggregate_type = self.aggregate_types.number(aggregate_type);
        self.streams.add(key, aggregate_type).ok_or_else(|| full("number of aggregates held in the index"))
    }

    /// The kind of an event of a stream.
    pub(crate) fn kind(&mut self, stream: StreamId, event_type: &str) -> KindId {
        self.kinds.number(self.streams.get(stream).aggregate_type, event_type)
    }

    /// Whether one more event can be held.
    pub(crate) fn has_room_for(&self, count: usize) -> Result<()> {
        if self.events.has_room_for(count) { Ok(()) } else { Err(full("number of events held in the index")) }
    }

    /// Takes in the next event of the log, and gives its version.
    pub(crate) fn push(&mut self, stream: StreamId, kind: KindId, id: Uuid, lsn: u64) -> u64 {
        let slot = self.streams.get_mut(stream);
        let previous = (slot.version > 0).then_some(slot.tip);
        let index = self.events.push(Entry { lsn, kind: kind.0 }, previous, &mut slot.depth);
        slot.version += 1;
        slot.tip = index;
        let version = slot.version;
        self.ids.push(id, self.events.position(index));
        version
    }

    /// Where an id may be stored already.
    pub(crate) fn find_id(&self, id: Uuid, not_up_to: u64, visible: u64) -> IdLookup {
        self.ids.find(id, not_up_to, visible, self.events.first_position(), self.events.last_position())
    }

    /// Forgets what is only needed for events that are not visible yet.
    pub(crate) fn published(&mut self, visible: u64) {
        self.ids.published(visible);
    }

    /// Where the events of a stream are whose versions are `from..=to`, oldest first.
    pub(crate) fn stream_locations(&self, stream: StreamId, from: u64, to: u64, out: &mut Vec<Location>) {
        let slot = self.streams.get(stream);
        let mut index = self.events.ancestor(slot.tip, slot.version, to);
        out.clear();
        for version in (from..=to).rev() {
            out.push(self.events.location(index));
            if version > from {
                index = self.events.previous(index);
            }
        }
        out.reverse();
    }

    /// Where the events are whose positions are `from..=to`, at most `limit` of those that the filter accepts, in the
    /// direction of reading. Gives the last position that was looked at.
    pub(crate) fn locations(&self, from: u64, to: u64, backwards: bool, filter: Option<&KindFilter>, limit: usize, out: &mut Vec<Location>) -> u64 {
        self.events.collect(from, to, backwards, |kind| filter.is_none_or(|filter| filter.accepts(kind)), limit, out)
    }

    /// The filter for these types; `None` if everything is wanted.
    pub(crate) fn filter(&self, event_types: &[String], aggregate_types: &[String], include_system: bool) -> Option<KindFilter> {
        let matches = |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
        let wanted: Vec<bool> = self
            .kinds
            .iter()
            .map(|(aggregate_type, event_type)| {
                matches(event_types, event_type)
                    && matches(aggregate_types, self.aggregate_types.get(aggregate_type))
                    && (include_system || !event_type.starts_with('$'))
            })
            .collect();
        let everything = event_types.is_empty() && aggregate_types.is_empty() && wanted.iter().all(|wanted| *wanted);
        (!everything).then_some(KindFilter { wanted, overflow: self.kinds.overflowed() })
    }
}

fn full(what: &'static str) -> Error {
    Error::LimitExceeded { what, actual: u64::from(u32::MAX) + 1, max: u64::from(u32::MAX) }
}
