//! Giving back the space of events that are left out: segment by segment, while others append and read.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::append::Deciding;
use super::keeping::{Keeping, Name, Wanted, first_live};
use super::read::{Buffers, files, read_locations, visible_tip};
use super::sealed::{Files, Sealed, Span};
use crate::codec::Body;
use crate::error::{Error, Result};
use crate::event::StreamKey;
use crate::log::format::RecordEntry;
use crate::log::manifest::ManifestSegment;
use crate::log::scavenge::{count_unwanted, scavenge};
use crate::log::segment::Segment;
use crate::log::storage::Access;
use crate::log::writer::Writer;
use crate::progress::Progress;
use crate::version::Position;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// What scavenging has given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ScavengeReport {
    /// How many events were taken out.
    pub events: u64,
    /// How many segments they were taken out of.
    pub segments: u64,
    /// How long the files of these segments were, in bytes.
    pub bytes_before: u64,
    /// How long they are.
    pub bytes_after: u64,
    /// Whether everything was done; false if it was stopped before.
    pub complete: bool,
}

/// From which version on streams are left that were deleted or limited when scavenging began; those before are to be taken out, whatever
/// becomes of the streams meanwhile.
struct Floors(HashMap<Name, u64, RandomState>);

impl Floors {
    fn look(writer: &Arc<Writer<Deciding>>, keeping: &Keeping) -> Result<Self> {
        let mut floors = HashMap::default();
        for (name, kept) in keeping.all() {
            let floor = if kept.limits.is_none() {
                kept.after.saturating_add(1)
            } else {
                let version = visible_tip(writer, &name.key())?.map_or(0, |tip| tip.version);
                first_live(writer, keeping, &name.key(), version)?
            };
            floors.insert(name, floor);
        }
        Ok(Self(floors))
    }

    fn of(&self, key: &StreamKey<'_>) -> u64 {
        self.0.get(&Wanted(*key)).copied().unwrap_or(1)
    }

    fn is_unwanted(&self, entry: &RecordEntry, body: &[u8]) -> Result<bool> {
        let (_, names) = Body::parse(body).map_err(Error::configuration)?;
        Ok(entry.version < self.of(&StreamKey { tenant: names.tenant, aggregate_id: names.aggregate_id }))
    }
}

/// Takes out of the log's files what readers are not given any more.
pub(crate) fn scavenge_open(
    writer: &Arc<Writer<Deciding>>,
    sync: impl FnOnce() -> Result<Position>,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<ScavengeReport> {
    let start = Instant::now();
    let keeping = writer.with(|deciding| Arc::clone(&deciding.keeping));
    let mut report = ScavengeReport::default();
    if !keeping.load(writer)? {
        return Ok(ScavengeReport { complete: true, ..report });
    }
    let floors = Floors::look(writer, &keeping)?;
    // What they rest on must not be lost when what is taken out is gone.
    sync()?;
    if is_in_active(writer, &floors) {
        writer.begin_segment()?;
    }
    let (sealed, files) = (writer.with(|deciding| deciding.sealed.clone()), files(writer));
    let mut segments = BTreeSet::new();
    for (name, floor) in &floors.0 {
        find(&sealed, &name.key(), *floor, &files, &mut segments)?;
    }
    let rewritable: BTreeSet<u64> = writer.rewritable().iter().map(|named| named.sequence).collect();
    if !segments.is_subset(&rewritable) {
        // The last segment may be sealed, and its successor not begun.
        writer.begin_segment()?;
    }
    let end = sealed.iter().last().map_or(0, |last| last.end_position - 1);
    for sequence in segments {
        let position = sealed.numbered(sequence).map_or(0, |segment| segment.named.base_position - 1);
        let told = Progress { position, last_position: Some(end), events: report.events, elapsed: start.elapsed() };
        if progress(&told).is_break() {
            return Ok(report);
        }
        rewrite(writer, sequence, &floors, &mut report)?;
    }
    // Also what an earlier one has left that was killed.
    writer.with(|deciding| Arc::clone(&deciding.packing)).replaced(writer)?;
    let _ = progress(&Progress { position: end, last_position: Some(end), events: report.events, elapsed: start.elapsed() });
    Ok(ScavengeReport { complete: true, ..report })
}

/// Whether the segment that is written to has something to be taken out.
fn is_in_active(writer: &Writer<Deciding>, floors: &Floors) -> bool {
    let floors: Vec<_> = floors.0.iter().collect();
    // Not all at once under the lock that appends need.
    floors.chunks(256).any(|floors| {
        writer.with(|deciding| {
            let active = deciding.index.active();
            let is_there =
                |(name, floor): &(&Name, &u64)| active.stream(&name.key()).is_some_and(|stream| active.before(stream).version + 1 < **floor);
            floors.iter().any(is_there)
        })
    })
}

/// Notes the sealed segments that have something of a stream that is to be taken out.
fn find(sealed: &Sealed, key: &StreamKey<'_>, floor: u64, files: &Files, segments: &mut BTreeSet<u64>) -> Result<()> {
    let mut next = sealed.find(key, files)?;
    while let Some(span) = next {
        let last = span.last_version.min(floor - 1);
        if span.first_version <= last && is_there(sealed, &span, key, last, files)? {
            segments.insert(span.segment.named.sequence);
        }
        next = sealed.span_before(key, span.first_version, span.segment.named.sequence, span.before().segment, files)?;
    }
    Ok(())
}

/// Whether an event of a span is there still: an index may be older than what was taken out. The last one goes with all before it.
fn is_there(sealed: &Sealed, span: &Span, key: &StreamKey<'_>, version: u64, files: &Files) -> Result<bool> {
    let mut locations = Vec::new();
    sealed.span_locations(span, key, version, version, files, &mut locations)?;
    Ok(!read_locations(&files.segments, &locations, &mut Buffers::default())?.events.is_empty())
}

/// Has a generation of a segment take its place that is without what is to be taken out, and removes the file of the one before.
fn rewrite(writer: &Arc<Writer<Deciding>>, sequence: u64, floors: &Floors, report: &mut ScavengeReport) -> Result<()> {
    let storage = Arc::clone(writer.storage());
    let mut done = None;
    let make = |named: &ManifestSegment, segment: &Segment| {
        let unwanted = |entry: &RecordEntry, body: &[u8]| floors.is_unwanted(entry, body);
        if count_unwanted(named, segment, &unwanted)? == 0 {
            return Ok(*named);
        }
        let file = storage.open(&segment.name, Access::Read);
        let bytes_before = file.and_then(|file| file.length()).map_err(|error| segment.io("look up", &error))?;
        let Some(made) = scavenge(&*storage, named, segment, &unwanted, &|| writer.is_closed())? else { return Err(Error::Closed) };
        done = Some((made.removed, bytes_before, made.file_bytes));
        Ok(made.named)
    };
    writer.rewrite(sequence, make)?;
    let Some((removed, bytes_before, bytes_after)) = done else { return Ok(()) };
    report.segments += 1;
    report.events += removed;
    report.bytes_before += bytes_before;
    report.bytes_after += bytes_after;
    writer.with(|deciding| Arc::clone(&deciding.packing)).replaced(writer)
}
