//! Damage of scavenged segments: found, and never taken for something that was taken out.

use std::ops::ControlFlow;
use std::sync::Arc;

use eventuali::maintenance::{salvage_storage, scavenge, verify_storage};
use eventuali::storage::{Access, MemoryStorage, Storage};
use eventuali::{AppendBatch, Error, Event, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, Result};

fn open(storage: &Arc<MemoryStorage>) -> Result<LogStore> {
    OpenOptions::new().segment_bytes(64 << 10).open_storage(Arc::clone(storage) as Arc<dyn Storage>)
}

fn read_all(store: &LogStore) -> Result<Vec<Event>> {
    store.read_all(ReadAll::new().include_system()).collect()
}

/// A store whose first segment has records that were taken out, among others; its files, and what can be read.
fn scavenged() -> (Arc<MemoryStorage>, Vec<Event>) {
    let storage = Arc::new(MemoryStorage::new());
    let store = open(&storage).expect("the store opens");
    for number in 0..12_u8 {
        for owner in ["gone", "left"] {
            let event = NewEvent::new("Told", EventData::Protobuf(vec![number; 60]));
            store.append(AppendBatch::one(owner, "Owner", ExpectedVersion::Any, vec![event.clone()])).wait().expect("stored");
        }
    }
    let grown = NewEvent::new("Grew", EventData::Protobuf(vec![7; 70_000]));
    store.append(AppendBatch::one("left", "Owner", ExpectedVersion::Any, vec![grown])).wait().expect("stored");
    store.delete("gone".into(), ExpectedVersion::Any).wait().expect("deleted");
    let report = scavenge(&store, |_| ControlFlow::Continue(())).expect("it is scavenged");
    assert_eq!(report.events, 12);
    let live = read_all(&store).expect("readable");
    assert_eq!(live.len(), 14);
    store.close().wait().expect("closed");
    (storage, live)
}

fn bytes_of(storage: &MemoryStorage, name: &str) -> Vec<u8> {
    let file = storage.open(name, Access::Read).expect("it is there");
    let mut bytes = vec![0; usize::try_from(file.length().expect("known")).expect("small")];
    assert_eq!(file.read_at(&mut bytes, 0).expect("readable"), bytes.len());
    bytes
}

/// The file of the first segment.
fn first_segment(storage: &MemoryStorage) -> String {
    let names = storage.list("").expect("a list");
    let first: Vec<&String> = names.iter().filter(|name| name.starts_with("000000001.g")).collect();
    assert_eq!(first.len(), 1, "{names:?}");
    assert!(!first[0].starts_with("000000001.g0"), "{names:?}");
    first[0].clone()
}

#[test]
fn every_flipped_bit_is_found_and_no_event_goes_missing_in_silence() {
    let (storage, live) = scavenged();
    let name = first_segment(&storage);
    let bytes = bytes_of(&storage, &name);
    // The rest of the header's 4096 bytes is covered by one checksum: a part of it will do.
    let places = (0..100).chain(4080..bytes.len());
    for place in places {
        let bit = place % 8;
        let file = storage.open(&name, Access::Write).expect("it is there");
        file.write_at(&[bytes[place] ^ (1 << bit)], place as u64).expect("written");
        let found = verify_storage(&*storage, |_| ControlFlow::Continue(())).expect("verified");
        assert!(!found.is_sound(), "byte {place}, bit {bit}");
        match open(&storage).and_then(|store| read_all(&store)) {
            Ok(events) => assert_eq!(events, live, "byte {place}, bit {bit}"),
            Err(Error::Corruption(_) | Error::FormatVersion { .. } | Error::Unsupported { .. } | Error::Configuration { .. }) => {}
            Err(error) => panic!("byte {place}, bit {bit}: {error:?}"),
        }
        file.write_at(&bytes[place..=place], place as u64).expect("written");
    }
    assert_eq!(read_all(&open(&storage).expect("it opens")).expect("readable"), live);
}

/// What was lost of a stream that has events before it was taken for something that had been taken out: the new store skipped versions,
/// was found sound, and could not be opened.
#[test]
fn what_is_salvaged_of_a_damaged_one_can_be_opened_and_written_to() {
    let (storage, _) = scavenged();
    let name = first_segment(&storage);
    let bytes = bytes_of(&storage, &name);
    for place in (4096..bytes.len().min(12_000)).step_by(101) {
        let file = storage.open(&name, Access::Write).expect("it is there");
        file.write_at(&[bytes[place] ^ 0x10], place as u64).expect("written");
        let saved = Arc::new(MemoryStorage::new());
        let report = salvage_storage(&*storage, &*saved, |_| ControlFlow::Continue(())).expect("salvaged");
        assert!(report.complete && !report.damage.is_empty(), "byte {place}: {report:?}");
        assert!(verify_storage(&*saved, |_| ControlFlow::Continue(())).expect("verified").is_sound(), "byte {place}");
        let store = open(&saved).unwrap_or_else(|error| panic!("byte {place}: {error}"));
        let event = NewEvent::new("Told", EventData::Protobuf(vec![1]));
        store.append(AppendBatch::one("left", "Owner", ExpectedVersion::Any, vec![event])).wait().expect("stored");
        assert_eq!(read_all(&store).expect("readable").len() as u64, report.events + 1, "byte {place}");
        file.write_at(&bytes[place..=place], place as u64).expect("written");
    }
}
