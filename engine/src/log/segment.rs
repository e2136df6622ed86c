//! Segment files: their names, how they are made, and what lies behind their last frame.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::compressed::{CompressedFile, Damage};
use super::format::{
    FORMAT_VERSION, FRAME_ALIGN, FrameHeader, HeadProblem, Kind, SegmentHeader, decode_seal, encoding, frame_header, seal_body, segment_header,
};
use super::recovery::{Chain, Step, later_headers, step};
use super::scan::Seal;
use super::storage::{Access, Space, Storage, StorageFile};
use crate::error::{Corruption, Error, Remedy, Result};
use crate::version::Position;
use uuid::Uuid;

/// How much is read at once behind the end of the chain.
const REST_BYTES: usize = 512 << 10;

/// An open segment file.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) seed: u32,
}

/// The name of a segment file: by sequence number and generation, never by position.
pub(crate) fn file_name(sequence: u64, generation: u32) -> String {
    format!("{sequence:09}.g{generation}.seg")
}

/// The sequence number and generation in a segment's file name; `None` if it is not one.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u32)> {
    let (sequence, rest) = name.split_once(".g")?;
    let generation = rest.strip_suffix(".seg")?;
    Some((padded(sequence, 9)?, u32::try_from(padded(generation, 1)?).ok()?))
}

