//! Runs of index files: merged, damaged, of other stores, interrupted; and what they save.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use eventuali::maintenance::{scavenge, verify_storage};
use eventuali::storage::FaultyStorage;
use eventuali::{Compress, Durability, EventStore, ExpectedVersion, LogStore, OpenOptions, OpenOutcome, ReadStream, StreamKey};

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

/// Those of a store of 14 sealed segments, two merged to one.
const RUNS: [&str; 3] = ["index/000000001-000000008.run", "index/000000009-000000012.run", "index/000000013-000000014.run"];

#[test]
fn runs_of_all_levels_cover_the_segments_and_smaller_ones_are_removed() {
    let (_, files) = store_of(15, &settled());
    let sealed = files.keys().filter(|name| name.contains(".idx")).count();
    assert_eq!(sealed, 14, "{:?}", files.keys());
    assert_eq!(runs(&files), RUNS);
}

#[test]
fn where_filters_have_no_room_the_first_run_takes_the_others_in() {
    let (storage, files) = store_of(15, &settled().filter_bytes(0));
    assert_eq!(runs(&files), ["index/000000001-000000014.run"]);
    let (_, others) = store_of(15, &settled());
    let roomless = open_with(&storage, settled().filter_bytes(0)).expect("open");
    assert_eq!(streams(&roomless), streams(&open_with(&holding(&others), settled()).expect("open")));
}

#[test]
fn index_files_and_runs_that_are_all_gone_come_back() {
    let (storage, files) = store_of(15, &settled());
    let expected = streams(&open_with(&storage, settled()).expect("open"));
    let is_gone = |name: &str, which: usize| (which != 1 && name.starts_with("index/")) || (which != 0 && name.contains(".idx"));
    for which in 0..3 {
        let left: Files = files.iter().filter(|(name, _)| !is_gone(name, which)).map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        assert!(left.len() < files.len());
        let storage = holding(&left);
        let store = open_with(&storage, settled()).expect("it opens");
        assert_eq!(streams(&store), expected);
        for _ in 0..2 {
            store.append(one("large", 40_000)).wait().expect("stored");
        }
        store.close().wait().expect("closed");
        let after = storage.files();
        assert!(files.keys().filter(|name| name.contains(".idx")).all(|name| after.contains_key(name)), "{:?}", after.keys());
        assert_eq!(runs(&after)[0], "index/000000001-000000016.run");
        assert_eq!(streams(&open_with(&storage.process_kill(), settled()).expect("open"))["several"], expected["several"]);
    }
}

#[test]
fn an_index_file_that_is_damaged_is_made_again_while_the_store_is_open() {
    let (_, files) = store_of(6, &settled());
    let expected = streams(&open_with(&holding(&files), settled()).expect("open"));
    let name = "000000002.idx";
    for bit in (0..files[name].len() * 8).step_by(4099) {
        let mut damaged = flip(&files, name, bit);
        // Without runs every index file is asked.
        damaged.retain(|name, _| !name.starts_with("index/"));
        let storage = holding(&damaged);
        let store = open_with(&storage, settled()).expect("it opens");
        assert_eq!(streams(&store), expected, "bit {bit}");
        for _ in 0..2 {
            store.append(one("large", 40_000)).wait().expect("stored");
        }
        store.close().wait().expect("closed");
        let after = storage.files();
        let is_mended = after[name] == files[name];
        let was_read = is_mended || after[name] == damaged[name];
        assert!(was_read, "bit {bit}");
        // The first page is read in any case.
        assert!(is_mended || bit >= 4096 * 8, "bit {bit}");
    }
}

/// What is written in a page of a run, with a checksum that matches.
fn forged(run: &[u8], page: usize, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    const PAGE: usize = 4096;
    let sum = |seed: u32, bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(bytes);
        hasher.finalize()
    };
    let mut run = run.to_vec();
    let seed = if page == 0 { 0x4556_4958 } else { sum(0x4556_4958, &run[32..160]) };
    let bytes = &mut run[page * PAGE..(page + 1) * PAGE];
    change(&mut bytes[..PAGE - 4]);
    let checksum = sum(sum(seed, &bytes[..PAGE - 4]), &(page as u64).to_le_bytes());
    bytes[PAGE - 4..].copy_from_slice(&checksum.to_le_bytes());
    run
}

#[test]
fn runs_that_name_what_is_not_theirs_are_given_up_whatever_their_checksums_say() {
    let (storage, files) = store_of(15, &settled());
    let expected = streams(&open_with(&storage, settled()).expect("open"));
    for name in RUNS {
        let run = &files[name];
        // The first page of each section: streams, their filter, filters of ids, and their parts.
        let sections: Vec<usize> =
            (0..4).map(|section| u32::from_le_bytes(run[256 + section * 24 + 8..][..4].try_into().expect("four")) as usize).collect();
        // Segments beyond the run's; hashes that are not sorted; filters that hold everything; parts that do not fit.
        let mut hostile = vec![
            forged(run, sections[0], |page| page.chunks_exact_mut(12).for_each(|entry| entry[8..].fill(0xFF))),
            forged(run, sections[0], |page| page[12..20].fill(0)),
            forged(run, sections[1], |page| page.fill(0xFF)),
            forged(run, sections[2], |page| page.fill(0xFF)),
        ];
        for at in (0..56).step_by(8) {
            hostile.push(forged(run, sections[3], |page| page[at..at + 8].fill(0xFF)));
        }
        for at in (256..352).step_by(4) {
            hostile.push(forged(run, 0, |page| page[at..at + 4].fill(0xFF)));
        }
        for run in hostile {
            let mut files = files.clone();
            files.insert(name.to_owned(), run);
            let store = open_with(&holding(&files), settled()).expect("it opens");
            let found = streams(&store);
            // A sorted list is taken at its word; all else is seen.
            assert!(found.iter().filter(|(name, versions)| expected[*name] != **versions).count() <= 1, "{found:?}");
            let mut old = one("old", 10);
            old.streams[0].events[0].id = uuid::Uuid::from_u128(1);
            store.append(old).wait().expect("its id is not stored");
            store.close().wait().expect("closed");
        }
    }
}

