//! Salvage saves every event outside of the damaged records, and lists exactly what it could not save.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use eventuali::maintenance::{SalvageReport, salvage, salvage_storage};
use eventuali::storage::FaultyStorage;
use eventuali::{
    Durability, Error, Event, EventMetadata, EventStore, LogStore, NewEvent, OpenOptions, OpenOutcome, Position, ReadAll, Tag, Timestamp,
};

use crate::arrange::{Chance, SEGMENT_BYTES, many, one, open, read_all, rounds};
use crate::files::{FIRST, Files, MANIFEST, SECOND, THIRD, WATERMARK, flip, frames, holding, small_store, three_segments, u32_at};
use crate::verifying::hurt;

fn on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Salvages these files, which stay as they are; the new store's events.
fn salvaged(files: &Files) -> (SalvageReport, Vec<Event>) {
    let (source, target) = (holding(files), FaultyStorage::new(0));
    let report = salvage_storage(&source, &target, on).expect("it can be salvaged");
    assert!(source.files() == *files, "salvage has changed the original");
    let durable = target.power_cut();
    let store = open(&durable).expect("the new store opens");
    assert_eq!(store.open_report().outcome, OpenOutcome::Clean);
    let saved = read_all(&store).expect("readable");
    (report, saved)
}

/// Where an event is in its segment: the frame's header, its entry in the table, its body.
struct EventPlace {
    segment: &'static str,
    position: u64,
    parts: [Range<usize>; 3],
}

fn event_places(files: &Files) -> Vec<EventPlace> {
    let mut places = Vec::new();
    for segment in [FIRST, SECOND, THIRD] {
        let Some(bytes) = files.get(segment) else { continue };
        for frame in frames(bytes) {
            let start = frame.bytes.start;
            let count = u32_at(bytes, start + 20) as usize;
            for index in 0..count {
                let entry = start + 64 + index * 40;
                let body = entry + u32_at(bytes, entry) as usize;
                let parts = [start..start + 64, entry..entry + 40, body..body + u32_at(bytes, entry + 4) as usize];
                let position = frame.last_position + 1 - count as u64 + index as u64;
                places.push(EventPlace { segment, position, parts });
            }
        }
    }
    places
}

/// Asserts that what is untouched was saved as it was, and that the report tells exactly what became of everything.
fn judge(what: &str, sound: &Files, damaged: &Files, events: &[Event]) -> SalvageReport {
    let (report, saved) = salvaged(damaged);
    let new_positions: BTreeMap<u64, u64> =
        report.kept.iter().flat_map(|run| (run.first..=run.last).map(|old| (old, run.new_first + old - run.first))).collect();
    let lost: Vec<u64> = report.lost.iter().flat_map(|range| range.first..=range.last).collect();
    assert_eq!(new_positions.len(), saved.len(), "{what}");
    assert_eq!(report.events, saved.len() as u64, "{what}");
    let told: Vec<u64> = new_positions.keys().copied().chain(lost.iter().copied()).collect();
    let mut in_order = told.clone();
    in_order.sort_unstable();
    assert_eq!(in_order, (1..=told.len() as u64).collect::<Vec<_>>(), "{what}: each position is either kept or lost");

    let mut new_versions: HashMap<&str, u64> = HashMap::new();
    for (old, new) in &new_positions {
        let (event, saved) = (&events[usize::try_from(*old).expect("small") - 1], &saved[usize::try_from(*new).expect("small") - 1]);
        let parts =
            |event: &Event| (event.id(), event.aggregate_id().to_owned(), event.timestamp(), event.payload().to_vec(), event.schema_version());
        assert_eq!(parts(event), parts(saved), "{what}: position {old}");
        assert_eq!(
            (event.metadata().expect("whole"), event.tags().expect("whole")),
            (saved.metadata().expect("whole"), saved.tags().expect("whole"))
        );
        let version = new_versions.entry(event.aggregate_id()).or_default();
        *version += 1;
        assert_eq!((saved.position().0, saved.version().0), (*new, *version), "{what}: position {old}");
        let stream = report.streams.iter().find(|stream| stream.aggregate_id == event.aggregate_id());
        let told = stream.map_or(Some(event.version().0), |stream| {
            let run = stream.kept.iter().find(|run| (run.first..=run.last).contains(&event.version().0))?;
            Some(run.new_first + event.version().0 - run.first)
        });
        assert_eq!(told, Some(*version), "{what}: version {} of {}: {:?}", event.version(), event.aggregate_id(), report.streams);
    }
    for stream in &report.streams {
        for version in stream.lost.iter().flat_map(|range| range.first..=range.last) {
            let event =
                events.iter().find(|event| event.aggregate_id() == stream.aggregate_id && event.version().0 == version).expect("there was one");
            assert!(lost.contains(&event.position().0), "{what}: version {version} of {} is not lost", stream.aggregate_id);
        }
    }
    for place in event_places(sound) {
        let same =
            |part: &Range<usize>| damaged.get(place.segment).and_then(|bytes| bytes.get(part.clone())) == Some(&sound[place.segment][part.clone()]);
        let is_saved = new_positions.contains_key(&place.position);
        assert!(is_saved || !place.parts.iter().all(same), "{what}: position {} is untouched and lost: {report:?}", place.position);
    }
    report
}

