//! Directories that hold what a store did not put there, or lack what it did.

use std::fs;
use std::path::Path;

use eventuali::storage::FaultyStorage;
use eventuali::{
    AppendBatch, Durability, Error, Event, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, OpenOutcome, Result,
};

use crate::arrange::{SEGMENT_BYTES, one, open, read_all};
use crate::files::{FIRST, Files, MANIFEST, SECOND, THIRD, WATERMARK, damage, forge, frames, holding, small_store, three_segments, u32_at};

const FOURTH: &str = "000000004.g0.seg";

fn open_directory(path: &Path) -> Result<LogStore> {
    OpenOptions::new().segment_bytes(SEGMENT_BYTES).open(path)
}

fn garbage() -> Files {
    let names = [
        "notes.txt",
        ".hidden",
        "MANIFEST.bak",
        "MANIFEST.tmp.tmp",
        "other.tmp",
        "x.seg.tmp",
        "1.g0.seg.tmp",
        "000000001.seg",
        "000000001.g0.seg~",
        "000000001.g00.seg",
        "00000000x.g0.seg",
        "-00000001.g0.seg",
        "+00000002.g0.seg",
        "99999999999999999999999.g0.seg",
        "ä🦀",
        " ",
    ];
    names.into_iter().map(|name| (name.to_owned(), format!("garbage {name}").into_bytes())).collect()
}

#[test]
fn garbage_in_the_directory_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in garbage() {
        fs::write(directory.path().join(name), bytes).expect("written");
    }
    for folder in ["folder", "index", "000000009.g0.seg.d"] {
        fs::create_dir(directory.path().join(folder)).expect("created");
        fs::write(directory.path().join(folder).join("file.tmp"), b"inside").expect("written");
    }
    for round in 1..=3 {
        let store = open_directory(directory.path()).expect("it opens");
        store.append(one("a", 40_000)).wait().expect("stored");
        assert_eq!(read_all(&store).expect("readable").len(), round);
        store.close().wait().expect("closed");
    }
    for (name, bytes) in garbage() {
        assert_eq!(fs::read(directory.path().join(&name)).expect("still there"), bytes, "{name:?}");
    }
    for folder in ["folder", "index", "000000009.g0.seg.d"] {
        assert_eq!(fs::read(directory.path().join(folder).join("file.tmp")).expect("still there"), b"inside");
    }
}

#[test]
fn a_folder_in_the_place_of_a_file_is_a_clear_error() {
    for name in ["MANIFEST", "WATERMARK", "LOCK", "000000001.g0.seg"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join(name)).expect("created");
        let Err(error) = open_directory(directory.path()) else { panic!("{name} is a folder, and the store opens") };
        let message = error.to_string().to_lowercase();
        assert!(message.contains(&name.to_lowercase()), "{message}");
    }
}

#[test]
fn a_segment_of_another_store_is_refused_and_left_as_it_is() {
    let (files, _) = three_segments();
    let (others, _) = three_segments();
    for (from, to) in [(FIRST, FIRST), (SECOND, SECOND), (THIRD, THIRD), (THIRD, FOURTH), (FIRST, FOURTH), (FIRST, "000000017.g0.seg")] {
        let mut mixed = files.clone();
        mixed.insert(to.to_owned(), others[from].clone());
        let storage = holding(&mixed);
        // A sealed segment is looked at when it is read.
        let Err(error) = open(&storage).and_then(|store| read_all(&store)) else { panic!("{from} of another store is taken for {to}") };
        assert!(error.to_string().contains(to), "{error}");
        assert_eq!(storage.files(), mixed);
    }
}

#[test]
fn a_segment_that_the_manifest_does_not_name_is_adopted_if_it_continues_the_log() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage).expect("created");
    store.append(one("a", 10)).wait().expect("stored");
    let old_manifest = storage.files()[MANIFEST].clone();
    store.append(one("a", 70_000)).wait().expect("stored in the next segment");
    let mut files = storage.files();
    assert!(files.contains_key(SECOND));
    // As a power cut between the two renames leaves it.
    files.insert(MANIFEST.to_owned(), old_manifest);
    let storage = holding(&files);
    let store = open(&storage).expect("it opens");
    assert_eq!(read_all(&store).expect("readable").len(), 2);
    store.append(one("a", 10)).wait().expect("it takes appends");

    // Under another sequence number, or without the seal that it continues, it is not.
    let mut elsewhere = files.clone();
    let second = elsewhere.remove(SECOND).expect("it is there");
    elsewhere.insert(THIRD.to_owned(), second);
    assert!(matches!(open(&holding(&elsewhere)), Err(Error::Configuration { .. } | Error::Corruption(_))));
    let mut unsealed = files.clone();
    let seal = frames(&files[FIRST]).pop().expect("it ends in a seal").bytes.start;
    unsealed.get_mut(FIRST).expect("it is there").truncate(seal);
    assert!(matches!(open(&holding(&unsealed)), Err(Error::Configuration { .. } | Error::Corruption(_))));
}

