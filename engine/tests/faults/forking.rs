//! A fork has every event up to its position and goes on by itself; its parent never notices.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use eventuali::maintenance::{ForkReport, fork_storage, verify_storage};
use eventuali::storage::{Failure, Fault, FaultyStorage, OperationKind, Storage};
use eventuali::{
    AppendBatch, Durability, Error, Event, EventStore, ForkProblem, LogStore, OpenOptions, OpenOutcome, Position, ReadStream, Result,
    compress_storage,
};

use crate::arrange::{SEGMENT_BYTES, many, one, open, open_with, options, read_all, rounds};
use crate::backing_up::{Eventful, Happening};
use crate::files::{FIRST, Files, MANIFEST, SECOND, THIRD, WATERMARK, frames, holding, small_store, three_segments};

pub(crate) const FOURTH: &str = "000000004.g0.seg";

pub(crate) fn on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A disk with a store in the directory `store`, and room for others beside it.
pub(crate) fn disk(files: &Files, seed: u64) -> FaultyStorage {
    let files = files.iter().map(|(name, bytes)| (format!("store/{name}"), bytes.clone())).collect();
    FaultyStorage::holding(&files, seed).directory("store")
}

/// Forks an open store to another directory of its disk.
pub(crate) fn forked(store: &LogStore, storage: &FaultyStorage, name: &str, at: Option<u64>) -> Result<(ForkReport, FaultyStorage)> {
    let target = storage.directory(name);
    fork_storage(store, &target, at.map(Position)).map(|report| (report, target))
}

#[track_caller]
pub(crate) fn is_sound(what: &str, storage: &FaultyStorage) -> u64 {
    let found = verify_storage(storage, on).expect("read");
    assert!(found.is_sound(), "{what}: {:?}", found.damage);
    found.events
}

/// Asserts that a fork is sound, opens as it is, and holds just these events; and that it goes on by itself.
pub(crate) fn judge(what: &str, target: &FaultyStorage, report: &ForkReport, events: &[Event]) {
    assert_eq!((is_sound(what, target), report.position.0), (events.len() as u64, events.len() as u64), "{what}");
    let store = open(target).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((&store.open_report().outcome, store.open_report().rewritten_bytes), (&OpenOutcome::Clean, 0), "{what}");
    assert!(read_all(&store).expect("readable") == events, "{what}");
    assert_eq!(store.identity().wait().expect("told").store_id, report.store_id);
    let epoch = store.identity().wait().expect("told").epoch;
    for number in 1..=3 {
        let receipts = store.append(one("more", 30_000)).wait().expect("it takes appends");
        assert_eq!(receipts[0].position.0, events.len() as u64 + number, "{what}");
    }
    assert_eq!(store.identity().wait().expect("told").epoch, epoch + 1);
    store.close().wait().expect("closed");
    let store = open(target).expect("it opens");
    let now = read_all(&store).expect("readable");
    assert!(now.len() == events.len() + 3 && now[..events.len()] == *events, "{what}");
    store.close().wait().expect("closed");
    assert_eq!(is_sound(what, target), events.len() as u64 + 3, "{what}");
}

/// Where a store can be forked: its positions between two appends.
fn borders(files: &Files) -> Vec<u64> {
    let mut borders: Vec<u64> =
        files.iter().filter(|(name, _)| name.contains(".seg")).flat_map(|(_, bytes)| frames(bytes)).map(|frame| frame.last_position).collect();
    borders.push(0);
    borders.sort_unstable();
    borders.dedup();
    borders
}