#[test]
fn a_sound_store_is_saved_whole() {
    for (files, events) in [small_store(Durability::Sync, true), small_store(Durability::Os, false), three_segments()] {
        let report = judge("sound", &files, &files, &events);
        assert_eq!((report.lost.len(), report.streams.len(), report.damaged_places), (0, 0, 0));
        assert_eq!(report.events, events.len() as u64);
    }
}

#[test]
fn of_every_damaged_store_what_is_untouched_is_saved() {
    let (sound, events) = three_segments();
    let cut = |name: &str, length: usize| {
        let mut files = sound.clone();
        files.get_mut(name).expect("it is there").truncate(length);
        files
    };
    let zeroed = |name: &str, range: Range<usize>| {
        let mut files = sound.clone();
        files.get_mut(name).expect("it is there")[range].fill(0);
        files
    };
    for name in [FIRST, SECOND, THIRD] {
        let mut without = sound.clone();
        without.remove(name);
        judge(&format!("{name} is gone"), &sound, &without, &events);
        for place in frames(&sound[name]) {
            let (start, end) = (place.bytes.start, place.bytes.end);
            judge(&format!("{name} is cut at {start}"), &sound, &cut(name, start), &events);
            judge(&format!("{name} is cut within {start}"), &sound, &cut(name, start + 70), &events);
            judge(&format!("{name} lacks a header at {start}"), &sound, &zeroed(name, start..start + 64), &events);
            judge(&format!("{name} lacks a frame at {start}"), &sound, &zeroed(name, start..end), &events);
        }
        let length = sound[name].len();
        for start in (0..length).step_by(6000) {
            judge(&format!("{name} lacks a block at {start}"), &sound, &zeroed(name, start..(start + 8192).min(length)), &events);
        }
    }
}

#[test]
fn a_flipped_bit_costs_no_more_than_its_record() {
    let (files, events) = small_store(Durability::Sync, true);
    let places = event_places(&files);
    let live = frames(&files[FIRST]);
    let bits = (0..4096 * 8).step_by(997).chain(live[0].bytes.start * 8..live[live.len() - 1].bytes.end * 8);
    for bit in bits.step_by(if rounds(1) == 1 { 23 } else { 1 }) {
        let report = judge(&format!("bit {bit}"), &files, &flip(&files, FIRST, bit), &events);
        let hit: Vec<u64> =
            places.iter().filter(|place| place.parts[1..].iter().any(|part| part.contains(&(bit / 8)))).map(|place| place.position).collect();
        let lost: Vec<u64> = report.lost.iter().flat_map(|range| range.first..=range.last).collect();
        assert_eq!(lost, hit, "bit {bit}");
        assert_eq!(report.damaged_places, 1, "bit {bit}: {:?}", report.damage);
    }
}

#[test]
fn a_lost_segment_header_costs_nothing() {
    let (files, events) = three_segments();
    for name in [FIRST, SECOND, THIRD] {
        let mut damaged = files.clone();
        damaged.get_mut(name).expect("it is there")[..4096].fill(0);
        let report = judge(name, &files, &damaged, &events);
        assert_eq!((report.events, report.lost.len()), (events.len() as u64, 0), "{name}: {report:?}");
    }
}

