//! An exact table of the ids that did not grow: a part of each one's hash, and which event it belongs to.
//!
//! Many small tables that grow one by one and by an eighth, so that no more than a fifth of the memory is ever free or held twice:
//! 9 to 10 bytes an id.

/// How many tables there are; the highest bits of the hash choose.
const TABLES: usize = 256;
/// How full a table may be, in tenths.
const FULL: usize = 9;
/// No event has this index.
const EMPTY: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Exact {
    /// None at all before the first id.
    tables: Vec<Table>,
}

#[derive(Default, Clone)]
struct Table {
    /// The part of a hash, and the index of an event or `EMPTY`: at the place that the part says, or at the next free one.
    slots: Box<[(u32, u32)]>,
    count: usize,
}

/// Which table, and the part of the hash that is kept.
fn divided(hash: u64) -> (usize, u32) {
    let table = usize::try_from(hash >> 56).unwrap_or(0);
    (table, u32::try_from(hash & 0xFFFF_FFFF).unwrap_or(0))
}

impl Exact {
    pub(super) fn memory_bytes(&self) -> usize {
        let slots: usize = self.tables.iter().map(|table| table.slots.len()).sum();
        self.tables.capacity() * size_of::<Table>() + slots * size_of::<(u32, u32)>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(super) fn insert(&mut self, hash: u64, index: u32) {
        if self.tables.is_empty() {
            self.tables = vec![Table::default(); TABLES];
        }
        let (table, part) = divided(hash);
        self.tables[table].insert(part, index);
    }

    /// The events whose ids may have this hash: those that have, and hardly ever another one.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        let (table, part) = divided(hash);
        self.tables.get(table).into_iter().flat_map(move |table| table.find(part))
    }
}

impl Table {
    fn home(&self, part: u32) -> usize {
        usize::try_from((u64::from(part) * self.slots.len() as u64) >> 32).unwrap_or(0)
    }

    /// The slots from the place that a part belongs to, up to the first free one.
    fn chain(&self, part: u32) -> impl Iterator<Item = usize> {
        let (home, length) = (self.home(part), self.slots.len());
        (home..length).chain(0..home).take_while(|slot| self.slots[*slot].1 != EMPTY)
    }

    fn find(&self, part: u32) -> impl Iterator<Item = u32> {
        self.chain(part).map(|slot| self.slots[slot]).filter(move |(other, _)| *other == part).map(|(_, index)| index)
    }

    fn insert(&mut self, part: u32, index: u32) {
        if (self.count + 1) * 10 > self.slots.len() * FULL {
            let length = self.slots.len() + self.slots.len() / 8 + 8;
            let full = std::mem::replace(&mut self.slots, vec![(0, EMPTY); length].into());
            for (part, index) in full.into_iter().filter(|(_, index)| *index != EMPTY) {
                self.place(part, index);
            }
        }
        self.place(part, index);
        self.count += 1;
    }

    fn place(&mut self, part: u32, index: u32) {
        let free = self.chain(part).last().map_or_else(|| self.home(part), |slot| (slot + 1) % self.slots.len());
        self.slots[free] = (part, index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of a number, the same in every run.
    fn hash(number: u64) -> u64 {
        let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }

    #[test]
    fn every_id_is_found_and_few_others_are() {
        let mut exact = Exact::default();
        assert!(exact.is_empty() && exact.find(7).next().is_none());
        for number in 0..200_000 {
            exact.insert(hash(u64::from(number)), number);
        }
        for number in 0..200_000 {
            assert!(exact.find(hash(u64::from(number))).any(|index| index == number), "{number}");
        }
        let strangers = (200_000..400_000_u64).filter(|number| exact.find(hash(*number)).next().is_some()).count();
        assert!(strangers < 10, "{strangers}");
        assert!(exact.memory_bytes() < 200_000 * 11, "{}", exact.memory_bytes());
    }

    #[test]
    fn ids_of_one_hash_are_all_kept() {
        let mut exact = Exact::default();
        for index in 0..100 {
            exact.insert(u64::MAX, index);
        }
        let mut found: Vec<u32> = exact.find(u64::MAX).collect();
        found.sort_unstable();
        assert_eq!(found, (0..100).collect::<Vec<_>>());
    }
}
