//! What scavenging gives back, and what it leaves.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventuali::maintenance::{ScavengeReport, backup, salvage, scavenge, verify};
use eventuali::{
    AppendBatch, Error, Event, EventData, EventStore, ExpectedVersion, Follow, LogStore, NewEvent, OpenOptions, ReadAll, ReadStream, Result,
    Retention, Timestamp, compress,
};

fn open(path: &Path) -> LogStore {
    OpenOptions::new().segment_bytes(64 << 10).open(path).expect("the store opens")
}

fn go_on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn scavenged(store: &LogStore) -> ScavengeReport {
    let report = scavenge(store, go_on).expect("it is scavenged");
    assert!(report.complete);
    report
}

/// Bytes that cannot be compressed, and that tell whose they are.
fn secret(owner: usize, number: usize, bytes: usize) -> Vec<u8> {
    let mut state = (owner * 7919 + number + 1) as u64;
    let mut text = format!("secret-of-{owner}-{number}-").into_bytes();
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(format!("{state:016x}").as_bytes());
    }
    text
}

/// Appends one event to each of so many aggregates, several times.
fn fill(store: &LogStore, aggregates: usize, rounds: usize, bytes: usize) {
    for round in 0..rounds {
        for owner in 0..aggregates {
            let event = NewEvent::new("Told", EventData::Protobuf(secret(owner, round, bytes)));
            store.append(AppendBatch::one(format!("owner-{owner}"), "Owner", ExpectedVersion::Any, vec![event])).wait().expect("stored");
        }
    }
}

fn delete(store: &LogStore, owner: usize) {
    store.delete(format!("owner-{owner}").as_str().into(), ExpectedVersion::Exists).wait().expect("deleted");
}

fn all(store: &LogStore) -> Vec<Event> {
    store.read_all(ReadAll::new().include_system()).collect::<Result<_>>().expect("readable")
}

fn versions(store: &LogStore, aggregate_id: &str) -> Vec<u64> {
    store.read(ReadStream::of(aggregate_id)).map(|event| event.expect("readable").version().0).collect()
}

/// Every file below a directory, but for folders.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            // What is unfinished may be finished meanwhile.
            if let Ok(bytes) = fs::read(&path) {
                found.insert(path.display().to_string(), bytes);
            }
        }
    }
    found
}

/// In which files the bytes are, as they are or in compressed blocks that a reader gives.
fn found_in(directory: &Path, wanted: &[u8]) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    files(directory).into_iter().filter(|(_, bytes)| holds(bytes)).map(|(name, _)| name).collect()
}

fn bytes_of_segments(directory: &Path) -> u64 {
    let is_segment = |name: &str| Path::new(name).extension().is_some_and(|extension| extension == "seg");
    files(directory).iter().filter(|(name, _)| is_segment(name)).map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn half_of_the_aggregates_deleted_is_half_of_the_space() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 20, 30, 1500);
    let before = bytes_of_segments(directory.path());
    (0..10).for_each(|owner| delete(&store, owner));
    let live = all(&store);
    let report = scavenged(&store);
    assert_eq!(report.events, 300);
    assert_eq!(all(&store), live);
    let after = bytes_of_segments(directory.path());
    println!("{before} bytes before, {after} after, of which {report:?}");
    // Hexadecimal digits are compressed to a half beside.
    assert!(after < before / 2, "{after} of {before}");
    assert!(report.bytes_after < report.bytes_before / 2, "{report:?}");
    store.close().wait().expect("closed");
    let found = verify(directory.path(), go_on).expect("verified");
    assert!(found.is_sound(), "{:?}", found.damage);
    assert_eq!((found.events, found.removed), (310, 300));
    assert_eq!(all(&open(directory.path())), live);
}

#[test]
fn what_was_deleted_is_in_no_file_any_more() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 4, 60, 700);
    // Compressed segments are scavenged as well; what is in the segment that is written to is in a file, too.
    store.compress().expect("compressed");
    fill(&store, 4, 1, 40);
    let secrets: Vec<Vec<u8>> = (0..60).map(|round| secret(1, round, 700)).chain([secret(1, 0, 40)]).collect();
    assert!(!found_in(directory.path(), &secrets[60]).is_empty());
    delete(&store, 1);
    scavenged(&store);
    assert!(versions(&store, "owner-1").is_empty());
    store.close().wait().expect("closed");
    for secret in &secrets {
        assert_eq!(found_in(directory.path(), &secret[..30.min(secret.len())]), Vec::<String>::new());
    }
    // Nor is it in what is decompressed: salvage reads every record that there is, whatever was said of it.
    let copy = tempfile::tempdir().expect("a temporary directory");
    let target = copy.path().join("salvaged");
    let report = salvage(directory.path(), &target, go_on).expect("salvaged");
    assert_eq!((report.events, report.removed, report.lost.len(), report.streams.len()), (184, 61, 0, 0));
    for secret in &secrets {
        assert_eq!(found_in(&target, &secret[..30.min(secret.len())]), Vec::<String>::new());
    }
    assert_eq!(all(&open(&target)), all(&open(directory.path())));
}

