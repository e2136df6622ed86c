//! Reading an index file page by page, each verified when it is read.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{FileKind, IndexProblem, Section, layout, page_checksum, seed_of};
use crate::log::format::{INDEX_SEED, get};
use crate::log::storage::{Access, Storage, StorageFile, read_exact_at};

/// How often a place in a sorted section is estimated before the rest is halved, which bounds the reads whatever the hashes are.
const ESTIMATES: u32 = 4;

const PAGE_DAMAGED: &str = "the checksum of a page does not match";

/// Room for one page; it remembers which it holds, so that one wanted twice in a row is read once.
pub(crate) struct Page {
    /// 0 if it holds none: the first page is never read again.
    number: u64,
    bytes: [u8; layout::PAGE_BYTES],
}

impl Page {
    pub(crate) fn new() -> Self {
        Self { number: 0, bytes: [0; layout::PAGE_BYTES] }
    }
}

/// The pages of a file, without its head.
#[derive(Clone)]
pub(crate) struct Pages {
    file: Arc<dyn StorageFile>,
    seed: u32,
    /// All of the file, once it was read whole and every page verified.
    held: Option<Arc<Vec<u8>>>,
}

/// What it means that an index cannot be read.
fn unread(error: io::Error) -> IndexProblem {
    match error.kind() {
        io::ErrorKind::NotFound => IndexProblem::Missing,
        io::ErrorKind::UnexpectedEof => IndexProblem::Damaged("it is cut short"),
        _ => IndexProblem::Io(error),
    }
}

/// The hash with which an entry of a section sorted by hashes begins.
fn hash_at(entries: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(entries, at))
}

impl Pages {
    pub(super) fn new(file: Arc<dyn StorageFile>, seed: u32) -> Self {
        Self { file, seed, held: None }
    }

    pub(super) fn seed(&self) -> u32 {
        self.seed
    }

    pub(super) fn file(&self) -> &dyn StorageFile {
        &*self.file
    }

    fn read(&self, number: u64, page: &mut Page) -> Result<(), IndexProblem> {
        if page.number == number {
            return Ok(());
        }
        page.number = 0;
        read_exact_at(&*self.file, &mut page.bytes, number * layout::PAGE_BYTES as u64).map_err(unread)?;
        if page_checksum(self.seed, number, &page.bytes).to_le_bytes() != get(&page.bytes, layout::CHECKSUM) {
            return Err(IndexProblem::Damaged(PAGE_DAMAGED));
        }
        page.number = number;
        Ok(())
    }

    /// The entries of a section that stand in its page `at`.
    fn entries_of<'a>(&'a self, section: &Section, at: u64, page: &'a mut Page) -> Result<&'a [u8], IndexProblem> {
        let number = section.first_page + at;
        let count = section.per_page().min(section.count - at * section.per_page());
        let bytes = usize::try_from(count).unwrap_or(0) * section.entry_bytes as usize;
        if let Some(held) = &self.held {
            let start = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(layout::PAGE_BYTES);
            return held.get(start..start.saturating_add(bytes)).ok_or(IndexProblem::Damaged("it is cut short"));
        }
        self.read(number, page)?;
        Ok(&page.bytes[..bytes])
    }

    /// Goes through the entries of a range, in order.
    pub(crate) fn each(
        &self,
        section: &Section,
        range: Range<u64>,
        page: &mut Page,
        mut take: impl FnMut(&[u8]) -> Result<(), IndexProblem>,
    ) -> Result<(), IndexProblem> {
        if range.end > section.count {
            return Err(IndexProblem::Damaged("it has fewer entries than are asked for"));
        }
        let bytes = section.entry_bytes as usize;
        let mut at = range.start;
        while at < range.end {
            let (number, within) = (at / section.per_page(), at % section.per_page());
            let wanted = (section.per_page() - within).min(range.end - at);
            let entries = self.entries_of(section, number, page)?;
            let within = usize::try_from(within).unwrap_or(0) * bytes;
            for entry in entries[within..].chunks_exact(bytes).take(usize::try_from(wanted).unwrap_or(usize::MAX)) {
                take(entry)?;
            }
            at += wanted;
        }
        Ok(())
    }

