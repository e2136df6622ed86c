//! Generations of sealed segments from which records were taken out.
//!
//! What is taken out leaves its entry, with position, version and timestamp, and zeros as long as its body was: everything else keeps its
//! LSN, so that whatever knows a place goes on knowing it. Compressed, the zeros take no room. Headers and tables get new checksums,
//! and the chain of frames is one of its own; the seal keeps the anchor that the next segment continues.

use std::io;
use std::sync::Arc;

use super::compressed::{Compressed, Stop, compress};
use super::format::{
    BODY_SEED, FrameHeader, Kind, RecordEntry, SegmentHeader, TABLE_SEED, checksum, encode_seal, encoding, events_frame_room, frame_header, put,
    record_entry, seal_body,
};
use super::frame::FrameContext;
use super::manifest::ManifestSegment;
use super::open::first_chain;
use super::recovery::Frame;
use super::segment::{FIRST_FRAME, Segment, file_name, temporary_name};
use super::storage::{Access, Storage, StorageFile, read_exact_at};
use crate::error::{Error, Result};

/// How much is written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Whether a record is to be taken out, by its entry and body.
pub(crate) type Unwanted<'a> = dyn Fn(&RecordEntry, &[u8]) -> Result<bool> + 'a;

/// A generation without the records that were not wanted.
pub(crate) struct Scavenged {
    /// What the manifest is to say of it. It is there under its temporary name, synced.
    pub(crate) named: ManifestSegment,
    /// How many records were taken out.
    pub(crate) removed: u64,
    /// How long the new file is.
    pub(crate) file_bytes: u64,
}

/// How many records of a sealed segment are not wanted and there still.
///
/// # Errors
/// [`Corruption`](Error::Corruption) if the segment is not whole.
pub(crate) fn count_unwanted(named: &ManifestSegment, segment: &Segment, unwanted: &Unwanted<'_>) -> Result<u64> {
    let mut count = 0;
    scan_whole(named, segment, &mut |frame| {
        for (_, entry, body) in records(frame) {
            count += u64::from(!entry.is_removed() && unwanted(&entry, body)?);
        }
        Ok(())
    })?;
    Ok(count)
}

/// Makes a generation of a sealed segment without the records that are not wanted, under its temporary name, and proves that all others
/// are in it as they were. `None` if it was told to stop.
///
/// # Errors
/// [`Corruption`](Error::Corruption) if the segment is not whole, [`Io`](Error::Io). No file is left, unless removing it fails too; then the
/// next open does it.
pub(crate) fn scavenge(
    storage: &dyn Storage,
    named: &ManifestSegment,
    segment: &Segment,
    unwanted: &Unwanted<'_>,
    stop: &Stop<'_>,
) -> Result<Option<Scavenged>> {
    let header = SegmentHeader { generation: named.generation + 1, encoding: encoding::PLAIN, ..segment.header };
    let name = file_name(header.sequence, header.generation);
    let temporary = temporary_name(&name);
    let path = storage.path().join(&temporary);
    let file = storage.create(&temporary).map_err(|error| Error::io("create", &path, &error))?;
    let plain = Segment { header, name, path, file, seed: segment.seed };
    let made = make(storage, named, segment, &plain, unwanted, stop);
    if !matches!(&made, Ok(Some(made)) if made.named.generation == header.generation) {
        // It was a step on the way, or is nothing; should removing it fail, the next open does it.
        let _ = storage.remove(&temporary);
    }
    if let (Err(_) | Ok(None), later) = (&made, temporary_name(&file_name(header.sequence, header.generation + 1))) {
        let _ = storage.remove(&later);
    }
    made
}

