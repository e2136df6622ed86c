//! Salvage: what can be saved goes to a new store, what cannot is listed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use uuid::Uuid;

use super::Damage;
use super::files::Files;
use super::pipeline::run;
use super::rescue::Rescued;
use super::streams::Streams;
use super::survey::{Block, Item, Reached};
use super::target::Target;
use super::unfinished::Unfinished;
use super::verify::{DAMAGE_MAX, verify_storage};
use super::walk::frame_at;
use crate::codec::Body;
use crate::error::{Corruption, Error, Remedy, Result};
use crate::event::{NewEvent, StreamKey};
use crate::log::format::{BODY_SEED, FRAME_ALIGN, FrameHeader, Kind, RecordEntry, checksum, events_frame_room};
use crate::log::storage::Storage;
use crate::log_store::existing;
use crate::progress::Progress;
use crate::retention::{Change, Notice, SYSTEM};
use crate::version::{AggregateVersion, Position};

/// A range of positions or versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// A range of positions or versions that were saved, and what they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The first, in the damaged store.
    pub first: u64,
    /// The last, in the damaged store.
    pub last: u64,
    /// What the first is in the new store; the others follow without a gap.
    pub new_first: u64,
}

/// A stream that has lost events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamLoss {
    /// The tenant of the stream; empty if none was given.
    pub tenant: String,
    /// The aggregate.
    pub aggregate_id: String,
    /// The versions that are lost.
    pub lost: Vec<PositionRange>,
    /// The versions that were saved, and which they are now.
    pub kept: Vec<Transfer>,
}

/// What salvaging has saved, and what it could not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The id of the new store.
    pub store_id: Uuid,
    /// How many events were saved.
    pub events: u64,
    /// How many events had been taken out after they had been deleted or had passed their limits. Their positions are kept; they are no loss.
    pub removed: u64,
    /// The positions that were saved, and which they are now.
    pub kept: Vec<Transfer>,
    /// The positions that could not be saved.
    pub lost: Vec<PositionRange>,
    /// Where the end of the store is damaged and nothing tells where it was: more events may have followed this position, all of which are
    /// lost.
    pub unknown_after: Option<Position>,
    /// The aggregates that are known to have lost events. An event that is lost with its aggregate's last ones, and whose names
    /// are lost too, is in `lost` alone.
    pub streams: Vec<StreamLoss>,
    /// Every damaged place in the order of the log, up to 100,000 of them.
    pub damage: Vec<Damage>,
    /// How many damaged places there are.
    pub damaged_places: u64,
    /// How many bytes follow the log that nobody was promised. They are not saved, and are no loss.
    pub unpromised_bytes: u64,
    /// Whether it was finished; false if it was stopped, and then there is no new store.
    pub complete: bool,
}

