//! Idempotent retry: an append that is repeated with the same ids stores nothing and gets the first answer.

use uuid::Uuid;

use super::Backend;
use super::arrange::{Subject, THING, event, events, exact, one, places};
use crate::error::{Error, EventIdProblem};
use crate::event::{EventData, NewEvent};
use crate::store::AppendBatch;
use crate::version::ExpectedVersion::{Any, Exists, NoStream};

use EventIdProblem::{DifferentEvent, PartlyStored, TwiceInBatch};

#[track_caller]
fn assert_id_conflict(error: &Error, id: Uuid, problem: EventIdProblem) {
    match error {
        Error::EventIdConflict { event_id, reason } => assert_eq!((*event_id, *reason), (id, problem)),
        other => panic!("expected a conflict of event ids, not {other:?}"),
    }
}

/// Asserts that repeating an append gives the first answer and stores nothing.
#[track_caller]
fn assert_repeatable(subject: &Subject, batch: &AppendBatch, first: &[(u64, u64, u32)]) {
    let head = subject.head();
    assert_eq!(places(&subject.append(batch)), first, "the repeated append gets the first answer");
    assert_eq!(subject.head(), head, "the repeated append stores nothing");
}

pub(super) fn a_repeated_append_returns_the_first_receipts_and_stores_nothing(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", THING, Any, events(3));
    let first = subject.append(&batch);
    assert_eq!(subject.append(&batch), first);
    subject.grow("b", 2);
    subject.grow("a", 2);
    assert_eq!(subject.append(&batch), first);
    assert_eq!((subject.head(), subject.version("a")), (7, 5));
}

pub(super) fn a_repeated_append_is_recognised_before_its_version_is_checked(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for (aggregate_id, expected) in [("a", NoStream), ("b", exact(0)), ("a", exact(1)), ("b", Exists), ("a", Any)] {
        let batch = AppendBatch::one(aggregate_id, THING, expected, events(1));
        let first = places(&subject.append(&batch));
        assert_repeatable(&subject, &batch, &first);
        let changed = AppendBatch::one(aggregate_id, THING, exact(99), batch.streams[0].events.clone());
        assert_repeatable(&subject, &changed, &first);
    }
}

pub(super) fn a_repeated_append_to_several_streams_returns_the_first_receipts(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", "Account", NoStream, events(2)).and("b", THING, NoStream, events(1)).and("a", "Account", exact(2), events(1));
    let first = places(&subject.append(&batch));
    assert_eq!(first, [(2, 2, 2), (3, 1, 1), (4, 3, 1)]);
    subject.grow("b", 3);
    assert_repeatable(&subject, &batch, &first);
}

pub(super) fn a_repeated_append_of_random_ids_is_recognised(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for version in 0..20 {
        let with_id = |id: Uuid| NewEvent { id, ..event("Happened") };
        let ids = [Uuid::from_u128(u128::MAX - u128::from(version)), Uuid::from_u128(u128::from(version)), random_id(version)];
        let batch = AppendBatch::one("a", THING, if version % 2 == 0 { Any } else { exact(version * 3) }, ids.map(with_id).to_vec());
        let first = places(&subject.append(&batch));
        assert_repeatable(&subject, &batch, &first);
    }
}

