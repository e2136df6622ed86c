//! Readers in processes of their own, beside a writer that rolls over, scavenges, compresses and is killed.

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::maintenance::scavenge;
use eventuali::{Error, Event, EventStore, ExpectedVersion, Follow, LogStore, OpenOptions, Position, ReadAll, ReadStream, Result, compress};

use crate::role::{Role, role, say};
use crate::{many, one, open};

const PAYLOAD_BYTES: usize = 9_000;
const STREAMS: usize = 7;
/// What the last event says.
const END: &str = "end";

fn is_soak() -> bool {
    std::env::var_os("EVENTUALI_SOAK").is_some()
}

fn read_only(directory: &Path, follow: Follow) -> LogStore {
    OpenOptions::new().read_only(follow).open(directory).expect("it can be read")
}

fn text(event: &Event) -> String {
    String::from_utf8_lossy(event.payload()).split(';').next().expect("a text").to_owned()
}

/// Looks again and again until the last event was seen. `pause` is how long it sleeps between two looks, and `may_be_gone` says of which
/// positions the event may have been deleted, or is one of the store's own.
fn follow_to_the_end(store: &LogStore, pause: Duration, may_be_gone: fn(u64) -> bool, mut see: impl FnMut(&Event)) {
    let deadline = Instant::now() + Duration::from_secs(500);
    let mut seen = Position::START;
    loop {
        for event in store.read_all(ReadAll::new().after(seen)) {
            let event = event.expect("readable");
            assert!(event.position() > seen && (seen.0 + 1..event.position().0).all(may_be_gone), "each event once and in order");
            seen = event.position();
            see(&event);
            if text(&event) == END {
                return;
            }
        }
        assert!(Instant::now() < deadline, "the end was not seen; the last event that was is {seen}");
        thread::sleep(pause);
    }
}

/// Whether the event at this position is one of those that are deleted, or says that they are.
fn is_to_be_deleted(position: u64) -> bool {
    position.is_multiple_of(10)
}

/// Every event says its number, which is its position here.
fn follow_numbered(directory: &Path, number: u64) {
    let follow = if number == 3 { Follow::Durable } else { Follow::Visible };
    let store = read_only(directory, follow);
    say("open");
    // One of them lags far behind, so that it passes over segments.
    let pause = Duration::from_millis([1, 3, 250, 2][usize::try_from(number).expect("few")]);
    let mut streams = 0;
    follow_to_the_end(&store, pause, is_to_be_deleted, |event| {
        let position = event.position().0;
        if is_to_be_deleted(position) {
            assert!(event.aggregate_id().starts_with("deleted-"));
        } else {
            assert_eq!(event.aggregate_id(), format!("stream-{}", position % STREAMS as u64));
        }
        assert!(text(event) == END || text(event) == position.to_string());
        if number == 1 && position % 50 == 1 {
            let stream: Vec<Event> = store.read(ReadStream::of(event.aggregate_id())).collect::<Result<_>>().expect("readable");
            assert!(stream.iter().zip(1..).all(|(event, version)| event.version().0 == version));
            assert!(stream.iter().any(|of| of.id() == event.id()));
            streams += 1;
        }
        // The writer syncs everything: what can be seen is on disk.
        if position.is_multiple_of(20) {
            assert!(store.durable_position().wait().expect("told").0 >= position);
        }
    });
    assert!(number != 1 || streams > 0);
    say(&format!("saw {}", store.head().wait().expect("told")));
}

/// Appends through so many roll-overs. Three times meanwhile a stream is deleted and scavenged, and old segments are compressed.
fn roll_over(directory: &Path, roll_overs: u64) {
    let per_segment = (64 << 10) / (PAYLOAD_BYTES as u64 + 200);
    let last = (roll_overs + 2) * per_segment / 10 * 10 + 11;
    let mut store = open(directory).expect("it opens");
    let (mut position, mut scavenges) = (0, 0);
    while position < last {
        position += 1;
        let stream = if is_to_be_deleted(position) { format!("deleted-{scavenges}") } else { format!("stream-{}", position % STREAMS as u64) };
        let text = if position == last { END.to_owned() } else { position.to_string() };
        store.append(one(&stream, &text, PAYLOAD_BYTES)).wait().expect("stored");
        if position >= last / 4 * (scavenges + 1) && is_to_be_deleted(position + 1) && scavenges < 3 {
            store.delete(format!("deleted-{scavenges}").as_str().into(), ExpectedVersion::Any).wait().expect("deleted");
            position += 1;
            let report = scavenge(&store, |_| ControlFlow::Continue(())).expect("scavenged");
            assert!(report.events > 0);
            store.close().wait().expect("closed");
            compress(directory).expect("compressed");
            store = open(directory).expect("it opens");
            scavenges += 1;
        }
    }
    assert_eq!(scavenges, 3);
    store.close().wait().expect("closed");
    say(&format!("wrote {last}"));
}

