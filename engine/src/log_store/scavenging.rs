//! Giving back the space of events that are left out: segment by segment, while others append and read.

mod active;
mod floors;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use active::InActive;
pub(crate) use floors::CarriedOut;
use floors::{Floor, Floors};

use super::append::Deciding;
use super::keeping::Keeping;
use super::read::{Buffers, files, read_locations};
use super::sealed::{Files, Sealed, Span};
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
    /// How many events stay in the segment that is written to, because it was not [worth](Extent::Worthwhile) sealing.
    pub left: u64,
    /// Whether everything was done; false if it was stopped before.
    pub complete: bool,
}

/// How thoroughly a store is scavenged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Extent {
    /// No file of the store has what is left out, when it is done. The segment that is written to is sealed first if it has any of that, however
    /// short it is: scavenging often like that leaves many short segments, each with an index file.
    #[default]
    Everything,
    /// The segment that is written to is sealed only if it is 4 MiB long or more and a quarter of it can be given back. Else what is left out
    /// stays there, told as [`left`](ScavengeReport::left), until the segment is sealed for other reasons and the store is scavenged again.
    /// For who scavenges regularly to save space.
    Worthwhile,
}

/// Takes out of the log's files what readers are not given any more.
pub(crate) fn scavenge_open(
    writer: &Arc<Writer<Deciding>>,
    extent: Extent,
    sync: impl FnOnce() -> Result<Position>,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<ScavengeReport> {
    let start = Instant::now();
    let keeping = writer.with(|deciding| Arc::clone(&deciding.keeping));
    let mut report = ScavengeReport::default();
    if !keeping.load(writer)? {
        return Ok(ScavengeReport { complete: true, ..report });
    }
    // Who scavenges while somebody else does goes by what is on disk, and leaves what is known of it alone.
    let mut known = keeping.carried_out.try_lock();
    let floors = Floors::look(writer, &keeping, known.as_deref().unwrap_or(&CarriedOut::default()))?;
    // What they rest on must not be lost when what is taken out is gone.
    sync()?;
    let mut in_active = InActive::look(writer, &floors);
    if in_active.is_worth_sealing(writer, &floors, extent)? {
        writer.begin_segment()?;
        in_active = InActive::default();
    }
    let (sealed, files) = (writer.with(|deciding| deciding.sealed.clone()), files(writer));
    let mut segments = BTreeSet::new();
    for (name, floor) in floors.iter() {
        find(&sealed, &name.key(), floor, &files, &mut segments)?;
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
    report.left = in_active.events;
    note(writer, &keeping, &floors, in_active, known.as_deref_mut())?;
    let _ = progress(&Progress { position: end, last_position: Some(end), events: report.events, elapsed: start.elapsed() });
    Ok(ScavengeReport { complete: true, ..report })
}

/// Remembers what was carried out, so that nobody looks for it again: on disk what deletions say, in memory also what limits do.
fn note(writer: &Writer<Deciding>, keeping: &Keeping, floors: &Floors, left: InActive, known: Option<&mut CarriedOut>) -> Result<()> {
    for (name, floor) in floors.iter().filter(|(name, floor)| !floor.is_fixed && !left.streams.contains(*name)) {
        keeping.note_taken_out(&name.key(), floor.position, floor.first - 1);
    }
    if let Some(position) = floors.carried_out(&left.streams) {
        writer.note_scavenged(position)?;
    }
    if let Some(known) = known {
        known.note(floors.upto, left.streams);
    }
    Ok(())
}

/// Notes the sealed segments that have something of a stream that is to be taken out.
fn find(sealed: &Sealed, key: &StreamKey<'_>, floor: &Floor, files: &Files, segments: &mut BTreeSet<u64>) -> Result<()> {
    let mut next = sealed.find(key, files)?;
    while let Some(span) = next.filter(|span| span.last_version > floor.gone) {
        let last = span.last_version.min(floor.first - 1);
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
