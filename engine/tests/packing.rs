//! Compressing sealed segments of an open store: what is read and written meanwhile, and which files are there afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::maintenance::{backup, verify_storage};
use eventuali::storage::{Failure, Fault, FaultyStorage, OperationKind, Storage};
use eventuali::{
    AppendBatch, Compress, Durability, Error, Event, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, ReadStream,
    Result,
};

/// Nothing is compressed but when a test says so.
fn options() -> OpenOptions {
    OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10).hot_bytes(0).index_when_sealing().compression(Compress::Never)
}

fn compressing(newest: usize) -> OpenOptions {
    options().compression(Compress::OlderThan(newest))
}

fn open(storage: &FaultyStorage, options: OpenOptions) -> LogStore {
    options.open_storage(Arc::new(storage.clone()) as Arc<dyn Storage>).expect("it opens")
}

/// Appends so many events of ten aggregates; a segment holds about 24 of them.
fn append(store: &LogStore, events: usize) {
    for number in 0..events {
        let event = NewEvent::new("Happened", EventData::Protobuf(format!("{number:>8} happened. ").repeat(130).into_bytes()));
        store.append(AppendBatch::one(format!("a-{}", number % 10), "Thing", ExpectedVersion::Any, vec![event])).wait().expect("stored");
    }
}

/// Appends events of which nothing becomes smaller.
fn append_noise(store: &LogStore, events: usize) {
    for _ in 0..events {
        let noise = (0..1000).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
        let event = NewEvent::new("Noise", EventData::Protobuf(noise));
        store.append(AppendBatch::one("noise", "Noise", ExpectedVersion::Any, vec![event])).wait().expect("stored");
    }
}

fn all(store: &LogStore) -> Vec<Event> {
    store.read_all(ReadAll::new()).collect::<Result<_>>().expect("readable")
}

/// The generations that there are of each segment.
fn generations(names: impl IntoIterator<Item = String>) -> BTreeMap<u64, Vec<u32>> {
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for name in names {
        if let Some((sequence, generation)) = name.strip_suffix(".seg").and_then(|name| name.split_once(".g")) {
            found.entry(sequence.parse().expect("a number")).or_default().push(generation.parse().expect("a number"));
        }
    }
    for generations in found.values_mut() {
        generations.sort_unstable();
    }
    found
}

fn generations_in(directory: &Path) -> BTreeMap<u64, Vec<u32>> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("readable").file_name().into_string().expect("text");
    generations(fs::read_dir(directory).expect("readable").map(name))
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn all_but_the_newest_are_compressed_and_read_as_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = |newest| compressing(newest).open(directory.path()).expect("it opens");
    let store = open(3);
    append(&store, 200);
    let events = all(&store);
    store.close().wait().expect("closed");
    let found = generations_in(directory.path());
    let last = *found.keys().last().expect("segments");
    assert!(last >= 8, "{found:?}");
    for (sequence, generations) in found {
        // The segment that is written to, the three before it, and the others.
        let expected = u32::from(sequence + 3 < last);
        assert_eq!(generations, [expected], "segment {sequence} of {last}");
    }
    let store = open(3);
    assert_eq!(all(&store), events);
    append(&store, 1);
    assert_eq!(all(&store).len(), 201);
}

#[test]
fn readers_that_began_before_read_on_through_every_segment() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = options().open(directory.path()).expect("it opens");
    append(&store, 300);
    let events = all(&store);
    store.close().wait().expect("closed");
    // Opened again, it has no sealed segment open yet.
    let store = options().open(directory.path()).expect("it opens");
    let mut forwards = store.read_all(ReadAll::new());
    let mut backwards = store.read_all(ReadAll::new().backwards());
    let mut stream = store.read(ReadStream::of("a-3"));
    let mut of_stream: Vec<Event> = vec![stream.next().expect("there are more").expect("readable")];
    let mut first: Vec<Event> = forwards.by_ref().take(30).map(|event| event.expect("readable")).collect();
    let mut last: Vec<Event> = backwards.by_ref().take(30).map(|event| event.expect("readable")).collect();
    let done = store.compress().expect("compressed");
    assert!(done.segments > 8 && done.bytes_after * 3 < done.bytes_before, "{done:?}");
    let found = generations_in(directory.path());
    assert!(found.values().take(8).all(|generations| *generations == [1]), "{found:?}");
    first.extend(forwards.map(|event| event.expect("readable")));
    last.extend(backwards.map(|event| event.expect("readable")));
    last.reverse();
    of_stream.extend(stream.map(|event| event.expect("readable")));
    assert!(first == events && last == events);
    assert!(of_stream.iter().eq(events.iter().filter(|event| event.aggregate_id() == "a-3")));
    assert_eq!(store.compress().expect("nothing is left to do").segments, 0);
}

