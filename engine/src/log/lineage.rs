//! The lineage of a fork: whose segments its log begins with.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{get, u64_at};

/// The layout of an entry.
pub(crate) mod layout {
    /// Id of the ancestor (16 bytes).
    pub(crate) const STORE_ID: usize = 0;
    /// LSN up to which its segments, and those of the ancestors before it, reach (u64).
    pub(crate) const END_LSN: usize = STORE_ID + 16;
    /// Position of the last event that the next store of the lineage has from it (u64).
    pub(crate) const POSITION: usize = END_LSN + 8;
    /// Length of an entry.
    pub(crate) const ENTRY_BYTES: usize = POSITION + 8;
}

/// How many ancestors a store can have: of forks of forks.
pub(crate) const ANCESTORS_MAX: usize = 4096;
/// No log reaches further.
const END_LSN_MAX: u64 = 1 << 62;

/// A store that another was forked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub(crate) store_id: Uuid,
    /// Where its segments end, and those of the next store begin.
    pub(crate) end_lsn: u64,
    /// The last event before the fork.
    pub(crate) position: u64,
}

/// The ancestors of a store, the root first; none, unless it is a fork.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineage(Arc<[Ancestor]>);

impl Lineage {
    pub(crate) fn new(ancestors: Vec<Ancestor>) -> Self {
        Self(ancestors.into())
    }

    pub(crate) fn ancestors(&self) -> &[Ancestor] {
        &self.0
    }

    /// The store that made the segment which begins at an LSN of the store `store_id`.
    pub(crate) fn maker_of(&self, base_lsn: u64, store_id: Uuid) -> Uuid {
        let first = self.0.partition_point(|ancestor| ancestor.end_lsn <= base_lsn);
        self.0.get(first).map_or(store_id, |ancestor| ancestor.store_id)
    }

    /// The root of the family: what is made from its hashes is understood by all of its forks.
    pub(crate) fn origin(&self, store_id: Uuid) -> Uuid {
        self.0.first().map_or(store_id, |root| root.store_id)
    }

    /// The same as far as the log is kept: from `end_lsn` on, and behind `position`, all is the store's own.
    pub(crate) fn up_to(&self, end_lsn: u64, position: u64) -> Self {
        let cut = |ancestor: &Ancestor| Ancestor { end_lsn: ancestor.end_lsn.min(end_lsn), position: ancestor.position.min(position), ..*ancestor };
        Self(self.0.iter().map(cut).collect())
    }

    /// The lineage of what is forked from the store `store_id`, and has its segments up to `end_lsn`.
    pub(crate) fn of_fork(&self, store_id: Uuid, end_lsn: u64, position: u64) -> Self {
        let parent = Ancestor { store_id, end_lsn, position };
        Self(self.up_to(end_lsn, position).0.iter().copied().chain([parent]).collect())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * layout::ENTRY_BYTES);
        for ancestor in &*self.0 {
            bytes.extend_from_slice(ancestor.store_id.as_bytes());
            bytes.extend_from_slice(&ancestor.end_lsn.to_le_bytes());
            bytes.extend_from_slice(&ancestor.position.to_le_bytes());
        }
        bytes
    }

    /// The lineage of the store `store_id`; `None` if there can be no such one.
    pub(crate) fn decode(bytes: &[u8], store_id: Uuid) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<{ layout::ENTRY_BYTES }>();
        if !rest.is_empty() {
            return None;
        }
        let ancestor = |entry: &[u8; layout::ENTRY_BYTES]| Ancestor {
            store_id: Uuid::from_bytes(get(entry, layout::STORE_ID)),
            end_lsn: u64_at(entry, layout::END_LSN),
            position: u64_at(entry, layout::POSITION),
        };
        Self::checked(entries.iter().map(ancestor).collect(), store_id)
    }

    /// These ancestors of the store `store_id`; `None` if there can be no such ones.
    pub(crate) fn checked(ancestors: Vec<Ancestor>, store_id: Uuid) -> Option<Self> {
        let mut ids = HashSet::from([store_id]);
        let distinct = ancestors.iter().all(|ancestor| ids.insert(ancestor.store_id));
        let ordered = ancestors.is_sorted_by_key(|ancestor| ancestor.end_lsn) && ancestors.is_sorted_by_key(|ancestor| ancestor.position);
        let reachable = ancestors.iter().all(|ancestor| ancestor.end_lsn < END_LSN_MAX && ancestor.position < END_LSN_MAX);
        let few = ancestors.len() <= ANCESTORS_MAX;
        (few && distinct && ordered && reachable).then(|| Self::new(ancestors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// Store 3, forked at LSN 500 from store 2, which was forked at LSN 200 from store 1.
    fn grandchild() -> Lineage {
        Lineage::default().of_fork(id(1), 200, 20).of_fork(id(2), 500, 50)
    }

    #[test]
    fn each_segment_has_one_maker() {
        let lineage = grandchild();
        let makers = |base_lsns: &[u64]| base_lsns.iter().map(|base_lsn| lineage.maker_of(*base_lsn, id(3)).as_u128()).collect::<Vec<_>>();
        assert_eq!(makers(&[0, 199, 200, 499, 500, u64::MAX]), [1, 1, 2, 2, 3, 3]);
        assert_eq!(lineage.origin(id(3)), id(1));
        let none = Lineage::default();
        assert_eq!((none.maker_of(0, id(3)), none.origin(id(3))), (id(3), id(3)));
    }

    #[test]
    fn a_fork_before_its_parents_own_segments_has_none_of_them() {
        let lineage = grandchild().of_fork(id(3), 100, 10);
        let told: Vec<_> = lineage.ancestors().iter().map(|ancestor| (ancestor.store_id.as_u128(), ancestor.end_lsn, ancestor.position)).collect();
        assert_eq!(told, [(1, 100, 10), (2, 100, 10), (3, 100, 10)]);
        assert_eq!((lineage.maker_of(99, id(4)), lineage.maker_of(100, id(4))), (id(1), id(4)));
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for lineage in [Lineage::default(), grandchild(), grandchild().of_fork(id(3), 100, 10)] {
            assert_eq!(Lineage::decode(&lineage.encode(), id(9)), Some(lineage));
        }
    }

    #[test]
    fn no_store_is_its_own_ancestor_or_has_ancestors_out_of_order() {
        let ancestor = |number, end_lsn, position| Ancestor { store_id: id(number), end_lsn, position };
        let refused = [
            vec![ancestor(9, 1, 1)],
            vec![ancestor(1, 1, 1), ancestor(1, 2, 2)],
            vec![ancestor(1, 2, 1), ancestor(2, 1, 1)],
            vec![ancestor(1, 1, 2), ancestor(2, 1, 1)],
            vec![ancestor(1, 1, 2), ancestor(2, 2, 1)],
            vec![ancestor(1, 1 << 62, 1)],
            vec![ancestor(1, 1, u64::MAX)],
            (0..=ANCESTORS_MAX as u128).map(|number| ancestor(100 + number, 1, 1)).collect(),
        ];
        for ancestors in refused {
            assert_eq!(Lineage::decode(&Lineage::new(ancestors.clone()).encode(), id(9)), None, "{ancestors:?}");
        }
        assert_eq!(Lineage::decode(&grandchild().encode()[1..], id(9)), None);
    }
}
