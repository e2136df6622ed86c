//! Index files: pages of 4 KiB, each with a checksum of its own, so that a look-up verifies what it reads and nothing else.
//!
//! What such a file says can be told from the log. It is therefore never repaired: what is wrong with it in any way is
//! [`Damaged`](IndexProblem::Damaged), and then it is made anew.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;

pub(crate) use read::{Page, PagedFile, Pages};
pub(crate) use write::{Writer, write};

use crate::log::format::{INDEX_SEED, checksum};

/// The layout: a first page with the head and the table of sections, then the sections, each from a new page on.
pub(crate) mod layout {
    /// Length of a page.
    pub(crate) const PAGE_BYTES: usize = 4096;
    /// In a page: the checksum of all before it and of the page's number (u32).
    pub(crate) const CHECKSUM: usize = PAGE_BYTES - 4;
    /// The first bytes of an index file (8 bytes).
    pub(crate) const MAGIC_BYTES: [u8; 8] = *b"EVTLIIDX";
    /// The version that is written and read. An index of another version is made anew.
    pub(crate) const VERSION_NUMBER: u32 = 1;
    /// Magic (8 bytes).
    pub(crate) const MAGIC: usize = 0;
    /// Version of index files (u32).
    pub(crate) const VERSION: usize = MAGIC + 8;
    /// What it indexes (u32).
    pub(crate) const KIND: usize = VERSION + 4;
    /// Number of pages, with this one (u64).
    pub(crate) const PAGES: usize = KIND + 4;
    /// Number of sections (u32).
    pub(crate) const SECTIONS: usize = PAGES + 8;
    /// Reserved, 0 (u32).
    pub(crate) const RESERVED: usize = SECTIONS + 4;
    /// From which log it was made, by kind (128 bytes).
    pub(crate) const IDENTITY: usize = RESERVED + 4;
    /// Length of the identity.
    pub(crate) const IDENTITY_BYTES: usize = 128;
    /// What is worth knowing before any other page is read, by kind (96 bytes).
    pub(crate) const SUMMARY: usize = IDENTITY + IDENTITY_BYTES;
    /// Length of the summary.
    pub(crate) const SUMMARY_BYTES: usize = 96;
    /// Length of the head; the table of sections follows.
    pub(crate) const HEAD_BYTES: usize = SUMMARY + SUMMARY_BYTES;
    /// In a section's entry: what it holds, by kind of file (u32).
    pub(crate) const ID: usize = 0;
    /// In a section's entry: length of its entries (u32).
    pub(crate) const ENTRY_BYTES: usize = ID + 4;
    /// In a section's entry: its first page (u64).
    pub(crate) const FIRST_PAGE: usize = ENTRY_BYTES + 4;
    /// In a section's entry: number of its entries (u64).
    pub(crate) const COUNT: usize = FIRST_PAGE + 8;
    /// Length of a section's entry.
    pub(crate) const SECTION_BYTES: usize = COUNT + 8;
    /// How many sections there can be.
    pub(crate) const SECTIONS_MAX: usize = (CHECKSUM - HEAD_BYTES) / SECTION_BYTES;
}

/// What an index file indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FileKind {
    /// One sealed segment.
    Segment = 1,
    /// Where the streams and ids of a range of segments are to be looked for.
    Run = 2,
}

/// Why an index file cannot be used. The way out is always to make it anew.
#[derive(Debug)]
pub(crate) enum IndexProblem {
    /// There is none.
    Missing,
    /// It is not what it should be.
    Damaged(&'static str),
    /// It cannot be read, or a new one cannot be written.
    Io(io::Error),
    /// It was not made to its end, because the store is closed.
    Stopped,
}

impl From<io::Error> for IndexProblem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Entries of one length, in order. No entry reaches over the end of a page; what is left there is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) id: u32,
    pub(crate) entry_bytes: u32,
    pub(crate) first_page: u64,
    pub(crate) count: u64,
}

impl Section {
    /// How many entries a page holds.
    fn per_page(&self) -> u64 {
        layout::CHECKSUM as u64 / u64::from(self.entry_bytes)
    }

    /// How many pages it takes.
    fn pages(&self) -> u64 {
        self.count.div_ceil(self.per_page())
    }
}

/// The seed of all pages but the first, so that a page of another segment's index is never valid here.
fn seed_of(identity: &[u8]) -> u32 {
    checksum(INDEX_SEED, identity)
}

/// The checksum that belongs to a page.
fn page_checksum(seed: u32, number: u64, page: &[u8; layout::PAGE_BYTES]) -> u32 {
    let contents = checksum(seed, &page[..layout::CHECKSUM]);
    checksum(contents, &number.to_le_bytes())
}