/// Ids without any order, as UUID v4 and v5 are, the same in every run.
fn random_id(number: u64) -> Uuid {
    let high = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let low = (high ^ (high >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    Uuid::from_u64_pair(high ^ low.rotate_left(17), low)
}

pub(super) fn a_repeated_append_is_recognised_thousands_of_events_later(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let early = AppendBatch::one("a", THING, NoStream, events(2)).and("b", THING, Any, events(1));
    let alone = AppendBatch::one("a", THING, exact(2), events(1));
    let (first, second) = (places(&subject.append(&early)), places(&subject.append(&alone)));
    for round in 0..60 {
        subject.grow(if round % 3 == 0 { "a" } else { "c" }, 100);
    }
    assert_repeatable(&subject, &early, &first);
    assert_repeatable(&subject, &alone, &second);
    let stale = one("a", NewEvent { id: alone.streams[0].events[0].id, ..event("Happened") });
    assert_id_conflict(&subject.try_append(&stale).expect_err("a known id"), stale.streams[0].events[0].id, DifferentEvent);
    assert_eq!(subject.head(), 6004);
}

pub(super) fn a_repeated_append_is_recognised_among_random_ids_of_any_order(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batches: Vec<AppendBatch> = (0..150)
        .map(|round| {
            let events = (0..20).map(|at| NewEvent { id: random_id(round * 20 + at), ..event("Happened") }).collect();
            AppendBatch::one(format!("a{}", round % 7), THING, Any, events)
        })
        .collect();
    let first: Vec<_> = batches.iter().map(|batch| places(&subject.append(batch))).collect();
    for at in [0, 1, 30, 75, 148, 149] {
        assert_repeatable(&subject, &batches[at], &first[at]);
    }
    let stored = subject.stream("a0");
    subject.assert_same(&stored[0], &batches[0].streams[0].events[0]);
    assert_eq!(subject.head(), 3000);
}

pub(super) fn an_append_whose_ids_are_stored_in_part_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let stored = subject.grow("a", 2).streams[0].events.clone();
    let new = || event("Happened");
    for expected in [Any, exact(2), exact(0), NoStream] {
        let longer = AppendBatch::one("a", THING, expected, vec![stored[0].clone(), stored[1].clone(), new()]);
        let overlapping = AppendBatch::one("a", THING, expected, vec![stored[1].clone(), new()]);
        let preceded = AppendBatch::one("a", THING, expected, vec![new(), stored[1].clone()]);
        let beside_new = AppendBatch::one("b", THING, NoStream, vec![new()]).and("a", THING, expected, stored.clone());
        for batch in [longer, overlapping, preceded, beside_new] {
            match subject.refusal(&batch) {
                Error::EventIdConflict { event_id, reason: PartlyStored } => assert!(stored.iter().any(|event| event.id == event_id)),
                other => panic!("expected a conflict of event ids, not {other:?}"),
            }
        }
    }
}

pub(super) fn an_append_in_another_order_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let stored = subject.grow("a", 2).streams[0].events.clone();
    let turned = AppendBatch::one("a", THING, Any, vec![stored[1].clone(), stored[0].clone()]);
    assert!(matches!(subject.refusal(&turned), Error::EventIdConflict { reason: PartlyStored, .. }));
}

pub(super) fn an_event_id_that_is_stored_in_another_stream_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let stored = subject.grow("a", 1).streams[0].events[0].clone();
    for expected in [Any, NoStream, exact(0), exact(7)] {
        let batch = AppendBatch::one("b", THING, expected, vec![stored.clone()]);
        assert_id_conflict(&subject.refusal(&batch), stored.id, PartlyStored);
    }
}

pub(super) fn an_event_id_that_is_stored_in_another_tenant_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let stored = subject.grow("a", 1).streams[0].events[0].clone();
    let batch = one("a", stored.clone()).for_tenant("acme");
    assert_id_conflict(&subject.refusal(&batch), stored.id, PartlyStored);
}

pub(super) fn an_event_id_with_another_payload_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let stored = subject.grow("a", 1).streams[0].events[0].clone();
    let same_bytes = EventData::Protobuf(stored.data.as_bytes().to_vec());
    for data in [event("Happened").data, same_bytes, EventData::Protobuf(Vec::new())] {
        for expected in [Any, NoStream, exact(1), Exists] {
            let changed = NewEvent { data: data.clone(), ..stored.clone() };
            assert_id_conflict(&subject.refusal(&AppendBatch::one("a", THING, expected, vec![changed])), stored.id, DifferentEvent);
        }
    }
}

pub(super) fn a_repeated_append_with_one_other_payload_names_that_event(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", THING, NoStream, events(3)).and("b", THING, NoStream, events(2));
    subject.append(&batch);
    for (stream, at) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] {
        let mut changed = batch.clone();
        changed.streams[stream].events[at].data = event("Happened").data;
        assert_id_conflict(&subject.refusal(&changed), batch.streams[stream].events[at].id, DifferentEvent);
    }
}

pub(super) fn an_event_id_with_another_type_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let stored = subject.grow("a", 1).streams[0].events[0].clone();
    let changed = NewEvent { event_type: "HappenedNot".to_owned(), ..stored.clone() };
    assert_id_conflict(&subject.refusal(&one("a", changed)), stored.id, DifferentEvent);
}

pub(super) fn an_event_id_twice_in_a_batch_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let new = event("Happened");
    let beside = AppendBatch::one("a", THING, Any, vec![new.clone(), new.clone()]);
    assert_id_conflict(&subject.refusal(&beside), new.id, TwiceInBatch);
    let apart = AppendBatch::one("a", THING, NoStream, vec![event("Happened"), new.clone()]).and("b", THING, NoStream, vec![new.clone()]);
    assert_id_conflict(&subject.refusal(&apart), new.id, TwiceInBatch);
    subject.append(&one("a", new));
}

pub(super) fn an_event_id_of_a_refused_append_can_be_used_again(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 1);
    let events = events(2);
    subject.refusal(&AppendBatch::one("a", THING, NoStream, events.clone()));
    assert_eq!(places(&subject.append(&AppendBatch::one("a", THING, exact(1), events))), [(3, 3, 2)]);
}
