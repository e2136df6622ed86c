//! Whether an event id is stored already, without an index of all ids.
//!
//! Ids that grow with time (UUID v7 as it is given out) need no table: an id beyond the largest so far is new. Each block
//! of 1024 events keeps the first id that grew, and a small filter; an older id is looked for in the one block where it
//! would be. Ids that do not grow are kept in an exact table.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::exact::Exact;

/// How many events share a filter.
const BLOCK: u64 = 1024;
/// The size of a filter in bits: 12 an event, so that about 1 in 300 unknown ids costs a look into the log.
const FILTER_BITS: u64 = BLOCK * 12;
/// How many bits of a filter stand for an id.
const FILTER_PROBES: u64 = 8;

/// Where an id may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IdLookup {
    /// It is not in the store.
    Absent,
    /// It belongs to an event that is not visible yet.
    InFlight,
    /// It may belong to one of these events; the log tells.
    Look(Candidates),
}

/// Positions at which an id may be found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Candidates {
    /// At one of these positions,
    pub(crate) positions: Vec<u64>,
    /// or anywhere between two of these, both included.
    pub(crate) ranges: Vec<(u64, u64)>,
}

impl Candidates {
    pub(crate) fn add(&mut self, others: Self) {
        self.positions.extend(others.positions);
        self.ranges.extend(others.ranges);
    }
}

/// What is known about the ids of a log.
#[derive(Default)]
pub(super) struct Ids {
    hasher: RandomState,
    /// The largest id of those that grew.
    largest: u128,
    blocks: Vec<Block>,
    others: Exact,
    /// The ids of events that are not visible yet.
    in_flight: VecDeque<(u64, Uuid)>,
    first_position: Option<u64>,
    any: bool,
}

struct Block {
    /// No id that grew in this block is smaller, and none of the blocks before is as large.
    first: u128,
    filter: Option<Box<[u64]>>,
}

fn filter_bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let step = (hash >> 32) | 1;
    (0..FILTER_PROBES).map(move |probe| {
        let bit = ((hash.wrapping_add(probe.wrapping_mul(step)) & 0xFFFF_FFFF) * FILTER_BITS) >> 32;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    })
}

impl Ids {
    pub(super) fn memory_bytes(&self) -> usize {
        let filters = self.blocks.iter().filter_map(|block| block.filter.as_ref()).map(|filter| filter.len() * 8).sum::<usize>();
        self.blocks.capacity() * size_of::<Block>() + filters + self.others.memory_bytes() + self.in_flight.capacity() * size_of::<(u64, Uuid)>()
    }

    pub(super) fn push(&mut self, id: Uuid, position: u64) {
        let number = id.as_u128();
        let grows = number > self.largest;
        let index = self.begin_block(position, if grows { number } else { self.largest.saturating_add(1) });
        self.any = true;
        let hash = self.hasher.hash_one(number);
        if grows {
            self.largest = number;
            if let Some(block) = self.blocks.last_mut() {
                let filter = block.filter.get_or_insert_with(|| vec![0; usize::try_from(FILTER_BITS / 64).unwrap_or(0)].into());
                for (word, bit) in filter_bits(hash) {
                    filter[word] |= bit;
                }
            }
        } else {
            self.others.insert(hash, u32::try_from(index).unwrap_or(u32::MAX - 1));
        }
        self.in_flight.push_back((position, id));
    }

    /// Counts a position that has no id.
    pub(super) fn push_removed(&mut self, position: u64) {
        self.begin_block(position, self.largest.saturating_add(1));
    }

    /// Begins the block of a position, if it is the first one in it; how many positions are before it. No id that grows from here on is
    /// smaller than `first`.
    fn begin_block(&mut self, position: u64, first: u128) -> u64 {
        let index = position - *self.first_position.get_or_insert(position);
        if index.is_multiple_of(BLOCK) {
            self.blocks.push(Block { first, filter: None });
        }
        index
    }