#[test]
fn a_store_is_forked_at_every_position_between_two_appends() {
    let (three, _) = three_segments();
    let (small, _) = small_store(Durability::Sync, true);
    for (what, files) in [("three segments", three), ("one segment", small)] {
        let storage = disk(&files, 0);
        let store = open(&storage).expect("opened");
        let (events, borders) = (read_all(&store).expect("readable"), borders(&files));
        let mut ids = HashSet::from([store.identity().wait().expect("told").store_id]);
        for at in 0..=events.len() as u64 + 1 {
            let forked = forked(&store, &storage, &format!("at-{at}"), Some(at));
            let before = borders.iter().rev().find(|border| **border <= at).copied();
            let after = borders.iter().find(|border| **border >= at).copied();
            match forked {
                Ok((report, target)) => {
                    assert_eq!(before, after, "{what} at {at}");
                    assert!(ids.insert(report.store_id), "each fork has an id of its own");
                    judge(&format!("{what} at {at}"), &target, &report, &events[..usize::try_from(at).expect("small")]);
                }
                Err(Error::ForkPosition { problem, before: told_before, after: told_after, .. }) => {
                    let is_ahead = at > events.len() as u64;
                    assert_eq!(problem, if is_ahead { ForkProblem::Ahead } else { ForkProblem::WithinAppend }, "{what} at {at}");
                    assert_eq!((told_before.map(|position| position.0), told_after.map(|position| position.0)), (before, after), "{what} at {at}");
                }
                Err(error) => panic!("{what} at {at}: {error}"),
            }
        }
        assert!(ids.len() > 5);
        assert!(storage.files() == files && !storage.shared_file_was_changed(), "{what}: the store is as it was");
        judge_parent(&store, &storage, &events);
    }
}

/// The parent goes on as if there were no forks.
fn judge_parent(store: &LogStore, storage: &FaultyStorage, events: &[Event]) {
    for _ in 0..3 {
        store.append(one("parent", 30_000)).wait().expect("stored");
    }
    let now = read_all(store).expect("readable");
    assert!(now.len() == events.len() + 3 && now[..events.len()] == *events);
    store.close().wait().expect("closed");
    assert_eq!(is_sound("the parent", storage), events.len() as u64 + 3);
    assert!(!storage.shared_file_was_changed());
}

#[test]
fn what_is_whole_is_shared_and_of_the_rest_one_segment_is_copied() {
    let (files, events) = three_segments();
    let storage = disk(&files, 0);
    let store = open(&storage).expect("opened");
    let (second, third) = (frames(&files[FIRST]).last().expect("frames").last_position, frames(&files[SECOND]).last().expect("frames").last_position);
    let shares = |at: Option<u64>, name: &str| {
        let (report, target) = forked(&store, &storage, name, at).expect("forked");
        let same: Vec<bool> = [FIRST, SECOND, THIRD, "000000001.idx"].iter().map(|name| target.files().get(*name) == files.get(*name)).collect();
        let copied = target.files().iter().filter(|(name, _)| name.contains(".seg") && **name != *FIRST).count();
        (report.shared_segments, report.copied_segments, same, copied)
    };
    assert_eq!(shares(None, "all"), (2, 1, vec![true, true, false, true], 3), "the segment that is written to is copied and sealed");
    assert_eq!(shares(Some(third), "two"), (2, 0, vec![true, true, false, true], 2));
    assert_eq!(shares(Some(second), "one"), (1, 0, vec![true, false, false, true], 1));
    assert_eq!(shares(Some(second + 1), "more"), (1, 1, vec![true, false, false, true], 2));
    assert_eq!(shares(Some(1), "little"), (0, 1, vec![false, false, false, false], 1));
    assert_eq!(shares(Some(0), "nothing"), (0, 0, vec![false, false, false, false], 0));
    let elsewhere = FaultyStorage::new(0);
    let report = fork_storage(&store, &elsewhere, None).expect("forked");
    assert_eq!((report.shared_segments, report.copied_segments), (0, 3), "nothing is shared between two disks");
    assert_eq!(
        report.copied_bytes,
        elsewhere.files().iter().filter(|(name, _)| name.contains(".seg") && **name != *FOURTH).map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    );
    judge("on another disk", &elsewhere.power_cut(), &report, &events);
}

/// A store whose last segment was sealed when it was closed, as one of 4 MiB is.
fn sealed_at_close() -> (FaultyStorage, Vec<Event>) {
    let storage = FaultyStorage::new(0).directory("store");
    let large = || OpenOptions::new().segment_bytes(16 << 20).index_when_sealing();
    let store = open_with(&storage, large()).expect("created");
    for number in 0..6 {
        store.append(many(&format!("stream-{number}"), 2, 500_000)).wait().expect("stored");
    }
    let events = read_all(&store).expect("readable");
    store.close().wait().expect("closed");
    (storage, events)
}