#[test]
fn missing_files_are_named() {
    let (files, events) = three_segments();
    for name in [FIRST, SECOND, THIRD] {
        let mut files = files.clone();
        files.remove(name);
        let damage = damage(&files);
        assert!(damage.path.ends_with(name) && damage.reason.contains("no such file"), "{damage}");
    }
    // The watermark alone can be missed.
    let mut files = files.clone();
    files.remove(WATERMARK);
    let store = open(&holding(&files)).expect("it opens");
    assert_eq!(read_all(&store).expect("readable"), events);

    for left in [vec![WATERMARK], vec![FIRST], vec![FIRST, WATERMARK], vec![THIRD]] {
        let only: Files = files.iter().filter(|(name, _)| left.contains(&name.as_str())).map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
        let only = if left.contains(&WATERMARK) { only.into_iter().chain([(WATERMARK.to_owned(), vec![0; 4176])]).collect() } else { only };
        let damage = damage(&only);
        assert!(damage.path.ends_with(MANIFEST), "no store is made over {left:?}: {damage}");
    }
}

/// Writes other versions over the two version fields, which both kinds of file have in the same place.
fn from_the_future(files: &Files, name: &str, written: u32, readable_from: u32) -> Files {
    let mut files = files.clone();
    forge(files.get_mut(name).expect("it is there"), |bytes| {
        assert_eq!((u32_at(bytes, 8), u32_at(bytes, 12)), (1, 1));
        bytes[8..12].copy_from_slice(&written.to_le_bytes());
        bytes[12..16].copy_from_slice(&readable_from.to_le_bytes());
    });
    files
}

#[test]
fn a_format_of_the_future_is_refused_with_both_versions() {
    let (files, events) = three_segments();
    for name in [MANIFEST, FIRST, SECOND, THIRD] {
        let future = from_the_future(&files, name, 7, 2);
        let read = |files: &Files| open(&holding(files)).and_then(|store| read_all(&store));
        match read(&future) {
            Err(Error::FormatVersion { path, found: 7, readable_from: 2, supported: 1 }) => assert!(path.ends_with(name)),
            Err(error) => panic!("{name}: {error}"),
            Ok(_) => panic!("{name} is of a newer format, and is read"),
        }
        assert!(matches!(read(&from_the_future(&files, name, 0, 0)), Err(Error::FormatVersion { found: 0, .. })));
        // Newer, but said to be readable by this release.
        let store = open(&holding(&from_the_future(&files, name, 7, 1))).expect("it opens");
        assert_eq!(read_all(&store).expect("readable"), events);
    }
}

#[test]
fn a_lock_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    for foreign in [&b"something else"[..], b"pid", b"\0\0\0\0"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let lock = directory.path().join("LOCK");
        fs::write(&lock, foreign).expect("written");
        let Err(Error::Configuration { message }) = open_directory(directory.path()) else { panic!("{foreign:?} is taken for our lock") };
        assert!(message.contains("LOCK"), "{message}");
        assert_eq!(fs::read(&lock).expect("readable"), foreign);
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1, "nothing was created beside it");
    }
}

/// Opening was refused with the words "number of epochs is 4294967296, and the limit is 4294967295; make it smaller or split it".
#[test]
fn a_store_without_an_epoch_left_can_be_read_and_refuses_appends_with_the_way_out() {
    let (mut files, events) = three_segments();
    forge(files.get_mut(MANIFEST).expect("it is there"), |bytes| bytes[32..36].fill(0xFF));
    let storage = holding(&files);
    let store = open(&storage).expect("it opens");
    assert_eq!(read_all(&store).expect("readable"), events);
    assert!(!store.capabilities().writable);
    for refused in [store.append(one("a", 1)).wait().map(drop), store.sync().wait().map(drop)] {
        let Err(error @ Error::EpochsExhausted { epoch: u32::MAX, .. }) = refused else { panic!("{refused:?}") };
        assert!(error.to_string().contains("epoch 4294967295") && error.to_string().contains("append its events to a new store"), "{error}");
    }
    store.close().wait().expect("closed");
    assert_eq!(storage.files(), files);
    let copy = open(&FaultyStorage::new(0)).expect("created");
    let again = |event: &Event| NewEvent {
        id: event.id(),
        timestamp: Some(event.timestamp()),
        ..NewEvent::new(event.event_type(), EventData::Protobuf(event.payload().to_vec()))
    };
    for event in &events {
        copy.append(AppendBatch::one(event.aggregate_id(), event.aggregate_type(), ExpectedVersion::Any, vec![again(event)]))
            .wait()
            .expect("the way out helps");
    }
    assert_eq!(copy.head().wait().expect("known").0, events.len() as u64);
}