#[test]
fn streams_that_lost_events_are_listed_with_old_and_new_versions() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage).expect("created");
    for batch in [many("a", 3, 10), one("b", 10), many("a", 2, 10), one("b", 10)] {
        store.append(batch).wait().expect("stored");
    }
    let events = read_all(&store).expect("readable");
    store.close().wait().expect("closed");
    let files = storage.files();
    let places = event_places(&files);
    let mut damaged = files.clone();
    // Versions 2 and 5 of a, the second with all that follows it of its stream.
    for position in [2, 6] {
        let body = places[position - 1].parts[2].clone();
        damaged.get_mut(FIRST).expect("it is there")[body.end - 1] ^= 1;
    }
    let report = judge("two records", &files, &damaged, &events);
    let ranges = |ranges: &[eventuali::maintenance::PositionRange]| ranges.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>();
    let transfers =
        |transfers: &[eventuali::maintenance::Transfer]| transfers.iter().map(|run| (run.first, run.last, run.new_first)).collect::<Vec<_>>();
    assert_eq!(ranges(&report.lost), [(2, 2), (6, 6)]);
    assert_eq!(transfers(&report.kept), [(1, 1, 1), (3, 5, 2), (7, 7, 5)]);
    let [stream] = &report.streams[..] else { panic!("{:?}", report.streams) };
    assert_eq!((stream.tenant.as_str(), stream.aggregate_id.as_str()), ("", "a"));
    assert_eq!(ranges(&stream.lost), [(2, 2), (5, 5)]);
    assert_eq!(transfers(&stream.kept), [(1, 1, 1), (3, 4, 2)]);
}

#[test]
fn segments_out_of_place_are_saved_by_what_they_say_of_themselves() {
    let (files, events) = three_segments();
    let (other, _) = three_segments();
    let mut swapped = files.clone();
    swapped.insert(FIRST.to_owned(), files[SECOND].clone());
    swapped.insert(SECOND.to_owned(), files[FIRST].clone());
    let (report, saved) = salvaged(&swapped);
    assert_eq!((report.events, report.lost.len()), (events.len() as u64, 0));
    assert!(saved.iter().zip(&events).all(|(saved, event)| saved == event));

    let mut without_manifest = swapped.clone();
    without_manifest.remove(MANIFEST);
    assert_eq!(salvaged(&without_manifest).0.events, events.len() as u64);

    let mut spliced = files.clone();
    spliced.insert(SECOND.to_owned(), other[SECOND].clone());
    judge("another store's segment", &files, &spliced, &events);
    let mut part = files.clone();
    let from = frames(&files[SECOND])[2].bytes.start;
    let end = other[SECOND].len().min(files[SECOND].len());
    part.get_mut(SECOND).expect("it is there")[from..end].copy_from_slice(&other[SECOND][from..end]);
    judge("a part of another store's segment", &files, &part, &events);
}

#[test]
fn a_torn_tail_is_not_saved_and_is_no_loss() {
    let (files, events) = small_store(Durability::Sync, false);
    let end = frames(&files[FIRST]).pop().expect("frames").bytes.end;
    let mut torn = files.clone();
    torn.get_mut(FIRST).expect("it is there")[end..end + 50].fill(7);
    let report = judge("torn", &files, &torn, &events);
    assert_eq!((report.unpromised_bytes, report.lost.len(), report.events), (50, 0, events.len() as u64));
}

/// Nobody knows what a segment had of which nothing can be read, where nothing else tells.
#[test]
fn what_may_have_followed_an_unreadable_end_is_told() {
    let (files, events) = three_segments();
    let salvaged = |files: &Files| salvage_storage(&holding(files), &FaultyStorage::new(0), on).expect("salvaged");
    assert_eq!(salvaged(&files).unknown_after, None);
    let (end, before) = (events.len() as u64, salvaged(&files).events);
    assert_eq!(end, before);
    let mut unreadable = files.clone();
    unreadable.get_mut(THIRD).expect("it is there").fill(7);
    let mut missing = files.clone();
    missing.remove(THIRD);
    for mut damaged in [unreadable, missing] {
        // The watermark tells how far it went.
        let report = salvaged(&damaged);
        assert_eq!((report.unknown_after, report.lost.last().map(|lost| lost.last)), (None, Some(end)));
        damaged.remove(WATERMARK);
        let report = salvaged(&damaged);
        assert_eq!((report.unknown_after, report.lost.len()), (Some(Position(report.events)), 0));
        assert!(report.events < end && report.damaged_places > 0);
    }
    let mut without = files.clone();
    without.remove(WATERMARK);
    assert_eq!((salvaged(&without).unknown_after, salvaged(&without).events), (None, end));
}

