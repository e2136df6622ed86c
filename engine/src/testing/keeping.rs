//! What is stored comes back as it was: payloads to the byte, metadata, tags, times.

use super::Backend;
use super::arrange::{Subject, THING, event, events, full_event, one};
use crate::event::{EventData, Json, NewEvent, Timestamp};
use crate::store::{AppendBatch, ReadStream};
use crate::version::ExpectedVersion::Any;

pub(super) fn json_payloads_keep_every_byte(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let texts = [
        "{}",
        "null",
        " { \"b\" : 1 ,\n\t\"a\": 2 } ",
        "{\"twice\":1,\"twice\":2}",
        "1.0",
        "1e400",
        "-0.0",
        "12345678901234567890123456789",
        "\"\\u0041\\/\\ud83e\\udd80\"",
        "\"🦀\\u0000\"",
        "[[],{},\"\",0,true,null]",
    ];
    let payloads: Vec<NewEvent> = texts.iter().map(|text| NewEvent::new("Said", EventData::Json(Json::new(*text).expect("JSON")))).collect();
    subject.append(&AppendBatch::one("a", THING, Any, payloads.clone()));
    subject.assert_all_same(&subject.stream("a"), &payloads);
}

pub(super) fn protobuf_payloads_keep_every_byte(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let payloads = [vec![], vec![0], vec![0; 4096], (0..=255).collect(), b"{\"looks like\": \"JSON\"}".to_vec(), vec![0xff; 70_000]];
    let payloads: Vec<NewEvent> = payloads.into_iter().map(|bytes| NewEvent::new("Said", EventData::Protobuf(bytes))).collect();
    subject.append(&AppendBatch::one("a", THING, Any, payloads.clone()));
    subject.assert_all_same(&subject.stream("a"), &payloads);
}

pub(super) fn metadata_tags_and_schema_version_are_kept(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let (full, bare) = (full_event(), event("Bare"));
    subject.append(&AppendBatch::one("a", THING, Any, vec![bare.clone(), full.clone(), bare_twin(&bare)]));
    let stored = subject.stream("a");
    subject.assert_same(&stored[0], &bare);
    subject.assert_same(&stored[1], &full);
    assert_eq!([stored[0].has_extras(), stored[1].has_extras(), stored[2].has_extras()], [false, true, false]);
}

fn bare_twin(bare: &NewEvent) -> NewEvent {
    NewEvent { schema_version: 0, data: bare.data.clone(), ..event(&bare.event_type) }
}

pub(super) fn a_given_timestamp_is_kept(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let years_ago = Timestamp(Timestamp::now().0 - 400_000_000_000_000);
    // Not in order, before 1970, far in the future, and the ends of what can be said.
    let given = [years_ago, Timestamp(0), Timestamp(-1), Timestamp(i64::MAX), Timestamp(1), Timestamp(i64::MIN), Timestamp(4_102_444_800_000_001)];
    let told: Vec<NewEvent> = given.iter().map(|timestamp| NewEvent { timestamp: Some(*timestamp), ..event("Told") }).collect();
    subject.append(&AppendBatch::one("a", THING, Any, told.clone()));
    for new in &told {
        subject.append(&one("b", NewEvent { id: event("Told").id, ..new.clone() }));
    }
    for aggregate_id in ["a", "b"] {
        let kept: Vec<Timestamp> = subject.stream(aggregate_id).iter().map(crate::Event::timestamp).collect();
        assert_eq!(kept, given);
    }
}

pub(super) fn timestamps_that_were_not_given_are_commit_times_and_never_decrease(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let before = Timestamp::now();
    for round in 0..20 {
        subject.grow("a", 1 + round % 3);
        // Times that were given do not move those that were not.
        subject.append(&one("b", NewEvent { timestamp: Some(Timestamp(i64::MAX)), ..event("Told") }));
        subject.append(&AppendBatch::one("b", THING, Any, vec![NewEvent { timestamp: Some(Timestamp(0)), ..event("Told") }]).and(
            "a",
            THING,
            Any,
            events(1),
        ));
    }
    let after = Timestamp::now();
    let times: Vec<Timestamp> = subject.stream("a").iter().map(crate::Event::timestamp).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|time| (before..=after).contains(time)), "{before:?} to {after:?}: {times:?}");
}

pub(super) fn a_detached_event_is_equal_to_its_original(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 10);
    let full = full_event();
    subject.append(&one("a", full.clone()).for_tenant("acme"));
    let stored = subject.read(ReadStream { tenant: "acme".to_owned(), ..ReadStream::of("a") });
    let detached = stored[0].detach();
    assert_eq!(detached, stored[0]);
    drop(stored);
    subject.assert_same(&detached, &full);
    assert_eq!((detached.tenant(), detached.aggregate_id(), detached.position().0), ("acme", "a", 11));
}
