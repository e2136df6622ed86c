//! Limits: each is kept at its limit and refused one above.

use super::Backend;
use super::arrange::{Subject, THING, assert_limit, event, events, one, positions};
use crate::event::{EventData, EventMetadata, Json, NewEvent, Tag};
use crate::store::{AppendBatch, ReadStream};
use crate::version::ExpectedVersion::Any;

const PAYLOAD_BYTES_MAX: usize = 16 << 20;
const METADATA_BYTES_MAX: usize = 64 << 10;

fn with_payload(bytes: usize) -> NewEvent {
    // Not all alike, so that a piece that is missing or stands twice is seen.
    let payload = (0..bytes).map(|at| at.to_le_bytes()[at % 3]).collect();
    NewEvent::new("Grew", EventData::Protobuf(payload))
}

#[track_caller]
fn assert_kept(subject: &Subject, event: &NewEvent) {
    subject.append(&one("a", event.clone()));
    let stored = subject.read(ReadStream::of("a").backwards().limit(1));
    subject.assert_all_same(&stored, [event]);
}

pub(super) fn a_payload_of_no_bytes_is_kept(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_kept(&subject, &with_payload(0));
    assert_kept(&subject, &with_payload(1));
    assert!(Json::new(Vec::new()).is_err(), "no bytes are not JSON");
}

pub(super) fn a_payload_of_16_mib_is_kept_and_one_byte_more_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_kept(&subject, &with_payload(PAYLOAD_BYTES_MAX));
    let json = Json::from_serializer([vec![b'"'], vec![b'x'; PAYLOAD_BYTES_MAX - 2], vec![b'"']].concat());
    assert_kept(&subject, &NewEvent::new("Grew", EventData::Json(json)));
    let error = subject.try_append(&one("a", with_payload(PAYLOAD_BYTES_MAX + 1))).expect_err("one byte more");
    assert_limit(&error, PAYLOAD_BYTES_MAX as u64, PAYLOAD_BYTES_MAX as u64 + 1);
    assert_eq!(subject.head(), 2);
    subject.grow("a", 1);
    assert_eq!(positions(&subject.stream("a")), [1, 2, 3]);
}

/// Events whose metadata has this many bytes of text, a header counting 16 more.
fn with_metadata(bytes: usize) -> [NewEvent; 3] {
    let in_one = EventMetadata { user_id: Some("u".repeat(bytes)), ..EventMetadata::default() };
    let half = bytes / 2;
    let header = ("name".to_owned(), "v".repeat(bytes - half - 4 - 16));
    let spread = EventMetadata { causation_id: Some("c".repeat(half)), headers: [header].into(), ..EventMetadata::default() };
    let names = bytes / 32;
    let mut headers: Vec<_> = (0..names).map(|number| (format!("{number:016}"), String::new())).collect();
    headers[0].1 = "r".repeat(bytes % 32);
    let many = EventMetadata { headers: headers.into_iter().collect(), ..EventMetadata::default() };
    [in_one, spread, many].map(|metadata| NewEvent { metadata, ..event("Noted") })
}

pub(super) fn metadata_of_64_kib_is_kept_and_one_byte_more_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for largest in with_metadata(METADATA_BYTES_MAX) {
        assert_kept(&subject, &largest);
    }
    for too_large in with_metadata(METADATA_BYTES_MAX + 1) {
        assert_limit(&subject.refusal(&one("a", too_large)), METADATA_BYTES_MAX as u64, METADATA_BYTES_MAX as u64 + 1);
    }
}

fn tags(count: usize, bytes: usize) -> Vec<Tag> {
    (0..count).map(|number| Tag(format!("{number:0bytes$}"))).collect()
}

pub(super) fn an_event_with_32_tags_is_kept_and_with_33_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_kept(&subject, &NewEvent { tags: tags(32, 3), ..event("Tagged") });
    assert_limit(&subject.refusal(&one("a", NewEvent { tags: tags(33, 3), ..event("Tagged") })), 32, 33);
}

pub(super) fn a_tag_of_256_bytes_is_kept_and_of_257_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_kept(&subject, &NewEvent { tags: tags(1, 256), ..event("Tagged") });
    assert_kept(&subject, &NewEvent { tags: vec![Tag("🦀".repeat(64))], ..event("Tagged") });
    assert_limit(&subject.refusal(&one("a", NewEvent { tags: tags(1, 257), ..event("Tagged") })), 256, 257);
}

pub(super) fn a_batch_of_65536_events_is_kept_and_of_65537_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let mut all = events(65_537);
    let too_many = AppendBatch::one("a", THING, Any, all.clone());
    assert_limit(&subject.refusal(&too_many), 65_536, 65_537);
    let apart = AppendBatch::one("a", THING, Any, all.split_off(65_000)).and("b", THING, Any, all.clone());
    assert_limit(&subject.refusal(&apart), 65_536, 65_537);
    all.extend(events(536));
    let largest = AppendBatch::one("a", THING, Any, all.clone());
    let receipts = subject.append(&largest);
    assert_eq!((receipts[0].position.0, receipts[0].version.0, receipts[0].events), (65_536, 65_536, 65_536));
    let stored = subject.stream("a");
    assert_eq!(stored.len(), 65_536);
    subject.assert_same(&stored[0], &all[0]);
    subject.assert_same(&stored[65_535], &all[65_535]);
    assert_eq!(subject.append(&largest), receipts, "the largest append can be repeated too");
}

pub(super) fn a_batch_of_more_than_64_mib_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let of = |count: usize| AppendBatch::one("a", THING, Any, (0..count).map(|_| with_payload(PAYLOAD_BYTES_MAX)).collect());
    match subject.try_append(&of(5)).expect_err("80 MiB") {
        crate::Error::LimitExceeded { max, actual, .. } => assert!(max == 64 << 20 && actual > max, "{actual} of {max}"),
        other => panic!("expected an exceeded limit, not {other:?}"),
    }
    assert_eq!(subject.head(), 0);
    let kept = of(3);
    subject.append(&kept);
    subject.assert_all_same(&subject.stream("a"), &kept.streams[0].events);
}

pub(super) fn an_event_with_everything_at_its_limit_is_kept(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let longest = "n".repeat(512);
    for metadata in with_metadata(METADATA_BYTES_MAX).map(|event| event.metadata) {
        let full =
            NewEvent { event_type: longest.clone(), schema_version: u32::MAX, tags: tags(32, 256), metadata, ..with_payload(PAYLOAD_BYTES_MAX) };
        subject.append(&AppendBatch::one(&*longest, &*longest, Any, vec![full.clone()]).for_tenant(&*longest));
        let stored = subject.read(ReadStream { tenant: longest.clone(), ..ReadStream::of(&*longest).backwards().limit(1) });
        subject.assert_all_same(&stored, [&full]);
    }
}
