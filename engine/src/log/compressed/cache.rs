//! What compressed segments keep in memory: decoded blocks, table pages and dictionaries, all within one bound.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use zstd::zstd_safe::{DCtx, DDict};

use super::ahead::Ahead;
use crate::log::sys;

/// How much the compressed segments of a process keep in memory together.
pub(crate) const CACHE_BYTES: usize = 16 << 20;
/// How many decoders wait for their next use.
const DECODERS_KEPT: usize = 8;
/// What a dictionary takes beside its own bytes once it is prepared.
const DICTIONARY_EXTRA_BYTES: usize = 32 << 10;

/// What is kept of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Block(u32),
    TablePage(u32),
    Dictionary,
}

/// A prepared dictionary; `None` in a file that has none.
pub(super) type Dictionary = Option<DDict<'static>>;

/// What is kept.
#[derive(Clone)]
pub(super) enum Kept {
    Bytes(Arc<[u8]>),
    Dictionary(Arc<Dictionary>, usize),
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Dictionary(_, length) => length + DICTIONARY_EXTRA_BYTES,
        }
    }
}

type Key = (u64, Part);

struct Entry {
    kept: Kept,
    /// Used since the hand came by.
    used: bool,
}

/// Second chance: what was used since it was last looked at stays for another round.
#[derive(Default)]
struct Entries {
    map: HashMap<Key, Entry, FixedState>,
    queue: VecDeque<Key>,
    bytes: usize,
}

/// A decoder, and room for the bytes that it decodes.
pub(super) struct Decoder {
    pub(super) context: DCtx<'static>,
    pub(super) stored: Vec<u8>,
}

/// Shared by all compressed segments of a process.
pub(crate) struct Cache {
    entries: Mutex<Entries>,
    bytes_max: usize,
    decoders: Mutex<Vec<Decoder>>,
    files: AtomicU64,
    pub(super) ahead: Arc<Ahead>,
}

/// The cache of this process, beside the fork generation that tells it from its children.
static SHARED: Mutex<Option<(u32, Arc<Cache>)>> = Mutex::new(None);

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: Mutex::default(), bytes_max, decoders: Mutex::default(), files: AtomicU64::new(0), ahead: Arc::default() }
    }

    /// That of this process. A forked child begins with an empty one: its parent's may have been held when it was made.
    pub(super) fn shared() -> Arc<Self> {
        sys::without_forks(|| {
            let generation = sys::fork_generation();
            let mut shared = SHARED.lock();
            if let Some((of, cache)) = &*shared
                && *of == generation
            {
                return Arc::clone(cache);
            }
            let cache = Arc::new(Self::new(CACHE_BYTES));
            // Another thread of the parent may have been changing it: nothing in it may be touched any more.
            std::mem::forget(shared.replace((generation, Arc::clone(&cache))));
            cache
        })
    }

    /// A number that no other file of this cache has.
    pub(super) fn file_number(&self) -> u64 {
        self.files.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, file: u64, part: Part) -> Option<Kept> {
        let mut entries = self.entries.lock();
        let entry = entries.map.get_mut(&(file, part))?;
        entry.used = true;
        Some(entry.kept.clone())
    }

    pub(super) fn put(&self, file: u64, part: Part, kept: Kept) {
        let bytes = kept.bytes();
        let mut entries = self.entries.lock();
        if bytes > self.bytes_max || entries.map.contains_key(&(file, part)) {
            return;
        }
        while entries.bytes + bytes > self.bytes_max {
            let Some(oldest) = entries.queue.pop_front() else { break };
            match entries.map.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    entries.queue.push_back(oldest);
                }
                _ => {
                    let freed = entries.map.remove(&oldest).map_or(0, |entry| entry.kept.bytes());
                    entries.bytes -= freed;
                }
            }
        }
        entries.bytes += bytes;
        entries.queue.push_back((file, part));
        entries.map.insert((file, part), Entry { kept, used: false });
    }

    /// Runs something with a decoder that nobody else uses meanwhile.
    pub(super) fn with_decoder<T>(&self, run: impl FnOnce(&mut Decoder) -> io::Result<T>) -> io::Result<T> {
        let idle = self.decoders.lock().pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder { context: DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?, stored: Vec::new() },
        };
        let result = run(&mut decoder);
        let mut decoders = self.decoders.lock();
        if decoders.len() < DECODERS_KEPT {
            decoders.push(decoder);
        }
        result
    }

    /// How much is kept now.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.entries.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(bytes: usize) -> Kept {
        Kept::Bytes(vec![0; bytes].into())
    }

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let cache = Cache::new(1000);
        for number in 0..100 {
            cache.put(0, Part::Block(number), block(100));
            assert!(cache.bytes() <= 1000);
            assert!(cache.get(0, Part::Block(0)).is_some(), "used before every eviction, lost at {number}");
        }
        assert!(cache.get(0, Part::Block(1)).is_none());
        assert!(cache.get(1, Part::Block(99)).is_none(), "another file");
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let cache = Cache::new(1000);
        cache.put(0, Part::TablePage(0), block(1001));
        assert!(cache.get(0, Part::TablePage(0)).is_none());
        assert_eq!(cache.bytes(), 0);
    }
}
