//! Building frames: what the writer appends to the log.

use super::format::{FrameHeader, Kind, RecordEntry, TABLE_SEED, checksum, events_frame_room, frame_header, put, record_entry};

/// What a frame takes over from the state of the log when it is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameContext {
    pub(crate) seed: u32,
    pub(crate) lsn: u64,
    pub(crate) epoch: u32,
    pub(crate) base_position: u64,
    pub(crate) commit_time: i64,
    pub(crate) durable_upto: u64,
    pub(crate) previous: u32,
}

impl FrameContext {
    fn header(&self, kind: Kind, count: usize, body_bytes: usize, table_checksum: u32) -> FrameHeader {
        // Both counts were checked against the limits of a batch, which are far below 2^32.
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        FrameHeader {
            kind: kind as u8,
            flags: 0,
            lsn: self.lsn,
            epoch: self.epoch,
            count: narrow(count),
            base_position: self.base_position,
            commit_time: self.commit_time,
            durable_upto: self.durable_upto,
            previous: self.previous,
            body_bytes: narrow(body_bytes),
            table_checksum,
            checksum: 0,
        }
    }

    /// Completes a frame of events and gives its header's checksum. `frame` has room for the header and the table, then the
    /// bodies; body offsets and position deltas are filled in here.
    pub(crate) fn events(&self, frame: &mut Vec<u8>, entries: &[RecordEntry]) -> u32 {
        let table_end = events_frame_room(entries.len());
        let body_bytes = frame.len() - table_end;
        let table = &mut frame[frame_header::BYTES..table_end];
        let mut to_bodies = table.len();
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        for (index, (entry, place)) in entries.iter().zip(table.chunks_exact_mut(record_entry::BYTES)).enumerate() {
            let placed = RecordEntry { body_offset: narrow(to_bodies), position_delta: narrow(index), ..*entry };
            placed.encode(place);
            to_bodies = to_bodies - record_entry::BYTES + entry.body_bytes as usize;
        }
        // In a second pass: a sum right behind the writing would wait for the processor's pending writes.
        for entry in table.chunks_exact_mut(record_entry::BYTES) {
            let sum = checksum(self.seed, &entry[..record_entry::CHECKSUM]);
            put(entry, record_entry::CHECKSUM, sum.to_le_bytes());
        }
        let table_checksum = checksum(TABLE_SEED, table);
        self.finish(frame, 0, self.header(Kind::Events, entries.len(), body_bytes, table_checksum))
    }

    /// Appends a frame without events to `out` and gives its header's checksum.
    pub(crate) fn plain(&self, out: &mut Vec<u8>, kind: Kind, body: &[u8]) -> u32 {
        let start = out.len();
        out.resize(start + frame_header::BYTES, 0);
        out.extend_from_slice(body);
        self.finish(out, start, self.header(kind, 0, body.len(), checksum(TABLE_SEED, body)))
    }

    fn finish(&self, out: &mut Vec<u8>, start: usize, header: FrameHeader) -> u32 {
        let frame_bytes = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        out.resize(start + frame_bytes, 0);
        header.encode(self.seed, &mut out[start..start + frame_header::BYTES])
    }
}