/// A number of at least so many digits, as they are written in names.
fn padded(digits: &str, width: usize) -> Option<u64> {
    let is_padded = digits.len() == width || (digits.len() > width && !digits.starts_with('0'));
    if is_padded && digits.bytes().all(|digit| digit.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The name of a segment's index file, whichever generation the segment has.
pub(crate) fn index_name(sequence: u64) -> String {
    format!("{sequence:09}.idx")
}

/// The sequence number in an index file's name; `None` if it is not one.
pub(crate) fn parse_index_name(name: &str) -> Option<u64> {
    padded(name.strip_suffix(".idx")?, 9)
}

/// Why a segment file cannot be attached.
pub(crate) enum AttachProblem {
    /// There is no such file.
    Missing,
    /// Its header is damaged.
    Damaged(&'static str),
    /// It cannot be read, or is of a format that this release does not know.
    Error(Error),
}

impl Segment {
    /// Opens an existing segment and checks its header.
    pub(crate) fn attach(storage: &dyn Storage, name: &str, access: Access) -> Result<Self, AttachProblem> {
        let path = storage.path().join(name);
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => AttachProblem::Missing,
            _ => AttachProblem::Error(Error::io("open", &path, &error)),
        };
        let file = storage.open(name, access).map_err(fail)?;
        let mut bytes = vec![0; segment_header::BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(fail)?;
        let header = SegmentHeader::decode(&bytes[..read]).map_err(|problem| match problem {
            HeadProblem::Damaged(reason) => AttachProblem::Damaged(reason),
            HeadProblem::Version { found, readable_from } => {
                AttachProblem::Error(Error::FormatVersion { path: path.clone(), found, readable_from, supported: FORMAT_VERSION })
            }
        })?;
        let file = match header.encoding {
            encoding::PLAIN => file,
            encoding::BLOCKS => Arc::new(CompressedFile::open(file, &header).map_err(|error| match Damage::of(&error) {
                Some(damage) => AttachProblem::Damaged(damage.reason),
                None => fail(error),
            })?),
            unknown => {
                return Err(AttachProblem::Error(Error::Unsupported {
                    message: format!(
                        "{path:?} is stored in an encoding (number {unknown}) that only a newer release knows; open the store with that release"
                    ),
                }));
            }
        };
        Ok(Self { header, name: name.to_owned(), path, file, seed: header.seed() })
    }

    /// Prepares a new segment under a temporary name: header and space, synced.
    ///
    /// Only this step can run out of space, so it comes before anything is promised.
    pub(crate) fn prepare(storage: &dyn Storage, header: SegmentHeader, file_bytes: u64, space: Space) -> io::Result<Self> {
        let name = file_name(header.sequence, header.generation);
        let temporary = temporary_name(&name);
        let file = storage.create(&temporary)?;
        let written = file
            .write_at(&header.encode(), 0)
            .and_then(|()| file.secure_space(segment_header::BYTES as u64, file_bytes, space))
            .and_then(|()| file.sync());
        if let Err(error) = written {
            // The file was never anything; should removing it fail too, the next open does it.
            let _ = storage.remove(&temporary);
            return Err(error);
        }
        let path = storage.path().join(&name);
        Ok(Self { header, name, path, file, seed: header.seed() })
    }

    /// The same segment, once its file was let go of.
    pub(crate) fn without_file(&self) -> Self {
        Self { header: self.header, name: self.name.clone(), path: self.path.clone(), file: Arc::new(NoFile), seed: self.seed }
    }

    /// Gives a prepared segment its name, durably.
    pub(crate) fn publish(&self, storage: &dyn Storage) -> io::Result<()> {
        storage.rename(&temporary_name(&self.name), &self.name)?;
        storage.sync_directory("")
    }

    /// Where in the file the frame with this LSN is.
    pub(crate) fn offset(&self, lsn: u64) -> u64 {
        lsn - self.header.base_lsn + segment_header::BYTES as u64
    }

    /// The chain that this segment's first frame continues.
    pub(crate) fn chain_start(&self, before: &Chain) -> Chain {
        Chain { checksum: self.header.anchor, ..*before }
    }

    /// The damage at an LSN of this segment.
    pub(crate) fn corruption(&self, offset: u64, last_good: u64, reason: impl Into<String>) -> Corruption {
        Corruption {
            path: self.path.clone(),
            segment: self.header.sequence,
            offset,
            last_good_position: Position(last_good),
            next_good_position: None,
            reason: reason.into(),
            remedy: Remedy::ReadOrAcceptLoss,
        }
    }

    /// The seal that ends at an LSN where the file ends too, and the chain behind it; `None` if there is no such seal.
    pub(crate) fn seal(&self, end_lsn: u64) -> io::Result<Option<(Chain, Seal)>> {
        let mut bytes = [0; frame_header::BYTES + seal_body::BYTES];
        let length = self.file.length()?;
        let lsn = end_lsn.checked_sub(bytes.len() as u64).filter(|lsn| *lsn >= self.header.base_lsn && length == self.offset(end_lsn));
        let Some(lsn) = lsn else { return Ok(None) };
        if self.file.read_at(&mut bytes, self.offset(lsn))? < bytes.len() {
            return Ok(None);
        }
        let Some(header) = FrameHeader::decode(&bytes, self.seed) else { return Ok(None) };
        let before = Chain {
            lsn,
            position: header.base_position,
            checksum: header.previous,
            epoch: header.epoch,
            commit_time: header.commit_time,
            durable_upto: header.durable_upto,
        };
        let Step::Frame(frame) = step(&bytes, true, self.seed, &before) else { return Ok(None) };
        let seal = decode_seal(frame.body()).map(|(anchor, end_position)| Seal { anchor, end_position });
        // In a rewritten segment the frames' checksums may be others, and the anchor stays what it was.
        let anchored = |seal: &Seal| seal.anchor == before.checksum || self.header.generation > 0;
        let seal = seal.filter(|seal| header.kind == Kind::Seal as u8 && anchored(seal) && seal.end_position == before.position);
        Ok(seal.map(|seal| (before.after(&header), seal)))
    }

    /// Wraps what the system said about this file, or the damage that reading it came upon.
    pub(crate) fn io(&self, operation: &'static str, error: &io::Error) -> Error {
        match Damage::of(error) {
            // What is known to be good lies at least in the segments before this one.
            Some(damage) => self.corruption(damage.offset, self.header.base_position - 1, damage.reason).into(),
            None => Error::io(operation, &self.path, error),
        }
    }

    /// Fills `buffer` as far as the file reaches or is whole.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<Bytes> {
        let damage = match self.file.read_at(buffer, offset) {
            Ok(read) => return Ok(Bytes { read, damage: None }),
            Err(error) => Damage::of(&error).ok_or_else(|| self.io("read", &error))?,
        };
        let whole = usize::try_from(damage.offset.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let read = if whole == 0 { 0 } else { self.file.read_at(&mut buffer[..whole], offset).map_err(|error| self.io("read", &error))? };
        Ok(Bytes { read, damage: Some(damage) })
    }

    /// What lies behind the end of the chain, up to the end of the file.
    pub(crate) fn rest(&self, end_lsn: u64) -> Result<Rest> {
        let start = self.offset(end_lsn);
        let mut rest = Rest::default();
        let mut at = start;
        let mut bytes = vec![0; REST_BYTES];
        loop {
            let Bytes { read, damage } = self.read_at(&mut bytes, at)?;
            if let Some(last) = bytes[..read].iter().rposition(|byte| *byte != 0) {
                rest.bytes = at + last as u64 + 1 - start;
            }
            for (_, header) in later_headers(&bytes[..read], self.header.salt) {
                rest.note(&header);
            }
            if let Some(damage) = damage {
                rest.bytes = damage.end - start;
                at = damage.end;
                continue;
            }
            if read < bytes.len() {
                return Ok(rest);
            }
            // The next block repeats what a header across the border needs.
            at += bytes.len() as u64 - (frame_header::BYTES - FRAME_ALIGN) as u64;
        }
    }
}

/// What reading has brought.
pub(crate) struct Bytes {
    /// How many bytes.
    pub(crate) read: usize,
    /// What kept it from going on, if it was not the end of the file.
    pub(crate) damage: Option<Damage>,
}

/// The header of a new segment that goes on from `chain`.
pub(crate) fn new_segment(store_id: Uuid, sequence: u64, epoch: u32, chain: &Chain, anchor: u32) -> SegmentHeader {
    let salt = Uuid::new_v4().as_u64_pair();
    SegmentHeader {
        store_id,
        salt: salt.0 ^ salt.1,
        sequence,
        generation: 0,
        epoch,
        base_lsn: chain.lsn,
        base_position: chain.position,
        anchor,
        encoding: encoding::PLAIN,
    }
}

/// The name under which a segment is prepared.
pub(crate) fn temporary_name(name: &str) -> String {
    format!("{name}.tmp")
}

/// In place of a file that was let go of.
struct NoFile;

impl NoFile {
    fn refuse<T>() -> io::Result<T> {
        Err(io::Error::other("the store is closed"))
    }
}

impl StorageFile for NoFile {
    fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Self::refuse()
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Self::refuse()
    }

    fn sync(&self) -> io::Result<()> {
        Self::refuse()
    }

    fn length(&self) -> io::Result<u64> {
        Self::refuse()
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        Self::refuse()
    }

    fn secure_space(&self, _start: u64, _end: u64, _space: Space) -> io::Result<()> {
        Self::refuse()
    }
}

/// What lies behind the end of the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// How many bytes, up to the last that is not zero.
    pub(crate) bytes: u64,
    /// How many frame headers were recognized.
    pub(crate) frames: u64,
    /// The largest `durable_upto` among them.
    pub(crate) durable_upto: u64,
    /// The largest epoch among them.
    pub(crate) epoch: u32,
    /// The position of the first event among them.
    pub(crate) next_good_position: Option<u64>,
}

impl Rest {
    fn note(&mut self, header: &FrameHeader) {
        self.frames += 1;
        self.durable_upto = self.durable_upto.max(header.durable_upto);
        self.epoch = self.epoch.max(header.epoch);
        if header.count > 0 && self.next_good_position.is_none() {
            self.next_good_position = Some(header.base_position);
        }
    }
}

/// Where a segment's frames begin.
pub(crate) const FIRST_FRAME: u64 = segment_header::BYTES as u64;
