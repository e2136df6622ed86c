//! Batches to append, stores to append them to, and chance that can be repeated.

use std::sync::Arc;

use eventuali::storage::{FaultyStorage, Storage};
use eventuali::{AppendBatch, Compress, Durability, Event, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, Result};

/// The smallest segments there are, so that the log rolls over often.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// How many rounds a test runs: so many, or fifty times as many where there is time.
pub(crate) fn rounds(usual: u64) -> u64 {
    if std::env::var_os("EVENTUALI_SOAK").is_some() { usual * 50 } else { usual }
}

/// Numbers that look random and follow from a seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_F491_4F6C_DD1D))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

pub(crate) fn options(durability: Durability) -> OpenOptions {
    OpenOptions::new().durability(durability).segment_bytes(SEGMENT_BYTES).index_when_sealing().merge_indexes_of(2)
}

/// The same, with all that is sealed compressed by whoever seals the next one.
pub(crate) fn compressing(options: OpenOptions) -> OpenOptions {
    options.compression(Compress::OlderThan(0))
}

pub(crate) fn open(storage: &FaultyStorage) -> Result<LogStore> {
    open_with(storage, OpenOptions::new().segment_bytes(SEGMENT_BYTES).index_when_sealing().merge_indexes_of(2))
}

pub(crate) fn open_with(storage: &FaultyStorage, options: OpenOptions) -> Result<LogStore> {
    options.open_storage(Arc::new(storage.clone()) as Arc<dyn Storage>)
}

/// An event whose payload has this length and repeats its id.
pub(crate) fn event(payload_bytes: usize) -> NewEvent {
    let mut event = NewEvent::new("Happened", EventData::Protobuf(Vec::new()));
    let mut bytes = event.id.as_bytes().repeat(payload_bytes.div_ceil(16));
    bytes.truncate(payload_bytes);
    event.data = EventData::Protobuf(bytes);
    event
}

pub(crate) fn one(aggregate_id: &str, payload_bytes: usize) -> AppendBatch {
    many(aggregate_id, 1, payload_bytes)
}

pub(crate) fn many(aggregate_id: &str, count: usize, payload_bytes: usize) -> AppendBatch {
    AppendBatch::one(aggregate_id, "Thing", ExpectedVersion::Any, (0..count).map(|_| event(payload_bytes)).collect())
}

/// Everything that can be read, up to the first error.
pub(crate) fn read_all(store: &LogStore) -> Result<Vec<Event>> {
    store.read_all(ReadAll::new()).collect()
}

/// Whether the payload is the one that an event with this id was sent with.
pub(crate) fn is_intact(event: &Event) -> bool {
    let id = event.id();
    event.payload().chunks(16).all(|chunk| *chunk == id.as_bytes()[..chunk.len()])
}