#[test]
fn a_store_whose_last_segment_is_sealed_is_shared_whole_and_never_written_to() {
    let (storage, events) = sealed_at_close();
    let files = storage.files();
    let store = open(&storage).expect("opened");
    let (report, target) = forked(&store, &storage, "fork", None).expect("forked");
    assert_eq!((report.shared_segments, report.copied_segments, report.copied_bytes), (1, 0, 0));
    judge("sealed", &target, &report, &events);
    // The parent opens with the shared segment as its last one.
    store.close().wait().expect("closed");
    let store = open(&storage).expect("opened");
    assert!(storage.files()[FIRST] == files[FIRST]);
    judge_parent(&store, &storage, &events);
    // So it does where the watermark, which proves that the seal is on disk, is gone.
    let (report, target) = forked(&open(&storage).expect("opened"), &storage, "another", Some(events.len() as u64)).expect("forked");
    storage.remove(WATERMARK).expect("removed");
    drop(open(&storage).expect("opened"));
    assert!(!storage.shared_file_was_changed());
    judge("another", &target, &report, &events);
}

#[test]
fn an_empty_store_is_forked() {
    let storage = FaultyStorage::new(0).directory("store");
    let store = open(&storage).expect("created");
    let (report, target) = forked(&store, &storage, "fork", None).expect("forked");
    assert_eq!((report.position, report.shared_segments, report.copied_segments), (Position::START, 0, 0));
    judge("empty", &target, &report, &[]);
    let Err(Error::ForkPosition { problem: ForkProblem::Ahead, before: Some(Position(0)), after: None, .. }) =
        forked(&store, &storage, "other", Some(1))
    else {
        panic!("there is no position 1")
    };
    let error = forked(&store, &storage, "other", Some(1)).map(drop).expect_err("there is no position 1");
    assert!(error.to_string().contains("cannot be forked at position 1") && error.to_string().ends_with("fork it at 0"), "{error}");
}

#[test]
fn compressed_segments_are_shared_as_they_are_and_cut_plain() {
    let (files, events) = three_segments();
    let storage = disk(&files, 0);
    assert_eq!(compress_storage(&storage).expect("compressed").segments, 2);
    let store = open(&storage).expect("opened");
    for at in borders(&files) {
        let (report, target) = forked(&store, &storage, &format!("at-{at}"), Some(at)).expect("forked");
        judge(&format!("at {at}"), &target, &report, &events[..usize::try_from(at).expect("small")]);
        compress_storage(&target).expect("compressed again");
        is_sound("compressed again", &target);
    }
    assert!(!storage.shared_file_was_changed());
}

/// A store, forked again and again, each from the one before and at another place; each with streams that all have, and one of its own.
#[test]
fn forks_of_forks_find_everything_that_their_ancestors_have_stored() {
    let mut storage = FaultyStorage::new(0).directory("generation-0");
    let cold = || options(Durability::Sync).hot_bytes(0);
    let mut sent = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    for generation in 0..6 {
        let store = open_with(&storage, cold()).expect("opened");
        assert!(read_all(&store).expect("readable") == events, "generation {generation}");
        // What an ancestor has stored is stored here: the same append is answered as it was the first time.
        for (batch, receipts) in &sent {
            assert_eq!(store.append(AppendBatch::clone(batch)).wait().expect("known"), *receipts, "generation {generation}");
        }
        for number in 0..9 {
            let batch = if number % 3 == 0 { many("all", 2, 9_000) } else { one(&format!("of-{generation}"), 22_000) };
            let receipts = store.append(batch.clone()).wait().expect("stored");
            sent.push((batch, receipts));
        }
        events = read_all(&store).expect("readable");
        let of_all = events.iter().filter(|event| event.aggregate_id() == "all").count();
        assert_eq!(read_stream(&store, "all"), of_all, "generation {generation}");
        assert_eq!(read_stream(&store, "of-0"), 6, "generation {generation}");
        // Every other one is forked a little before its end.
        let at = events.len() as u64 - [0, 1, 4][generation % 3];
        let (report, target) = forked(&store, &storage, &format!("generation-{}", generation + 1), Some(at)).expect("forked");
        assert_eq!(report.parent_id, store.identity().wait().expect("told").store_id);
        store.close().wait().expect("closed");
        is_sound(&format!("generation {generation}"), &storage);
        events.truncate(usize::try_from(at).expect("small"));
        sent.retain(|(_, receipts)| receipts.iter().all(|receipt| receipt.position.0 <= at));
        // Its parent is not needed.
        for name in storage.files().keys() {
            storage.remove(name).expect("removed");
        }
        storage = target;
    }
    assert!(!storage.list("index").expect("listed").is_empty(), "runs of index files are shared too");
    assert!(!storage.shared_file_was_changed());
}

