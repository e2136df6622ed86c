//! The ways out of a refusal: reading up to the damage, accepting the loss, rebuilding the manifest.

use std::fs;
use std::path::Path;

use eventuali::storage::FaultyStorage;
use eventuali::{Durability, Error, Event, EventStore, LogStore, OpenOptions, OpenOutcome, Position, ReadAll, ReadStream, Result, rebuild_manifest};

use crate::arrange::{SEGMENT_BYTES, one, open, open_with, options, read_all};
use crate::files::{FIRST, Files, MANIFEST, SECOND, THIRD, WATERMARK, damage, damage_of, flip, frames, holding, small_store, three_segments};

fn reading_up_to_damage(storage: &FaultyStorage) -> Result<LogStore> {
    open_with(storage, options(Durability::Sync).read_up_to_damage())
}

fn accepting_loss_after(storage: &FaultyStorage, position: Position) -> Result<LogStore> {
    open_with(storage, options(Durability::Sync).accept_loss_after(position))
}

/// Sound files, and the same in every state of damage that is refused, by name.
pub(crate) fn damaged_stores() -> (Vec<Event>, Vec<(&'static str, Files)>) {
    let (files, events) = three_segments();
    let middle_of = |name: &str, number: usize| frames(&files[name])[number].bytes.start + 70;
    let without = |name: &str| {
        let mut files = files.clone();
        files.remove(name);
        files
    };
    let cut = |name: &str, length: usize| {
        let mut files = files.clone();
        files.get_mut(name).expect("it is there").truncate(length);
        files
    };
    let seal = frames(&files[SECOND]).pop().expect("it has frames").bytes.start;
    let mut behind_seal = files.clone();
    behind_seal.get_mut(SECOND).expect("it is there").extend([7; 100]);
    let damaged = vec![
        ("a frame of the first segment", flip(&files, FIRST, middle_of(FIRST, 2) * 8)),
        ("a frame of a segment in the middle", flip(&files, SECOND, middle_of(SECOND, 1) * 8)),
        ("a seal", flip(&files, SECOND, (seal + 65) * 8)),
        ("bytes behind a seal", behind_seal),
        ("the first segment's header", flip(&files, FIRST, 800)),
        ("the header of a segment in the middle", flip(&files, SECOND, 800)),
        ("the last segment's header", flip(&files, THIRD, 800)),
        ("a frame of the last segment", flip(&files, THIRD, middle_of(THIRD, 0) * 8)),
        ("a missing segment in the middle", without(SECOND)),
        ("a missing last segment", without(THIRD)),
        ("a missing end", cut(THIRD, frames(&files[THIRD])[1].bytes.start + 10)),
        ("an empty last segment", cut(THIRD, 0)),
    ];
    (events, damaged)
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let (_, damaged) = damaged_stores();
    for (what, files) in damaged {
        let storage = holding(&files);
        // Sealed segments are not read when the store is opened: their damage is met by who reads them.
        let met = || damage_of(open(&storage).and_then(|store| read_all(&store)));
        let first = met();
        assert!(damage(&files).segment <= first.segment, "{what}: {first}");
        assert_eq!(storage.files(), files, "{what}");
        assert_eq!(met(), first, "{what}");
    }
}

#[test]
fn a_damaged_store_can_be_read_up_to_the_damage_and_no_further() {
    let (events, damaged) = damaged_stores();
    for (what, files) in damaged {
        let expected = damage(&files);
        let good = usize::try_from(expected.last_good_position.0).expect("small");
        let storage = holding(&files);
        if what == "the first segment's header" {
            assert_eq!(damage_of(reading_up_to_damage(&storage)), expected, "there is nothing to read");
            assert!(expected.to_string().contains("accept_loss_after=0") && !expected.to_string().contains("for reading"), "{expected}");
            continue;
        }
        let store = reading_up_to_damage(&storage).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            matches!(&store.open_report().outcome, OpenOutcome::Damaged { up_to, damage } if *up_to == expected.last_good_position && *damage == expected)
        );

        let mut reader = store.read_all(ReadAll::new());
        let read: Vec<Event> = reader.by_ref().map_while(Result::ok).collect();
        assert_eq!(read, events[..good], "{what}");
        assert_eq!(damage_of(read_all(&store)), expected, "{what}: the end is not silent");
        assert_eq!(damage_of(store.read_all(ReadAll::new().backwards()).next().expect("an error")), expected, "{what}");
        assert_eq!(damage_of(store.read(ReadStream::of("a")).collect::<Result<Vec<_>>>()), expected, "{what}: the stream may go on behind it");
        let limited: Result<Vec<_>> = store.read_all(ReadAll::new().limit(good as u64)).collect();
        assert_eq!(limited.expect("what is whole can be read").len(), good, "{what}");

        assert!(matches!(store.append(one("a", 1)).wait(), Err(Error::ReadOnly)), "{what}");
        assert!(matches!(store.sync().wait(), Err(Error::ReadOnly)), "{what}");
        assert!(matches!(open(&storage), Err(Error::StoreLocked { .. })), "{what}: it is held while it is read");
        store.close().wait().expect("closed");
        assert_eq!(storage.files(), files, "{what}: nothing was changed");
    }
}