/// Writes every event of the store in the directory `path` that can be verified, in order, to a new store in `target`,
/// which must not exist yet. The original is left as it is, byte for byte.
///
/// Ids, types, times, metadata, tags and payloads stay what they were. Positions and versions are gapless in the new store:
/// where events are lost the later ones get lower ones, and the report maps them.
///
/// The new store has its name only when it is complete, on disk, and verified; before, it is beside it as
/// `target.salvage.tmp`, which a later salvage to the same target removes.
///
/// # Errors
/// [`Configuration`](Error::Configuration) if there is no store or there is a target, [`StoreLocked`](Error::StoreLocked) if the same
/// target is being written, [`FormatVersion`](Error::FormatVersion) if a newer release wrote the store,
/// [`StorageFull`](Error::StorageFull), [`Io`](Error::Io).
pub fn salvage(path: impl AsRef<Path>, target: impl AsRef<Path>, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<SalvageReport> {
    let source = existing(path.as_ref())?;
    let names = Unfinished::of("salvage", Some(&source.path()), target.as_ref())?;
    // Before anything is made: a path that leads to no store leaves no trace.
    Files::look(&source)?;
    names.make(|storage| salvage_storage(&source, storage, progress), |report| report.complete)
}

/// Salvages the store in any storage to an empty one: how tests inject faults.
///
/// # Errors
/// Those of [`salvage`].
pub fn salvage_storage(source: &dyn Storage, target: &dyn Storage, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<SalvageReport> {
    let start = Instant::now();
    let files = Files::look(source)?;
    let last_position = files.last_position();
    let (report, streams, losses) = (SalvageReport::default(), Streams::default(), Losses::default());
    let mut salvaging = Salvaging { target: Target::create(target)?, report, streams, losses, unattributed: 0 };
    let surveyed = run(source, &files, &Reached::nothing(&files), &mut |block| {
        salvaging.take_in(block)?;
        let (position, events) = (salvaging.losses.next_position - 1, salvaging.report.events);
        let last_position = last_position.map(|last| last.max(position));
        Ok(progress(&Progress { position, last_position, events, elapsed: start.elapsed() }))
    })?;
    let Salvaging { target: written, mut report, mut streams, mut losses, .. } = salvaging;
    let Some(surveyed) = surveyed else { return Ok(report) };
    losses.skip_to(surveyed.end_position);
    report.store_id = written.store_id();
    report.lost = losses.ranges;
    report.unknown_after = surveyed.is_end_unknown.then(|| Position(surveyed.end_position - 1));
    report.unpromised_bytes = surveyed.unpromised_bytes;
    report.streams = losses.streams.into_values().collect();
    for stream in &mut report.streams {
        let last = streams.get(&StreamKey { tenant: &stream.tenant, aggregate_id: &stream.aggregate_id }).old;
        stream.kept = kept_between(&stream.lost, last);
    }
    report.streams.sort_unstable_by(|one, other| (&one.tenant, &one.aggregate_id).cmp(&(&other.tenant, &other.aggregate_id)));
    written.finish()?;
    report.complete = true;
    check(target, &report)?;
    Ok(report)
}

/// Reads the new store once more.
fn check(target: &dyn Storage, report: &SalvageReport) -> Result<()> {
    let found = verify_storage(target, |_| ControlFlow::Continue(()))?;
    if found.is_sound() && (found.events, found.removed) == (report.events, report.removed) {
        return Ok(());
    }
    let first = found.damage.first();
    Err(Error::from(Corruption {
        path: target.path().join(first.map_or("", |damage| &damage.file)),
        segment: first.and_then(|damage| damage.segment).unwrap_or(0),
        offset: first.map_or(0, |damage| damage.offset),
        last_good_position: Position::START,
        next_good_position: None,
        reason: format!("{} events were saved, but the new store does not read back whole", report.events),
        remedy: Remedy::Backup,
    }))
}

/// How far a stream has come in both stores.
#[derive(Default)]
struct Versions {
    old: u64,
    new: u64,
    /// Whether there is any event of it: what is taken out of a stream is its beginning, but where it was copied from another store.
    is_saved: bool,
}

/// What could not be saved so far.
struct Losses {
    /// The position behind the last event that was saved or lost.
    next_position: u64,
    ranges: Vec<PositionRange>,
    streams: HashMap<(String, String), StreamLoss>,
}

impl Default for Losses {
    fn default() -> Self {
        Self { next_position: 1, ranges: Vec::new(), streams: HashMap::new() }
    }
}

impl Losses {
    /// Everything before this position that was not saved is lost.
    fn skip_to(&mut self, position: u64) {
        if position > self.next_position {
            extend(&mut self.ranges, self.next_position, position - 1);
            self.next_position = position;
        }
    }

    /// Whether every event before this position was saved.
    fn is_nothing_before(&self, position: u64) -> bool {
        self.ranges.is_empty() && self.next_position == position
    }

    /// How many of a stream's versions up to this one are known to be lost.
    fn lost_up_to(&self, key: &StreamKey<'_>, version: u64) -> u64 {
        let Some(stream) = self.streams.get(&(key.tenant.to_owned(), key.aggregate_id.to_owned())) else { return 0 };
        stream.lost.iter().filter(|range| range.first <= version).map(|range| range.last.min(version) - range.first + 1).sum()
    }

    fn of_stream(&mut self, key: &StreamKey<'_>, first: u64, last: u64) {
        let name = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        let stream = self.streams.entry(name).or_insert_with(|| StreamLoss {
            tenant: key.tenant.to_owned(),
            aggregate_id: key.aggregate_id.to_owned(),
            lost: Vec::new(),
            kept: Vec::new(),
        });
        extend(&mut stream.lost, first, last);
    }
}

/// Adds a range behind the others.
fn extend(ranges: &mut Vec<PositionRange>, first: u64, last: u64) {
    match ranges.last_mut() {
        Some(range) if range.last + 1 == first => range.last = last,
        _ => ranges.push(PositionRange { first, last }),
    }
}

/// What is left of 1 to `end` without the ranges, and its numbers when counted anew.
fn kept_between(lost: &[PositionRange], end: u64) -> Vec<Transfer> {
    let mut kept = Vec::new();
    let (mut first, mut new_first) = (1, 1);
    for range in lost.iter().copied().chain([PositionRange { first: end + 1, last: end + 1 }]) {
        if first < range.first {
            kept.push(Transfer { first, last: range.first - 1, new_first });
            new_first += range.first - first;
        }
        first = range.last + 1;
    }
    kept
}

struct Salvaging<'a> {
    target: Target<'a>,
    report: SalvageReport,
    streams: Streams<Versions>,
    losses: Losses,
    /// How many records were taken out of which no stream is known to lack a version.
    unattributed: u64,
}

/// A record of the damaged store.
struct Old<'a> {
    position: u64,
    entry: RecordEntry,
    body: &'a [u8],
    is_whole: bool,
}

