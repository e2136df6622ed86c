//! What is deleted or limited while others scavenge, or follow from far behind.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use eventuali::maintenance::{backup, fork, scavenge, verify};
use eventuali::{AppendBatch, Durability, EventStore, ExpectedVersion, Follow, LogStore, NewEvent, OpenOptions, ReadAll, ReadStream, Retention};

const SECRET: &[u8] = b"the secret of ada";

fn open(path: &Path) -> LogStore {
    OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10).open(path).expect("a store")
}

fn append(store: &LogStore, aggregate_id: &str, text: &str) {
    let event = NewEvent::json("Said", &text).expect("JSON");
    store.append(AppendBatch::one(aggregate_id, "Thing", ExpectedVersion::Any, vec![event])).wait().expect("stored");
}

fn delete(store: &LogStore, aggregate_id: &str) {
    store.delete(aggregate_id.into(), ExpectedVersion::Any).wait().expect("deleted");
}

fn limit(store: &LogStore, aggregate_id: &str, count: u64) {
    store.set_retention(aggregate_id.into(), Retention::new().max_count(count)).wait().expect("limited");
}

/// How many events there are of a stream, read alone and among all.
fn counts(store: &LogStore, aggregate_id: &str) -> (usize, usize) {
    let of_it = |event: eventuali::Result<eventuali::Event>| event.expect("whole").aggregate_id() == aggregate_id;
    (store.read(ReadStream::of(aggregate_id)).count(), store.read_all(ReadAll::new()).filter_map(|event| of_it(event).then_some(())).count())
}

#[test]
fn what_was_deleted_before_a_scavenge_is_taken_out_whatever_becomes_of_its_stream_meanwhile() {
    let again: [fn(&LogStore); 3] = [|_| (), |store| delete(store, "ada"), |store| limit(store, "ada", 1)];
    for then in again {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        append(&store, "ada", std::str::from_utf8(SECRET).expect("text"));
        for _ in 0..30 {
            append(&store, "bob", &"much ".repeat(1600));
        }
        delete(&store, "ada");
        let mut told = 0;
        let report = scavenge(&store, |_| {
            told += 1;
            if told == 1 {
                append(&store, "ada", "again");
                then(&store);
            }
            ControlFlow::Continue(())
        });
        assert_eq!(report.map(|report| (report.events, report.complete)).expect("scavenged"), (1, true));
        for file in fs::read_dir(directory.path()).expect("a directory") {
            let path = file.expect("a file").path();
            let holds = path.is_file() && fs::read(&path).expect("a file").windows(SECRET.len()).any(|bytes| bytes == SECRET);
            assert!(!holds, "{path:?}");
        }
        store.close().wait().expect("closed");
        assert!(verify(directory.path(), |_| ControlFlow::Continue(())).expect("readable").is_sound());
    }
}

#[test]
fn scavenging_goes_on_while_others_delete_and_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                let aggregate_id = format!("thing-{}", number % 20);
                append(&store, &aggregate_id, &"x".repeat(500));
                match number % 3 {
                    0 => delete(&store, &aggregate_id),
                    1 => limit(&store, &aggregate_id, 1 + number % 7),
                    _ => {}
                }
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let mut taken_out = 0;
        // More than one finds nothing to do at first.
        while taken_out < 300 {
            taken_out +=
                scavenge(&store, |_| ControlFlow::Continue(())).inspect_err(|_| done.store(true, Ordering::Relaxed)).expect("scavenged").events;
        }
        done.store(true, Ordering::Relaxed);
    });
    store.close().wait().expect("closed");
    assert!(verify(directory.path(), |_| ControlFlow::Continue(())).expect("readable").is_sound());
}

#[test]
fn a_reader_that_is_far_behind_leaves_out_what_was_deleted_where_it_did_not_look() {
    for looks_before in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        append(&store, "ada", "hello");
        let reader = OpenOptions::new().read_only(Follow::Visible).open(directory.path()).expect("a reader");
        if looks_before {
            assert_eq!(counts(&reader, "ada"), (1, 1));
        }
        delete(&store, "ada");
        for _ in 0..60 {
            append(&store, "bob", &"much ".repeat(1600));
        }
        assert_eq!(reader.stream("ada".into()).wait().expect("read"), None);
        assert_eq!(counts(&reader, "ada"), (0, 0));
    }
}