#[test]
fn random_damage_costs_only_what_it_touches() {
    let (files, events) = three_segments();
    let mut chance = Chance::new(11);
    for round in 0..rounds(200) {
        let mut damaged = files.clone();
        for _ in 0..=chance.below(3) {
            hurt(&mut damaged, &mut chance);
        }
        if damaged.get(WATERMARK) != files.get(WATERMARK) || !damaged.contains_key(MANIFEST) || damaged[MANIFEST] != files[MANIFEST] {
            // Without what is said there nobody knows what was promised, or in which file: it must end all the same.
            let target = FaultyStorage::new(0);
            if let Ok(report) = salvage_storage(&holding(&damaged), &target, on) {
                assert_eq!(read_all(&open(&target).expect("it opens")).expect("readable").len() as u64, report.events);
            }
            continue;
        }
        judge(&format!("round {round}"), &files, &damaged, &events);
    }
}

#[test]
fn a_salvage_that_ends_half_way_leaves_nothing_that_looks_like_a_store() {
    let (files, _) = three_segments();
    let whole = FaultyStorage::new(0);
    salvage_storage(&holding(&files), &whole, on).expect("salvaged");
    let mut unfinished = 0;
    for number in 0..whole.operations() {
        let target = FaultyStorage::new(number);
        target.stop_at(number);
        let ended = salvage_storage(&holding(&files), &target, on);
        let left = target.power_cut();
        if ended.is_err() && left.files().contains_key(MANIFEST) {
            // All was written, and only reading it again was interrupted.
            assert!(open(&left).is_ok(), "operation {number}");
        } else if ended.is_err() {
            unfinished += 1;
            let refused = left.files().keys().all(|name| !name.contains(".seg")) || open(&left).is_err() || {
                // Its first segment, before any event.
                read_all(&open(&left).expect("it opens")).expect("readable").is_empty()
            };
            assert!(refused, "operation {number}: {:?}", left.files().keys());
        }
    }
    assert!(unfinished > 5);
}

fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).expect("readable") {
        let (name, path) = entry.map(|entry| (entry.file_name().into_string().expect("text"), entry.path())).expect("readable");
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(path).expect("readable"));
        }
    }
    found
}

/// A directory with these files in `store`.
fn directory_with(files: &Files) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(directory.path().join("store/index")).expect("created");
    for (name, bytes) in files {
        fs::write(directory.path().join("store").join(name), bytes).expect("written");
    }
    directory
}

#[test]
fn a_directory_is_salvaged_to_a_new_one_and_left_as_it_is() {
    let (files, events) = three_segments();
    let damaged = flip(&files, SECOND, (frames(&files[SECOND])[1].bytes.start + 200) * 8);
    let directory = directory_with(&damaged);
    let (source, target) = (directory.path().join("store"), directory.path().join("saved"));
    // What a salvage that was killed has left.
    let remains = directory.path().join("saved.salvage.tmp");
    fs::create_dir(&remains).expect("created");
    for name in [FIRST, "000000007.g0.seg", "MANIFEST.tmp", "UNFINISHED.tmp", "LOCK"] {
        let bytes: &[u8] = if name == "LOCK" { b"" } else { b"half" };
        fs::write(remains.join(name), bytes).expect("written");
    }
    let report = salvage(&source, &target, on).expect("salvaged");
    assert!(report.complete);
    assert_eq!(contents(&source), damaged, "not even a lock file was made");
    assert!(!remains.exists());
    let mut names: Vec<String> = contents(&target).into_keys().collect();
    names.sort();
    assert_eq!(names, [FIRST, "LOCK", MANIFEST, WATERMARK]);
    let store = LogStore::open(&target).expect("it opens");
    assert_eq!(store.read_all(ReadAll::new()).count(), events.len() - 1);
    assert_eq!(store.identity().wait().expect("told").store_id, report.store_id);
    store.append(one("a", 1)).wait().expect("it takes appends");
}

#[test]
fn a_target_that_cannot_be_one_is_refused_and_nothing_is_made() {
    let (files, _) = small_store(Durability::Sync, true);
    let directory = directory_with(&files);
    let source = directory.path().join("store");
    fs::create_dir(directory.path().join("taken")).expect("created");
    for target in ["taken", "store", "store/within", "missing/target"] {
        let Err(Error::Configuration { .. }) = salvage(&source, directory.path().join(target), on) else { panic!("{target} is taken") };
    }
    let Err(Error::Configuration { .. }) = salvage(directory.path().join("taken"), directory.path().join("new"), on) else {
        panic!("there is no store")
    };
    assert_eq!(contents(&source), files);
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 2);
}