#[test]
fn nothing_is_written_where_nothing_is_to_be_taken_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 6, 20, 900);
    assert_eq!((scavenged(&store).segments, scavenged(&store).events), (0, 0));
    delete(&store, 2);
    store.set_retention("owner-3".into(), Retention::new().max_count(5)).wait().expect("limited");
    let first = scavenged(&store);
    assert_eq!(first.events, 35);
    assert!(first.segments > 1);
    let segments = |path: &Path| files(path).into_iter().filter(|(name, _)| name.ends_with("seg") || name.ends_with("MANIFEST")).collect::<Vec<_>>();
    let before = segments(directory.path());
    assert_eq!(scavenged(&store), nothing());
    assert!(segments(directory.path()) == before, "files were rewritten");
    // What comes out next is all that is rewritten.
    fill(&store, 6, 2, 900);
    assert_eq!(scavenged(&store).events, 2);
    assert_eq!(versions(&store, "owner-3"), [18, 19, 20, 21, 22]);
    drop(store);
    let store = open(directory.path());
    assert_eq!(scavenged(&store), nothing());
}

fn nothing() -> ScavengeReport {
    scavenged(&LogStore::memory().expect("a store"))
}

#[test]
fn a_deleted_aggregate_goes_on_with_nothing_but_its_tombstone_left() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for indexes_are_lost in [false, true] {
        let path = directory.path().join(format!("store-{indexes_are_lost}"));
        let store = open(&path);
        fill(&store, 3, 40, 900);
        delete(&store, 0);
        scavenged(&store);
        store.close().wait().expect("closed");
        if indexes_are_lost {
            let indexes: Vec<String> = files(&path).into_keys().filter(|name| name.ends_with("idx") || name.ends_with("run")).collect();
            assert!(!indexes.is_empty());
            indexes.iter().try_for_each(fs::remove_file).expect("removed");
        }
        let store = open(&path);
        let again = |store: &LogStore, aggregate_type: &str, expected| {
            let event = NewEvent::new("Told", EventData::Protobuf(vec![1]));
            store.append(AppendBatch::one("owner-0", aggregate_type, expected, vec![event])).wait()
        };
        assert!(matches!(again(&store, "Owner", ExpectedVersion::Exact(eventuali::AggregateVersion(0))), Err(Error::Conflict { deleted: true, .. })));
        assert!(matches!(again(&store, "Other", ExpectedVersion::NoStream), Err(Error::AggregateType { .. })));
        assert_eq!(again(&store, "Owner", ExpectedVersion::NoStream).expect("stored")[0].version.0, 41);
        assert_eq!(versions(&store, "owner-0"), [41]);
        store.close().wait().expect("closed");
        let store = open(&path);
        assert_eq!(versions(&store, "owner-0"), [41]);
        assert_eq!(again(&store, "Owner", ExpectedVersion::Any).expect("stored")[0].version.0, 42);
        drop(store);
        let found = verify(&path, go_on).expect("verified");
        assert!(found.is_sound(), "{:?}", found.damage);
    }
}

