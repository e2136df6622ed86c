//! A small store of which records were taken out, and whatever can be done with one.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use eventuali::maintenance::{Extent, salvage_storage, scavenge_with, verify_storage};
use eventuali::storage::{MemoryStorage, Storage};
use eventuali::{
    AppendBatch, Compress, Error, Event, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, ReadStream, Result,
    Retention,
};

use crate::{Files, SEGMENT_BYTES, files_of};

/// The streams that it has: one that was deleted, one that was deleted and goes on, one that was limited, and one that is whole.
pub const STREAMS: [&str; 4] = ["gone", "again", "limited", "whole"];

/// The files of a store of several segments, some plain and some compressed, with records taken out of most of them.
pub static SCAVENGED: LazyLock<Files> = LazyLock::new(|| make().expect("a store in memory can be written"));

/// What its events are, by their positions.
pub static EVENTS: LazyLock<HashMap<u64, Event>> = LazyLock::new(|| {
    let store = open(&SCAVENGED, OpenOptions::new()).0.expect("a sound store");
    let event = |event: Result<Event>| event.map(|event| (event.position().0, event.detach()));
    store.read_all(ReadAll::new().include_system()).map(event).collect::<Result<_>>().expect("readable")
});

/// Bytes that cannot be compressed.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).unwrap_or(0)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn append(store: &LogStore, id: &str, expected: ExpectedVersion, payload: Vec<u8>) -> Result<()> {
    let event = NewEvent::new("Counted", EventData::Protobuf(payload));
    store.append(AppendBatch::one(id, "Counter", expected, vec![event])).wait().map(drop)
}

fn make() -> Result<Files> {
    let storage = Arc::new(MemoryStorage::new());
    let options = OpenOptions::new().segment_bytes(SEGMENT_BYTES).compression(Compress::Never).index_when_sealing();
    let store = options.open_storage(storage.clone())?;
    let large = |round: u64| if round.is_multiple_of(2) { noise(round, 40_000) } else { vec![7; 40_000] };
    for round in 0..4 {
        for (number, id) in STREAMS.into_iter().enumerate() {
            append(&store, id, ExpectedVersion::Any, noise(100 * round + number as u64, 90))?;
        }
        append(&store, "whole", ExpectedVersion::Any, large(round))?;
    }
    for id in ["gone", "again"] {
        store.delete(id.into(), ExpectedVersion::Exists).wait()?;
    }
    store.set_retention("limited".into(), Retention::new().max_count(2)).wait()?;
    scavenge_with(&store, Extent::Everything, |_| ControlFlow::Continue(()))?;
    append(&store, "again", ExpectedVersion::NoStream, noise(7, 50))?;
    append(&store, "limited", ExpectedVersion::Any, noise(8, 50))?;
    store.close().wait()?;
    files_of(&storage)
}

/// A store of these files in memory, if it can be opened.
pub fn open(files: &Files, options: OpenOptions) -> (Result<LogStore>, Arc<MemoryStorage>) {
    let storage = Arc::new(MemoryStorage::new());
    for (name, bytes) in files {
        let file = storage.create(name).expect("memory");
        file.write_at(bytes, 0).expect("memory");
    }
    (options.segment_bytes(SEGMENT_BYTES).compression(Compress::Never).open_storage(storage.clone()), storage)
}

/// Reads everything in every way; each event is shown, with the stream that was read.
pub fn read(store: &LogStore, mut show: impl FnMut(Option<&str>, &Event)) {
    for backwards in [false, true] {
        let query = ReadAll { backwards, ..ReadAll::new().include_system() };
        store.read_all(query).flatten().for_each(|event| show(None, &event));
        for id in STREAMS {
            let query = ReadStream { backwards, ..ReadStream::of(id) };
            store.read(query).flatten().for_each(|event| show(Some(id), &event));
        }
    }
}

/// Does with a store whatever can be done: any of it may fail. Scavenging takes far longer than all else, so that it is not always done.
pub fn use_it(store: &LogStore, scavenges: bool) {
    read(store, |_, _| {});
    for id in STREAMS {
        drop(append(store, id, ExpectedVersion::NoStream, vec![1]));
        drop(append(store, id, ExpectedVersion::Any, vec![2]));
    }
    drop(store.delete("whole".into(), ExpectedVersion::Any).wait());
    drop(store.set_retention("again".into(), Retention::new().max_count(1)).wait());
    if scavenges {
        for extent in [Extent::Worthwhile, Extent::Everything] {
            drop(scavenge_with(store, extent, |_| ControlFlow::Continue(())));
        }
        read(store, |_, _| {});
    }
    drop(store.close().wait());
}

/// Opens a store of these files, also where it is damaged, and does with it whatever can be done; then verifies and salvages the files.
pub fn open_and_use(files: &Files, scavenges: bool) {
    let (opened, _) = open(files, OpenOptions::new());
    match opened {
        Ok(store) => use_it(&store, scavenges),
        Err(Error::Corruption(damage)) => {
            if let Ok(store) = open(files, OpenOptions::new().read_up_to_damage()).0 {
                use_it(&store, scavenges);
            }
            if let Ok(store) = open(files, OpenOptions::new().accept_loss_after(damage.last_good_position)).0 {
                use_it(&store, scavenges);
            }
        }
        Err(_) => {}
    }
    let (_, storage) = open(files, OpenOptions::new().read_up_to_damage());
    drop(verify_storage(&*storage, |_| ControlFlow::Continue(())));
    drop(salvage_storage(&*storage, &MemoryStorage::new(), |_| ControlFlow::Continue(())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_out_of_it_and_it_is_sound() {
        let (store, storage) = open(&SCAVENGED, OpenOptions::new());
        let store = store.expect("a sound store");
        let mut seen = 0;
        read(&store, |stream, event| {
            assert!(stream.is_none_or(|id| id == event.aggregate_id()));
            assert!(EVENTS[&event.position().0] == *event);
            seen += 1;
        });
        assert!(seen > 20, "{seen}");
        let found = verify_storage(&*storage, |_| ControlFlow::Continue(())).expect("verified");
        assert!(found.is_sound() && found.removed > 8, "{found:?}");
        let count = |ending: &str| SCAVENGED.iter().filter(|(name, _)| name.ends_with(ending)).count();
        assert!(count(".idx") > 1 && count(".g1.seg") > 0 && count(".g2.seg") > 0, "{:?}", SCAVENGED.iter().map(|file| &file.0).collect::<Vec<_>>());
    }
}
