//! How the blocks of a compressed segment lie in its file: every offset, once; pure encoding and decoding.
//!
//! Segment header, dictionary, blocks, table of blocks, footer.

use crate::log::format::{FRAME_ALIGN, SegmentHeader, checksum, put, segment_header, u32_at, u64_at};

/// How much of a segment is compressed together, unless the footer says otherwise.
pub(super) const BLOCK_BYTES: u32 = 16 << 10;
/// The least and the most that a footer may say.
pub(crate) const BLOCK_BYTES_RANGE: (u32, u32) = (4 << 10, 1 << 20);
/// The longest dictionary that is read.
pub(crate) const DICTIONARY_BYTES_MAX: u32 = 1 << 20;
/// A compressed block is at most this much longer than what is in it.
pub(crate) const BLOCK_EXTRA_BYTES_MAX: u32 = 8 << 10;

/// An entry of the table of blocks.
pub(crate) mod block_entry {
    /// Where in the file the compressed block begins (u64).
    pub(crate) const OFFSET: usize = 0;
    /// Its length (u32).
    pub(crate) const BYTES: usize = OFFSET + 8;
    /// Its checksum, from the blocks seed continued with the block's number (u32).
    pub(crate) const CHECKSUM: usize = BYTES + 4;
    /// Length of an entry.
    pub(crate) const ENTRY_BYTES: usize = CHECKSUM + 4;
}

/// A page of the table of blocks: entries, then this.
pub(crate) mod table_page {
    /// How many entries a page has.
    pub(crate) const ENTRIES: u32 = 255;
    /// The number of the page: 0, 1, 2, … (u32).
    pub(crate) const PAGE: usize = ENTRIES as usize * super::block_entry::ENTRY_BYTES;
    /// Reserved, 0 (u64).
    pub(crate) const RESERVED: usize = PAGE + 4;
    /// Checksum of all bytes before it, from the blocks seed (u32).
    pub(crate) const CHECKSUM: usize = RESERVED + 8;
    /// Length of a page.
    pub(crate) const PAGE_BYTES: usize = CHECKSUM + 4;
}

/// The last bytes of the file.
pub(crate) mod footer {
    /// The first bytes of a footer (8 bytes).
    pub(crate) const MAGIC_BYTES: [u8; 8] = *b"EVTLIBLK";
    /// Magic (8 bytes).
    pub(crate) const MAGIC: usize = 0;
    /// How long the segment was before it was compressed, with its header (u64).
    pub(crate) const PLAIN_BYTES: usize = MAGIC + 8;
    /// Where the table of blocks begins (u64).
    pub(crate) const TABLE_OFFSET: usize = PLAIN_BYTES + 8;
    /// How much is in a block (u32).
    pub(crate) const BLOCK_BYTES: usize = TABLE_OFFSET + 8;
    /// Length of the dictionary behind the segment header; 0 if there is none (u32).
    pub(crate) const DICTIONARY_BYTES: usize = BLOCK_BYTES + 4;
    /// Checksum of the dictionary, from the blocks seed (u32).
    pub(crate) const DICTIONARY_CHECKSUM: usize = DICTIONARY_BYTES + 4;
    /// Reserved, 0 (24 bytes).
    pub(crate) const RESERVED: usize = DICTIONARY_CHECKSUM + 4;
    /// Checksum of all bytes before it, from the blocks seed (u32).
    pub(crate) const CHECKSUM: usize = RESERVED + 24;
    /// Length of the footer.
    pub(crate) const FOOTER_BYTES: usize = CHECKSUM + 4;
}

/// Where what is compressed begins.
pub(super) const START: u64 = segment_header::BYTES as u64;

/// The seed of a compressed generation's checksums: no other generation of the segment, and no other segment, has it.
pub(super) fn blocks_seed(header: &SegmentHeader) -> u32 {
    checksum(header.seed(), &header.generation.to_le_bytes())
}

/// The checksum of a compressed block.
pub(super) fn block_checksum(blocks_seed: u32, number: u32, bytes: &[u8]) -> u32 {
    checksum(checksum(blocks_seed, &number.to_le_bytes()), bytes)
}

/// Where a compressed block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockEntry {
    pub(super) offset: u64,
    pub(super) bytes: u32,
    pub(super) checksum: u32,
}

impl BlockEntry {
    fn encode(&self, out: &mut [u8]) {
        put(out, block_entry::OFFSET, self.offset.to_le_bytes());
        put(out, block_entry::BYTES, self.bytes.to_le_bytes());
        put(out, block_entry::CHECKSUM, self.checksum.to_le_bytes());
    }

    /// The entry at an index of a verified page.
    pub(super) fn in_page(page: &[u8], index: usize) -> Self {
        let at = index * block_entry::ENTRY_BYTES;
        Self {
            offset: u64_at(page, at + block_entry::OFFSET),
            bytes: u32_at(page, at + block_entry::BYTES),
            checksum: u32_at(page, at + block_entry::CHECKSUM),
        }
    }
}