    /// The largest id; `None` if there is none.
    pub(super) fn largest(&self) -> Option<Uuid> {
        self.any.then(|| Uuid::from_u128(self.largest))
    }

    pub(super) fn published(&mut self, visible: u64) {
        while self.in_flight.front().is_some_and(|(position, _)| *position <= visible) {
            self.in_flight.pop_front();
        }
    }

    /// Where an id may be behind the position `not_up_to`.
    pub(super) fn find(&self, id: Uuid, not_up_to: u64, visible: u64, first: u64, last: u64) -> IdLookup {
        let number = id.as_u128();
        if self.blocks.is_empty() || (number > self.largest && self.others.is_empty()) {
            return IdLookup::Absent;
        }
        let hash = self.hasher.hash_one(number);
        let mut positions: Vec<u64> = self.others.find(hash).map(|index| first + u64::from(index)).collect();
        let range = (number <= self.largest).then(|| self.block_of(number, hash)).flatten().map(|block| {
            let start = first + block * BLOCK;
            (start, (start + BLOCK - 1).min(last))
        });
        if positions.is_empty() && range.is_none() {
            return IdLookup::Absent;
        }
        if self.in_flight.iter().any(|(_, other)| *other == id) {
            return IdLookup::InFlight;
        }
        positions.retain(|position| (not_up_to + 1..=visible).contains(position));
        let range = range.map(|(start, end)| (start.max(not_up_to + 1), end.min(visible))).filter(|(start, end)| start <= end);
        let ranges: Vec<(u64, u64)> = range.into_iter().collect();
        if positions.is_empty() && ranges.is_empty() { IdLookup::Absent } else { IdLookup::Look(Candidates { positions, ranges }) }
    }

    /// The one block in which an id that grew can be, if its filter does not rule it out.
    fn block_of(&self, number: u128, hash: u64) -> Option<u64> {
        let index = self.blocks.partition_point(|block| block.first <= number).checked_sub(1)?;
        let filter = self.blocks[index].filter.as_ref()?;
        filter_bits(hash).all(|(word, bit)| filter[word] & bit != 0).then_some(index as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn an_id_that_was_stored_is_always_among_the_candidates(seeds in proptest::collection::vec((any::<bool>(), any::<u32>()), 1..4000), visible_part in 0.0..1.0_f64) {
            let mut ids = Ids::default();
            let mut stored = HashMap::new();
            let mut clock = 1_u128 << 80;
            let mut position = 0;
            for (grows, seed) in seeds {
                clock += u128::from(seed);
                let number = if grows { clock } else { u128::from(seed) };
                if stored.contains_key(&number) {
                    continue;
                }
                position += 1;
                stored.insert(number, position);
                ids.push(Uuid::from_u128(number), position);
            }
            let last = position;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of a small number")]
            let visible = (last as f64 * visible_part) as u64;
            ids.published(visible);
            let mut false_alarms = 0;
            for (number, position) in &stored {
                match ids.find(Uuid::from_u128(*number), 0, visible, 1, last) {
                    IdLookup::Absent => prop_assert!(false, "{number} at {position} of {last}, visible up to {visible}, was not found"),
                    IdLookup::InFlight => prop_assert!(*position > visible),
                    IdLookup::Look(candidates) => {
                        prop_assert!(*position <= visible);
                        let within = candidates.ranges.iter().any(|(start, end)| (start..=end).contains(&position));
                        prop_assert!(within || candidates.positions.contains(position));
                    }
                }
                let unknown = Uuid::from_u128(number ^ (1 << 120));
                if !stored.contains_key(&unknown.as_u128()) && ids.find(unknown, 0, visible, 1, last) != IdLookup::Absent {
                    false_alarms += 1;
                }
            }
            prop_assert!(false_alarms <= 5 + stored.len() / 50, "{false_alarms} of {}", stored.len());
        }
    }
}
