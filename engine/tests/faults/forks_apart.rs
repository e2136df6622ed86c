//! What is one store's is not taken for another's of its family: segments, index files, manifests, losses.

use std::fs;

use eventuali::maintenance::{backup_storage, salvage_storage, verify, verify_storage};
use eventuali::storage::FaultyStorage;
use eventuali::{Durability, Error, Event, EventStore, LogStore, Remedy, rebuild_manifest};

use crate::arrange::{one, open, open_with, options, read_all};
use crate::files::{FIRST, Files, MANIFEST, SECOND, THIRD, WATERMARK, damage_of, forge, frames, holding, three_segments};
use crate::forking::{FOURTH, disk, forked, is_sound, judge, on, read_stream};

const HEAD_BYTES: usize = 48;
const ENTRY_BYTES: usize = 72;
const ANCESTOR_BYTES: usize = 32;

/// A store and its fork, each with segments of its own behind the two that they share; closed.
fn siblings() -> (FaultyStorage, FaultyStorage, Vec<Event>, Vec<Event>) {
    let (files, _) = three_segments();
    let storage = disk(&files, 0);
    let store = open(&storage).expect("opened");
    let (_, target) = forked(&store, &storage, "fork", None).expect("forked");
    let fork = open(&target).expect("opened");
    for _ in 0..4 {
        store.append(one("a", 30_000)).wait().expect("stored");
        fork.append(one("b", 40_000)).wait().expect("stored");
    }
    let (ours, theirs) = (read_all(&store).expect("readable"), read_all(&fork).expect("readable"));
    store.close().wait().expect("closed");
    fork.close().wait().expect("closed");
    (storage, target, ours, theirs)
}

#[test]
fn a_segment_of_the_other_store_is_told_from_ones_own() {
    let (parent, fork, ..) = siblings();
    let (of_parent, of_fork) = (parent.files(), fork.files());
    for (mine, others) in [(&of_parent, &of_fork), (&of_fork, &of_parent)] {
        for name in [THIRD, FOURTH] {
            let mut mixed = mine.clone();
            mixed.insert(name.to_owned(), others[name].clone());
            let read = open(&holding(&mixed)).and_then(|store| read_all(&store));
            assert!(damage_of(read).reason.contains("belongs to another store"), "{name}");
            let found = verify_storage(&holding(&mixed), on).expect("read");
            assert!(found.damage.iter().any(|damage| damage.reason.contains("belongs to another store")), "{name}: {:?}", found.damage);
        }
        // What both have is the same file.
        assert!(mine[FIRST] == others[FIRST] && mine[SECOND] == others[SECOND]);
        // The other's watermark says nothing here, and the other's manifest names segments that are not here.
        let mut mixed = mine.clone();
        mixed.insert(WATERMARK.to_owned(), others[WATERMARK].clone());
        open(&holding(&mixed)).expect("it opens");
        let mut mixed = mine.clone();
        mixed.insert(MANIFEST.to_owned(), others[MANIFEST].clone());
        damage_of(open(&holding(&mixed)).and_then(|store| read_all(&store)));
    }
}

#[test]
fn an_index_file_or_run_of_the_other_store_is_not_used() {
    let (parent, fork, ours, theirs) = siblings();
    let (of_parent, of_fork) = (parent.files(), fork.files());
    for (mine, others, events) in [(&of_parent, &of_fork, &ours), (&of_fork, &of_parent, &theirs)] {
        let mut mixed = mine.clone();
        for (name, bytes) in others.iter().filter(|(name, _)| name.contains(".idx") || name.contains(".run")) {
            mixed.insert(name.clone(), bytes.clone());
        }
        let store = open_with(&holding(&mixed), options(Durability::Sync).hot_bytes(0)).expect("it opens");
        for aggregate_id in ["a", "b", "c"] {
            let expected = events.iter().filter(|event| event.aggregate_id() == aggregate_id).count();
            assert_eq!(read_stream(&store, aggregate_id), expected, "{aggregate_id}");
            let receipts = store.append(one(aggregate_id, 10)).wait().expect("stored");
            assert_eq!(receipts[0].version.0, expected as u64 + 1);
        }
    }
}

