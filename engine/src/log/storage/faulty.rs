//! A disk that fails where it is told to, and forgets what was not synced: how the engine's promises are tested.

mod disk;
mod fault;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{Access, Lock, Space, Storage, StorageFile};
use crate::error::{Error, Result};
use crate::log::manifest::MANIFEST;
use crate::log::segment::parse_name;
use crate::log::watermark::WATERMARK;
use disk::{Disk, FileId, Write, folder_of};
pub use fault::{Failure, Fault, Mistake, OperationKind};

/// A simulated disk, as one process sees it.
///
/// What was written and what is durable are kept apart. [`power_cut`](FaultyStorage::power_cut) loses, tears, reorders or
/// zeroes what was not synced, and forgets names that were not synced with their directory;
/// [`process_kill`](FaultyStorage::process_kill) loses nothing. Both give the disk as the next process sees it; through the
/// old one nothing can be changed any more.
///
/// A sync that fails leaves its pages readable and clean, as Linux does: a later sync succeeds and proves nothing about them.
/// Names are kept in a journal, as by all usual file systems: a rename happens as a whole or not at all, and names whose
/// directory could not be synced become durable with the next sync that succeeds.
///
/// The same seed and the same operations give the same run.
#[derive(Clone)]
pub struct FaultyStorage {
    machine: Arc<Mutex<Machine>>,
    /// The process that this view belongs to.
    process: u64,
    /// The directory of the disk that this is a view of; `""` if it is the only one.
    directory: String,
}

/// The number of processes that only read.
const BESIDE: u64 = u64::MAX;

struct Machine {
    disk: Disk,
    /// The process that lives; operations of all others fail.
    process: u64,
    /// The directories that are locked.
    locked: BTreeSet<String>,
    operations: u64,
    power_off_at: Option<u64>,
    faults: Vec<Fault>,
    mistake: Option<Mistake>,
    /// What the mistake has put off.
    owed: Vec<Owed>,
}

enum Owed {
    Sync(FileId),
    /// The name of a segment, which is to wait until the manifest that names it counts durably.
    Rename {
        from: String,
        to: String,
        manifest: Counts,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    NotYet,
    Seen,
    Durably,
}

impl FaultyStorage {
    /// An empty disk. The seed decides everything that is left to chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::holding(&BTreeMap::new(), seed)
    }

    /// A disk that holds these files, all of them durable.
    #[must_use]
    pub fn holding(files: &BTreeMap<String, Vec<u8>>, seed: u64) -> Self {
        let machine = Machine {
            disk: Disk::holding(files, seed),
            process: 0,
            locked: BTreeSet::new(),
            operations: 0,
            power_off_at: None,
            faults: Vec::new(),
            mistake: None,
            owed: Vec::new(),
        };
        Self { machine: Arc::new(Mutex::new(machine)), process: 0, directory: String::new() }
    }

    /// Another directory on the same disk, as the same process sees it: it can share files with others of the disk.
    #[must_use]
    pub fn directory(&self, directory: &str) -> Self {
        Self { directory: directory.to_owned(), ..self.clone() }
    }

    /// Whether a file was changed that two directories share.
    #[must_use]
    pub fn shared_file_was_changed(&self) -> bool {
        self.machine.lock().disk.shared_file_was_changed
    }

    /// The name of a file on the whole disk.
    fn on_disk(&self, name: &str) -> String {
        match (self.directory.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (false, true) => self.directory.clone(),
            (false, false) => format!("{}/{name}", self.directory),
        }
    }

    /// The power fails and comes back: what was not durable is lost, in whole or in part.
    #[must_use]
    pub fn power_cut(&self) -> Self {
        self.next_process(Disk::power_cut)
    }

    /// The process ends without a word: all that it has written stays, and its lock is free. Faults are forgotten too.
    #[must_use]
    pub fn process_kill(&self) -> Self {
        self.next_process(|_| {})
    }

