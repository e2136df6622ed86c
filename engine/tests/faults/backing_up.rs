//! A backup holds every event up to one durable position, whatever goes on meanwhile, or it is no store.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use eventuali::maintenance::{BackupReport, backup, backup_storage, verify, verify_storage};
use eventuali::storage::{Access, Failure, Fault, FaultyStorage, Lock, Storage, StorageFile};
use eventuali::{Durability, Error, Event, EventStore, LogStore, OpenOptions, OpenOutcome, ReadAll, Result, compress, compress_storage};

use crate::arrange::{SEGMENT_BYTES, many, one, open, read_all, rounds};
use crate::files::{FIRST, Files, MANIFEST, SECOND, WATERMARK, flip, forge, frames, holding, three_segments};

fn on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Asserts that the backup is sound, opens as it is, and holds just these events; and that it goes on by itself.
fn judge(what: &str, target: &FaultyStorage, report: &BackupReport, events: &[Event]) {
    let found = verify_storage(target, on).expect("read");
    assert!(found.is_sound(), "{what}: {:?}", found.damage);
    assert_eq!((found.events, found.last_position, found.segments), (report.events, report.position, report.segments), "{what}");
    let store = open(target).expect("it opens");
    assert_eq!((&store.open_report().outcome, store.open_report().rewritten_bytes), (&OpenOutcome::Clean, 0), "{what}");
    assert!(read_all(&store).expect("readable") == events, "{what}");
    assert_eq!(store.identity().wait().expect("told").store_id, report.store_id);
    for _ in 0..3 {
        store.append(one("more", 30_000)).wait().expect("it takes appends");
    }
    store.close().wait().expect("closed");
    let found = verify_storage(target, on).expect("read");
    assert!(found.is_sound() && found.events == events.len() as u64 + 3, "{what}: {:?}", found.damage);
}

/// Backs up an open store; what is on the target's disk.
fn backed_up(store: &LogStore) -> (BackupReport, FaultyStorage) {
    let target = FaultyStorage::new(0);
    let report = backup_storage(store, &target, on).expect("backed up");
    assert!(report.complete);
    (report, target.power_cut())
}

#[test]
fn an_open_store_is_backed_up_at_every_length() {
    let storage = FaultyStorage::new(0);
    let store = open(&storage).expect("created");
    for number in 0..12 {
        let (report, target) = backed_up(&store);
        let events = read_all(&store).expect("readable");
        assert_eq!(report.events, events.len() as u64);
        judge(&format!("after {number} appends"), &target, &report, &events);
        let (again, _) = backed_up(&store);
        assert_eq!(again, report, "the same history has the same digest");
        store.append(many("a", 3, 1000 * (1 + number % 4) * (1 + number % 3))).wait().expect("stored");
    }
}