    /// All entries of a section one after the other, holding one page of them. Nothing follows an error.
    pub(crate) fn iter<T>(&self, section: &Section, decode: impl Fn(&[u8]) -> T) -> impl Iterator<Item = Result<T, IndexProblem>> {
        let (section, mut page, mut next) = (*section, Page::new(), 0);
        std::iter::from_fn(move || {
            if next >= section.count {
                return None;
            }
            let within = usize::try_from(next % section.per_page()).unwrap_or(0) * section.entry_bytes as usize;
            match self.entries_of(&section, next / section.per_page(), &mut page) {
                Ok(entries) => {
                    next += 1;
                    Some(Ok(decode(&entries[within..within + section.entry_bytes as usize])))
                }
                Err(problem) => {
                    next = section.count;
                    Some(Err(problem))
                }
            }
        })
    }

    /// Gives the entries with this hash, in a section whose entries begin with a hash and are sorted by it.
    ///
    /// Hashes are spread evenly, so where one stands can be estimated: two reads, as a rule.
    pub(crate) fn find(&self, section: &Section, hash: u64, mut found: impl FnMut(&[u8])) -> Result<(), IndexProblem> {
        let mut page = Page::new();
        let (mut low, mut high) = (0, section.pages());
        let (mut below, mut above) = (0, u64::MAX);
        let mut reads = 0;
        while low < high {
            let at = if reads < ESTIMATES { low + estimate(hash - below, above - below, high - low) } else { low + (high - low) / 2 };
            reads += 1;
            let entries = self.entries_of(section, at, &mut page)?;
            let (first, last) = (hash_at(entries, 0), hash_at(entries, entries.len() - section.entry_bytes as usize));
            if hash < first {
                (high, above) = (at, first);
            } else if hash > last {
                (low, below) = (at + 1, last);
            } else {
                return self.collect(section, at, hash, &mut page, &mut found);
            }
        }
        Ok(())
    }

