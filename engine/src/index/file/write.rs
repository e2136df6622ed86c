//! Writing an index file from front to back, a few pages at a time.

use std::io;
use std::sync::Arc;

use super::{FileKind, Pages, Section, layout, page_checksum, seed_of};
use crate::log::format::{INDEX_SEED, put};
use crate::log::storage::{Storage, StorageFile};

/// How many pages are written at once.
const PAGES_AT_ONCE: usize = 64;
/// How many pages are synced at once, so that a large file is not handed to the disk all together when it is done: those who write to the
/// log would wait behind it.
const PAGES_SYNCED_AT_ONCE: u64 = 16 << 10;

/// A file that is being written.
pub(crate) struct Writer {
    pages: Pages,
    sections: Vec<Section>,
    /// The page that is being filled.
    page: Box<[u8; layout::PAGE_BYTES]>,
    used: usize,
    /// Its number.
    number: u64,
    /// The pages before it that are not written yet.
    ahead: Vec<u8>,
    /// Every page below this number is on disk.
    synced: u64,
}

/// Makes an index file: under a name of its own until it is whole and synced, so that it is there completely or not at all.
///
/// # Errors
/// What writing or `contents` says; then nothing has been replaced, unless it is the directory's sync that failed.
pub(crate) fn write<E: From<io::Error>>(
    storage: &dyn Storage,
    name: &str,
    (kind, identity, summary): (FileKind, &[u8; layout::IDENTITY_BYTES], &[u8; layout::SUMMARY_BYTES]),
    contents: impl FnOnce(&mut Writer) -> Result<(), E>,
) -> Result<(), E> {
    let unfinished = format!("{name}.tmp");
    let prepare = || {
        let file = storage.create(&unfinished)?;
        let mut writer = Writer::new(Arc::clone(&file), seed_of(identity));
        contents(&mut writer)?;
        let head = writer.finish(kind, identity, summary)?;
        file.write_at(&*head, 0)?;
        file.sync()?;
        storage.rename(&unfinished, name)?;
        Ok(())
    };
    let prepared: Result<(), E> = prepare();
    if prepared.is_err() {
        // The space is wanted back at once, above all if there was too little. The next open would remove it too.
        drop(storage.remove(&unfinished));
    }
    prepared?;
    storage.sync_directory(name.rsplit_once('/').map_or("", |(folder, _)| folder))?;
    Ok(())
}

impl Writer {
    fn new(file: Arc<dyn StorageFile>, seed: u32) -> Self {
        Self {
            pages: Pages::new(file, seed),
            sections: Vec::new(),
            page: Box::new([0; layout::PAGE_BYTES]),
            used: 0,
            number: 1,
            ahead: Vec::with_capacity(PAGES_AT_ONCE * layout::PAGE_BYTES),
            synced: 0,
        }
    }

    /// Begins the next section.
    pub(crate) fn section(&mut self, id: u32, entry_bytes: usize) -> io::Result<()> {
        self.end_page()?;
        let entry_bytes = u32::try_from(entry_bytes).unwrap_or(u32::MAX);
        self.sections.push(Section { id, entry_bytes, first_page: self.number, count: 0 });
        Ok(())
    }

    /// Adds an entry to the present section; all of a section's entries are of its length.
    pub(crate) fn push(&mut self, entry: &[u8]) -> io::Result<()> {
        if self.used + entry.len() > layout::CHECKSUM {
            self.end_page()?;
        }
        self.page[self.used..self.used + entry.len()].copy_from_slice(entry);
        self.used += entry.len();
        if let Some(section) = self.sections.last_mut() {
            section.count += 1;
        }
        Ok(())
    }

    /// Ends the present section, to be read back while the next ones are written.
    pub(crate) fn read_back(&mut self) -> io::Result<(Pages, Section)> {
        self.end_page()?;
        self.flush()?;
        let section = self.sections.last().copied().ok_or_else(|| io::Error::other("no section was begun"))?;
        Ok((self.pages.clone(), section))
    }

    fn end_page(&mut self) -> io::Result<()> {
        if self.used == 0 {
            return Ok(());
        }
        let sum = page_checksum(self.pages.seed(), self.number, &self.page);
        put(&mut *self.page, layout::CHECKSUM, sum.to_le_bytes());
        self.ahead.extend_from_slice(&*self.page);
        self.page.fill(0);
        self.used = 0;
        self.number += 1;
        if self.ahead.len() == PAGES_AT_ONCE * layout::PAGE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let offset = self.number * layout::PAGE_BYTES as u64 - self.ahead.len() as u64;
        if !self.ahead.is_empty() {
            self.pages.file().write_at(&self.ahead, offset)?;
            self.ahead.clear();
            if self.number - self.synced >= PAGES_SYNCED_AT_ONCE {
                self.pages.file().sync()?;
                self.synced = self.number;
            }
        }
        Ok(())
    }

    /// Writes what is left, and gives the first page.
    fn finish(
        mut self,
        kind: FileKind,
        identity: &[u8; layout::IDENTITY_BYTES],
        summary: &[u8; layout::SUMMARY_BYTES],
    ) -> io::Result<Box<[u8; layout::PAGE_BYTES]>> {
        self.end_page()?;
        self.flush()?;
        if self.sections.len() > layout::SECTIONS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more sections than an index file can have"));
        }
        let mut page = self.page;
        put(&mut *page, layout::MAGIC, layout::MAGIC_BYTES);
        put(&mut *page, layout::VERSION, layout::VERSION_NUMBER.to_le_bytes());
        put(&mut *page, layout::KIND, (kind as u32).to_le_bytes());
        put(&mut *page, layout::PAGES, self.number.to_le_bytes());
        put(&mut *page, layout::SECTIONS, u32::try_from(self.sections.len()).unwrap_or(u32::MAX).to_le_bytes());
        put(&mut *page, layout::IDENTITY, *identity);
        put(&mut *page, layout::SUMMARY, *summary);
        for (section, entry) in self.sections.iter().zip(page[layout::HEAD_BYTES..layout::CHECKSUM].chunks_exact_mut(layout::SECTION_BYTES)) {
            put(entry, layout::ID, section.id.to_le_bytes());
            put(entry, layout::ENTRY_BYTES, section.entry_bytes.to_le_bytes());
            put(entry, layout::FIRST_PAGE, section.first_page.to_le_bytes());
            put(entry, layout::COUNT, section.count.to_le_bytes());
        }
        let sum = page_checksum(INDEX_SEED, 0, &page);
        put(&mut *page, layout::CHECKSUM, sum.to_le_bytes());
        Ok(page)
    }
}