#[test]
fn the_manifest_of_a_fork_is_rebuilt_from_its_segments() {
    let (parent, fork, ours, theirs) = siblings();
    for (storage, events) in [(&fork, &theirs), (&parent, &ours)] {
        let store_id = open(storage).expect("opened").identity().wait().expect("told").store_id;
        let mut files = storage.files();
        files.remove(MANIFEST);
        let (directory, path) = in_directory(&files);
        damage_of(LogStore::open(&path));
        let found = verify(&path, on).expect("read");
        assert_eq!((found.events, found.damaged_places), (events.len() as u64, 1), "only the manifest is missing: {:?}", found.damage);
        rebuild_manifest(&path).expect("rebuilt");
        let found = verify(&path, on).expect("read");
        assert!(found.is_sound() && found.events == events.len() as u64, "{:?}", found.damage);
        let store = LogStore::open(&path).expect("it opens");
        assert!(read_all(&store).expect("readable") == *events);
        assert_eq!(store.identity().wait().expect("told").store_id, store_id);
        store.append(one("a", 10)).wait().expect("it takes appends");
        drop((store, directory));
    }
    // Without its own segments a fork is not taken for its ancestor.
    let mut files = fork.files();
    files.retain(|name, _| [FIRST, SECOND, WATERMARK].contains(&name.as_str()));
    let (_directory, path) = in_directory(&files);
    let damage = damage_of(rebuild_manifest(&path));
    assert!(damage.remedy == Remedy::MoveAwayAndRebuild && damage.path.ends_with(WATERMARK), "{damage}");
    // And a segment that continues nothing is no descendant.
    let mut files = parent.files();
    files.remove(MANIFEST);
    files.insert(FOURTH.to_owned(), fork.files()[FOURTH].clone());
    let (_directory, path) = in_directory(&files);
    let damage = damage_of(rebuild_manifest(&path));
    assert!(damage.segment == 4 && damage.reason.contains("another store"), "{damage}");
}

/// Nothing but the index files of a fork that shares no segment says whose hashes they have.
#[test]
fn the_manifest_of_a_fork_that_has_copied_all_it_has_is_rebuilt_with_its_origin() {
    let (parent, ..) = siblings();
    let store = open(&parent).expect("opened");
    for at in [1, 4] {
        let (_, target) = forked(&store, &parent, &format!("early-{at}"), Some(at)).expect("forked");
        let fork = open(&target).expect("opened");
        for number in 0..6 {
            fork.append(one(&format!("new-{number}"), 30_000)).wait().expect("stored");
        }
        let expected = read_all(&fork).expect("readable");
        fork.close().wait().expect("closed");
        for lost in [None, Some("000000001.idx"), Some("000000002.idx"), Some("all")] {
            let mut files = target.files();
            assert!(files.contains_key("000000001.idx") && files.contains_key("000000002.idx"), "{:?}", files.keys());
            files.remove(MANIFEST);
            assert!(files.keys().any(|name| name.contains(".run")), "{:?}", files.keys());
            if lost == Some("all") {
                files.retain(|name, _| !name.contains(".idx"));
            }
            if let Some(damaged) = lost.and_then(|lost| files.get_mut(lost)) {
                damaged[5000] ^= 1;
            }
            let (_directory, path) = in_directory(&files);
            rebuild_manifest(&path).expect("rebuilt");
            let found = verify(&path, on).expect("read");
            assert_eq!(found.damaged_places, u64::from(lost.is_some_and(|lost| lost != "all")), "{:?}", found.damage);
            assert!(found.damage.iter().all(|damage| Some(&*damage.file) == lost), "{:?}", found.damage);
            let store = LogStore::open(&path).expect("it opens");
            assert!(read_all(&store).expect("readable") == expected);
            for number in 0..6 {
                assert_eq!(read_stream(&store, &format!("new-{number}")), 1);
            }
            store.close().wait().expect("closed");
        }
    }
}

fn in_directory(files: &Files) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        if let Some((folder, _)) = name.split_once('/') {
            fs::create_dir_all(directory.path().join(folder)).expect("created");
        }
        fs::write(directory.path().join(name), bytes).expect("written");
    }
    let path = directory.path().to_owned();
    (directory, path)
}

