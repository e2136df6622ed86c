//! The filters of readers: which events of a sealed segment are wanted, told by the numbers of their kinds.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{SealedSegment, SegmentIndex, Trouble};
use crate::index::file::IndexProblem;
use crate::index::sealed::{Kinds, SealedIndex};
use crate::index::{KindFilter, Location};
use crate::store::ReadAll;

/// Collects at most `limit` locations between two positions whose kind is wanted; gives the last position looked at.
pub(super) fn collect(
    segment: &SealedSegment,
    file: &SealedIndex,
    (from, to): (u64, u64),
    backwards: bool,
    filter: Option<&KindFilter>,
    limit: usize,
    out: &mut Vec<Location>,
) -> Result<u64, Trouble> {
    let base = segment.named.base_position;
    let slot = |position: u64| u32::try_from(position - base).unwrap_or(u32::MAX);
    // Without a filter as many as are wanted; else what a few pages have.
    let step = if filter.is_some() { 4096.max(limit as u64) } else { limit as u64 };
    let (mut low, mut high) = (from, to);
    let mut places = Vec::new();
    loop {
        let (first, last) = if backwards { (low.max((high + 1).saturating_sub(step)), high) } else { (low, high.min(low + step - 1)) };
        places.clear();
        file.places(slot(first), slot(last), &mut places)?;
        if places.len() as u64 != last - first + 1 {
            return Err(IndexProblem::Damaged("it lacks events").into());
        }
        let mut at = if backwards { last } else { first };
        loop {
            let (place, kind) = places[usize::try_from(at - first).unwrap_or(0)];
            if filter.is_none_or(|filter| filter.accepts(kind)) {
                out.push(Location { position: at, lsn: segment.named.base_lsn + u64::from(place) * 8 });
            }
            if out.len() == limit || at == if backwards { from } else { to } {
                return Ok(at);
            }
            if at == if backwards { first } else { last } {
                break;
            }
            at = if backwards { at - 1 } else { at + 1 };
        }
        if backwards {
            high = first - 1;
        } else {
            low = last + 1;
        }
    }
}

/// The filter of a reader: kinds have numbers of their own in each segment.
pub(crate) struct SealedFilter {
    query: ReadAll,
    last: Mutex<Option<LastFilter>>,
}

/// The filter for the segment that was asked for last; `None` if all of its events are wanted.
struct LastFilter {
    sequence: u64,
    /// Whether the index was in a file: else kinds have other numbers.
    in_file: bool,
    filter: Option<Arc<KindFilter>>,
}

impl SealedFilter {
    pub(crate) fn new(query: ReadAll) -> Self {
        Self { query, last: Mutex::new(None) }
    }

    /// The filter for a segment; `None` if all of its events are wanted.
    pub(super) fn of(&self, sequence: u64, index: &SegmentIndex) -> Result<Option<Arc<KindFilter>>, Trouble> {
        let in_file = matches!(index, SegmentIndex::File(_));
        let mut last = self.last.lock();
        if let Some(last) = &*last
            && (last.sequence, last.in_file) == (sequence, in_file)
        {
            return Ok(last.filter.clone());
        }
        let filter = match index {
            SegmentIndex::Memory(part) => part.filter(&self.query),
            SegmentIndex::File(file) => filter_of(&file.kinds()?, &self.query),
        };
        let filter = filter.map(Arc::new);
        *last = Some(LastFilter { sequence, in_file, filter: filter.clone() });
        Ok(filter)
    }
}

/// What a query wants of these kinds; `None` if it wants all of them.
fn filter_of(kinds: &Kinds, query: &ReadAll) -> Option<KindFilter> {
    let wanted: Vec<bool> = kinds.numbered.iter().map(|kind| query.wants(kind.aggregate_type.as_bytes(), kind.event_type.as_bytes())).collect();
    let all = wanted.iter().all(|wanted| *wanted) && kinds.overflowed == 0;
    (!all).then(|| KindFilter::new(wanted, kinds.overflowed > 0))
}