#[test]
fn a_reader_that_passes_over_deletions_while_it_reads_others_leaves_all_of_them_out() {
    const DELETED: u64 = 250;
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for number in 0..DELETED {
        append(&store, &format!("thing-{number}"), "hello");
    }
    let deleted = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..DELETED {
                delete(&store, &format!("thing-{number}"));
                deleted.store(number + 1, Ordering::Release);
                for _ in 0..6 {
                    append(&store, "bob", &"much ".repeat(6000));
                }
            }
        });
        let reader = OpenOptions::new().read_only(Follow::Visible).open(directory.path()).expect("a reader");
        loop {
            let count = deleted.load(Ordering::Acquire);
            for number in count.saturating_sub(20)..count {
                let shown = reader.read(ReadStream::of(format!("thing-{number}"))).count();
                assert_eq!(shown, 0, "thing-{number} of {count}");
            }
            if count == DELETED {
                break;
            }
        }
    });
}

/// What was taken out stays so where the notice of its deletion is not: reads said that the log contradicts itself.
#[test]
fn a_fork_from_before_a_deletion_has_what_was_not_taken_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory.path().join("store"));
    for number in 0..20 {
        append(&store, "ada", &format!("{number} {}", "much ".repeat(1600)));
        append(&store, "bob", "hello");
    }
    let before = store.head().wait().expect("known");
    limit(&store, "ada", 3);
    delete(&store, "bob");
    append(&store, "later", "hello");
    assert_eq!(scavenge(&store, |_| ControlFlow::Continue(())).expect("scavenged").events, 37);
    fork(&store, directory.path().join("fork"), Some(before)).expect("forked");
    let fork = open(&directory.path().join("fork"));
    let versions = |query: ReadStream| fork.read(query).map(|event| event.expect("whole").version().0).collect::<Vec<_>>();
    assert_eq!(versions(ReadStream::of("ada")), [18, 19, 20]);
    assert_eq!(versions(ReadStream::of("ada").backwards()), [20, 19, 18]);
    assert_eq!(versions(ReadStream::of("ada").limit(1)), [18]);
    assert_eq!(counts(&fork, "bob"), (0, 0));
    append(&fork, "ada", "on");
    append(&fork, "bob", "anew");
    assert_eq!((counts(&fork, "ada"), counts(&fork, "bob")), ((4, 4), (1, 1)));
    fork.close().wait().expect("closed");
    assert!(verify(directory.path().join("fork"), |_| ControlFlow::Continue(())).expect("readable").is_sound());
}

/// A backup of what another process writes has the deletions of all that was taken out of its files.
#[test]
fn a_backup_through_a_reader_goes_as_far_as_what_was_deleted_from_its_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = OpenOptions::new().segment_bytes(64 << 10).open(directory.path().join("store")).expect("a store");
    for number in 0..120 {
        append(&store, &format!("thing-{}", number % 6), &"much ".repeat(1000));
    }
    let reader = OpenOptions::new().read_only(Follow::Visible).open(directory.path().join("store")).expect("a reader");
    let mut deleted = false;
    let target = directory.path().join("copy");
    let report = backup(&reader, &target, |_| {
        if !deleted {
            deleted = true;
            limit(&store, "thing-1", 2);
            delete(&store, "thing-2");
            assert!(scavenge(&store, |_| ControlFlow::Continue(())).expect("scavenged").events > 0);
        }
        ControlFlow::Continue(())
    });
    let position = report.expect("backed up").position;
    let found = verify(&target, |_| ControlFlow::Continue(())).expect("readable");
    assert!(found.is_sound() && (found.removed == 0) == (position.0 <= 120), "{found:?} up to {position}");
    let copy = open(&target);
    let expected = if position.0 > 120 { [(2, 2), (0, 0)] } else { [(20, 20), (20, 20)] };
    assert_eq!([counts(&copy, "thing-1"), counts(&copy, "thing-2")], expected);
}
