//! Appends: places, atomicity, streams and tenants.

use super::Backend;
use super::arrange::{Subject, THING, assert_conflict, at, event, events, exact, in_tenant, one, places, positions, versions};
use crate::error::Error;
use crate::event::NewEvent;
use crate::store::{AppendBatch, Durability, ReadAll, ReadStream, Receipt, StreamInfo};
use crate::version::{AggregateVersion, ExpectedVersion};

use ExpectedVersion::{Any, Exists, NoStream};

pub(super) fn append_one_event_returns_its_place(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let first = one("order-1", event("OrderPlaced"));
    let receipts = subject.append(&first);
    let durability = subject.store.capabilities().durability;
    let expected = Receipt { aggregate_id: "order-1".to_owned(), position: at(1), version: AggregateVersion(1), events: 1, durability };
    assert_eq!(receipts, [expected]);
    let stored = subject.all();
    subject.assert_all_same(&stored, &first.streams[0].events);
    assert_eq!((stored[0].aggregate_id(), stored[0].aggregate_type(), stored[0].tenant()), ("order-1", THING, ""));
}

pub(super) fn append_many_events_numbers_them_in_order(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let appended = subject.grow("a", 7);
    let stored = subject.stream("a");
    subject.assert_all_same(&stored, &appended.streams[0].events);
    assert_eq!((versions(&stored), positions(&stored)), ((1..=7).collect(), (1..=7).collect()));
}

pub(super) fn append_to_several_streams_is_one_atomic_step(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("b", 2);
    let batch = AppendBatch::one("a", "Account", NoStream, events(2)).and("b", THING, exact(2), events(1)).and("c", "Clerk", Any, events(3));
    let receipts = subject.append(&batch);
    assert_eq!(places(&receipts), [(4, 2, 2), (5, 3, 1), (8, 3, 3)]);
    assert_eq!(receipts.iter().map(|receipt| &*receipt.aggregate_id).collect::<Vec<_>>(), ["a", "b", "c"]);
    subject.assert_all_same(&subject.read_all(ReadAll::new().after(at(2))), batch.streams.iter().flat_map(|stream| &stream.events));
    assert_eq!(positions(&subject.stream("a")), [3, 4]);
    assert_eq!(positions(&subject.stream("b")), [1, 2, 5]);
    assert_eq!(positions(&subject.stream("c")), [6, 7, 8]);
}

pub(super) fn append_to_several_streams_stores_nothing_if_one_of_them_conflicts(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("b", 1);
    let batch = AppendBatch::one("a", THING, NoStream, events(2)).and("b", THING, exact(1), events(1)).and("c", THING, Exists, events(1));
    assert_conflict(&subject.refusal(&batch), "c", Exists, 0);
    assert_eq!((subject.version("a"), subject.version("b"), subject.version("c")), (0, 1, 0));
    subject.grow("c", 1);
    assert_eq!(places(&subject.append(&batch)), [(4, 2, 2), (5, 2, 1), (6, 2, 1)]);
}

pub(super) fn a_stream_that_stands_twice_in_a_batch_sees_its_own_earlier_events(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", THING, NoStream, events(2)).and("b", THING, NoStream, events(1)).and("a", THING, exact(2), events(1)).and(
        "a",
        THING,
        Exists,
        events(1),
    );
    assert_eq!(places(&subject.append(&batch)), [(2, 2, 2), (3, 1, 1), (4, 3, 1), (5, 4, 1)]);
    assert_eq!((versions(&subject.stream("a")), positions(&subject.stream("a"))), (vec![1, 2, 3, 4], vec![1, 2, 4, 5]));
}

pub(super) fn a_stream_that_stands_twice_in_a_batch_conflicts_with_its_own_earlier_events(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", THING, NoStream, events(2)).and("a", THING, NoStream, events(1));
    assert_conflict(&subject.refusal(&batch), "a", NoStream, 2);
    let batch = AppendBatch::one("a", THING, exact(0), events(2)).and("a", THING, exact(0), events(1));
    assert_conflict(&subject.refusal(&batch), "a", exact(0), 2);
}

pub(super) fn an_empty_event_list_only_checks_the_expectation(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 3);
    assert_eq!(places(&subject.append(&AppendBatch::one("a", THING, exact(3), vec![]))), [(3, 3, 0)]);
    assert_conflict(&subject.refusal(&AppendBatch::one("a", THING, exact(2), vec![])), "a", exact(2), 3);
    let guarded = AppendBatch::one("b", THING, NoStream, events(1)).and("a", THING, exact(2), vec![]);
    assert_conflict(&subject.refusal(&guarded), "a", exact(2), 3);
    let guarded = AppendBatch::one("b", THING, NoStream, events(1)).and("a", THING, exact(3), vec![]);
    let receipts = subject.append(&guarded);
    assert_eq!((places(&receipts)[0], receipts[1].version.0, receipts[1].events), ((4, 1, 1), 3, 0));
}

