//! The conformance suite on the embedded engine, in memory and on disk, and on the naive model; and the proof that the suite
//! finds mistakes.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventuali::maintenance::{backup_storage, fork, fork_storage};
use eventuali::storage::{MemoryStorage, Storage};
use eventuali::testing::{CASES, Home, ModelHome, PlantedBug, PlantedHome, run_case};
use eventuali::{
    AppendBatch, Capabilities, Completion, Compress, Durability, EventReader, EventStore, ExpectedVersion, Follow, LogStore, OpenOptions, Position,
    ReadAll, ReadStream, Receipt, Retention, StoreIdentity, StreamInfo, StreamKey, compress_storage,
};
use tempfile::TempDir;

/// The smallest segments there are: the suite's stores have many of them.
const SMALL_SEGMENT_BYTES: u64 = 64 << 10;

fn boxed<H: Home + 'static>(home: H) -> Box<dyn Home> {
    Box::new(home)
}

/// A store in a directory of its own.
struct Directory {
    directory: TempDir,
    options: OpenOptions,
}

impl Home for Directory {
    fn open(&self) -> Arc<dyn EventStore> {
        Arc::new(self.options.clone().open(self.directory.path().join("store")).expect("the store opens"))
    }
}

fn on_disk(options: OpenOptions) -> Box<dyn Home> {
    boxed(Directory { directory: tempfile::tempdir().expect("a temporary directory"), options })
}

fn with(durability: Durability) -> OpenOptions {
    OpenOptions::new().durability(durability)
}

mod in_memory {
    use super::{Arc, EventStore, LogStore};

    fn open() -> Arc<dyn EventStore> {
        Arc::new(LogStore::memory().expect("the store opens"))
    }

    eventuali::conformance_suite!(|| super::boxed(open));
}

/// The engine over files in memory that outlive their store: every rule of a directory, without a disk.
mod over_files_in_memory_with_small_segments {
    use super::{Arc, EventStore, MemoryStorage, OpenOptions, SMALL_SEGMENT_BYTES};

    eventuali::conformance_suite!(|| {
        let storage = Arc::new(MemoryStorage::new());
        super::boxed(move || -> Arc<dyn EventStore> {
            let options = OpenOptions::new().segment_bytes(SMALL_SEGMENT_BYTES);
            Arc::new(options.open_storage(storage.clone()).expect("the store opens"))
        })
    });
}

mod over_files_in_memory_with_runs_of_few_segments {
    use super::{Arc, EventStore, MemoryStorage, OpenOptions, SMALL_SEGMENT_BYTES};

    eventuali::conformance_suite!(|| {
        let storage = Arc::new(MemoryStorage::new());
        super::boxed(move || -> Arc<dyn EventStore> {
            // Nothing is kept hot: every cold stream is looked up.
            let options = OpenOptions::new().segment_bytes(SMALL_SEGMENT_BYTES).hot_bytes(0).index_when_sealing().merge_indexes_of(2);
            Arc::new(options.open_storage(storage.clone()).expect("the store opens"))
        })
    });
}

/// Files in memory whose sealed segments are compressed before every opening.
struct Compressed(Arc<MemoryStorage>);

impl Home for Compressed {
    fn open(&self) -> Arc<dyn EventStore> {
        if !self.0.list("").expect("memory").is_empty() {
            compress_storage(&*self.0).expect("its sealed segments can be compressed");
        }
        Arc::new(OpenOptions::new().segment_bytes(SMALL_SEGMENT_BYTES).open_storage(self.0.clone()).expect("the store opens"))
    }
}

mod over_compressed_segments {
    use super::{Arc, Compressed, MemoryStorage};

    eventuali::conformance_suite!(|| super::boxed(Compressed(Arc::new(MemoryStorage::new()))));
}

/// Forks of forks: each opening forks the store that was closed, in memory too, and opens the fork.
struct Forked(Mutex<Arc<MemoryStorage>>);

