//! How far each stream has come, in the memory of two hashes of its name.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};

use crate::event::StreamKey;

/// 128 bits of hash stand for a stream: two streams among a billion share them once in 10²⁰ stores.
pub(super) type StreamHash = (u64, u64);

/// How streams are hashed while a log is read.
#[derive(Clone, Default)]
pub(super) struct StreamHasher([RandomState; 2]);

impl StreamHasher {
    pub(super) fn hash(&self, key: &StreamKey<'_>) -> StreamHash {
        let name = (key.tenant, key.aggregate_id);
        (self.0[0].hash_one(name), self.0[1].hash_one(name))
    }
}

/// What is known of every stream.
#[derive(Default)]
pub(super) struct Streams<V> {
    pub(super) hasher: StreamHasher,
    streams: HashMap<StreamHash, V, RandomState>,
}

impl<V: Default> Streams<V> {
    /// What is known of a stream.
    pub(super) fn get(&mut self, key: &StreamKey<'_>) -> &mut V {
        self.of(self.hasher.hash(key))
    }

    /// What is known of the stream with this hash.
    pub(super) fn of(&mut self, hash: StreamHash) -> &mut V {
        self.streams.entry(hash).or_default()
    }
}

/// The streams of one segment, numbered from 0 in the order of their first events there.
pub(super) struct Numbered {
    hasher: StreamHasher,
    numbers: HashTable<u32>,
    pub(super) streams: Vec<(StreamHash, Come)>,
}

/// How far a stream has come in a segment: its version, and the number of the run of versions without a gap that this ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Come {
    pub(super) version: u64,
    pub(super) run: u32,
}

impl Come {
    /// The stream has no event yet.
    pub(super) const NOWHERE: Self = Self { version: 0, run: u32::MAX };

    pub(super) fn is_nowhere(&self) -> bool {
        self.run == u32::MAX
    }
}

impl Numbered {
    pub(super) fn new(hasher: StreamHasher) -> Self {
        Self { hasher, numbers: HashTable::new(), streams: Vec::new() }
    }

    pub(super) fn hash(&self, key: &StreamKey<'_>) -> StreamHash {
        self.hasher.hash(key)
    }

    /// The number of a stream, which it is given now if it has none.
    pub(super) fn number(&mut self, hash: StreamHash) -> u32 {
        let streams = &mut self.streams;
        let known = self.numbers.find(hash.0, |number| streams[*number as usize].0 == hash).copied();
        known.unwrap_or_else(|| {
            let number = u32::try_from(streams.len()).unwrap_or(u32::MAX);
            streams.push((hash, Come::NOWHERE));
            self.numbers.insert_unique(hash.0, number, |number| streams[*number as usize].0.0);
            number
        })
    }
}
