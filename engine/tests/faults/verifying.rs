//! Verify finds every damaged place, and changes nothing.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use eventuali::maintenance::{Damage, VerifyReport, verify, verify_storage};
use eventuali::storage::{Fault, OperationKind};
use eventuali::{Durability, Error, EventStore, OpenOptions};

use crate::arrange::{Chance, SEGMENT_BYTES, many, one, open, rounds};
use crate::files::{FIRST, Files, MANIFEST, SECOND, THIRD, WATERMARK, flip, forge, frames, holding, small_store, three_segments};
use crate::ways_out::damaged_stores;

fn on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What verify says of these files, which it leaves as they are.
pub(crate) fn verified(files: &Files) -> VerifyReport {
    let storage = holding(files);
    let report = verify_storage(&storage, on).expect("it can be verified");
    assert!(storage.files() == *files, "verify has changed something");
    report
}

fn holds(damage: &Damage, name: &str, offset: u64) -> bool {
    damage.file == name && damage.offset <= offset && damage.length.is_none_or(|length| offset < damage.offset + length.max(1))
}

#[test]
fn sound_stores_are_sound() {
    for (files, events) in
        [small_store(Durability::Sync, true), small_store(Durability::Sync, false), small_store(Durability::Os, false), three_segments()]
    {
        let report = verified(&files);
        assert!(report.is_sound(), "{:?}", report.damage);
        let segments = files.iter().filter(|(name, _)| name.contains(".seg"));
        assert_eq!(report.events, events.len() as u64);
        assert_eq!(report.last_position.0, events.len() as u64);
        assert_eq!(report.segments, segments.clone().count() as u64);
        assert_eq!(report.bytes, segments.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
        assert_eq!(report.unpromised_bytes, 0);
    }
}

#[test]
fn what_opening_refuses_is_found_where_opening_finds_it() {
    let (_, damaged) = damaged_stores();
    for (what, files) in damaged {
        let refused = crate::files::damage(&files);
        assert!(refused.to_string().contains("salvage what is whole"), "{what}: {refused}");
        let report = verified(&files);
        assert!(!report.is_sound(), "{what}");
        let name = refused.path.file_name().expect("a name").to_str().expect("text");
        // A frame's header and what is wrong in the frame are one place for opening.
        let found = report.damage.iter().any(|damage| damage.file == name && damage.offset >= refused.offset);
        assert!(found || what == "a missing end", "{what}: {refused:?}, but {:?}", report.damage);
    }
}

#[test]
fn flipped_bits_of_a_segment_are_found_in_their_frames() {
    let (files, events) = small_store(Durability::Sync, true);
    let places = frames(&files[FIRST]);
    let step = if rounds(1) == 1 { 11 } else { 1 };
    for bit in (0..4096 * 8).step_by(41 * step).chain((4096 * 8..files[FIRST].len() * 8).step_by(step)) {
        let report = verified(&flip(&files, FIRST, bit));
        let frame = places.iter().map(|place| place.bytes.clone()).find(|bytes| bytes.contains(&(bit / 8))).unwrap_or(0..4096);
        let [damage] = &report.damage[..] else { panic!("bit {bit} in {frame:?}: {:?}", report.damage) };
        let inside = frame.start as u64..=frame.end as u64;
        assert!(damage.file == FIRST && inside.contains(&damage.offset), "bit {bit} in {frame:?}: {damage}");
        assert!(report.events + 3 >= events.len() as u64, "bit {bit}: {report:?}");
    }
}

#[test]
fn several_places_are_all_found() {
    let (mut files, _) = three_segments();
    let mut hit = Vec::new();
    for name in [FIRST, SECOND, THIRD] {
        for place in frames(&files[name]).iter().filter(|place| place.bytes.len() > 200) {
            let at = place.bytes.start + 150;
            files.get_mut(name).expect("it is there")[at] ^= 1;
            hit.push((name, at as u64));
        }
    }
    let report = verified(&files);
    assert!(hit.len() > 5);
    assert_eq!(report.damaged_places, hit.len() as u64, "{:?}", report.damage);
    for (name, at) in hit {
        assert!(report.damage.iter().any(|damage| holds(damage, name, at)), "{name} at {at}: {:?}", report.damage);
    }
}

#[test]
fn a_damaged_or_missing_manifest_is_told_and_the_segments_are_read_all_the_same() {
    let (files, events) = three_segments();
    let mut missing = files.clone();
    missing.remove(MANIFEST);
    let mut empty = files.clone();
    empty.insert(MANIFEST.to_owned(), Vec::new());
    for damaged in [missing, empty, flip(&files, MANIFEST, 333)] {
        let report = verified(&damaged);
        let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
        assert_eq!((damage.file.as_str(), damage.segment), (MANIFEST, None));
        assert!(damage.reason.contains("the segment files were gone by instead"), "{damage}");
        assert_eq!((report.events, report.segments), (events.len() as u64, 3));
    }
}

#[test]
fn a_damaged_index_file_is_told_with_the_way_out_and_a_missing_one_is_none() {
    const INDEX: &str = "000000001.idx";
    let (files, events) = three_segments();
    assert!(files.contains_key(INDEX));
    let mut damaged: Vec<Files> = (0..files[INDEX].len() * 8).step_by(1009).map(|bit| flip(&files, INDEX, bit)).collect();
    let mut cut = files.clone();
    cut.get_mut(INDEX).expect("it is there").truncate(5000);
    let mut of_another = files.clone();
    of_another.insert(INDEX.to_owned(), files["000000002.idx"].clone());
    damaged.extend([cut, of_another]);
    for damaged in damaged {
        let report = verified(&damaged);
        let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
        assert_eq!((damage.file.as_str(), damage.segment, damage.first_position), (INDEX, Some(1), None));
        assert!(damage.reason.starts_with("the index file is damaged: ") && damage.reason.contains("delete this file"), "{damage}");
        assert_eq!((report.events, report.segments), (events.len() as u64, 3));
        let mut mended = damaged.clone();
        mended.remove(INDEX);
        assert!(verified(&mended).is_sound());
    }
    // It does not stand in the way of what is wrong with the segment.
    let report = verified(&flip(&flip(&files, INDEX, 5000 * 8), FIRST, 5000 * 8));
    let told: Vec<_> = report.damage.iter().map(|damage| damage.file.as_str()).collect();
    assert_eq!(told, [FIRST, INDEX]);
}

#[test]
fn a_watermark_that_is_missing_or_damaged_is_told() {
    let (files, events) = three_segments();
    let mut missing = files.clone();
    missing.remove(WATERMARK);
    let mut both_slots = files.clone();
    for slot in [0, 4096] {
        both_slots.get_mut(WATERMARK).expect("it is there")[slot + 40] ^= 1;
    }
    for damaged in [missing, both_slots] {
        let report = verified(&damaged);
        assert_eq!(report.damage.iter().map(|damage| damage.file.as_str()).collect::<Vec<_>>(), [WATERMARK]);
        assert_eq!(report.events, events.len() as u64);
    }
}

#[test]
fn segments_out_of_place_are_told() {
    let (files, events) = three_segments();
    let (other, _) = three_segments();

    let mut swapped = files.clone();
    swapped.insert(FIRST.to_owned(), files[SECOND].clone());
    swapped.insert(SECOND.to_owned(), files[FIRST].clone());
    let report = verified(&swapped);
    assert_eq!(report.damage.len(), 2, "{:?}", report.damage);
    assert!(report.damage[0].reason.contains("holds segment 2"), "{}", report.damage[0]);
    assert_eq!(report.events, events.len() as u64, "they are read by what they say of themselves");

    let mut foreign = files.clone();
    foreign.insert(SECOND.to_owned(), other[SECOND].clone());
    let report = verified(&foreign);
    assert!(report.damage[0].reason.contains("another store"), "{}", report.damage[0]);
    assert!(report.damage[1].reason.contains("no such file"), "{}", report.damage[1]);
    let positions = report.damage[1].first_position.zip(report.damage[1].last_position).expect("known");
    assert_eq!(report.events, events.len() as u64 - (positions.1.0 - positions.0.0 + 1));

    let mut unnamed = files.clone();
    unnamed.insert("000000009.g0.seg".to_owned(), files[SECOND].clone());
    let report = verified(&unnamed);
    assert_eq!(report.events, events.len() as u64);
    assert!(report.damage.iter().all(|damage| damage.file == "000000009.g0.seg"), "{:?}", report.damage);
    assert!(!report.damage.is_empty());
    let Err(Error::Configuration { .. }) = open(&holding(&unnamed)) else { panic!("opening refuses it too") };

    let mut contradicting = files.clone();
    forge(contradicting.get_mut(MANIFEST).expect("it is there"), |bytes| bytes[48 + 16] ^= 8);
    let report = verified(&contradicting);
    assert!(report.damage.iter().any(|damage| damage.file == MANIFEST), "{:?}", report.damage);
}

#[test]
fn an_interrupted_append_is_no_damage() {
    let (files, events) = small_store(Durability::Sync, false);
    let end = frames(&files[FIRST]).pop().expect("frames").bytes.end;
    let mut torn = files.clone();
    torn.get_mut(FIRST).expect("it is there")[end..end + 50].fill(7);
    let report = verified(&torn);
    assert!(report.is_sound(), "{:?}", report.damage);
    assert_eq!((report.unpromised_bytes, report.events), (50, events.len() as u64));
}

#[test]
fn a_sector_that_cannot_be_read_is_a_damaged_place() {
    let (files, events) = three_segments();
    let storage = holding(&files);
    let within = frames(&files[SECOND])[0].bytes.start as u64 + 10_000;
    storage.inject(Fault::on(OperationKind::Read).of(SECOND).at_byte(within).for_good());
    let report = verify_storage(&storage, on).expect("it can be verified");
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert!(damage.file == SECOND && damage.reason.contains("cannot be read: injected"), "{damage}");
    assert!(report.events > 0 && report.events < events.len() as u64);
}

#[test]
fn nothing_is_made_where_there_is_no_store() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for path in [directory.path().to_owned(), directory.path().join("missing")] {
        let Err(Error::Configuration { message }) = verify(&path, on) else { panic!("{path:?} is verified") };
        assert!(message.contains("there is no store") || message.contains("does not exist"), "{message}");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn verify_never_tells_that_it_has_gone_back() {
    let (files, _) = three_segments();
    let files = flip(&files, SECOND, 8 * 10_000);
    for _ in 0..20 {
        let mut told = vec![(0, 0)];
        let report = verify_storage(&holding(&files), |progress| {
            told.push((progress.position, progress.events));
            ControlFlow::Continue(())
        });
        let report = report.expect("it can be verified");
        assert!(told.is_sorted() && told.iter().map(|(_, events)| *events).is_sorted(), "{told:?}");
        assert_eq!((report.damaged_places, told.last()), (1, Some(&(report.last_position.0, report.events))));
    }
}

#[test]
fn verify_can_be_stopped() {
    let (files, _) = three_segments();
    let report = verify_storage(&holding(&files), |_| ControlFlow::Break(())).expect("stopped");
    assert!(!report.complete && !report.is_sound());
}

/// It follows no lock, so whatever the writer does in between must not look like damage.
#[test]
fn a_store_that_is_being_written_is_sound_at_any_moment() {
    for durability in [Durability::Sync, Durability::Os] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("store");
        let store = OpenOptions::new().durability(durability).segment_bytes(SEGMENT_BYTES).open(&path).expect("created");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..rounds(600) {
                    let batch = if number % 3 == 0 { many("a", 7, 300) } else { one("b", 900) };
                    store.append(batch).wait().expect("stored");
                }
                done.store(true, Ordering::Release);
            });
            let mut seen = 0;
            while !done.load(Ordering::Acquire) {
                let durable = store.durable_position().wait().expect("told").0;
                let report = verify(&path, on).expect("it can be verified");
                assert!(report.is_sound(), "{:?}", report.damage);
                assert!(report.events >= durable && report.events >= seen, "{} of {durable} are seen", report.events);
                seen = report.events;
            }
        });
    }
}

