//! Compressed generations of sealed segments.
//!
//! What a compressed segment reads as are the bytes of the original behind its header: frames, LSNs, salt, checksums and
//! chain stay as they are. So whatever reads segments reads compressed ones, through [`CompressedFile`].

mod ahead;
mod cache;
mod closed;
mod file;
mod layout;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use uuid::Uuid;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

pub use closed::Compression;
pub(crate) use closed::compress_closed;
pub(crate) use file::CompressedFile;
use layout::{BLOCK_BYTES, BlockEntry, Footer, START};
#[cfg(test)]
pub(crate) use layout::{BLOCK_BYTES_RANGE, BLOCK_EXTRA_BYTES_MAX, DICTIONARY_BYTES_MAX, block_entry, footer, table_page};

use super::format::{SegmentHeader, checksum, encoding};
use super::segment::{Segment, file_name, temporary_name};
use super::storage::{Access, Storage, StorageFile, read_exact_at};
use crate::error::{Error, Result};

/// The level of zstd: the next ones take twice as long and save one part in a hundred.
const LEVEL: i32 = 5;
/// How long a dictionary is at most. Longer ones make nothing smaller.
const DICTIONARY_BYTES: u64 = 32 << 10;
/// A dictionary is at most one part in so many of the segment.
const DICTIONARY_SHARE: u64 = 32;
/// A dictionary is made from samples of this length, and from how much in all.
const SAMPLE_BYTES: (u64, u64) = (4 << 10, 4 << 20);
/// How much is read and written at once.
const COPY_BYTES: usize = 256 << 10;
/// What does not become smaller than so many per cent is left as it is.
const WORTH_PERCENT: u64 = 90;

/// A place of a compressed segment that cannot be read, as an error of reading. Offsets are those of what was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    /// Where something that may be whole begins again.
    pub(crate) end: u64,
    pub(crate) reason: &'static str,
}

impl Damage {
    /// The damage that an error of reading reports; `None` if it is the system that failed.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for Damage {}

impl From<Damage> for io::Error {
    fn from(damage: Damage) -> Self {
        Self::new(io::ErrorKind::InvalidData, damage)
    }
}

/// Asked between blocks: whether to stop.
pub(crate) type Stop<'a> = dyn Fn() -> bool + 'a;

/// What came of compressing a segment.
#[derive(Debug)]
pub(crate) enum Compressed {
    /// A file under a temporary name, synced, decoded and compared with the original.
    Prepared(Prepared),
    /// It did not become small enough to be worth it; there is no file.
    NotWorthIt,
    /// It was stopped; there is no file.
    Stopped,
}

/// A new generation of a segment, which nothing names yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The header of the new generation.
    pub(crate) header: SegmentHeader,
    /// The name that it gets.
    pub(crate) name: String,
    /// How long the segment is.
    pub(crate) plain_bytes: u64,
    /// How long the new file is.
    pub(crate) file_bytes: u64,
}

impl Prepared {
    /// Gives it its name, durably. It counts only once the manifest names it.
    pub(crate) fn publish(&self, storage: &dyn Storage) -> io::Result<()> {
        storage.rename(&temporary_name(&self.name), &self.name)?;
        storage.sync_directory("")
    }
}

/// Makes a compressed generation of a sealed segment under a temporary name, and proves that it reads as the original does. It ends
/// early when it is told to stop, which is asked between blocks.
///
/// # Errors
/// [`Corruption`](Error::Corruption) if the original cannot be read, [`Io`](Error::Io). No file is left, unless removing it
/// fails too; then the next open does it.
pub(crate) fn compress(storage: &dyn Storage, segment: &Segment, stop: &Stop<'_>) -> Result<Compressed> {
    let header = next_generation(segment, encoding::BLOCKS);
    rewrite(storage, segment, &header, stop, |temporary, header| {
        let Some(written) = write_compressed(&*temporary, segment, header, stop)? else { return Ok(Compressed::Stopped) };
        if written.file_bytes >= written.plain_bytes / 100 * WORTH_PERCENT {
            return Ok(Compressed::NotWorthIt);
        }
        temporary.sync()?;
        Ok(Compressed::Prepared(written))
    })
}

