//! Files in memory: the store behind `memory://`.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::{Access, Lock, Space, Storage, StorageFile};
use crate::error::{Error, Result};

/// How much of a file is kept in one piece, so that growing copies nothing.
const PAGE_BYTES: usize = 64 << 10;

/// A directory in memory. It lives as long as somebody holds it, so a store in it can be closed and opened again.
#[derive(Default)]
pub struct MemoryStorage {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
    locked: Arc<AtomicBool>,
}

impl MemoryStorage {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name:?}"))
}

impl Storage for MemoryStorage {
    fn path(&self) -> PathBuf {
        PathBuf::from("memory:")
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        if self.locked.swap(true, Ordering::AcqRel) {
            return Err(Error::StoreLocked { path: self.path(), pid: Some(std::process::id()), holder: "this process".to_owned() });
        }
        Ok(Box::new(MemoryLock(Arc::clone(&self.locked))))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.files.lock().get(name).cloned().ok_or_else(|| not_found(name))?;
        Ok(file)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let file = Arc::new(MemoryFile::default());
        self.files.lock().insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or_else(|| not_found(from))?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name).map(|_| ()).ok_or_else(|| not_found(name))
    }

    fn share_from(&self, other: &dyn Storage, name: &str) -> io::Result<bool> {
        let other: &dyn Any = other;
        let Some(other) = other.downcast_ref::<Self>() else { return Ok(false) };
        let file = other.files.lock().get(name).cloned().ok_or_else(|| not_found(name))?;
        let mut files = self.files.lock();
        if files.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a file {name:?}")));
        }
        files.insert(name.to_owned(), file);
        Ok(true)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let files = self.files.lock();
        Ok(files.keys().filter_map(|name| name.strip_prefix(&prefix)).filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn create_folder(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryLock(Arc<AtomicBool>);

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct MemoryFile(RwLock<Contents>);

/// Every page but the last is full; the last holds what has been written.
#[derive(Default)]
struct Contents {
    pages: Vec<Vec<u8>>,
    length: usize,
}

impl Contents {
    fn set_length(&mut self, length: usize) {
        self.pages.resize_with(length.div_ceil(PAGE_BYTES), Vec::new);
        let last = self.pages.len().saturating_sub(1);
        for page in &mut self.pages[self.length.saturating_sub(1).min(length) / PAGE_BYTES..last] {
            page.resize(PAGE_BYTES, 0);
        }
        if let Some(page) = self.pages.last_mut() {
            page.resize(length - last * PAGE_BYTES, 0);
        }
        self.length = length;
    }

    /// The parts of `from..to`, page by page: page number, start and end within it.
    fn parts(from: usize, to: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (from / PAGE_BYTES..to.div_ceil(PAGE_BYTES)).map(move |page| {
            let start = page * PAGE_BYTES;
            (page, from.max(start) - start, to.min(start + PAGE_BYTES) - start)
        })
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the offset does not fit into memory"))
}

impl StorageFile for MemoryFile {
    fn may_be_read_ahead(&self) -> bool {
        true
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let contents = self.0.read();
        let from = index(offset)?.min(contents.length);
        let to = (from + buffer.len()).min(contents.length);
        let mut done = 0;
        for (page, start, end) in Contents::parts(from, to) {
            buffer[done..done + end - start].copy_from_slice(&contents.pages[page][start..end]);
            done += end - start;
        }
        Ok(to - from)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut contents = self.0.write();
        let from = index(offset)?;
        let to = from + bytes.len();
        let mut done = 0;
        if from > contents.length {
            contents.set_length(from);
        }
        for (number, start, end) in Contents::parts(from, to) {
            if number == contents.pages.len() {
                contents.pages.push(Vec::with_capacity(if number == 0 { 0 } else { PAGE_BYTES }));
            }
            let page = &mut contents.pages[number];
            let part = &bytes[done..done + end - start];
            let overlap = page.len().saturating_sub(start).min(part.len());
            page[start..start + overlap].copy_from_slice(&part[..overlap]);
            page.extend_from_slice(&part[overlap..]);
            done += end - start;
        }
        contents.length = contents.length.max(to);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.read().length as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.write().set_length(index(length)?);
        Ok(())
    }

    /// Memory is taken when it is written; running out of it ends the process, as everywhere.
    fn secure_space(&self, _start: u64, _end: u64, _space: Space) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_file_in_memory_behaves_as_a_vector_of_bytes(steps in proptest::collection::vec((0..3_u8, 0..300_000_usize, 0..150_000_usize, any::<u8>()), 1..12)) {
            let file = MemoryFile::default();
            let mut model: Vec<u8> = Vec::new();
            for (step, at, count, byte) in steps {
                match step {
                    0 => {
                        if model.len() < at + count && count > 0 {
                            model.resize(at + count, 0);
                        }
                        if count > 0 {
                            model[at..at + count].fill(byte);
                            file.write_at(&vec![byte; count], at as u64).expect("memory");
                        }
                    }
                    1 => {
                        model.resize(at, 0);
                        file.set_length(at as u64).expect("memory");
                    }
                    _ => {
                        let mut buffer = vec![0; count];
                        let read = file.read_at(&mut buffer, at as u64).expect("memory");
                        let expected = &model[at.min(model.len())..(at + count).min(model.len())];
                        prop_assert!(buffer[..read] == *expected);
                    }
                }
                prop_assert_eq!(file.length().expect("memory"), model.len() as u64);
            }
        }
    }
}
