//! A compressed segment as a file of the bytes that were compressed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zstd::zstd_safe::DDict;

use super::Damage;
use super::cache::{Cache, Decoder, Dictionary, Kept, Part};
use super::layout::{self, BlockEntry, Footer, START, footer, table_page};
use crate::log::format::{SegmentHeader, checksum};
use crate::log::storage::{Space, StorageFile};

/// Room for a dictionary, a page of the table and a few blocks.
const ASIDE_BYTES: usize = 1 << 20;

/// Who reads so much at once reads on.
const LONG_BYTES: usize = 64 << 10;
/// How much is decoded ahead of who reads on.
const AHEAD_BYTES: u64 = 512 << 10;

/// Reads like the segment that was compressed; only its header is its own.
pub(crate) struct CompressedFile {
    blocks: Arc<Blocks>,
    /// Where the last long read began; nothing is decoded ahead of who reads backwards.
    long_read_at: AtomicU64,
}

/// The compressed blocks of a file.
struct Blocks {
    file: Arc<dyn StorageFile>,
    footer: Footer,
    seed: u32,
    cache: Arc<Cache>,
    number: u64,
}

impl CompressedFile {
    /// Reads and checks the footer of a file whose segment header says that it is compressed.
    pub(crate) fn open(file: Arc<dyn StorageFile>, header: &SegmentHeader) -> io::Result<Self> {
        Self::open_with(file, header, Cache::shared())
    }

    /// The same, with a small cache of its own: what is read once takes no room from what others read.
    pub(super) fn open_aside(file: Arc<dyn StorageFile>, header: &SegmentHeader) -> io::Result<Self> {
        Self::open_with(file, header, Arc::new(Cache::new(ASIDE_BYTES)))
    }

    pub(super) fn open_with(file: Arc<dyn StorageFile>, header: &SegmentHeader, cache: Arc<Cache>) -> io::Result<Self> {
        let seed = layout::blocks_seed(header);
        let length = file.length()?;
        let mut bytes = [0; footer::FOOTER_BYTES];
        let read = match length.checked_sub(footer::FOOTER_BYTES as u64) {
            Some(at) => file.read_at(&mut bytes, at)?,
            None => 0,
        };
        let footer = Footer::decode(&bytes[..read], seed, length).map_err(|reason| Damage { offset: 0, end: u64::MAX, reason })?;
        let number = cache.file_number();
        Ok(Self { blocks: Arc::new(Blocks { file, footer, seed, cache, number }), long_read_at: AtomicU64::new(0) })
    }

    /// Has what follows `end` decoded.
    fn decode_ahead(&self, end: u64) {
        let mut at = end;
        while at < (end + AHEAD_BYTES).min(self.blocks.footer.plain_bytes) {
            let (number, start, length) = self.blocks.block_at(at);
            let blocks = Arc::clone(&self.blocks);
            self.blocks.cache.ahead.ask((self.blocks.number, number), length, move || {
                let mut bytes = vec![0; length];
                blocks.decode(number, start, &mut bytes).ok().map(|()| bytes)
            });
            at = start + length as u64;
        }
    }
}

impl Blocks {
    /// The block that holds an offset: its number, where it begins, and how much is in it.
    fn block_at(&self, offset: u64) -> (u32, u64, usize) {
        let block_bytes = u64::from(self.footer.block_bytes);
        let number = (offset - START) / block_bytes;
        let start = START + number * block_bytes;
        let length = block_bytes.min(self.footer.plain_bytes - start);
        // Both fit: the footer was checked.
        (u32::try_from(number).unwrap_or(u32::MAX), start, usize::try_from(length).unwrap_or(0))
    }

    /// Copies what follows `offset`, as far as its block reaches; how much that was.
    fn read_in_block(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let (number, start, length) = self.block_at(offset);
        let within = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let count = out.len().min(length - within);
        if let Some(Kept::Bytes(block)) = self.cache.get(self.number, Part::Block(number)) {
            out[..count].copy_from_slice(&block[within..within + count]);
        } else if let Some(block) = self.cache.ahead.take((self.number, number)) {
            out[..count].copy_from_slice(&block[within..within + count]);
            if count < length {
                self.cache.put(self.number, Part::Block(number), Kept::Bytes(block.into()));
            }
        } else if count == length {
            // Whoever reads whole blocks reads on, and does not come back.
            self.decode(number, start, &mut out[..length])?;
        } else {
            let mut block = vec![0; length];
            self.decode(number, start, &mut block)?;
            out[..count].copy_from_slice(&block[within..within + count]);
            self.cache.put(self.number, Part::Block(number), Kept::Bytes(block.into()));
        }
        Ok(count)
    }

