//! Moving history: every direction, twice, interrupted, into a wrong target; and what verifying says of a target that was changed.

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventuali::{
    AppendBatch, Error, Event, EventData, EventMetadata, EventStore, ExpectedVersion, Json, LogStore, NewEvent, Position, ReadAll, Result, Tag,
    Timestamp,
};
use eventuali_sql::{Config, DifferenceKind, Mirror, Progress, Store, export, export_json_lines, import_json_lines, verify};
use support::PostgresHome;
use tempfile::TempDir;

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Payloads, metadata, tags, times, tenants and names of every kind.
fn rich_events(round: u64) -> Vec<NewEvent> {
    let json = |text: &str| EventData::Json(Json::new(text).expect("JSON"));
    let plain = |data| NewEvent::new("Happened", data);
    let metadata = EventMetadata {
        causation_id: Some("c\u{0}".to_owned()),
        user_id: Some("ada".to_owned()),
        headers: [("a\tb".to_owned(), "\\N\n".to_owned())].into(),
        ..EventMetadata::default()
    };
    vec![
        plain(json(r#"{"b": 1.50, "a": [12345678901234567890123456789, -0.0, "\u0000"], "": {}}"#)),
        plain(json(" [ 1e2 ,\n 3 ] ")),
        plain(EventData::Protobuf(vec![0, 255, 10, 92])),
        NewEvent { metadata, tags: vec![Tag("a:1".to_owned()), Tag("{\"},NULL".to_owned())], schema_version: u32::MAX, ..plain(json("null")) },
        NewEvent { timestamp: Some(Timestamp(i64::MIN)), ..plain(EventData::Protobuf(Vec::new())) },
        NewEvent { timestamp: Some(Timestamp(i64::MAX)), ..plain(json(&format!("{round}"))) },
    ]
}

fn fill(store: &dyn EventStore, rounds: u64) {
    for round in 0..rounds {
        let stream = format!("ä/{}", round % 7);
        store.append(AppendBatch::one(stream, "Thing", ExpectedVersion::Any, rich_events(round))).wait().expect("stored");
        let other =
            AppendBatch::one("a", "Account", ExpectedVersion::Any, rich_events(round)).and("b", "Thing", ExpectedVersion::Any, rich_events(round));
        store.append(other.for_tenant("acme")).wait().expect("stored");
    }
}

fn all(store: &dyn EventStore) -> Vec<Event> {
    store.read_all(ReadAll::new()).collect::<Result<_>>().expect("readable")
}

/// A store of each kind, empty, each time it is asked.
struct Kinds {
    folder: TempDir,
}

const KINDS: [&str; 4] = ["memory", "directory", "sqlite", "postgres"];

impl Kinds {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn open(&self, kind: &str, name: &str) -> Store {
        let path = self.folder.path().join(name);
        match kind {
            "memory" => Config::memory(),
            "directory" => Config::embedded(path),
            "sqlite" => Config::sqlite(path),
            _ => PostgresHome::new().config(),
        }
        .open()
        .expect("the store opens")
    }
}

#[test]
fn every_store_moves_to_every_other_and_is_equal_there() {
    let kinds = Kinds::new();
    for from in KINDS {
        let source = kinds.open(from, &format!("from-{from}"));
        fill(source.as_dyn(), 30);
        let events = all(source.as_dyn()).len() as u64;
        for to in KINDS {
            let target = kinds.open(to, &format!("{from}-{to}"));
            let moved = export(source.as_dyn(), &target, on).expect("moved");
            assert_eq!((moved.events, moved.position, moved.complete), (events, Position(events), true), "{from} to {to}");
            let verified = verify(source.as_dyn(), target.as_dyn(), on).expect("compared");
            assert_eq!((verified.events, &verified.difference), (events, &None), "{from} to {to}");
            let back = verify(target.as_dyn(), source.as_dyn(), on).expect("compared");
            assert_eq!(back.digest, verified.digest, "the digest is that of the history, not of the store");
            // Once more it changes nothing; and what came since follows.
            assert_eq!(export(source.as_dyn(), &target, on).expect("moved").events, 0);
        }
        fill(source.as_dyn(), 1);
    }
}

#[test]
fn what_came_since_follows_and_the_store_goes_on_with_another_epoch() {
    let kinds = Kinds::new();
    for to in KINDS {
        let source = LogStore::memory().expect("a store");
        let target = kinds.open(to, to);
        for round in 1..4 {
            fill(&source, round);
            let moved = export(&source, &target, on).expect("moved");
            assert_eq!(moved.events, round * 18, "{to}");
        }
        let moved = target.as_dyn().identity().wait().expect("known");
        target.as_dyn().append(AppendBatch::one("own", "Thing", ExpectedVersion::NoStream, rich_events(0))).wait().expect("stored");
        let own = target.as_dyn().identity().wait().expect("known");
        assert!(to == "memory" || to == "directory" || own.epoch > moved.epoch, "{to}: {moved:?}, then {own:?}");
        let refused = export(&source, &target, on);
        assert!(matches!(refused, Err(Error::Diverged { .. })), "{to}: {refused:?}");
    }
}

#[test]
fn a_target_with_other_events_is_refused_before_anything_is_written() {
    let kinds = Kinds::new();
    let source = LogStore::memory().expect("a store");
    fill(&source, 3);
    for to in KINDS {
        let target = kinds.open(to, to);
        fill(target.as_dyn(), 1);
        let before = all(target.as_dyn());
        match export(&source, &target, on) {
            Err(Error::Diverged { position, .. }) => assert!(position.0 <= before.len() as u64, "{to}"),
            other => panic!("{to}: expected a refusal, not {other:?}"),
        }
        assert_eq!(all(target.as_dyn()), before, "{to}");
        // Another store's history is not continued either.
        let (other, target) = (LogStore::memory().expect("a store"), kinds.open(to, &format!("{to}-2")));
        fill(&other, 1);
        export(&other, &target, on).expect("moved");
        assert!(matches!(export(&source, &target, on), Err(Error::Diverged { .. })), "{to}");
    }
}

#[test]
fn a_store_is_not_moved_to_itself() {
    let kinds = Kinds::new();
    for of in KINDS {
        let store = kinds.open(of, of);
        fill(store.as_dyn(), 1);
        let mut targets = vec![store.clone()];
        if ["directory", "sqlite"].contains(&of) {
            targets.push(kinds.open(of, of));
        }
        for target in targets {
            let refused = export(store.as_dyn(), &target, on);
            assert!(matches!(&refused, Err(Error::Configuration { message }) if message.contains("same store")), "{of}: {refused:?}");
        }
    }
}

#[test]
fn a_stopped_export_goes_on_where_it_was() {
    let kinds = Kinds::new();
    let source = LogStore::memory().expect("a store");
    let event = || NewEvent::json("Happened", &1).expect("an event");
    for _ in 0..10 {
        let events = (0..5000).map(|_| event()).collect();
        source.append(AppendBatch::one("a", "Thing", ExpectedVersion::Any, events)).wait().expect("stored");
    }
    for to in ["directory", "sqlite", "postgres"] {
        let target = kinds.open(to, to);
        let mut told = Vec::new();
        let stopped = export(&source, &target, |progress| {
            told.push(*progress);
            ControlFlow::Break(())
        })
        .expect("stopped");
        assert!(!stopped.complete && stopped.events > 0 && stopped.events < 50_000, "{to}: {stopped:?}");
        assert_eq!((told.len(), told[0].position, told[0].last_position), (1, stopped.events, Some(50_000)));
        assert!(told[0].rate() > 0.0 && told[0].time_left().is_some_and(|left| left > Duration::ZERO));
        let rest = export(&source, &target, on).expect("moved");
        assert_eq!((rest.events + stopped.events, rest.position), (50_000, Position(50_000)), "{to}");
        assert_eq!(verify(&source, target.as_dyn(), on).expect("compared").difference, None, "{to}");
    }
}

#[test]
fn the_first_difference_is_named() {
    let kinds = Kinds::new();
    let source = LogStore::memory().expect("a store");
    fill(&source, 300);
    let events = all(&source);
    let shorter = kinds.open("memory", "shorter");
    export(&source, &shorter, |_| ControlFlow::Continue(())).expect("moved");
    fill(&source, 1);
    let longer = verify(&source, shorter.as_dyn(), on).expect("compared").difference.expect("a difference");
    assert_eq!((longer.position.0, longer.kind, longer.target_event), (events.len() as u64 + 1, DifferenceKind::MissingInTarget, None));
    let other_way = verify(shorter.as_dyn(), &source, on).expect("compared").difference.expect("a difference");
    assert_eq!(other_way.kind, DifferenceKind::MissingInSource);
}

#[test]
fn json_lines_keep_everything_and_can_be_read_twice() {
    let kinds = Kinds::new();
    let source = LogStore::memory().expect("a store");
    fill(&source, 40);
    let mut lines = Vec::new();
    let written = export_json_lines(&source, &mut lines, on).expect("written");
    assert_eq!(written.events, 720);
    assert_eq!(String::from_utf8_lossy(&lines).lines().count(), 721, "a line for each event, and one for the store");
    for to in KINDS {
        let target = kinds.open(to, to);
        for events in [720, 0] {
            assert_eq!(import_json_lines(&mut &lines[..], &target, on).expect("read").events, events, "{to}");
        }
        assert_eq!(verify(&source, target.as_dyn(), on).expect("compared").difference, None, "{to}");
        if to != "postgres" {
            assert_eq!(all(&source), all(target.as_dyn()), "{to}: every byte is kept");
        }
    }
    let broken = [&lines[..], b"{\"position\": 721}\n"].concat();
    let refused = import_json_lines(&mut &broken[..], &kinds.open("memory", "broken"), on);
    assert!(matches!(&refused, Err(Error::Serialization { reason }) if reason.contains("line 722")), "{refused:?}");
}

#[test]
fn json_lines_of_which_one_is_missing_are_refused_there() {
    let kinds = Kinds::new();
    let source = LogStore::memory().expect("a store");
    fill(&source, 1);
    let mut lines = Vec::new();
    export_json_lines(&source, &mut lines, on).expect("written");
    let lines: Vec<&str> = std::str::from_utf8(&lines).expect("UTF-8").lines().collect();
    for to in KINDS {
        for missing in [1, 4] {
            let text = [&lines[..missing], &lines[missing + 1..]].concat().join("\n");
            let target = kinds.open(to, &format!("{to}-{missing}"));
            let refused = import_json_lines(&mut text.as_bytes(), &target, on);
            let words = format!("line {} is no event: position {} is missing before it", missing + 1, missing);
            assert!(matches!(&refused, Err(Error::Serialization { reason }) if *reason == words), "{to}: {refused:?}");
            assert!(all(target.as_dyn()).iter().zip(1..).all(|(event, position)| event.position().0 == position), "{to}: as they were");
        }
    }
}

#[test]
fn a_mirror_follows_and_goes_on_after_it_was_stopped() {
    let kinds = Kinds::new();
    for to in ["directory", "sqlite", "postgres"] {
        let home = PostgresHome::new();
        let open = |to: &str| if to == "postgres" { home.config().open().expect("the store opens") } else { kinds.open(to, to) };
        let source: Arc<dyn EventStore> = Arc::new(LogStore::memory().expect("a store"));
        fill(&*source, 2);
        for round in 1..4 {
            let mirror = Mirror::start(Arc::clone(&source), open(to)).expect("it starts");
            fill(&*source, round);
            let head = source.head().wait().expect("a head");
            let deadline = Instant::now() + Duration::from_secs(30);
            while mirror.status().position < head {
                assert!(Instant::now() < deadline && mirror.is_running(), "{to}: {:?}", mirror.status());
                std::thread::yield_now();
            }
            let status = mirror.stop().expect("it was in order");
            assert!(status.waiting.is_none() && status.position == head, "{to}: {status:?}");
        }
        assert_eq!(verify(&*source, open(to).as_dyn(), on).expect("compared").difference, None, "{to}");
    }
}
