//! Bit rot: every single bit of a store is flipped.

use eventuali::maintenance::Damage;
use eventuali::{Durability, Error, Event};

use crate::arrange::{open, read_all, rounds};
use crate::files::{FIRST, Files, SECOND, THIRD, flip, frames, holding, small_store, three_segments};
use crate::verifying::verified;

/// What becomes of a store with one flipped bit.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Refused { segment: u64, offset: u64 },
    RefusedElsewhere,
    Harmless,
}

/// Opens and reads a store with a flipped bit. No wrong event is ever returned.
fn outcome(files: &Files, events: &[Event], name: &str, bit: usize) -> Outcome {
    let storage = holding(&flip(files, name, bit));
    let result = open(&storage).and_then(|store| read_all(&store));
    match result {
        Ok(read) => {
            assert!(read == events, "bit {bit} of {name}: other events are read, or not all");
            Outcome::Harmless
        }
        Err(Error::Corruption(damage)) if damage.segment > 0 => {
            assert!(damage.path.ends_with(name), "bit {bit} of {name} is reported in {:?}", damage.path);
            Outcome::Refused { segment: damage.segment, offset: damage.offset }
        }
        Err(Error::Corruption(_) | Error::FormatVersion { .. } | Error::Configuration { .. }) => Outcome::RefusedElsewhere,
        Err(error) => panic!("bit {bit} of {name}: {error:?}"),
    }
}

/// Flips these bits of a segment, and asserts that each is reported with its place.
fn every_flip_is_located(files: &Files, events: &[Event], name: &str, sequence: u64, bits: impl IntoIterator<Item = usize>) {
    let places = frames(&files[name]);
    let sealed = files.contains_key(SECOND) && name != THIRD;
    for bit in bits {
        let place = places.iter().map(|place| place.bytes.clone()).find(|bytes| bytes.contains(&(bit / 8))).unwrap_or(0..4096);
        match outcome(files, events, name, bit) {
            Outcome::Refused { segment, offset } => {
                assert_eq!(segment, sequence, "bit {bit} of {name}");
                assert!(place.contains(&usize::try_from(offset).expect("small")), "bit {bit} of {name} is reported at {offset}, not in {place:?}");
            }
            // Who reads a sealed segment goes to its records, and never comes by what is between them.
            Outcome::Harmless if sealed => {
                let report = verified(&flip(files, name, bit));
                let inside = place.start as u64..=place.end as u64;
                let found = |damage: &Damage| damage.file == name && inside.contains(&damage.offset);
                assert!(report.damage.iter().any(found), "bit {bit} of {name} in {place:?}: {:?}", report.damage);
            }
            other => panic!("bit {bit} of {name} in {place:?}: {other:?}"),
        }
    }
}

#[test]
fn every_flipped_bit_of_a_small_segment_is_reported_with_its_place() {
    let (files, events) = small_store(Durability::Sync, true);
    every_flip_is_located(&files, &events, FIRST, 1, 0..files[FIRST].len() * 8);
}

#[test]
fn every_flipped_bit_of_manifest_and_watermark_is_reported_or_harmless() {
    let (files, events) = small_store(Durability::Sync, true);
    for bit in 0..files["MANIFEST"].len() * 8 {
        assert_eq!(outcome(&files, &events, "MANIFEST", bit), Outcome::RefusedElsewhere, "bit {bit}");
    }
    for bit in 0..files["WATERMARK"].len() * 8 {
        // The other slot says the same.
        assert_eq!(outcome(&files, &events, "WATERMARK", bit), Outcome::Harmless, "bit {bit}");
    }
}

#[test]
fn flipped_bits_of_sealed_segments_are_reported_with_their_place() {
    let (files, events) = three_segments();
    let step = usize::try_from(rounds(1)).expect("small");
    for (name, sequence) in [(FIRST, 1), (SECOND, 2), (THIRD, 3)] {
        // Headers, tables and seals to the last bit; of the segment's header and the long payloads some.
        let live = frames(&files[name]).into_iter().flat_map(|place| {
            let head = place.bytes.start * 8..(place.bytes.start + 64 + 40).min(place.bytes.end) * 8;
            head.step_by(7 / step.min(7)).chain((place.bytes.start * 8..place.bytes.end * 8).step_by(4999 / step))
        });
        every_flip_is_located(&files, &events, name, sequence, (0..4096 * 8).step_by(101).chain(live));
    }
}

#[test]
fn bits_that_flip_while_a_store_is_open_never_give_a_wrong_event() {
    let (files, events) = small_store(Durability::Sync, true);
    let places = frames(&files[FIRST]);
    let (start, end) = (places[0].bytes.start, places[places.len() - 1].bytes.end);
    for bit in start * 8..end * 8 {
        let storage = holding(&files);
        let store = open(&storage).expect("it opens");
        storage.rot(FIRST, bit);
        let mut read = Vec::new();
        for event in eventuali::EventStore::read_all(&store, eventuali::ReadAll::new()) {
            match event {
                Ok(event) => read.push(event),
                Err(Error::Corruption(damage)) => {
                    assert_eq!(damage.segment, 1);
                    assert!((start as u64..end as u64).contains(&damage.offset), "bit {bit} is reported at {}", damage.offset);
                    read.clear();
                    break;
                }
                Err(error) => panic!("bit {bit}: {error:?}"),
            }
        }
        assert!(read.is_empty() || read == events, "bit {bit}: other events are read, or not all");
    }
}
