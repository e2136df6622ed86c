//! The bare limits: the least that must be done to the same bytes, on the same file system.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Result;

/// The parts of `docs/file-format.md` that a bare reader needs.
pub mod layout {
    /// Length of a segment's header; the first frame follows.
    pub const SEGMENT_HEADER_BYTES: u64 = 4096;
    /// Where the salt is in a segment's header.
    pub const SALT: usize = 32;
    /// Frames begin at multiples of this.
    pub const ALIGN: usize = 8;
    /// The first bytes of a frame, as a number.
    pub const MAGIC: u32 = 0x4652_5645;
    /// Length of a frame's header.
    pub const HEADER_BYTES: usize = 64;
    /// Where the number of records is in it.
    pub const COUNT: usize = 20;
    /// Where the length of the bodies is.
    pub const BODY_BYTES: usize = 52;
    /// Where the table's checksum is.
    pub const TABLE_CHECKSUM: usize = 56;
    /// Where the header's own checksum is.
    pub const CHECKSUM: usize = 60;
    /// Length of an entry of the table of records.
    pub const ENTRY_BYTES: usize = 40;
    /// Where the length of a body is in it.
    pub const ENTRY_BODY_BYTES: usize = 4;
    /// Where the checksum of a body is.
    pub const ENTRY_BODY_CHECKSUM: usize = 8;
    /// Where the names begin in a body.
    pub const BODY_NAMES: usize = 36;
    /// The seeds of the checksums of bodies, tables and files.
    pub const SEEDS: (u32, u32, u32) = (0x4556_424F, 0x4556_5442, 0x4556_464C);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// A file that is written from front to back.
pub struct Writer {
    file: File,
    offset: u64,
    secured: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// A new file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, offset: 0, secured: 0, buffer: Vec::new() })
    }

    /// Copies, checksums and writes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn copy_sum_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(bytes);
        black_box(crc32fast::hash(&self.buffer));
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Writes into space that zeros were written to before, and syncs.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_synced(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.offset + bytes.len() as u64;
        if end > self.secured {
            let step = self.offset.clamp(64 << 10, 1 << 20).max(bytes.len() as u64);
            self.file.write_all_at(&vec![0; usize::try_from(step).unwrap_or(usize::MAX)], self.secured)?;
            self.secured += step;
        }
        self.file.write_all_at(bytes, self.offset)?;
        self.offset = end;
        self.file.sync_data()
    }

    /// Syncs.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The segment files of a closed store, in their order.
///
/// # Errors
/// Those of the file system.
pub fn segments(store: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

/// How many bytes these files have.
///
/// # Errors
/// Those of the file system.
pub fn bytes_of(segments: &[PathBuf]) -> Result<u64> {
    let mut bytes = 0;
    for path in segments {
        bytes += fs::metadata(path)?.len();
    }
    Ok(bytes)
}

/// Reads the files in blocks of 1 MiB and checksums each block: less than any reader that says which event is damaged can do.
///
/// # Errors
/// Those of the file system.
pub fn scan_blocks(segments: &[PathBuf]) -> Result<()> {
    let mut block = vec![0; 1 << 20];
    for path in segments {
        let file = File::open(path)?;
        let mut at = 0;
        loop {
            let read = file.read_at(&mut block, at)?;
            if read == 0 {
                break;
            }
            black_box(crc32fast::hash(&block[..read]));
            at += read as u64;
        }
    }
    Ok(())
}

/// Has the system forget what it holds of these files in memory.
///
/// # Errors
/// Those of the file system.
pub fn evict(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let file = File::open(path)?;
        // What is not on disk yet cannot be forgotten.
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Reads the files in blocks of 1 MiB and verifies every header, table and body, as `docs/file-format.md` has it: the bare
/// verified scan. Gives the number of events.
///
/// # Errors
/// Those of the file system; damage.
pub fn scan_frames(segments: &[PathBuf]) -> Result<u64> {
    let mut events = 0;
    let mut block = vec![0; 1 << 20];
    for path in segments {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        let seed = checksum(layout::SEEDS.2, &head[layout::SALT..layout::SALT + 8]);
        let (mut at, mut wanted) = (layout::SEGMENT_HEADER_BYTES, 0);
        while at < length {
            if block.len() < wanted {
                block.resize(wanted, 0);
            }
            let read = usize::try_from(length - at)?.min(block.len());
            file.read_exact_at(&mut block[..read], at)?;
            let mut used = 0;
            loop {
                match frame(&block[used..read], seed)? {
                    Ok((bytes, count)) => {
                        used += bytes;
                        events += count;
                    }
                    Err(more) => {
                        wanted = more;
                        break;
                    }
                }
            }
            if used == 0 && read == usize::try_from(length - at)? {
                return Err(format!("{} ends within a frame", path.display()).into());
            }
            at += used as u64;
        }
    }
    Ok(events)
}

/// Verifies the frame at the start of `bytes`: its length and number of events, or how many bytes it takes to tell.
fn frame(bytes: &[u8], seed: u32) -> Result<Result<(usize, u64), usize>> {
    use layout::{BODY_BYTES, CHECKSUM, COUNT, ENTRY_BODY_BYTES, ENTRY_BODY_CHECKSUM, ENTRY_BYTES, HEADER_BYTES, TABLE_CHECKSUM};
    if bytes.len() < HEADER_BYTES {
        return Ok(Err(HEADER_BYTES));
    }
    if u32_at(bytes, 0) != layout::MAGIC || checksum(seed, &bytes[..CHECKSUM]) != u32_at(bytes, CHECKSUM) {
        return Err("a frame's header does not match".into());
    }
    let count = u32_at(bytes, COUNT) as usize;
    let bodies = HEADER_BYTES + count * ENTRY_BYTES;
    let length = (bodies + u32_at(bytes, BODY_BYTES) as usize).next_multiple_of(layout::ALIGN);
    if bytes.len() < length {
        return Ok(Err(length));
    }
    let table = &bytes[HEADER_BYTES..bodies];
    if count > 0 && checksum(layout::SEEDS.1, table) != u32_at(bytes, TABLE_CHECKSUM) {
        return Err("a table of records does not match".into());
    }
    let mut at = bodies;
    for entry in table.chunks_exact(ENTRY_BYTES) {
        let end = at + u32_at(entry, ENTRY_BODY_BYTES) as usize;
        if checksum(layout::SEEDS.0, &bytes[at..end]) != u32_at(entry, ENTRY_BODY_CHECKSUM) {
            return Err("a record does not match".into());
        }
        at = end;
    }
    Ok(Ok((length, count as u64)))
}