impl Home for Forked {
    fn open(&self) -> Arc<dyn EventStore> {
        let open = |storage: &Arc<MemoryStorage>| {
            OpenOptions::new().segment_bytes(SMALL_SEGMENT_BYTES).merge_indexes_of(2).open_storage(storage.clone()).expect("the store opens")
        };
        let mut storage = self.0.lock().expect("whole");
        let (parent, fork) = (open(&storage), Arc::new(MemoryStorage::new()));
        fork_storage(&parent, &*fork, None).expect("it can be forked");
        parent.close().wait().expect("closed");
        *storage = fork;
        Arc::new(open(&storage))
    }
}

/// All but that a store keeps its id, which a fork does not.
#[test]
fn what_outlives_a_store_is_in_the_forks_of_its_forks_too() {
    let backend = || boxed(Forked(Mutex::new(Arc::new(MemoryStorage::new()))));
    let outlives = |name: &str| name.contains("reopen") || name == "random_operations_agree_with_the_model";
    let mut cases = CASES.iter().filter(|(name, _)| outlives(name)).peekable();
    assert!(cases.peek().is_some());
    for (name, _) in cases {
        run_case(name, &backend);
    }
}

/// Every time that it is opened it is the backup of what it was before.
struct BackedUp(Mutex<Arc<MemoryStorage>>);

impl Home for BackedUp {
    fn open(&self) -> Arc<dyn EventStore> {
        let open = |storage: &Arc<MemoryStorage>| {
            let options = OpenOptions::new().segment_bytes(SMALL_SEGMENT_BYTES).merge_indexes_of(2).compression(Compress::OlderThan(1));
            options.open_storage(storage.clone()).expect("the store opens")
        };
        let mut storage = self.0.lock().expect("whole");
        let (original, copy) = (open(&storage), Arc::new(MemoryStorage::new()));
        assert!(backup_storage(&original, &*copy, |_| ControlFlow::Continue(())).expect("backed up").complete);
        original.close().wait().expect("closed");
        *storage = copy;
        Arc::new(open(&storage))
    }
}

#[test]
fn what_outlives_a_store_is_in_the_backups_of_its_backups_too() {
    let backend = || boxed(BackedUp(Mutex::new(Arc::new(MemoryStorage::new()))));
    let outlives = |name: &str| name.contains("reopen") || name.contains("identity") || name == "random_operations_agree_with_the_model";
    for (name, _) in CASES.iter().filter(|(name, _)| outlives(name)) {
        run_case(name, &backend);
    }
}

/// A fork in a directory, of a parent that is gone.
struct ForkedDirectory {
    directory: TempDir,
    options: OpenOptions,
}

impl Home for ForkedDirectory {
    fn open(&self) -> Arc<dyn EventStore> {
        let (parent, path) = (self.directory.path().join("parent"), self.directory.path().join("store"));
        if !path.exists() {
            let store = self.options.clone().open(&parent).expect("the store opens");
            fork(&store, &path, None).expect("it can be forked");
            store.close().wait().expect("closed");
            std::fs::remove_dir_all(&parent).expect("removed");
        }
        Arc::new(self.options.clone().open(path).expect("the store opens"))
    }
}

mod over_a_fork_on_disk {
    eventuali::conformance_suite!(|| super::boxed(super::ForkedDirectory {
        directory: tempfile::tempdir().expect("a temporary directory"),
        options: super::with(super::Durability::Os).segment_bytes(super::SMALL_SEGMENT_BYTES),
    }));
}

/// Every sealed segment is compressed as soon as the next one begins, by whoever seals.
mod over_files_in_memory_that_are_compressed_meanwhile {
    use super::{Arc, Compress, EventStore, MemoryStorage, OpenOptions, SMALL_SEGMENT_BYTES};

    eventuali::conformance_suite!(|| {
        let storage = Arc::new(MemoryStorage::new());
        super::boxed(move || -> Arc<dyn EventStore> {
            let options = OpenOptions::new().segment_bytes(SMALL_SEGMENT_BYTES).hot_bytes(0).index_when_sealing();
            Arc::new(options.compression(Compress::OlderThan(0)).open_storage(storage.clone()).expect("the store opens"))
        })
    });
}

/// The same by a thread, on disk, with readers and writers in between.
mod on_disk_with_os_that_is_compressed_meanwhile {
    use super::{Compress, Durability, SMALL_SEGMENT_BYTES};