#[test]
fn unfinished_files_of_the_store_are_removed_and_those_of_others_are_not() {
    let (mut files, events) = small_store(Durability::Sync, true);
    for name in ["MANIFEST.tmp", "000000002.g0.seg.tmp", "000000001.g3.seg.tmp"] {
        files.insert(name.to_owned(), b"unfinished".to_vec());
    }
    files.insert("other.tmp".to_owned(), b"another's".to_vec());
    let storage = holding(&files);
    let store = open(&storage).expect("it opens");
    assert_eq!((read_all(&store).expect("readable"), &store.open_report().outcome), (events, &OpenOutcome::Clean));
    let left: Vec<_> = storage.files().into_keys().collect();
    assert_eq!(left, [FIRST, MANIFEST, WATERMARK, "other.tmp"]);
}

/// The numbers of a file system are given again. A store whose directory was removed under it was found again under the path of
/// the directory that got its number next, and took appends for it, into files that no directory held any more.
#[cfg(unix)]
#[test]
fn a_new_directory_is_never_taken_for_the_one_that_was_removed_under_an_open_store() {
    use std::os::unix::fs::MetadataExt;

    let folder = tempfile::tempdir().expect("a temporary directory");
    let removed = folder.path().join("removed");
    let store = open_directory(&removed).expect("created");
    store.append(one("a", 10)).wait().expect("stored");
    let number = fs::metadata(&removed).expect("known").ino();
    fs::remove_dir_all(&removed).expect("removed");
    let new = (0..64).map(|number| folder.path().join(number.to_string()));
    let new: Vec<_> = new.inspect(|path| fs::create_dir(path).expect("created")).collect();
    let same = new.iter().find(|path| fs::metadata(path).expect("known").ino() == number);
    // Not every file system gives a number again so soon; then there is no danger either.
    let path = same.unwrap_or(&new[0]);
    let other = open_directory(path).expect("created");
    assert_eq!(read_all(&other).expect("readable").len(), 0);
    other.append(one("b", 10)).wait().expect("stored");
    other.close().wait().expect("closed");
    assert!(path.join(FIRST).exists());
    drop(store);
}

/// Numbers at the end of their range, with checksums that match: counting on from them overflowed.
#[test]
fn numbers_that_cannot_be_counted_on_from_are_refused() {
    let (files, _) = three_segments();
    let forged = |name: &str, at: usize| {
        let mut files = files.clone();
        forge(files.get_mut(name).expect("it is there"), |bytes| bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes()));
        damage(&files)
    };
    for (name, at) in [(MANIFEST, 48), (MANIFEST, 48 + 2 * 72), (THIRD, 40), (FIRST, 40), (THIRD, 56), (THIRD, 64)] {
        let damage = forged(name, at);
        assert!(damage.path.ends_with(name) && damage.reason.contains("numbers that no log reaches"), "{damage}");
    }

    let mut files = files.clone();
    let watermark = files.get_mut(WATERMARK).expect("it is there");
    for slot in [0, 4096] {
        forge(&mut watermark[slot..slot + 80], |bytes| bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes()));
    }
    let store = open(&holding(&files)).expect("a watermark is only a lower bound");
    store.append(one("a", 10)).wait().expect("stored");
    store.close().wait().expect("closed");
}

/// The end of an endless interval cannot be told: the commit thread panicked over it, and nobody who awaited was answered.
#[test]
fn an_interval_may_be_endless() {
    let storage = FaultyStorage::new(0);
    let store = crate::arrange::open_with(&storage, crate::arrange::options(Durability::Interval(std::time::Duration::MAX))).expect("created");
    for _ in 0..3 {
        store.append(one("a", 10)).wait().expect("stored");
    }
    let (answer, answered) = std::sync::mpsc::channel();
    let mut sync = store.sync();
    let waker = std::task::Waker::from(std::sync::Arc::new(Told(answer)));
    let mut context = std::task::Context::from_waker(&waker);
    if std::pin::Pin::new(&mut sync).poll(&mut context).is_pending() {
        answered.recv_timeout(std::time::Duration::from_secs(20)).expect("the commit thread is alive");
        assert!(std::pin::Pin::new(&mut sync).poll(&mut context).is_ready());
    }
    assert_eq!(store.durable_position().wait().expect("known").0, 3);
}

struct Told(std::sync::mpsc::Sender<()>);

impl std::task::Wake for Told {
    fn wake(self: std::sync::Arc<Self>) {
        // Nobody may be listening any more.
        let _ = self.0.send(());
    }
}