pub(crate) fn read_stream(store: &LogStore, aggregate_id: &str) -> usize {
    store.read(ReadStream::of(aggregate_id)).collect::<Result<Vec<_>>>().expect("readable").len()
}

#[test]
fn a_fork_does_not_take_its_parents_appends_for_its_own() {
    let (files, events) = three_segments();
    let storage = disk(&files, 0);
    let store = open(&storage).expect("opened");
    let (_, target) = forked(&store, &storage, "fork", None).expect("forked");
    let fork = open(&target).expect("opened");
    let batch = one("a", 100);
    let first = store.append(batch.clone()).wait().expect("stored");
    assert_eq!(fork.append(one("b", 100)).wait().expect("stored")[0].position, first[0].position, "the position is given twice, in two stores");
    let second = fork.append(batch).wait().expect("it is new here");
    assert_eq!(second[0].position.0, first[0].position.0 + 1);
    assert_eq!(read_all(&store).expect("readable").len(), events.len() + 1);
}

#[test]
fn a_fork_that_is_killed_at_any_operation_is_whole_or_no_store_and_its_parent_is_untouched() {
    let (files, events) = three_segments();
    for at in [None, Some(7), Some(0)] {
        let count = usize::try_from(at.unwrap_or(events.len() as u64)).expect("small");
        let storage = disk(&files, 0);
        let store = open(&storage).expect("opened");
        let before = storage.operations();
        forked(&store, &storage, "fork", at).expect("forked");
        let operations = storage.operations() - before;
        assert!(operations > 12);
        for number in 0..operations {
            for seed in 0..rounds(4) {
                let storage = disk(&files, seed);
                let store = open(&storage).expect("opened");
                storage.stop_at(storage.operations() + number);
                forked(&store, &storage, "fork", at).map(drop).expect_err("it was killed");
                let killed = seed % 2 == 0;
                let left = if killed { storage.process_kill() } else { storage.power_cut() };
                let target = left.directory("fork");
                if target.files().contains_key(MANIFEST) {
                    // It comes last: where it is, everything is.
                    assert_eq!(is_sound(&format!("operation {number}"), &target), count as u64);
                    assert!(read_all(&open(&target).expect("it opens")).expect("readable") == events[..count], "operation {number}");
                } else if target.files().keys().any(|name| name.contains(".seg")) {
                    // A segment in which nothing was written yet is that of a new store.
                    let read = open(&target).and_then(|store| read_all(&store));
                    assert!(read.is_err() || read.is_ok_and(|events| events.is_empty()), "operation {number}");
                }
                let store = open(&left).expect("the parent opens");
                assert!(read_all(&store).expect("readable") == events);
                let (report, again) = forked(&store, &left, "again", at).expect("forked");
                judge("again", &again, &report, &events[..count]);
                assert!(left.files() == files && !left.shared_file_was_changed(), "operation {number}");
            }
        }
    }
}

#[test]
fn a_fork_that_was_made_survives_every_power_cut_and_so_does_what_both_append() {
    let (files, events) = three_segments();
    for seed in 0..rounds(20) {
        let storage = disk(&files, seed);
        let store = open(&storage).expect("opened");
        let (_, target) = forked(&store, &storage, "fork", None).expect("forked");
        let fork = open(&target).expect("opened");
        for _ in 0..seed % 4 {
            store.append(one("a", 20_000)).wait().expect("stored");
            fork.append(many("b", 2, 9_000)).wait().expect("stored");
        }
        let left = storage.power_cut();
        for (directory, appended) in [("store", seed % 4), ("fork", 2 * (seed % 4))] {
            let directory = left.directory(directory);
            let read = read_all(&open(&directory).expect("it opens")).expect("readable");
            assert!(read.len() as u64 == events.len() as u64 + appended && read[..events.len()] == events, "seed {seed}");
            is_sound("after a power cut", &directory);
        }
        assert!(!left.shared_file_was_changed());
    }
}

