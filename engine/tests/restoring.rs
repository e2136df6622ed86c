//! Restoring another store's history: what it leaves out keeps its positions, wherever that lies.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use eventuali::maintenance::{Extent, backup, fork, salvage, verify};
use eventuali::{
    AggregateVersion, AppendBatch, Durability, Error, Event, EventData, EventStore, ExpectedVersion, Follow, HistoryItem, LogStore, NewEvent,
    OpenOptions, Position, ReadAll, ReadStream, Result, Retention, compress,
};
use tempfile::TempDir;

fn go_on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options() -> OpenOptions {
    OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10)
}

fn open(path: &Path) -> LogStore {
    options().open(path).expect("the store opens")
}

/// Appends an event of 2 KiB that tells whose it is and which one.
fn tell(store: &LogStore, aggregate_id: &str, count: u64) {
    for _ in 0..count {
        let version = store.stream(aggregate_id.into()).wait().expect("known").map_or(0, |info| info.version.0) + 1;
        let mut payload = format!("secret-of-{aggregate_id}-{version}-").into_bytes();
        payload.resize(2048, b'.');
        let event = NewEvent::new("Told", EventData::Protobuf(payload));
        store.append(AppendBatch::one(aggregate_id, "Owner", ExpectedVersion::Any, vec![event])).wait().expect("stored");
    }
}

/// What a store shows behind a position, with the gaps between.
fn history(store: &LogStore, after: u64) -> Vec<HistoryItem> {
    let (mut items, mut next) = (Vec::new(), after + 1);
    let head = store.head().wait().expect("a head").0;
    let fill = |items: &mut Vec<HistoryItem>, next: u64, end: u64| {
        if next < end {
            items.push(HistoryItem::LeftOut { first: Position(next), last: Position(end - 1) });
        }
    };
    for event in store.read_all(ReadAll::new().after(Position(after)).include_system()) {
        let event = event.expect("readable");
        let position = event.position().0;
        fill(&mut items, next, position);
        items.push(HistoryItem::Event(event));
        next = position + 1;
    }
    fill(&mut items, next, head + 1);
    items
}

fn all(store: &LogStore) -> Vec<Event> {
    store.read_all(ReadAll::new().include_system()).collect::<Result<_>>().expect("readable")
}

fn versions(store: &LogStore, aggregate_id: &str) -> Vec<u64> {
    store.read(ReadStream::of(aggregate_id)).map(|event| event.expect("readable").version().0).collect()
}

#[track_caller]
fn assert_sound(path: &Path, events: u64, removed: u64) {
    let report = verify(path, go_on).expect("verified");
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.events, report.removed), (events, removed));
}

fn holds(directory: &Path, wanted: &str) -> bool {
    fs::read_dir(directory).expect("a directory").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            holds(&path, wanted)
        } else {
            fs::read(&path).expect("readable").windows(wanted.len()).any(|bytes| bytes == wanted.as_bytes())
        }
    })
}

fn index_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(index_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "idx") {
            found.push(path);
        }
    }
    found
}

/// A copy that has the first three events of a, and then goes on without those before the last one: so much of others is between and behind.
struct Copied {
    source: LogStore,
    copy: LogStore,
    folder: TempDir,
}

impl Copied {
    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("copy")
    }
}

/// The copy has what was there before a was limited, and is told the rest: its versions 4 and 5 are in no store any more, and 6 goes on behind 3.
fn with_a_hole(between: u64, behind: u64) -> Copied {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, copy) = (LogStore::memory().expect("a store"), open(&folder.path().join("copy")));
    tell(&source, "a", 3);
    tell(&source, "b", between);
    let head = copy.restore(&history(&source, 0)).expect("restored");
    tell(&source, "a", 2);
    tell(&source, "b", between);
    tell(&source, "a", 1);
    source.set_retention("a".into(), Retention::new().max_count(1)).wait().expect("limited");
    assert_eq!(source.scavenge(Extent::Everything, go_on).expect("scavenged").events, 5);
    tell(&source, "c", behind);
    copy.restore(&history(&source, head.0)).expect("restored");
    Copied { source, copy, folder }
}

