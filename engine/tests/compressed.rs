//! Compressed segments: they read as what they replace, say what is damaged, and come to count in one step.

use std::collections::BTreeMap;
use std::sync::Arc;

use eventuali::storage::{Failure, Fault, FaultyStorage, Storage};
use eventuali::{
    AppendBatch, Compression, Error, Event, EventData, EventStore, ExpectedVersion, Json, LogStore, NewEvent, OpenOptions, OpenOutcome, Position,
    ReadAll, ReadStream, Result, compress_storage,
};

const SEGMENT_BYTES: u64 = 64 << 10;
const COMPRESSED: &str = "000000001.g1.seg";

fn options() -> OpenOptions {
    OpenOptions::new().segment_bytes(SEGMENT_BYTES)
}

fn open_with(storage: &FaultyStorage, options: OpenOptions) -> Result<LogStore> {
    options.open_storage(Arc::new(storage.clone()) as Arc<dyn Storage>)
}

fn open(storage: &FaultyStorage) -> Result<LogStore> {
    open_with(storage, options())
}

fn event(number: usize, filler: usize) -> NewEvent {
    let json = format!(r#"{{"resource": "{}", "item": "Completeren aanvraag", "filler": "{}"}}"#, number % 97, "f".repeat(filler));
    NewEvent::new("WorkCompleted", EventData::Json(Json::new(json.into_bytes()).expect("JSON")))
}

/// Appends so many events of 10 aggregates, one by one.
fn append(store: &LogStore, events: usize, filler: usize) {
    for number in 0..events {
        let aggregate = format!("loan-{}", number % 10);
        store.append(AppendBatch::one(aggregate, "Loan", ExpectedVersion::Any, vec![event(number, filler)])).wait().expect("appended");
    }
}

fn all(store: &LogStore) -> Result<Vec<Event>> {
    store.read_all(ReadAll::new()).collect()
}

/// A closed store with so many events in its first segment, which is sealed, and a long one in the second; and its events.
fn two_segments(events: usize) -> (FaultyStorage, Vec<Event>) {
    let storage = FaultyStorage::new(1);
    let store = open(&storage).expect("created");
    append(&store, events, 10);
    append(&store, 1, 60_000);
    let written = all(&store).expect("read");
    store.close().wait().expect("closed");
    (storage.process_kill(), written)
}

/// The same, with the first segment compressed.
fn compressed(events: usize) -> (BTreeMap<String, Vec<u8>>, Vec<Event>) {
    let (storage, written) = two_segments(events);
    let done = compress_storage(&storage).expect("compressed");
    assert_eq!((done.segments, done.left), (1, 0));
    assert!(done.bytes_after < done.bytes_before);
    let files = storage.files();
    assert!(files.contains_key(COMPRESSED) && !files.contains_key("000000001.g0.seg"), "{:?}", files.keys());
    (files, written)
}

#[test]
fn a_compressed_store_reads_as_before_and_goes_on() {
    let storage = FaultyStorage::new(1);
    let store = open(&storage).expect("created");
    append(&store, 3000, 20);
    let written = all(&store).expect("read");
    let last_of = |store: &LogStore| store.read(ReadStream::of("loan-7")).collect::<Result<Vec<_>>>().expect("read");
    let stream = last_of(&store);
    store.close().wait().expect("closed");
    let storage = storage.process_kill();

    let done = compress_storage(&storage).expect("compressed");
    assert!(done.segments > 5 && done.bytes_after * 3 < done.bytes_before, "{done:?}");
    let again = compress_storage(&storage).expect("nothing is left to do");
    assert_eq!(again, Compression::default());

    let store = open(&storage).expect("opened");
    assert_eq!(store.open_report().outcome, OpenOutcome::Clean);
    assert_eq!(all(&store).expect("read"), written);
    assert_eq!(last_of(&store), stream);
    let backwards: Vec<Event> = store.read_all(ReadAll::new().backwards()).collect::<Result<_>>().expect("read");
    assert!(backwards.iter().rev().eq(&written));
    append(&store, 3000, 20);
    let more = all(&store).expect("read");
    assert_eq!(more[..3000], written);
    store.close().wait().expect("closed");
    let storage = storage.process_kill();
    compress_storage(&storage).expect("compressed again");
    assert_eq!(all(&open(&storage).expect("opened")).expect("read"), more);
}

#[test]
fn what_does_not_become_smaller_is_left_as_it_is() {
    let storage = FaultyStorage::new(1);
    let store = open(&storage).expect("created");
    for _ in 0..3 {
        let noise = (0..2000).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
        let event = NewEvent::new("Noise", EventData::Protobuf(noise));
        store.append(AppendBatch::one("a", "A", ExpectedVersion::Any, vec![event])).wait().expect("appended");
    }
    store.close().wait().expect("closed");
    let storage = storage.process_kill();
    let before = storage.files();
    let done = compress_storage(&storage).expect("tried");
    assert_eq!((done.segments, done.left), (0, 1));
    assert!(storage.files().keys().eq(before.keys()), "{:?}", storage.files().keys());
}

/// Opens and reads a store: what it was written with, or the damage of the first segment.
fn right_or_corrupt(files: &BTreeMap<String, Vec<u8>>, written: &[Event], what: &str) -> bool {
    let judge = |error: Error| match error {
        Error::Corruption(damage) => assert_eq!(damage.segment, 1, "{what}: {damage}"),
        error => panic!("{what}: {error}"),
    };
    match open(&FaultyStorage::holding(files, 1)) {
        Err(error) => judge(error),
        Ok(store) => match all(&store) {
            Err(error) => judge(error),
            Ok(events) => {
                assert_eq!(events, written, "{what}");
                return true;
            }
        },
    }
    false
}

#[test]
fn every_flipped_byte_is_found_or_makes_no_difference() {
    let (files, written) = compressed(100);
    let length = files[COMPRESSED].len();
    let mut harmless = 0;
    for at in 0..length {
        let mut files = files.clone();
        files.get_mut(COMPRESSED).expect("there")[at] ^= 1 << (at % 8);
        harmless += usize::from(right_or_corrupt(&files, &written, &format!("byte {at} of {length}")));
    }
    assert_eq!(harmless, 0, "every byte of it is under a checksum");
}

#[test]
fn a_file_that_was_cut_anywhere_is_damaged() {
    let (files, written) = compressed(100);
    let length = files[COMPRESSED].len();
    for end in 0..length {
        let mut files = files.clone();
        files.get_mut(COMPRESSED).expect("there").truncate(end);
        assert!(!right_or_corrupt(&files, &written, &format!("cut to {end} of {length}")));
    }
}

#[test]
fn damage_that_comes_while_the_store_is_open_is_found_when_it_is_read() {
    let (files, written) = compressed(250);
    let length = files[COMPRESSED].len();
    let mut found = 0;
    for at in (4096..length).step_by(17) {
        let storage = FaultyStorage::holding(&files, 1);
        let store = open(&storage).expect("opened");
        storage.rot(COMPRESSED, at * 8 + at % 8);
        match all(&store) {
            Ok(events) => assert_eq!(events, written, "byte {at}"),
            Err(Error::Corruption(damage)) => {
                assert_eq!(damage.segment, 1);
                found += 1;
            }
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(found > 0);
}

/// The compressed store with its third block damaged.
fn damaged_in_the_middle() -> (BTreeMap<String, Vec<u8>>, Vec<Event>, usize) {
    let (mut files, written) = compressed(230);
    let bytes = files.get_mut(COMPRESSED).expect("there");
    let table = bytes.len() - 64 - 4096;
    let offset = u64::from_le_bytes(bytes[table + 32..table + 40].try_into().expect("8 bytes"));
    bytes[usize::try_from(offset).expect("small") + 20] ^= 4;
    let store = open_with(&FaultyStorage::holding(&files, 1), options().read_up_to_damage()).expect("opened");
    let OpenOutcome::Damaged { damage, .. } = &store.open_report().outcome else { panic!("it is not found") };
    assert_eq!((damage.segment, damage.reason.contains("compressed block")), (1, true), "{damage}");
    assert!(damage.offset <= 4096 + 2 * (16 << 10) && damage.next_good_position.is_some(), "{damage}");
    let last_good = usize::try_from(damage.last_good_position.0).expect("small");
    assert!(last_good > 50 && last_good < 230, "{damage}");
    (files, written, last_good)
}

#[test]
fn a_damaged_block_can_be_read_up_to() {
    let (files, written, last_good) = damaged_in_the_middle();
    let store = open_with(&FaultyStorage::holding(&files, 1), options().read_up_to_damage()).expect("opened");
    let mut read = Vec::new();
    for event in store.read_all(ReadAll::new()) {
        match event {
            Ok(event) => read.push(event),
            Err(Error::Corruption(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(read, written[..last_good]);
}

#[test]
fn what_follows_a_damaged_block_can_be_given_up() {
    let (files, written, last_good) = damaged_in_the_middle();
    let whole = FaultyStorage::holding(&files, 1);
    let position = Position(last_good as u64);
    let store = open_with(&whole, options().accept_loss_after(position)).expect("opened");
    assert_eq!(all(&store).expect("read"), written[..last_good]);
    append(&store, 500, 20);
    let more = all(&store).expect("read");
    store.close().wait().expect("closed");
    assert!(whole.files().iter().any(|(name, bytes)| name.starts_with("quarantine/000000001.g1.seg") && *bytes == files[COMPRESSED]));
    assert_eq!(all(&open(&whole.process_kill()).expect("opened")).expect("read"), more);

    for operation in 0.. {
        let storage = FaultyStorage::holding(&files, operation);
        storage.stop_at(operation);
        let done = open_with(&storage, options().accept_loss_after(position)).is_ok();
        let storage = if operation % 2 == 0 { storage.process_kill() } else { storage.power_cut() };
        let store = match open_with(&storage, options().accept_loss_after(position)) {
            Err(Error::Configuration { .. }) => open(&storage),
            opened => opened,
        };
        assert_eq!(all(&store.expect("opened")).expect("read"), written[..last_good], "operation {operation}");
        if done {
            break;
        }
    }
}

#[test]
fn the_generation_before_is_kept_when_the_one_that_counts_is_damaged_and_given_up() {
    let (storage, _) = two_segments(230);
    let before = storage.files()["000000001.g0.seg"].clone();
    let (mut files, written, last_good) = damaged_in_the_middle();
    files.insert("000000001.g0.seg".to_owned(), before.clone());
    let whole = FaultyStorage::holding(&files, 1);
    let store = open_with(&whole, options().accept_loss_after(Position(last_good as u64))).expect("opened");
    assert_eq!(all(&store).expect("read"), written[..last_good]);
    assert!(whole.files().iter().any(|(name, bytes)| name.starts_with("quarantine/000000001.g0.seg") && *bytes == before));
}

/// Whether the store is whole after compressing was interrupted, and can be compressed now.
fn whole_after_interruption(storage: &FaultyStorage, written: &[Event], what: &str) {
    let before = storage.files();
    let unknown: Vec<_> = before
        .keys()
        .filter(|name| !["LOCK", "MANIFEST", "WATERMARK", "000000001.g0.seg", COMPRESSED, "000000002.g0.seg"].contains(&name.as_str()))
        .filter(|name| ![".tmp", ".idx"].iter().any(|end| name.ends_with(end)))
        .collect();
    assert!(unknown.is_empty(), "{what}: {unknown:?}");
    let store = open(storage).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(all(&store).expect("read"), written, "{what}");
    store.close().wait().expect("closed");
    let storage = storage.process_kill();
    compress_storage(&storage).unwrap_or_else(|error| panic!("{what}: {error}"));
    let names: Vec<String> = storage.files().into_keys().filter(|name| name.starts_with("000000001.g") && !name.contains(".g1.")).collect();
    assert!(names.is_empty() && storage.files().contains_key(COMPRESSED), "{what}: {names:?}");
    assert_eq!(all(&open(&storage).expect("opened")).expect("read"), written, "{what}");
}

#[test]
fn compressing_that_is_interrupted_at_any_operation_loses_nothing() {
    let (storage, written) = two_segments(100);
    let files = storage.files();
    for operation in 0.. {
        let mut done = false;
        for seed in 0..6 {
            let storage = FaultyStorage::holding(&files, seed);
            storage.stop_at(operation);
            done = compress_storage(&storage).is_ok();
            let storage = if seed == 0 { storage.process_kill() } else { storage.power_cut() };
            whole_after_interruption(&storage, &written, &format!("operation {operation}, seed {seed}"));
        }
        if done {
            break;
        }
    }
}

#[test]
fn compressing_while_the_disk_fails_loses_nothing() {
    let (storage, written) = two_segments(100);
    let files = storage.files();
    for failure in [Failure::Device, Failure::NoSpace] {
        for operation in 0.. {
            let storage = FaultyStorage::holding(&files, operation);
            storage.inject(Fault::next().after(operation).with(failure));
            let done = compress_storage(&storage);
            let reached = storage.operations() > operation;
            if let Err(error) = done {
                assert!(matches!(error, Error::Io { .. }), "operation {operation}: {error}");
            }
            whole_after_interruption(&storage.process_kill(), &written, &format!("operation {operation} fails with {failure:?}"));
            if !reached {
                break;
            }
        }
    }
}
