//! What two stores show and answer, compared.

use std::ops::ControlFlow;

use eventuali::{AggregateVersion, AppendBatch, Event, EventStore, ExpectedVersion, NewEvent, ReadAll, ReadStream, Result, StreamKey};
use eventuali_sql::verify;

pub(crate) const STREAMS: [(&str, &str, &str); 4] = [("", "a", "Thing"), ("", "b", "Thing"), ("acme", "a", "Other"), ("", "never", "Thing")];

pub(crate) fn key(stream: usize) -> StreamKey<'static> {
    let (tenant, aggregate_id, _) = STREAMS[stream];
    StreamKey { tenant, aggregate_id }
}

pub(crate) fn batch(stream: usize, expected: ExpectedVersion, events: Vec<NewEvent>) -> AppendBatch {
    let (tenant, aggregate_id, aggregate_type) = STREAMS[stream];
    AppendBatch::one(aggregate_id, aggregate_type, expected, events).for_tenant(tenant)
}

/// What can be compared of an event, whatever its store makes of white space; every byte is compared by [`verify`].
fn shown(events: impl Iterator<Item = Result<Event>>) -> Vec<String> {
    let shown = |event: Event| {
        let json = event.json::<serde_json::Value>().map_or_else(|_| format!("{} bytes", event.payload().len()), |json| json.to_string());
        let name = (event.tenant().to_owned(), event.aggregate_id().to_owned(), event.aggregate_type().to_owned(), event.event_type().to_owned());
        format!("{} {:?} {} {} {} {}", event.position(), name, event.version(), event.id(), event.timestamp().0, json)
    };
    events.map(|event| shown(event.expect("readable"))).collect()
}

/// Everything that one store shows is what the other one shows, and both answer an append alike.
#[track_caller]
pub(crate) fn assert_alike(source: &dyn EventStore, target: &dyn EventStore) {
    assert_eq!(source.head().wait().expect("a head"), target.head().wait().expect("a head"));
    for query in [ReadAll::new(), ReadAll::new().include_system(), ReadAll::new().event_types(["Happened"])] {
        for query in [query.clone(), query.backwards()] {
            assert_eq!(shown(source.read_all(query.clone())), shown(target.read_all(query)));
        }
    }
    for stream in 0..STREAMS.len() {
        let whole = ReadStream { tenant: key(stream).tenant.to_owned(), ..ReadStream::of(key(stream).aggregate_id) };
        for query in [whole.clone(), whole.clone().backwards(), whole.clone().after(AggregateVersion(2)).limit(3), whole.backwards().limit(2)] {
            assert_eq!(shown(source.read(query.clone())), shown(target.read(query.clone())), "{query:?}");
        }
        assert_eq!(source.stream(key(stream)).wait().expect("known"), target.stream(key(stream)).wait().expect("known"), "{stream}");
        let version = source.stream(key(stream)).wait().expect("known").map_or(3, |info| info.version.0);
        let exact = [0, version - 1, version, version + 1].map(|version| ExpectedVersion::Exact(AggregateVersion(version)));
        for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream, ExpectedVersion::Exists].into_iter().chain(exact) {
            let answer = |store: &dyn EventStore| match store.append(batch(stream, expected, Vec::new())).wait() {
                Ok(receipts) => format!("{} {}", receipts[0].position, receipts[0].version),
                Err(error) => error.to_string(),
            };
            assert_eq!(answer(source), answer(target), "{stream}: {expected:?}");
        }
        if source.capabilities().retention && target.capabilities().retention {
            assert_eq!(source.retention(key(stream)).wait().expect("known"), target.retention(key(stream)).wait().expect("known"));
        }
    }
    let verified = verify(source, target, |_| ControlFlow::Continue(())).expect("compared");
    assert_eq!(verified.difference, None);
    let head = source.head().wait().expect("a head").0;
    assert_eq!(verified.events + verified.left_out, head);
    assert_eq!(verified.events, source.read_all(ReadAll::new().include_system()).count() as u64);
}