#[test]
fn an_index_made_from_a_scavenged_segment_finds_what_is_left() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 5, 40, 900);
    delete(&store, 1);
    store.set_retention("owner-2".into(), Retention::new().max_count(7)).wait().expect("limited");
    scavenged(&store);
    let picture = |store: &LogStore| {
        let streams: Vec<_> = (0..5).map(|owner| versions(store, &format!("owner-{owner}"))).collect();
        let backwards: Vec<u64> = store.read_all(ReadAll::new().backwards()).map(|event| event.expect("readable").position().0).collect();
        let few: Vec<u64> =
            store.read_all(ReadAll::new().event_types(["Told"]).limit(50)).map(|event| event.expect("readable").position().0).collect();
        (all(store), streams, backwards, few)
    };
    let before = picture(&store);
    assert_eq!(before.1[2], (34..=40).collect::<Vec<_>>());
    store.close().wait().expect("closed");
    for _ in 0..2 {
        for name in files(directory.path()).into_keys().filter(|name| name.ends_with("idx") || name.ends_with("run")) {
            fs::remove_file(name).expect("removed");
        }
        let store = open(directory.path());
        assert_eq!(picture(&store), before);
        // They are made anew in the background.
        let deadline = std::time::Instant::now() + Duration::from_mins(1);
        let count = |ending: &str| files(directory.path()).into_keys().filter(|name| name.ends_with(ending)).count();
        while count("idx") + 1 < count("seg") && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(picture(&store), before);
        store.close().wait().expect("closed");
        let found = verify(directory.path(), go_on).expect("verified");
        assert!(found.is_sound(), "{:?}", found.damage);
        assert_eq!(picture(&open(directory.path())), before);
    }
}

#[test]
fn readers_see_each_live_event_once_and_in_order_meanwhile() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 8, 60, 900);
    let done = AtomicBool::new(false);
    // Nobody deletes these.
    let live: Vec<u64> = positions_of(&store, 4..8);
    std::thread::scope(|scope| {
        for backwards in [false, true] {
            let (store, live, done) = (&store, &live, &done);
            scope.spawn(move || {
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) || rounds < 2 {
                    let query = if backwards { ReadAll::new().backwards() } else { ReadAll::new() };
                    let mut read: Vec<(u64, String)> = Vec::new();
                    for event in store.read_all(query.before(eventuali::Position(481))) {
                        let event = event.expect("readable");
                        read.push((event.position().0, event.aggregate_id().to_owned()));
                    }
                    assert!(if backwards {
                        read.iter().is_sorted_by(|one, next| one.0 > next.0)
                    } else {
                        read.iter().is_sorted_by(|one, next| one.0 < next.0)
                    });
                    let mut kept: Vec<u64> = read.into_iter().filter(|(_, id)| id.as_str() >= "owner-4").map(|(position, _)| position).collect();
                    kept.sort_unstable();
                    assert_eq!(&kept, live);
                    for owner in 0..8 {
                        let read: Vec<u64> = versions(store, &format!("owner-{owner}"));
                        assert!(read.is_sorted() && (owner < 4 || read == (1..=60).collect::<Vec<_>>()), "{read:?}");
                    }
                    rounds += 1;
                }
            });
        }
        for owner in 0..4 {
            store.set_retention(format!("owner-{owner}").as_str().into(), Retention::new().max_count(10)).wait().expect("limited");
            scavenged(&store);
            delete(&store, owner);
            scavenged(&store);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(positions_of(&store, 0..8), live);
}

fn positions_of(store: &LogStore, owners: std::ops::Range<usize>) -> Vec<u64> {
    let owners: Vec<String> = owners.map(|owner| format!("owner-{owner}")).collect();
    let events = store.read_all(ReadAll::new()).map(|event| event.expect("readable"));
    events.filter(|event| owners.iter().any(|owner| owner == event.aggregate_id())).map(|event| event.position().0).collect()
}

#[test]
fn a_reader_that_began_before_a_deletion_goes_on_behind_what_was_taken_out() {
    for backwards in [false, true] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = open(directory.path());
        fill(&store, 2, 3000, 100);
        let query = |id: &str| if backwards { ReadStream::of(id).backwards() } else { ReadStream::of(id) };
        let mut of_deleted = store.read(query("owner-0"));
        let mut of_limited = store.read(query("owner-1"));
        let mut of_all = store.read_all(if backwards { ReadAll::new().backwards() } else { ReadAll::new() });
        let begun = [&mut of_deleted, &mut of_limited, &mut of_all].map(|reader| reader.next().expect("an event").expect("readable").version().0);
        delete(&store, 0);
        store.set_retention("owner-1".into(), Retention::new().max_count(500)).wait().expect("limited");
        assert_eq!(scavenged(&store).events, 5500);
        // What a reader has read already it delivers; then what is left.
        let rest = |reader: eventuali::EventReader| -> Vec<u64> { reader.map(|event| event.expect("readable").version().0).collect() };
        let (deleted, limited, every) = (rest(of_deleted), rest(of_limited), rest(of_all));
        assert!(deleted.len() < 1100, "{}", deleted.len());
        let mut kept: Vec<u64> = limited.iter().chain([&begun[1]]).copied().filter(|version| *version > 2500).collect();
        kept.sort_unstable();
        assert_eq!(kept, (2501..=3000).collect::<Vec<_>>());
        assert!(every.len() < 2600 && every.len() >= 499, "{}", every.len());
    }
}