#[test]
fn a_salvage_that_is_stopped_leaves_nothing() {
    let (files, _) = three_segments();
    let directory = directory_with(&files);
    let report = salvage(directory.path().join("store"), directory.path().join("saved"), |_| ControlFlow::Break(())).expect("stopped");
    assert!(!report.complete);
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
}

#[test]
fn damage_in_every_second_of_many_frames_takes_no_longer_than_reading_them() {
    let storage = FaultyStorage::new(0);
    let store = OpenOptions::new().durability(Durability::Os).open_storage(std::sync::Arc::new(storage.clone())).expect("created");
    for _ in 0..20_000 {
        store.append(one("a", 40)).wait().expect("stored");
    }
    store.close().wait().expect("closed");
    let mut files = storage.files();
    for place in frames(&files[FIRST]).iter().filter(|place| place.bytes.len() > 64).step_by(2) {
        files.get_mut(FIRST).expect("it is there")[place.bytes.start + 60] ^= 1;
        files.get_mut(FIRST).expect("it is there")[place.bytes.end - 10] ^= 1;
    }
    let (report, saved) = salvaged(&files);
    assert_eq!((report.damaged_places, report.lost.len(), saved.len()), (10_000, 10_000, 10_000));
}

/// Headers with right checksums can say anything; each says that its frame reaches over all the others.
#[test]
fn hostile_headers_take_neither_long_nor_much() {
    let (mut files, _) = three_segments();
    for (span, position_step) in [(64 << 20, 0), (1 << 16, 0), (4096, 1), (0, 1 << 48)] {
        let segment = files.get_mut(THIRD).expect("it is there");
        segment.resize(4096 + (2 << 20), 0);
        let seed = crc(0x4556_464C, &segment[32..40]);
        let base_lsn = u64::from_le_bytes(segment[56..64].try_into().expect("eight bytes"));
        let base_position = u64::from_le_bytes(segment[64..72].try_into().expect("eight bytes"));
        for at in (4096..segment.len() - 64).step_by(64) {
            let lsn = base_lsn + at as u64 - 4096;
            let header = &mut segment[at..at + 64];
            header.fill(0);
            header[..4].copy_from_slice(&0x4652_5645_u32.to_le_bytes());
            header[4] = 1;
            header[8..16].copy_from_slice(&lsn.to_le_bytes());
            header[20..24].copy_from_slice(&1_u32.to_le_bytes());
            header[24..32].copy_from_slice(&base_position.saturating_add((position_step * ((at as u64 - 4096) / 64)).min(1 << 63)).to_le_bytes());
            header[40..48].copy_from_slice(&lsn.to_le_bytes());
            header[52..56].copy_from_slice(&u32::try_from(span).expect("small").to_le_bytes());
            let sum = crc(seed, &header[..60]);
            header[60..].copy_from_slice(&sum.to_le_bytes());
        }
        let (report, saved) = salvaged(&files);
        assert!(report.damaged_places > 0 && saved.len() as u64 == report.events, "{span}");
    }
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

#[test]
fn large_batches_metadata_and_tags_come_through() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("store");
    let store = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES * 100).open(&path).expect("created");
    let mut rich = NewEvent::json("Happened", "x").expect("JSON");
    rich.metadata = EventMetadata { user_id: Some("ada".to_owned()), ..EventMetadata::default() };
    rich.tags = vec![Tag("course:7".to_owned())];
    rich.timestamp = Some(Timestamp(-5));
    rich.schema_version = 9;
    let batch = eventuali::AppendBatch::one("rich", "Rich", eventuali::ExpectedVersion::Any, vec![rich]);
    store.append(eventuali::AppendBatch { tenant: "t".to_owned(), ..batch }).wait().expect("stored");
    for _ in 0..12 {
        store.append(many("large", 10, 1 << 20)).wait().expect("stored");
        store.append(one("small", 10)).wait().expect("stored");
    }
    let events: Vec<Event> = store.read_all(ReadAll::new()).collect::<Result<_, _>>().expect("readable");
    let report = salvage(&path, directory.path().join("saved"), on).expect("salvaged while it is open");
    assert_eq!(report.lost, []);
    let saved = LogStore::open(directory.path().join("saved")).expect("it opens");
    let read: Vec<Event> = saved.read_all(ReadAll::new()).collect::<Result<_, _>>().expect("readable");
    assert!(read == events);
    assert!(directory.path().join("saved").join(SECOND).exists(), "it has rolled over");
}
