//! What is known of one segment's events without reading it: places, streams, kinds, ids. Made as events are appended, or from the
//! segment when it is read.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::events::{Depth, Entry, Events};
use super::ids::{IdLookup, Ids};
use super::kinds::{KindId, Kinds};
use super::names::Names;
use super::sealed::{Contents, EventEntry, Identity, StreamEntry, stream_hash};
use super::streams::{Stream, StreamId, Streams};
use super::{Before, KindFilter, Location, Tip};
use crate::error::{Error, Result};
use crate::event::StreamKey;
use crate::store::ReadAll;

/// The index of a segment, with everything that was assigned; readers stop at what is visible.
pub(crate) struct Part {
    sequence: u64,
    events: Events,
    streams: Streams,
    ids: Ids,
    aggregate_types: Names,
    kinds: Kinds,
    /// How many records were taken out of the segment.
    removed: usize,
    /// Of streams that go on behind versions that are left out, the run of versions before each of the later ones.
    earlier: HashMap<StreamId, StreamId>,
}

impl Part {
    /// The index of a segment whose first event has, or will have, this position.
    pub(crate) fn new(sequence: u64, first_position: u64) -> Self {
        Self {
            sequence,
            events: Events::new(first_position),
            streams: Streams::default(),
            ids: Ids::default(),
            aggregate_types: Names::default(),
            kinds: Kinds::default(),
            removed: 0,
            earlier: HashMap::new(),
        }
    }

    /// The segment that it is of.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The position of the segment's first event.
    pub(crate) fn first_position(&self) -> u64 {
        self.events.first_position()
    }