#[test]
fn everything_of_a_fork_is_salvaged_with_and_without_its_manifest() {
    let (_, fork, _, theirs) = siblings();
    let ids: Vec<_> = theirs.iter().map(Event::id).collect();
    for lacking in [None, Some(MANIFEST), Some(WATERMARK)] {
        let mut files = fork.files();
        files.retain(|name, _| Some(name.as_str()) != lacking);
        let target = FaultyStorage::new(0);
        let report = salvage_storage(&holding(&files), &target, on).expect("salvaged");
        assert!(report.lost.is_empty(), "{lacking:?}");
        let saved: Vec<_> = read_all(&open(&target).expect("it opens")).expect("readable").iter().map(Event::id).collect();
        assert_eq!(saved, ids, "{lacking:?}");
    }
    // A damaged seal where the parent's segments end: the watermark tells whose the others are.
    let mut files = fork.files();
    files.remove(MANIFEST);
    let seal = frames(&files[SECOND]).pop().expect("frames").bytes.start;
    files.get_mut(SECOND).expect("it is there")[seal + 70] ^= 1;
    let report = salvage_storage(&holding(&files), &FaultyStorage::new(0), on).expect("salvaged");
    assert_eq!((report.events, report.lost.len()), (theirs.len() as u64, 0));
}

#[test]
fn a_backup_of_a_fork_is_that_fork() {
    let (_, fork, _, theirs) = siblings();
    let store = open(&fork).expect("opened");
    let target = FaultyStorage::new(0);
    let report = backup_storage(&store, &target, on).expect("backed up");
    assert_eq!(report.store_id, store.identity().wait().expect("told").store_id);
    is_sound("a backup", &target);
    let copy = open(&target).expect("it opens");
    assert!(read_all(&copy).expect("readable") == theirs);
    copy.append(one("a", 60_000)).wait().expect("stored");
    copy.append(one("a", 60_000)).wait().expect("stored");
    copy.close().wait().expect("closed");
    is_sound("a backup", &target);
}

/// Loss is accepted on one side: what the other has of the damaged segment, also behind the damage, stays.
#[test]
fn loss_that_one_side_accepts_is_no_loss_of_the_other() {
    for (loser, keeper) in [("store", "fork"), ("fork", "store")] {
        for (name, frame) in [(SECOND, 1), (FIRST, 2), (FIRST, 0)] {
            let (parent, ..) = siblings();
            let place = frames(&parent.files()[name])[frame].bytes.start + 70;
            parent.rot(name, place * 8);
            let (loser, keeper) = (parent.directory(loser), parent.directory(keeper));
            let before = keeper.files();
            let damage = damage_of(open_with(&loser, options(Durability::Sync).read_up_to_damage()).and_then(|store| read_all(&store)));
            let accepting = options(Durability::Sync).accept_loss_after(damage.last_good_position);
            let store = open_with(&loser, accepting).expect("accepted");
            for _ in 0..4 {
                store.append(one("a", 30_000)).wait().expect("it goes on");
            }
            let kept = read_all(&store).expect("readable");
            assert_eq!(kept.len() as u64, damage.last_good_position.0 + 4);
            store.close().wait().expect("closed");
            is_sound("what is left", &loser);
            assert!(read_all(&open(&loser).expect("it opens")).expect("readable") == kept);
            assert!(keeper.files() == before && !parent.shared_file_was_changed(), "{name} frame {frame}");
            let (report, again) = forked(&open(&loser).expect("it opens"), &loser, "again", None).expect("forked");
            judge("a fork of what is left", &again, &report, &kept);
        }
    }
}

#[test]
fn a_store_that_is_read_up_to_its_damage_is_forked_up_to_there() {
    for (name, frame) in [(FIRST, 2), (SECOND, 0), (THIRD, 1)] {
        let (parent, _, ours, _) = siblings();
        parent.rot(name, (frames(&parent.files()[name])[frame].bytes.start + 70) * 8);
        let store = open_with(&parent, options(Durability::Sync).read_up_to_damage()).expect("it opens");
        let head = store.head().wait().expect("told").0;
        assert!(head < ours.len() as u64);
        let (report, target) = forked(&store, &parent, "again", None).expect("forked");
        judge(name, &target, &report, &ours[..usize::try_from(head).expect("small")]);
    }
}

/// What follows the entries of the manifest of a fork of a fork.
fn lineage_of(manifest: &[u8]) -> std::ops::Range<usize> {
    let length = usize::try_from(u32::from_le_bytes(manifest[40..44].try_into().expect("four bytes"))).expect("small");
    manifest.len() - 4 - length..manifest.len() - 4
}

