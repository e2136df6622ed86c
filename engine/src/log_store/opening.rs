//! Opening a store: what the log holds, and who is at work on it from then on.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::Inner;
use super::append::Deciding;
use super::indexing::{Indexer, Indexing};
use super::keeping::{InFlight, Keeping};
use super::options::OpenOptions;
use super::packing::Packing;
use super::sealed::Sealed;
use crate::codec::Body;
use crate::error::{Corruption, Error, Remedy, Result};
use crate::event::StreamKey;
use crate::index::part::Part;
use crate::index::{Before, Index};
use crate::log::follow::{Follow, open_to_follow};
use crate::log::format::Kind;
use crate::log::manifest::ManifestSegment;
use crate::log::open::{OnDamage, Outcome, open};
use crate::log::recovery::Frame;
use crate::log::segment::Segment;
use crate::log::storage::Storage;
use crate::log::sys;
use crate::log::writer::{Mode, Writer, WriterOptions};
use crate::store::Durability;
use crate::version::Position;

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// In what state the store was.
    pub outcome: OpenOutcome,
    /// How many bytes were written again and synced, because nothing proved that they were on disk.
    pub rewritten_bytes: u64,
    /// The position of the last event.
    pub head: Position,
}

/// In what state a store was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenOutcome {
    /// There was none: a new one was created.
    Created,
    /// Closed in order, or ended between two appends.
    Clean,
    /// An append was under way when the process or machine stopped: its bytes, which nobody was promised, are in `quarantine/`.
    Recovered {
        /// How many bytes were cut off.
        bytes: u64,
        /// How many frame headers could still be recognized among them.
        frames: u64,
    },
    /// The loss after a position was accepted; what was damaged is in `quarantine/`.
    LossAccepted {
        /// The last event that was kept.
        after: Position,
    },
    /// Damaged, and open for reading up to the damage.
    Damaged {
        /// The last event before it.
        up_to: Position,
        /// Where the damage is.
        damage: Corruption,
    },
    /// Opened for reading only: nothing was repaired, and what the writer has not made visible was not looked at.
    ReadOnly,
}

impl Inner {
    /// Opens the store beside the process that writes to it.
    pub(super) fn follow(storage: &Arc<dyn Storage>, follow: Follow, options: &OpenOptions) -> Result<Arc<Self>> {
        let (log, following) = open_to_follow(storage, follow)?;
        let active = Part::new(log.sealed.last().map_or(1, |last| last.sequence + 1), log.chain.position);
        let sealed = Sealed::new(ends(&log.sealed, active.first_position()), options.filter_bytes).of_a_reader();
        let index = Index::new(active, !sealed.is_empty(), options.hot_bytes);
        let indexing = Indexing::new(Indexer::Elsewhere, options.fan_out);
        let packing = Packing::new(Indexer::Elsewhere, options.compression);
        let keeping: Arc<Keeping> = Arc::default();
        let (indexer, kept) = (Arc::clone(&indexing), Arc::clone(&keeping));
        let deciding = Deciding { index, sealed, indexing: indexer, packing, keeping: kept, in_flight: InFlight::default() };
        let writer = Writer::new(log, deciding, WriterOptions { mode: Mode::Sync, segment_bytes: options.segment_bytes }, Some(following))?;
        indexing.begin(&writer, Vec::new());
        writer.refresh_first()?;
        let report = OpenReport { outcome: OpenOutcome::ReadOnly, rewritten_bytes: 0, head: Position(writer.visible()) };
        Ok(Arc::new(Self {
            writer,
            options: options.clone(),
            report,
            damage: None,
            persistent: true,
            keeping,
            handles: Mutex::new(1),
            generation: sys::fork_generation(),
        }))
    }

