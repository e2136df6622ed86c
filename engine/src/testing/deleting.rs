//! Deletion and retention: what is left out at once, and what goes on.

use std::time::Duration;

use super::Backend;
use super::arrange::{Subject, THING, drive, event, events, exact, in_tenant, one, places, positions, versions};
use crate::error::{Error, EventIdProblem, Result};
use crate::event::{Event, NewEvent, StreamKey, Timestamp};
use crate::retention::Retention;
use crate::store::{AppendBatch, ReadAll, ReadStream, Receipt};
use crate::version::AggregateVersion;
use crate::version::ExpectedVersion::{self, Any, Exists, NoStream};

/// A store in which aggregates can be deleted.
fn keeping(backend: &dyn Backend) -> Option<Subject> {
    let subject = Subject::new(backend);
    subject.store.capabilities().retention.then_some(subject)
}

impl Subject {
    fn try_delete(&self, aggregate_id: &str, expected: ExpectedVersion) -> Result<Receipt> {
        self.store.delete(aggregate_id.into(), expected).wait()
    }

    fn delete(&self, aggregate_id: &str) -> Receipt {
        self.try_delete(aggregate_id, Any).expect("it is deleted")
    }

    fn limit(&self, aggregate_id: &str, retention: Retention) -> Receipt {
        self.store.set_retention(aggregate_id.into(), retention).wait().expect("it is limited")
    }

    /// Appends one event with a time, told by how many hours ago it was.
    fn tell(&self, aggregate_id: &str, hours_ago: i64) {
        let timestamp = Timestamp(Timestamp::now().0 - hours_ago * 3_600_000_000);
        self.append(&one(aggregate_id, NewEvent { timestamp: Some(timestamp), ..event("Told") }));
    }
}

#[track_caller]
fn assert_deleted(error: &Error, aggregate_id: &str, expected: ExpectedVersion, actual: u64) {
    match error {
        Error::Conflict { aggregate_id: id, expected: stale, actual: found, deleted: true } => {
            assert_eq!((&**id, *stale, *found), (aggregate_id, expected, AggregateVersion(actual)));
            assert!(error.to_string().contains("was deleted"), "{error}");
        }
        other => panic!("expected a conflict with a deletion, not {other:?}"),
    }
}

pub(super) fn a_deleted_aggregate_has_no_events(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 3);
    let receipt = subject.delete("a");
    assert_eq!((&*receipt.aggregate_id, receipt.position.0, receipt.version.0, receipt.events), ("a", 4, 3, 0));
    assert_eq!(receipt.durability, subject.store.capabilities().durability);
    assert_eq!(subject.stream("a"), []);
    assert_eq!(subject.read(ReadStream::of("a").backwards()), []);
    assert_eq!(subject.read(ReadStream::of("a").after(AggregateVersion(1))), []);
    assert_eq!(subject.info("a"), None);
    assert_eq!(subject.all(), []);
    assert_eq!(subject.head(), 4);
}

pub(super) fn all_others_are_read_as_before(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    for _ in 0..5 {
        subject.append(&AppendBatch::one("a", THING, Any, events(2)).and("b", THING, Any, events(1)));
        subject.append(&AppendBatch::one("a", THING, Any, events(1)).for_tenant("acme"));
    }
    let mut before = subject.all();
    subject.delete("a");
    before.retain(|event| (event.tenant(), event.aggregate_id()) != ("", "a"));
    assert_eq!(subject.all(), before);
    assert_eq!(subject.stream("b").len(), 5);
    assert_eq!(subject.info(in_tenant("acme", "a")).map(|info| info.version.0), Some(5));
}

pub(super) fn an_aggregate_that_was_never_there_cannot_be_deleted(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.append(&AppendBatch::one("a", THING, Any, events(1)).for_tenant("acme"));
    for expected in [Any, NoStream, exact(0)] {
        let refused = subject.try_delete("a", expected);
        assert!(matches!(&refused, Err(Error::AggregateNotFound { aggregate_id }) if aggregate_id == "a"), "{refused:?}");
    }
    assert!(matches!(subject.try_delete("a", exact(3)), Err(Error::Conflict { deleted: false, .. })));
    assert!(matches!(subject.try_delete("$", Any), Err(Error::InvalidName { .. })));
    assert_eq!(subject.head(), 1);
}