#[test]
fn four_readers_follow_a_writer_through_roll_overs_scavenges_and_compression_each_event_once_and_in_order() {
    const TEST: &str = "readers::four_readers_follow_a_writer_through_roll_overs_scavenges_and_compression_each_event_once_and_in_order";
    let roll_overs = if is_soak() { 1000 } else { 120 };
    if let Some(place) = role() {
        let (directory, part) = (place.parent().expect("a directory"), place.file_name().expect("a part").to_string_lossy().into_owned());
        match part.strip_prefix("reader-").map(|number| number.parse().expect("a number")) {
            Some(number) => follow_numbered(directory, number),
            None => roll_over(directory, roll_overs),
        }
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    open(directory.path()).expect("created").close().wait().expect("closed");
    let mut readers: Vec<Role> = (0..4).map(|number| Role::of(TEST, &directory.path().join(format!("reader-{number}")))).collect();
    for reader in &mut readers {
        reader.expect("open");
    }
    let start = Instant::now();
    let mut writer = Role::of(TEST, &directory.path().join("writer"));
    let wrote = writer.hear().expect("it ends");
    let last = wrote.strip_prefix("wrote ").expect("it wrote");
    let segments = std::fs::read_dir(directory.path()).expect("readable").filter_map(Result::ok);
    let segments = segments.filter(|entry| entry.path().extension().is_some_and(|end| end == "seg")).count() as u64;
    assert!(segments >= roll_overs, "{segments} segments");
    for reader in &mut readers {
        reader.expect(&format!("saw {last}"));
    }
    println!("{segments} segments, {last} events, 4 readers: {:?}", start.elapsed());
}

fn follow_texts(directory: &Path) {
    let store = read_only(directory, Follow::Visible);
    say("open");
    let mut texts = Vec::new();
    follow_to_the_end(&store, Duration::from_millis(1), |_| false, |event| texts.push(text(event)));
    say(&texts.join(" "));
}

fn append_until_killed(directory: &Path) {
    let store = open(directory).expect("it opens");
    let run = std::process::id();
    for number in 0.. {
        let texts: Vec<_> = (0..=number % 3).map(|part| format!("{run}-{number}-{part}")).collect();
        store.append(many("a", &texts, number * 997 % 6000)).wait().expect("stored");
        say(&texts.join(" "));
    }
}

#[test]
fn readers_follow_one_writer_after_the_other_when_each_is_killed() {
    const TEST: &str = "readers::readers_follow_one_writer_after_the_other_when_each_is_killed";
    if let Some(place) = role() {
        let directory = place.parent().expect("a directory");
        return if place.ends_with("reader") { follow_texts(directory) } else { append_until_killed(directory) };
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    open(directory.path()).expect("created").close().wait().expect("closed");
    let mut readers: Vec<Role> = (0..2).map(|_| Role::of(TEST, &directory.path().join("reader"))).collect();
    for reader in &mut readers {
        reader.expect("open");
    }
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..if is_soak() { 500 } else { 30 } {
        let mut writer = Role::of(TEST, &directory.path().join("writer"));
        acknowledged.extend(writer.hear());
        thread::sleep(Duration::from_micros(round * 7919 % 61_000));
        writer.kill();
        while let Some(texts) = writer.hear() {
            acknowledged.push(texts);
        }
    }
    let store = open(directory.path()).expect("it opens");
    store.append(one("a", END, 10)).wait().expect("stored");
    let stored: Vec<String> = store.read_all(ReadAll::new()).map(|event| text(&event.expect("readable"))).collect();
    assert!(acknowledged.len() > 30 && acknowledged.iter().all(|texts| texts.split(' ').all(|text| stored.iter().any(|stored| stored == text))));
    for reader in &mut readers {
        assert_eq!(reader.hear().expect("it ends"), stored.join(" "), "what a reader saw is the history of the store");
    }
}

/// Opened in the parent, it belongs to the parent.
#[test]
fn a_forked_child_cannot_use_its_parents_read_only_store_and_opens_one_of_its_own() {
    const TEST: &str = "readers::a_forked_child_cannot_use_its_parents_read_only_store_and_opens_one_of_its_own";
    if let Some(directory) = role() {
        let store = read_only(&directory, Follow::Visible);
        let events = store.read_all(ReadAll::new());
        let child = crate::fork(|| {
            let refused = [
                store.head().wait().map(drop),
                store.sync().wait().map(drop),
                events.collect::<Result<Vec<_>>>().map(drop),
                store.stream("a".into()).wait().map(drop),
            ];
            let own = read_only(&directory, Follow::Visible).head().wait();
            let as_it_should_be = refused.iter().all(|result| matches!(result, Err(Error::ForkedProcess))) && matches!(own, Ok(Position(1)));
            drop(store.clone());
            i32::from(!as_it_should_be)
        });
        return say(&format!("the child ended with {}", crate::status_of(child)));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path()).expect("created");
    store.append(one("a", "before", 10)).wait().expect("stored");
    Role::of(TEST, directory.path()).expect("the child ended with 0");
}