#[test]
fn a_backup_that_is_under_way_keeps_its_files_and_they_are_removed_behind_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, target) = (directory.path().join("store"), directory.path().join("copy"));
    let store = OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10).compression(Compress::Never).open(&source).expect("it opens");
    append(&store, 200);
    let events = all(&store);
    let mut compressed = 0;
    let report = backup(&store, &target, |_| {
        compressed += store.compress().expect("compressed").segments;
        let found = generations_in(&source);
        assert!(found.values().take(5).all(|generations| *generations == [0, 1]), "{found:?}");
        ControlFlow::Continue(())
    });
    assert!(report.expect("backed up").complete && compressed > 5);
    wait_until("they are removed", || generations_in(&source).values().all(|generations| generations.len() == 1));
    assert_eq!(all(&store), events);
    store.close().wait().expect("closed");
    let copy = options().open(&target).expect("it opens");
    assert_eq!(all(&copy), events);
    assert!(generations_in(&target).values().all(|generations| *generations == [0]), "it is of what the manifest named when it began");
}

#[test]
fn what_is_not_worth_it_is_tried_once_also_by_later_openings() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage, options());
    append_noise(&store, 12);
    let tried = store.compress().expect("tried");
    assert!(tried.segments == 0 && tried.left >= 2, "{tried:?}");
    let events = all(&store);
    store.close().wait().expect("closed");
    let storage = storage.process_kill();
    storage.inject(Fault::on(OperationKind::Create).of(".g1.").for_good());
    let store = open(&storage, options());
    assert_eq!(store.compress().expect("nothing is tried again").left, tried.left);
    assert_eq!(all(&store), events);
    append_noise(&store, 6);
    assert!(store.compress().is_err(), "what has been sealed since is tried");
    store.close().wait().expect("closed");
    storage.mend();
    let closed = eventuali::compress_storage(&storage).expect("tried");
    assert!(closed.segments == 0 && closed.left > tried.left, "{closed:?}");
}

/// It told of a segment that was gone where another generation had taken its place.
#[test]
fn verifying_beside_a_store_that_compresses_finds_nothing() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage, options());
    append(&store, 200);
    let mut compressed = 0;
    let found = verify_storage(&storage, |_| {
        compressed += store.compress().expect("compressed").segments;
        ControlFlow::Continue(())
    });
    let found = found.expect("read");
    assert!(compressed > 5 && found.is_sound() && found.events == 200, "{compressed}: {:?}", found.damage);
}

/// The store is sound, has just these events, and takes appends.
#[track_caller]
fn is_whole(storage: &FaultyStorage, events: &[Event], what: &str) {
    let store = open(storage, options());
    assert!(all(&store) == events, "{what}");
    append(&store, 1);
    store.close().wait().expect("closed");
    let found = verify_storage(storage, |_| ControlFlow::Continue(())).expect("read");
    assert!(found.is_sound(), "{what}: {:?}", found.damage);
}