#[test]
fn the_segments_of_a_backup_are_those_of_the_store() {
    let (files, events) = three_segments();
    let storage = holding(&files);
    let store = open(&storage).expect("opened");
    let (report, target) = backed_up(&store);
    let copied = target.files();
    for name in [FIRST, SECOND, "000000001.idx", "000000002.idx"] {
        assert!(copied[name] == files[name], "{name}");
    }
    assert_eq!(report.bytes, copied.iter().filter(|(name, _)| name.contains(".seg")).map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    judge("three segments", &target, &report, &events);
}

#[test]
fn what_a_reopened_backup_holds_keeps_its_digests() {
    let (files, _) = three_segments();
    let (report, target) = backed_up(&open(&holding(&files)).expect("opened"));
    let store = open(&target).expect("it opens");
    store.append(one("more", 60_000)).wait().expect("stored");
    store.append(one("more", 60_000)).wait().expect("stored");
    store.close().wait().expect("closed");
    compress_storage(&target).expect("compressed");
    let mut files = target.files();
    assert!(verify_storage(&holding(&files), on).expect("read").is_sound());
    forge(files.get_mut(MANIFEST).expect("it is there"), |bytes| bytes[48 + 40] ^= 1);
    let found = verify_storage(&holding(&files), on).expect("read");
    assert_eq!((found.damaged_places, found.damage[0].segment), (1, Some(1)), "{report:?}");
}

#[test]
fn compressed_segments_are_backed_up_as_they_are() {
    let (files, events) = three_segments();
    let storage = holding(&files);
    assert!(compress_storage(&storage).expect("compressed").segments > 0);
    let store = open(&storage).expect("opened");
    let (plain, _) = backed_up(&open(&holding(&files)).expect("opened"));
    let (report, target) = backed_up(&store);
    assert!(report.bytes < plain.bytes);
    assert_eq!(report.digest, plain.digest, "a digest is of what is stored, not of how");
    assert!(target.files().keys().any(|name| name.contains(".g1.seg")));
    judge("compressed", &target, &report, &events);
}

#[test]
fn a_flipped_byte_in_a_backup_is_found() {
    let (files, _) = three_segments();
    let (_, target) = backed_up(&open(&holding(&files)).expect("opened"));
    let copied = target.files();
    for name in [FIRST, SECOND] {
        let end = frames(&copied[name]).last().expect("frames").bytes.start;
        for byte in (4096..end).step_by(509) {
            let found = verify_storage(&holding(&flip(&copied, name, byte * 8)), on).expect("read");
            let by_digest = found.damage.iter().filter(|damage| damage.reason.contains("digest")).count();
            assert_eq!((found.damaged_places, by_digest), (2, 1), "{name} byte {byte}: {:?}", found.damage);
        }
    }
}

#[test]
fn a_damaged_store_is_not_backed_up() {
    let (files, _) = three_segments();
    let hurt = flip(&files, FIRST, (frames(&files[FIRST])[2].bytes.start + 200) * 8);
    let store = open(&holding(&hurt)).expect("opening reads no sealed segment");
    let target = FaultyStorage::new(0);
    let Err(Error::Corruption(damage)) = backup_storage(&store, &target, on) else { panic!("a damaged segment was copied") };
    assert_eq!(damage.segment, 1);
    assert!(!target.files().contains_key(MANIFEST));
}

fn is_no_store(files: &Files) -> bool {
    !files.contains_key(MANIFEST)
}

#[test]
fn a_backup_that_is_killed_at_any_operation_is_no_store() {
    let (files, events) = three_segments();
    let store = open(&holding(&files)).expect("opened");
    let whole = FaultyStorage::new(0);
    let report = backup_storage(&store, &whole, on).expect("backed up");
    let operations = whole.operations();
    assert!(operations > 20);
    for number in 0..operations {
        for seed in 0..rounds(6) {
            let target = FaultyStorage::new(seed);
            target.stop_at(number);
            backup_storage(&store, &target, on).expect_err("it was killed");
            let left = if seed % 2 == 0 { target.power_cut() } else { target.process_kill() };
            // The manifest comes last: where it is, everything is.
            assert!(is_no_store(&left.files()) || number + 1 == operations, "operation {number}: {:?}", left.files().keys());
            if !is_no_store(&left.files()) {
                judge(&format!("operation {number}"), &left, &report, &events);
            } else if left.files().keys().any(|name| name.contains(".seg")) {
                assert!(open(&left).is_err(), "operation {number}");
            }
        }
    }
}

#[test]
fn operations_that_fail_on_either_side_are_told_and_stop_nobody() {
    let (files, events) = three_segments();
    let sound = holding(&files);
    let store = open(&sound).expect("opened");
    let before = sound.operations();
    let whole = FaultyStorage::new(0);
    backup_storage(&store, &whole, on).expect("backed up");
    for failure in [Failure::Device, Failure::NoSpace] {
        for number in 0..whole.operations() {
            let target = FaultyStorage::new(0);
            target.inject(Fault::next().after(number).with(failure));
            let error = backup_storage(&store, &target, on).expect_err("it has failed");
            assert!(matches!(error, Error::Io { .. } | Error::StorageFull { .. }), "operation {number}: {error:?}");
        }
    }
    for number in 0..sound.operations() - before {
        let storage = holding(&files);
        let store = open(&storage).expect("opened");
        storage.inject(Fault::next().after(number));
        let target = FaultyStorage::new(0);
        if let Err(error) = backup_storage(&store, &target, on) {
            // What a sync leaves behind that has failed nobody knows.
            assert!(matches!(error, Error::Io { .. } | Error::OutcomeUnknown { .. }), "operation {number}: {error:?}");
            assert!(is_no_store(&target.files()));
            assert_eq!(read_all(&store).expect("readable").len(), events.len());
        }
    }
}

#[test]
fn writers_go_on_while_backups_are_made() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = OpenOptions::new().durability(Durability::Os).segment_bytes(SEGMENT_BYTES).open(directory.path().join("store")).expect("created");
    let stop = AtomicBool::new(false);
    let backups = thread::scope(|scope| {
        for writer in 0..4 {
            let (store, stop) = (store.clone(), &stop);
            scope.spawn(move || {
                let mut size = 0;
                while !stop.load(Ordering::Relaxed) {
                    size = (size + 37) % 900;
                    store.append(many(&format!("writer-{writer}"), 1 + size % 3, size)).wait().expect("stored");
                }
            });
        }
        let backups: Vec<_> = (0..rounds(8))
            .map(|number| {
                let target = directory.path().join(format!("backup-{number}"));
                let head = store.head().wait().expect("told");
                let report = backup(&store, &target, on).expect("backed up");
                assert!(report.complete && report.position >= head, "what was there before is in it");
                (target, report)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        backups
    });
    let events = read_all(&store).expect("readable");
    for (target, report) in backups {
        assert!(verify(&target, on).expect("read").is_sound());
        let copy = LogStore::open(&target).expect("it opens");
        assert_eq!(copy.open_report().outcome, OpenOutcome::Clean);
        let copied = read_all(&copy).expect("readable");
        assert_eq!((copied.len() as u64, report.position.0), (report.events, report.events));
        assert!(copied == events[..copied.len()]);
    }
}

/// A disk on which something happens, once, just before a file is opened.
pub(crate) struct Eventful {
    pub(crate) disk: FaultyStorage,
    pub(crate) file: &'static str,
    pub(crate) happening: Arc<Mutex<Option<Happening>>>,
}

pub(crate) type Happening = Box<dyn FnOnce() + Send>;

impl Storage for Eventful {
    fn path(&self) -> PathBuf {
        self.disk.path()
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        self.disk.lock()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let happening = self.happening.lock().expect("whole").take_if(|_| name == self.file);
        if let Some(happening) = happening {
            happening();
        }
        self.disk.open(name, access)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.disk.create_folder(folder)
    }

    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        self.disk.sync_directory(folder)
    }
}

#[test]
fn what_is_appended_when_the_backup_has_begun_is_not_in_it_even_if_the_segment_is_sealed_meanwhile() {
    for (appended, sealed) in [(vec![10], false), (vec![10, 60_000], true), (vec![60_000, 60_000, 60_000], true)] {
        let (disk, before_the_manifest) = (FaultyStorage::new(0), Arc::new(Mutex::new(None)));
        let storage = Eventful { disk: disk.clone(), file: MANIFEST, happening: Arc::clone(&before_the_manifest) };
        let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open_storage(Arc::new(storage)).expect("created");
        store.append(many("a", 3, 5000)).wait().expect("stored");
        let events = read_all(&store).expect("readable");
        let (writer, second) = (store.clone(), Arc::clone(&before_the_manifest));
        let append = move || {
            for payload_bytes in appended {
                writer.append(one("b", payload_bytes)).wait().expect("stored");
            }
        };
        // It is read before the end is known that is copied to, and after.
        *before_the_manifest.lock().expect("whole") = Some(Box::new(move || {
            *second.lock().expect("whole") = Some(Box::new(append) as Happening);
        }) as Happening);
        let (report, target) = backed_up(&store);
        assert_eq!(disk.files().contains_key(SECOND), sealed);
        assert_eq!((report.events, report.segments), (3, 1));
        judge("sealed meanwhile", &target, &report, &events);
    }
}

fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable"));
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_backed_up_to_a_new_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, target) = (directory.path().join("store"), directory.path().join("copy"));
    let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open(&source).expect("created");
    for _ in 0..4 {
        store.append(many("a", 3, 10_000)).wait().expect("stored");
    }
    // What a backup that was killed has left.
    let remains = directory.path().join("copy.backup.tmp");
    fs::create_dir(&remains).expect("created");
    for name in [FIRST, "000000007.g0.seg", "UNFINISHED.tmp", "LOCK"] {
        let bytes: &[u8] = if name == "LOCK" { b"" } else { b"half" };
        fs::write(remains.join(name), bytes).expect("written");
    }
    let stopped = backup(&store, directory.path().join("stopped"), |_| ControlFlow::Break(())).expect("stopped");
    assert!(!stopped.complete);
    let report = backup(&store, &target, on).expect("backed up");
    assert_eq!((report.events, report.digest.len()), (12, 64));
    assert_eq!(names_in(directory.path()), ["copy", "store"]);
    let names = names_in(&target);
    assert!([FIRST, "LOCK", MANIFEST, WATERMARK].iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
    for taken in ["copy", "store/within", "missing/target"] {
        let Err(Error::Configuration { .. }) = backup(&store, directory.path().join(taken), on) else { panic!("{taken} is taken") };
    }
    let copy = LogStore::open(&target).expect("it opens");
    assert!(read_all(&copy).expect("readable") == read_all(&store).expect("readable"));
    copy.close().wait().expect("closed");
    compress(&target).expect("compressed");
    assert!(verify(&target, on).expect("read").is_sound());
    store.close().wait().expect("closed");
    let Err(Error::Closed) = backup(&store, directory.path().join("late"), on) else { panic!("it is closed") };
}

#[test]
fn a_store_in_memory_is_backed_up_to_a_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = LogStore::memory().expect("made");
    store.append(many("a", 3, 100)).wait().expect("stored");
    let report = backup(&store, directory.path().join("copy"), on).expect("backed up");
    assert_eq!(report.events, 3);
    let copy = LogStore::open(directory.path().join("copy")).expect("it opens");
    let copied: Vec<Event> = copy.read_all(ReadAll::new()).collect::<Result<_>>().expect("readable");
    assert!(copied == read_all(&store).expect("readable"));
}