/// The table of blocks, page by page.
pub(super) fn encode_table(blocks_seed: u32, entries: &[BlockEntry]) -> Vec<u8> {
    let mut table = Vec::new();
    for (number, entries) in (0_u32..).zip(entries.chunks(table_page::ENTRIES as usize)) {
        let mut page = vec![0; table_page::PAGE_BYTES];
        for (entry, out) in entries.iter().zip(page.chunks_exact_mut(block_entry::ENTRY_BYTES)) {
            entry.encode(out);
        }
        put(&mut page, table_page::PAGE, number.to_le_bytes());
        let sum = checksum(blocks_seed, &page[..table_page::CHECKSUM]);
        put(&mut page, table_page::CHECKSUM, sum.to_le_bytes());
        table.extend_from_slice(&page);
    }
    table
}

/// Whether this is the table's page with this number.
pub(super) fn is_table_page(blocks_seed: u32, number: u32, page: &[u8]) -> bool {
    page.len() == table_page::PAGE_BYTES
        && checksum(blocks_seed, &page[..table_page::CHECKSUM]) == u32_at(page, table_page::CHECKSUM)
        && u32_at(page, table_page::PAGE) == number
}

/// What the footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) plain_bytes: u64,
    pub(super) table_offset: u64,
    pub(super) block_bytes: u32,
    pub(super) dictionary_bytes: u32,
    pub(super) dictionary_checksum: u32,
}

impl Footer {
    pub(super) fn encode(&self, blocks_seed: u32) -> Vec<u8> {
        let mut bytes = vec![0; footer::FOOTER_BYTES];
        put(&mut bytes, footer::MAGIC, footer::MAGIC_BYTES);
        put(&mut bytes, footer::PLAIN_BYTES, self.plain_bytes.to_le_bytes());
        put(&mut bytes, footer::TABLE_OFFSET, self.table_offset.to_le_bytes());
        put(&mut bytes, footer::BLOCK_BYTES, self.block_bytes.to_le_bytes());
        put(&mut bytes, footer::DICTIONARY_BYTES, self.dictionary_bytes.to_le_bytes());
        put(&mut bytes, footer::DICTIONARY_CHECKSUM, self.dictionary_checksum.to_le_bytes());
        let sum = checksum(blocks_seed, &bytes[..footer::CHECKSUM]);
        put(&mut bytes, footer::CHECKSUM, sum.to_le_bytes());
        bytes
    }

    /// The footer of a file of this length, if it says nothing that cannot be.
    pub(super) fn decode(bytes: &[u8], blocks_seed: u32, file_bytes: u64) -> Result<Self, &'static str> {
        if bytes.len() < footer::FOOTER_BYTES || bytes[..8] != footer::MAGIC_BYTES {
            return Err("the compressed segment does not end in a footer");
        }
        if checksum(blocks_seed, &bytes[..footer::CHECKSUM]) != u32_at(bytes, footer::CHECKSUM) {
            return Err("the checksum of the compressed segment's footer does not match");
        }
        let footer = Self {
            plain_bytes: u64_at(bytes, footer::PLAIN_BYTES),
            table_offset: u64_at(bytes, footer::TABLE_OFFSET),
            block_bytes: u32_at(bytes, footer::BLOCK_BYTES),
            dictionary_bytes: u32_at(bytes, footer::DICTIONARY_BYTES),
            dictionary_checksum: u32_at(bytes, footer::DICTIONARY_CHECKSUM),
        };
        footer.is_plausible(file_bytes).then_some(footer).ok_or("the compressed segment's footer contradicts its file")
    }

    fn is_plausible(&self, file_bytes: u64) -> bool {
        let (least, most) = BLOCK_BYTES_RANGE;
        let tables_end = file_bytes.checked_sub(footer::FOOTER_BYTES as u64);
        self.plain_bytes >= START
            && self.plain_bytes < 1 << 62
            && (least..=most).contains(&self.block_bytes)
            && (self.block_bytes as usize).is_multiple_of(FRAME_ALIGN)
            && self.dictionary_bytes <= DICTIONARY_BYTES_MAX
            && u32::try_from(self.blocks()).is_ok()
            && self.blocks_start() <= self.table_offset
            && self.table_offset.checked_add(self.table_bytes()) == tables_end
    }

    /// Where the first compressed block begins.
    pub(super) fn blocks_start(&self) -> u64 {
        START + u64::from(self.dictionary_bytes)
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> u64 {
        (self.plain_bytes - START).div_ceil(u64::from(self.block_bytes))
    }

    fn table_bytes(&self) -> u64 {
        self.blocks().div_ceil(u64::from(table_page::ENTRIES)) * table_page::PAGE_BYTES as u64
    }
}
