//! What sealed segments have of a stream: found through runs, index files, and the links from segment to segment.

use std::cmp::Reverse;
use std::sync::Arc;

use super::runs::Runs;
use super::{Files, Sealed, SealedSegment, SegmentIndex, Trouble};
use crate::error::{Error, Result};
use crate::event::{Event, StreamKey};
use crate::index::file::IndexProblem;
use crate::index::sealed::{AskFilter, SealedIndex, StreamEntry, stream_hash};
use crate::index::{Before, Location, StreamId};
use crate::log::runs::FOLDER;
use crate::log_store::read::{Buffers, read_locations};

/// The events of a stream that one segment has.
pub(crate) struct Span {
    pub(crate) segment: Arc<SealedSegment>,
    pub(crate) first_version: u64,
    pub(crate) last_version: u64,
    pub(crate) last_position: u64,
    pub(crate) aggregate_type: String,
    /// The newest earlier segment that may have events of the stream; 0 if there is none.
    before: u64,
    of: SpanOf,
}

enum SpanOf {
    Memory(StreamId),
    File(StreamEntry),
}

/// What the links from segment to segment lead to.
enum Linked {
    /// To these events; to none if the stream has no earlier ones.
    To(Option<Span>),
    /// They are broken.
    Not,
}

impl Sealed {
    /// The newest events of a stream before this segment.
    pub(crate) fn find_before(&self, key: &StreamKey<'_>, sequence: u64, files: &Files) -> Result<Option<Span>> {
        self.find_in(&self.runs(files), key, sequence, files)
    }

    /// The same, as these runs tell.
    fn find_in(&self, runs: &Runs, key: &StreamKey<'_>, sequence: u64, files: &Files) -> Result<Option<Span>> {
        let hash = stream_hash(files.segments.origin(), key.tenant, key.aggregate_id);
        let mut left = &self.segments[..self.segments.partition_point(|segment| segment.named.sequence < sequence)];
        // The run of which one segment after the other is asked, and the one that it names.
        let (mut asked, mut told) = (None, None);
        while let Some((segment, earlier)) = left.split_last() {
            let covering = runs.covering(segment.named.sequence);
            let run = covering.filter(|run| asked != Some(run.identity().first_segment));
            if let Some(run) = run {
                asked = Some(run.identity().first_segment);
                match run.find(hash) {
                    Ok(None) => left = &left[..left.partition_point(|segment| segment.named.sequence < run.identity().first_segment)],
                    Ok(Some(newest)) if newest >= sequence => {
                        if let Linked::To(span) = self.follow_links(key, newest, sequence, files)? {
                            return Ok(span);
                        }
                    }
                    // Later ones have nothing under this hash; earlier ones may, also if this is another stream's.
                    Ok(Some(newest)) => {
                        left = &left[..left.partition_point(|segment| segment.named.sequence <= newest)];
                        told = Some(newest);
                    }
                    Err(IndexProblem::Io(error)) => return Err(Error::io("read a run in", files.storage.path().join(FOLDER), &error)),
                    Err(problem) => self.discard(run, &problem),
                }
                continue;
            }
            let ask = match covering {
                Some(_) if told == Some(segment.named.sequence) => AskFilter::Not,
                Some(_) => AskFilter::InFile,
                None => AskFilter::InMemory,
            };
            if let Some(span) = self.span(segment, key, u64::MAX, ask, files)? {
                return Ok(Some(span));
            }
            left = earlier;
        }
        Ok(None)
    }

    /// The newest events of a stream before a segment, found through those that are not before it: each segment names the one before.
    fn follow_links(&self, key: &StreamKey<'_>, from: u64, sequence: u64, files: &Files) -> Result<Linked> {
        let (mut segment, mut last_version) = (self.numbered(from), None);
        while let Some(here) = segment {
            let Some(span) = self.span(here, key, u64::MAX, AskFilter::Not, files)? else { return Ok(Linked::Not) };
            if last_version.is_some_and(|version| version != span.last_version) {
                return Ok(Linked::Not);
            }
            if here.named.sequence < sequence {
                return Ok(Linked::To(Some(span)));
            }
            let before = span.before();
            if before.version == 0 {
                return Ok(Linked::To(None));
            }
            last_version = Some(before.version);
            segment = self.numbered(before.segment).filter(|next| next.named.sequence < here.named.sequence);
        }
        Ok(Linked::Not)
    }

    /// The newest events of a stream.
    pub(crate) fn find(&self, key: &StreamKey<'_>, files: &Files) -> Result<Option<Span>> {
        self.find_before(key, u64::MAX, files)
    }

    /// The events of a stream before those of a span, which begin with this version in this segment; `before` is what was kept of where they are.
    pub(crate) fn span_before(&self, key: &StreamKey<'_>, first_version: u64, sequence: u64, before: u64, files: &Files) -> Result<Option<Span>> {
        if first_version <= 1 {
            return Ok(None);
        }
        // What is left out between two runs of versions may lie within a segment.
        if let Some(segment) = self.numbered(before)
            && let Some(span) = self.span(segment, key, first_version, AskFilter::Not, files)?
            && (span.last_version + 1 == first_version || before == sequence)
        {
            return Ok(Some(span));
        }
        let runs = self.runs(files);
        let found = self.find_in(&runs, key, sequence, files)?;
        if found.as_ref().is_some_and(|span| span.last_version + 1 >= first_version) {
            return Ok(found);
        }
        // Versions are left out before these, or it has events that no run knows of: every segment is asked.
        let asked = self.find_in(&Runs::default(), key, sequence, files)?;
        let last = |span: &Option<Span>| span.as_ref().map_or(0, |span| span.last_version);
        if last(&asked) > last(&found) {
            for run in runs.iter() {
                self.discard(run, &IndexProblem::Damaged("it passes over events that are there"));
            }
        }
        Ok(asked)
    }

