//! Verify: everything read, every damaged place reported.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use super::Damage;
use super::digest::Digests;
use super::files::Files;
use super::indexes::Reading;
use super::pipeline::run;
use super::rescue::Rescued;
use super::runs::check_runs;
use super::source::Source;
use super::streams::Streams;
use super::survey::{Block, Item};
use super::walk::frame_at;
use crate::codec::Body;
use crate::error::Result;
use crate::event::StreamKey;
use crate::index::sealed::EventRead;
use crate::log::format::{FrameHeader, Kind, RecordEntry};
use crate::log::storage::Storage;
use crate::log_store::existing;
use crate::progress::Progress;
use crate::version::Position;

/// How many damaged places are told one by one.
pub(super) const DAMAGE_MAX: usize = 100_000;

/// What verifying found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many events are whole.
    pub events: u64,
    /// How many events were taken out after they had been deleted or had passed their limits; they are no loss.
    pub removed: u64,
    /// How many frames are whole.
    pub frames: u64,
    /// How many segments were read.
    pub segments: u64,
    /// How many bytes of segments were read.
    pub bytes: u64,
    /// The last event that is whole, or was taken out.
    pub last_position: Position,
    /// How many bytes follow the log that nobody was promised: an append that was interrupted, or is under way. That is no damage.
    pub unpromised_bytes: u64,
    /// Every damaged place in the order of the log, up to 100,000 of them.
    pub damage: Vec<Damage>,
    /// How many damaged places there are.
    pub damaged_places: u64,
    /// Whether everything was read; false if it was stopped before.
    pub complete: bool,
}

impl VerifyReport {
    /// Whether everything was read and is whole.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.complete && self.damaged_places == 0
    }

    fn note(&mut self, damage: Damage) {
        self.damaged_places += 1;
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(damage);
        }
    }
}