#[test]
fn random_damage_never_ends_it_and_what_opening_refuses_is_found() {
    let (files, _) = three_segments();
    let mut chance = Chance::new(77);
    for round in 0..rounds(300) {
        let mut damaged = files.clone();
        for _ in 0..=chance.below(3) {
            hurt(&mut damaged, &mut chance);
        }
        let report = verified(&damaged);
        if let Err(error) = open(&holding(&damaged)) {
            assert!(!report.is_sound(), "round {round}: opening says {error}");
        }
    }
}

/// Damages one file in one way.
pub(crate) fn hurt(files: &mut Files, chance: &mut Chance) {
    let names: Vec<String> = files.keys().cloned().collect();
    let index = |chance: &mut Chance, end: usize| usize::try_from(chance.below(end.max(1) as u64)).expect("small");
    let name = &names[index(chance, names.len())];
    let other = files[&names[index(chance, names.len())]].clone();
    let bytes = files.get_mut(name).expect("it is there");
    let at = index(chance, bytes.len());
    let end = (at + 1 + index(chance, 9000)).min(bytes.len());
    match chance.below(6) {
        0 => bytes.truncate(at),
        1 => bytes[at..end].fill(0),
        2 => bytes[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7)),
        3 if !bytes.is_empty() => bytes[at] ^= 1,
        4 => {
            let end = end.min(other.len());
            if at < end {
                bytes[at..end].copy_from_slice(&other[at..end]);
            }
        }
        5 => drop(files.remove(name)),
        _ => {}
    }
}
