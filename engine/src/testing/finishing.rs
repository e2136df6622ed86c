//! How operations begin and end: lazily, whoever looks on; and how a store is closed.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::Backend;
use super::arrange::{PATIENCE, Subject, THING, answer_of, at, drive, event, events, eventually, one, places, poll_once};
use crate::error::{Error, Result};
use crate::store::{AppendBatch, Durability, ReadAll, ReadStream};
use crate::version::ExpectedVersion::Any;

pub(super) fn an_append_that_is_dropped_before_its_first_poll_stores_nothing(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    drop(subject.store.append(one("a", event("Happened"))));
    std::mem::forget(subject.store.append(one("a", event("Happened"))));
    subject.grow("b", 1);
    subject.store.sync().wait().expect("the store is in order");
    assert_eq!((subject.head(), subject.version("a")), (1, 0));
}

pub(super) fn an_append_that_is_dropped_after_its_first_poll_goes_on(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", THING, Any, events(2));
    let mut append = subject.store.append(batch.clone());
    let _ = poll_once(&mut append);
    drop(append);
    eventually("the abandoned append is visible", || subject.head() == 2);
    assert_eq!(places(&subject.append(&batch)), [(2, 2, 2)], "a repetition gets the answer that was abandoned");
}

pub(super) fn a_forgotten_append_blocks_nobody(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for _ in 0..20 {
        let mut forgotten = subject.store.append(one("a", event("Happened")));
        let _ = poll_once(&mut forgotten);
        std::mem::forget(forgotten);
        let mut timed_out = subject.store.append(one("a", event("Happened")));
        let _ = timed_out.wait_until(Some(Instant::now()));
        std::mem::forget(timed_out);
        answer_of(subject.store.append(one("b", event("Happened")))).expect("the append is stored");
        answer_of(subject.store.sync()).expect("the store is in order");
    }
    eventually("every forgotten append is visible", || subject.head() == 60);
    assert_eq!((subject.version("a"), subject.version("b")), (40, 20));
    answer_of(subject.store.close()).expect("the store closes");
}

pub(super) fn polling_and_waiting_can_be_mixed(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for version in 1..=20 {
        let mut append = subject.store.append(one("a", event("Happened")));
        let result = match poll_once(&mut append) {
            Poll::Ready(result) => result,
            Poll::Pending if version % 2 == 0 => answer_of(append),
            Poll::Pending => drive([append]).remove(0),
        };
        assert_eq!(places(&result.expect("the append is stored")), [(version, version, 1)]);
    }
}

pub(super) fn a_wait_that_timed_out_can_go_on(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for version in 1..=20 {
        let mut append = subject.store.append(one("a", event("Happened")));
        let mut answer = append.wait_until(Some(Instant::now()));
        let deadline = Instant::now() + PATIENCE;
        while answer.is_none() {
            assert!(Instant::now() < deadline, "the append ends in time");
            answer = append.wait_until(Some(Instant::now() + Duration::from_millis(1)));
        }
        let receipts = answer.expect("an answer").expect("the append is stored");
        assert_eq!(places(&receipts), [(version, version, 1)]);
    }
}

pub(super) fn one_thread_drives_many_appends(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let appends = (0..500).map(|number| subject.store.append(one(&format!("a{}", number % 9), event("Happened"))));
    let mut positions: Vec<u64> = drive(appends).into_iter().map(|result| result.expect("the append is stored")[0].position.0).collect();
    positions.sort_unstable();
    assert_eq!(positions, (1..=500).collect::<Vec<_>>());
    assert_eq!(subject.head(), 500);
}

pub(super) fn sync_covers_everything_that_was_visible(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let capabilities = subject.store.capabilities();
    for round in 1..=5 {
        subject.grow("a", 2);
        let durable = subject.store.durable_position().wait().expect("the durable position is known");
        assert!(durable <= at(round * 2), "nothing is durable that is not stored");
        if capabilities.durability == Durability::Sync {
            assert_eq!(durable, at(round * 2), "what is acknowledged is durable");
        }
        let synced = subject.store.sync().wait().expect("the store syncs");
        if capabilities.persistent {
            assert_eq!(synced, at(round * 2));
            assert_eq!(subject.store.durable_position().wait().expect("the durable position is known"), synced);
        }
    }
}

pub(super) fn closing_again_does_nothing(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 1);
    for _ in 0..3 {
        subject.store.close().wait().expect("the store closes");
    }
    for closed in drive([subject.store.close(), subject.store.close()]) {
        closed.expect("the store closes");
    }
}

fn is_closed<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Closed))
}

pub(super) fn a_closed_store_refuses_everything(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = subject.grow("a", 1);
    subject.store.close().wait().expect("the store closes");
    assert!(is_closed(&subject.try_append(&one("a", event("Happened")))), "append");
    assert!(is_closed(&subject.try_append(&batch)), "a repeated append");
    assert!(is_closed(&subject.store.head().wait()), "head");
    assert!(is_closed(&subject.store.stream("a".into()).wait()), "stream");
    assert!(is_closed(&subject.store.sync().wait()), "sync");
    assert!(is_closed(&subject.store.durable_position().wait()), "durable_position");
    let mut readers = [subject.store.read(ReadStream::of("a")), subject.store.read_all(ReadAll::new())];
    assert!(readers.iter_mut().all(|reader| reader.next().is_some_and(|event| is_closed(&event))), "read");
    assert!(readers.iter_mut().all(|reader| reader.next().is_none()), "after an error a reader ends");
    assert!(drive([subject.store.append(batch)]).iter().all(is_closed), "an awaited append");
}

pub(super) fn a_reader_of_a_closed_store_never_ends_early(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 3000);
    let mut readers = [subject.store.read_all(ReadAll::new()), subject.store.read(ReadStream::of("a").backwards())];
    for reader in &mut readers {
        reader.next().expect("there are events").expect("the store is readable");
    }
    subject.store.close().wait().expect("the store closes");
    for reader in readers {
        let rest: Result<Vec<_>> = reader.collect();
        match rest {
            Ok(events) => assert_eq!(events.len(), 2999, "an end is the end"),
            Err(error) => assert!(matches!(error, Error::Closed), "{error:?}"),
        }
    }
}
