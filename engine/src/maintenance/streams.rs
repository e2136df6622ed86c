//! How far each stream has come, in the memory of two hashes of its name.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use crate::event::StreamKey;

/// The versions of every stream, by 128 bits of hash: two streams among a billion share one once in 10²⁰ stores.
#[derive(Default)]
pub(super) struct Streams<V> {
    hashers: [RandomState; 2],
    streams: HashMap<(u64, u64), V, RandomState>,
}

impl<V: Default> Streams<V> {
    /// What is known of a stream.
    pub(super) fn get(&mut self, key: &StreamKey<'_>) -> &mut V {
        self.streams.entry(self.hash(key)).or_default()
    }

    fn hash(&self, key: &StreamKey<'_>) -> (u64, u64) {
        let name = (key.tenant, key.aggregate_id);
        (self.hashers[0].hash_one(name), self.hashers[1].hash_one(name))
    }
}
