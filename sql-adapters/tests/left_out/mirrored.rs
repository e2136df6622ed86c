//! Mirrors that follow a source in which aggregates are deleted, limited and scavenged all the while.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::maintenance::Extent;
use eventuali::storage::MemoryStorage;
use eventuali::{Durability, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, Position, ReadStream, Retention};
use eventuali_sql::Mirror;

use super::compared::{assert_alike, batch, key};
use super::targets::{KINDS, Target};

const DEADLINE: Duration = Duration::from_mins(1);

fn source(durability: Durability) -> LogStore {
    OpenOptions::new().durability(durability).segment_bytes(64 << 10).open_storage(Arc::new(MemoryStorage::new())).expect("a store")
}

fn append(source: &LogStore, stream: usize, events: usize, bytes: usize) {
    let events = (0..events).map(|_| NewEvent::new("Happened", EventData::Protobuf(vec![7; bytes]))).collect();
    source.append(batch(stream, ExpectedVersion::Any, events)).wait().expect("stored");
}

#[track_caller]
fn wait_for(mirror: &Mirror, position: Position) {
    let start = Instant::now();
    while mirror.status().position < position {
        assert!(mirror.is_running() && start.elapsed() < DEADLINE, "{:?}", mirror.status());
        thread::yield_now();
    }
}

/// What is read of an aggregate while it is mirrored is what follows one another, or the read is refused.
fn assert_whole(target: &dyn EventStore) {
    for stream in 0..3 {
        let query = ReadStream { tenant: key(stream).tenant.to_owned(), ..ReadStream::of(key(stream).aggregate_id) };
        let read: Result<Vec<u64>, _> = target.read(query).map(|event| event.map(|event| event.version().0)).collect();
        if let Ok(versions) = read {
            assert!(versions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{versions:?}");
        }
    }
}

#[test]
fn a_mirror_follows_deletions_limits_and_scavenging() {
    for kind in KINDS {
        let source = source(Durability::Memory);
        let mut target = Target::new(kind);
        for round in 0..4 {
            let mirror = Mirror::start(Arc::new(source.clone()), target.store.clone()).expect("it starts");
            for turn in 0..60 {
                append(&source, 0, 2, 3000);
                append(&source, 1, 1, 500);
                append(&source, 2, 3, 2000);
                match turn % 12 {
                    2 if target.honours_limits() => {
                        drop(source.set_retention(key(0), Retention::new().max_count(1 + round)).wait().expect("limited"));
                    }
                    2 => {
                        let version = source.stream(key(0)).wait().expect("known").expect("events").version;
                        drop(source.set_retention(key(0), Retention::new().truncate_before(version)).wait().expect("limited"));
                    }
                    5 => drop(source.delete(key(2), ExpectedVersion::Any).wait().expect("deleted")),
                    8 => assert!(source.scavenge(Extent::Everything, |_| ControlFlow::Continue(())).expect("scavenged").complete),
                    11 => wait_for(&mirror, source.head().wait().expect("a head")),
                    _ => assert_whole(target.store.as_dyn()),
                }
            }
            wait_for(&mirror, source.head().wait().expect("a head"));
            mirror.stop().expect("it was in order");
            assert_alike(&source, target.store.as_dyn());
            // What is done while nobody follows is caught up with.
            append(&source, 0, 3, 3000);
            append(&source, 2, 3, 3000);
            source.delete(key(2), ExpectedVersion::Any).wait().expect("deleted");
            append(&source, 2, 1, 3000);
            if round % 2 == 0 {
                source.scavenge(Extent::Everything, |_| ControlFlow::Continue(())).expect("scavenged");
            }
            target.reopen();
        }
        let mirror = Mirror::start(Arc::new(source.clone()), target.store.clone()).expect("it starts");
        wait_for(&mirror, source.head().wait().expect("a head"));
        mirror.stop().expect("it was in order");
        assert_alike(&source, target.store.as_dyn());
        target.check();
    }
}

#[test]
fn a_target_whose_every_event_was_deleted_since_goes_on() {
    for kind in KINDS {
        let (source, target) = (source(Durability::Memory), Target::new(kind));
        append(&source, 0, 3, 10);
        super::random::moved(&source, &target.store);
        source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
        source.scavenge(Extent::Everything, |_| ControlFlow::Continue(())).expect("scavenged");
        super::random::moved(&source, &target.store);
        append(&source, 0, 1, 10);
        super::random::moved(&source, &target.store);
    }
}

#[test]
fn a_target_with_other_events_is_refused_also_where_the_source_leaves_out_all_it_had_there() {
    for kind in KINDS {
        let (source, target) = (source(Durability::Memory), Target::new(kind));
        append(&source, 0, 3, 10);
        source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
        let other = NewEvent::json("Happened", &1).expect("JSON");
        target.store.as_dyn().append(batch(1, ExpectedVersion::Any, vec![other])).wait().expect("stored");
        let refused = eventuali_sql::export(&source, &target.store, |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(eventuali::Error::Diverged { .. })), "{kind}: {refused:?}");
        assert_eq!(target.store.as_dyn().head().wait().expect("a head"), Position(1));
    }
}

#[test]
fn an_id_that_was_given_again_is_moved_again() {
    for kind in KINDS {
        let (source, target) = (source(Durability::Memory), Target::new(kind));
        let event = NewEvent::json("Happened", &1).expect("JSON");
        for version in 1..=2 {
            let receipts = source.append(batch(0, ExpectedVersion::Any, vec![event.clone()])).wait().expect("stored");
            assert_eq!(receipts[0].version.0, version);
            super::random::moved(&source, &target.store);
            source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
            source.scavenge(Extent::Everything, |_| ControlFlow::Continue(())).expect("scavenged");
        }
        super::random::moved(&source, &target.store);
    }
}

/// A deletion that a power failure could take back leaves nothing out of a copy: it is made durable first.
#[test]
fn a_mirror_has_a_deletion_made_durable_before_it_leaves_out_what_was_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = OpenOptions::new().durability(Durability::Os).open(folder.path().join("source")).expect("a store");
    let target = Target::new("embedded");
    append(&source, 0, 3, 10);
    append(&source, 1, 3, 10);
    source.sync().wait().expect("synced");
    source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
    assert_eq!(source.durable_position().wait().expect("known"), Position(6));
    let mirror = Mirror::start(Arc::new(source.clone()), target.store.clone()).expect("it starts");
    wait_for(&mirror, Position(7));
    mirror.stop().expect("it was in order");
    assert_eq!(source.durable_position().wait().expect("known"), Position(7));
    assert_alike(&source, target.store.as_dyn());
}
