//! Reads: order, bounds, limits, filters.

use super::Backend;
use super::arrange::{Subject, THING, at, drive, event, events, in_tenant, positions, versions};
use crate::event::Event;
use crate::store::{AppendBatch, ReadAll, ReadStream, StreamInfo};
use crate::version::ExpectedVersion::Any;
use crate::version::{AggregateVersion, Position};

fn reversed<T>(mut items: Vec<T>) -> Vec<T> {
    items.reverse();
    items
}

/// Two streams whose events alternate: `a` has the odd positions, `b` the even ones, up to 10.
fn alternating(backend: &dyn Backend) -> Subject {
    let subject = Subject::new(backend);
    for _ in 0..5 {
        subject.append(&AppendBatch::one("a", "Account", Any, vec![event("Opened")]));
        subject.append(&AppendBatch::one("b", "Basket", Any, vec![event("Filled")]));
    }
    subject
}

pub(super) fn an_empty_store_reads_as_nothing(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_eq!(subject.all(), []);
    assert_eq!(subject.read_all(ReadAll::new().backwards()), []);
    assert_eq!(subject.stream("a"), []);
    assert_eq!(subject.head(), 0);
}

pub(super) fn an_unknown_stream_reads_as_nothing(backend: &dyn Backend) {
    let subject = alternating(backend);
    assert_eq!(subject.stream("c"), []);
    assert_eq!(subject.read(ReadStream::of("c").backwards().limit(5)), []);
    assert_eq!(subject.read(ReadStream { tenant: "acme".to_owned(), ..ReadStream::of("a") }), []);
}

pub(super) fn a_stream_reads_in_the_order_of_its_versions(backend: &dyn Backend) {
    let subject = alternating(backend);
    assert_eq!((versions(&subject.stream("a")), positions(&subject.stream("a"))), (vec![1, 2, 3, 4, 5], vec![1, 3, 5, 7, 9]));
    assert_eq!((versions(&subject.stream("b")), positions(&subject.stream("b"))), (vec![1, 2, 3, 4, 5], vec![2, 4, 6, 8, 10]));
}

pub(super) fn a_stream_reads_backwards(backend: &dyn Backend) {
    let subject = alternating(backend);
    assert_eq!(subject.read(ReadStream::of("a").backwards()), reversed(subject.stream("a")));
}

pub(super) fn everything_reads_in_the_order_of_positions(backend: &dyn Backend) {
    let subject = alternating(backend);
    assert_eq!(positions(&subject.all()), (1..=10).collect::<Vec<_>>());
}

pub(super) fn everything_reads_backwards(backend: &dyn Backend) {
    let subject = alternating(backend);
    assert_eq!(subject.read_all(ReadAll::new().backwards()), reversed(subject.all()));
}

pub(super) fn after_and_before_exclude_in_both_directions(backend: &dyn Backend) {
    let subject = alternating(backend);
    for after in 0..=11 {
        for before in 0..=11 {
            let query = ReadAll::new().after(at(after)).before(at(before));
            let expected: Vec<u64> = (after + 1..before.min(11)).collect();
            assert_eq!(positions(&subject.read_all(query.clone())), expected, "after {after}, before {before}");
            assert_eq!(positions(&subject.read_all(query.backwards())), reversed(expected), "after {after}, before {before}, backwards");

            let query = ReadStream::of("b").after(AggregateVersion(after)).before(AggregateVersion(before));
            let expected: Vec<u64> = (after + 1..before.min(6)).collect();
            assert_eq!(versions(&subject.read(query.clone())), expected, "after {after}, before {before}");
            assert_eq!(versions(&subject.read(query.backwards())), reversed(expected), "after {after}, before {before}, backwards");
        }
    }
}

pub(super) fn bounds_beyond_the_ends_read_as_nothing_more(backend: &dyn Backend) {
    let subject = alternating(backend);
    let far = Position(u64::MAX);
    assert_eq!(subject.read_all(ReadAll::new().after(far)), []);
    assert_eq!(subject.read_all(ReadAll::new().after(far).backwards()), []);
    assert_eq!(subject.read_all(ReadAll::new().before(Position::START)), []);
    assert_eq!(subject.read_all(ReadAll::new().after(Position::START).before(far)), subject.all());
    assert_eq!(subject.read_all(ReadAll::new().before(far).backwards().limit(u64::MAX)), reversed(subject.all()));
    let far = AggregateVersion(u64::MAX);
    assert_eq!(subject.read(ReadStream::of("a").after(far)), []);
    assert_eq!(subject.read(ReadStream::of("a").before(AggregateVersion::NONE).backwards()), []);
    assert_eq!(subject.read(ReadStream::of("a").after(AggregateVersion::NONE).before(far).limit(u64::MAX)), subject.stream("a"));
}

