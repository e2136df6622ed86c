//! The real disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::{Access, Lock, Space, Storage, StorageFile};
use crate::error::{Error, Result};
use crate::log::sys;

/// The name of the lock file.
const LOCK: &str = "LOCK";
/// The lock file's length: what it says is padded, so that it is never cut.
const LOCK_BYTES: usize = 256;

/// A directory of the file system. Files are made for their owner only.
pub(crate) struct OsStorage {
    root: PathBuf,
}

impl OsStorage {
    /// The store in an existing directory.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes the directory of a new store, and its name durable.
    pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        sync_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Storage for OsStorage {
    fn path(&self) -> PathBuf {
        self.root.clone()
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        let path = self.root.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io("open", &path, &error))?;
        sys::with_lock_descriptors(|descriptors| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            descriptors.push(file.as_raw_fd());
            Ok(())
        })
        .map_err(|error: rustix::io::Errno| match error {
            rustix::io::Errno::WOULDBLOCK => self.locked_by(&file),
            error => Error::io("lock", &path, &error.into()),
        })?;
        let mut head = [0; 4];
        let ours = matches!((file.read_at(&mut head, 0), &head), (Ok(0), _) | (Ok(4), b"pid "));
        if !ours {
            return Err(Error::configuration(format!("{path:?} is not a lock of this store; move it away, or choose another directory")));
        }
        let text = format!("pid {}\nhost {}\nsince {}\n", std::process::id(), host_name(), unix_seconds());
        let mut padded = text.into_bytes();
        padded.resize(LOCK_BYTES, b'\n');
        // What the file says is for people; the kernel's lock is what counts.
        let _ = file.write_all_at(&padded, 0);
        Ok(Box::new(OsLock { file: Some(file), generation: sys::fork_generation() }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(self.root.join(name))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(self.root.join(name))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
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
        match DirBuilder::new().mode(0o700).create(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory(&self.root),
        }
    }

    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        sync_directory(&self.root.join(folder))
    }
}

impl OsStorage {
    fn locked_by(&self, file: &File) -> Error {
        let mut bytes = [0; LOCK_BYTES];
        let read = file.read_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        let pid = field("pid ").and_then(|pid| pid.parse().ok());
        let host = field("host ").unwrap_or_else(|| "unknown".to_owned());
        let since = field("since ").unwrap_or_else(|| "unknown".to_owned());
        Error::StoreLocked { path: self.root.clone(), pid, holder: format!("host {host}, since {since} (unix time)") }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The kernel's lock on LOCK: given back only by closing the descriptor, which the kernel does when the process dies.
struct OsLock {
    /// `None` only while it is dropped.
    file: Option<File>,
    generation: u32,
}

impl Lock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if self.generation == sys::fork_generation() {
            sys::with_lock_descriptors(|descriptors| {
                descriptors.retain(|descriptor| *descriptor != file.as_raw_fd());
                drop(file);
            });
        } else {
            // A forked child closed its copy when it was made; the number may be another file's by now.
            let _ = file.into_raw_fd();
        }
    }
}

struct OsFile {
    file: File,
}

impl StorageFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
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
        match space {
            Space::Written => write_zeros(&self.file, start, end),
            Space::Reserved => match fallocate(self.file.as_fd(), FallocateFlags::empty(), start, end - start) {
                // Not every file system can reserve; writing zeros is the same promise at a higher price.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeros(&self.file, start, end),
                result => Ok(result?),
            },
        }
    }
}

fn write_zeros(file: &File, start: u64, end: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = start;
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(&ZEROS[..step], at)?;
        at += step as u64;
    }
    Ok(())
}