#[test]
fn scavenging_that_was_stopped_goes_on_when_it_is_called_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 4, 120, 900);
    delete(&store, 0);
    let mut told = Vec::new();
    let stop_after = |count: usize| {
        let mut calls = 0;
        move |_: &eventuali::Progress| {
            calls += 1;
            if calls > count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    };
    let none = scavenge(&store, stop_after(0)).expect("it is stopped");
    assert_eq!((none.events, none.complete), (0, false));
    let part = scavenge(&store, stop_after(2)).expect("it is stopped");
    assert!(part.events > 0 && part.segments == 2 && !part.complete, "{part:?}");
    let rest = scavenge(&store, |progress| {
        told.push((progress.position, progress.last_position));
        ControlFlow::Continue(())
    })
    .expect("it is scavenged");
    assert_eq!(part.events + rest.events, 120);
    assert!(told.is_sorted() && told.len() > 3, "{told:?}");
    assert_eq!(told.last().map(|(position, last)| Some(*position) == *last), Some(true));
}

#[test]
fn events_that_grow_too_old_are_taken_out_by_the_next_scavenge() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let hours_ago = |hours: i64| Timestamp(Timestamp::now().0 - hours * 3_600_000_000);
    for hours in [100, 99, 98, 5, 50, 4] {
        let event = NewEvent { timestamp: Some(hours_ago(hours)), ..NewEvent::new("Told", EventData::Protobuf(vec![2; 20_000])) };
        store.append(AppendBatch::one("a", "Owner", ExpectedVersion::Any, vec![event])).wait().expect("stored");
    }
    store.set_retention("a".into(), Retention::new().max_age(Duration::from_hours(10))).wait().expect("limited");
    assert_eq!(scavenged(&store).events, 3);
    assert_eq!(versions(&store, "a"), [4, 5, 6]);
    drop(store);
    let store = open(directory.path());
    assert_eq!(versions(&store, "a"), [4, 5, 6]);
    store.set_retention("a".into(), Retention::new().max_age(Duration::ZERO)).wait().expect("limited");
    assert_eq!(scavenged(&store).events, 2);
    assert_eq!(versions(&store, "a"), [6]);
    store.set_retention("a".into(), Retention::new()).wait().expect("limited");
    assert_eq!((scavenged(&store).events, versions(&store, "a")), (0, vec![6]));
}

#[test]
fn ids_of_what_was_taken_out_are_forgotten_or_refused() {
    for indexes_are_lost in [false, true] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = open(directory.path());
        let told = |owner: usize| NewEvent::new("Told", EventData::Protobuf(secret(owner, 0, 300)));
        let exactly = ExpectedVersion::Exact(eventuali::AggregateVersion(0));
        let alone = AppendBatch::one("owner-0", "Owner", exactly, vec![told(0)]);
        let anyway = AppendBatch::one("owner-0", "Owner", ExpectedVersion::Any, vec![told(0), told(0)]);
        let both =
            AppendBatch::one("owner-0", "Owner", ExpectedVersion::Any, vec![told(0)]).and("owner-1", "Owner", ExpectedVersion::Any, vec![told(1)]);
        for batch in [&alone, &anyway, &both] {
            store.append(batch.clone()).wait().expect("stored");
        }
        fill(&store, 3, 40, 900);
        delete(&store, 0);
        scavenged(&store);
        store.close().wait().expect("closed");
        if indexes_are_lost {
            files(directory.path()).into_keys().filter(|name| name.ends_with("idx")).for_each(|name| fs::remove_file(name).expect("removed"));
        }
        let store = open(directory.path());
        // Who expects a version learns of the deletion; what is stored in part is refused; the rest is as if it were new.
        assert!(matches!(store.append(alone).wait(), Err(Error::Conflict { deleted: true, .. })));
        assert!(matches!(store.append(both).wait(), Err(Error::EventIdConflict { .. })));
        assert_eq!(store.append(anyway).wait().expect("stored")[0].version.0, 46);
    }
}