    /// Goes through the entries from the first with this hash or a larger one on, in a section sorted by hashes, as long as `take` wants more.
    pub(crate) fn each_from(
        &self,
        section: &Section,
        hash: u64,
        mut take: impl FnMut(&[u8]) -> Result<bool, IndexProblem>,
    ) -> Result<(), IndexProblem> {
        let mut page = Page::new();
        let (mut low, mut high) = (0, section.pages());
        let (mut below, mut above) = (0, u64::MAX);
        let mut reads = 0;
        // The first page whose last hash is not smaller.
        while low < high {
            let at = if reads < ESTIMATES { low + estimate(hash - below, above - below, high - low) } else { low + (high - low) / 2 };
            reads += 1;
            let entries = self.entries_of(section, at, &mut page)?;
            let (first, last) = (hash_at(entries, 0), hash_at(entries, entries.len() - section.entry_bytes as usize));
            if last < hash {
                (low, below) = (at + 1, last);
            } else if first >= hash {
                (high, above) = (at, first);
            } else {
                (low, high) = (at, at);
            }
        }
        for at in low..section.pages() {
            for entry in self.entries_of(section, at, &mut page)?.chunks_exact(section.entry_bytes as usize) {
                if hash_at(entry, 0) >= hash && !take(entry)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives the entries with this hash, where page `at` of the section holds some if there are any.
    fn collect(&self, section: &Section, mut at: u64, hash: u64, page: &mut Page, found: &mut impl FnMut(&[u8])) -> Result<(), IndexProblem> {
        while at > 0 && hash_at(self.entries_of(section, at, page)?, 0) == hash {
            at -= 1;
        }
        while at < section.pages() {
            for entry in self.entries_of(section, at, page)?.chunks_exact(section.entry_bytes as usize) {
                match hash_at(entry, 0).cmp(&hash) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => found(entry),
                    std::cmp::Ordering::Greater => return Ok(()),
                }
            }
            at += 1;
        }
        Ok(())
    }
}

/// `part` of `whole` of `count`, rounded down; less than `count`.
fn estimate(part: u64, whole: u64, count: u64) -> u64 {
    let estimated = u128::from(part) * u128::from(count) / (u128::from(whole) + 1);
    u64::try_from(estimated).unwrap_or(0)
}

/// An open index file.
pub(crate) struct PagedFile {
    pub(crate) pages: Pages,
    count: u64,
    sections: Vec<Section>,
    pub(crate) summary: [u8; layout::SUMMARY_BYTES],
}

impl PagedFile {
    /// Opens the index file of this kind and identity. Reads its first page alone.
    pub(crate) fn open(storage: &dyn Storage, name: &str, kind: FileKind, identity: &[u8; layout::IDENTITY_BYTES]) -> Result<Self, IndexProblem> {
        let file = storage.open(name, Access::Read).map_err(unread)?;
        let mut page = [0; layout::PAGE_BYTES];
        read_exact_at(&*file, &mut page, 0).map_err(unread)?;
        if page[..8] != layout::MAGIC_BYTES {
            return Err(IndexProblem::Damaged("it does not begin as an index does"));
        }
        if page_checksum(INDEX_SEED, 0, &page).to_le_bytes() != get(&page, layout::CHECKSUM) {
            return Err(IndexProblem::Damaged("the checksum of its first page does not match"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(get(&page, at));
        if u32_at(layout::VERSION) != layout::VERSION_NUMBER {
            return Err(IndexProblem::Damaged("it is of another version"));
        }
        if u32_at(layout::KIND) != kind as u32 {
            return Err(IndexProblem::Damaged("it is an index of another kind"));
        }
        if get::<{ layout::IDENTITY_BYTES }>(&page, layout::IDENTITY) != *identity {
            return Err(IndexProblem::Damaged("it was made from another log"));
        }
        let count = u64::from_le_bytes(get(&page, layout::PAGES));
        if count.checked_mul(layout::PAGE_BYTES as u64) != Some(file.length()?) {
            return Err(IndexProblem::Damaged("its length does not match its contents"));
        }
        let table = page[layout::HEAD_BYTES..layout::CHECKSUM].chunks_exact(layout::SECTION_BYTES);
        let section = |entry: &[u8]| Section {
            id: u32::from_le_bytes(get(entry, layout::ID)),
            entry_bytes: u32::from_le_bytes(get(entry, layout::ENTRY_BYTES)),
            first_page: u64::from_le_bytes(get(entry, layout::FIRST_PAGE)),
            count: u64::from_le_bytes(get(entry, layout::COUNT)),
        };
        let sections: Vec<Section> = table.take(u32_at(layout::SECTIONS) as usize).map(section).collect();
        let lies_within = |section: &Section| {
            (1..=layout::CHECKSUM).contains(&(section.entry_bytes as usize))
                && section.first_page > 0
                && section.first_page.checked_add(section.pages()).is_some_and(|end| end <= count)
        };
        if sections.len() != u32_at(layout::SECTIONS) as usize || !sections.iter().all(lies_within) {
            return Err(IndexProblem::Damaged("its table of sections does not match its length"));
        }
        Ok(Self { pages: Pages::new(file, seed_of(identity)), count, sections, summary: get(&page, layout::SUMMARY) })
    }

    /// The section with this id, whose entries are this long.
    pub(crate) fn section(&self, id: u32, entry_bytes: usize) -> Result<Section, IndexProblem> {
        let found = self.sections.iter().find(|section| section.id == id && section.entry_bytes as usize == entry_bytes);
        found.copied().ok_or(IndexProblem::Damaged("it lacks a section"))
    }

    /// Reads every page.
    pub(crate) fn check(&self) -> Result<(), IndexProblem> {
        if self.pages.held.is_some() {
            return Ok(());
        }
        let mut page = Page::new();
        (1..self.count).try_for_each(|number| self.pages.read(number, &mut page))
    }

    /// Reads every page at once and keeps them in `memory`, unless the file is longer than `bytes_max`: for who goes through all of it.
    pub(crate) fn hold(&mut self, bytes_max: u64, memory: &mut Vec<u8>) -> Result<(), IndexProblem> {
        let Some(bytes) = self.count.checked_mul(layout::PAGE_BYTES as u64).filter(|bytes| *bytes <= bytes_max) else { return Ok(()) };
        let mut held = std::mem::take(memory);
        held.resize(usize::try_from(bytes).unwrap_or(0), 0);
        read_exact_at(&*self.pages.file, &mut held, 0).map_err(unread)?;
        let (pages, _) = held.as_chunks::<{ layout::PAGE_BYTES }>();
        for (number, page) in (0..).zip(pages).skip(1) {
            if page_checksum(self.pages.seed, number, page).to_le_bytes() != get(page, layout::CHECKSUM) {
                return Err(IndexProblem::Damaged(PAGE_DAMAGED));
            }
        }
        self.pages.held = Some(Arc::new(held));
        Ok(())
    }

    /// Gives the memory back that `hold` has taken.
    pub(crate) fn let_go(&mut self) -> Vec<u8> {
        self.pages.held.take().and_then(Arc::into_inner).unwrap_or_default()
    }
}
