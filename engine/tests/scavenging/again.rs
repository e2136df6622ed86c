//! Scavenging again and again: what it leaves behind, what it looks at, and what it remembers.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use eventuali::maintenance::{Extent, ScavengeReport, backup, fork, scavenge, scavenge_with, verify};
use eventuali::{
    AppendBatch, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, Position, ReadStream, Retention, Timestamp,
    rebuild_manifest,
};

fn go_on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn worthwhile(store: &LogStore) -> ScavengeReport {
    scavenge_with(store, Extent::Worthwhile, go_on).expect("it is scavenged")
}

fn append(store: &LogStore, id: &str, bytes: usize) {
    let event = NewEvent::new("Told", EventData::Protobuf(vec![7; bytes]));
    store.append(AppendBatch::one(id, "Owner", ExpectedVersion::Any, vec![event])).wait().expect("stored");
}

fn delete(store: &LogStore, id: &str) {
    store.delete(id.into(), ExpectedVersion::Exists).wait().expect("deleted");
}

fn versions(store: &LogStore, id: &str) -> Vec<u64> {
    store.read(ReadStream::of(id)).map(|event| event.expect("readable").version().0).collect()
}

/// The files of a store, without folders, and their bytes.
fn disk_use(path: &Path) -> (usize, u64) {
    let files: Vec<_> = fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").metadata().expect("there")).collect();
    (files.len(), files.iter().map(fs::Metadata::len).sum())
}

fn is_sound(path: &Path) {
    let found = verify(path, go_on).expect("verified");
    assert!(found.is_sound(), "{:?}", found.damage);
}

#[test]
fn many_rounds_of_little_leave_few_files_where_only_what_is_worthwhile_is_given_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = LogStore::open(directory.path()).expect("the store opens");
    let rounds = if std::env::var_os("EVENTUALI_SOAK").is_some() { 3000 } else { 300 };
    for round in 0..rounds {
        let id = format!("owner-{round}");
        (0..3).for_each(|_| append(&store, &id, 500));
        append(&store, "stays", 100);
        delete(&store, &id);
        let report = worthwhile(&store);
        assert_eq!((report.events, report.left, report.complete), (0, 3 * (round + 1), true));
    }
    let (files, bytes) = disk_use(directory.path());
    println!("{files} files, {bytes} bytes after {rounds} rounds");
    assert!(files <= 5, "{files}");
    // Each round has appended about 2.4 kB.
    assert!(bytes < 4_000 * rounds + (4 << 20), "{bytes}");
    // Whoever has to be certain says so.
    let report = scavenge(&store, go_on).expect("it is scavenged");
    assert_eq!((report.events, report.left, report.segments), (3 * rounds, 0, 1));
    assert_eq!(worthwhile(&store), ScavengeReport::default().completed());
    store.close().wait().expect("closed");
    is_sound(directory.path());
}

trait Completed {
    fn completed(self) -> Self;
}

impl Completed for ScavengeReport {
    fn completed(mut self) -> Self {
        self.complete = true;
        self
    }
}

#[test]
fn a_long_segment_is_sealed_when_a_quarter_of_it_can_be_given_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = LogStore::open(directory.path()).expect("the store opens");
    for number in 0..100 {
        append(&store, &format!("owner-{number}"), 50_000);
    }
    (0..24).for_each(|number| delete(&store, &format!("owner-{number}")));
    assert_eq!((worthwhile(&store).left, worthwhile(&store).segments), (24, 0));
    (24..28).for_each(|number| delete(&store, &format!("owner-{number}")));
    let report = worthwhile(&store);
    assert_eq!((report.events, report.left, report.segments), (28, 0, 1));
    // The same of a short one is left.
    append(&store, "short", 1_000_000);
    delete(&store, "short");
    assert_eq!((worthwhile(&store).left, worthwhile(&store).events), (1, 0));
    // It goes when the segment was sealed, also by a process that does not know of it.
    (0..80).for_each(|_| append(&store, "long", 50_000));
    store.close().wait().expect("closed");
    let store = LogStore::open(directory.path()).expect("the store opens");
    assert_eq!((worthwhile(&store).events, worthwhile(&store).events), (1, 0));
    store.close().wait().expect("closed");
    is_sound(directory.path());
}

