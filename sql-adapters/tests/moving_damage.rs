//! Targets that were changed behind the store's back: verifying finds each change and names its position and part.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

#[path = "faults/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use eventuali::{AppendBatch, Error, EventData, EventMetadata, EventStore, ExpectedVersion, Json, LogStore, NewEvent, ReadAll, Tag, Timestamp};
use eventuali_sql::{Config, Difference, DifferenceKind, Progress, Store, Verified, export, verify};
use session::Session;
use support::{new_table, postgres_url};
use tempfile::TempDir;

/// More than one range of digests, of 4096.
const EVENTS: u64 = 4500;
/// At the ends of ranges and within one.
const POSITIONS: [u64; 5] = [1, 4096, 4097, 4200, EVENTS];

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Every part of every event is something that can be changed. Its microseconds end with the last digit of its number.
fn event(number: u64) -> NewEvent {
    let data = match number % 4 {
        0 => EventData::Protobuf(number.to_le_bytes().to_vec()),
        _ => EventData::Json(Json::new(format!(r#"{{"name": "ada", "number": {number}.10}}"#)).expect("JSON")),
    };
    let metadata = EventMetadata { user_id: Some("ada".to_owned()), headers: [("h".to_owned(), "v".to_owned())].into(), ..EventMetadata::default() };
    let timestamp = Timestamp(1_700_000_000_000_000 + i64::try_from(number).expect("small"));
    NewEvent { metadata, tags: vec![Tag("a:1".to_owned()), Tag("b".to_owned())], timestamp: Some(timestamp), ..NewEvent::new("Happened", data) }
}

fn source() -> LogStore {
    let store = LogStore::memory().expect("a store");
    for first in (1..=EVENTS).step_by(100) {
        let events = (first..first + 100).map(event).collect();
        store.append(AppendBatch::one(format!("s-{}", first % 7), "Thing", ExpectedVersion::Any, events)).wait().expect("stored");
    }
    store
}

/// A copy of the source in a database, and a way to change it by hand.
trait Copied {
    fn store(&self) -> &Store;
    fn run(&mut self, statements: &str);
    /// The statement in the words of this database, of `[postgres, sqlite]`.
    fn word<'a>(&self, words: [&'a str; 2]) -> &'a str;
}

struct InPostgres {
    store: Store,
    table: String,
    session: Session,
}

struct InSqlite {
    store: Store,
    session: Session<sqlx::SqliteConnection>,
    _folder: TempDir,
}

impl Copied for InPostgres {
    fn store(&self) -> &Store {
        &self.store
    }
    fn run(&mut self, statements: &str) {
        self.session.run(&statements.replace("events", &self.table));
    }
    fn word<'a>(&self, words: [&'a str; 2]) -> &'a str {
        words[0]
    }
}

impl Copied for InSqlite {
    fn store(&self) -> &Store {
        &self.store
    }
    fn run(&mut self, statements: &str) {
        self.session.run_sqlite(statements);
    }
    fn word<'a>(&self, words: [&'a str; 2]) -> &'a str {
        words[1]
    }
}

fn in_postgres(source: &dyn EventStore) -> InPostgres {
    let table = new_table();
    let store = Config::postgres(&postgres_url()).and_then(|config| config.table_name(&table)).and_then(Config::open).expect("it opens");
    export(source, &store, on).expect("moved");
    InPostgres { store, table, session: Session::new(&postgres_url()) }
}

fn in_sqlite(source: &dyn EventStore) -> InSqlite {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("events.db");
    let store = Config::sqlite(&path).open().expect("it opens");
    export(source, &store, on).expect("moved");
    InSqlite { store, session: Session::sqlite(&path), _folder: folder }
}

/// What verifying finds.
#[track_caller]
fn difference(source: &dyn EventStore, copy: &dyn Copied) -> Option<Difference> {
    let Verified { difference, digest, complete, .. } = verify(source, copy.store().as_dyn(), on).expect("compared");
    assert!(complete && digest.is_none() == difference.is_some());
    difference
}

