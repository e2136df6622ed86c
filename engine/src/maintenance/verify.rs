//! Verify: everything read, every damaged place reported.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use super::Damage;
use super::abreast::read_abreast;
use super::files::Files;
use super::indexes;
use super::pipeline::run;
use super::reading::{Counts, Damages, Reading, SegmentRead};
use super::runs::check_runs;
use super::streams::Streams;
use super::survey::{Block, Item, Reached};
use crate::error::Result;
use crate::index::sealed::OTHER_STREAM;
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
    /// How many events are whole: with the store's own, and with those that are left out and not taken out.
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
}

/// Reads every byte of the store in a directory and verifies every checksum, the chain of frames, seals, positions and
/// versions, manifest against segments, the digests of a backup, index files against segments, merged runs of them against them, and the watermark. It goes on
/// behind damage, and reports every damaged place. An index file that is missing is no damage: it is made again from its segment.
///
/// It takes no lock, does not look at `LOCK`, and changes nothing. What a writer has appended behind the durable mark of the watermark is counted
/// where it is whole and judged only where something later proves that it was on disk. `progress` is told from time to
/// time how far it is, and can stop it.
///
/// Segments are read side by side, by up to four threads: each holds 16 bytes for each of its segment's events, and the segment's index file.
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
    // What was read side by side behind a damaged place is read again, and not told twice.
    let mut told = (0, 0);
    let mut tell = |events: u64, position: u64| {
        told = (events.max(told.0), position.max(told.1));
        let (events, position) = told;
        let last_position = last_position.map(|last| last.max(position));
        progress(&Progress { position, last_position, events, elapsed: start.elapsed() })
    };
    let mut verifying = Verifying::default();
    let (mut events, mut position) = (0, Reached::nothing(&files).chain.position - 1);
    let hasher = verifying.streams.hasher.clone();
    let abreast = read_abreast(storage, &files, &hasher, &mut |read| verifying.join(storage, read), &mut |more, removed| {
        events += more;
        position += more + removed;
        Ok(tell(events, position))
    })?;
    let mut surveyed = None;
    if let Some(reached) = abreast {
        surveyed = run(storage, &files, &reached, &mut |block| {
            verifying.take_in(storage, block)?;
            let read = verifying.counts();
            Ok(tell(read.events, read.last_position))
        })?;
    }
    if surveyed.is_some() {
        verifying.end_segment(storage)?;
        let read = verifying.counts();
        let mut go_on = || tell(read.events, read.last_position);
        if check_runs(storage, &mut |damage| verifying.damage.note(damage), &mut go_on)?.is_break() {
            surveyed = None;
        }
    }
    let surveyed_all = surveyed.is_some();
    let (counts, surveyed) = (verifying.counts(), surveyed.unwrap_or_default());
    Ok(VerifyReport {
        events: counts.events,
        removed: counts.removed,
        frames: counts.frames,
        segments: surveyed.segments,
        bytes: surveyed.bytes,
        last_position: Position(counts.last_position),
        unpromised_bytes: surveyed.unpromised_bytes,
        damage: verifying.damage.told,
        damaged_places: verifying.damage.count,
        complete: surveyed_all,
    })
}

/// How far a stream has come.
#[derive(Default)]
struct Known {
    version: u64,
    /// The segment with its last event.
    segment: u64,
}

/// What was read of the segments so far.
#[derive(Default)]
struct Verifying {
    streams: Streams<Known>,
    read: Counts,
    damage: Damages,
    /// How many events lie in damaged places so far.
    lost: u64,
    /// How many records that were taken out are those of versions that streams lack.
    attributed: u64,
    /// The segment that is being read.
    reading: Option<Reading>,
}

impl Verifying {
    /// What is whole, with the segment that is being read.
    fn counts(&self) -> Counts {
        let here = self.reading.as_ref().map(Reading::counts).unwrap_or_default();
        self.read.with(&here)
    }

    fn take_in(&mut self, storage: &dyn Storage, block: &Block) -> Result<()> {
        if let Some(source) = &block.source
            && !self.reading.as_ref().is_some_and(|reading| reading.is_of(source))
        {
            self.end_segment(storage)?;
            let hasher = self.streams.hasher.clone();
            self.reading = Some(Reading::begin(storage, source, hasher, self.lost, self.read.last_position)?);
        }
        match &mut self.reading {
            Some(reading) => reading.take_in(block),
            None => {
                for item in &block.items {
                    // Frames and records come from a file.
                    if let Item::Damage(damage) = item {
                        self.damage.note(damage.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn end_segment(&mut self, storage: &dyn Storage) -> Result<()> {
        if let Some(reading) = self.reading.take() {
            self.join(storage, reading.end(storage, &mut Vec::new())?)?;
        }
        Ok(())
    }

    /// Takes in a segment that goes on where those before it have ended.
    fn join(&mut self, storage: &dyn Storage, mut segment: SegmentRead) -> Result<()> {
        let (mut not_following, mut index_is_wrong) = (Vec::new(), false);
        for (number, run) in segment.runs().enumerate() {
            let removed = self.read.removed + run.removed;
            let known = self.streams.of(run.hash);
            let skipped = run.version.checked_sub(run.before.unwrap_or(known.version) + 1);
            // Each version that is missing was one of the records that were taken out.
            let taken_out = skipped.unwrap_or(0).min(removed - self.attributed);
            self.attributed += taken_out;
            if skipped.is_none_or(|skipped| skipped - taken_out > run.lost) {
                not_following.push(number);
            }
            if run.lost == 0 && removed == 0 {
                index_is_wrong |= run.previous_segment.is_some_and(|previous| previous != known.segment);
            }
        }
        for (hash, version) in segment.streams() {
            let known = self.streams.of(hash);
            *known = Known { version: version.max(known.version), segment: segment.source.sequence };
        }
        segment.note_not_following(storage, &not_following)?;
        if index_is_wrong && segment.damage.count == 0 {
            segment.index_damage.get_or_insert_with(|| indexes::damaged(&segment.source, OTHER_STREAM));
        }
        self.read = self.read.with(&segment.read);
        self.lost = segment.lost;
        self.damage.append(segment.damage);
        if let Some(damage) = segment.index_damage {
            self.damage.note(damage);
        }
        Ok(())
    }
}
