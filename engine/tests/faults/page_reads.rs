//! What a look-up reads in a store of thousands of segments, counted.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use eventuali::maintenance::scavenge;
use eventuali::storage::{Access, Lock, MemoryStorage, Space, Storage, StorageFile};
use eventuali::{Compress, Durability, EventStore, ExpectedVersion, LogStore, OpenOptions, ReadStream, Result, StreamKey};

use crate::arrange::{SEGMENT_BYTES, many, one};

/// How many segments a billion events of about 300 bytes have, at 64 MiB each.
const SEGMENTS: usize = 4000;
const PAGE_BYTES: usize = 4096;

/// A store in memory that counts what is read of index files and runs.
pub(crate) struct Counting {
    pub(crate) memory: MemoryStorage,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Pages of index files and runs that were read.
    pages: AtomicUsize,
    /// Index files that are open, and how many were at most.
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// While it is held, no run can be begun.
    runs: Mutex<()>,
}

struct CountingFile {
    file: Arc<dyn StorageFile>,
    is_index: bool,
    counts: Arc<Counts>,
}

impl Storage for Counting {
    fn path(&self) -> PathBuf {
        self.memory.path()
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        self.memory.lock()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.memory.open(name, access).map(|file| self.counting(name, file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        if name.contains(".run") {
            drop(self.counts.runs.lock().expect("no panic"));
        }
        self.memory.create(name).map(|file| self.counting(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.memory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.memory.remove(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.memory.list(folder)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.memory.create_folder(folder)
    }

    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        self.memory.sync_directory(folder)
    }
}

impl Counting {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { memory: MemoryStorage::new(), counts: Arc::default() })
    }

    /// Keeps runs from being begun, as long as this is held.
    pub(crate) fn hold_runs(&self) -> MutexGuard<'_, ()> {
        self.counts.runs.lock().expect("no panic")
    }

    fn counting(&self, name: &str, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let is_index = name.contains(".idx") || name.contains(".run");
        if is_index {
            let open = self.counts.open.fetch_add(1, Ordering::Relaxed) + 1;
            self.counts.most_open.fetch_max(open, Ordering::Relaxed);
        }
        Arc::new(CountingFile { file, is_index, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for CountingFile {
    fn drop(&mut self) {
        if self.is_index {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl StorageFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.is_index {
            self.counts.pages.fetch_add(buffer.len().div_ceil(PAGE_BYTES), Ordering::Relaxed);
        }
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn secure_space(&self, start: u64, end: u64, space: Space) -> io::Result<()> {
        self.file.secure_space(start, end, space)
    }
}

/// A store that keeps nothing hot, with so much room for the filters of runs.
fn open(storage: &Arc<Counting>, filter_bytes: u64) -> LogStore {
    let options = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES).hot_bytes(0).filter_bytes(filter_bytes);
    // Compressing them takes far longer than all else, and what is read of index files is the same.
    let options = options.compression(Compress::Never);
    options.index_when_sealing().open_storage(Arc::clone(storage) as Arc<dyn Storage>).expect("open")
}

/// Fills so many segments: in each of them ten new aggregates and one of before.
fn fill(store: &LogStore, segments: std::ops::Range<usize>) {
    for segment in segments {
        for number in 0..10 {
            store.append(one(&format!("aggregate-{segment}-{number}"), 100)).wait().expect("stored");
        }
        store.append(one(&format!("aggregate-{}-0", segment * 7 / 11), 100)).wait().expect("stored");
        store.append(one("large", 62_000)).wait().expect("stored");
    }
}

/// How many pages are read for each of these look-ups, on the average and at most.
fn pages_read<'a>(storage: &Counting, names: impl Iterator<Item = String> + 'a, look: impl Fn(&str)) -> (f64, usize) {
    let (mut most, mut all, mut looks) = (0, 0, 0_u32);
    for name in names {
        let before = storage.counts.pages.load(Ordering::Relaxed);
        look(&name);
        let read = storage.counts.pages.load(Ordering::Relaxed) - before;
        (most, all, looks) = (most.max(read), all + read, looks + 1);
    }
    (f64::from(u32::try_from(all).expect("few")) / f64::from(looks), most)
}

#[test]
fn in_thousands_of_segments_a_cold_aggregate_takes_a_few_page_reads_and_a_new_one_one_at_most() {
    let storage = Counting::new();
    let store = open(&storage, 64 << 20);
    fill(&store, 0..SEGMENTS);
    let is_there = |name: &str| store.stream(StreamKey { tenant: "", aggregate_id: name }).wait().expect("an answer").is_some();
    // The heads of runs and their filters are read once.
    assert!(!is_there("nobody"));
    let new = pages_read(&storage, (0..2000).map(|number| format!("new-{number}")), |name| assert!(!is_there(name)));
    let old = (0..500).map(|number| format!("aggregate-{}-{}", number * 7919 % SEGMENTS, number % 10));
    let cold = pages_read(&storage, old, |name| assert!(is_there(name)));
    let appended = pages_read(&storage, (0..50).map(|number| format!("appended-{number}")), |name| {
        store.append(many(name, 2, 100)).wait().expect("stored");
    });
    let all = |store: &LogStore, name: &str| store.read(ReadStream::of(name)).collect::<Result<Vec<_>>>().expect("readable").len();
    let loaded =
        pages_read(&storage, (0..200).map(|number| format!("aggregate-{}-3", number * 7919 % SEGMENTS)), |name| assert_eq!(all(&store, name), 1));
    println!("of all filters in memory: new {new:?}, cold {cold:?}, appended {appended:?}, loaded {loaded:?} (pages on the average, at most)");
    assert!(new.0 <= 0.2 && appended.0 <= 1.0, "{new:?} {appended:?}");
    assert!(cold.0 <= 8.0 && cold.1 <= 14, "{cold:?}");
    assert!(loaded.0 <= 9.0 && loaded.1 <= 14, "{loaded:?}");
    let most_open = storage.counts.most_open.load(Ordering::Relaxed);
    assert!(most_open <= 128 + 64, "{most_open} index files were open at once");
    let memory = store.index_memory_bytes();
    assert!(memory < 8 << 20, "{memory} bytes");
    store.close().wait().expect("closed");
    drop(store);

    // With room for a part of the filters alone, the first run grows until those of the others fit.
    let filter_bytes = 24 << 10;
    let store = open(&storage, filter_bytes);
    fill(&store, SEGMENTS..SEGMENTS + 10);
    let is_there = |name: &str| store.stream(StreamKey { tenant: "", aggregate_id: name }).wait().expect("an answer").is_some();
    assert!(!is_there("nobody"));
    let new = pages_read(&storage, (0..2000).map(|number| format!("newer-{number}")), |name| assert!(!is_there(name)));
    let old = (0..500).map(|number| format!("aggregate-{}-{}", number * 7919 % SEGMENTS, number % 10));
    let cold = pages_read(&storage, old, |name| assert!(is_there(name)));
    println!("of some filters in memory: new {new:?}, cold {cold:?}");
    assert!((0.5..=1.0).contains(&new.0), "{new:?}");
    assert!(cold.0 <= 9.0 && cold.1 <= 15, "{cold:?}");
}

#[test]
fn a_scavenge_looks_for_new_deletions_alone_also_in_another_process() {
    let storage = Counting::new();
    let mut store = open(&storage, 64 << 20);
    fill(&store, 0..100);
    let delete = |store: &LogStore, name: &str| store.delete(name.into(), ExpectedVersion::Exists).wait().expect("deleted");
    // Half of them, in a segment each and with one that is appended to again and again.
    (0..100).for_each(|segment| (0..5).for_each(|number| drop(delete(&store, &format!("aggregate-{segment}-{number}")))));
    delete(&store, "large");
    let scavenged = |store: &LogStore| scavenge(store, |_| ControlFlow::Continue(())).expect("it is scavenged").events;
    assert_eq!(scavenged(&store), 500 + 100 + 100);
    for round in 0..3 {
        store.close().wait().expect("closed");
        store = open(&storage, 64 << 20);
        // Which deletions there are is read when the store is first used; files that are opened are looked at.
        assert!(store.stream(StreamKey { tenant: "", aggregate_id: "nobody" }).wait().expect("an answer").is_none());
        let (read, _) = pages_read(&storage, std::iter::once(String::new()), |_| assert_eq!(scavenged(&store), 0));
        assert!(read < 20.0, "{read} pages in round {round}");
    }
    delete(&store, "aggregate-50-9");
    assert_eq!((scavenged(&store), scavenged(&store)), (1, 0));
}