pub(super) fn an_empty_event_list_does_not_create_the_stream(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_eq!(places(&subject.append(&AppendBatch::one("a", THING, NoStream, vec![]))), [(0, 0, 0)]);
    assert_eq!((subject.info("a"), subject.head()), (None, 0));
    subject.append(&AppendBatch::one("a", "AnotherType", NoStream, events(1)));
}

pub(super) fn a_batch_without_streams_stores_nothing(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_eq!(subject.append(&AppendBatch::default()), []);
    assert_eq!(subject.head(), 0);
}

pub(super) fn positions_are_gapless_and_versions_count_within_each_stream(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for round in 0..20 {
        subject.grow("a", 1 + round % 3);
        subject.grow("b", 1);
        subject.append(&AppendBatch::one("c", THING, Any, events(round % 2)).and("a", THING, Any, events(1)));
    }
    let all = subject.all();
    assert_eq!(positions(&all), (1..=subject.head()).collect::<Vec<_>>());
    for aggregate_id in ["a", "b", "c"] {
        let stream = subject.stream(aggregate_id);
        assert_eq!(versions(&stream), (1..=stream.len() as u64).collect::<Vec<_>>(), "{aggregate_id}");
        let among_all: Vec<_> = all.iter().filter(|event| event.aggregate_id() == aggregate_id).cloned().collect();
        assert_eq!(stream, among_all);
    }
}

pub(super) fn a_refused_append_uses_up_no_position(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 1);
    for _ in 0..3 {
        subject.refusal(&AppendBatch::one("a", THING, NoStream, events(2)));
        subject.refusal(&AppendBatch::one("a", "Other", Any, events(2)));
    }
    subject.grow("a", 1);
    assert_eq!((positions(&subject.all()), versions(&subject.all())), (vec![1, 2], vec![1, 2]));
}

pub(super) fn an_acknowledged_append_is_seen_by_every_later_read(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for count in 1..=50 {
        let batch = subject.grow("a", 1);
        let newest = subject.read(ReadStream::of("a").backwards().limit(1));
        subject.assert_all_same(&newest, &batch.streams[0].events);
        assert_eq!(subject.read_all(ReadAll::new().backwards().limit(1)), newest);
        assert_eq!((subject.head(), subject.version("a")), (count, count));
    }
}

pub(super) fn the_aggregate_type_is_settled_by_the_first_event(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.append(&AppendBatch::one("a", "Account", NoStream, events(1)));
    for expected in [Any, Exists, exact(1)] {
        match subject.refusal(&AppendBatch::one("a", "Order", expected, events(1))) {
            Error::AggregateType { aggregate_id, stored, requested } => {
                assert_eq!((&*aggregate_id, &*stored, &*requested), ("a", "Account", "Order"));
            }
            other => panic!("expected a refusal of the type, not {other:?}"),
        }
    }
    subject.append(&AppendBatch::one("a", "Account", exact(1), events(1)));
}

pub(super) fn the_aggregate_type_is_settled_within_a_batch(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let batch = AppendBatch::one("a", "Account", NoStream, events(1)).and("a", "Order", Any, events(1));
    assert!(matches!(subject.refusal(&batch), Error::AggregateType { .. }));
    assert_eq!(subject.info("a"), None);
}

pub(super) fn the_same_aggregate_id_in_two_tenants_is_two_streams(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let tenants = ["", "acme", "ACME", "umbrella"];
    let appended: Vec<Vec<NewEvent>> = tenants.iter().zip(1..).map(|(_, count)| events(count)).collect();
    for (tenant, events) in tenants.iter().zip(&appended) {
        let aggregate_type = format!("Type{}", events.len());
        subject.append(&AppendBatch::one("a", aggregate_type, NoStream, events.clone()).for_tenant(*tenant));
    }
    let mut position = 0;
    for (tenant, events) in tenants.iter().zip(&appended) {
        position += events.len() as u64;
        let stream = subject.read(ReadStream { tenant: (*tenant).to_owned(), ..ReadStream::of("a") });
        subject.assert_all_same(&stream, events);
        assert_eq!(versions(&stream), (1..=events.len() as u64).collect::<Vec<_>>());
        assert!(stream.iter().all(|event| event.tenant() == *tenant));
        let info =
            StreamInfo { aggregate_type: format!("Type{}", events.len()), version: stream[events.len() - 1].version(), last_position: at(position) };
        assert_eq!(subject.info(in_tenant(tenant, "a")), Some(info));
    }
    assert_eq!(subject.info(in_tenant("nobody", "a")), None);
    subject.assert_all_same(&subject.all(), appended.iter().flatten());
}

pub(super) fn receipts_name_the_durability_of_the_store(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let capabilities = subject.store.capabilities();
    let batch = one("a", event("Happened"));
    assert_eq!(subject.append(&batch)[0].durability, capabilities.durability);
    assert_eq!(subject.append(&batch)[0].durability, capabilities.durability);
    assert!(capabilities.writable && !capabilities.backend.is_empty());
    assert!(capabilities.persistent || capabilities.durability == Durability::Memory, "{capabilities:?}");
}