pub(super) fn deleting_expects_a_version(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 3);
    for expected in [NoStream, exact(0), exact(2), exact(4)] {
        let refused = subject.try_delete("a", expected);
        assert!(matches!(refused, Err(Error::Conflict { actual: AggregateVersion(3), deleted: false, .. })), "{refused:?}");
    }
    assert_eq!(subject.stream("a").len(), 3);
    assert_eq!(subject.try_delete("a", exact(3)).expect("it is deleted").version.0, 3);
    subject.grow("b", 1);
    assert_eq!(subject.try_delete("b", Exists).expect("it is deleted").version.0, 1);
}

pub(super) fn deleting_again_returns_the_first_answer(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 3);
    let first = subject.delete("a");
    subject.grow("b", 1);
    for expected in [Any, exact(3)] {
        assert_eq!(subject.try_delete("a", expected).expect("the first answer"), first);
    }
    for expected in [exact(2), Exists, NoStream] {
        assert_deleted(&subject.try_delete("a", expected).expect_err("refused"), "a", expected, 3);
    }
    assert_eq!(subject.head(), 5);
    subject.grow("a", 2);
    assert_eq!(subject.try_delete("a", exact(5)).expect("it is deleted").position.0, 8);
}

pub(super) fn a_deleted_id_goes_on_with_its_versions(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 7);
    subject.delete("a");
    let again = events(2);
    assert_eq!(places(&subject.append(&AppendBatch::one("a", THING, NoStream, again.clone()))), [(10, 9, 2)]);
    let stored = subject.stream("a");
    assert_eq!((versions(&stored), positions(&stored)), (vec![8, 9], vec![9, 10]));
    subject.assert_all_same(&stored, &again);
    assert_eq!(subject.info("a").map(|info| (info.version.0, info.last_position.0)), Some((9, 10)));
    subject.append(&AppendBatch::one("a", THING, exact(9), events(1)));
    subject.delete("a");
    assert_eq!(places(&subject.append(&AppendBatch::one("a", THING, Any, events(1)))), [(13, 11, 1)]);
    assert_eq!(versions(&subject.stream("a")), [11]);
    assert_eq!(versions(&subject.read(ReadStream::of("a").backwards())), [11]);
}

pub(super) fn a_deleted_id_conflicts_with_whoever_has_a_version_in_mind(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 3);
    subject.delete("a");
    for expected in [exact(0), exact(1), exact(3), exact(4), Exists] {
        for batch in [AppendBatch::one("a", THING, expected, events(1)), AppendBatch::one("a", THING, expected, Vec::new())] {
            assert_deleted(&subject.try_append(&batch).expect_err("refused"), "a", expected, 3);
        }
    }
    assert_eq!(subject.head(), 4);
    assert_eq!(places(&subject.append(&AppendBatch::one("a", THING, NoStream, Vec::new()))), [(4, 3, 0)]);
}

pub(super) fn a_deleted_id_keeps_its_type(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.append(&AppendBatch::one("a", "Account", Any, events(1)));
    subject.delete("a");
    let refused = subject.try_append(&AppendBatch::one("a", "Order", NoStream, events(1)));
    assert!(matches!(&refused, Err(Error::AggregateType { stored, .. }) if stored == "Account"), "{refused:?}");
    subject.append(&AppendBatch::one("a", "Account", NoStream, events(1)));
}

pub(super) fn a_deleted_id_is_free_within_a_batch_once(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 2);
    subject.delete("a");
    let twice = AppendBatch::one("a", THING, NoStream, events(1)).and("a", THING, NoStream, events(1));
    assert!(matches!(subject.try_append(&twice), Err(Error::Conflict { actual: AggregateVersion(3), deleted: false, .. })));
    let continued = AppendBatch::one("a", THING, NoStream, events(1)).and("b", THING, Any, events(1)).and("a", THING, exact(3), events(1));
    assert_eq!(places(&subject.append(&continued)), [(4, 3, 1), (5, 1, 1), (6, 4, 1)]);
}