    /// One step for all threads of the process that ends: none of them does anything between its end and what happens to the disk.
    fn next_process(&self, change: impl FnOnce(&mut Disk)) -> Self {
        let mut machine = self.machine.lock();
        change(&mut machine.disk);
        machine.process += 1;
        machine.locked.clear();
        machine.power_off_at = None;
        machine.faults.clear();
        machine.owed.clear();
        Self { machine: Arc::clone(&self.machine), process: machine.process, directory: self.directory.clone() }
    }

    /// Has operations fail.
    pub fn inject(&self, fault: Fault) {
        self.machine.lock().faults.push(fault);
    }

    /// Ends all faults.
    pub fn mend(&self) {
        self.machine.lock().faults.clear();
    }

    /// The disk as another process sees it that only reads: it lives on when this one ends, even when the power fails, and its operations
    /// neither count nor fail.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { process: BESIDE, ..self.clone() }
    }

    /// From the operation with this number on (0 is the first of all) nothing happens any more and everything fails. To be
    /// followed by [`power_cut`](FaultyStorage::power_cut) or [`process_kill`](FaultyStorage::process_kill).
    pub fn stop_at(&self, operation: u64) {
        self.machine.lock().power_off_at = Some(operation);
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.machine.lock().operations
    }

    /// Behaves as if the engine made this mistake: how a harness proves that it would notice.
    pub fn make(&self, mistake: Mistake) {
        self.machine.lock().mistake = Some(mistake);
    }

    /// Flips one bit of a file, as a failing disk does.
    ///
    /// # Panics
    /// If there is no such file or bit.
    pub fn rot(&self, name: &str, bit: usize) {
        self.machine.lock().disk.flip(&self.on_disk(name), bit);
    }

    /// All files as processes see them, by name.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.machine.lock().disk.files();
        if self.directory.is_empty() {
            return files;
        }
        let inside = |(name, bytes): (String, Vec<u8>)| Some((name.strip_prefix(&self.directory)?.strip_prefix('/')?.to_owned(), bytes));
        files.into_iter().filter_map(inside).collect()
    }

    /// Begins an operation: counts it, carries out what is owed, and says whether it is to fail.
    fn begin(&self, kind: OperationKind, name: &str) -> io::Result<(MutexGuard<'_, Machine>, Option<io::Error>)> {
        self.begin_reading(kind, name, &(0..0))
    }

    /// Begins an operation that reads these bytes.
    fn begin_reading(&self, kind: OperationKind, name: &str, bytes: &Range<u64>) -> io::Result<(MutexGuard<'_, Machine>, Option<io::Error>)> {
        let mut machine = self.machine.lock();
        if self.process == BESIDE {
            let reads = matches!(kind, OperationKind::Open | OperationKind::Read | OperationKind::List | OperationKind::Length);
            assert!(reads, "a process that only reads tried to {kind:?} {name:?}");
            return Ok((machine, None));
        }
        if machine.process != self.process || machine.power_off_at.is_some_and(|at| machine.operations >= at) {
            return Err(io::Error::other("the process has ended, or the power is off"));
        }
        machine.operations += 1;
        machine.pay()?;
        let failure = machine.faults.iter_mut().find_map(|fault| fault.strikes(kind, name, bytes));
        Ok((machine, failure.map(|failure| failure.error(kind, name))))
    }

    /// Begins an operation that fails without any effect.
    fn begin_whole(&self, kind: OperationKind, name: &str) -> io::Result<MutexGuard<'_, Machine>> {
        let (machine, failure) = self.begin(kind, name)?;
        failure.map_or(Ok(machine), Err)
    }

    fn file(&self, name: &str, id: FileId) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { storage: self.clone(), name: name.to_owned(), id })
    }
}

impl Machine {
    /// Carries out what was put off and is due.
    fn pay(&mut self) -> io::Result<()> {
        for owed in std::mem::take(&mut self.owed) {
            match owed {
                Owed::Sync(file) => self.disk.sync(file),
                Owed::Rename { from, to, manifest: Counts::Durably } => {
                    self.disk.rename(&from, &to)?;
                    self.disk.sync_names(folder_of(&to));
                }
                not_due @ Owed::Rename { .. } => self.owed.push(not_due),
            }
        }
        Ok(())
    }

