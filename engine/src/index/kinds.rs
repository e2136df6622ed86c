//! The kinds of events: pairs of aggregate type and event type, and the numbers they are given.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::sealed::kind;

/// The kind of an event: its event type and aggregate type together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindId(pub(super) u16);

impl KindId {
    /// Stands for all kinds that came when the numbers were used up: they are told apart in the log.
    pub(super) const OVERFLOW: Self = Self(kind::OVERFLOW);
    /// Stands for records that were taken out: no query wants them.
    pub(super) const REMOVED: Self = Self(kind::REMOVED);
}

/// All kinds of a log, numbered from 0.
#[derive(Default)]
pub(super) struct Kinds {
    hasher: RandomState,
    table: HashTable<u16>,
    by_number: Vec<Kind>,
}

struct Kind {
    aggregate_type: u32,
    event_type: Box<str>,
}

fn hash(hasher: &RandomState, aggregate_type: u32, event_type: &str) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u32(aggregate_type);
    state.write(event_type.as_bytes());
    state.finish()
}

impl Kinds {
    pub(super) fn memory_bytes(&self) -> usize {
        let names: usize = self.by_number.iter().map(|kind| kind.event_type.len()).sum();
        self.table.allocation_size() + self.by_number.capacity() * size_of::<Kind>() + names
    }

    /// The number of a kind, which it is given now if it has none and there are numbers left.
    pub(super) fn number(&mut self, aggregate_type: u32, event_type: &str) -> KindId {
        let Self { hasher, table, by_number } = self;
        let hashed = hash(hasher, aggregate_type, event_type);
        let same = |number: &u16| {
            let kind = &by_number[usize::from(*number)];
            kind.aggregate_type == aggregate_type && *kind.event_type == *event_type
        };
        if let Some(number) = table.find(hashed, same) {
            return KindId(*number);
        }
        let Some(number) = u16::try_from(by_number.len()).ok().filter(|number| *number < KindId::REMOVED.0) else {
            return KindId::OVERFLOW;
        };
        by_number.push(Kind { aggregate_type, event_type: event_type.into() });
        table.insert_unique(hashed, number, |number| {
            let kind = &by_number[usize::from(*number)];
            hash(hasher, kind.aggregate_type, &kind.event_type)
        });
        KindId(number)
    }

    /// Whether some kinds could not be given a number.
    pub(super) fn overflowed(&self) -> bool {
        self.by_number.len() == usize::from(KindId::REMOVED.0)
    }

    /// Each kind's aggregate type and event type, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.by_number.iter().map(|kind| (kind.aggregate_type, &*kind.event_type))
    }
}