#[test]
fn a_manifest_that_cannot_be_replaced_leaves_the_generations_before_in_force_and_the_writer_at_work() {
    for (fault, what) in [
        (Fault::on(OperationKind::Create).of("MANIFEST"), "preparing it"),
        (Fault::on(OperationKind::Sync).of("MANIFEST"), "syncing it"),
        (Fault::on(OperationKind::Write).of("MANIFEST").with(Failure::NoSpace), "writing it"),
        (Fault::on(OperationKind::Rename).of("MANIFEST"), "renaming it"),
        (Fault::on(OperationKind::SyncDirectory).after(1), "syncing its name"),
        (Fault::on(OperationKind::Rename).of(".g1."), "naming the segment"),
        (Fault::on(OperationKind::SyncDirectory), "syncing the segment's name"),
        (Fault::on(OperationKind::Read).of(".g0."), "reading the segment"),
    ] {
        for power_cut_at in 0..3 {
            let storage = FaultyStorage::new(power_cut_at);
            let store = open(&storage, options().durability(Durability::Sync));
            append(&store, 100);
            storage.inject(fault.clone());
            let refused = store.compress();
            let is_full = matches!(refused, Err(Error::StorageFull { .. }));
            assert!(if what == "writing it" { is_full } else { matches!(refused, Err(Error::Io { .. })) }, "{what}: {refused:?}");
            storage.mend();
            append(&store, 10);
            let mut events = all(&store);
            if power_cut_at > 0 {
                assert!(store.compress().expect("the disk is mended").segments > 1, "{what}");
                if power_cut_at > 1 {
                    append(&store, 60);
                    events = all(&store);
                }
                let found = generations(storage.files().into_keys());
                assert!(found.values().all(|generations| generations.len() == 1), "{what}: {found:?}");
            }
            is_whole(&storage.power_cut(), &events, what);
        }
    }
}

#[test]
fn what_an_end_of_the_process_leaves_is_removed_by_the_next_maintenance_step() {
    let prepared = FaultyStorage::new(0);
    let store = open(&prepared, options().durability(Durability::Sync));
    append(&store, 60);
    let events = all(&store);
    store.close().wait().expect("closed");
    let files = prepared.files();
    let mut left_over = 0;
    // Every third, where time is short: by turns killed and without power.
    let step = if std::env::var_os("EVENTUALI_SOAK").is_some() { 1 } else { 3 };
    for operation in (0..).step_by(step) {
        let storage = FaultyStorage::holding(&files, operation);
        let store = open(&storage, options());
        storage.stop_at(storage.operations() + operation);
        let done = store.compress().is_ok();
        let storage = if operation % 2 == 0 { storage.process_kill() } else { storage.power_cut() };
        let what = format!("operation {operation}");
        is_whole(&FaultyStorage::holding(&storage.files(), 0), &events, &what);
        let found = generations(storage.files().into_keys());
        left_over += usize::from(found.values().any(|generations| generations.len() > 1));
        let store = open(&storage, compressing(0));
        append(&store, 30);
        store.close().wait().expect("closed");
        let found = generations(storage.files().into_keys());
        let last = *found.keys().last().expect("segments");
        let expected = |sequence: u64| if sequence < last { [1] } else { [0] };
        assert!(found.iter().all(|(sequence, generations)| *generations == expected(*sequence)), "{what}: {found:?}");
        assert!(storage.files().keys().all(|name| !name.contains(".tmp")), "{what}");
        if done {
            break;
        }
    }
    assert!(left_over > 5, "{left_over} ends have left something");
}

/// What lies in the place of a directory that was moved is another store's.
#[test]
fn a_store_that_was_moved_rewrites_nothing_in_the_one_in_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let (here, there) = (directory.path().join("here"), directory.path().join("there"));
    let store = options().open(&here).expect("it opens");
    append(&store, 100);
    fs::rename(&here, &there).expect("moved");
    let other = options().open(&here).expect("another one in its place");
    append(&other, 100);
    let files = || {
        let mut names: Vec<_> = fs::read_dir(&here).expect("readable").map(|entry| entry.expect("readable").file_name()).collect();
        names.sort_unstable();
        names
    };
    let before = files();
    let refused = store.compress().expect_err("the path leads to another store").to_string();
    assert!(refused.contains("moved or replaced"), "{refused}");
    assert_eq!(files(), before);
    assert_eq!(all(&store).len(), 100);
    assert!(other.compress().expect("compressed").segments > 0);
}

#[test]
fn a_store_that_is_closed_or_only_read_rewrites_nothing() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage, options());
    append(&store, 60);
    store.close().wait().expect("closed");
    assert!(matches!(store.compress(), Err(Error::Closed)));
    storage.rot("000000001.g0.seg", 40_000);
    let files = storage.files();
    let store = open(&storage, compressing(0).read_up_to_damage());
    assert_eq!(store.compress().expect("there is nothing to do").segments, 0);
    store.close().wait().expect("closed");
    assert_eq!(storage.files(), files);
}