pub(super) fn an_append_that_was_deleted_is_not_stored_again(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    let batch = AppendBatch::one("a", THING, exact(0), events(2)).and("b", THING, Any, events(1));
    let first = subject.append(&batch);
    subject.delete("a");
    // The first answer as long as its ids are known, and later a typed error.
    for _ in 0..2 {
        match subject.try_append(&batch) {
            Ok(again) => assert_eq!(again, first),
            Err(Error::EventIdConflict { reason: EventIdProblem::PartlyStored, .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        subject.tidy();
    }
    let stolen = AppendBatch::one("c", THING, Any, vec![batch.streams[1].events[0].clone()]);
    assert!(matches!(subject.try_append(&stolen), Err(Error::EventIdConflict { .. })));
    assert_eq!(subject.head(), 4);
}

pub(super) fn deletions_take_positions_and_are_read_when_asked_for(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 2);
    subject.append(&AppendBatch::one("b", THING, Any, events(1)).for_tenant("acme"));
    subject.delete("a");
    subject.store.set_retention(in_tenant("acme", "b"), Retention::new().max_count(9)).wait().expect("it is limited");
    subject.grow("c", 1);
    let all = subject.read_all(ReadAll::new().include_system());
    assert_eq!(positions(&all), [3, 4, 5, 6]);
    let types: Vec<&str> = all.iter().map(Event::event_type).collect();
    assert_eq!(types, ["Happened", "$deleted", "$retention", "Happened"]);
    assert_eq!((all[1].tenant(), all[1].aggregate_id(), all[1].aggregate_type(), all[1].version().0), ("", "$", "$", 1));
    let said: serde_json::Value = all[1].json().expect("JSON");
    assert_eq!(said, serde_json::json!({"tenant": "", "aggregate_id": "a", "aggregate_type": THING, "version": 2, "position": 2}));
    let said: serde_json::Value = all[2].json().expect("JSON");
    assert_eq!((&said["tenant"], &said["aggregate_id"], &said["max_count"]), (&"acme".into(), &"b".into(), &9.into()));
    assert_eq!(all[2].version().0, 2);
    assert_eq!(positions(&subject.read_all(ReadAll::new().backwards())), [6, 3]);
    assert_eq!(positions(&subject.read_all(ReadAll::new().include_system().event_types(["$deleted"]))), [4]);
}

pub(super) fn limits_and_filters_count_what_is_left(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    for _ in 0..400 {
        subject.append(&AppendBatch::one("a", "Account", Any, events(3)).and("b", THING, Any, events(1)));
    }
    subject.delete("a");
    let of_b: Vec<u64> = (1..=400).map(|number| number * 4).collect();
    assert_eq!(positions(&subject.all()), of_b);
    assert_eq!(positions(&subject.read_all(ReadAll::new().limit(3))), of_b[..3]);
    assert_eq!(positions(&subject.read_all(ReadAll::new().backwards().limit(2))), [1600, 1596]);
    assert_eq!(positions(&subject.read_all(ReadAll::new().aggregate_types(["Account"]).limit(5))), of_b[..0]);
    assert_eq!(positions(&subject.read_all(ReadAll::new().event_types(["Happened"]).limit(300))), of_b[..300]);
    subject.limit("b", Retention::new().max_count(100));
    assert_eq!(positions(&subject.all()), of_b[300..]);
    assert_eq!(positions(&subject.read_all(ReadAll::new().limit(1))), [1204]);
    assert_eq!(positions(&subject.read_all(ReadAll::new().backwards().limit(1000))).len(), 100);
}

pub(super) fn the_newest_events_are_kept_by_count(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 10);
    let receipt = subject.limit("a", Retention::new().max_count(3));
    assert_eq!((receipt.position.0, receipt.version.0, receipt.events), (11, 10, 0));
    assert_eq!(versions(&subject.stream("a")), [8, 9, 10]);
    subject.grow("a", 2);
    assert_eq!(versions(&subject.stream("a")), [10, 11, 12]);
    assert_eq!(versions(&subject.read(ReadStream::of("a").backwards().limit(2))), [12, 11]);
    assert_eq!(versions(&subject.read(ReadStream::of("a").before(AggregateVersion(11)))), [10]);
    assert_eq!(subject.info("a").map(|info| info.version.0), Some(12));
    subject.append(&AppendBatch::one("a", THING, exact(12), events(1)));
}

pub(super) fn events_are_kept_from_a_version_on(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 5);
    subject.limit("a", Retention::new().truncate_before(AggregateVersion(4)));
    assert_eq!(versions(&subject.stream("a")), [4, 5]);
    subject.grow("a", 1);
    assert_eq!(versions(&subject.stream("a")), [4, 5, 6]);
    assert_eq!(versions(&subject.all()), [4, 5, 6]);
}

