//! What can be found in the log without reading it: aggregates, types, event ids. All of it is rebuilt from the log.
//!
//! The segment that is written to has its index in memory, and so has a sealed one until its index file is written. Of streams
//! whose last events are in segments with index files, the hot ones are kept in a table of bounded size.

mod events;
mod exact;
pub(crate) mod file;
pub(crate) mod filter;
mod hot;
mod ids;
mod kinds;
mod names;
pub(crate) mod part;
pub(crate) mod run;
pub(crate) mod sealed;
mod streams;

use std::sync::Arc;

use hot::Hot;
pub(crate) use hot::HotStream;
pub(crate) use ids::{Candidates, IdLookup};
pub(crate) use kinds::KindId;
use part::Part;
pub(crate) use streams::StreamId;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::StreamKey;

/// Where an event is: its position, and the LSN of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) position: u64,
    pub(crate) lsn: u64,
}

/// What a stream has in the segments before one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Before {
    /// The version of its last event there; 0 if there is none.
    pub(crate) version: u64,
    /// The newest segment with events of it: 0 if there is none, [`Before::SOMEWHERE`] if that was not looked up.
    pub(crate) segment: u64,
}

impl Before {
    /// The segment is not known.
    pub(crate) const SOMEWHERE: u64 = u64::MAX;
}

/// Which kinds a reader wants.
pub(crate) struct KindFilter {
    wanted: Vec<bool>,
    /// Kinds that could not be numbered must be looked at in the log.
    overflow: bool,
}

impl KindFilter {
    pub(crate) fn new(wanted: Vec<bool>, overflow: bool) -> Self {
        Self { wanted, overflow }
    }

    pub(crate) fn accepts(&self, kind: u16) -> bool {
        if kind == KindId::OVERFLOW.0 { self.overflow } else { self.wanted.get(usize::from(kind)).copied().unwrap_or(false) }
    }

    /// Whether it accepts nothing at all.
    pub(crate) fn accepts_nothing(&self) -> bool {
        !self.overflow && self.wanted.iter().all(|wanted| !wanted)
    }
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// It has no events.
    Absent,
    /// Index files tell.
    Cold,
    Known(Tip<'a>),
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip<'a> {
    pub(crate) version: u64,
    pub(crate) last_position: u64,
    pub(crate) aggregate_type: &'a str,
    /// The segment with its last event.
    pub(crate) segment: u64,
}

/// The index of a log, with everything that was assigned; readers stop at what is visible.
pub(crate) struct Index {
    active: Part,
    /// Of sealed segments without an index file, oldest first.
    waiting: Vec<Arc<Part>>,
    /// Streams whose last events are in segments with index files.
    hot: Hot,
    /// Whether there are such segments.
    has_files: bool,
    /// Raised when a segment is sealed and when its part goes: what was found in index files before may be older than what it had.
    generation: u64,
}

impl Index {
    /// The index of a log that goes on with this part, and keeps so many bytes of hot streams.
    pub(crate) fn new(active: Part, has_files: bool, hot_bytes: u64) -> Self {
        Self { active, waiting: Vec::new(), hot: Hot::new(hot_bytes), has_files, generation: 0 }
    }

    /// The index of the segment that is written to.
    pub(crate) fn active(&self) -> &Part {
        &self.active
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How many bytes of memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.active.memory_bytes() + self.waiting.iter().map(|part| part.memory_bytes()).sum::<usize>() + self.hot.memory_bytes()
    }