pub(super) fn limit_counts_events_from_the_end_where_reading_begins(backend: &dyn Backend) {
    let subject = alternating(backend);
    for (limit, count) in [(0, 0), (1, 1), (4, 4), (10, 10), (11, 10), (u64::MAX, 10)] {
        let forwards: Vec<u64> = (1..=count).collect();
        let backwards: Vec<u64> = (11 - count..=10).rev().collect();
        assert_eq!(positions(&subject.read_all(ReadAll::new().limit(limit))), forwards);
        assert_eq!(positions(&subject.read_all(ReadAll::new().limit(limit).backwards())), backwards);
    }
    for (limit, count) in [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (u64::MAX, 5)] {
        let forwards: Vec<u64> = (1..=count).collect();
        let backwards: Vec<u64> = (6 - count..=5).rev().collect();
        assert_eq!(versions(&subject.read(ReadStream::of("a").limit(limit))), forwards);
        assert_eq!(versions(&subject.read(ReadStream::of("a").limit(limit).backwards())), backwards);
    }
    let query = ReadAll::new().after(at(2)).before(at(8)).limit(2);
    assert_eq!(positions(&subject.read_all(query.clone())), [3, 4]);
    assert_eq!(positions(&subject.read_all(query.backwards())), [7, 6]);
}

/// Events of three types in streams of two aggregate types.
fn mixed(backend: &dyn Backend) -> Subject {
    let subject = Subject::new(backend);
    for round in 0..12 {
        let event_type = ["Opened", "Changed", "Closed"][round % 3];
        subject.append(&AppendBatch::one("a", "Account", Any, vec![event(event_type)]).and(
            "b",
            "Basket",
            Any,
            vec![event("Opened"), event("Changed")],
        ));
    }
    subject
}

fn among(subject: &Subject, condition: impl Fn(&Event) -> bool) -> Vec<Event> {
    subject.all().into_iter().filter(condition).collect()
}

pub(super) fn event_types_filter_what_is_read(backend: &dyn Backend) {
    let subject = mixed(backend);
    let closed = among(&subject, |event| event.event_type() == "Closed");
    assert_eq!(closed.len(), 4);
    assert_eq!(subject.read_all(ReadAll::new().event_types(["Closed"])), closed);
    assert_eq!(subject.read_all(ReadAll::new().event_types(["Closed"]).backwards()), reversed(closed));
    let two = among(&subject, |event| event.event_type() != "Changed");
    assert_eq!(subject.read_all(ReadAll::new().event_types(["Closed", "Opened", "Closed"])), two);
}

pub(super) fn aggregate_types_filter_what_is_read(backend: &dyn Backend) {
    let subject = mixed(backend);
    let accounts = among(&subject, |event| event.aggregate_type() == "Account");
    assert_eq!(accounts.len(), 12);
    assert_eq!(subject.read_all(ReadAll::new().aggregate_types(["Account"])), accounts);
    assert_eq!(subject.read_all(ReadAll::new().aggregate_types(["Account"]).backwards()), reversed(accounts));
    assert_eq!(subject.read_all(ReadAll::new().aggregate_types(["Basket", "Account"])), subject.all());
}

pub(super) fn filters_combine_with_each_other_and_with_bounds_and_limit(backend: &dyn Backend) {
    let subject = mixed(backend);
    let query = ReadAll::new().event_types(["Changed", "Closed"]).aggregate_types(["Account"]);
    let both = among(&subject, |event| event.event_type() != "Opened" && event.aggregate_type() == "Account");
    assert_eq!(both.len(), 8);
    assert_eq!(subject.read_all(query.clone()), both);
    assert_eq!(subject.read_all(query.clone().limit(3)), both[..3]);
    assert_eq!(subject.read_all(query.clone().limit(3).backwards()), reversed(both[5..].to_vec()));
    let within = query.after(both[1].position()).before(both[6].position());
    assert_eq!(subject.read_all(within.clone()), both[2..6]);
    assert_eq!(subject.read_all(within.clone().backwards()), reversed(both[2..6].to_vec()));
    assert_eq!(subject.read_all(within.backwards().limit(2)), reversed(both[4..6].to_vec()));
}

pub(super) fn a_filter_of_unknown_names_reads_as_nothing(backend: &dyn Backend) {
    let subject = mixed(backend);
    for unknown in ["Unknown", "opened", "Open", ""] {
        assert_eq!(subject.read_all(ReadAll::new().event_types([unknown])), [], "{unknown:?}");
        assert_eq!(subject.read_all(ReadAll::new().aggregate_types([unknown]).backwards()), [], "{unknown:?}");
    }
    let closed = among(&subject, |event| event.event_type() == "Closed");
    assert_eq!(subject.read_all(ReadAll::new().event_types(["Unknown", "Closed"])), closed);
    assert_eq!(subject.read_all(ReadAll::new().event_types(["Closed"]).aggregate_types(["Basket"])), []);
}

