//! How much memory readers of large events take.

use std::time::Duration;

use eventuali::{AppendBatch, EventData, EventStore, ExpectedVersion, Json, NewEvent, Position, ReadAll};
use eventuali_sql::Config;

use crate::arrange::{open, postgres};
use crate::roles::{Role, role, say};
use crate::support::new_table;

const EVENTS: u64 = 200;
const EVENT_BYTES: usize = 4 << 20;
/// A page of events is on its way while the one before it is read.
const BOUND_BYTES: u64 = 96 << 20;

fn place(text: &str) -> Config {
    match text.split_once(':').expect("a place") {
        // A busy machine may take long for so much.
        ("postgres", table) => postgres(table).statement_timeout(Duration::from_mins(10)),
        (_, path) => Config::sqlite(path),
    }
}

/// Bytes that no compression makes smaller.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..EVENT_BYTES / 8).flat_map(|_| next()).collect()
}

fn large(number: u64) -> AppendBatch {
    let mut bytes = noise(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let data = if number.is_multiple_of(2) {
        EventData::Protobuf(bytes)
    } else {
        for byte in &mut bytes {
            *byte = b'a' + (*byte & 15);
        }
        (bytes[0], bytes[EVENT_BYTES - 1]) = (b'"', b'"');
        EventData::Json(Json::from_serializer(bytes))
    };
    AppendBatch::one("large", "Thing", ExpectedVersion::Any, vec![NewEvent::new("Happened", data)])
}

/// The most memory that this process ever had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel's files");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

fn read_everything(store: &dyn EventStore, query: ReadAll) -> u64 {
    let mut count = 0;
    for event in store.read_all(query) {
        let event = event.expect("it can be read");
        assert!(event.payload().len() < 100 || event.payload().len() == EVENT_BYTES);
        count += 1;
    }
    count
}

fn assert_reading_is_bounded(test: &str, place_name: &str) {
    let store = open(place(place_name));
    // Small events first, so that a reader expects more of them.
    let small: Vec<NewEvent> = (0..2000).map(|number| NewEvent::json("Happened", &number).expect("an event")).collect();
    store.append(AppendBatch::one("small", "Thing", ExpectedVersion::Any, small)).wait().expect("stored");
    for number in 0..EVENTS {
        store.append(large(number)).wait().expect("stored");
    }
    let mut reader = Role::of(test, place_name);
    for what in ["behind small ones", "from the first one on", "backwards"] {
        let bytes: u64 = reader.hear().expect("it reads").parse().expect("a number");
        println!("{EVENTS} events of {} MiB, {what}: {} MiB more at most", EVENT_BYTES >> 20, bytes >> 20);
        assert!(bytes < BOUND_BYTES, "{what}: {bytes} bytes");
    }
}

/// Events that are as large as they may be where many are read at once, behind small ones, which let a reader ask for many.
#[test]
fn a_reader_of_many_middling_events_in_sqlite_takes_little_memory() {
    const MIDDLING: (usize, usize) = (3000, 16_000);
    let folder = tempfile::tempdir().expect("a folder");
    if let Some(place_name) = role() {
        let store = open(place(&place_name));
        let before = peak_bytes();
        let count = store.read_all(ReadAll::new()).try_fold(0, |count, event| event.map(|_| count + 1));
        assert_eq!(count.expect("readable"), 2 * MIDDLING.0);
        return say(&(peak_bytes() - before).to_string());
    }
    let place_name = format!("sqlite:{}", folder.path().join("events.db").display());
    let store = open(place(&place_name));
    for bytes in [10, MIDDLING.1] {
        let events = (0..MIDDLING.0).map(|_| NewEvent::json("Happened", &"j".repeat(bytes)).expect("an event")).collect();
        store.append(AppendBatch::one(format!("of-{bytes}"), "Thing", ExpectedVersion::Any, events)).wait().expect("stored");
    }
    let mut reader = Role::of("memory::a_reader_of_many_middling_events_in_sqlite_takes_little_memory", &place_name);
    let bytes: u64 = reader.hear().expect("it reads").parse().expect("a number");
    println!("{} events of {} bytes: {} MiB more at most", MIDDLING.0, MIDDLING.1, bytes >> 20);
    assert!(bytes < BOUND_BYTES / 2, "{bytes} bytes");
}

fn play(place_name: &str) {
    let store = open(place(place_name));
    assert_eq!(store.read_all(ReadAll::new().limit(10)).count(), 10);
    let before = peak_bytes();
    for query in [ReadAll::new(), ReadAll::new().after(Position(2000)), ReadAll::new().backwards()] {
        assert!(read_everything(&*store, query) >= EVENTS);
        say(&(peak_bytes() - before).to_string());
    }
}

#[test]
fn a_reader_of_large_events_on_postgres_takes_little_memory() {
    if let Some(part) = role() {
        return play(&part);
    }
    let test = "memory::a_reader_of_large_events_on_postgres_takes_little_memory";
    assert_reading_is_bounded(test, &format!("postgres:{}", new_table()));
}

#[test]
fn a_reader_of_large_events_in_sqlite_takes_little_memory() {
    if let Some(part) = role() {
        return play(&part);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("sqlite:{}", folder.path().join("events.db").display());
    assert_reading_is_bounded("memory::a_reader_of_large_events_in_sqlite_takes_little_memory", &place);
}