fn make(
    storage: &dyn Storage,
    named: &ManifestSegment,
    segment: &Segment,
    plain: &Segment,
    unwanted: &Unwanted<'_>,
    stop: &Stop<'_>,
) -> Result<Option<Scavenged>> {
    let (removed, anchor) = write(named, segment, plain, unwanted)?;
    // The file that it becomes, which is read again as every reader reads it.
    let (generation, file_bytes, made) = match compress(storage, plain, stop)? {
        Compressed::Prepared(prepared) => {
            let name = temporary_name(&prepared.name);
            let attached = Segment::attach(storage, &name, Access::Read).map_err(|_| differs(segment, "the new generation cannot be opened"))?;
            (prepared.header.generation, prepared.file_bytes, Some(attached))
        }
        Compressed::NotWorthIt => {
            plain.file.sync().map_err(|error| plain.io("sync", &error))?;
            (plain.header.generation, plain.file.length().map_err(|error| plain.io("look up", &error))?, None)
        }
        Compressed::Stopped => return Ok(None),
    };
    compare(named, segment, (made.as_ref().unwrap_or(plain), anchor), unwanted)?;
    let named = ManifestSegment { generation, is_packed: true, digest: None, ..*named };
    Ok(Some(Scavenged { named, removed, file_bytes }))
}

/// Shows every frame of a sealed segment, but for the seal; the seal's anchor.
fn scan_whole(named: &ManifestSegment, segment: &Segment, visit: &mut dyn FnMut(&Frame<'_>) -> Result<()>) -> Result<u32> {
    let scan = segment.scan(&first_chain(&segment.header), &mut |_, frame| visit(frame))?;
    if let Some(seal) = scan.seal.filter(|_| Some(scan.chain.lsn) == named.end_lsn) {
        return Ok(seal.anchor);
    }
    let reason = scan.stopped.unwrap_or("the segment does not end where the manifest says");
    Err(segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason).into())
}

fn records<'a>(frame: &Frame<'a>) -> impl Iterator<Item = (usize, RecordEntry, &'a [u8])> + use<'a> {
    let count = if frame.header.kind == Kind::Events as u8 { frame.header.count as usize } else { 0 };
    frame.records().take(count)
}

/// Writes a segment's frames without what is not wanted; how many records were taken out, and the anchor in its seal.
fn write(named: &ManifestSegment, segment: &Segment, out: &Segment, unwanted: &Unwanted<'_>) -> Result<(u64, u32)> {
    let mut writing = Writing { file: &out.file, at: 0, pending: out.header.encode(), previous: segment.header.anchor, removed: 0 };
    let fail = |error: io::Error| out.io("write", &error);
    let anchor = scan_whole(named, segment, &mut |frame| {
        writing.frame(frame, segment.seed, unwanted)?;
        if writing.pending.len() >= WRITE_BYTES { writing.flush().map_err(fail) } else { Ok(()) }
    })?;
    let seal = seal_header(named, segment)?;
    let context = FrameContext {
        seed: segment.seed,
        lsn: seal.lsn,
        epoch: seal.epoch,
        base_position: seal.base_position,
        commit_time: seal.commit_time,
        durable_upto: seal.durable_upto,
        previous: writing.previous,
    };
    context.plain(&mut writing.pending, Kind::Seal, &encode_seal(anchor, seal.base_position));
    writing.flush().map_err(fail)?;
    Ok((writing.removed, anchor))
}

/// The header of the seal that a whole segment ends with.
fn seal_header(named: &ManifestSegment, segment: &Segment) -> Result<FrameHeader> {
    let mut bytes = [0; frame_header::BYTES];
    let lsn = named.end_lsn.unwrap_or(0).saturating_sub((frame_header::BYTES + seal_body::BYTES) as u64).max(segment.header.base_lsn);
    read_exact_at(&*segment.file, &mut bytes, segment.offset(lsn)).map_err(|error| segment.io("read", &error))?;
    let damaged = || segment.corruption(segment.offset(lsn), segment.header.base_position - 1, "the segment does not end in a seal");
    FrameHeader::decode(&bytes, segment.seed).filter(|header| header.kind == Kind::Seal as u8).ok_or_else(|| damaged().into())
}

struct Writing<'a> {
    file: &'a Arc<dyn StorageFile>,
    /// Where what is pending begins in the file.
    at: u64,
    pending: Vec<u8>,
    /// The header checksum of the last frame.
    previous: u32,
    removed: u64,
}