    /// What a segment has of a stream: the newest run of versions that begins below one.
    fn span(&self, segment: &Arc<SealedSegment>, key: &StreamKey<'_>, below: u64, ask: AskFilter, files: &Files) -> Result<Option<Span>> {
        segment.look(files, &self.shared, |index| {
            let part = match index {
                SegmentIndex::File(file) => return file_span(segment, file, key, below, ask, files),
                SegmentIndex::Memory(part) => part,
            };
            let Some(stream) = part.run_below(key, below) else { return Ok(None) };
            let Some(tip) = part.run_tip(stream, u64::MAX) else { return Ok(None) };
            let before = part.before(stream);
            Ok(Some(Span {
                segment: Arc::clone(segment),
                first_version: before.version + 1,
                last_version: tip.version,
                last_position: tip.last_position,
                aggregate_type: tip.aggregate_type.to_owned(),
                before: before.segment,
                of: SpanOf::Memory(stream),
            }))
        })
    }

    /// Where the events of a span are whose versions are `from..=to`, oldest first.
    pub(crate) fn span_locations(&self, span: &Span, key: &StreamKey<'_>, from: u64, to: u64, files: &Files, out: &mut Vec<Location>) -> Result<()> {
        let found = span.segment.look(files, &self.shared, |index| {
            let mut locations = Vec::new();
            match (index, &span.of) {
                (SegmentIndex::Memory(part), SpanOf::Memory(stream)) => part.stream_locations(*stream, from, to, &mut locations),
                (SegmentIndex::File(file), SpanOf::File(entry)) => {
                    let mut slots = Vec::new();
                    file.stream_slots(entry, from, to, &mut slots)?;
                    for slot in slots {
                        locations.push(location(&span.segment, file, slot)?);
                    }
                }
                // It was replaced by the other kind meanwhile.
                _ => return Ok(None),
            }
            Ok(Some(locations))
        })?;
        if let Some(found) = found {
            *out = found;
            return Ok(());
        }
        // An index that was made anew leaves out what was taken out of the segment.
        out.clear();
        match self.span(&span.segment, key, span.last_version.saturating_add(1), AskFilter::Not, files)? {
            Some(span) if span.first_version <= to => self.span_locations(&span, key, from.max(span.first_version), to, files, out),
            _ => Ok(()),
        }
    }
}

impl Span {
    /// What is known of the stream before this span.
    pub(crate) fn before(&self) -> Before {
        Before { version: self.first_version - 1, segment: self.before }
    }
}

fn location(segment: &SealedSegment, file: &SealedIndex, slot: u32) -> Result<Location, Trouble> {
    let mut places = Vec::with_capacity(1);
    file.places(slot, slot, &mut places)?;
    let (place, _) = *places.first().ok_or(IndexProblem::Damaged("it lacks an event"))?;
    Ok(Location { position: segment.named.base_position + u64::from(slot), lsn: segment.named.base_lsn + u64::from(place) * 8 })
}

/// The event at a place that an index file tells; `None` if it was taken out.
fn event_at(segment: &SealedSegment, file: &SealedIndex, slot: u32, files: &Files) -> Result<Option<Event>, Trouble> {
    let location = location(segment, file, slot)?;
    let fetched = read_locations(&files.segments, &[location], &mut Buffers::default())?;
    Ok(fetched.events.into_iter().next())
}

fn file_span(
    segment: &Arc<SealedSegment>,
    file: &SealedIndex,
    key: &StreamKey<'_>,
    below: u64,
    ask: AskFilter,
    files: &Files,
) -> Result<Option<Span>, Trouble> {
    let mut entries = file.streams(stream_hash(file.identity().store_id, key.tenant, key.aggregate_id), ask)?;
    entries.retain(|entry| entry.first_version < below);
    // Of a stream that goes on behind versions that are left out the newest run comes first.
    entries.sort_by_key(|entry| Reverse(entry.first_version));
    for entry in entries {
        let last_version = entry.first_version + u64::from(entry.count).saturating_sub(1);
        let mut slots = Vec::with_capacity(1);
        file.stream_slots(&entry, last_version, last_version, &mut slots)?;
        let slot = *slots.first().ok_or(IndexProblem::Damaged("it has a stream without events"))?;
        // Where the last one was taken out, all were.
        let Some(event) = event_at(segment, file, slot, files)? else { continue };
        if event.version().0 != last_version {
            return Err(IndexProblem::Damaged("it has another version of an event than the log").into());
        }
        if (event.tenant(), event.aggregate_id()) == (key.tenant, key.aggregate_id) {
            return Ok(Some(Span {
                segment: Arc::clone(segment),
                first_version: entry.first_version,
                last_version,
                last_position: event.position().0,
                aggregate_type: event.aggregate_type().to_owned(),
                before: entry.previous_segment,
                of: SpanOf::File(entry),
            }));
        }
    }
    Ok(None)
}