#[test]
fn a_stream_goes_on_behind_versions_that_are_left_out() {
    // Within the segment that is written to, across segments, and within one that was sealed.
    for (between, behind) in [(1, 0), (60, 0), (1, 60)] {
        let copied = with_a_hole(between, behind);
        let Copied { source, copy, folder } = &copied;
        let check = |store: &LogStore| {
            assert_eq!(all(store), all(source));
            assert_eq!(versions(store, "a"), [6], "{between}");
            assert_eq!(versions(store, "b").len() as u64, 2 * between);
            assert_eq!(store.stream("a".into()).wait().expect("known"), source.stream("a".into()).wait().expect("known"));
            let backwards: Vec<u64> = store.read(ReadStream::of("a").backwards()).map(|event| event.expect("readable").version().0).collect();
            assert_eq!(backwards, [6]);
        };
        check(copy);
        let reader = OpenOptions::new().read_only(Follow::Visible).open(copied.path()).expect("a reader");
        check(&reader);
        drop(reader);
        copy.sync().wait().expect("synced");
        let (events, removed) = (2 * between + behind + 3 + 1 + 1, 2);
        assert_sound(&copied.path(), events, removed);
        // Copies of the copy, while all of it is there still.
        for (name, made) in [
            ("backup", backup(copy, folder.path().join("backup"), go_on).map(drop)),
            ("fork", fork(copy, folder.path().join("fork"), None).map(drop)),
            ("salvaged", salvage(copied.path(), folder.path().join("salvaged"), go_on).map(drop)),
        ] {
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
            check(&open(&folder.path().join(name)));
            assert_sound(&folder.path().join(name), events, removed);
        }
        copy.close().wait().expect("closed");
        compress(copied.path()).expect("compressed");
        check(&open(&copied.path()));
        // Index files are made again from the segments.
        for file in index_files(&copied.path()) {
            fs::remove_file(file).expect("removed");
        }
        let again = open(&copied.path());
        check(&again);
        assert_eq!(again.scavenge(Extent::Everything, go_on).expect("scavenged").events, 3);
        check(&again);
        again.close().wait().expect("closed");
        for version in 1..=3 {
            assert!(!holds(&copied.path(), &format!("secret-of-a-{version}-")), "{version}");
        }
        check(&open(&copied.path()));
        assert_sound(&copied.path(), events - 3, removed + 3);
    }
}

#[test]
fn what_was_taken_out_of_the_copy_is_taken_out_of_every_run_of_versions() {
    for (between, behind) in [(1, 0), (60, 0), (1, 60)] {
        let copied = with_a_hole(between, behind);
        // All of it is in the segment that is written to, or in several; nothing was closed or opened again.
        assert_eq!(copied.copy.scavenge(Extent::Everything, go_on).expect("scavenged").events, 3);
        assert_eq!((all(&copied.copy), versions(&copied.copy, "a")), (all(&copied.source), vec![6]));
        copied.copy.close().wait().expect("closed");
        assert!((1..=3).all(|version| !holds(&copied.path(), &format!("secret-of-a-{version}-"))));
    }
}

#[test]
fn until_it_is_told_why_versions_are_missing_a_stream_is_not_read_across_them() {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, between) in [1, 60].into_iter().enumerate() {
        let (source, copy) = (LogStore::memory().expect("a store"), open(&folder.path().join(number.to_string())));
        tell(&source, "a", 3);
        tell(&source, "b", between);
        let head = copy.restore(&history(&source, 0)).expect("restored");
        tell(&source, "a", 3);
        source.set_retention("a".into(), Retention::new().max_count(1)).wait().expect("limited");
        let (notice, before) = history(&source, head.0).split_last().map(|(notice, before)| (notice.clone(), before.to_vec())).expect("items");
        copy.restore(&before).expect("restored");
        assert_eq!(copy.stream("a".into()).wait().expect("known").map(|info| info.version), Some(AggregateVersion(6)));
        let read: Result<Vec<Event>> = copy.read(ReadStream::of("a")).collect();
        assert!(matches!(&read, Err(Error::Configuration { message }) if message.contains("copy that is still being made")), "{read:?}");
        assert_eq!(copy.read(ReadStream::of("a").after(AggregateVersion(5))).count(), 1);
        copy.restore(&[notice]).expect("restored");
        assert_eq!(versions(&copy, "a"), [6]);
    }
}

#[test]
fn a_store_that_begins_with_what_is_left_out_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = LogStore::memory().expect("a store");
    tell(&source, "a", 9000);
    tell(&source, "b", 1);
    source.delete("a".into(), ExpectedVersion::Any).wait().expect("deleted");
    let path = folder.path().join("copy");
    let copy = open(&path);
    assert_eq!(copy.restore(&history(&source, 0)).expect("restored"), Position(9002));
    for _ in 0..2 {
        let copy = open(&path);
        assert_eq!((all(&copy), versions(&copy, "a")), (all(&source), vec![]));
        copy.sync().wait().expect("synced");
    }
    assert_sound(&path, 2, 9000);
    let conflict = copy.append(AppendBatch::one("a", "Owner", ExpectedVersion::Exists, Vec::new())).wait();
    assert!(matches!(conflict, Err(Error::Conflict { actual: AggregateVersion(9000), deleted: true, .. })), "{conflict:?}");
    tell(&copy, "b", 1);
    let again = copy.append(AppendBatch::one("a", "Owner", ExpectedVersion::NoStream, vec![NewEvent::json("Told", &1).expect("JSON")]));
    assert_eq!(again.wait().expect("stored")[0].version, AggregateVersion(9001));
}

