//! What the targets share: a small store whose files can be changed before it is opened again.

pub mod reseal;
pub mod scavenged;

use std::sync::{Arc, LazyLock};

use eventuali::storage::{Access, MemoryStorage, Storage};
use eventuali::{AppendBatch, Error, EventStore, ExpectedVersion, NewEvent, OpenOptions, ReadAll, Result};

/// A file by its name.
pub type Files = Vec<(String, Vec<u8>)>;

/// The smallest that is allowed.
const SEGMENT_BYTES: u64 = 64 << 10;

/// The files of a store of a few events in several segments, closed in order.
pub static SOUND: LazyLock<Files> = LazyLock::new(|| make().expect("a store in memory can be written"));

fn make() -> Result<Files> {
    let storage = Arc::new(MemoryStorage::new());
    let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open_storage(storage.clone())?;
    let large = "x".repeat(usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX));
    for payload in ["one", "two", "three", &large, "four", "five", "six"] {
        let event = NewEvent::json("Counted", payload)?;
        store.append(AppendBatch::one("counter", "Counter", ExpectedVersion::Any, vec![event])).wait()?;
    }
    store.close().wait()?;
    files_of(&storage)
}

/// All files of a store, but for those in folders.
fn files_of(storage: &MemoryStorage) -> Result<Files> {
    let read = |name: String| {
        let file = storage.open(&name, Access::Read).map_err(|error| Error::configuration(error.to_string()))?;
        let length = file.length().map_err(|error| Error::configuration(error.to_string()))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_at(&mut bytes, 0).map_err(|error| Error::configuration(error.to_string()))?;
        Ok((name, bytes))
    };
    storage.list("").map_err(|error| Error::configuration(error.to_string()))?.into_iter().map(read).collect()
}

/// Files with bytes changed as `input` says: file, place in it (two bytes, from the end where the first byte is odd) and
/// value of each change.
pub fn changed(files: &Files, input: &[u8]) -> Files {
    let mut files = files.clone();
    for change in input.chunks_exact(4) {
        let count = files.len();
        let (_, bytes) = &mut files[usize::from(change[0] >> 1) % count];
        let place = usize::from(u16::from_le_bytes([change[1], change[2]]));
        let length = bytes.len();
        if length > 0 {
            let place = place % length;
            bytes[if change[0] & 1 == 0 { place } else { length - 1 - place }] = change[3];
        }
    }
    files
}

/// Opens a store of these files, reads everything, and appends: any of it may fail, nothing may panic or hang.
pub fn open_read_append(files: &Files) {
    let storage = Arc::new(MemoryStorage::new());
    for (name, bytes) in files {
        let file = storage.create(name).expect("memory");
        file.write_at(bytes, 0).expect("memory");
    }
    let options = || OpenOptions::new().segment_bytes(SEGMENT_BYTES);
    for options in [options(), options().read_up_to_damage()] {
        let Ok(store) = options.open_storage(storage.clone()) else { continue };
        for backwards in [false, true] {
            let query = ReadAll { backwards, ..ReadAll::new() };
            // After an error a reader ends.
            store.read_all(query).for_each(drop);
        }
        if let Ok(event) = NewEvent::json("Counted", "more") {
            drop(store.append(AppendBatch::one("counter", "Counter", ExpectedVersion::Any, vec![event])).wait());
        }
        drop(store.close().wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sound_store_is_one_before_anything_is_changed() {
        let storage = Arc::new(MemoryStorage::new());
        for (name, bytes) in SOUND.iter() {
            storage.create(name).and_then(|file| file.write_at(bytes, 0)).expect("memory");
        }
        assert!(SOUND.iter().filter(|(name, _)| name.ends_with(".seg")).count() > 1);
        let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open_storage(storage).expect("a sound store");
        assert_eq!(store.read_all(ReadAll::new()).map(|event| event.expect("sound")).count(), 7);
    }
}