    /// The manifest was renamed, or its directory synced.
    fn note_manifest(&mut self, before: Counts, after: Counts) {
        for owed in &mut self.owed {
            if let Owed::Rename { manifest, .. } = owed
                && *manifest == before
            {
                *manifest = after;
            }
        }
    }
}

impl Storage for FaultyStorage {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("faulty:{}", self.directory))
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        let mut machine = self.begin_whole(OperationKind::Lock, "LOCK").map_err(|error| Error::io("lock", self.path().join("LOCK"), &error))?;
        if machine.locked.contains(&self.directory) {
            return Err(Error::StoreLocked { path: self.path(), pid: Some(std::process::id()), holder: "this process".to_owned() });
        }
        machine.locked.insert(self.directory.clone());
        Ok(Box::new(FaultyLock(self.clone())))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let id = self.begin_whole(OperationKind::Open, name)?.disk.find(&self.on_disk(name))?;
        Ok(self.file(name, id))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let id = self.begin_whole(OperationKind::Create, name)?.disk.create(&self.on_disk(name));
        Ok(self.file(name, id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.begin_whole(OperationKind::Rename, from)?;
        let is_late = parse_name(to).is_some_and(|(_, generation)| match machine.mistake {
            Some(Mistake::ManifestBeforeSegment) => true,
            Some(Mistake::ManifestBeforeGeneration) => generation > 0,
            _ => false,
        });
        if is_late {
            machine.owed.push(Owed::Rename { from: self.on_disk(from), to: self.on_disk(to), manifest: Counts::NotYet });
            return Ok(());
        }
        if to == MANIFEST {
            machine.note_manifest(Counts::NotYet, Counts::Seen);
        }
        machine.disk.rename(&self.on_disk(from), &self.on_disk(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.begin_whole(OperationKind::Remove, name)?.disk.remove(&self.on_disk(name))
    }

    fn share_from(&self, other: &dyn Storage, name: &str) -> io::Result<bool> {
        let other: &dyn Any = other;
        let on_this_disk = |other: &&Self| Arc::ptr_eq(&self.machine, &other.machine);
        let Some(other) = other.downcast_ref::<Self>().filter(on_this_disk) else { return Ok(false) };
        let mut machine = self.begin_whole(OperationKind::Share, name)?;
        machine.disk.link(&other.on_disk(name), &self.on_disk(name)).map(|()| true)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        Ok(self.begin_whole(OperationKind::List, folder)?.disk.list(&self.on_disk(folder)))
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.begin_whole(OperationKind::CreateFolder, folder).map(|_| ())
    }

    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        let mut machine = self.begin_whole(OperationKind::SyncDirectory, folder)?;
        if machine.mistake != Some(Mistake::SkipDirectorySync) {
            machine.disk.sync_names(&self.on_disk(folder));
        }
        machine.note_manifest(Counts::Seen, Counts::Durably);
        Ok(())
    }
}

struct FaultyLock(FaultyStorage);

impl Lock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut machine = self.0.machine.lock();
        if machine.process == self.0.process {
            machine.locked.remove(&self.0.directory);
        }
    }
}

struct FaultyFile {
    storage: FaultyStorage,
    name: String,
    id: FileId,
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = offset..offset + buffer.len() as u64;
        let (machine, failure) = self.storage.begin_reading(OperationKind::Read, &self.name, &bytes)?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if machine.mistake == Some(Mistake::IgnoreWatermark) && self.name == WATERMARK {
            return Ok(0);
        }
        Ok(machine.disk.read(self.id, buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut machine, failure) = self.storage.begin(OperationKind::Write, &self.name)?;
        if machine.mistake == Some(Mistake::PublishWithoutRewriting) && machine.disk.holds(self.id, bytes, offset) {
            return Ok(());
        }
        let Some(failure) = failure else {
            machine.disk.write(self.id, Write::Bytes(offset, bytes.into()));
            return Ok(());
        };
        let written = machine.disk.any_part_of(bytes.len());
        machine.disk.write(self.id, Write::Bytes(offset, bytes[..written].into()));
        Err(failure)
    }

