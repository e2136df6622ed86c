//! Forks of stores in directories: beside writers, under their names, as files.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use eventuali::maintenance::{fork, fork_storage, verify};
use eventuali::storage::MemoryStorage;
use eventuali::{Durability, Error, EventStore, LogStore, OpenOptions, OpenOutcome, Position, compress};

use crate::arrange::{SEGMENT_BYTES, many, one, read_all, rounds};
use crate::files::{FIRST, THIRD};
use crate::forking::on;

#[test]
fn writers_go_on_while_forks_are_made() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES).open(directory.path().join("store")).expect("created");
    for _ in 0..3 {
        store.append(one("before", 40_000)).wait().expect("stored");
    }
    let stop = AtomicBool::new(false);
    let forks = thread::scope(|scope| {
        for writer in 0..4 {
            let (store, stop) = (store.clone(), &stop);
            scope.spawn(move || {
                let mut size = 0;
                while !stop.load(Ordering::Relaxed) {
                    size = (size + 37) % 900;
                    store.append(many(&format!("writer-{writer}"), 1 + size % 3, size)).wait().expect("stored");
                }
            });
        }
        let forks: Vec<_> = (0..rounds(12))
            .map(|number| {
                let target = directory.path().join(format!("fork-{number}"));
                let head = store.head().wait().expect("told");
                let report = fork(&store, &target, None).expect("forked");
                assert!(report.position >= head, "what was there before is in it");
                (target, report)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        forks
    });
    let events = read_all(&store).expect("readable");
    store.close().wait().expect("closed");
    fs::remove_dir_all(directory.path().join("store")).expect("removed");
    assert!(forks.iter().all(|(_, report)| report.shared_segments > 0));
    for (target, report) in forks {
        let copy = LogStore::open(&target).expect("it opens");
        assert_eq!(copy.open_report().outcome, OpenOutcome::Clean);
        let copied = read_all(&copy).expect("readable");
        assert_eq!(copied.len() as u64, report.position.0);
        assert!(copied == events[..copied.len()]);
        copy.append(one("a", 10)).wait().expect("stored");
        copy.close().wait().expect("closed");
        assert!(verify(&target, on).expect("read").is_sound(), "and needs nothing of its parent");
    }
}

fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable"));
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_forked_to_a_new_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, target) = (directory.path().join("store"), directory.path().join("fork"));
    let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).merge_indexes_of(2).index_when_sealing().open(&source).expect("created");
    for _ in 0..8 {
        store.append(many("a", 3, 10_000)).wait().expect("stored");
    }
    // What a fork that was killed has left.
    let remains = directory.path().join("fork.fork.tmp");
    fs::create_dir_all(remains.join("index")).expect("created");
    for name in [FIRST, "000000007.g0.seg", "index/000000001-000000002.run", "UNFINISHED.tmp", "LOCK"] {
        let bytes: &[u8] = if name == "LOCK" { b"" } else { b"half" };
        fs::write(remains.join(name), bytes).expect("written");
    }
    let report = fork(&store, &target, None).expect("forked");
    assert_eq!((report.position.0, report.copied_segments), (24, 1));
    assert_eq!(report.shared_segments + 1, names_in(&source).iter().filter(|name| name.contains(".seg")).count() as u64);
    assert_eq!(names_in(directory.path()), ["fork", "store"]);
    assert_eq!(names_in(&target.join("index")), names_in(&source.join("index")));
    let refused = |at, taken: &str| fork(&store, directory.path().join(taken), at).expect_err("it cannot be forked there");
    for taken in ["fork", "store/within", "missing/target"] {
        assert!(matches!(refused(None, taken), Error::Configuration { .. }), "{taken} is taken");
    }
    assert!(matches!(refused(Some(Position(100)), "late"), Error::ForkPosition { .. }));
    assert!(matches!(refused(Some(Position(4)), "within"), Error::ForkPosition { .. }));
    assert_eq!(names_in(directory.path()), ["fork", "store"], "nothing is left of what was refused");
    let copy = LogStore::open(&target).expect("it opens");
    assert!(read_all(&copy).expect("readable") == read_all(&store).expect("readable"));
    copy.close().wait().expect("closed");
    compress(&target).expect("compressed");
    assert!(verify(&target, on).expect("read").is_sound());
    fs::remove_dir_all(&target).expect("removed");
    assert!(verify(&source, on).expect("read").is_sound(), "a store does not need its forks");
    store.close().wait().expect("closed");
    assert!(matches!(refused(None, "late"), Error::Closed));
}

#[cfg(unix)]
#[test]
fn files_of_a_fork_are_those_of_its_parent() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, target) = (directory.path().join("store"), directory.path().join("fork"));
    let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open(&source).expect("created");
    for _ in 0..5 {
        store.append(one("a", 30_000)).wait().expect("stored");
    }
    fork(&store, &target, None).expect("forked");
    let look = |path: &Path, name: &str| fs::metadata(path.join(name)).map(|file| (file.ino(), file.nlink())).expect("there");
    assert_eq!(look(&source, FIRST), look(&target, FIRST));
    assert_eq!(look(&source, FIRST).1, 2);
    assert_ne!(look(&source, THIRD).0, look(&target, THIRD).0);
    // Who may only read shared files can go on all the same.
    let mut permissions = fs::metadata(target.join(FIRST)).expect("there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(target.join(FIRST), permissions).expect("set");
    let copy = LogStore::open(&target).expect("it opens");
    copy.append(one("a", 10)).wait().expect("stored");
    copy.close().wait().expect("closed");
}

#[test]
fn a_store_in_memory_is_forked_in_memory_and_to_a_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (first, second) = (Arc::new(MemoryStorage::new()), Arc::new(MemoryStorage::new()));
    let in_memory = |storage: &Arc<MemoryStorage>| {
        OpenOptions::new().durability(Durability::Memory).segment_bytes(SEGMENT_BYTES).open_storage(storage.clone()).expect("opened")
    };
    let store = in_memory(&first);
    for _ in 0..5 {
        store.append(one("a", 30_000)).wait().expect("stored");
    }
    let events = read_all(&store).expect("readable");
    let report = fork_storage(&store, &*second, None).expect("forked");
    assert_eq!((report.shared_segments, report.copied_segments), (2, 1));
    let report = fork(&store, directory.path().join("fork"), Some(Position(4))).expect("forked");
    assert_eq!((report.shared_segments, report.copied_segments), (0, 2));
    store.append(one("a", 30_000)).wait().expect("stored");
    let (copy, on_disk) = (in_memory(&second), LogStore::open(directory.path().join("fork")).expect("it opens"));
    assert!(read_all(&copy).expect("readable") == events);
    assert!(read_all(&on_disk).expect("readable") == events[..4]);
    copy.append(one("a", 70_000)).wait().expect("stored");
    assert_eq!((read_all(&copy).expect("readable").len(), read_all(&store).expect("readable").len()), (6, 6));
}