    /// Reads, verifies and decompresses a block that begins at `start`.
    fn decode(&self, number: u32, start: u64, out: &mut [u8]) -> io::Result<()> {
        let end = start + out.len() as u64;
        let damaged = |reason| Damage { offset: start, end, reason };
        let entry = self.entry(number, start)?;
        let length_max = self.footer.block_bytes + layout::BLOCK_EXTRA_BYTES_MAX;
        let within = entry.offset >= self.footer.blocks_start()
            && entry.offset.checked_add(u64::from(entry.bytes)).is_some_and(|end| end <= self.footer.table_offset);
        if !within || entry.bytes > length_max {
            return Err(damaged("the table of compressed blocks contradicts its file").into());
        }
        let dictionary = self.dictionary(start)?;
        self.cache.with_decoder(|Decoder { context, stored }| {
            stored.resize(entry.bytes as usize, 0);
            if self.file.read_at(stored, entry.offset)? < stored.len() {
                return Err(damaged("the file ends within this compressed block").into());
            }
            if layout::block_checksum(self.seed, number, stored) != entry.checksum {
                return Err(damaged("the compressed block does not match its checksum").into());
            }
            let decoded = match &*dictionary {
                Some(dictionary) => context.decompress_using_ddict(out, stored, dictionary),
                None => context.decompress(out, stored),
            };
            if decoded == Ok(out.len()) { Ok(()) } else { Err(damaged("the compressed block cannot be decompressed").into()) }
        })
    }

    fn entry(&self, block: u32, start: u64) -> io::Result<BlockEntry> {
        let (number, index) = (block / table_page::ENTRIES, (block % table_page::ENTRIES) as usize);
        if let Some(Kept::Bytes(page)) = self.cache.get(self.number, Part::TablePage(number)) {
            return Ok(BlockEntry::in_page(&page, index));
        }
        let mut page = vec![0; table_page::PAGE_BYTES];
        let at = self.footer.table_offset + u64::from(number) * table_page::PAGE_BYTES as u64;
        let read = self.file.read_at(&mut page, at)?;
        if !layout::is_table_page(self.seed, number, &page[..read]) {
            let blocks = u64::from(table_page::ENTRIES) - index as u64;
            let end = (start + blocks * u64::from(self.footer.block_bytes)).min(self.footer.plain_bytes);
            return Err(Damage { offset: start, end, reason: "the table of compressed blocks does not match its checksum" }.into());
        }
        let entry = BlockEntry::in_page(&page, index);
        self.cache.put(self.number, Part::TablePage(number), Kept::Bytes(page.into()));
        Ok(entry)
    }

    fn dictionary(&self, start: u64) -> io::Result<Arc<Dictionary>> {
        if let Some(Kept::Dictionary(dictionary, _)) = self.cache.get(self.number, Part::Dictionary) {
            return Ok(dictionary);
        }
        let mut bytes = vec![0; self.footer.dictionary_bytes as usize];
        let read = self.file.read_at(&mut bytes, START)?;
        let prepared = match (read == bytes.len() && checksum(self.seed, &bytes) == self.footer.dictionary_checksum, bytes.is_empty()) {
            (true, true) => Some(None),
            (true, false) => DDict::try_create(&bytes).map(Some),
            (false, _) => None,
        };
        let Some(prepared) = prepared else {
            // Without it no block can be read.
            return Err(Damage {
                offset: start,
                end: self.footer.plain_bytes,
                reason: "the dictionary of the compressed segment does not match its checksum",
            }
            .into());
        };
        let dictionary = Arc::new(prepared);
        self.cache.put(self.number, Part::Dictionary, Kept::Dictionary(Arc::clone(&dictionary), bytes.len()));
        Ok(dictionary)
    }
}

fn unchangeable<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a compressed segment is never changed"))
}

impl StorageFile for CompressedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let blocks = &*self.blocks;
        let wanted = usize::try_from(blocks.footer.plain_bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        if wanted >= LONG_BYTES && offset >= self.long_read_at.swap(offset, Ordering::Relaxed) && blocks.file.may_be_read_ahead() {
            self.decode_ahead((offset + wanted as u64).max(START));
        }
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let out = &mut buffer[done..wanted];
            done += if at < START {
                let count = usize::try_from(START - at).unwrap_or(usize::MAX).min(out.len());
                match blocks.file.read_at(&mut out[..count], at)? {
                    0 => return Err(Damage { offset: at, end: START, reason: "the file ends within the segment's header" }.into()),
                    read => read,
                }
            } else {
                blocks.read_in_block(out, at)?
            };
        }
        Ok(done)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        unchangeable()
    }

    fn sync(&self) -> io::Result<()> {
        self.blocks.file.sync()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.blocks.footer.plain_bytes)
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        unchangeable()
    }

    fn secure_space(&self, _start: u64, _end: u64, _space: Space) -> io::Result<()> {
        unchangeable()
    }
}