/// A store that is opened only to be read got a watermark where it had none, and lost what an interrupted change had prepared.
#[test]
fn reading_up_to_the_damage_writes_nothing_in_the_directory() {
    let (_, damaged) = damaged_stores();
    for (what, mut files) in damaged {
        if what == "the first segment's header" || what == "a missing last segment" || what == "a missing end" {
            // There is nothing to read, or only the watermark knows of the damage.
            continue;
        }
        files.remove(WATERMARK);
        files.insert("MANIFEST.tmp".to_owned(), vec![7; 100]);
        files.insert("000000009.g0.seg.tmp".to_owned(), vec![7; 100]);
        let directory = in_directory(&files);
        let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).read_up_to_damage().open(directory.path()).expect("it opens");
        assert!(matches!(store.open_report().outcome, OpenOutcome::Damaged { .. }), "{what}");
        assert!(read_all(&store).is_err(), "{what}");
        store.close().wait().expect("closed");
        let names: Vec<_> = fs::read_dir(directory.path()).expect("readable").map(|entry| entry.expect("readable").file_name()).collect();
        assert_eq!(names.len(), files.len(), "{what}: {names:?}");
        for (name, bytes) in &files {
            assert!(fs::read(directory.path().join(name)).is_ok_and(|now| now == *bytes), "{what}: {name} was changed");
        }
    }
}

#[test]
fn a_sound_store_opens_as_usual_for_reading_up_to_damage() {
    let (files, events) = three_segments();
    let store = reading_up_to_damage(&holding(&files)).expect("it opens");
    assert_eq!(store.open_report().outcome, OpenOutcome::Clean);
    assert_eq!(read_all(&store).expect("readable"), events);
    store.append(one("a", 1)).wait().expect("it takes appends");
}

#[test]
fn accepting_the_loss_after_another_position_is_refused_with_the_right_one() {
    let (_, damaged) = damaged_stores();
    for (what, files) in damaged {
        let good = damage(&files).last_good_position;
        for wrong in [Position(good.0 + 1), Position(good.0.wrapping_sub(1)), Position(u64::MAX)] {
            let storage = holding(&files);
            let Err(Error::Configuration { message }) = accepting_loss_after(&storage, wrong) else { panic!("{what}: {wrong} is accepted") };
            assert!(message.contains(&format!("up to position {good} are intact")), "{what}: {message}");
            assert_eq!(storage.files(), files, "{what}");
        }
    }
}

#[test]
fn accepting_the_loss_keeps_what_is_whole_and_quarantines_the_rest() {
    let (events, damaged) = damaged_stores();
    for (what, files) in damaged {
        let good = damage(&files).last_good_position;
        let storage = holding(&files);
        let store = accepting_loss_after(&storage, good).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(store.open_report().outcome, OpenOutcome::LossAccepted { after: good }, "{what}");
        assert_goes_on(&store, &events, good, what);
        store.close().wait().expect("closed");
        assert_nothing_vanished(&files, &storage.files(), what);

        let Err(Error::Configuration { .. }) = accepting_loss_after(&storage, Position(good.0 + 1)) else {
            panic!("{what}: a loss is accepted of a store that is not damaged")
        };
        let store = open(&storage).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(store.open_report().outcome, OpenOutcome::Clean, "{what}");
        assert_eq!(read_all(&store).expect("readable").len() as u64, good.0 + 1, "{what}");
    }
}