#[test]
fn limits_go_on_taking_effect_after_what_they_left_out_was_taken_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = || OpenOptions::new().segment_bytes(64 << 10).open(directory.path()).expect("the store opens");
    let mut store = open();
    let limits = [
        Retention::new().max_count(3),
        Retention::new().truncate_before(eventuali::AggregateVersion(8)),
        Retention::new().max_age(Duration::from_hours(1)),
    ];
    let ids = ["counted", "truncated", "aged"];
    for (id, limit) in ids.into_iter().zip(limits) {
        let old = NewEvent { timestamp: Some(Timestamp(0)), ..NewEvent::new("Told", EventData::Protobuf(vec![1; 10])) };
        store.append(AppendBatch::one(id, "Owner", ExpectedVersion::Any, vec![old])).wait().expect("stored");
        store.set_retention(id.into(), limit).wait().expect("limited");
    }
    let mut taken_out = 0;
    for round in 0_u64..10 {
        for id in ids {
            append(&store, id, 10);
        }
        taken_out += if round % 3 == 0 { scavenge(&store, go_on).expect("it is scavenged").events } else { worthwhile(&store).events };
        if round % 4 == 3 {
            drop(store);
            store = open();
        }
    }
    taken_out += scavenge(&store, go_on).expect("it is scavenged").events;
    // 11 events each, of which 3, 4 and 10 are left.
    assert_eq!(ids.map(|id| versions(&store, id).len()), [3, 4, 10]);
    assert_eq!(taken_out, 8 + 7 + 1);
    assert_eq!(worthwhile(&store).events, 0);
    drop(store);
    is_sound(directory.path());
}

#[test]
fn what_was_carried_out_is_known_to_copies_and_not_where_the_manifest_was_rebuilt() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let options = || OpenOptions::new().segment_bytes(64 << 10);
    let store = options().open(path("store")).expect("the store opens");
    (0..200).for_each(|number| append(&store, &format!("owner-{number}"), 900));
    backup(&store, path("before"), go_on).expect("backed up");
    (0..50).for_each(|number| delete(&store, &format!("owner-{number}")));
    backup(&store, path("deleted"), go_on).expect("backed up");
    assert_eq!(scavenge(&store, go_on).expect("it is scavenged").events, 50);
    backup(&store, path("after"), go_on).expect("backed up");
    fork(&store, path("fork"), None).expect("forked");
    fork(&store, path("early"), Some(Position(120))).expect("forked");
    store.close().wait().expect("closed");
    let scavenged = |name: &str, deleted: usize| {
        let store = options().open(path(name)).expect("the store opens");
        let events = scavenge(&store, go_on).expect("it is scavenged").events;
        append(&store, &format!("owner-{deleted}"), 900);
        delete(&store, &format!("owner-{deleted}"));
        let more = scavenge(&store, go_on).expect("it is scavenged").events;
        store.close().wait().expect("closed");
        is_sound(&path(name));
        (events, more)
    };
    // What is in a copy that was made before is found there.
    assert_eq!(scavenged("before", 60), (0, 2));
    assert_eq!(scavenged("deleted", 60), (50, 2));
    assert_eq!(scavenged("after", 60), (0, 2));
    assert_eq!(scavenged("fork", 60), (0, 2));
    // Its positions from 121 on are given to others than those of the store that it was forked from.
    assert_eq!(scavenged("early", 60), (0, 2));
    fs::write(path("store").join("MANIFEST"), b"damaged").expect("written");
    rebuild_manifest(path("store")).expect("rebuilt");
    assert_eq!(scavenged("store", 60), (0, 2));
}

/// Positions that were given up are given again: a deletion at one of them is a new one.
#[test]
fn a_deletion_at_a_position_that_was_given_up_is_carried_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = || OpenOptions::new().segment_bytes(64 << 10);
    let store = options().open(directory.path()).expect("the store opens");
    (0..100).for_each(|number| append(&store, &format!("owner-{number}"), 3000));
    (0..50).for_each(|number| delete(&store, &format!("owner-{number}")));
    assert_eq!(scavenge(&store, go_on).expect("it is scavenged").events, 50);
    store.close().wait().expect("closed");
    let mut segments: Vec<_> = fs::read_dir(directory.path()).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    // The segment with most of the deletions is lost, with all behind it.
    let first = segments.len().saturating_sub(2);
    segments[first..].iter().try_for_each(fs::remove_file).expect("removed");
    let Err(eventuali::Error::Corruption(damage)) = options().open(directory.path()) else { panic!("it is damaged") };
    let last = damage.last_good_position;
    assert!((51..100).contains(&last.0), "{last}");
    let store = options().accept_loss_after(last).open(directory.path()).expect("the store opens");
    let next = (0..100).rev().map(|number| format!("owner-{number}")).find(|id| !versions(&store, id).is_empty()).expect("one is left");
    delete(&store, &next);
    assert_eq!(scavenge(&store, go_on).expect("it is scavenged").events, 1);
    store.close().wait().expect("closed");
    let store = options().open(directory.path()).expect("the store opens");
    (0..60).for_each(|_| append(&store, "more", 10));
    assert_eq!(scavenge(&store, go_on).expect("it is scavenged").events, 0);
}