impl Writing<'_> {
    /// Adds a frame without what is not wanted.
    fn frame(&mut self, frame: &Frame<'_>, seed: u32, unwanted: &Unwanted<'_>) -> Result<()> {
        let start = self.pending.len();
        self.pending.extend_from_slice(frame.bytes);
        let bytes = &mut self.pending[start..];
        let mut header = FrameHeader { previous: self.previous, ..frame.header };
        let mut is_changed = false;
        for (at, entry, body) in records(frame) {
            if entry.is_removed() || !unwanted(&entry, body)? {
                continue;
            }
            let from = at + entry.body_offset as usize;
            let zeros = &mut bytes[from..from + body.len()];
            zeros.fill(0);
            let removed = removed(&entry, zeros);
            let place = &mut bytes[at..at + record_entry::BYTES];
            removed.encode(place);
            let sum = checksum(seed, &place[..record_entry::CHECKSUM]);
            put(place, record_entry::CHECKSUM, sum.to_le_bytes());
            self.removed += 1;
            is_changed = true;
        }
        if is_changed {
            header.table_checksum = checksum(TABLE_SEED, &bytes[frame_header::BYTES..events_frame_room(header.count as usize)]);
        }
        self.previous = header.encode(seed, &mut bytes[..frame_header::BYTES]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.pending, self.at)?;
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// The entry of a record when its body has become these zeros.
fn removed(entry: &RecordEntry, zeros: &[u8]) -> RecordEntry {
    RecordEntry { flags: entry.flags | record_entry::REMOVED, body_checksum: checksum(BODY_SEED, zeros), ..*entry }
}

/// Reads a new generation from end to end, and proves that it is the segment without what is not wanted, and nothing else.
fn compare(named: &ManifestSegment, segment: &Segment, (made, anchor): (&Segment, u32), unwanted: &Unwanted<'_>) -> Result<()> {
    let mut original = Vec::new();
    let sealed_with = scan_whole(named, made, &mut |frame| {
        original.resize(frame.bytes.len(), 0);
        let offset = segment.offset(frame.header.lsn);
        read_exact_at(&*segment.file, &mut original, offset).map_err(|error| segment.io("read", &error))?;
        let Some(header) = FrameHeader::decode(&original, segment.seed) else { return Err(differs(segment, "it has a frame that is not there")) };
        let before = Frame { header, bytes: &original };
        if !is_same(&before, frame, unwanted)? {
            return Err(differs(segment, "a frame of the new generation is another one"));
        }
        Ok(())
    })?;
    let same_ends = made.file.length().ok() == Some(FIRST_FRAME + named.end_lsn.unwrap_or(0) - segment.header.base_lsn);
    if !same_ends || sealed_with != anchor {
        return Err(differs(segment, "the new generation has another end"));
    }
    Ok(())
}

fn is_same(before: &Frame<'_>, after: &Frame<'_>, unwanted: &Unwanted<'_>) -> Result<bool> {
    let expected = FrameHeader {
        previous: after.header.previous,
        table_checksum: after.header.table_checksum,
        checksum: after.header.checksum,
        ..before.header
    };
    let room = events_frame_room(before.header.count as usize);
    if after.header != expected || before.bytes.len() != after.bytes.len() {
        return Ok(false);
    }
    if before.header.kind != Kind::Events as u8 {
        return Ok(before.bytes[room..] == after.bytes[room..]);
    }
    let mut end = room;
    for ((at, one, body), (_, other, left)) in records(before).zip(records(after)) {
        let wanted = one.is_removed() || !unwanted(&one, body)?;
        let same = if wanted { (one, body) == (other, left) } else { other == removed(&one, left) && left.iter().all(|byte| *byte == 0) };
        if !same || body.len() != left.len() {
            return Ok(false);
        }
        end = at + one.body_offset as usize + body.len();
    }
    Ok(before.bytes[end..] == after.bytes[end..])
}

fn differs(segment: &Segment, reason: &str) -> Error {
    segment.io("scavenge", &io::Error::other(format!("{reason}; the segment is left as it is")))
}