pub(super) fn events_are_kept_up_to_an_age(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    // What is old behind something that is not stays: only what leads is left out.
    for hours_ago in [50, 30, 20, 40, 1, 0] {
        subject.tell("a", hours_ago);
    }
    subject.limit("a", Retention::new().max_age(Duration::from_hours(25)));
    assert_eq!(versions(&subject.stream("a")), [3, 4, 5, 6]);
    assert_eq!(versions(&subject.all()), [3, 4, 5, 6]);
    assert_eq!(versions(&subject.read_all(ReadAll::new().backwards())), [6, 5, 4, 3]);
    subject.limit("a", Retention::new().max_age(Duration::from_hours(25)).max_count(3));
    assert_eq!(versions(&subject.stream("a")), [5, 6]);
}

pub(super) fn the_last_event_is_kept_whatever_the_limits(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    let limits = [
        Retention::new().max_age(Duration::ZERO),
        Retention::new().max_count(1),
        Retention::new().truncate_before(AggregateVersion(u64::MAX)),
        Retention::new().truncate_before(AggregateVersion(u64::MAX)).max_age(Duration::ZERO).max_count(1),
    ];
    for (number, retention) in limits.into_iter().enumerate() {
        let aggregate_id = format!("a{number}");
        for hours_ago in [9, 8, 7] {
            subject.tell(&aggregate_id, hours_ago);
        }
        subject.limit(&aggregate_id, retention);
        assert_eq!(versions(&subject.stream(&aggregate_id)), [3], "{retention:?}");
        assert_eq!(subject.version(&aggregate_id), 3);
        subject.tell(&aggregate_id, 6);
        assert_eq!(versions(&subject.stream(&aggregate_id)), [4], "{retention:?}");
    }
    assert_eq!(versions(&subject.all()), [4, 4, 4, 4]);
    assert!(matches!(subject.store.set_retention("a0".into(), Retention::new().max_count(0)).wait(), Err(Error::Configuration { .. })));
}

pub(super) fn limits_replace_each_other_and_bring_nothing_back(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 10);
    let limit = |retention: Retention| {
        subject.limit("a", retention);
        assert_eq!(subject.store.retention("a".into()).wait().expect("known"), retention);
        versions(&subject.stream("a"))
    };
    assert_eq!(limit(Retention::new().max_count(4)), [7, 8, 9, 10]);
    assert_eq!(limit(Retention::new().truncate_before(AggregateVersion(3))), [7, 8, 9, 10]);
    assert_eq!(limit(Retention::new().truncate_before(AggregateVersion(9))), [9, 10]);
    assert_eq!(limit(Retention::new().max_count(5)), [9, 10]);
    assert_eq!(limit(Retention::new()), [9, 10]);
    subject.grow("a", 9);
    assert_eq!(versions(&subject.stream("a")), (9..=19).collect::<Vec<_>>());
}

pub(super) fn setting_the_same_limits_again_stores_nothing(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 3);
    assert_eq!(subject.limit("a", Retention::new()).position.0, 3);
    let retention = Retention::new().max_count(7).max_age(Duration::from_hours(1));
    let first = subject.limit("a", retention);
    subject.grow("b", 1);
    assert_eq!(subject.limit("a", retention), first);
    assert_eq!(subject.head(), 5);
}

pub(super) fn limits_of_what_has_no_events_are_refused(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    let limit = || subject.store.set_retention("a".into(), Retention::new().max_count(2)).wait();
    assert!(matches!(limit(), Err(Error::AggregateNotFound { .. })));
    assert_eq!(subject.store.retention("a".into()).wait().expect("known"), Retention::new());
    subject.grow("a", 1);
    subject.delete("a");
    assert!(matches!(limit(), Err(Error::AggregateNotFound { .. })));
}

pub(super) fn deleting_ends_limits(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    subject.grow("a", 5);
    subject.limit("a", Retention::new().max_count(2));
    subject.delete("a");
    assert_eq!(subject.store.retention("a".into()).wait().expect("known"), Retention::new());
    subject.grow("a", 4);
    assert_eq!(versions(&subject.stream("a")), [6, 7, 8, 9]);
    subject.limit("a", Retention::new().max_count(3));
    assert_eq!(versions(&subject.stream("a")), [7, 8, 9]);
}

