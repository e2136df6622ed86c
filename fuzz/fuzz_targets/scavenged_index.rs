//! The index files of a store of which records were taken out, with a few bytes changed whose checksums match again: no event is given that is
//! not there, nor as another stream's.
#![no_main]

use eventuali::OpenOptions;
use eventuali_fuzz::changed;
use eventuali_fuzz::reseal::reseal_index;
use eventuali_fuzz::scavenged::{EVENTS, SCAVENGED, open, read, use_it};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (indexes, mut files): (Vec<_>, Vec<_>) = SCAVENGED.iter().cloned().partition(|(name, _)| name.ends_with(".idx"));
    let mut indexes = changed(&indexes, input);
    indexes.iter_mut().for_each(|(_, bytes)| reseal_index(bytes));
    files.append(&mut indexes);
    let Ok(store) = open(&files, OpenOptions::new().hot_bytes(0)).0 else { return };
    read(&store, |stream, event| {
        assert!(stream.is_none_or(|id| id == event.aggregate_id()));
        assert!(EVENTS.get(&event.position().0) == Some(event), "another event is given at {}", event.position());
    });
    use_it(&store, input.len() % 4 == 1);
});