/// Makes a plain generation of a segment, as far as `plain_bytes`, under a temporary name: what can be cut and written to. From now
/// on it is a segment of the store `store_id` alone, whatever store has made it.
///
/// # Errors
/// Those of [`compress`].
pub(crate) fn unpack(storage: &dyn Storage, segment: &Segment, plain_bytes: u64, store_id: Uuid) -> Result<Prepared> {
    let header = SegmentHeader { store_id, ..next_generation(segment, encoding::PLAIN) };
    let unpacked = rewrite(storage, segment, &header, &|| false, |temporary, header| {
        temporary.write_at(&header.encode(), 0)?;
        let mut source = Source::new(&*segment.file, plain_bytes);
        while let Some((at, bytes)) = source.next(COPY_BYTES)? {
            temporary.write_at(bytes, at)?;
        }
        temporary.sync()?;
        let name = file_name(header.sequence, header.generation);
        Ok(Compressed::Prepared(Prepared { header: *header, name, plain_bytes, file_bytes: plain_bytes }))
    })?;
    match unpacked {
        Compressed::Prepared(prepared) => Ok(prepared),
        Compressed::NotWorthIt | Compressed::Stopped => Err(Error::configuration("what is not compressed is always worth it")),
    }
}

/// The header of a segment's next generation.
fn next_generation(segment: &Segment, encoding: u32) -> SegmentHeader {
    SegmentHeader { generation: segment.header.generation + 1, encoding, ..segment.header }
}

/// Writes another generation of a segment, and compares it with the original.
fn rewrite(
    storage: &dyn Storage,
    segment: &Segment,
    header: &SegmentHeader,
    stop: &Stop<'_>,
    write: impl FnOnce(Arc<dyn StorageFile>, &SegmentHeader) -> io::Result<Compressed>,
) -> Result<Compressed> {
    let temporary = temporary_name(&file_name(header.sequence, header.generation));
    let file = storage.create(&temporary).map_err(|error| Error::io("create", storage.path().join(&temporary), &error))?;
    let rewritten = write(file, header).and_then(|compressed| match &compressed {
        Compressed::Prepared(prepared) if !compare(storage, segment, prepared, stop)? => Ok(Compressed::Stopped),
        _ => Ok(compressed),
    });
    if !matches!(rewritten, Ok(Compressed::Prepared(_))) {
        // The file was never anything; should removing it fail too, the next open does it.
        let _ = storage.remove(&temporary);
    }
    rewritten.map_err(|error| segment.io("rewrite", &error))
}

/// What follows a segment's header, piece by piece.
struct Source<'a> {
    file: &'a dyn StorageFile,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
}

impl<'a> Source<'a> {
    fn new(file: &'a dyn StorageFile, end: u64) -> Self {
        Self { file, at: START, end, buffer: Vec::new() }
    }

    /// The next so many bytes, fewer at the end, and where they stand.
    fn next(&mut self, bytes: usize) -> io::Result<Option<(u64, &[u8])>> {
        let count = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(bytes);
        if count == 0 {
            return Ok(None);
        }
        self.buffer.resize(count, 0);
        read_exact_at(self.file, &mut self.buffer, self.at)?;
        let at = self.at;
        self.at += count as u64;
        Ok(Some((at, &self.buffer)))
    }
}

