//! What is read of one segment for verifying it, without a look at the segments before.

use std::sync::Arc;

use uuid::Uuid;

use super::Damage;
use super::digest::Digest;
use super::indexes::{compare, logged};
use super::rescue::Rescued;
use super::source::Source;
use super::streams::{Numbered, StreamHash, StreamHasher};
use super::survey::{Block, Item};
use super::verify::DAMAGE_MAX;
use super::walk::frame_at;
use crate::codec::Body;
use crate::error::Result;
use crate::event::StreamKey;
use crate::index::sealed::{EventRead, Logged};
use crate::log::format::{FrameHeader, Kind, RecordEntry};
use crate::log::storage::Storage;

/// A segment that is being read.
pub(super) struct Reading {
    source: Arc<Source>,
    streams: Numbered,
    joints: Vec<Joint>,
    logged: Option<Logged>,
    digest: Digest,
    read: Counts,
    damage: Damages,
    /// How many events lie in damaged places so far, here and before: a stream's versions may skip as many.
    lost: u64,
}

/// Damaged places in the order in which they were found.
#[derive(Default)]
pub(super) struct Damages {
    pub(super) told: Vec<Damage>,
    pub(super) count: u64,
}

impl Damages {
    pub(super) fn note(&mut self, damage: Damage) {
        self.count += 1;
        if self.told.len() < DAMAGE_MAX {
            self.told.push(damage);
        }
    }

    /// Takes in those that were found behind these.
    pub(super) fn append(&mut self, behind: Self) {
        self.count += behind.count;
        self.told.extend(behind.told.into_iter().take(DAMAGE_MAX - self.told.len()));
    }
}

/// How much is whole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) removed: u64,
    pub(super) frames: u64,
    /// The last position there is, or was.
    pub(super) last_position: u64,
}

impl Counts {
    /// With what was read behind it.
    pub(super) fn with(&self, behind: &Self) -> Self {
        Self {
            events: self.events + behind.events,
            removed: self.removed + behind.removed,
            frames: self.frames + behind.frames,
            last_position: self.last_position.max(behind.last_position),
        }
    }
}

/// A record whose checksums match.
#[derive(Debug, Clone, Copy)]
struct Whole {
    position: u64,
    /// Of its entry; 0 if the frame is damaged.
    lsn: u64,
    /// Where in the file its body is.
    offset: u64,
    entry: RecordEntry,
}

/// How many events wait to be taken in together.
const TOGETHER: usize = 32;

/// An event that waits to be taken in.
struct Waiting<'b> {
    record: Whole,
    hash: StreamHash,
    id: Uuid,
    stream: StreamKey<'b>,
    aggregate_type: &'b str,
    event_type: &'b str,
}

/// An event that begins a run of a stream's versions in the segment: its first one there, or one that does not follow from the one before.
struct Joint {
    record: Whole,
    stream: u32,
    /// The version before in this segment, if there is one.
    before: Option<u64>,
    /// How many events were lost before it in all, and taken out before it in this segment.
    lost: u64,
    removed: u64,
}

/// A segment that was read.
pub(super) struct SegmentRead {
    pub(super) source: Arc<Source>,
    pub(super) read: Counts,
    pub(super) lost: u64,
    pub(super) damage: Damages,
    /// What is wrong with its index file.
    pub(super) index_damage: Option<Damage>,
    streams: Numbered,
    joints: Vec<Joint>,
    logged: Option<Logged>,
}

/// The beginning of a run of a stream's versions.
pub(super) struct RunRead {
    pub(super) hash: StreamHash,
    pub(super) version: u64,
    /// The version before in this segment, if there is one.
    pub(super) before: Option<u64>,
    /// How many events were lost before it in all, and taken out before it in this segment.
    pub(super) lost: u64,
    pub(super) removed: u64,
    /// The newest earlier segment with events of it, 0 if there is none, as the segment's index file says if there is one.
    pub(super) previous_segment: Option<u64>,
}

impl Reading {
    /// Nothing was read yet of the segment; so many events were lost before it, and the last one had this position.
    pub(super) fn begin(storage: &dyn Storage, source: &Arc<Source>, hasher: StreamHasher, lost: u64, last_position: u64) -> Result<Self> {
        Ok(Self {
            source: Arc::clone(source),
            streams: Numbered::new(hasher),
            joints: Vec::new(),
            logged: logged(storage, source)?,
            digest: Digest::of(source),
            read: Counts { last_position, ..Counts::default() },
            damage: Damages::default(),
            lost,
        })
    }

    pub(super) fn is_of(&self, source: &Arc<Source>) -> bool {
        Arc::ptr_eq(&self.source, source)
    }

    pub(super) fn counts(&self) -> Counts {
        self.read
    }

    /// Takes in what was found in a block of the segment.
    pub(super) fn take_in(&mut self, block: &Block) {
        self.digest.take_in(block);
        let mut waiting = Vec::with_capacity(TOGETHER);
        for item in &block.items {
            match item {
                Item::Damage(damage) => {
                    self.events(&mut waiting);
                    self.damage.note(damage.clone());
                }
                Item::Frame { start, header } => self.frame(header, &block.bytes, *start, &mut waiting),
                Item::Records(rescued) => self.rescued(rescued, &mut waiting),
            }
        }
        self.events(&mut waiting);
    }

    /// Compares digest and index file of the segment with what was read. `memory` can be used for the next one.
    pub(super) fn end(mut self, storage: &dyn Storage, memory: &mut Vec<u8>) -> Result<SegmentRead> {
        // With damage it can no longer be told what its index file should say.
        let is_whole = self.damage.count == 0;
        if let Some(damage) = self.digest.end(&self.source) {
            self.damage.note(damage);
        }
        let mut index_damage = None;
        if let Some(logged) = &mut self.logged {
            index_damage = compare(storage, &self.source, logged, is_whole, memory)?;
        }
        let Self { source, streams, joints, logged, read, damage, lost, .. } = self;
        Ok(SegmentRead { source, read, lost, damage, index_damage, streams, joints, logged })
    }

