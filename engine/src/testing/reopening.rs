//! What outlives the process where the backend says so.

use super::Backend;
use super::arrange::{Subject, THING, assert_conflict, event, events, exact, full_event, in_tenant, one, places, positions};
use crate::error::{Error, EventIdProblem};
use crate::event::{Event, EventData, NewEvent, Timestamp};
use crate::store::{AppendBatch, Durability, ReadAll};
use crate::version::ExpectedVersion::{Any, NoStream};

/// The store, if it can be reopened; one that cannot has to say that its acknowledgements end with the process.
fn reopenable(backend: &dyn Backend) -> Option<Subject> {
    let subject = Subject::new(backend);
    if subject.is_persistent() {
        return Some(subject);
    }
    assert_eq!(subject.store.capabilities().durability, Durability::Memory);
    None
}

/// Events in several streams and tenants.
fn fill(subject: &Subject) {
    for round in 0..30 {
        subject.append(&AppendBatch::one("a", "Account", Any, events(1 + round % 4)).and("b", THING, Any, vec![full_event()]));
        subject.append(&AppendBatch::one("a", THING, Any, events(2)).for_tenant("acme"));
    }
}

/// Everything that reads can tell.
fn picture(subject: &Subject) -> impl PartialEq + std::fmt::Debug + use<> {
    assert_eq!(subject.all().len() as u64, subject.head(), "every event up to the head is there");
    let streams = ["a", "b", "c"].map(|aggregate_id| (subject.stream(aggregate_id), subject.info(aggregate_id)));
    (subject.all(), subject.head(), streams, subject.info(in_tenant("acme", "a")), subject.read_all(ReadAll::new().aggregate_types(["Account"])))
}

pub(super) fn everything_is_there_after_reopening(backend: &dyn Backend) {
    let Some(mut subject) = reopenable(backend) else { return };
    subject.reopen();
    assert_eq!(subject.head(), 0);
    fill(&subject);
    let before = picture(&subject);
    for _ in 0..3 {
        subject.reopen();
        assert_eq!(picture(&subject), before);
    }
}

pub(super) fn a_store_that_was_dropped_reopens_as_if_closed(backend: &dyn Backend) {
    let Some(subject) = reopenable(backend) else { return };
    fill(&subject);
    let before = picture(&subject);
    let reader = subject.store.read_all(ReadAll::new());
    drop(reader);
    let subject = subject.drop_and_reopen();
    assert_eq!(picture(&subject), before);
}

pub(super) fn expectations_and_types_hold_after_reopening(backend: &dyn Backend) {
    let Some(mut subject) = reopenable(backend) else { return };
    subject.append(&AppendBatch::one("a", "Account", NoStream, events(3)));
    subject.reopen();
    assert_conflict(&subject.refusal(&AppendBatch::one("a", "Account", NoStream, events(1))), "a", NoStream, 3);
    assert_conflict(&subject.refusal(&AppendBatch::one("a", "Account", exact(2), events(1))), "a", exact(2), 3);
    assert!(matches!(subject.refusal(&AppendBatch::one("a", "Order", Any, events(1))), Error::AggregateType { .. }));
    assert_eq!(places(&subject.append(&AppendBatch::one("a", "Account", exact(3), events(1)))), [(4, 4, 1)]);
    subject.append(&AppendBatch::one("a", "Order", NoStream, events(1)).for_tenant("acme"));
}

pub(super) fn a_repeated_append_is_recognised_after_reopening(backend: &dyn Backend) {
    let Some(mut subject) = reopenable(backend) else { return };
    let ordered = AppendBatch::one("a", THING, NoStream, events(2)).and("b", THING, Any, events(1));
    let random = AppendBatch::one("a", THING, exact(2), vec![NewEvent { id: uuid::Uuid::from_u128(7), ..event("Happened") }]);
    let first = [subject.append(&ordered), subject.append(&random)];
    subject.grow("c", 2000);
    subject.reopen();
    assert_eq!([subject.append(&ordered), subject.append(&random)], first);
    subject.grow("c", 1);
    subject.reopen();
    assert_eq!([subject.append(&ordered), subject.append(&random)], first);
    let stolen = one("c", random.streams[0].events[0].clone());
    assert!(matches!(subject.refusal(&stolen), Error::EventIdConflict { reason: EventIdProblem::PartlyStored, .. }));
    assert_eq!(subject.head(), 2005);
}

pub(super) fn positions_and_times_go_on_after_reopening(backend: &dyn Backend) {
    let Some(mut subject) = reopenable(backend) else { return };
    for round in 0..10 {
        subject.append(&one("b", NewEvent { timestamp: Some(Timestamp(i64::MAX)), ..event("Told") }));
        subject.grow("a", 1 + round % 2);
        subject.reopen();
    }
    let all = subject.all();
    assert_eq!(positions(&all), (1..=25).collect::<Vec<_>>());
    let times: Vec<Timestamp> = subject.stream("a").iter().map(Event::timestamp).collect();
    assert!(times.is_sorted() && times.iter().all(|time| *time <= Timestamp::now()), "{times:?}");
}

pub(super) fn large_events_and_batches_are_there_after_reopening(backend: &dyn Backend) {
    let Some(mut subject) = reopenable(backend) else { return };
    let sizes = [0, 1, 4095, 4096, 4097, 1 << 20, 300_000, 3 << 20];
    let large: Vec<NewEvent> = sizes.iter().map(|bytes| NewEvent::new("Grew", EventData::Protobuf(vec![0xa5; *bytes]))).collect();
    for new in &large {
        subject.append(&one("a", new.clone()));
        subject.grow("b", 1);
    }
    let many = events(5000);
    subject.append(&AppendBatch::one("c", THING, NoStream, many.clone()));
    subject.reopen();
    for (aggregate_id, appended) in [("a", &large), ("c", &many)] {
        let stored = subject.stream(aggregate_id);
        assert_eq!(stored.len(), appended.len());
        stored.iter().zip(appended).for_each(|(stored, appended)| subject.assert_same(stored, appended));
    }
    assert_eq!(subject.head(), 5016);
}

pub(super) fn a_store_keeps_its_identity(backend: &dyn Backend) {
    let mut subject = Subject::new(backend);
    let identity = |subject: &Subject| subject.store.identity().wait().expect("the store says who it is");
    let first = identity(&subject);
    subject.grow("a", 2);
    let grown = identity(&subject);
    assert!(grown.store_id == first.store_id && grown.epoch >= first.epoch, "{first:?}, then {grown:?}");
    if subject.is_persistent() {
        subject.reopen();
        assert_eq!(identity(&subject), grown);
        subject.grow("a", 2);
        assert_eq!(identity(&subject).store_id, first.store_id);
    }
}