impl Salvaging<'_> {
    fn take_in(&mut self, block: &Block) -> Result<()> {
        for item in &block.items {
            match item {
                Item::Damage(damage) => {
                    self.report.damaged_places += 1;
                    if self.report.damage.len() < DAMAGE_MAX {
                        self.report.damage.push(damage.clone());
                    }
                }
                Item::Frame { start, header } if header.kind == Kind::Events as u8 => self.frame(header, &block.bytes, *start)?,
                Item::Frame { .. } => {}
                Item::Records(rescued) => self.rescued(rescued)?,
            }
        }
        Ok(())
    }

    fn frame(&mut self, header: &FrameHeader, bytes: &[u8], start: usize) -> Result<()> {
        let frame = frame_at(bytes, start, header);
        let old = |(_, entry, body)| {
            let entry: RecordEntry = entry;
            Old { position: header.base_position + u64::from(entry.position_delta), entry, body, is_whole: true }
        };
        self.save(header.commit_time, header.count as usize, frame.records().map(old))
    }

    fn rescued(&mut self, rescued: &Rescued) -> Result<()> {
        let old = rescued.records.iter().map(|record| Old {
            position: record.position,
            entry: record.entry,
            body: &rescued.bytes[record.body.clone()],
            is_whole: record.is_whole,
        });
        self.save(rescued.commit_time, rescued.records.len(), old)
    }

    /// Writes what is whole of these records as one frame.
    fn save<'b>(&mut self, commit_time: i64, count: usize, records: impl Iterator<Item = Old<'b>>) -> Result<()> {
        let mut entries = Vec::with_capacity(count);
        let mut bodies: Vec<Cow<'b, [u8]>> = Vec::with_capacity(count);
        for old in records {
            if old.entry.is_removed() && old.is_whole {
                entries.push(RecordEntry { body_bytes: 0, body_checksum: checksum(BODY_SEED, &[]), ..old.entry });
                self.unattributed += 1;
                self.report.removed += 1;
                self.note_saved(old.position);
            } else if let Some(version) = self.new_version(&old) {
                let body = self.new_body(old.body, old.position)?;
                let body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
                entries.push(RecordEntry { version, body_bytes, body_checksum: checksum(BODY_SEED, &body), ..old.entry });
                bodies.push(body);
                self.report.events += 1;
                self.note_saved(old.position);
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        let room = events_frame_room(entries.len());
        let mut frame = Vec::with_capacity((room + bodies.iter().map(|body| body.len()).sum::<usize>()).next_multiple_of(FRAME_ALIGN));
        frame.resize(room, 0);
        for body in bodies {
            frame.extend_from_slice(&body);
        }
        self.target.append(commit_time, &entries, &mut frame)
    }

    /// The version that a record gets in the new store; `None` if it cannot be saved.
    fn new_version(&mut self, old: &Old<'_>) -> Option<u64> {
        let (_, names) = Body::parse(old.body).ok()?;
        let key = StreamKey { tenant: names.tenant, aggregate_id: names.aggregate_id };
        let version = old.entry.version;
        let stream = self.streams.get(&key);
        // What a damaged body says of its stream is believed where that stream waits for just this version.
        let belongs = if old.is_whole { version > stream.old && version < u64::MAX } else { stream.old > 0 && version == stream.old + 1 };
        if !belongs {
            return None;
        }
        let expected = stream.old + 1;
        stream.old = version;
        if !old.is_whole {
            self.losses.of_stream(&key, version, version);
            return None;
        }
        // Behind what it has, where nothing is lost; else it may be lost as well.
        let may_be_taken_out = !stream.is_saved || self.losses.is_nothing_before(old.position);
        let taken_out = may_be_taken_out && version - expected <= self.unattributed;
        if taken_out {
            self.unattributed -= version - expected;
            stream.new += version - expected;
        }
        stream.new += 1;
        stream.is_saved = true;
        let new = stream.new;
        if version > expected && !taken_out {
            self.losses.of_stream(&key, expected, version - 1);
        }
        Some(new)
    }

    /// The body of a record in the new store: what the store's own events say of versions is said of the new ones.
    fn new_body<'b>(&mut self, body: &'b [u8], position: u64) -> Result<Cow<'b, [u8]>> {
        let Ok((old, names)) = Body::parse(body) else { return Ok(Cow::Borrowed(body)) };
        if names.aggregate_id != SYSTEM {
            return Ok(Cow::Borrowed(body));
        }
        let Ok(Some(mut notice)) = Notice::of(names.event_type, old.payload()) else { return Ok(Cow::Borrowed(body)) };
        let before = notice.clone();
        match &mut notice.change {
            Change::Deleted { version, .. } => {
                self.pass_deleted(&before.key(), *version, position);
                *version = version.saturating_sub(self.losses.lost_up_to(&before.key(), *version));
            }
            Change::Limited { after, retention } => {
                *after = after.saturating_sub(self.losses.lost_up_to(&before.key(), *after));
                if let Some(AggregateVersion(version)) = &mut retention.truncate_before {
                    *version = version.saturating_sub(self.losses.lost_up_to(&before.key(), version.saturating_sub(1)));
                }
            }
        }
        if notice == before {
            return Ok(Cow::Borrowed(body));
        }
        let mut bytes = Vec::new();
        Body::encode_system(&mut bytes, SYSTEM, &NewEvent { id: old.id(), ..notice.event()? })?;
        Ok(Cow::Owned(bytes))
    }

    /// A stream was deleted at a version: what it lacks up to there was taken out, or is lost.
    fn pass_deleted(&mut self, key: &StreamKey<'_>, version: u64, position: u64) {
        let stream = self.streams.get(key);
        let missing = version.saturating_sub(stream.old);
        if missing == 0 || version == u64::MAX {
            return;
        }
        let first = stream.old + 1;
        stream.old = version;
        let may_be_taken_out = !stream.is_saved || self.losses.is_nothing_before(position);
        if may_be_taken_out && missing <= self.unattributed {
            self.unattributed -= missing;
            stream.new += missing;
        } else {
            self.losses.of_stream(key, first, version);
        }
    }

    fn note_saved(&mut self, position: u64) {
        self.losses.skip_to(position);
        self.losses.next_position = position + 1;
        let new_first = self.report.events + self.report.removed;
        match self.report.kept.last_mut() {
            Some(run) if run.last + 1 == position => run.last = position,
            _ => self.report.kept.push(Transfer { first: position, last: position, new_first }),
        }
    }
}
