//! Where hot streams stand whose last events are in segments with index files: a cache of bounded size.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use super::Tip;
use super::names::Names;
use crate::event::StreamKey;

/// What an entry takes beside its name.
const ENTRY_BYTES: u64 = 64;

/// Where a stream stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HotStream<'a> {
    pub(crate) version: u64,
    pub(crate) last_position: u64,
    pub(crate) aggregate_type: &'a str,
    /// The segment with its last event.
    pub(crate) segment: u64,
}

/// By the hash of the stream; of two with one hash the later one is kept.
struct Entry {
    version: u64,
    last_position: u64,
    segment: u64,
    aggregate_type: u32,
    tenant_bytes: u16,
    /// Tenant, then aggregate id.
    name: Box<[u8]>,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<u64, Entry> for Weigh {
    fn weight(&self, _hash: &u64, entry: &Entry) -> u64 {
        ENTRY_BYTES + entry.name.len() as u64
    }
}

/// The hot streams.
pub(super) struct Hot {
    hasher: RandomState,
    cache: Cache<u64, Entry, Weigh, RandomState>,
    aggregate_types: Names,
}

impl Hot {
    pub(super) fn new(bytes: u64) -> Self {
        let hasher = RandomState::default();
        let cache = Cache::with(1024, bytes, Weigh, RandomState::default(), quick_cache::unsync::DefaultLifecycle::default());
        Self { hasher, cache, aggregate_types: Names::default() }
    }

    pub(super) fn clear(&mut self) {
        self.cache.clear();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        usize::try_from(self.cache.weight()).unwrap_or(usize::MAX) + self.aggregate_types.memory_bytes()
    }

    fn hash(&self, key: &StreamKey<'_>) -> u64 {
        let mut state = self.hasher.build_hasher();
        state.write(key.tenant.as_bytes());
        state.write_u8(0);
        state.write(key.aggregate_id.as_bytes());
        state.finish()
    }

    pub(super) fn get(&self, key: &StreamKey<'_>) -> Option<Tip<'_>> {
        let entry = self.cache.get(&self.hash(key))?;
        let (tenant, aggregate_id) = entry.name.split_at(usize::from(entry.tenant_bytes));
        ((tenant, aggregate_id) == (key.tenant.as_bytes(), key.aggregate_id.as_bytes())).then(|| Tip {
            version: entry.version,
            last_position: entry.last_position,
            aggregate_type: self.aggregate_types.get(entry.aggregate_type),
            segment: entry.segment,
        })
    }

    pub(super) fn insert(&mut self, key: &StreamKey<'_>, stream: HotStream<'_>) {
        let Ok(tenant_bytes) = u16::try_from(key.tenant.len()) else { return };
        let entry = Entry {
            version: stream.version,
            last_position: stream.last_position,
            segment: stream.segment,
            aggregate_type: self.aggregate_types.number(stream.aggregate_type),
            tenant_bytes,
            name: [key.tenant.as_bytes(), key.aggregate_id.as_bytes()].concat().into(),
        };
        self.cache.insert(self.hash(key), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_fits_and_forgets_the_rest() {
        let mut hot = Hot::new(100 << 10);
        for number in 0..10_000_u64 {
            let id = format!("stream-{number}");
            hot.insert(
                &StreamKey { tenant: "t", aggregate_id: &id },
                HotStream { version: number, last_position: number * 2, aggregate_type: "Thing", segment: 3 },
            );
        }
        let kept = (0..10_000_u64).filter(|number| {
            let id = format!("stream-{number}");
            hot.get(&StreamKey { tenant: "t", aggregate_id: &id }).is_some_and(|tip| {
                assert_eq!(tip, Tip { version: *number, last_position: number * 2, aggregate_type: "Thing", segment: 3 });
                true
            })
        });
        let kept = kept.count();
        assert!((500..=1500).contains(&kept), "{kept}");
        assert!(hot.memory_bytes() < 110 << 10);
        assert_eq!(hot.get(&StreamKey { tenant: "ts", aggregate_id: "tream-9999" }), None);
    }
}