#[test]
fn an_id_that_was_given_again_after_its_event_was_taken_out_is_restored() {
    let (source, copy) = (LogStore::memory().expect("a store"), LogStore::memory().expect("a store"));
    let event = NewEvent::json("Told", &1).expect("JSON");
    let append = |event: &NewEvent| source.append(AppendBatch::one("a", "Owner", ExpectedVersion::Any, vec![event.clone()])).wait().expect("stored");
    append(&event);
    let head = copy.restore(&history(&source, 0)).expect("restored");
    source.delete("a".into(), ExpectedVersion::Any).wait().expect("deleted");
    source.scavenge(Extent::Everything, go_on).expect("scavenged");
    assert_eq!(append(&event)[0].version, AggregateVersion(2));
    copy.restore(&history(&source, head.0)).expect("restored");
    assert_eq!((all(&copy), versions(&copy, "a")), (all(&source), vec![2]));
}

#[test]
fn a_history_that_cannot_be_is_refused_before_any_of_its_frame_is_stored() {
    let source = LogStore::memory().expect("a store");
    tell(&source, "a", 2);
    tell(&source, "b", 2);
    let items = history(&source, 0);
    let refused = |items: &[HistoryItem]| {
        let copy = LogStore::memory().expect("a store");
        let error = copy.restore(items).expect_err("refused");
        assert_eq!(copy.head().wait().expect("a head"), Position::START);
        error
    };
    assert!(matches!(refused(&items[1..]), Error::Diverged { .. }), "it begins behind the first position");
    assert!(matches!(refused(&[items[0].clone(), items[2].clone()]), Error::Diverged { .. }), "a position is missing");
    // Version 2 of a, where nothing says that version 1 was left out.
    let event = |stream: &str, version: u64, position: u64| {
        let new = NewEvent::json("Told", &1).expect("JSON");
        let key = stream.into();
        HistoryItem::Event(
            Event::from_parts(&key, "Owner", &new, Position(position), AggregateVersion(version), eventuali::Timestamp(1)).expect("an event"),
        )
    };
    let left_out = |first: u64, last: u64| HistoryItem::LeftOut { first: Position(first), last: Position(last) };
    for items in [vec![event("a", 2, 1)], vec![left_out(1, 1), event("a", 3, 2)], vec![event("a", 1, 1), event("a", 1, 2)], vec![event("a", 0, 1)]] {
        assert!(matches!(refused(&items), Error::Conflict { .. }));
    }
    let twice = match &items[0] {
        HistoryItem::Event(event) => event.clone(),
        HistoryItem::LeftOut { .. } => unreachable!("nothing is left out"),
    };
    let new = NewEvent { id: twice.id(), ..NewEvent::json("Told", &1).expect("JSON") };
    let second = Event::from_parts(&"c".into(), "Owner", &new, Position(2), AggregateVersion(1), eventuali::Timestamp(1)).expect("an event");
    assert!(matches!(refused(&[items[0].clone(), HistoryItem::Event(second)]), Error::EventIdConflict { .. }));
    let nonsense = NewEvent::new("$deleted", EventData::json(&"nonsense").expect("JSON"));
    let key = eventuali::StreamKey { tenant: "", aggregate_id: "$" };
    let nonsense = Event::from_parts(&key, "$", &nonsense, Position(1), AggregateVersion(1), eventuali::Timestamp(1)).expect("an event");
    assert!(matches!(refused(&[HistoryItem::Event(nonsense)]), Error::Deserialization { .. }));
}

#[test]
fn indexes_are_merged_where_streams_have_several_runs_of_versions_in_a_segment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("copy");
    let open = || options().index_when_sealing().merge_indexes_of(2).open(&path).expect("the store opens");
    let (source, mut copy) = (LogStore::memory().expect("a store"), open());
    let mut head = Position::START;
    for round in 0..60 {
        // Each time more than the copy is told of is left out before it asks again.
        tell(&source, "a", 3);
        tell(&source, "b", 2);
        tell(&source, "c", 1);
        for limited in ["a", "b"] {
            source.set_retention(limited.into(), Retention::new().max_count(1 + round % 2)).wait().expect("limited");
        }
        if round % 10 == 9 {
            source.scavenge(Extent::Everything, go_on).expect("scavenged");
        }
        head = copy.restore(&history(&source, head.0)).expect("restored");
        assert_eq!((versions(&copy, "a"), versions(&copy, "b")), (versions(&source, "a"), versions(&source, "b")), "{round}");
        if round % 20 == 19 {
            copy.close().wait().expect("closed");
            copy = open();
        }
    }
    let check = |copy: &LogStore| {
        assert_eq!(all(copy), all(&source));
        copy.sync().wait().expect("synced");
        let report = verify(&path, go_on).expect("verified");
        assert!(report.is_sound(), "{report:?}");
    };
    check(&copy);
    assert!(index_files(&path).len() > 4, "it has several segments");
    assert!(copy.scavenge(Extent::Everything, go_on).expect("scavenged").events > 100);
    check(&copy);
    for version in 1..180 {
        assert_eq!(holds(&path, &format!("secret-of-a-{version}-")), versions(&source, "a").contains(&version), "{version}");
    }
    copy.close().wait().expect("closed");
    check(&open());
}

