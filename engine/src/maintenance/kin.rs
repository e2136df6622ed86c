//! Which segments are of one store and its ancestors, where no manifest tells.

use std::collections::{BTreeMap, HashSet, VecDeque};

use uuid::Uuid;

use crate::log::format::SegmentHeader;
use crate::log::lineage::{Ancestor, Lineage};
use crate::log::segment::Segment;
use crate::log::storage::{Access, Storage};
use crate::log::watermark::Watermark;

/// A store, and whose segments its log begins with.
#[derive(Clone, Default)]
pub(super) struct Family {
    pub(super) store_id: Uuid,
    pub(super) lineage: Lineage,
}

impl Family {
    pub(super) fn maker_of(&self, base_lsn: u64) -> Uuid {
        self.lineage.maker_of(base_lsn, self.store_id)
    }

    pub(super) fn origin(&self) -> Uuid {
        self.lineage.origin(self.store_id)
    }
}

/// A segment file with a sound header.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) file: &'a str,
    pub(super) header: &'a SegmentHeader,
}

/// The family that most of these segments belong to: the store that made most of them, those that it goes on from, and those that
/// go on from it. Of these the last one is the store.
pub(super) fn family_of(storage: &dyn Storage, members: &[Member<'_>]) -> Family {
    let mut members = members.to_vec();
    members.sort_by_key(|member| (member.header.sequence, member.header.generation));
    let Some(commonest) = commonest(&members) else { return Family::default() };
    let alone = || Family { store_id: commonest, lineage: Lineage::default() };
    let Some(start) = members.iter().position(|member| member.header.store_id == commonest) else { return alone() };
    let mut seen = HashSet::from([commonest]);
    let told = Watermark::store_of(storage);
    // The first segment of each store, in the order of the log.
    let mut firsts = VecDeque::from([members[start]]);
    let mut next = members[start];
    for member in members[..start].iter().rev() {
        let is_other = member.header.store_id != next.header.store_id;
        if is_other && (seen.contains(&member.header.store_id) || !goes_on(storage, *member, next, told)) {
            continue;
        }
        if is_other {
            seen.insert(member.header.store_id);
            firsts.push_front(*member);
        } else if let Some(first) = firsts.front_mut() {
            *first = *member;
        }
        next = *member;
    }
    let mut last = members[start];
    for member in &members[start + 1..] {
        let is_other = member.header.store_id != last.header.store_id;
        if is_other && (seen.contains(&member.header.store_id) || !goes_on(storage, last, *member, told)) {
            continue;
        }
        if is_other {
            seen.insert(member.header.store_id);
            firsts.push_back(*member);
        }
        last = *member;
    }
    let ancestor = |(first, next): (&Member<'_>, &Member<'_>)| Ancestor {
        store_id: first.header.store_id,
        end_lsn: next.header.base_lsn,
        position: next.header.base_position - 1,
    };
    let ancestors = firsts.iter().zip(firsts.iter().skip(1)).map(ancestor).collect();
    let store_id = last.header.store_id;
    Lineage::checked(ancestors, store_id).map_or_else(alone, |lineage| Family { store_id, lineage })
}

/// The store that most of the segments were made by.
fn commonest(members: &[Member<'_>]) -> Option<Uuid> {
    let mut counts: BTreeMap<Uuid, usize> = BTreeMap::new();
    for member in members {
        *counts.entry(member.header.store_id).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(store_id, _)| store_id)
}

/// Whether a segment of another store goes on from this one's seal; where there is none to be read, the watermark tells whose
/// store it is.
fn goes_on(storage: &dyn Storage, before: Member<'_>, next: Member<'_>, told: Option<Uuid>) -> bool {
    let (header, next) = (before.header, next.header);
    if next.sequence != header.sequence + 1 || next.base_lsn <= header.base_lsn || next.base_position < header.base_position {
        return false;
    }
    let attached = Segment::attach(storage, before.file, Access::Read).ok();
    match attached.and_then(|segment| segment.seal(next.base_lsn).ok().flatten()) {
        Some((chain, seal)) => (chain.position, seal.anchor) == (next.base_position, next.anchor),
        None => told == Some(next.store_id),
    }
}