pub(super) fn one_of_64_deletions_and_appends_at_a_version_wins(backend: &dyn Backend) {
    let Some(subject) = keeping(backend) else { return };
    for round in 0..5 {
        let aggregate_id = &*format!("a{round}");
        subject.grow(aggregate_id, 3);
        let deletions = (0..32).map(|_| subject.store.delete(aggregate_id.into(), exact(3)));
        let appends = (0..32).map(|_| subject.store.append(AppendBatch::one(aggregate_id, THING, exact(3), events(1))));
        let under_way = deletions.map(|one| (Some(one), None)).zip(appends.map(|one| (None, Some(one)))).flat_map(|(one, other)| [one, other]);
        let answers = drive(under_way.map(|(deletion, append)| async move {
            match (deletion, append) {
                (Some(deletion), _) => ("deleted", deletion.await.map(|receipt| receipt.position.0)),
                (_, Some(append)) => ("appended", append.await.map(|receipts| receipts[0].position.0)),
                (None, None) => ("nothing", Ok(0)),
            }
        }));
        let mut won: Vec<_> = answers.iter().filter_map(|(what, answer)| answer.as_ref().ok().map(|position| (*what, *position))).collect();
        won.dedup();
        assert_eq!(won.len(), 1, "{won:?}");
        for (_, answer) in &answers {
            assert!(matches!(answer, Ok(_) | Err(Error::Conflict { .. })), "{answer:?}");
        }
        let left = if won[0].0 == "deleted" { 0 } else { 4 };
        assert_eq!(subject.stream(aggregate_id).len(), left);
    }
}

pub(super) fn deletions_and_limits_hold_after_reopening(backend: &dyn Backend) {
    let Some(mut subject) = keeping(backend).filter(Subject::is_persistent) else { return };
    for aggregate_id in ["gone", "again", "few", "all"] {
        subject.append(&AppendBatch::one(aggregate_id, "Account", Any, events(6)));
        // So that they lie in files of their own.
        subject.append(&one("large", NewEvent { data: crate::event::EventData::Protobuf(vec![1; 70_000]), ..event("Grew") }));
    }
    subject.append(&AppendBatch::one("gone", "Account", Any, events(1)).for_tenant("acme"));
    subject.delete("gone");
    subject.delete("again");
    subject.append(&AppendBatch::one("again", "Account", NoStream, events(2)));
    let limits = Retention::new().max_count(2).max_age(Duration::from_hours(1));
    subject.limit("few", limits);
    let picture = |subject: &Subject| {
        let streams: Vec<_> = ["gone", "again", "few", "all"].into_iter().map(|id| (versions(&subject.stream(id)), subject.info(id))).collect();
        let tenants = subject.info(StreamKey { tenant: "acme", aggregate_id: "gone" });
        (streams, positions(&subject.all()), positions(&subject.read_all(ReadAll::new().include_system())), tenants)
    };
    let before = picture(&subject);
    assert_eq!(before.0.iter().map(|(versions, _)| versions.clone()).collect::<Vec<_>>(), [vec![], vec![7, 8], vec![5, 6], (1..=6).collect()]);
    for _ in 0..3 {
        subject.tidy();
        assert_eq!(picture(&subject), before);
        subject.reopen();
        assert_eq!(picture(&subject), before);
        assert_eq!(subject.store.retention("few".into()).wait().expect("known"), limits);
        assert_deleted(&subject.try_append(&AppendBatch::one("gone", "Account", exact(6), events(1))).expect_err("refused"), "gone", exact(6), 6);
        let refused = subject.try_append(&AppendBatch::one("gone", "Order", NoStream, events(1)));
        assert!(matches!(refused, Err(Error::AggregateType { .. })), "{refused:?}");
    }
    assert_eq!(subject.append(&AppendBatch::one("gone", "Account", NoStream, events(1)))[0].version.0, 7);
    subject.reopen();
    assert_eq!(versions(&subject.stream("gone")), [7]);
}

pub(super) fn a_store_without_retention_refuses_it(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    if subject.store.capabilities().retention {
        return;
    }
    subject.grow("a", 1);
    assert!(matches!(subject.try_delete("a", Any), Err(Error::Unsupported { .. })));
    assert!(matches!(subject.store.set_retention("a".into(), Retention::new()).wait(), Err(Error::Unsupported { .. })));
    assert!(matches!(subject.store.retention("a".into()).wait(), Err(Error::Unsupported { .. })));
    assert_eq!(subject.stream("a").len(), 1);
}