#[test]
fn no_lineage_however_wrong_makes_a_store_show_what_it_should_not() {
    let (_, fork, ..) = siblings();
    let store = open(&fork).expect("opened");
    let (_, grandchild) = forked(&store, &fork, "grandchild", None).expect("forked");
    let child = open(&grandchild).expect("opened");
    child.append(one("c", 60_000)).wait().expect("stored");
    child.append(one("c", 60_000)).wait().expect("stored");
    let events = read_all(&child).expect("readable");
    child.close().wait().expect("closed");
    let files = grandchild.files();
    let lineage = lineage_of(&files[MANIFEST]);
    assert_eq!(lineage.len(), 2 * ANCESTOR_BYTES);
    let judged = |what: &str, manifest: Vec<u8>| {
        let mut changed = files.clone();
        changed.insert(MANIFEST.to_owned(), manifest);
        let storage = holding(&changed);
        verify_storage(&storage, on).expect("read");
        match open_with(&storage, options(Durability::Sync).hot_bytes(0)).and_then(|store| Ok((read_all(&store)?, store))) {
            Ok((read, store)) => {
                assert!(read == events, "{what}");
                let receipts = store.append(one("c", 10)).wait().expect("stored");
                assert_eq!(receipts[0].version.0, 1 + events.iter().filter(|event| event.aggregate_id() == "c").count() as u64, "{what}");
                true
            }
            Err(Error::Corruption(_)) => false,
            Err(error) => panic!("{what}: {error}"),
        }
    };
    let mut opened = 0;
    for byte in lineage.clone() {
        for bit in [0, 6] {
            let mut manifest = files[MANIFEST].clone();
            forge(&mut manifest, |bytes| bytes[byte] ^= 1 << bit);
            opened += usize::from(judged(&format!("byte {byte}, bit {bit}"), manifest));
        }
    }
    // What a position says decides nothing, and neither does where in a segment an ancestor's end lies.
    assert!(opened > 0 && opened < lineage.len() * 2);
    let field = |ancestor: usize, at: usize| lineage.start + ancestor * ANCESTOR_BYTES + at;
    for (what, at, value) in [
        ("an end at 0", field(0, 16), 0_u64),
        ("the other end at 0", field(1, 16), 0),
        ("an end that is further than all", field(1, 16), u64::MAX),
        ("an end before the first segment's", field(0, 16), 1),
        ("an end far away", field(1, 16), 1 << 61),
        ("a position far away", field(0, 24), 1 << 61),
    ] {
        let mut manifest = files[MANIFEST].clone();
        forge(&mut manifest, |bytes| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()));
        judged(what, manifest);
    }
    for (what, length) in [("no lineage", 0), ("one ancestor", ANCESTOR_BYTES), ("an ancestor in part", ANCESTOR_BYTES + 8)] {
        let mut manifest = files[MANIFEST].clone();
        manifest.drain(lineage.start + length..lineage.end);
        let told = u32::try_from(length).expect("small");
        forge(&mut manifest, |bytes| bytes[40..44].copy_from_slice(&told.to_le_bytes()));
        assert!(!judged(what, manifest), "{what}");
    }
    // A shared segment that is said to be open would be appended to.
    let mut manifest = files[MANIFEST].clone();
    forge(&mut manifest, |bytes| {
        bytes[36..40].copy_from_slice(&2_u32.to_le_bytes());
        bytes[HEAD_BYTES + ENTRY_BYTES + 12] = 0;
        bytes[HEAD_BYTES + ENTRY_BYTES + 32..HEAD_BYTES + ENTRY_BYTES + 40].fill(0);
    });
    let rest = HEAD_BYTES + 2 * ENTRY_BYTES..lineage_of(&files[MANIFEST]).start;
    manifest.drain(rest);
    forge(&mut manifest, |_| {});
    let mut changed = files.clone();
    changed.insert(MANIFEST.to_owned(), manifest);
    changed.retain(|name, _| !name.contains("seg") || [FIRST, SECOND].contains(&name.as_str()));
    let damage = damage_of(open(&holding(&changed)));
    assert!(damage.reason.contains("ancestor"), "{damage}");
}