/// A part of an event, and how it is changed in Postgres and in SQLite.
const CHANGES: [(&str, [&str; 2]); 12] = [
    (
        "payload",
        [
            "event_data = replace(event_data::text, 'ada', 'adb')::jsonb, event_bytes = CASE WHEN event_bytes IS NOT NULL THEN set_byte(event_bytes, 7, 9) END",
            "event_data = replace(event_data, 'ada', 'adb'), event_bytes = CASE WHEN event_bytes IS NOT NULL THEN x'0900000000000000' END",
        ],
    ),
    ("metadata", ["metadata = replace(metadata::text, 'ada', 'adb')::jsonb", "metadata = replace(metadata, 'ada', 'adb')"]),
    ("metadata", [r#"metadata = replace(metadata::text, '"h"', '"g"')::jsonb"#, r#"metadata = replace(metadata, '"h"', '"g"')"#]),
    (
        "timestamp",
        ["timestamp = timestamp + interval '1 microsecond'", "timestamp = substr(timestamp, 1, 25) || ((substr(timestamp, 26, 1) + 1) % 10) || 'Z'"],
    ),
    ("tags", ["tags = array_replace(tags, 'a:1', 'a:2')", "tags = replace(tags, 'a:1', 'a:2')"]),
    ("tags", ["tags = ARRAY['b', 'a:1']", r#"tags = '["b", "a:1"]'"#]),
    ("event type", ["event_type = 'Happenee'", "event_type = 'Happenee'"]),
    ("aggregate type", ["aggregate_type = 'Think'", "aggregate_type = 'Think'"]),
    ("aggregate version", ["aggregate_version = aggregate_version + 100000", "aggregate_version = aggregate_version + 100000"]),
    ("schema version", ["event_version = 2", "event_version = 2"]),
    ("aggregate id", ["aggregate_id = aggregate_id || 'x'", "aggregate_id = aggregate_id || 'x'"]),
    ("tenant", ["tenant = 'acme'", "tenant = 'acme'"]),
];

fn every_changed_part_is_named(source: &dyn EventStore, copy: &mut dyn Copied) {
    assert_eq!(difference(source, copy), None);
    copy.run("CREATE TABLE kept_events AS SELECT * FROM events");
    for (number, (part, change)) in CHANGES.iter().enumerate() {
        let position = POSITIONS[number % POSITIONS.len()];
        copy.run(&format!("UPDATE events SET {} WHERE global_position = {position}", copy.word(*change)));
        let found = difference(source, copy).unwrap_or_else(|| panic!("{part} at {position} is found"));
        assert_eq!((found.position.0, &found.kind), (position, &DifferenceKind::Differs(vec![part])));
        assert_eq!(found.source_event, found.target_event);
        assert!(found.to_string().contains(&format!("position {position} differ in {part}")), "{found}");
        copy.run(&format!(
            "DELETE FROM events WHERE global_position = {position}; INSERT INTO events SELECT * FROM kept_events WHERE global_position = {position}"
        ));
    }
    assert_eq!(difference(source, copy), None);
    // Of several differences the first is named.
    copy.run("UPDATE events SET event_type = 'Else' WHERE global_position IN (4300, 4250, 4450)");
    assert_eq!(difference(source, copy).expect("found").position.0, 4250);
    copy.run("DROP TABLE kept_events");
}

fn every_missing_swapped_and_added_row_is_named(source: &dyn EventStore, copy: &mut dyn Copied) {
    copy.run("CREATE TABLE kept_events AS SELECT * FROM events");
    for position in POSITIONS {
        copy.run(&format!("DELETE FROM events WHERE global_position = {position}"));
        let found = difference(source, copy).unwrap_or_else(|| panic!("that {position} is missing is found"));
        assert_eq!((found.position.0, &found.kind, found.target_event), (position, &DifferenceKind::MissingInTarget, None));
        assert!(found.source_event.is_some(), "its id is named");
        copy.run(&format!("INSERT INTO events SELECT * FROM kept_events WHERE global_position = {position}"));
    }
    for (one, other) in [(1, EVENTS), (4096, 4097), (4200, 4201)] {
        let swap = format!(
            "UPDATE events SET global_position = 1000000 WHERE global_position = {one};
             UPDATE events SET global_position = {one} WHERE global_position = {other};
             UPDATE events SET global_position = {other} WHERE global_position = 1000000"
        );
        copy.run(&swap);
        let found = difference(source, copy).unwrap_or_else(|| panic!("that {one} and {other} are swapped is found"));
        let DifferenceKind::Differs(parts) = &found.kind else { panic!("{found:?}") };
        assert_eq!((found.position.0, parts.contains(&"event id")), (one, true), "{found:?}");
        assert_ne!(found.source_event, found.target_event);
        copy.run(&swap);
    }
    assert_eq!(difference(source, copy), None);
    let columns = "id, tenant, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data, metadata, timestamp, epoch";
    let id = copy.word(["gen_random_uuid()", "'00000000-0000-4000-8000-000000000000'"]);
    let values = columns.replacen("id", id, 1).replace("aggregate_version", "aggregate_version + 1000000");
    for position in [EVENTS + 1, EVENTS + 5000] {
        copy.run(&format!("INSERT INTO events (global_position, {columns}) SELECT {position}, {values} FROM kept_events WHERE global_position = 1"));
        let found = difference(source, copy).unwrap_or_else(|| panic!("the row added at {position} is found"));
        assert_eq!((found.position.0, &found.kind, found.source_event), (position, &DifferenceKind::MissingInSource, None));
        let other_way = verify(copy.store().as_dyn(), source, on).expect("compared").difference.expect("it is found the other way round too");
        assert_eq!((other_way.position, other_way.kind), (found.position, DifferenceKind::MissingInTarget));
        copy.run(&format!("DELETE FROM events WHERE global_position = {position}"));
    }
    assert_eq!(difference(source, copy), None);
    copy.run("DROP TABLE kept_events");
}

fn a_source_without_a_row_is_moved_no_further(copy: &mut dyn Copied) {
    for position in [EVENTS, 4200, 1] {
        copy.run(&format!("DELETE FROM events WHERE global_position = {position}"));
        for target in [Config::memory(), Config::sqlite_in_memory()] {
            let target = target.open().expect("a store");
            let refused = export(copy.store().as_dyn(), &target, on);
            let words = format!("no event at position {position},");
            assert!(matches!(&refused, Err(Error::Unsupported { message }) if message.contains(&words)), "{refused:?}");
            let stored: Vec<u64> = target.as_dyn().read_all(ReadAll::new()).map(|event| event.expect("readable").position().0).collect();
            assert!(stored.iter().copied().eq(1..=stored.len() as u64) && stored.len() as u64 <= EVENTS, "what was stored is where it was");
        }
    }
}

#[test]
fn a_database_without_a_row_is_moved_no_further() {
    let source = source();
    a_source_without_a_row_is_moved_no_further(&mut in_postgres(&source));
    a_source_without_a_row_is_moved_no_further(&mut in_sqlite(&source));
}

#[test]
fn in_postgres_every_changed_part_is_named() {
    let source = source();
    every_changed_part_is_named(&source, &mut in_postgres(&source));
}

#[test]
fn in_sqlite_every_changed_part_is_named() {
    let source = source();
    every_changed_part_is_named(&source, &mut in_sqlite(&source));
}

#[test]
fn in_postgres_every_missing_swapped_and_added_row_is_named() {
    let source = source();
    every_missing_swapped_and_added_row_is_named(&source, &mut in_postgres(&source));
}

#[test]
fn in_sqlite_every_missing_swapped_and_added_row_is_named() {
    let source = source();
    every_missing_swapped_and_added_row_is_named(&source, &mut in_sqlite(&source));
}

#[test]
fn events_that_are_appended_while_it_verifies_are_no_difference() {
    let source = source();
    let copy = in_sqlite(&source);
    let mut ranges = 0;
    let verified = verify(&source, copy.store.as_dyn(), |_| {
        ranges += 1;
        copy.store.as_dyn().append(AppendBatch::one("own", "Thing", ExpectedVersion::Any, vec![event(1)])).wait().expect("stored");
        ControlFlow::Continue(())
    });
    assert_eq!((verified.expect("compared").difference, ranges), (None, 2));
}

/// The engine finds damage by its own checksums, wherever the store stands.
#[test]
fn damage_in_the_embedded_engine_ends_verifying_with_its_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("copy");
    let source = source();
    let copy = Config::embedded(&path).segment_bytes(256 << 10).open().expect("it opens");
    export(&source, &copy, on).expect("moved");
    assert_eq!(verify(&source, copy.as_dyn(), on).expect("compared").difference, None);
    let segment = path.join("000000001.g0.seg");
    let bytes = std::fs::read(&segment).expect("readable");
    let place = bytes.windows(5).rposition(|window| window == b"\"ada\"").expect("a payload") + 2;
    let file = std::fs::OpenOptions::new().write(true).open(&segment).expect("writable");
    file.write_all_at(&[bytes[place] ^ 1], place as u64).expect("written");
    for result in [verify(&source, copy.as_dyn(), on), verify(copy.as_dyn(), &source, on)] {
        let Err(error @ Error::Corruption(_)) = result else { panic!("expected the damage to be found, not {result:?}") };
        assert!(error.to_string().contains("000000001.g0.seg"), "{error}");
    }
}