#[test]
fn operations_that_fail_while_a_store_is_forked_are_told_and_stop_nobody() {
    let (files, events) = three_segments();
    let storage = disk(&files, 0);
    let store = open(&storage).expect("opened");
    let before = storage.operations();
    forked(&store, &storage, "fork", None).expect("forked");
    for failure in [Failure::Device, Failure::NoSpace] {
        for number in 0..storage.operations() - before {
            let storage = disk(&files, 0);
            let store = open(&storage).expect("opened");
            storage.inject(Fault::next().after(number).with(failure));
            match forked(&store, &storage, "fork", None) {
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. } | Error::StorageFull { .. }), "operation {number}: {error:?}");
                    assert_eq!(read_all(&store).expect("readable").len(), events.len());
                }
                // What can be made again is not missed.
                Ok((report, target)) => judge(&format!("operation {number}"), &target, &report, &events),
            }
            store.append(one("a", 10)).wait().expect("the parent goes on");
            assert!(!storage.shared_file_was_changed());
        }
    }
}

#[test]
fn a_write_of_a_large_copy_that_fails_is_told() {
    let storage = FaultyStorage::new(0).directory("store");
    let store = open_with(&storage, OpenOptions::new().segment_bytes(16 << 20)).expect("created");
    for number in 0..4 {
        store.append(many(&format!("stream-{number}"), 2, 600_000)).wait().expect("stored");
    }
    let events = read_all(&store).expect("readable");
    let mut failed = 0;
    loop {
        let target = FaultyStorage::new(0);
        target.inject(Fault::on(OperationKind::Write).after(failed));
        match fork_storage(&store, &target, None) {
            Err(error) => assert!(matches!(error, Error::Io { .. }), "write {failed}: {error:?}"),
            Ok(report) => {
                target.mend();
                judge("the last one", &target, &report, &events);
                break;
            }
        }
        failed += 1;
    }
    assert!(failed > 6, "the copy takes several writes");
}

/// Another generation of each segment takes the place of the one that was named when the fork began: the files of those stay till then.
#[test]
fn a_store_is_forked_whole_while_its_segments_are_rewritten() {
    let (files, events) = three_segments();
    for file in [FIRST, SECOND, THIRD] {
        let (disk, happening) = (holding(&files), Arc::new(Mutex::new(None)));
        let storage = Eventful { disk: disk.clone(), file, happening: Arc::clone(&happening) };
        let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open_storage(Arc::new(storage)).expect("opened");
        let compressing = store.clone();
        *happening.lock().expect("whole") = Some(Box::new(move || {
            assert_eq!(compressing.compress().expect("compressed").segments, 2);
        }) as Happening);
        let target = FaultyStorage::new(0);
        let report = fork_storage(&store, &target, None).expect("forked");
        assert!(happening.lock().expect("whole").is_none() && disk.files().contains_key("000000001.g1.seg"), "it has happened");
        assert!(target.files().contains_key(FIRST));
        judge(file, &target, &report, &events);
        store.compress().expect("compressed");
        assert!(!disk.files().contains_key(FIRST), "they are removed when the fork is made");
    }
}

#[test]
fn a_damaged_segment_is_not_copied() {
    let (files, _) = three_segments();
    for (at, frame) in [(7, 2), (6, 1)] {
        let mut hurt = files.clone();
        let place = frames(&files[FIRST])[frame].bytes.start + 70;
        hurt.get_mut(FIRST).expect("it is there")[place] ^= 1;
        let storage = disk(&hurt, 0);
        let store = open(&storage).expect("opening reads no sealed segment");
        let Err(Error::Corruption(damage)) =
            forked(&store, &storage, "fork", Some(borders(&files).into_iter().rfind(|border| *border < at).expect("some")))
        else {
            panic!("a damaged segment was copied")
        };
        assert_eq!(damage.segment, 1);
    }
}
