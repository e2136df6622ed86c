//! The real disk.

use std::any::Any;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Access, Lock, Space, Storage, StorageFile};
use crate::error::{Error, Result};
use crate::log::utc::rfc3339;

#[cfg(unix)]
#[path = "os/unix.rs"]
mod platform;
#[cfg(windows)]
#[path = "os/windows.rs"]
mod platform;

mod mapped;

use mapped::MappedFile;
pub(crate) use platform::DirectoryId;
use platform::{HeldLock, create_private_directory, is_at, is_linked, private, read_at, reserve, sync_directory, write_all_at};

/// The name of the lock file.
pub(crate) const LOCK: &str = "LOCK";
/// The lock file's length: what it says is padded, so that it is never cut.
const LOCK_BYTES: usize = 256;

/// A directory of the file system. Files are made for their owner only.
pub(crate) struct OsStorage {
    root: PathBuf,
    sealed_reads: SealedReads,
}

/// How sealed segments of a store in a directory are read. The bytes are verified by the same checksums either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SealedReads {
    /// By calls of the system. A file that another program cuts, and a disk that fails, are errors.
    #[default]
    Read,
    /// Through memory maps, which saves those calls. Where another program cuts a file, or the disk cannot read a page, the
    /// system ends the process: its signal (`SIGBUS`) is not an error that anything can handle.
    Mapped,
}

impl OsStorage {
    /// The store in an existing directory.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, sealed_reads: SealedReads::default() }
    }

    /// The same, with sealed segments read so.
    pub(crate) fn sealed_reads(self, sealed_reads: SealedReads) -> Self {
        Self { sealed_reads, ..self }
    }

    /// Makes the directory of a new store, and its name durable.
    pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
        create_private_directory(path)?;
        Self::sync_parent(path)
    }

    /// Makes a directory that gets another name when it is finished: only that one has to be durable.
    pub(crate) fn create_unfinished_directory(path: &Path) -> io::Result<()> {
        create_private_directory(path)
    }

    /// Makes the name of a directory durable.
    pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
        sync_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
}

impl Storage for OsStorage {
    fn path(&self) -> PathBuf {
        self.root.clone()
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        let path = self.root.join(LOCK);
        let (lock, made) = loop {
            let (file, made) = open_or_make(&path).map_err(|error| Error::io("open", &path, &error))?;
            let lock = HeldLock::take(file).map_err(|(file, error)| match error.kind() {
                io::ErrorKind::WouldBlock => self.locked_by(&file),
                _ => Error::io("lock", &path, &error),
            })?;
            // Another process whose attempt to create the store failed may have removed the file meanwhile: then this lock
            // keeps nobody out.
            if is_at(lock.file(), &path) {
                break (lock, made);
            }
        };
        let mut head = [0; 4];
        let ours = matches!((read_at(lock.file(), &mut head, 0), &head), (Ok(0), _) | (Ok(4), b"pid "));
        if !ours {
            return Err(Error::configuration(format!("{path:?} is not a lock of this store; move it away, or choose another directory")));
        }
        let text = format!("pid {}\nhost {}\nsince {}\n", std::process::id(), platform::host_name(), rfc3339(unix_seconds()));
        let mut padded = text.into_bytes();
        padded.resize(LOCK_BYTES, b'\n');
        // What the file says is for people; the kernel's lock is what counts.
        let _ = write_all_at(lock.file(), &padded, 0);
        Ok(Box::new(OsLock { lock, path, made }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(self.root.join(name)).map_err(named)?;
        if (access, self.sealed_reads) == (Access::Sealed, SealedReads::Mapped) {
            return Ok(Arc::new(MappedFile::map(&file)?));
        }
        Ok(Arc::new(OsFile { file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = private(options).open(self.root.join(name)).map_err(named)?;
        Ok(Arc::new(OsFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn share_from(&self, other: &dyn Storage, name: &str) -> io::Result<bool> {
        let other: &dyn Any = other;
        let Some(other) = other.downcast_ref::<Self>() else { return Ok(false) };
        match fs::hard_link(other.root.join(name), self.root.join(name)) {
            Ok(()) => Ok(true),
            Err(error) if is_final(&error) => Err(error),
            // Another file system, one without links, a file with too many, or one whose owner alone may link it.
            Err(_) => Ok(false),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(named)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        match create_private_directory(&self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory(&self.root),
        }
    }

    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        sync_directory(&self.root.join(folder))
    }
}

/// An error that says nothing of the file, told apart from those that do.
fn named(error: io::Error) -> io::Error {
    #[cfg(unix)]
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        let message = format!("{error}: too many files are open; allow more, or close some and try again");
        return io::Error::new(io::ErrorKind::OutOfMemory, message);
    }
    error
}

impl OsStorage {
    fn locked_by(&self, file: &File) -> Error {
        let mut bytes = [0; LOCK_BYTES];
        let read = read_at(file, &mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        let pid = field("pid ").and_then(|pid| pid.parse().ok());
        let host = field("host ").unwrap_or_else(|| "unknown".to_owned());
        let since = field("since ").unwrap_or_else(|| "unknown".to_owned());
        Error::StoreLocked { path: self.root.clone(), pid, holder: format!("host {host}, since {since}") }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether a file that cannot be linked for this reason cannot be copied either.
fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotFound, QuotaExceeded, StorageFull};
    matches!(error.kind(), NotFound | AlreadyExists | StorageFull | QuotaExceeded)
}

/// The lock file, and whether it was not there before.
fn open_or_make(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).truncate(false);
    let mut options = private(options);
    match options.create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((options.create_new(false).create(true).open(path)?, false)),
        made => made.map(|file| (file, true)),
    }
}

/// The lock of a store, on its lock file.
struct OsLock {
    lock: HeldLock,
    path: PathBuf,
    /// The file was made by taking the lock.
    made: bool,
}

impl Lock for OsLock {
    fn retract(&mut self) {
        // Whoever has opened the file meanwhile finds, once the lock is theirs, that it is no longer there.
        if std::mem::take(&mut self.made) && self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn keeps_others_out(&self) -> bool {
        is_linked(self.lock.file())
    }

    fn is_in_place(&self) -> bool {
        is_at(self.lock.file(), &self.path)
    }
}

struct OsFile {
    file: File,
}

impl StorageFile for OsFile {
    fn may_be_read_ahead(&self) -> bool {
        true
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match read_at(&self.file, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(&self.file, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn secure_space(&self, start: u64, end: u64, space: Space) -> io::Result<()> {
        let start = start.max(self.length()?);
        if start >= end {
            return Ok(());
        }
        // Not every file system can reserve; writing zeros is the same promise at a higher price.
        if space == Space::Reserved && reserve(&self.file, start, end)? {
            return Ok(());
        }
        write_zeros(&self.file, start, end)
    }
}

fn write_zeros(file: &File, start: u64, end: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = start;
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
        write_all_at(file, &ZEROS[..step], at)?;
        at += step as u64;
    }
    Ok(())
}
