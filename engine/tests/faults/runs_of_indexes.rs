//! Runs of index files: merged, damaged, of other stores, interrupted; and what they save.

use std::collections::BTreeMap;

use eventuali::storage::FaultyStorage;
use eventuali::{Durability, EventStore, LogStore, OpenOptions, OpenOutcome, ReadStream, StreamKey};

use crate::arrange::{SEGMENT_BYTES, many, one, open_with, options};
use crate::files::{Files, flip, holding};

fn settled() -> OpenOptions {
    // Nothing is kept hot, so that whatever is asked for is looked up.
    options(Durability::Os).hot_bytes(0)
}

/// A store of so many segments, closed; in each of them an event of every stream that began before.
fn store_of(segments: usize, options: &OpenOptions) -> (FaultyStorage, Files) {
    let storage = FaultyStorage::new(0);
    let store = open_with(&storage, options.clone()).expect("created");
    for number in 0..segments {
        for earlier in [0, number / 2, number] {
            store.append(one(&format!("stream-{earlier}"), 30)).wait().expect("stored");
        }
        store.append(one("large", 40_000)).wait().expect("stored");
        store.append(many("several", 3, 20)).wait().expect("stored");
    }
    store.close().wait().expect("closed");
    let files = storage.files();
    (storage.process_kill(), files)
}

fn runs(files: &Files) -> Vec<&str> {
    files.keys().filter(|name| name.starts_with("index/")).map(String::as_str).collect()
}

/// Every stream, read by itself.
fn streams(store: &LogStore) -> BTreeMap<String, Vec<u64>> {
    let mut found = BTreeMap::new();
    for name in (0..30).map(|number| format!("stream-{number}")).chain(["large".to_owned(), "several".to_owned(), "new".to_owned()]) {
        let key = StreamKey { tenant: "", aggregate_id: &name };
        let events: Result<Vec<_>, _> = store.read(ReadStream::of(&name)).collect();
        let versions: Vec<u64> = events.expect("readable").iter().map(|event| event.version().0).collect();
        let known = store.stream(key).wait().expect("an answer").map_or(0, |stream| stream.version.0);
        assert_eq!(versions, (1..=known).collect::<Vec<_>>(), "{name}");
        found.insert(name, versions);
    }
    found
}

#[test]
fn runs_of_two_levels_cover_the_segments_and_smaller_ones_are_removed() {
    let (_, files) = store_of(11, &settled());
    let sealed = files.keys().filter(|name| name.contains(".idx")).count();
    assert_eq!(sealed, 10, "{:?}", files.keys());
    assert_eq!(runs(&files), ["index/000000001-000000004.run", "index/000000005-000000008.run", "index/000000009-000000010.run"]);
}

#[test]
fn with_any_run_damaged_missing_stale_or_of_another_store_the_streams_are_the_same_and_the_run_comes_back() {
    let (storage, files) = store_of(11, &settled());
    let expected = streams(&open_with(&storage, settled()).expect("open"));
    let (_, others) = store_of(11, &settled());
    for name in runs(&files) {
        let mut damaged: Vec<Files> = (0..files[name].len() * 8).step_by(3301).map(|bit| flip(&files, name, bit)).collect();
        let mut missing = files.clone();
        missing.remove(name);
        let mut empty = files.clone();
        empty.insert(name.to_owned(), Vec::new());
        let mut of_another = files.clone();
        of_another.insert(name.to_owned(), others[name].clone());
        let mut misplaced = files.clone();
        misplaced.insert(name.to_owned(), files["index/000000001-000000004.run"].clone());
        let mut unknown = files.clone();
        unknown.insert("index/000000011-000000012.run".to_owned(), files[name].clone());
        unknown.insert(format!("{name}.tmp"), vec![1; 10]);
        unknown.insert("index/notes.txt".to_owned(), vec![1; 10]);
        damaged.extend([missing, empty, of_another, misplaced, unknown]);
        for damaged in damaged {
            let storage = holding(&damaged);
            let store = open_with(&storage, settled()).expect("it opens");
            assert_eq!(streams(&store), expected, "{name}");
            // Two segments more.
            for _ in 0..4 {
                store.append(one("large", 40_000)).wait().expect("stored");
            }
            store.close().wait().expect("closed");
            let after = storage.files();
            let is_run = |found: &&&str| **found != "index/notes.txt";
            let found: Vec<&str> = runs(&after).iter().filter(is_run).copied().collect();
            assert_eq!(found[..2], ["index/000000001-000000004.run", "index/000000005-000000008.run"]);
            assert!(found.iter().all(|found| !found.contains(".tmp")), "{found:?}");
            assert_eq!(after.contains_key("index/notes.txt"), damaged.contains_key("index/notes.txt"));
        }
    }
}

#[test]
fn merging_that_is_interrupted_at_any_operation_costs_nothing() {
    let script = |storage: &FaultyStorage| {
        let Ok(store) = open_with(storage, settled()) else { return };
        for _ in 0..6 {
            if store.append(one("large", 40_000)).wait().is_err() {
                return;
            }
        }
    };
    let (storage, files) = store_of(4, &settled());
    let before = storage.operations();
    script(&storage);
    let operations = storage.operations() - before;
    for stop in 0..operations {
        let storage = holding(&files);
        storage.stop_at(storage.operations() + stop);
        script(&storage);
        let next = if stop % 2 == 0 { storage.process_kill() } else { storage.power_cut() };
        let store = open_with(&next, settled()).unwrap_or_else(|error| panic!("stopped at {stop}: {error}"));
        streams(&store);
        store.append(one("new", 10)).wait().expect("stored");
        assert!(next.files().keys().all(|name| !name.contains(".tmp")), "stopped at {stop}");
    }
}

/// They were left where they were. Appends of the same lengths gave the segments the same ends, and the indexes of what was given up
/// passed for theirs.
#[test]
fn accepting_a_loss_removes_the_indexes_of_what_is_given_up() {
    let (_, files) = store_of(6, &settled());
    let second = "000000002.g0.seg";
    let lost = flip(&files, second, (files[second].len() - 20_000) * 8);
    let storage = holding(&lost);
    let damage = match open_with(&storage, settled().read_up_to_damage()).expect("it opens").open_report().outcome.clone() {
        OpenOutcome::Damaged { damage, .. } => damage,
        outcome => panic!("{outcome:?}"),
    };
    let store = open_with(&storage, settled().accept_loss_after(damage.last_good_position)).expect("accepted");
    let indexes: Vec<_> = storage.files().into_keys().filter(|name| name.contains(".idx") || name.contains(".run")).collect();
    assert_eq!((damage.segment, &indexes[..]), (2, &["000000001.idx".to_owned()][..]));
    streams(&store);
}

#[test]
fn a_cold_stream_among_many_segments_takes_a_few_reads_and_a_new_one_hardly_any() {
    let options = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES).hot_bytes(0).index_when_sealing();
    let (storage, _) = store_of(200, &options);
    let store = open_with(&storage, options).expect("open");
    let look = |name: &str| {
        let before = storage.operations();
        let found = store.stream(StreamKey { tenant: "", aggregate_id: name }).wait().expect("an answer").is_some();
        (found, storage.operations() - before)
    };
    // The heads and filters of runs, and of the few segments behind them, are read once.
    assert!(!look("nobody").0);
    for number in 100..110 {
        let (found, operations) = look(&format!("stream-{}", 100 + number % 10));
        assert!(found && operations <= 12, "{operations} operations for stream {number}");
        let (found, operations) = look(&format!("nobody-{number}"));
        assert!(!found && operations <= 2, "{operations} operations for a new stream");
    }
}
