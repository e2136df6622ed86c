//! Segments read side by side, each in a thread of its own, as long as there is nothing to report of them but their events.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::files::{Files, Held, Place};
use super::reading::{Counts, Reading, SegmentRead};
use super::streams::StreamHasher;
use super::survey::{Item, Reached, survey_one};
use crate::error::{Error, Result};
use crate::log::format::SegmentHeader;
use crate::log::storage::Storage;

/// More threads than this would wait for the disk.
const THREADS_MAX: u64 = 4;
/// The segments that are being read at the same time are no larger than this together: what is kept of their events is a fifth of it or so.
const BYTES_MAX: u64 = 1 << 30;

/// How many bytes a thread reads before it tells of them: whoever is woken for it takes the time of one of those that read.
const TOLD_BYTES: usize = 4 << 20;

/// What a thread tells.
enum Told {
    /// It has read so many events and records that were taken out.
    Read { events: u64, removed: u64 },
    /// It has read the segment at this place, or has found that it must be read after those before it.
    Segment(usize, Option<Box<Whole>>),
}

/// A segment without a damaged place, read by itself.
struct Whole {
    header: SegmentHeader,
    /// When its first frame was committed.
    commit_time: Option<i64>,
    /// What was reached with it.
    reached: Reached,
    read: SegmentRead,
}

/// Reads the segments from the first one on, in several threads, up to the first that is not whole or does not continue the one before it.
/// Gives each to `take`, in the order of the log, and tells `progress` of so many further events and records that were taken out. What
/// was reached; nothing if `progress` had enough.
pub(super) fn read_abreast(
    storage: &dyn Storage,
    files: &Files,
    hasher: &StreamHasher,
    take: &mut dyn FnMut(SegmentRead) -> Result<()>,
    progress: &mut dyn FnMut(u64, u64) -> Result<ControlFlow<()>>,
) -> Result<Option<Reached>> {
    let headers = sound_headers(files);
    let mut reached = Reached::nothing(files);
    let threads = threads_for(files, headers.len());
    if threads < 2 {
        return Ok(Some(reached));
    }
    let (next, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (told, hear) = channel();
        for _ in 0..threads {
            let reader = Reader { storage, files, headers: &headers, hasher: hasher.clone(), next: &next, enough: &enough, told: told.clone() };
            scope.spawn(move || reader.run());
        }
        drop(told);
        let heard = listen(&hear, &mut reached, take, progress);
        enough.store(true, Ordering::Relaxed);
        heard.map(|flow| flow.is_continue().then_some(reached))
    })
}

/// The headers of the places from the first one on with a segment that the manifest names and whose header is sound.
fn sound_headers(files: &Files) -> Vec<&SegmentHeader> {
    if !files.has_manifest || !files.damage.is_empty() {
        return Vec::new();
    }
    let sound = |place: &Place| place.named.is_some() && matches!(place.held, Held::Segment { .. });
    files.places.iter().take_while(|place| sound(place)).filter_map(Place::header).collect()
}

fn threads_for(files: &Files, segments: usize) -> u64 {
    let bytes = |place: &Place| place.named.and_then(|named| named.end_lsn?.checked_sub(named.base_lsn));
    let largest = files.places.iter().filter_map(bytes).max().unwrap_or(0).max(1);
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    processors.min(THREADS_MAX).min(segments as u64).min(BYTES_MAX / largest)
}