    fn frame<'b>(&mut self, header: &FrameHeader, bytes: &'b [u8], start: usize, waiting: &mut Vec<Waiting<'b>>) {
        self.read.frames += 1;
        if header.kind != Kind::Events as u8 {
            return;
        }
        let offset = self.source.offset(header.lsn);
        for (at, entry, body) in frame_at(bytes, start, header).records() {
            let offset = offset + (at + entry.body_offset as usize) as u64;
            let record = Whole { position: header.base_position + u64::from(entry.position_delta), lsn: header.lsn + at as u64, offset, entry };
            self.record(record, body, waiting);
        }
    }

    fn rescued<'b>(&mut self, rescued: &'b Rescued, waiting: &mut Vec<Waiting<'b>>) {
        for record in rescued.records.iter().filter(|record| record.is_whole) {
            let whole = Whole { position: record.position, lsn: 0, offset: record.offset, entry: record.entry };
            self.record(whole, &rescued.bytes[record.body.clone()], waiting);
        }
    }

    /// Takes in a record whose checksums match.
    fn record<'b>(&mut self, record: Whole, body: &'b [u8], waiting: &mut Vec<Waiting<'b>>) {
        if record.entry.is_removed() {
            self.events(waiting);
            self.pass_to(record.position);
            self.read.removed += 1;
            // Nobody knows of which stream it was.
            if let Some(logged) = &mut self.logged {
                logged.push_removed(record.lsn);
            }
            return;
        }
        match Body::parse(body) {
            Ok((body, names)) => {
                let stream = StreamKey { tenant: names.tenant, aggregate_id: names.aggregate_id };
                let hash = self.streams.hash(&stream);
                waiting.push(Waiting { record, hash, id: body.id(), stream, aggregate_type: names.aggregate_type, event_type: names.event_type });
                if waiting.len() == TOGETHER {
                    self.events(waiting);
                }
            }
            Err(reason) => {
                self.events(waiting);
                self.pass_to(record.position);
                self.read.events += 1;
                self.damage.note(damaged(&self.source, &record, reason));
            }
        }
    }

    /// Goes on to a position; those that are missing before it lie in damaged places.
    fn pass_to(&mut self, position: u64) {
        self.lost = self.lost.saturating_add(position.saturating_sub(self.read.last_position + 1));
        self.read.last_position = position;
    }

    /// Takes in the events that wait, in their order.
    fn events(&mut self, waiting: &mut Vec<Waiting<'_>>) {
        let mut numbers = [0; TOGETHER];
        // These look-ups wait for memory, all at once.
        for (number, event) in numbers.iter_mut().zip(&*waiting) {
            *number = self.streams.number(event.hash);
        }
        for (number, event) in numbers.into_iter().zip(waiting.drain(..)) {
            self.event(number, &event);
        }
    }

    fn event(&mut self, stream: u32, event: &Waiting<'_>) {
        let Waiting { record, .. } = event;
        let version = record.entry.version;
        self.pass_to(record.position);
        self.read.events += 1;
        let come = &mut self.streams.streams[stream as usize].1;
        if come.is_nowhere() || version != come.version + 1 {
            let before = (!come.is_nowhere()).then_some(come.version);
            come.run = u32::try_from(self.joints.len()).unwrap_or(u32::MAX - 1);
            self.joints.push(Joint { record: *record, stream, before, lost: self.lost, removed: self.read.removed });
            if let Some(logged) = &mut self.logged {
                logged.add_stream(&event.stream, event.aggregate_type, version);
            }
        }
        come.version = version.max(come.version).min(u64::MAX - 1);
        if let Some(logged) = &mut self.logged {
            logged.push(&EventRead { id: event.id, event_type: event.event_type, lsn: record.lsn, stream: come.run });
        }
    }
}

const DOES_NOT_FOLLOW: &str = "the event's version does not follow from the one before it";

fn damaged(source: &Source, record: &Whole, reason: &str) -> Damage {
    source.damage(record.offset, Some(u64::from(record.entry.body_bytes)), (record.position, record.position + 1), reason)
}

impl SegmentRead {
    /// The beginnings of its streams' runs of versions, by number, in the order of the log.
    pub(super) fn runs(&self) -> impl Iterator<Item = RunRead> {
        let previous_segment = |number| self.logged.as_ref().and_then(|logged| logged.previous_segment(number));
        (0..).zip(&self.joints).map(move |(number, joint)| RunRead {
            hash: self.streams.streams[joint.stream as usize].0,
            version: joint.record.entry.version,
            before: joint.before,
            lost: joint.lost,
            removed: joint.removed,
            previous_segment: previous_segment(number),
        })
    }

    /// Its streams, and the version that each has come to.
    pub(super) fn streams(&self) -> impl Iterator<Item = (StreamHash, u64)> {
        self.streams.streams.iter().map(|(hash, come)| (*hash, come.version))
    }

    /// Notes that these runs, by number, do not follow from what was before them.
    pub(super) fn note_not_following(&mut self, storage: &dyn Storage, runs: &[usize]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        for joint in runs.iter().filter_map(|number| self.joints.get(*number)) {
            self.damage.note(damaged(&self.source, &joint.record, DOES_NOT_FOLLOW));
        }
        self.damage.told.sort_by_key(|damage| damage.offset);
        // It can no longer be told what its index file should say.
        if let Some(logged) = &mut self.logged {
            self.index_damage = compare(storage, &self.source, logged, false, &mut Vec::new())?;
        }
        Ok(())
    }
}