/// The events up to `good` are there, and the next append follows them.
#[track_caller]
fn assert_goes_on(store: &LogStore, events: &[Event], good: Position, what: &str) {
    let kept = usize::try_from(good.0).expect("small");
    assert_eq!(read_all(store).expect("readable"), events[..kept], "{what}");
    let receipts = store.append(one("a", 1)).wait().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(receipts[0].position.0, good.0 + 1, "{what}");
}

/// Every byte of the log that was there is in a segment or in quarantine.
fn assert_nothing_vanished(before: &Files, after: &Files, what: &str) {
    for name in [FIRST, SECOND, THIRD] {
        let Some(bytes) = before.get(name) else { continue };
        // What was sealed may be shared, and goes on in the next generation's file, which has a header of its own.
        let common = |header: usize, now: &[u8]| header + now.iter().zip(bytes).skip(header).take_while(|(now, then)| now == then).count();
        let next = after.get(&name.replace(".g0.", ".g1.")).map_or(0, |now| common(4096, now));
        let kept = after.get(name).map_or(next, |now| common(0, now));
        let quarantined = |part: &[u8]| after.iter().any(|(file, held)| file.starts_with(&format!("quarantine/{name}")) && held.starts_with(part));
        let rest = &bytes[kept..];
        let rest = &rest[..rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)];
        // A new frame may begin as the lost one did.
        let kept_in_quarantine = rest.is_empty() || (0..64).any(|more| kept >= more && quarantined(&bytes[kept - more..kept + rest.len()]));
        assert!(kept_in_quarantine, "{what}: {} bytes of {name} are gone", rest.len());
    }
}

#[test]
fn accepting_a_loss_can_be_repeated_after_an_interruption_at_any_operation() {
    let (events, damaged) = damaged_stores();
    for (what, files) in damaged {
        let good = damage(&files).last_good_position;
        let whole = holding(&files);
        let store = accepting_loss_after(&whole, good).expect("accepted");
        let operations = whole.operations();
        drop(store);
        for number in 0..operations {
            for seed in 0..4 {
                let storage = FaultyStorage::holding(&files, seed);
                storage.stop_at(number);
                let interrupted = accepting_loss_after(&storage, good);
                let storage = if seed == 0 { storage.process_kill() } else { storage.power_cut() };
                let case = format!("{what}, operation {number}, seed {seed}");
                let store = match accepting_loss_after(&storage, good) {
                    // It had come so far that nothing was left to accept.
                    Err(Error::Configuration { message }) if message.contains("not damaged") => open(&storage),
                    other => other,
                };
                let store = store.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_goes_on(&store, &events, good, &case);
                drop((store, interrupted));
                let store = open(&storage.power_cut()).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(read_all(&store).expect("readable").len() as u64, good.0 + 1, "{case}");
            }
        }
    }
}

/// The files in a directory of the file system.
fn in_directory(files: &Files) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(directory.path().join("index")).expect("created");
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).expect("written");
    }
    directory
}

fn open_directory(path: &Path) -> Result<LogStore> {
    OpenOptions::new().segment_bytes(SEGMENT_BYTES).open(path)
}

