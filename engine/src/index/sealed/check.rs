//! Whether the index of a sealed segment agrees with itself, to the last entry.

use super::{SealedIndex, StreamEntry, event, id, kind};
use crate::index::file::{IndexProblem, Page};
use crate::index::filter::Filter;
use crate::log::format::get;

/// Marks events as seen; each may be seen once.
struct Seen(Vec<bool>);

impl Seen {
    fn see(&mut self, slot: u32, twice: &'static str) -> Result<(), IndexProblem> {
        match self.0.get_mut(slot as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(IndexProblem::Damaged(twice)),
        }
        Ok(())
    }
}

/// What is shown the streams of an index.
pub(super) trait StreamVisitor {
    /// The number of a stream's next event.
    fn event(&mut self, slot: u32) -> Result<(), IndexProblem>;

    /// The stream whose events these were.
    fn end_of_stream(&mut self, stream: &StreamEntry) -> Result<(), IndexProblem>;
}

impl StreamVisitor for Seen {
    fn event(&mut self, slot: u32) -> Result<(), IndexProblem> {
        self.see(slot, "an event stands in two streams, or is not there")
    }

    fn end_of_stream(&mut self, _: &StreamEntry) -> Result<(), IndexProblem> {
        Ok(())
    }
}

impl SealedIndex {
    fn nothing_seen(&self) -> Seen {
        Seen(vec![false; usize::try_from(self.events.count).unwrap_or(usize::MAX)])
    }

    /// Reads every page, and whether all that it says fits together.
    pub(crate) fn check(&self) -> Result<(), IndexProblem> {
        self.check_events(|_| Ok(()))?;
        self.check_streams(&mut self.nothing_seen())?;
        let mut seen = self.nothing_seen();
        self.check_ids(|_, slot| seen.see(slot, "an event has two ids, or is not there"))
    }

    /// Reads every page and each event, which is shown.
    pub(super) fn check_events(&self, show: impl FnMut(&[u8]) -> Result<(), IndexProblem>) -> Result<(), IndexProblem> {
        self.file.check()?;
        let removed = self.check_kinds(show)?;
        let there = self.events.count - removed;
        if self.slots.count != there || self.ids.count != there || self.events.count > u64::from(u32::MAX) {
            return Err(IndexProblem::Damaged("it does not have one id and one stream for each event"));
        }
        Ok(())
    }

    /// How many events were taken out.
    fn check_kinds(&self, mut show: impl FnMut(&[u8]) -> Result<(), IndexProblem>) -> Result<u64, IndexProblem> {
        let kinds = self.kinds()?;
        let mut counts = vec![0_u32; kinds.numbered.len()];
        let (mut overflowed, mut removed) = (0, 0);
        self.file.pages.each(&self.events, 0..self.events.count, &mut Page::new(), |entry| {
            let number = u16::from_le_bytes(get(entry, event::KIND));
            match counts.get_mut(usize::from(number)) {
                Some(count) => *count += 1,
                None if number == kind::OVERFLOW => overflowed += 1,
                None if number == kind::REMOVED => removed += 1,
                None => return Err(IndexProblem::Damaged("an event is of a kind that is not there")),
            }
            show(entry)
        })?;
        if overflowed + removed != kinds.overflowed || !kinds.numbered.iter().map(|kind| kind.count).eq(counts) {
            return Err(IndexProblem::Damaged("it counts its kinds wrongly"));
        }
        Ok(removed)
    }

    /// Reads each stream. Whether it has the events that it should have is for the visitor to see.
    pub(super) fn check_streams(&self, visitor: &mut impl StreamVisitor) -> Result<(), IndexProblem> {
        let filter = self.filter()?;
        let (mut before, mut slots, mut of_slots) = (0, 0, Page::new());
        for stream in self.stream_entries() {
            let stream: StreamEntry = stream?;
            if stream.hash < before || !filter.may_hold(&self.file.pages, stream.hash)? {
                return Err(IndexProblem::Damaged("a stream cannot be found by its hash"));
            }
            before = stream.hash;
            if u64::from(stream.aggregate_type) >= self.aggregate_types.count {
                return Err(IndexProblem::Damaged("a stream is of an aggregate type that is not there"));
            }
            let from = u64::from(stream.slots_at);
            self.file.pages.each(&self.slots, from..from + u64::from(stream.count), &mut of_slots, |entry| {
                slots += 1;
                visitor.event(u32::from_le_bytes(get(entry, 0)))
            })?;
            visitor.end_of_stream(&stream)?;
        }
        if slots == self.slots.count { Ok(()) } else { Err(IndexProblem::Damaged("an event stands in no stream")) }
    }

    /// Reads each id, whose hash is shown with the number of its event: whether that is there, and once, is for the caller to see.
    pub(super) fn check_ids(&self, mut show: impl FnMut(u64, u32) -> Result<(), IndexProblem>) -> Result<(), IndexProblem> {
        let filter = Filter::load(&self.file.pages, &self.id_filter, u64::MAX)?;
        let mut before = 0;
        self.file.pages.each(&self.ids, 0..self.ids.count, &mut Page::new(), |entry| {
            let hash = u64::from_le_bytes(get(entry, id::HASH));
            if hash < before || !filter.may_hold(&self.file.pages, hash)? {
                return Err(IndexProblem::Damaged("an id cannot be found by its hash"));
            }
            before = hash;
            show(hash, u32::from_le_bytes(get(entry, id::SLOT)))
        })
    }
}
