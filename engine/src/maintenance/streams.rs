//! How far each stream has come, in the memory of two hashes of its name.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use crate::event::StreamKey;

/// The versions of every stream, by 128 bits of hash: two streams among a billion share one once in 10²⁰ stores.
#[derive(Default)]
pub(super) struct Streams<V> {
    hashers: [RandomState; 2],
    numbers: HashMap<(u64, u64), u32, RandomState>,
    values: Vec<V>,
    /// The stream that was asked for last, which is likely to be asked for again.
    last: Option<Last>,
}

struct Last {
    tenant: String,
    aggregate_id: String,
    number: u32,
}

impl<V: Default> Streams<V> {
    /// What is known of a stream.
    pub(super) fn get(&mut self, key: &StreamKey<'_>) -> &mut V {
        let number = match &self.last {
            Some(last) if last.aggregate_id == key.aggregate_id && last.tenant == key.tenant => last.number,
            _ => self.look_up(key),
        };
        &mut self.values[number as usize]
    }

    fn look_up(&mut self, key: &StreamKey<'_>) -> u32 {
        let name = (key.tenant, key.aggregate_id);
        let next = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry((self.hashers[0].hash_one(name), self.hashers[1].hash_one(name))).or_insert(next);
        if number == next {
            self.values.push(V::default());
        }
        let last = self.last.get_or_insert_with(|| Last { tenant: String::new(), aggregate_id: String::new(), number });
        key.tenant.clone_into(&mut last.tenant);
        key.aggregate_id.clone_into(&mut last.aggregate_id);
        last.number = number;
        number
    }
}