#[test]
fn with_any_run_damaged_missing_stale_or_of_another_store_the_streams_are_the_same_and_the_run_comes_back() {
    let (storage, files) = store_of(15, &settled());
    let expected = streams(&open_with(&storage, settled()).expect("open"));
    let (_, others) = store_of(15, &settled());
    for name in runs(&files) {
        let mut damaged: Vec<Files> = (0..files[name].len() * 8).step_by(9001).map(|bit| flip(&files, name, bit)).collect();
        let mut missing = files.clone();
        missing.remove(name);
        let mut empty = files.clone();
        empty.insert(name.to_owned(), Vec::new());
        let mut of_another = files.clone();
        of_another.insert(name.to_owned(), others[name].clone());
        let mut misplaced = files.clone();
        misplaced.insert(name.to_owned(), files[if name == RUNS[0] { RUNS[1] } else { RUNS[0] }].clone());
        let mut unknown = files.clone();
        unknown.insert("index/000000011-000000014.run".to_owned(), files[name].clone());
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
            assert_eq!(found[0], "index/000000001-000000016.run");
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
    // What is compressed takes some more: for the footer, the dictionary and the table.
    let options = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES).hot_bytes(0).index_when_sealing();
    let options = options.compression(Compress::Never);
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

/// Why verifying says that this run is damaged; nothing else is.
fn complaint(files: &Files, run: &str) -> Option<String> {
    let found = verify_storage(&holding(files), |_| ControlFlow::Continue(())).expect("verified");
    assert!(found.complete && found.damage.iter().all(|damage| damage.file == run), "{:?}", found.damage);
    found.damage.first().map(|damage| damage.reason.clone())
}

#[test]
fn verifying_finds_runs_that_say_something_else_than_their_index_files() {
    let (_, files) = store_of(15, &settled());
    assert_eq!(complaint(&files, "none"), None);
    for name in RUNS {
        let run = &files[name];
        for bit in (0..run.len() * 8).step_by(4999) {
            assert!(complaint(&flip(&files, name, bit), name).is_some_and(|reason| reason.contains("the run of indexes is damaged")), "bit {bit}");
        }
        let sections: Vec<usize> =
            (0..4).map(|section| u32::from_le_bytes(run[256 + section * 24 + 8..][..4].try_into().expect("four")) as usize).collect();
        let last = |page: &[u8]| page.chunks_exact(12).rposition(|entry| entry[..8] != [0; 8]).expect("entries");
        let forgeries = [
            ("not sorted", forged(run, sections[0], |page| page[12..20].fill(0))),
            ("not in the run", forged(run, sections[0], |page| page[8..12].fill(0xFF))),
            ("a later segment", forged(run, sections[0], |page| page.chunks_exact_mut(12).for_each(|entry| entry[8..].fill(0)))),
            ("cannot be found by its hash", forged(run, sections[1], |page| page.fill(0))),
            ("is not theirs", forged(run, sections[2], |page| page.fill(0))),
            ("is not theirs", forged(run, sections[2], |page| page[..64].fill(0xFF))),
            ("are others than it says", forged(run, sections[3], |page| page[24..40].fill(1))),
            ("smallest or largest", forged(run, 0, |page| page[160..176].fill(1))),
            (
                "is not in it",
                forged(run, sections[0], |page| {
                    // The last one is left out by being another.
                    let at = last(page) * 12;
                    page[at..at + 8].fill(0xFF);
                }),
            ),
        ];
        for (reason, run) in forgeries {
            let mut files = files.clone();
            files.insert(name.to_owned(), run);
            let found = complaint(&files, name).expect(reason);
            assert!(found.contains(reason) || found.contains("cannot be found by its hash"), "{found}, not {reason}");
        }
    }
    // Index files that are missing or damaged say nothing of a run.
    let mut without = files.clone();
    without.retain(|name, _| !name.contains(".idx"));
    assert_eq!(complaint(&without, "none"), None);
    assert!(complaint(&flip(&files, "000000003.idx", 9 * 8), "000000003.idx").is_some());
}

#[test]
fn runs_of_scavenged_segments_stay_sound_and_are_merged_again_from_indexes_that_lack_what_was_taken_out() {
    let (storage, _) = store_of(15, &settled());
    let store = open_with(&storage, settled()).expect("open");
    for gone in ["stream-3", "several"] {
        store.delete(gone.into(), ExpectedVersion::Exists).wait().expect("deleted");
    }
    assert!(scavenge(&store, |_| ControlFlow::Continue(())).expect("scavenged").events > 20);
    store.close().wait().expect("closed");
    // Runs and index files of before know of what was taken out; then index files do not, and then neither do.
    let mut files = storage.files();
    assert_eq!(complaint(&files, "none"), None);
    for ending in [".idx", ".run"] {
        files.retain(|name, _| !name.ends_with(ending));
        let storage = holding(&files);
        let store = open_with(&storage, settled()).expect("open");
        for _ in 0..2 {
            store.append(one("large", 62_000)).wait().expect("stored");
        }
        store.close().wait().expect("closed");
        files = storage.files();
        assert!(!runs(&files).is_empty());
        assert!(files.contains_key("000000001.idx"));
        assert_eq!(complaint(&files, "none"), None);
    }
}