    /// The position of its last event; one less than the first if there is none.
    pub(crate) fn last_position(&self) -> u64 {
        self.events.last_position()
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

    /// What is known of a stream's events before this segment.
    pub(crate) fn before(&self, stream: StreamId) -> Before {
        self.streams.get(stream).before
    }

    pub(crate) fn aggregate_type(&self, stream: StreamId) -> &str {
        self.aggregate_types.get(self.streams.get(stream).aggregate_type)
    }

    /// Where a stream stands, with what is not visible yet; `None` if this segment has no events of it.
    pub(crate) fn tip(&self, key: &StreamKey<'_>) -> Option<Tip<'_>> {
        self.visible_tip(key, u64::MAX)
    }

    /// Where a stream stands, as far as its events here are visible; `None` if none is.
    pub(crate) fn visible_tip(&self, key: &StreamKey<'_>, visible: u64) -> Option<Tip<'_>> {
        let mut run = self.stream(key);
        while let Some(stream) = run {
            if let Some(tip) = self.run_tip(stream, visible) {
                return Some(tip);
            }
            run = self.earlier_run(stream);
        }
        None
    }

    /// The end of a run of a stream's versions, as far as they are visible; `None` if none is.
    pub(crate) fn run_tip(&self, stream: StreamId, visible: u64) -> Option<Tip<'_>> {
        let Stream { mut version, mut tip, before, .. } = *self.streams.get(stream);
        loop {
            if version == before.version {
                return None;
            }
            let last_position = self.events.position(tip);
            if last_position <= visible {
                return Some(Tip { version, last_position, aggregate_type: self.aggregate_type(stream), segment: self.sequence });
            }
            version -= 1;
            if version > before.version {
                tip = self.events.previous(tip);
            }
        }
    }

    /// Makes a stream that this segment has no events of yet.
    pub(crate) fn add_stream(&mut self, key: &StreamKey<'_>, aggregate_type: &str, before: Before) -> Result<StreamId> {
        let aggregate_type = self.aggregate_types.number(aggregate_type);
        self.streams.add(key, aggregate_type, before).ok_or_else(|| full("number of aggregates held in the index"))
    }

    /// The run of versions that a stream has here before this one.
    pub(crate) fn earlier_run(&self, stream: StreamId) -> Option<StreamId> {
        self.earlier.get(&stream).copied()
    }

    /// The newest run of a stream's versions here that begins below a version.
    pub(crate) fn run_below(&self, key: &StreamKey<'_>, below: u64) -> Option<StreamId> {
        let mut run = self.stream(key);
        while let Some(stream) = run.filter(|stream| self.before(*stream).version + 1 >= below) {
            run = self.earlier_run(stream);
        }
        run
    }

    /// Where a version of a stream is to be taken in whose last event here is another one: behind that if it follows, else in a run of its
    /// own, as many of whose predecessors as are missing must have been left out. `None` if it cannot follow.
    pub(crate) fn stream_at(&mut self, stream: StreamId, version: u64) -> Result<Option<StreamId>> {
        let known = self.version(stream);
        if version == known + 1 {
            return Ok(Some(stream));
        }
        if version <= known || version - known - 1 > self.removed as u64 {
            return Ok(None);
        }
        self.stream_behind(stream, version - 1).map(Some)
    }

    /// A run of a stream's versions that goes on behind one that is not its last here.
    pub(crate) fn stream_behind(&mut self, stream: StreamId, version: u64) -> Result<StreamId> {
        let before = Before { version, segment: self.sequence };
        let run = self.streams.add_run(stream, before).ok_or_else(|| full("number of aggregates held in the index"))?;
        self.earlier.insert(run, stream);
        Ok(run)
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
        let previous = (slot.version > slot.before.version).then_some(slot.tip);
        let index = self.events.push(Entry { lsn, kind: kind.0 }, previous, &mut slot.depth);
        slot.version += 1;
        slot.tip = index;
        let version = slot.version;
        self.ids.push(id, self.events.position(index));
        version
    }

    /// Takes in that the next record of the log was taken out: its position is counted, and nothing is found there.
    pub(crate) fn push_removed(&mut self, lsn: u64) {
        let index = self.events.push(Entry { lsn, kind: KindId::REMOVED.0 }, None, &mut Depth::default());
        self.ids.push_removed(self.events.position(index));
        self.removed += 1;
    }

    /// How many records were taken out of the segment when this was made from it.
    pub(crate) fn removed(&self) -> usize {
        self.removed
    }

    /// The largest event id; `None` if there are no events.
    pub(crate) fn largest_id(&self) -> Option<Uuid> {
        self.ids.largest()
    }

    /// Where an id may be stored already.
    pub(crate) fn find_id(&self, id: Uuid, not_up_to: u64, visible: u64) -> IdLookup {
        self.ids.find(id, not_up_to, visible, self.events.first_position(), self.events.last_position())
    }

    /// Forgets what is only needed for events that are not visible yet.
    pub(crate) fn published(&mut self, visible: u64) {
        self.ids.published(visible);
    }

    /// Where the events of a stream are whose versions are `from..=to`, all of them in this segment, oldest first.
    pub(crate) fn stream_locations(&self, stream: StreamId, from: u64, to: u64, out: &mut Vec<Location>) {
        let slot = self.streams.get(stream);
        let mut index = self.events.ancestor(slot.tip, slot.version - slot.before.version, to - slot.before.version);
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

    /// What a query wants of this segment; `None` if it wants all.
    pub(crate) fn filter(&self, query: &ReadAll) -> Option<KindFilter> {
        let wants = |(aggregate_type, event_type): (_, &str)| query.wants(self.aggregate_types.get(aggregate_type).as_bytes(), event_type.as_bytes());
        let wanted: Vec<bool> = self.kinds.iter().map(wants).collect();
        let all = wanted.iter().all(|wanted| *wanted) && !self.kinds.overflowed() && self.removed == 0;
        (!all).then(|| KindFilter::new(wanted, self.kinds.overflowed()))
    }

    /// Where each of its streams stands at the end of the segment.
    pub(crate) fn tips(&self) -> impl Iterator<Item = (StreamKey<'_>, Tip<'_>)> {
        let earlier: HashSet<StreamId> = self.earlier.values().copied().collect();
        let tip = move |(key, number, stream): (_, StreamId, &Stream)| {
            if earlier.contains(&number) {
                return None;
            }
            let aggregate_type = self.aggregate_types.get(stream.aggregate_type);
            let (version, last_position) = (stream.version, self.events.position(stream.tip));
            Some((key, Tip { version, last_position, aggregate_type, segment: self.sequence }))
        };
        self.streams.iter().filter_map(tip)
    }

    /// What the segment's index file is made from. `ids` are those of its events, by position; `segment_before` finds the newest
    /// earlier segment with events of a stream where that was not looked up.
    pub(crate) fn contents(
        &self,
        identity: Identity,
        ids: &[Option<Uuid>],
        mut segment_before: impl FnMut(&StreamKey<'_>) -> Result<u64>,
    ) -> Result<Contents> {
        let place = |lsn: u64| u32::try_from((lsn - identity.base_lsn) / 8).unwrap_or(u32::MAX);
        let events = self.events.iter().zip(ids).map(|((lsn, kind), id)| EventEntry { place: place(lsn), kind, id: *id }).collect();
        let mut streams = Vec::with_capacity(self.streams.len());
        let mut slots: Vec<u32> = Vec::with_capacity(ids.len());
        for (key, _, stream) in self.streams.iter() {
            let before = stream.before;
            let previous_segment = if before.segment == Before::SOMEWHERE { segment_before(&key)? } else { before.segment };
            let slots_at = slots.len();
            let count = usize::try_from(stream.version - before.version).unwrap_or(usize::MAX);
            let mut slot = stream.tip;
            for left in (0..count).rev() {
                slots.push(slot);
                if left > 0 {
                    slot = self.events.previous(slot);
                }
            }
            slots[slots_at..].reverse();
            streams.push(StreamEntry {
                hash: stream_hash(identity.store_id, key.tenant, key.aggregate_id),
                aggregate_type: stream.aggregate_type,
                first_version: before.version + 1,
                count: u32::try_from(count).unwrap_or(u32::MAX),
                slots_at: u32::try_from(slots_at).unwrap_or(u32::MAX),
                previous_segment,
            });
        }
        Ok(Contents {
            identity,
            aggregate_types: self.aggregate_types.iter().map(str::to_owned).collect(),
            kinds: self.kinds.iter().map(|(aggregate_type, event_type)| (aggregate_type, event_type.to_owned())).collect(),
            events,
            streams,
            slots,
        })
    }
}

fn full(what: &'static str) -> Error {
    Error::LimitExceeded { what, actual: u64::from(u32::MAX) + 1, max: u64::from(u32::MAX) }
}
