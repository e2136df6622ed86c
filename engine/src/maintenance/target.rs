//! Writing the store that is saved to: the same records in new frames.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::log::format::{Kind, RecordEntry, SegmentHeader, TAIL_RESERVE, encode_seal, events_frame_bytes};
use crate::log::frame::FrameContext;
use crate::log::lineage::Lineage;
use crate::log::manifest::{MANIFEST, Manifest, ManifestSegment};
use crate::log::open::named;
use crate::log::recovery::Chain;
use crate::log::segment::{FIRST_FRAME, Segment, new_segment};
use crate::log::storage::{Space, Storage};
use crate::log::watermark::{Mark, WATERMARK, Watermark};

/// How large a segment grows before the next one is begun.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How much is written at once.
const WRITE_BYTES: usize = 1 << 20;
/// The epoch of all frames.
const EPOCH: u32 = 1;

/// A store that is written from its first event to its last, and is none before it is finished.
pub(super) struct Target<'a> {
    storage: &'a dyn Storage,
    store_id: Uuid,
    segment: Arc<Segment>,
    sealed: Vec<ManifestSegment>,
    chain: Chain,
    /// Frames that are not written yet, and the LSN of the first.
    frames: Vec<u8>,
    written_lsn: u64,
}

impl<'a> Target<'a> {
    pub(super) fn create(storage: &'a dyn Storage) -> Result<Self> {
        let store_id = Uuid::new_v4();
        let chain = Chain { lsn: 0, position: 1, checksum: 0, epoch: 0, commit_time: i64::MIN, durable_upto: 0 };
        let segment = begin_segment(storage, new_segment(store_id, 1, 0, &chain, 0))?;
        Ok(Self { storage, store_id, segment, sealed: Vec::new(), chain, frames: Vec::new(), written_lsn: 0 })
    }

    pub(super) fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// Appends a frame, which has room for its header and table before the bodies. Their versions and times are in the entries.
    pub(super) fn append(&mut self, commit_time: i64, entries: &[RecordEntry], frame: &mut Vec<u8>) -> Result<()> {
        let bodies = entries.iter().map(|entry| entry.body_bytes as usize).sum();
        let needed = events_frame_bytes(entries.len(), bodies) + TAIL_RESERVE;
        let is_first = self.chain.lsn == self.segment.header.base_lsn;
        if !is_first && self.segment.offset(self.chain.lsn) + needed > SEGMENT_BYTES {
            self.roll()?;
        }
        self.chain.commit_time = commit_time.max(self.chain.commit_time);
        self.begin_epoch();
        let checksum = self.context().events(frame, entries);
        if frame.len() >= WRITE_BYTES {
            // It is not held twice.
            self.write()?;
            let offset = self.segment.offset(self.chain.lsn);
            self.segment.file.write_at(frame, offset).map_err(|error| self.io(&error, frame.len()))?;
            self.extend(frame.len(), entries.len() as u64, checksum);
            self.written_lsn = self.chain.lsn;
            return Ok(());
        }
        self.frames.extend_from_slice(frame);
        self.extend(frame.len(), entries.len() as u64, checksum);
        if self.frames.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    /// Completes the store: everything on disk, the manifest last.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.chain.epoch > 0 {
            self.plain(Kind::Close, &[]);
        }
        self.write()?;
        self.segment.file.sync().map_err(|error| self.segment.io("sync", &error))?;
        let mark = Mark {
            epoch: self.chain.epoch,
            segment: self.segment.header.sequence,
            durable_lsn: self.chain.lsn,
            visible_lsn: self.chain.lsn,
            durable_position: self.chain.position - 1,
            visible_position: self.chain.position - 1,
        };
        let io = |operation, name: &str, error: &io::Error| Error::io(operation, self.storage.path().join(name), error);
        let mut watermark = Watermark::open(self.storage, self.store_id).map_err(|error| io("create", WATERMARK, &error))?;
        watermark.write_durably(&mark).map_err(|error| io("write", WATERMARK, &error))?;
        let mut segments = self.sealed;
        segments.push(named(&self.segment.header, None));
        let manifest = Manifest { store_id: self.store_id, lineage: Lineage::default(), epoch: self.chain.epoch, segments, scavenged: 0 };
        manifest.replace(self.storage).map_err(|error| io("write", MANIFEST, &error))
    }

    fn begin_epoch(&mut self) {
        if self.chain.epoch == 0 {
            self.chain.epoch = EPOCH;
            self.plain(Kind::Epoch, &[]);
        }
    }

    fn context(&self) -> FrameContext {
        FrameContext {
            seed: self.segment.seed,
            lsn: self.chain.lsn,
            epoch: self.chain.epoch,
            base_position: self.chain.position,
            commit_time: self.chain.commit_time,
            durable_upto: self.segment.header.base_lsn,
            previous: self.chain.checksum,
        }
    }

    fn plain(&mut self, kind: Kind, body: &[u8]) {
        let before = self.frames.len();
        let checksum = self.context().plain(&mut self.frames, kind, body);
        self.extend(self.frames.len() - before, 0, checksum);
    }

    fn extend(&mut self, bytes: usize, events: u64, checksum: u32) {
        self.chain.lsn += bytes as u64;
        self.chain.position += events;
        self.chain.checksum = checksum;
    }

    fn write(&mut self) -> Result<()> {
        let offset = self.segment.offset(self.written_lsn);
        self.segment.file.write_at(&self.frames, offset).map_err(|error| self.io(&error, self.frames.len()))?;
        self.written_lsn = self.chain.lsn;
        self.frames.clear();
        Ok(())
    }

    fn io(&self, error: &io::Error, bytes: usize) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::StorageFull { path: self.storage.path(), needed_bytes: Some(bytes as u64) }
            }
            _ => self.segment.io("write", error),
        }
    }

    /// Seals the segment and begins the next one.
    fn roll(&mut self) -> Result<()> {
        let anchor = self.chain.checksum;
        self.plain(Kind::Seal, &encode_seal(anchor, self.chain.position));
        self.write()?;
        self.segment.file.sync().map_err(|error| self.segment.io("sync", &error))?;
        self.sealed.push(named(&self.segment.header, Some(self.chain.lsn)));
        let header = new_segment(self.store_id, self.segment.header.sequence + 1, EPOCH, &self.chain, anchor);
        self.segment = begin_segment(self.storage, header)?;
        self.chain.checksum = anchor;
        Ok(())
    }
}

fn begin_segment(storage: &dyn Storage, header: SegmentHeader) -> Result<Arc<Segment>> {
    let begin = || {
        let segment = Segment::prepare(storage, header, FIRST_FRAME, Space::Written)?;
        segment.publish(storage)?;
        Ok(Arc::new(segment))
    };
    begin().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::StorageFull { path: storage.path(), needed_bytes: Some(FIRST_FRAME) },
        _ => Error::io("create a segment in", storage.path(), &error),
    })
}