    pub(super) fn open(storage: Arc<dyn Storage>, options: &OpenOptions) -> Result<Arc<Self>> {
        let on_damage = match (options.accept_loss_after, options.read_up_to_damage) {
            (Some(position), _) => OnDamage::AcceptLossAfter(position),
            (None, true) => OnDamage::ReadUpTo,
            (None, false) => OnDamage::Refuse,
        };
        let mut part: Option<Part> = None;
        let log = open(storage, on_damage, &mut |segment, frame| {
            // Of the segments that are read only the last one is held in memory.
            let header = &segment.header;
            if part.as_ref().is_none_or(|part| part.sequence() != header.sequence) {
                part = Some(Part::new(header.sequence, header.base_position));
            }
            part.as_mut().map_or(Ok(()), |part| take_in(part, segment, frame))
        })?;
        let head = Position(log.chain.position - 1);
        let outcome = match log.outcome {
            Outcome::Created => OpenOutcome::Created,
            Outcome::Clean => OpenOutcome::Clean,
            Outcome::Recovered { bytes, frames } => OpenOutcome::Recovered { bytes, frames },
            Outcome::LossAccepted => OpenOutcome::LossAccepted { after: head },
            Outcome::Damaged(ref damage) => OpenOutcome::Damaged { up_to: head, damage: damage.clone() },
            Outcome::Followed => OpenOutcome::ReadOnly,
        };
        let damage = if let Outcome::Damaged(damage) = &log.outcome { Some(damage.clone()) } else { None };
        let report = OpenReport { outcome, rewritten_bytes: log.rewritten_bytes, head };
        let mode = match options.durability {
            Durability::Sync => Mode::Sync,
            Durability::Interval(interval) => Mode::Interval(interval),
            Durability::Os | Durability::Memory => Mode::Written,
        };
        let persistent = options.durability != Durability::Memory;
        // The segment that is written to; the last one may be sealed, and its successor not begun yet.
        let active = match (log.segments.last(), log.sealed.last()) {
            (Some(last), sealed) if sealed.is_none_or(|sealed| sealed.sequence < last.header.sequence) => {
                let empty = || Part::new(last.header.sequence, last.header.base_position);
                part.filter(|part| part.sequence() == last.header.sequence).unwrap_or_else(empty)
            }
            (_, last) => Part::new(last.map_or(1, |last| last.sequence + 1), log.chain.position),
        };
        let sealed = Sealed::new(ends(&log.sealed, active.first_position()), options.filter_bytes);
        let mut index = Index::new(active, !sealed.is_empty(), options.hot_bytes);
        index.published(head.0);
        let missing = if damage.is_some() { Vec::new() } else { log.names.without_index_file(&log.sealed) };
        let has_superseded = damage.is_none() && log.names.has_superseded(&log.sealed);
        let worker = if persistent { options.indexer } else { Indexer::Nobody };
        let indexing = Indexing::new(worker, options.fan_out);
        let packing = Packing::new(worker, options.compression);
        let keeping: Arc<Keeping> = Arc::default();
        let deciding = Deciding {
            index,
            sealed,
            indexing: Arc::clone(&indexing),
            packing: Arc::clone(&packing),
            keeping: Arc::clone(&keeping),
            in_flight: InFlight::default(),
        };
        let writer = Writer::new(log, deciding, WriterOptions { mode, segment_bytes: options.segment_bytes }, None)?;
        indexing.begin(&writer, missing);
        packing.begin(&writer, has_superseded);
        Ok(Arc::new(Self {
            writer,
            options: options.clone(),
            report,
            damage,
            persistent,
            keeping,
            handles: Mutex::new(1),
            generation: sys::fork_generation(),
        }))
    }
}

/// Sealed segments, each with the position behind its last event.
pub(super) fn ends(sealed: &[ManifestSegment], end_position: u64) -> Vec<(ManifestSegment, u64)> {
    let ends = sealed.iter().skip(1).map(|next| next.base_position).chain([end_position]);
    sealed.iter().copied().zip(ends).collect()
}

/// Takes the ids of a verified frame's events; none of those that were taken out.
pub(super) fn take_in_ids(ids: &mut Vec<Option<Uuid>>, frame: &Frame<'_>) -> Result<()> {
    if frame.header.kind == Kind::Events as u8 {
        for (_, entry, bytes) in frame.records() {
            if entry.is_removed() {
                ids.push(None);
                continue;
            }
            let (body, _) = Body::parse(bytes).map_err(Error::configuration)?;
            ids.push(Some(body.id()));
        }
    }
    Ok(())
}

/// Takes the events of a verified frame into the index of its segment.
pub(super) fn take_in(index: &mut Part, segment: &Segment, frame: &Frame<'_>) -> Result<()> {
    if frame.header.kind != Kind::Events as u8 {
        return Ok(());
    }
    let position = frame.header.base_position;
    // Its checksums match, so no verdict about the log finds it: every way of opening ends here.
    let fail = |reason: &str| {
        let damage = segment.corruption(segment.offset(frame.header.lsn), position - 1, reason);
        Error::from(Corruption { remedy: Remedy::Backup, ..damage })
    };
    index.has_room_for(frame.header.count as usize)?;
    for (at, entry, bytes) in frame.records() {
        if entry.is_removed() {
            index.push_removed(frame.header.lsn + at as u64);
            continue;
        }
        let (body, names) = Body::parse(bytes).map_err(fail)?;
        let key = StreamKey { tenant: names.tenant, aggregate_id: names.aggregate_id };
        let stream = if let Some(stream) = index.stream(&key) {
            let fail = || fail("an event's version does not follow from the one before it");
            index.stream_at(stream, entry.version)?.ok_or_else(fail)?
        } else {
            let version = entry.version.checked_sub(1).ok_or_else(|| fail("an event has no version"))?;
            let before = Before { version, segment: if version > 0 { Before::SOMEWHERE } else { 0 } };
            index.add_stream(&key, names.aggregate_type, before)?
        };
        let kind = index.kind(stream, names.event_type);
        if index.push(stream, kind, body.id(), frame.header.lsn + at as u64) != entry.version {
            return Err(fail("an event's version does not follow from the one before it"));
        }
    }
    index.published(position + u64::from(frame.header.count) - 1);
    Ok(())
}
