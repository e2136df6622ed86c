//! Stores of every format version open for ever, and can be read without this crate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use eventuali::maintenance::fork;
use eventuali::{
    AppendBatch, Durability, Event, EventData, EventMetadata, EventStore, ExpectedVersion, Json, LogStore, NewEvent, OpenOptions, Position, ReadAll,
    Tag, Timestamp,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Where the stores of earlier versions are kept.
fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

fn event(number: u128, event_type: &str, data: EventData) -> NewEvent {
    NewEvent {
        id: Uuid::from_u128((0x0190_0000_0000_7000_8000_u128 << 48) + number),
        event_type: event_type.to_owned(),
        schema_version: 1,
        data,
        metadata: EventMetadata::default(),
        tags: Vec::new(),
        timestamp: Some(Timestamp(1_700_000_000_000_000 + i64::try_from(number).expect("small"))),
    }
}

fn json_data(value: &Value) -> EventData {
    EventData::json(value).expect("JSON")
}

/// What every golden store holds: each feature of the format once, in two segments and two epochs.
fn batches() -> Vec<AppendBatch> {
    let metadata = EventMetadata {
        causation_id: Some("cause".to_owned()),
        correlation_id: Some("Zusammenhang ↔".to_owned()),
        user_id: None,
        headers: BTreeMap::from([("a".to_owned(), "1".to_owned()), ("ä".to_owned(), String::new())]),
    };
    let tagged = NewEvent {
        metadata,
        tags: vec![Tag("course:7".to_owned()), Tag("🦀".to_owned())],
        schema_version: 3,
        ..event(4, "order.shipped", json_data(&json!({"to": "Zürich"})))
    };
    let exact = EventData::Json(Json::new(b" {\"n\": 123456789012345678901234567890.10, \"n\": null} ".to_vec()).expect("JSON"));
    let large = json_data(&json!({"filler": "x".repeat(50_000)}));
    vec![
        AppendBatch::one("order-1", "Order", ExpectedVersion::NoStream, vec![event(1, "OrderPlaced", json_data(&json!({"total": 12})))]),
        AppendBatch::default()
            .and(
                "order-1",
                "Order",
                ExpectedVersion::Any,
                vec![event(2, "OrderPaid", exact), event(3, "Stamped", EventData::Protobuf(vec![8, 150, 1]))],
            )
            .and("order/../2 🦀", "Order", ExpectedVersion::Any, vec![tagged])
            .and("order-1", "Order", ExpectedVersion::Any, vec![event(5, "Emptied", EventData::Protobuf(Vec::new()))]),
        AppendBatch::one("order-1", "Order", ExpectedVersion::NoStream, vec![event(6, "OrderPlaced", json_data(&json!([])))]).for_tenant("acme"),
        AppendBatch::one("large", "Large", ExpectedVersion::NoStream, vec![event(7, "Filled", large.clone())]),
        AppendBatch::one("large", "Large", ExpectedVersion::Exists, vec![event(8, "Filled", large)]),
    ]
}

/// Writes a golden store, closed after the first three batches and opened again.
fn write(path: &Path) {
    let options = OpenOptions::new().segment_bytes(64 << 10).durability(Durability::Os);
    for part in [&batches()[..3], &batches()[3..]] {
        let store = options.clone().open(path).expect("the store opens");
        for batch in part {
            store.append(batch.clone()).wait().expect("the append is stored");
        }
        store.close().wait().expect("the store closes");
    }
}

fn read(path: &Path) -> Vec<Event> {
    let store = LogStore::open(path).expect("the store opens");
    store.read_all(ReadAll::new()).collect::<Result<_, _>>().expect("the store is readable")
}

/// What both readers say of an event.
fn described(event: &Event) -> Value {
    let (metadata, tags) = (event.metadata().expect("metadata"), event.tags().expect("tags"));
    json!({
        "position": event.position().0,
        "version": event.version().0,
        "timestamp": event.timestamp().0,
        "id": event.id().to_string(),
        "tenant": event.tenant(),
        "aggregate_id": event.aggregate_id(),
        "aggregate_type": event.aggregate_type(),
        "event_type": event.event_type(),
        "schema_version": event.schema_version(),
        "format": format!("{:?}", event.format()).to_lowercase(),
        "payload": base64(event.payload()),
        "causation_id": metadata.causation_id,
        "correlation_id": metadata.correlation_id,
        "user_id": metadata.user_id,
        "headers": metadata.headers,
        "tags": tags.into_iter().map(|Tag(tag)| tag).collect::<Vec<_>>(),
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let number = chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        (0..4).map(|digit| if digit <= chunk.len() { char::from(DIGITS[number >> (18 - 6 * digit) & 63]) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// What the reader in Python says.
fn read_elsewhere(path: &Path) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_store.py");
    let output = Command::new("python3").arg(script).arg(path).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn a_golden_store_of_version_1_reads_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a directory");
    if let Some(target) = std::env::var_os("EVENTUALI_WRITE_GOLDEN") {
        // Once for each new version of the format; the lock names a machine and stays behind.
        write(Path::new(&target));
        fs::remove_file(Path::new(&target).join("LOCK")).expect("the lock");
    }
    copy(&golden("v1"), &folder.path().join("golden"));
    write(&folder.path().join("new"));
    let events = read(&folder.path().join("golden"));
    assert_eq!(events, read(&folder.path().join("new")));
    let appended = batches().into_iter().flat_map(|batch| batch.streams).flat_map(|stream| stream.events);
    assert!(events.iter().map(Event::id).eq(appended.map(|event| event.id)));
    assert_eq!(events.len(), 8);
}

#[test]
fn a_golden_store_can_be_written_on() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("golden");
    copy(&golden("v1"), &path);
    let store = LogStore::open(&path).expect("the store opens");
    let again = store.append(batches().swap_remove(0)).wait().expect("a repeated append");
    assert_eq!(again[0].position.0, 1);
    let next = AppendBatch::one(
        "order-1",
        "Order",
        ExpectedVersion::Exact(eventuali::AggregateVersion(4)),
        vec![event(9, "OrderPaid", json_data(&json!(1)))],
    );
    assert_eq!(store.append(next).wait().expect("the append is stored")[0].position.0, 9);
}

#[test]
fn a_reader_written_from_the_document_alone_sees_the_same_events() {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, store) in [("golden", golden("v1")), ("new", folder.path().join("written"))] {
        if name == "new" {
            write(&store);
        }
        let elsewhere = read_elsewhere(&store);
        let path = folder.path().join(name);
        copy(&store, &path);
        assert_eq!(elsewhere, read(&path).iter().map(described).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_reader_written_from_the_document_alone_sees_the_events_of_forks() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = |generation: u32| folder.path().join(format!("generation-{generation}"));
    copy(&golden("v1"), &path(0));
    for generation in 1..=3 {
        let store = OpenOptions::new().segment_bytes(64 << 10).open(path(generation - 1)).expect("the store opens");
        for number in 0..3 {
            let large = event(1000 + u128::from(10 * generation + number), "OrderPaid", json_data(&json!("x".repeat(30_000))));
            store.append(AppendBatch::one("order-1", "Order", ExpectedVersion::Any, vec![large])).wait().expect("the append is stored");
        }
        let head = store.head().wait().expect("known").0;
        fork(&store, path(generation), Some(Position(head - 1))).expect("a fork");
        store.close().wait().expect("closed");
    }
    for generation in 0..=3 {
        let elsewhere = read_elsewhere(&path(generation));
        assert_eq!(elsewhere, read(&path(generation)).iter().map(described).collect::<Vec<_>>());
        assert!(elsewhere.len() as u64 >= 8 + 2 * u64::from(generation));
    }
}