pub(super) fn thousands_of_events_read_in_bounded_batches(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for _ in 0..5 {
        subject.append(&AppendBatch::one("a", THING, Any, events(1200)).and("b", THING, Any, events(1)));
    }
    let total = 6005;
    for query in [ReadAll::new(), ReadAll::new().backwards()] {
        let mut reader = subject.store.read_all(query.clone());
        let mut read = Vec::new();
        while let Some(batch) = reader.next_batch().expect("the store is readable") {
            assert!(!batch.is_empty() && batch.len() <= 4096, "a batch of {} events", batch.len());
            read.extend(batch);
        }
        assert!(reader.next_batch().expect("the end stays the end").is_none());
        let expected: Vec<u64> = if query.backwards { (1..=total).rev().collect() } else { (1..=total).collect() };
        assert_eq!(positions(&read), expected);
    }
    assert_eq!(versions(&subject.stream("a")), (1..=6000).collect::<Vec<_>>());
    assert_eq!(versions(&subject.read(ReadStream::of("a").backwards().after(AggregateVersion(100)))), (101..=6000).rev().collect::<Vec<_>>());
    assert_eq!(versions(&subject.stream("b")), [1, 2, 3, 4, 5]);
}

pub(super) fn awaiting_reads_the_same_as_blocking(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.append(&AppendBatch::one("a", THING, Any, events(1500)).and("b", THING, Any, events(700)));
    let mut all = subject.store.read_all(ReadAll::new().backwards());
    let mut stream = subject.store.read(ReadStream::of("b"));
    let read = drive([async {
        let mut read = (Vec::new(), Vec::new());
        while let Some(event) = all.next_event().await {
            read.0.push(event.expect("the store is readable"));
        }
        while let Some(event) = stream.next_event().await {
            read.1.push(event.expect("the stream is readable"));
        }
        assert!(all.next_event().await.is_none() && stream.next_event().await.is_none(), "the end stays the end");
        read
    }]);
    assert_eq!(read, [(subject.read_all(ReadAll::new().backwards()), subject.stream("b"))]);
}

pub(super) fn a_reader_ends_at_the_head_of_its_beginning(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 2000);
    let mut untouched = subject.store.read_all(ReadAll::new());
    let mut begun = subject.store.read_all(ReadAll::new());
    let mut stream = subject.store.read(ReadStream::of("a"));
    let mut filtered = subject.store.read_all(ReadAll::new().event_types(["Happened"]));
    let first = begun.next().expect("there are events").expect("the store is readable");
    assert_eq!(first.position(), at(1));
    subject.grow("a", 500);
    assert_eq!(untouched.by_ref().count(), 2000);
    assert_eq!(begun.by_ref().count(), 1999);
    assert_eq!(stream.by_ref().count(), 2000);
    assert_eq!(filtered.by_ref().count(), 2000);
    assert!(untouched.next().is_none() && begun.next().is_none() && stream.next().is_none() && filtered.next().is_none());
    assert_eq!(subject.all().len(), 2500);
}

pub(super) fn a_stream_is_described_without_reading_it(backend: &dyn Backend) {
    let subject = alternating(backend);
    let info = |aggregate_type: &str, version, position| {
        Some(StreamInfo { aggregate_type: aggregate_type.to_owned(), version: AggregateVersion(version), last_position: at(position) })
    };
    assert_eq!(subject.info("a"), info("Account", 5, 9));
    assert_eq!(subject.info("b"), info("Basket", 5, 10));
    assert_eq!((subject.info("c"), subject.info(in_tenant("acme", "a"))), (None, None));
    subject.append(&AppendBatch::one("a", "Account", Any, events(3)));
    assert_eq!(subject.info("a"), info("Account", 8, 13));
}

pub(super) fn the_head_is_the_last_position(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let mut expected = 0;
    for count in [1, 3, 2, 100] {
        expected += count as u64;
        subject.grow("a", count);
        assert_eq!(subject.head(), expected);
        assert_eq!(positions(&subject.read_all(ReadAll::new().backwards().limit(1))), [expected]);
    }
}

pub(super) fn including_system_events_keeps_all_others(backend: &dyn Backend) {
    let subject = alternating(backend);
    let mut with_system = subject.read_all(ReadAll::new().include_system());
    with_system.retain(|event| !event.event_type().starts_with('$'));
    assert_eq!(with_system, subject.all());
}