#[test]
fn a_missing_or_damaged_manifest_is_refused_until_it_is_rebuilt() {
    let (files, events) = three_segments();
    let mut missing = files.clone();
    missing.remove(MANIFEST);
    let mut empty = files.clone();
    empty.insert(MANIFEST.to_owned(), Vec::new());
    let mut cut = files.clone();
    cut.get_mut(MANIFEST).expect("it is there").truncate(100);
    for (what, files) in [("missing", missing), ("empty", empty), ("cut", cut), ("flipped", flip(&files, MANIFEST, 300))] {
        let directory = in_directory(&files);
        let refusal = damage_of(open_directory(directory.path()));
        assert!(refusal.path.ends_with(MANIFEST) && refusal.to_string().contains("rebuild_manifest"), "{what}: {refusal}");
        assert!(!refusal.to_string().contains("accept_loss_after") && !refusal.to_string().contains("for reading"), "{what}: {refusal}");
        rebuild_manifest(directory.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let kept = fs::read_dir(directory.path().join("quarantine")).map_or(0, Iterator::count);
        assert_eq!(kept, usize::from(files.contains_key(MANIFEST)), "{what}: the old manifest is kept");
        let store = open_directory(directory.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(store.open_report().outcome, OpenOutcome::Clean, "{what}");
        assert_goes_on(&store, &events, Position(events.len() as u64), what);
    }
}

#[test]
fn a_manifest_is_rebuilt_of_a_store_that_was_killed() {
    let (mut files, events) = small_store(Durability::Sync, false);
    files.remove(MANIFEST);
    let directory = in_directory(&files);
    rebuild_manifest(directory.path()).expect("rebuilt");
    let store = open_directory(directory.path()).expect("it opens");
    assert_goes_on(&store, &events, Position(events.len() as u64), "killed");
}

#[test]
fn rebuilding_the_manifest_hides_no_damage_of_the_segments() {
    let (_, damaged) = damaged_stores();
    for (what, mut files) in damaged {
        if what == "a missing last segment" {
            // Only the watermark knows of it; see the next test.
            continue;
        }
        let expected = damage(&files).last_good_position;
        files.remove(MANIFEST);
        let directory = in_directory(&files);
        match rebuild_manifest(directory.path()) {
            Err(Error::Corruption(refusal)) => {
                assert!(what.contains("header") || what.contains("empty"), "{what}: {refusal}");
                assert!(refusal.to_string().contains("move this file out") && !refusal.to_string().contains("accept_loss_after"), "{refusal}");
                fs::remove_file(&refusal.path).expect("moved away");
                rebuild_manifest(directory.path()).unwrap_or_else(|error| panic!("{what}: the way out does not help: {error}"));
            }
            Err(error) => panic!("{what}: {error}"),
            Ok(()) => assert_eq!(damage_of(open_directory(directory.path())).last_good_position, expected, "{what}"),
        }
    }
}

#[test]
fn the_watermark_notices_a_last_segment_that_a_rebuilt_manifest_does_not_name() {
    let (mut files, _) = three_segments();
    files.remove(MANIFEST);
    files.remove(THIRD);
    let directory = in_directory(&files);
    rebuild_manifest(directory.path()).expect("rebuilt");
    let refusal = damage_of(open_directory(directory.path()));
    assert_eq!(refusal.segment, 2);
    assert!(refusal.reason.contains("watermark"), "{refusal}");
}

#[test]
fn a_manifest_is_rebuilt_from_one_stores_segments_only() {
    let (mut files, _) = three_segments();
    let (others, _) = three_segments();
    files.insert(THIRD.to_owned(), others[THIRD].clone());
    let directory = in_directory(&files);
    let before = fs::read(directory.path().join(MANIFEST)).expect("readable");
    assert!(damage_of(rebuild_manifest(directory.path())).reason.contains("another store"));
    assert_eq!(fs::read(directory.path().join(MANIFEST)).expect("readable"), before);
    let empty = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(rebuild_manifest(empty.path()), Err(Error::Configuration { .. })));
    let _ = fs::remove_file(empty.path().join(WATERMARK));
}

/// A power cut between the renames of a roll-over leaves a segment that the manifest does not name. Where the one before it
/// rotted as well, its loss was accepted and the unnamed segment stayed: the next opening refused it as a stranger, and a
/// roll-over wrote over it, so that the only copy of its events was gone.
#[test]
fn accepting_a_loss_also_moves_what_a_crash_left_unnamed_to_quarantine() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage).expect("created");
    store.append(one("a", 10)).wait().expect("stored");
    store.append(one("a", 20_000)).wait().expect("stored");
    let old_manifest = storage.files()[MANIFEST].clone();
    store.append(one("a", 60_000)).wait().expect("stored in the next segment");
    store.close().wait().expect("closed");
    let mut files = storage.files();
    files.insert(MANIFEST.to_owned(), old_manifest);
    let unnamed = files[SECOND].clone();

    let storage = holding(&flip(&files, FIRST, 10_000 * 8));
    let store = accepting_loss_after(&storage, Position(1)).expect("the loss is accepted");
    assert_eq!(read_all(&store).expect("readable").len(), 1);
    store.close().wait().expect("closed");
    assert!(storage.files().iter().any(|(name, bytes)| name.starts_with("quarantine/") && *bytes == unnamed), "nothing is lost in silence");
    let store = open(&storage).expect("it opens from now on");
    for _ in 0..3 {
        store.append(one("a", 40_000)).wait().expect("it rolls over");
    }
    assert_eq!(read_all(&store).expect("readable").len(), 4);
}
