//! The thread that merges runs: nobody waits for it, and closing does not wait for what it has yet to do.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::storage::Storage;
use eventuali::{Durability, EventStore, LogStore, OpenOptions};

use crate::arrange::{SEGMENT_BYTES, one};
use crate::page_reads::Counting;

const DEADLINE: Duration = Duration::from_mins(1);

fn open(storage: &Arc<Counting>) -> LogStore {
    let options = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES).merge_indexes_of(2);
    options.open_storage(Arc::clone(storage) as Arc<dyn Storage>).expect("open")
}

fn seal(store: &LogStore, segments: usize) {
    for _ in 0..=segments {
        store.append(one("large", 62_000)).wait().expect("stored");
    }
}

fn names(storage: &Counting, folder: &str, ending: &str) -> Vec<String> {
    let mut names: Vec<String> = storage.memory.list(folder).expect("memory").into_iter().filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        thread::yield_now();
    }
}

#[test]
fn index_files_and_appends_do_not_wait_for_a_run_that_is_being_merged() {
    let storage = Counting::new();
    let store = open(&storage);
    let held = storage.hold_runs();
    // Two segments may wait for their index files: ten are only sealed if none waits for the first run.
    seal(&store, 10);
    wait_for("ten index files", || names(&storage, "", ".idx").len() >= 10);
    assert_eq!(names(&storage, "index", ".run"), Vec::<String>::new());
    drop(held);
    wait_for("runs", || names(&storage, "index", ".run").first().is_some_and(|name| name == "000000001-000000008.run"));
    store.close().wait().expect("closed");
}

#[test]
fn a_merge_that_closing_gives_up_is_made_good_when_the_store_is_open_again() {
    let storage = Counting::new();
    let store = open(&storage);
    let held = storage.hold_runs();
    seal(&store, 10);
    thread::scope(|scope| {
        let closing = scope.spawn(|| store.close().wait());
        wait_for("the last index file", || names(&storage, "", ".idx").len() >= 10);
        drop(held);
        closing.join().expect("no panic").expect("closed");
    });
    assert!(names(&storage, "index", ".tmp").is_empty());
    let store = open(&storage);
    seal(&store, 1);
    wait_for("runs", || names(&storage, "index", ".run").first().is_some_and(|name| name == "000000001-000000008.run"));
    store.close().wait().expect("closed");
}