/// The copy has versions 1 to 3 of an aggregate that was deleted at version 7 since.
fn deleted_further_on(folder: &TempDir) -> (LogStore, LogStore) {
    let (source, copy) = (LogStore::memory().expect("a store"), open(&folder.path().join("copy")));
    tell(&source, "a", 3);
    let head = copy.restore(&history(&source, 0)).expect("restored");
    tell(&source, "a", 4);
    source.delete("a".into(), ExpectedVersion::Any).wait().expect("deleted");
    copy.restore(&history(&source, head.0)).expect("restored");
    (source, copy)
}

#[test]
fn what_is_appended_behind_a_deletion_goes_on_with_its_version_whatever_the_copy_has() {
    for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream] {
        for (is_rolled, is_reopened) in [(false, false), (false, true), (true, false), (true, true)] {
            let folder = tempfile::tempdir().expect("a folder");
            let (source, mut copy) = deleted_further_on(&folder);
            let path = folder.path().join("copy");
            if is_rolled {
                tell(&source, "b", 40);
                copy.restore(&history(&source, copy.head().wait().expect("a head").0)).expect("restored");
            }
            if is_reopened {
                copy.close().wait().expect("closed");
                copy = open(&path);
            }
            for store in [&source, &copy] {
                let event = NewEvent::new("Told", EventData::Protobuf(b"again".to_vec()));
                let receipts = store.append(AppendBatch::one("a", "Owner", expected, vec![event])).wait().expect("stored");
                assert_eq!(receipts[0].version, AggregateVersion(8), "{expected:?} {is_rolled} {is_reopened}");
                tell(store, "a", 1);
                assert_eq!(versions(store, "a"), [8, 9]);
            }
            copy.scavenge(Extent::Everything, go_on).expect("scavenged");
            assert_eq!(versions(&copy, "a"), [8, 9]);
            copy.close().wait().expect("closed");
            assert_eq!(versions(&open(&path), "a"), [8, 9]);
            assert!(verify(&path, go_on).expect("verified").is_sound());
        }
    }
}

#[test]
fn a_copy_that_lacks_versions_before_a_deletion_is_salvaged_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, copy) = deleted_further_on(&folder);
    tell(&source, "a", 1);
    copy.restore(&history(&source, copy.head().wait().expect("a head").0)).expect("restored");
    assert_eq!((versions(&source, "a"), versions(&copy, "a")), (vec![8], vec![8]));
    copy.close().wait().expect("closed");
    let salvaged = folder.path().join("salvaged");
    let report = salvage(folder.path().join("copy"), &salvaged, go_on).expect("salvaged");
    assert_eq!((report.lost.len(), report.streams.len()), (0, 0), "{report:?}");
    assert_eq!(versions(&open(&salvaged), "a"), [8]);
}

#[test]
fn an_aggregate_whose_deletion_a_fork_does_not_know_goes_on_behind_what_its_limits_have_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("store"));
    tell(&store, "a", 5);
    store.set_retention("a".into(), Retention::new().max_count(2)).wait().expect("limited");
    store.set_retention("a".into(), Retention::new()).wait().expect("no longer limited");
    tell(&store, "b", 1);
    let at = store.head().wait().expect("a head");
    store.delete("a".into(), ExpectedVersion::Any).wait().expect("deleted");
    store.scavenge(Extent::Everything, go_on).expect("scavenged");
    let path = folder.path().join("fork");
    fork(&store, &path, Some(at)).expect("forked");
    let mut forked = open(&path);
    assert!(versions(&forked, "a").is_empty());
    for version in [4, 5, 6] {
        let event = NewEvent::new("Told", EventData::Protobuf(b"again".to_vec()));
        let receipts = forked.append(AppendBatch::one("a", "Owner", ExpectedVersion::Any, vec![event])).wait().expect("stored");
        assert_eq!(receipts[0].version, AggregateVersion(version));
    }
    assert_eq!(versions(&forked, "a"), [4, 5, 6]);
    forked.close().wait().expect("closed");
    forked = open(&path);
    assert_eq!(versions(&forked, "a"), [4, 5, 6]);
    assert!(verify(&path, go_on).expect("verified").is_sound());
}
