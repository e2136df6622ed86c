//! What is left of a damaged frame: the records whose own checksums match.

use std::ops::Range;

use super::source::{Source, read_tolerantly};
use crate::log::format::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BODY_SEED, RecordEntry, checksum, frame_header, record_entry};

/// Records of a damaged frame, those whose entry in its table is whole.
pub(super) struct Rescued {
    /// Their bodies.
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<Record>,
    /// When they were committed, or later events if that is not known.
    pub(super) commit_time: i64,
}

/// A record of a damaged frame.
pub(super) struct Record {
    pub(super) position: u64,
    pub(super) entry: RecordEntry,
    /// Where its body is in the bytes.
    pub(super) body: Range<usize>,
    /// Where its body is in the file.
    pub(super) offset: u64,
    /// Whether the body matches its checksum.
    pub(super) is_whole: bool,
}

impl Rescued {
    /// The runs of records with damaged bodies, by offset, length and positions; nothing unless that is all that is wrong
    /// with the frame's `count` records.
    pub(super) fn damaged_runs(&self, count: u32) -> Vec<(u64, u64, (u64, u64))> {
        let mut runs: Vec<(u64, u64, (u64, u64))> = Vec::new();
        if self.records.len() != count as usize {
            return runs;
        }
        for record in self.records.iter().filter(|record| !record.is_whole) {
            let length = u64::from(record.entry.body_bytes);
            match runs.last_mut() {
                Some((offset, long, (_, end))) if *end == record.position => {
                    *end += 1;
                    *long = record.offset + length - *offset;
                }
                _ => runs.push((record.offset, length, (record.position, record.position + 1))),
            }
        }
        runs
    }
}

/// Looks for the records of a frame that begins at `offset`, reaches no further than `length` bytes and has no more than
/// `events_max` events, the first of them at `base_position`.
pub(super) fn rescue(source: &Source, offset: u64, length: u64, base_position: u64, events_max: u64, commit_time: i64) -> Rescued {
    let mut rescued = Rescued { bytes: Vec::new(), records: Vec::new(), commit_time };
    let events_max = usize::try_from(events_max).unwrap_or(usize::MAX).min(BATCH_EVENTS_MAX);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(frame_header::BYTES + BATCH_EVENTS_MAX * record_entry::BYTES + BATCH_BYTES_MAX);
    let table_end = (frame_header::BYTES + events_max * record_entry::BYTES).min(length);
    let mut table = vec![0; table_end.saturating_sub(frame_header::BYTES)];
    let Ok((read, _)) = read_tolerantly(&*source.file, &mut table, offset + frame_header::BYTES as u64) else { return rescued };
    // Bodies lie in the order of their entries, so that none is read twice.
    let mut bodies_from = 0;
    for (index, bytes) in table[..read].chunks_exact(record_entry::BYTES).enumerate() {
        let at = frame_header::BYTES + index * record_entry::BYTES;
        let Some(entry) = RecordEntry::decode(bytes, source.seed).filter(|entry| entry.position_delta as usize == index && !entry.is_unknown())
        else {
            continue;
        };
        let start = at + entry.body_offset as usize;
        let end = start + entry.body_bytes as usize;
        if start < bodies_from.max(at + record_entry::BYTES) || end > length {
            continue;
        }
        bodies_from = end;
        let body = rescued.bytes.len()..rescued.bytes.len() + entry.body_bytes as usize;
        rescued.bytes.resize(body.end, 0);
        let place = offset + start as u64;
        let read = read_tolerantly(&*source.file, &mut rescued.bytes[body.clone()], place);
        let is_whole = read.is_ok_and(|(read, _)| read == body.len()) && checksum(BODY_SEED, &rescued.bytes[body.clone()]) == entry.body_checksum;
        rescued.records.push(Record { position: base_position + index as u64, entry, body, offset: place, is_whole });
    }
    rescued
}