/// Writes what is compressed; nothing if it was stopped.
fn write_compressed(out: &dyn StorageFile, segment: &Segment, header: &SegmentHeader, stop: &Stop<'_>) -> io::Result<Option<Prepared>> {
    let seed = layout::blocks_seed(header);
    let plain_bytes = segment.file.length()?.max(START);
    let dictionary = train(&*segment.file, plain_bytes)?;
    let mut compressor = Compressor::with_dictionary(LEVEL, &dictionary)?;
    for parameter in [CParameter::ChecksumFlag(false), CParameter::ContentSizeFlag(false), CParameter::DictIdFlag(false)] {
        compressor.set_parameter(parameter)?;
    }
    let mut pending = header.encode();
    pending.extend_from_slice(&dictionary);
    let mut written = 0;
    let mut entries = Vec::new();
    let mut source = Source::new(&*segment.file, plain_bytes);
    while let Some((_, block)) = source.next(BLOCK_BYTES as usize)? {
        if stop() {
            return Ok(None);
        }
        let stored = compressor.compress(block)?;
        let number = u32::try_from(entries.len()).map_err(|_| io::Error::other("the segment has too many blocks"))?;
        entries.push(BlockEntry {
            offset: written + pending.len() as u64,
            bytes: u32::try_from(stored.len()).unwrap_or(u32::MAX),
            checksum: layout::block_checksum(seed, number, &stored),
        });
        pending.extend_from_slice(&stored);
        if pending.len() >= COPY_BYTES {
            out.write_at(&pending, written)?;
            written += pending.len() as u64;
            pending.clear();
        }
    }
    let footer = Footer {
        plain_bytes,
        table_offset: written + pending.len() as u64,
        block_bytes: BLOCK_BYTES,
        dictionary_bytes: u32::try_from(dictionary.len()).unwrap_or(u32::MAX),
        dictionary_checksum: checksum(seed, &dictionary),
    };
    pending.extend_from_slice(&layout::encode_table(seed, &entries));
    pending.extend_from_slice(&footer.encode(seed));
    out.write_at(&pending, written)?;
    let file_bytes = written + pending.len() as u64;
    Ok(Some(Prepared { header: *header, name: file_name(header.sequence, header.generation), plain_bytes, file_bytes }))
}

/// A dictionary for a segment, from samples all over it; empty if it is too short to be worth one.
fn train(file: &dyn StorageFile, plain_bytes: u64) -> io::Result<Vec<u8>> {
    let (sample, all) = SAMPLE_BYTES;
    let bytes = plain_bytes - START;
    let samples = (bytes / sample).min(all / sample);
    let length = DICTIONARY_BYTES.min(bytes / DICTIONARY_SHARE);
    let mut data = Vec::new();
    let mut sizes = Vec::new();
    for number in 0..samples {
        let at = START + bytes / sample * number / samples * sample;
        let start = data.len();
        data.resize(start + usize::try_from(sample).unwrap_or(0), 0);
        read_exact_at(file, &mut data[start..], at)?;
        sizes.push(data.len() - start);
    }
    // What has too little in common has no dictionary.
    Ok(zstd::dict::from_continuous(&data, &sizes, usize::try_from(length).unwrap_or(0)).unwrap_or_default())
}

/// Reads a new generation as every reader does, and compares each byte with the original; whether it came to the end.
fn compare(storage: &dyn Storage, segment: &Segment, prepared: &Prepared, stop: &Stop<'_>) -> io::Result<bool> {
    let unreadable = |error: io::Error| match Damage::of(&error) {
        Some(damage) => io::Error::other(format!("the new generation cannot be read: {damage}; the original is left as it is")),
        None => error,
    };
    let differs = |at: u64| io::Error::other(format!("the new generation differs from the original at byte {at}; the original is left as it is"));
    let file = storage.open(&temporary_name(&prepared.name), Access::Read)?;
    let mut head = vec![0; usize::try_from(START).unwrap_or(0)];
    read_exact_at(&*file, &mut head, 0)?;
    if SegmentHeader::decode(&head) != Ok(prepared.header) || file.length()? != prepared.file_bytes {
        return Err(differs(0));
    }
    let file: Arc<dyn StorageFile> = match prepared.header.encoding {
        encoding::BLOCKS => Arc::new(CompressedFile::open_aside(file, &prepared.header).map_err(unreadable)?),
        _ => file,
    };
    if file.length()? != prepared.plain_bytes {
        return Err(differs(prepared.plain_bytes));
    }
    let mut source = Source::new(&*segment.file, prepared.plain_bytes);
    let mut bytes = Vec::new();
    while let Some((at, original)) = source.next(COPY_BYTES)? {
        if stop() {
            return Ok(false);
        }
        bytes.resize(original.len(), 0);
        read_exact_at(&*file, &mut bytes, at).map_err(unreadable)?;
        if let Some(first) = bytes.iter().zip(original).position(|(one, other)| one != other) {
            return Err(differs(at + first as u64));
        }
    }
    Ok(true)
}