/// Reads every byte of the store in a directory and verifies every checksum, the chain of frames, seals, positions and
/// versions, manifest against segments, the digests of a backup, index files against segments, merged runs of them against them, and the watermark. It goes on
/// behind damage, and reports every damaged place. An index file that is missing is no damage: it is made again from its segment.
///
/// It takes no lock and changes nothing. What a writer has appended behind the durable mark of the watermark is counted
/// where it is whole and judged only where something later proves that it was on disk. `progress` is told from time to
/// time how far it is, and can stop it.
///
/// # Errors
/// [`Configuration`](crate::Error::Configuration) if there is no store, [`FormatVersion`](crate::Error::FormatVersion) if a newer
/// release wrote it, [`Io`](crate::Error::Io) if a file may not be opened. Damage is no error, nor is a sector that cannot be read.
pub fn verify(path: impl AsRef<Path>, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<VerifyReport> {
    verify_storage(&existing(path.as_ref())?, progress)
}

/// Verifies the store in any storage: how tests inject faults.
///
/// # Errors
/// Those of [`verify`].
pub fn verify_storage(storage: &dyn Storage, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<VerifyReport> {
    let start = Instant::now();
    let files = Files::look(storage)?;
    let last_position = files.last_position();
    let mut verifying = Verifying {
        storage,
        report: VerifyReport::default(),
        streams: Streams::default(),
        lost: 0,
        attributed: 0,
        reading: None,
        digests: Digests::default(),
    };
    let surveyed = run(storage, files, &mut |block| {
        verifying.take_in(block)?;
        let VerifyReport { events, last_position: Position(position), .. } = verifying.report;
        let last_position = last_position.map(|last| last.max(position));
        Ok(progress(&Progress { position, last_position, events, elapsed: start.elapsed() }))
    })?;
    if surveyed.is_some() {
        verifying.end_segment()?;
    }
    let mut report = verifying.report;
    let (events, last) = (report.events, report.last_position);
    let mut go_on = || progress(&Progress { position: last.0, last_position: Some(last.0), events, elapsed: start.elapsed() });
    let surveyed = if surveyed.is_some() && check_runs(storage, &mut |damage| report.note(damage), &mut go_on)?.is_break() { None } else { surveyed };
    if let Some(surveyed) = surveyed {
        report.segments = surveyed.segments;
        report.bytes = surveyed.bytes;
        report.unpromised_bytes = surveyed.unpromised_bytes;
        report.complete = true;
    }
    Ok(report)
}

/// How far a stream has come.
#[derive(Default)]
struct Known {
    version: u64,
    /// The segment with its last event, and its number among the streams there.
    segment: u64,
    number: u32,
}

struct Verifying<'a> {
    storage: &'a dyn Storage,
    report: VerifyReport,
    streams: Streams<Known>,
    /// How many events lie in damaged places so far: a stream's versions may skip as many.
    lost: u64,
    /// How many records that were taken out are those of versions that streams lack.
    attributed: u64,
    /// The segment that is being read.
    reading: Option<Reading>,
    digests: Digests,
}

impl Verifying<'_> {
    fn take_in(&mut self, block: &Block) -> Result<()> {
        if let Some(source) = &block.source
            && !self.reading.as_ref().is_some_and(|reading| reading.is_of(source))
        {
            self.end_segment()?;
            self.reading = Some(Reading::begin(self.storage, source)?);
        }
        self.digests.take_in(block);
        for item in &block.items {
            match (item, &block.source) {
                (Item::Damage(damage), _) => self.damaged(damage.clone()),
                (Item::Frame { start, header }, Some(source)) => self.frame(source, header, &block.bytes, *start),
                (Item::Records(rescued), Some(source)) => self.rescued(source, rescued),
                // Frames and records come from a file.
                (Item::Frame { .. } | Item::Records(_), None) => {}
            }
        }
        Ok(())
    }

    /// Notes damage of the segment that is being read.
    fn damaged(&mut self, damage: Damage) {
        self.report.note(damage);
        if let Some(reading) = &mut self.reading {
            reading.is_damaged();
        }
    }

    /// Compares the digest and the index file of the segment that was read with what was read.
    fn end_segment(&mut self) -> Result<()> {
        if let Some(damage) = self.digests.end_of_segment() {
            self.report.note(damage);
        }
        if let Some(reading) = self.reading.take()
            && let Some(damage) = reading.finish(self.storage)?
        {
            self.report.note(damage);
        }
        Ok(())
    }

    fn frame(&mut self, source: &Source, header: &FrameHeader, bytes: &[u8], start: usize) {
        self.report.frames += 1;
        if header.kind != Kind::Events as u8 {
            return;
        }
        for (at, entry, body) in frame_at(bytes, start, header).records() {
            let position = header.base_position + u64::from(entry.position_delta);
            if entry.is_removed() {
                self.removed(position, header.lsn + at as u64);
                continue;
            }
            let place = || source.offset(header.lsn) + (at + entry.body_offset as usize) as u64;
            self.event(source, position, (&entry, header.lsn + at as u64), body, place);
        }
    }

    fn rescued(&mut self, source: &Source, rescued: &Rescued) {
        for record in rescued.records.iter().filter(|record| record.is_whole) {
            if record.entry.is_removed() {
                self.removed(record.position, 0);
                continue;
            }
            self.event(source, record.position, (&record.entry, 0), &rescued.bytes[record.body.clone()], || record.offset);
        }
    }

    /// Takes in that a record was taken out, whose entry has this LSN: nobody knows of which stream it was.
    fn removed(&mut self, position: u64, lsn: u64) {
        self.pass_to(position);
        self.report.removed += 1;
        if let Some(logged) = self.reading.as_mut().and_then(Reading::logged) {
            logged.push_removed(lsn);
        }
    }

    /// Goes on to a position; those that are missing before it lie in damaged places.
    fn pass_to(&mut self, position: u64) {
        let next = self.report.last_position.0 + 1;
        self.lost = self.lost.saturating_add(position.saturating_sub(next));
        self.report.last_position = Position(position);
    }

    /// Takes in an event whose checksums match; its entry comes with its LSN.
    fn event(&mut self, source: &Source, position: u64, (entry, lsn): (&RecordEntry, u64), body: &[u8], offset: impl Fn() -> u64) {
        self.pass_to(position);
        self.report.events += 1;
        let fail = |reason: &str| source.damage(offset(), Some(u64::from(entry.body_bytes)), (position, position + 1), reason);
        let (body, names) = match Body::parse(body) {
            Ok(parsed) => parsed,
            Err(reason) => return self.damaged(fail(reason)),
        };
        let key = StreamKey { tenant: names.tenant, aggregate_id: names.aggregate_id };
        let known = self.streams.get(&key);
        let skipped = entry.version.checked_sub(known.version + 1);
        // Each version that is missing was one of the records that were taken out.
        let taken_out = skipped.unwrap_or(0).min(self.report.removed - self.attributed);
        self.attributed += taken_out;
        let follows = skipped.is_some_and(|skipped| skipped - taken_out <= self.lost);
        let is_run = skipped.is_some_and(|skipped| skipped > 0);
        known.version = entry.version.max(known.version).min(u64::MAX - 1);
        if let Some(logged) = self.reading.as_mut().and_then(Reading::logged) {
            if known.segment != source.sequence || is_run {
                let previous_segment = (self.lost == 0 && self.report.removed == 0).then_some(known.segment);
                known.number = logged.add_stream(&key, names.aggregate_type, entry.version, previous_segment);
            }
            logged.push(&EventRead { id: body.id(), event_type: names.event_type, lsn, stream: known.number });
        }
        known.segment = source.sequence;
        if !follows {
            self.damaged(fail("the event's version does not follow from the one before it"));
        }
    }
}