    eventuali::conformance_suite!(|| {
        super::on_disk(super::with(Durability::Os).segment_bytes(SMALL_SEGMENT_BYTES).hot_bytes(0).compression(Compress::OlderThan(0)))
    });
}

/// What is appended through one store is read through another one, which follows it.
struct Followed {
    writer: LogStore,
    reader: LogStore,
}

impl EventStore for Followed {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        self.writer.append(batch)
    }

    fn read(&self, query: ReadStream) -> EventReader {
        self.reader.read(query)
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        self.reader.read_all(query)
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        self.reader.stream(key)
    }

    fn delete(&self, key: StreamKey<'_>, expected: ExpectedVersion) -> Completion<Receipt> {
        self.writer.delete(key, expected)
    }

    fn set_retention(&self, key: StreamKey<'_>, retention: Retention) -> Completion<Receipt> {
        self.writer.set_retention(key, retention)
    }

    fn retention(&self, key: StreamKey<'_>) -> Completion<Retention> {
        self.reader.retention(key)
    }

    fn head(&self) -> Completion<Position> {
        self.reader.head()
    }

    fn durable_position(&self) -> Completion<Position> {
        self.reader.durable_position()
    }

    fn sync(&self) -> Completion<Position> {
        self.writer.sync()
    }

    fn close(&self) -> Completion<()> {
        if let Err(error) = self.reader.close().wait() {
            return Completion::ready(Err(error));
        }
        self.writer.close()
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        self.reader.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.writer.capabilities()
    }
}

/// A directory whose writer is followed.
struct FollowedDirectory(Directory);

impl Home for FollowedDirectory {
    fn open(&self) -> Arc<dyn EventStore> {
        let open = |options: OpenOptions| options.open(self.0.directory.path().join("store")).expect("the store opens");
        let writer = open(self.0.options.clone());
        Arc::new(Followed { writer, reader: open(OpenOptions::new().read_only(Follow::Visible)) })
    }
}

fn followed(options: OpenOptions) -> Box<dyn Home> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    boxed(FollowedDirectory(Directory { directory, options: options.segment_bytes(SMALL_SEGMENT_BYTES) }))
}

mod read_by_a_follower_of_sync {
    eventuali::conformance_suite!(|| super::followed(super::OpenOptions::new()));
}

mod read_by_a_follower_of_os_that_is_compressed_meanwhile {
    use super::{Compress, Durability};

    eventuali::conformance_suite!(|| super::followed(super::with(Durability::Os).compression(Compress::OlderThan(0))));
}

mod on_disk_with_sync {
    eventuali::conformance_suite!(|| super::on_disk(super::OpenOptions::new()));
}

mod on_disk_with_sync_and_small_segments {
    eventuali::conformance_suite!(|| super::on_disk(super::OpenOptions::new().segment_bytes(super::SMALL_SEGMENT_BYTES)));
}

mod on_disk_with_interval {
    use super::{Durability, Duration};

    eventuali::conformance_suite!(|| super::on_disk(super::with(Durability::Interval(Duration::from_millis(5)))));
}

mod on_disk_with_os {
    eventuali::conformance_suite!(|| super::on_disk(super::with(super::Durability::Os)));
}

mod on_disk_with_os_and_small_segments {
    eventuali::conformance_suite!(|| super::on_disk(super::with(super::Durability::Os).segment_bytes(super::SMALL_SEGMENT_BYTES)));
}

mod the_naive_model {
    eventuali::conformance_suite!(|| super::boxed(super::ModelHome::default()));
}

#[test]
fn every_planted_bug_is_found_by_the_case_that_names_it() {
    for bug in PlantedBug::ALL {
        let backend = || boxed(PlantedHome::new(ModelHome::default(), *bug));
        let run = std::panic::catch_unwind(|| run_case(bug.found_by(), &backend));
        assert!(run.is_err(), "{} does not find {bug:?}", bug.found_by());
    }
}

#[test]
fn cases_have_names_of_their_own() {
    let mut names: Vec<_> = CASES.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CASES.len());
}