#[test]
fn backups_of_a_scavenged_store_are_sound_and_those_of_before_keep_what_they_have() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, before, after) = (directory.path().join("store"), directory.path().join("before"), directory.path().join("after"));
    let store = open(&path);
    fill(&store, 4, 40, 900);
    backup(&store, &before, go_on).expect("backed up");
    delete(&store, 0);
    scavenged(&store);
    backup(&store, &after, go_on).expect("backed up");
    let live = all(&store);
    drop(store);
    assert_eq!(all(&open(&after)), live);
    assert!(found_in(&after, b"secret-of-0-").is_empty() && found_in(&path, b"secret-of-0-").is_empty());
    assert_eq!(versions(&open(&before), "owner-0").len(), 40);
    for path in [&before, &after] {
        assert!(verify(path, go_on).expect("verified").is_sound());
    }
    // A digest that a backup has of a segment goes when that is scavenged.
    let store = open(&before);
    delete(&store, 1);
    assert_eq!(scavenged(&store).events, 40);
    drop(store);
    let found = verify(&before, go_on).expect("verified");
    assert!(found.is_sound(), "{:?}", found.damage);
    compress(&after).expect("compressed");
    assert!(verify(&after, go_on).expect("verified").is_sound());
}

#[test]
fn files_that_a_backup_reads_stay_until_it_is_done() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, copy) = (directory.path().join("store"), directory.path().join("copy"));
    let store = Arc::new(open(&path));
    fill(&store, 4, 60, 900);
    let mut is_scavenged = false;
    let report = backup(&store, &copy, |_| {
        if !std::mem::replace(&mut is_scavenged, true) {
            delete(&store, 0);
            assert_eq!(scavenged(&store).events, 60);
        }
        ControlFlow::Continue(())
    })
    .expect("backed up");
    assert_eq!(report.events, 240);
    assert!(verify(&copy, go_on).expect("verified").is_sound());
    // Then the files that nothing names go, and with them the last of what was deleted.
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !found_in(&path, b"secret-of-0-").is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", found_in(&path, b"secret-of-0-"));
        std::thread::yield_now();
    }
}

#[test]
fn a_closed_store_and_one_that_is_read_up_to_damage_are_not_scavenged() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 1, 1, 10);
    delete(&store, 0);
    store.close().wait().expect("closed");
    assert!(matches!(scavenge(&store, go_on), Err(Error::Closed)));
}

#[test]
fn a_reader_beside_the_writer_leaves_out_what_it_deletes_and_goes_on_behind_what_it_takes_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 4, 40, 900);
    let reader = || OpenOptions::new().read_only(Follow::Visible).open(directory.path()).expect("it opens");
    // One that has read before anything was deleted, one that has not read yet, and one that comes later.
    let (read, unread) = (reader(), reader());
    assert_eq!(all(&read).len(), 160);
    delete(&store, 0);
    store.set_retention("owner-1".into(), Retention::new().max_count(3)).wait().expect("limited");
    let expected = all(&store);
    for follower in [&read, &unread, &reader()] {
        assert_eq!(all(follower), expected);
        assert_eq!((versions(follower, "owner-0"), versions(follower, "owner-1")), (vec![], vec![38, 39, 40]));
        assert!(matches!(scavenge(follower, go_on), Err(Error::ReadOnly)));
    }
    assert_eq!(scavenged(&store).events, 77);
    fill(&store, 1, 2, 900);
    delete(&store, 2);
    let expected = all(&store);
    for follower in [&read, &unread, &reader()] {
        assert_eq!(all(follower), expected);
        assert_eq!((versions(follower, "owner-0"), versions(follower, "owner-2")), (vec![41, 42], vec![]));
    }
}

/// A repeated append that also looked at a stream was told that this had no version, once the stream was deleted and taken out.
#[test]
fn a_repeated_append_tells_the_version_at_which_a_stream_that_it_only_looks_at_was_deleted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    fill(&store, 1, 2, 900);
    let event = NewEvent::new("Happened", EventData::Protobuf(vec![1]));
    let batch = AppendBatch::one("other", "Thing", ExpectedVersion::NoStream, vec![event]).and("owner-0", "Owner", ExpectedVersion::Any, Vec::new());
    let first = store.append(batch.clone()).wait().expect("stored");
    delete(&store, 0);
    assert!(scavenged(&store).events > 0);
    store.close().wait().expect("closed");
    for name in fs::read_dir(directory.path()).expect("readable").map(|entry| entry.expect("readable").path()) {
        if name.extension().is_some_and(|end| end == "idx") {
            fs::remove_file(name).expect("removed");
        }
    }
    let again = open(directory.path()).append(batch).wait().expect("it is stored already");
    assert_eq!((again[0].position, again[0].version, again[1].version), (first[0].position, first[0].version, first[1].version));
}
