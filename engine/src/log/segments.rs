//! The segments of a log, in their order. Sealed ones are opened when they are read, and only so many are kept open.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::lineage::Lineage;
use super::manifest::ManifestSegment;
use super::segment::{AttachProblem, Segment, file_name};
use super::storage::{Access, Storage};
use crate::error::{Corruption, Error, Remedy, Result};
use crate::version::Position;

/// How many sealed segments are kept open.
const OPEN_MAX: usize = 128;

/// The segments of a log, as they were at one moment; each of the generation that counts now.
#[derive(Clone)]
pub(crate) struct Segments {
    slots: Vec<Arc<Slot>>,
    shared: Arc<Shared>,
}

struct Shared {
    storage: Arc<dyn Storage>,
    store_id: Uuid,
    lineage: Lineage,
    /// Those that were opened, the first one first.
    open: Mutex<VecDeque<Arc<Slot>>>,
}

/// A segment, in every list that it is in.
struct Slot {
    sequence: u64,
    base_lsn: u64,
    state: Mutex<SlotState>,
}

struct SlotState {
    /// Whoever opens it gets the generation that counts, also through a list that is older: the file of the one before may be gone.
    named: ManifestSegment,
    segment: Option<Arc<Segment>>,
}

impl Slot {
    fn new(named: ManifestSegment, segment: Option<Arc<Segment>>) -> Arc<Self> {
        Arc::new(Self { sequence: named.sequence, base_lsn: named.base_lsn, state: Mutex::new(SlotState { named, segment }) })
    }
}

impl Segments {
    /// The sealed segments of a manifest, and one that is open.
    pub(crate) fn new(storage: Arc<dyn Storage>, (store_id, lineage): (Uuid, &Lineage), sealed: &[ManifestSegment], last: Arc<Segment>) -> Self {
        let slots = sealed.iter().map(|named| Slot::new(*named, None)).collect();
        let shared = Shared { storage, store_id, lineage: lineage.clone(), open: Mutex::new(VecDeque::new()) };
        let mut segments = Self { slots, shared: Arc::new(shared) };
        segments.push(last);
        segments
    }

    /// The same segments and one more, which stays open. The one before it is sealed.
    pub(crate) fn and(&self, next: Arc<Segment>, sealed: ManifestSegment) -> Self {
        let mut segments = self.clone();
        if let Some(last) = segments.slots.pop() {
            let slot = Slot::new(sealed, last.state.lock().segment.clone());
            self.shared.opened(&slot);
            segments.slots.push(slot);
        }
        segments.push(next);
        segments
    }

    fn push(&mut self, segment: Arc<Segment>) {
        let named = super::open::named(&segment.header, None);
        self.slots.retain(|slot| slot.sequence != named.sequence);
        self.slots.push(Slot::new(named, Some(segment)));
    }

    /// From now on this generation of a segment is the one that is opened. Who reads the one before keeps it open until it is done.
    pub(crate) fn replace(&self, named: &ManifestSegment) {
        if let Ok(index) = self.slots.binary_search_by_key(&named.sequence, |slot| slot.sequence) {
            *self.slots[index].state.lock() = SlotState { named: *named, segment: None };
        }
    }

    /// The store whose id the hashes in index files begin with: the first of the family.
    pub(crate) fn origin(&self) -> Uuid {
        self.shared.lineage.origin(self.shared.store_id)
    }

    /// The store that made the segment which begins at this LSN: the one that is open, or an ancestor.
    pub(crate) fn maker_of(&self, base_lsn: u64) -> Uuid {
        self.shared.lineage.maker_of(base_lsn, self.shared.store_id)
    }

    /// The segment that holds an LSN, and the LSN at which the next one begins.
    pub(crate) fn holding(&self, lsn: u64) -> Result<(Arc<Segment>, u64)> {
        let next = self.slots.partition_point(|slot| slot.base_lsn <= lsn);
        let Some(slot) = next.checked_sub(1).map(|index| &self.slots[index]) else {
            return Err(Error::configuration(format!("LSN {lsn} lies in no segment")));
        };
        Ok((self.opened(slot)?, self.slots.get(next).map_or(u64::MAX, |next| next.base_lsn)))
    }

    /// The segment with this sequence number.
    pub(crate) fn numbered(&self, sequence: u64) -> Result<Arc<Segment>> {
        match self.slots.binary_search_by_key(&sequence, |slot| slot.sequence) {
            Ok(index) => self.opened(&self.slots[index]),
            Err(_) => Err(Error::configuration(format!("there is no segment {sequence}"))),
        }
    }

    fn opened(&self, slot: &Arc<Slot>) -> Result<Arc<Segment>> {
        let mut state = slot.state.lock();
        if let Some(segment) = &state.segment {
            return Ok(Arc::clone(segment));
        }
        let attached = Arc::new(self.shared.attach(&state.named)?);
        state.segment = Some(Arc::clone(&attached));
        drop(state);
        self.shared.opened(slot);
        Ok(attached)
    }
}

impl Shared {
    /// Remembers that a segment is open, and closes the one that was opened first if there are too many.
    fn opened(&self, slot: &Arc<Slot>) {
        let mut open = self.open.lock();
        open.push_back(Arc::clone(slot));
        let first = if open.len() > OPEN_MAX { open.pop_front() } else { None };
        drop(open);
        if let Some(first) = first {
            // Whoever reads it keeps it open until it is done.
            first.state.lock().segment = None;
        }
    }

    fn attach(&self, named: &ManifestSegment) -> Result<Segment> {
        let name = file_name(named.sequence, named.generation);
        let damage = |reason: &str| {
            let path = self.storage.path().join(&name);
            let last_good_position = Position(named.base_position - 1);
            let remedy = Remedy::ReadOrAcceptLoss;
            let reason = reason.to_owned();
            Corruption { path, segment: named.sequence, offset: 0, last_good_position, next_good_position: None, reason, remedy }
        };
        let segment = match Segment::attach(&*self.storage, &name, Access::Sealed) {
            Ok(segment) => segment,
            Err(AttachProblem::Error(error)) => return Err(error),
            Err(AttachProblem::Missing) => return Err(damage("the manifest names this segment, but there is no such file").into()),
            Err(AttachProblem::Damaged(reason)) => return Err(damage(reason).into()),
        };
        let header = &segment.header;
        if header.store_id != self.lineage.maker_of(named.base_lsn, self.store_id) {
            return Err(damage("the segment belongs to another store").into());
        }
        let told = (header.sequence, header.generation, header.base_lsn, header.base_position);
        if told != (named.sequence, named.generation, named.base_lsn, named.base_position) {
            return Err(damage("the segment is not the one that the manifest names").into());
        }
        Ok(segment)
    }
}