    /// Where a stream stands, with what is not visible yet.
    pub(crate) fn standing(&self, key: &StreamKey<'_>) -> Standing<'_> {
        match self.active.tip(key) {
            Some(tip) => Standing::Known(tip),
            None => self.standing_before(key),
        }
    }

    /// Where a stream stands, as far as its events are visible.
    pub(crate) fn visible_standing(&self, key: &StreamKey<'_>, visible: u64) -> Standing<'_> {
        match self.active.visible_tip(key, visible) {
            Some(tip) => Standing::Known(tip),
            None => self.standing_before(key),
        }
    }

    /// Where it stood when the active segment was begun.
    fn standing_before(&self, key: &StreamKey<'_>) -> Standing<'_> {
        if let Some(tip) = self.waiting.iter().rev().find_map(|part| part.tip(key)) {
            return Standing::Known(tip);
        }
        if !self.has_files {
            return Standing::Absent;
        }
        self.hot.get(key).map_or(Standing::Cold, Standing::Known)
    }

    /// The stream in the active segment's part, where it is made if it is not there; `cold` is what index files say of it, and
    /// `goes_on_after` the version up to which it is left out for good.
    pub(crate) fn stream_to_append(
        &mut self,
        key: &StreamKey<'_>,
        aggregate_type: &str,
        cold: Option<Before>,
        goes_on_after: u64,
    ) -> Result<StreamId> {
        if let Some(stream) = self.active.stream(key) {
            // A copy has what came before a deletion that leaves out more than it has.
            return if self.active.version(stream) < goes_on_after { self.active.stream_behind(stream, goes_on_after) } else { Ok(stream) };
        }
        let before = match self.standing_before(key) {
            Standing::Known(tip) => Before { version: tip.version, segment: tip.segment },
            Standing::Absent => Before::default(),
            Standing::Cold => cold.ok_or_else(|| Error::configuration("a stream was appended to before it was looked up"))?,
        };
        // Of what was left out nothing may be in the files, or not all.
        self.active.add_stream(key, aggregate_type, Before { version: before.version.max(goes_on_after), ..before })
    }

    /// The stream in the active segment's part where a version of it is restored, whichever versions before are left out; `cold` is what
    /// index files say of it. `None` if that version cannot follow.
    pub(crate) fn stream_to_restore(
        &mut self,
        key: &StreamKey<'_>,
        aggregate_type: &str,
        cold: Option<Before>,
        version: u64,
    ) -> Result<Option<StreamId>> {
        if let Some(stream) = self.active.stream(key) {
            return self.active.stream_at(stream, version);
        }
        let segment = match self.standing_before(key) {
            Standing::Known(tip) => tip.segment,
            Standing::Absent => 0,
            Standing::Cold => cold.ok_or_else(|| Error::configuration("a stream was restored before it was looked up"))?.segment,
        };
        let Some(before) = version.checked_sub(1) else { return Ok(None) };
        self.active.add_stream(key, aggregate_type, Before { version: before, segment }).map(Some)
    }

    /// The active segment's part, to take in an event.
    pub(crate) fn active_mut(&mut self) -> &mut Part {
        &mut self.active
    }

    /// Where an id may be stored already in the active segment.
    pub(crate) fn find_id(&self, id: Uuid, not_up_to: u64, visible: u64) -> IdLookup {
        self.active.find_id(id, not_up_to, visible)
    }

    /// Forgets what is only needed for events that are not visible yet.
    pub(crate) fn published(&mut self, visible: u64) {
        self.active.published(visible);
    }

    /// Goes on with another segment. The part of the one that is sealed stays until its index file is written.
    pub(crate) fn roll(&mut self, sequence: u64, first_position: u64) -> Arc<Part> {
        let sealed = Arc::new(std::mem::replace(&mut self.active, Part::new(sequence, first_position)));
        self.waiting.push(Arc::clone(&sealed));
        self.generation += 1;
        sealed
    }

    /// Goes on with another segment, behind others whose events were not taken in: index files tell where all streams stand.
    pub(crate) fn pass_over(&mut self, sequence: u64, first_position: u64) {
        self.active = Part::new(sequence, first_position);
        self.waiting.clear();
        self.hot.clear();
        self.has_files = true;
        self.generation += 1;
    }

    /// Keeps where a stream stands whose last event is in a segment with an index file.
    pub(crate) fn keep_hot(&mut self, key: &StreamKey<'_>, stream: HotStream<'_>) {
        self.hot.insert(key, stream);
    }

    /// Lets go of the part of a segment whose index file is written.
    pub(crate) fn let_go(&mut self, sequence: u64) {
        self.waiting.retain(|part| part.sequence() != sequence);
        self.has_files = true;
        self.generation += 1;
    }
}
