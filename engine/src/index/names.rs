//! Names and the numbers they are given in the order in which they come.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// A set of names, numbered from 0.
#[derive(Default)]
pub(super) struct Names {
    hasher: RandomState,
    table: HashTable<u32>,
    by_number: Vec<Box<str>>,
}

impl Names {
    pub(super) fn memory_bytes(&self) -> usize {
        self.table.allocation_size() + self.by_number.capacity() * size_of::<Box<str>>() + self.by_number.iter().map(|name| name.len()).sum::<usize>()
    }

    pub(super) fn get(&self, number: u32) -> &str {
        &self.by_number[number as usize]
    }

    /// All names, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.by_number.iter().map(|name| &**name)
    }

    /// The number of a name, which it is given now if it has none.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.table.find(self.hasher.hash_one(name), |number| *self.by_number[*number as usize] == *name) {
            return *number;
        }
        let number = u32::try_from(self.by_number.len()).unwrap_or(u32::MAX);
        self.by_number.push(name.into());
        self.table.insert_unique(self.hasher.hash_one(name), number, |number| self.hasher.hash_one(&*self.by_number[*number as usize]));
        number
    }
}