/// Takes in what threads tell, in the order of the log.
fn listen(
    hear: &Receiver<Told>,
    reached: &mut Reached,
    take: &mut dyn FnMut(SegmentRead) -> Result<()>,
    progress: &mut dyn FnMut(u64, u64) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let mut early = std::collections::BTreeMap::new();
    while let Ok(told) = hear.recv() {
        match told {
            Told::Read { events, removed } => {
                if progress(events, removed)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Told::Segment(place, whole) => {
                early.insert(place, whole);
            }
        }
        while let Some(whole) = early.remove(&reached.places) {
            let Some(whole) = whole.filter(|whole| whole.continues(reached)) else { return Ok(ControlFlow::Continue(())) };
            *reached = whole.reached_after(reached);
            take(whole.read)?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Whole {
    /// Whether it goes on where those before it have ended.
    fn continues(&self, before: &Reached) -> bool {
        let Reached { chain, anchor, surveyed, .. } = before;
        (self.header.base_lsn, self.header.base_position, Some(self.header.anchor)) == (chain.lsn, chain.position, *anchor)
            && (surveyed.segments == 0 || self.header.epoch == chain.epoch)
            && self.commit_time.is_none_or(|first| first >= chain.commit_time)
    }

    /// What was reached with it and those before it.
    fn reached_after(&self, before: &Reached) -> Reached {
        let mut reached = self.reached;
        reached.chain.commit_time = reached.chain.commit_time.max(before.chain.commit_time);
        reached.chain.durable_upto = reached.chain.durable_upto.max(before.chain.durable_upto);
        reached.surveyed.segments += before.surveyed.segments;
        reached.surveyed.bytes += before.surveyed.bytes;
        reached.surveyed.unpromised_bytes += before.surveyed.unpromised_bytes;
        reached
    }
}

/// A thread that reads one segment after the other.
struct Reader<'a> {
    storage: &'a dyn Storage,
    files: &'a Files,
    headers: &'a [&'a SegmentHeader],
    hasher: StreamHasher,
    next: &'a AtomicUsize,
    enough: &'a AtomicBool,
    told: Sender<Told>,
}

impl Reader<'_> {
    fn run(&self) {
        let mut memory = Vec::new();
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(header) = self.headers.get(place).filter(|_| !self.enough.load(Ordering::Relaxed)) else { return };
            // What went wrong shows again when it is read after those before it.
            let whole = self.read(place, header, &mut memory).ok().flatten();
            if self.told.send(Told::Segment(place, whole.map(Box::new))).is_err() {
                return;
            }
        }
    }

    /// Reads a segment; nothing if it is not whole.
    fn read(&self, place: usize, header: &SegmentHeader, memory: &mut Vec<u8>) -> Result<Option<Whole>> {
        let (mut reading, mut commit_time, mut is_whole) = (None::<Reading>, None, true);
        let (mut told, mut bytes) = (Counts::default(), 0);
        let reached = survey_one(self.storage, self.files, place, header, &mut |block| {
            is_whole &= block.items.iter().all(|item| matches!(item, Item::Frame { .. }));
            if !is_whole || self.enough.load(Ordering::Relaxed) {
                return Err(Error::configuration("reading the segment was given up"));
            }
            let Some(source) = &block.source else { return Ok(block) };
            let reading = match &mut reading {
                Some(reading) => reading,
                none => none.insert(Reading::begin(self.storage, source, self.hasher.clone(), 0, header.base_position - 1)?),
            };
            if let (None, Some(Item::Frame { header, .. })) = (commit_time, block.items.first()) {
                commit_time = Some(header.commit_time);
            }
            reading.take_in(&block);
            bytes += block.bytes.len();
            if bytes >= TOLD_BYTES {
                bytes = 0;
                self.tell(reading.counts(), &mut told)?;
            }
            Ok(block)
        })?;
        let Some(reading) = reading else { return Ok(None) };
        self.tell(reading.counts(), &mut told)?;
        let read = reading.end(self.storage, memory)?;
        Ok(Some(Whole { header: *header, commit_time, reached, read }))
    }

    /// Tells of what was read since the last time.
    fn tell(&self, read: Counts, told: &mut Counts) -> Result<()> {
        let more = Told::Read { events: read.events - told.events, removed: read.removed - told.removed };
        *told = read;
        self.told.send(more).map_err(|_| Error::configuration("nobody listens"))
    }
}
