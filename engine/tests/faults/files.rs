//! Stores as files: where their frames are, and how to change them so that checksums match again.

use std::collections::BTreeMap;
use std::ops::Range;

use eventuali::storage::FaultyStorage;
use eventuali::{Corruption, Durability, Error, Event, EventStore, LogStore, OpenOutcome, Result};

use crate::arrange::{many, one, open, open_with, options, read_all};

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) const FIRST: &str = "000000001.g0.seg";
pub(crate) const SECOND: &str = "000000002.g0.seg";
pub(crate) const THIRD: &str = "000000003.g0.seg";
pub(crate) const MANIFEST: &str = "MANIFEST";
pub(crate) const WATERMARK: &str = "WATERMARK";

const SEGMENT_HEADER_BYTES: usize = 4096;
const FRAME_HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 40;
const FILE_SEED: u32 = 0x4556_464C;

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A frame as `docs/file-format.md` describes it.
#[derive(Debug, Clone)]
pub(crate) struct FramePlace {
    pub(crate) bytes: Range<usize>,
    /// The position of the last event in it or before it.
    pub(crate) last_position: u64,
}

/// The frames of a sound segment.
pub(crate) fn frames(segment: &[u8]) -> Vec<FramePlace> {
    let mut places = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while at + FRAME_HEADER_BYTES <= segment.len() && u32_at(segment, at) != 0 {
        let count = u32_at(segment, at + 20);
        let length = FRAME_HEADER_BYTES + count as usize * ENTRY_BYTES + u32_at(segment, at + 52) as usize;
        let end = at + length.next_multiple_of(8);
        places.push(FramePlace { bytes: at..end, last_position: u64_at(segment, at + 24) + u64::from(count) - 1 });
        at = end;
    }
    places
}

/// Changes a segment's header or a whole manifest, and its checksum with it.
pub(crate) fn forge(bytes: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let length = if bytes.starts_with(b"EVTLISEG") { SEGMENT_HEADER_BYTES } else { bytes.len() };
    let (body, checksum) = bytes[..length].split_at_mut(length - 4);
    change(body);
    let mut hasher = crc32fast::Hasher::new_with_initial(FILE_SEED);
    hasher.update(body);
    checksum.copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// A store with one segment of a few small frames, and its events.
pub(crate) fn small_store(durability: Durability, closed: bool) -> (Files, Vec<Event>) {
    let storage = FaultyStorage::new(0);
    let store = open_with(&storage, options(durability)).expect("created");
    for batch in [one("a", 10), many("b", 3, 7), one("a", 0), many("c", 2, 90), one("b", 33)] {
        store.append(batch).wait().expect("stored");
    }
    ended(&storage, &store, closed)
}

/// A store with three segments of a few frames each, closed in order, and its events.
pub(crate) fn three_segments() -> (Files, Vec<Event>) {
    let storage = FaultyStorage::new(0);
    let store = open(&storage).expect("created");
    for _ in 0..2 {
        for batch in [one("a", 10), many("b", 3, 7), one("a", 20_000), one("c", 35_000), one("b", 10)] {
            store.append(batch).wait().expect("stored");
        }
    }
    store.append(one("c", 30_000)).wait().expect("stored");
    store.append(one("a", 5)).wait().expect("stored");
    let (files, events) = ended(&storage, &store, true);
    assert!(files.contains_key(THIRD) && files.len() == 8, "{:?}", files.keys());
    (files, events)
}

fn ended(storage: &FaultyStorage, store: &LogStore, closed: bool) -> (Files, Vec<Event>) {
    let events = read_all(store).expect("readable");
    if closed {
        store.close().wait().expect("closed");
    }
    (storage.files(), events)
}

pub(crate) fn holding(files: &Files) -> FaultyStorage {
    FaultyStorage::holding(files, 0)
}

/// How opening these files is refused; or, since opening reads no sealed segments, what going through all of them finds.
#[track_caller]
pub(crate) fn damage(files: &Files) -> Corruption {
    if let Err(error) = open(&holding(files)) {
        return damage_of::<()>(Err(error));
    }
    match open_with(&holding(files), options(Durability::Sync).read_up_to_damage()) {
        Ok(store) => match &store.open_report().outcome {
            OpenOutcome::Damaged { damage, .. } => damage.clone(),
            outcome => panic!("expected damage, not {outcome:?}"),
        },
        Err(error) => damage_of::<()>(Err(error)),
    }
}

#[track_caller]
pub(crate) fn damage_of<T>(result: Result<T>) -> Corruption {
    match result {
        Err(Error::Corruption(damage)) => *damage,
        Err(error) => panic!("expected damage, not {error:?}"),
        Ok(_) => panic!("expected damage, but there was none"),
    }
}

pub(crate) fn flip(files: &Files, name: &str, bit: usize) -> Files {
    let mut files = files.clone();
    files.get_mut(name).expect("the file is there")[bit / 8] ^= 1 << (bit % 8);
    files
}