    fn sync(&self) -> io::Result<()> {
        let (mut machine, failure) = self.storage.begin(OperationKind::Sync, &self.name)?;
        if let Some(failure) = failure {
            machine.disk.fail_sync(self.id);
            return if machine.mistake == Some(Mistake::HideFailedSync) { Ok(()) } else { Err(failure) };
        }
        match machine.mistake {
            Some(Mistake::SkipSync) => {}
            Some(Mistake::AcknowledgeBeforeSync) => machine.owed.push(Owed::Sync(self.id)),
            _ => machine.disk.sync(self.id),
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.storage.begin_whole(OperationKind::Length, &self.name)?.disk.length(self.id))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.storage.begin_whole(OperationKind::SetLength, &self.name)?.disk.write(self.id, Write::Length(length));
        Ok(())
    }

    /// A failure may leave the file longer, as running out of space half-way does.
    fn secure_space(&self, _start: u64, end: u64, _space: Space) -> io::Result<()> {
        let (mut machine, failure) = self.storage.begin(OperationKind::SecureSpace, &self.name)?;
        let length = machine.disk.length(self.id);
        let wanted = end.saturating_sub(length);
        let secured = if failure.is_some() { machine.disk.any_part_of(usize::try_from(wanted).unwrap_or(0)) as u64 } else { wanted };
        if secured > 0 {
            machine.disk.write(self.id, Write::Length(length + secured));
        }
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(storage: &FaultyStorage, name: &str, bytes: &[u8]) -> Arc<dyn StorageFile> {
        let file = storage.create(name).expect("created");
        file.write_at(bytes, 0).expect("written");
        file
    }

    #[test]
    fn what_was_synced_with_its_directory_survives_every_power_cut() {
        for seed in 0..100 {
            let storage = FaultyStorage::new(seed);
            written(&storage, "file", b"durable").sync().expect("synced");
            storage.sync_directory("").expect("synced");
            assert_eq!(storage.power_cut().files()["file"], b"durable");
        }
    }

    #[test]
    fn what_was_not_synced_survives_in_every_way_there_is() {
        let mut seen = BTreeSet::new();
        for seed in 0..1000 {
            let storage = FaultyStorage::new(seed);
            let file = written(&storage, "file", b"ab");
            storage.sync_directory("").expect("synced");
            file.write_at(b"cd", 2).expect("written");
            seen.insert(storage.power_cut().files()["file"].clone());
        }
        for possible in [&b""[..], b"a", b"ab", b"abc", b"abcd", b"\0\0cd", b"\0\0\0d", b"ab\0\0"] {
            assert!(seen.contains(possible), "{possible:?} is not among {seen:?}");
        }
    }

    #[test]
    fn a_failed_sync_leaves_its_bytes_readable_and_a_later_sync_does_not_save_them() {
        let mut lost = 0;
        for seed in 0..100 {
            let storage = FaultyStorage::new(seed);
            let file = written(&storage, "file", b"bytes");
            storage.sync_directory("").expect("synced");
            storage.inject(Fault::on(OperationKind::Sync));
            file.sync().expect_err("the sync fails");
            file.sync().expect("the next one does not");
            assert_eq!(storage.files()["file"], b"bytes");
            lost += usize::from(storage.power_cut().files()["file"] != b"bytes");
        }
        assert!(lost > 0);
    }

    #[test]
    fn names_are_forgotten_unless_their_directory_was_synced() {
        let forgotten = (0..100).filter(|seed| {
            let storage = FaultyStorage::new(*seed);
            written(&storage, "file", b"bytes").sync().expect("synced");
            !storage.power_cut().files().contains_key("file")
        });
        assert!((1..100).contains(&forgotten.count()));
    }

    #[test]
    fn a_dead_process_changes_nothing_and_its_lock_is_free() {
        let storage = FaultyStorage::new(0);
        let file = written(&storage, "file", b"bytes");
        let lock = storage.lock().expect("locked");
        let next = storage.process_kill();
        file.write_at(b"other", 0).expect_err("it is dead");
        storage.remove("file").expect_err("it is dead");
        let held = next.lock().expect("locked");
        drop(lock);
        assert!(matches!(next.lock(), Err(Error::StoreLocked { .. })));
        drop(held);
        assert_eq!(next.files()["file"], b"bytes");
    }
}
