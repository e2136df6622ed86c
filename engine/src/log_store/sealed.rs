//! Finding events in sealed segments: by their index files, and where one is missing or damaged, by an index made from the segment.

mod filter;
mod ids;
mod runs;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use uuid::Uuid;

pub(crate) use filter::SealedFilter;
use filter::collect;

use runs::Runs;

use super::read::{Buffers, read_locations};
use super::take_in;
use crate::error::{Error, Remedy, Result};
use crate::event::{Event, StreamKey};
use crate::index::file::IndexProblem;
use crate::index::part::Part;
use crate::index::sealed::{Identity, SealedIndex, StreamEntry, stream_hash};
use crate::index::{Before, KindFilter, Location, StreamId};
use crate::log::manifest::ManifestSegment;
use crate::log::open::first_chain;
use crate::log::runs::FOLDER;
use crate::log::segment::{Segment, index_name};
use crate::log::segments::Segments;
use crate::log::storage::Storage;

/// How many index files are kept open.
const OPEN_MAX: usize = 128;

/// Where the bytes are.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) segments: Arc<Segments>,
}

/// The sealed segments of a log, as they were at one moment, in their order.
#[derive(Clone, Default)]
pub(crate) struct Sealed {
    segments: Vec<Arc<SealedSegment>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Those whose index files were opened, the first one first.
    open: Mutex<VecDeque<Arc<SealedSegment>>>,
    /// `None` until somebody asked for them.
    runs: Mutex<Option<Runs>>,
}

/// A sealed segment, and its index once that was asked for.
pub(crate) struct SealedSegment {
    pub(crate) named: ManifestSegment,
    /// The position behind its last event.
    pub(crate) end_position: u64,
    index: Mutex<Option<SegmentIndex>>,
    /// Its largest event id, once it is known.
    largest_id: OnceLock<Option<Uuid>>,
}

/// The index of a sealed segment.
#[derive(Clone)]
pub(crate) enum SegmentIndex {
    Memory(Arc<Part>),
    File(Arc<SealedIndex>),
}

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

/// Why a look into an index did not succeed.
enum Trouble {
    Index(IndexProblem),
    Store(Error),
}

impl From<IndexProblem> for Trouble {
    fn from(problem: IndexProblem) -> Self {
        Self::Index(problem)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl SealedSegment {
    fn new(named: ManifestSegment, end_position: u64, index: Option<SegmentIndex>) -> Arc<Self> {
        Arc::new(Self { named, end_position, index: Mutex::new(index), largest_id: OnceLock::new() })
    }

    /// What its index file must say of itself.
    pub(crate) fn identity(&self, segment: &Segment, files: &Files) -> Identity {
        let header = &segment.header;
        Identity {
            store_id: files.segments.origin(),
            sequence: header.sequence,
            salt: header.salt,
            base_lsn: header.base_lsn,
            end_lsn: self.named.end_lsn.unwrap_or(0),
            base_position: header.base_position,
            end_position: self.end_position,
        }
    }

    /// Looks something up in the index; in one that is made from the segment, if the file is missing or damaged.
    fn look<T>(self: &Arc<Self>, files: &Files, shared: &Shared, look: impl Fn(&SegmentIndex) -> Result<T, Trouble>) -> Result<T> {
        let index = self.opened(files, shared)?;
        let problem = match look(&index) {
            Ok(found) => return Ok(found),
            Err(Trouble::Store(error)) => return Err(error),
            Err(Trouble::Index(problem)) => problem,
        };
        match look(&self.made(files, &problem)?) {
            Ok(found) => Ok(found),
            Err(Trouble::Store(error)) => Err(error),
            Err(Trouble::Index(_)) => Err(Error::configuration("an index in memory cannot be damaged")),
        }
    }

    fn opened(self: &Arc<Self>, files: &Files, shared: &Shared) -> Result<SegmentIndex> {
        let mut index = self.index.lock();
        if let Some(index) = &*index {
            return Ok(index.clone());
        }
        let segment = files.segments.numbered(self.named.sequence)?;
        let name = index_name(self.named.sequence);
        match SealedIndex::open(&*files.storage, &name, &self.identity(&segment, files)) {
            Ok(file) => {
                let opened = SegmentIndex::File(Arc::new(file));
                *index = Some(opened.clone());
                drop(index);
                shared.opened(self);
                Ok(opened)
            }
            Err(problem) => {
                drop(index);
                self.made(files, &problem)
            }
        }
    }

    /// An index made from the segment, in place of a file that cannot be used.
    fn made(self: &Arc<Self>, files: &Files, problem: &IndexProblem) -> Result<SegmentIndex> {
        let path = files.storage.path().join(index_name(self.named.sequence));
        match problem {
            IndexProblem::Missing => tracing::info!(?path, "the segment has no index file; its index is made from the segment"),
            IndexProblem::Damaged(reason) => tracing::warn!(?path, reason, "the index file is damaged; the index is made from the segment"),
            IndexProblem::Io(error) => return Err(Error::io("read", path, error)),
        }
        let made = SegmentIndex::Memory(Arc::new(self.part(files)?));
        *self.index.lock() = Some(made.clone());
        Ok(made)
    }

    /// The index of the segment, made by reading it.
    fn part(&self, files: &Files) -> Result<Part> {
        let segment = files.segments.numbered(self.named.sequence)?;
        let mut part = Part::new(self.named.sequence, self.named.base_position);
        let scan = segment.scan(&first_chain(&segment.header), &mut |segment, frame| take_in(&mut part, segment, frame))?;
        if scan.seal.is_none() || Some(scan.chain.lsn) != self.named.end_lsn || scan.chain.position != self.end_position {
            let reason = scan.stopped.unwrap_or("the segment does not end where the manifest says");
            let mut damage = segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason);
            damage.remedy = Remedy::ReadOrAcceptLoss;
            return Err(damage.into());
        }
        Ok(part)
    }

    /// Uses this index from now on.
    pub(crate) fn replace_index(&self, index: SealedIndex) {
        *self.index.lock() = Some(SegmentIndex::File(Arc::new(index)));
    }

    /// Its index in memory, made from the segment if it is not there.
    pub(crate) fn in_memory(&self, files: &Files) -> Result<Arc<Part>> {
        if let Some(SegmentIndex::Memory(part)) = &*self.index.lock() {
            return Ok(Arc::clone(part));
        }
        self.part(files).map(Arc::new)
    }

    /// Its largest event id.
    fn largest_id(self: &Arc<Self>, files: &Files, shared: &Shared) -> Result<Option<Uuid>> {
        if let Some(largest) = self.largest_id.get() {
            return Ok(*largest);
        }
        let largest = self.look(files, shared, |index| {
            Ok(match index {
                SegmentIndex::File(file) => file.id_range().map(|(_, largest)| largest),
                SegmentIndex::Memory(part) => part.largest_id(),
            })
        })?;
        Ok(*self.largest_id.get_or_init(|| largest))
    }
}

impl Shared {
    /// Remembers that an index file is open, and closes the one that was opened first if there are too many.
    fn opened(&self, segment: &Arc<SealedSegment>) {
        let mut open = self.open.lock();
        open.push_back(Arc::clone(segment));
        let first = if open.len() > OPEN_MAX { open.pop_front() } else { None };
        drop(open);
        if let Some(first) = first {
            let mut index = first.index.lock();
            // What is in memory has no file to be opened again.
            if matches!(&*index, Some(SegmentIndex::File(_))) {
                *index = None;
            }
        }
    }
}

impl Sealed {
    /// Those of a manifest, each with the position behind its last event.
    pub(crate) fn new(segments: impl IntoIterator<Item = (ManifestSegment, u64)>) -> Self {
        let segments = segments.into_iter().map(|(named, end)| SealedSegment::new(named, end, None)).collect();
        Self { segments, shared: Arc::default() }
    }

    /// These and one more, whose index is in memory.
    pub(crate) fn and(&self, named: ManifestSegment, part: Arc<Part>) -> Self {
        let mut sealed = self.clone();
        let (end_position, largest_id) = (part.last_position() + 1, part.largest_id());
        let segment = SealedSegment::new(named, end_position, Some(SegmentIndex::Memory(part)));
        // Nobody else has it yet.
        let _ = segment.largest_id.set(largest_id);
        sealed.segments.push(segment);
        sealed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<SealedSegment>> {
        self.segments.iter()
    }

    /// The segment with an event at this position.
    pub(crate) fn holding(&self, position: u64) -> Option<&Arc<SealedSegment>> {
        let next = self.segments.partition_point(|segment| segment.named.base_position <= position);
        self.segments.get(next.checked_sub(1)?).filter(|segment| position < segment.end_position)
    }

    pub(crate) fn numbered(&self, sequence: u64) -> Option<&Arc<SealedSegment>> {
        self.segments.binary_search_by_key(&sequence, |segment| segment.named.sequence).ok().map(|index| &self.segments[index])
    }

    /// The newest events of a stream before this segment.
    pub(crate) fn find_before(&self, key: &StreamKey<'_>, sequence: u64, files: &Files) -> Result<Option<Span>> {
        let runs = self.runs(files);
        let hash = stream_hash(files.segments.origin(), key.tenant, key.aggregate_id);
        let mut left = &self.segments[..self.segments.partition_point(|segment| segment.named.sequence < sequence)];
        // The run of which one segment after the other is asked.
        let mut asked = None;
        while let Some((segment, earlier)) = left.split_last() {
            let run = runs.covering(segment.named.sequence).filter(|run| asked != Some(run.identity().first_segment));
            if let Some(run) = run {
                asked = Some(run.identity().first_segment);
                match run.find(hash) {
                    Ok(None) => left = &left[..left.partition_point(|segment| segment.named.sequence < run.identity().first_segment)],
                    // Later ones have nothing under this hash; earlier ones may, also if this is another stream's.
                    Ok(Some(newest)) => left = &left[..left.partition_point(|segment| segment.named.sequence <= newest)],
                    Err(IndexProblem::Io(error)) => return Err(Error::io("read a run in", files.storage.path().join(FOLDER), &error)),
                    Err(problem) => self.discard(run, &problem),
                }
                continue;
            }
            if let Some(span) = self.span(segment, key, files)? {
                return Ok(Some(span));
            }
            left = earlier;
        }
        Ok(None)
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
        if let Some(segment) = self.numbered(before)
            && let Some(span) = self.span(segment, key, files)?
            && span.last_version + 1 == first_version
        {
            return Ok(Some(span));
        }
        self.find_before(key, sequence, files)
    }

    /// What a segment has of a stream.
    fn span(&self, segment: &Arc<SealedSegment>, key: &StreamKey<'_>, files: &Files) -> Result<Option<Span>> {
        segment.look(files, &self.shared, |index| {
            let part = match index {
                SegmentIndex::File(file) => return file_span(segment, file, key, files),
                SegmentIndex::Memory(part) => part,
            };
            let Some((stream, tip)) = part.stream(key).zip(part.tip(key)) else { return Ok(None) };
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
        match self.span(&span.segment, key, files)? {
            Some(span) => self.span_locations(&span, key, from, to, files, out),
            None => Err(Error::configuration("a stream is not in its segment any more")),
        }
    }

    /// Where the events are whose positions are `from..=to`, which all are in this segment, at most `limit` of those that are wanted,
    /// in the direction of reading. Gives the last position that was looked at.
    #[expect(clippy::too_many_arguments, reason = "a range, its direction, its limit, and where to look")]
    pub(crate) fn locations(
        &self,
        segment: &Arc<SealedSegment>,
        (from, to): (u64, u64),
        backwards: bool,
        filter: &SealedFilter,
        limit: usize,
        files: &Files,
        out: &mut Vec<Location>,
    ) -> Result<u64> {
        let (looked, found) = segment.look(files, &self.shared, |index| {
            let filter = filter.of(segment.named.sequence, index)?;
            let mut found = Vec::new();
            if filter.as_deref().is_some_and(KindFilter::accepts_nothing) {
                return Ok((if backwards { from } else { to }, found));
            }
            let file = match index {
                SegmentIndex::Memory(part) => {
                    let looked = part.locations(from, to, backwards, filter.as_deref(), limit, &mut found);
                    return Ok((looked, found));
                }
                SegmentIndex::File(file) => file,
            };
            Ok((collect(segment, file, (from, to), backwards, filter.as_deref(), limit, &mut found)?, found))
        })?;
        *out = found;
        Ok(looked)
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

/// The event at a place that an index file tells.
fn event_at(segment: &SealedSegment, file: &SealedIndex, slot: u32, files: &Files) -> Result<Event, Trouble> {
    let location = location(segment, file, slot)?;
    let events = read_locations(&files.segments, &[location], &mut Buffers::default())?;
    events.into_iter().next().ok_or(Trouble::Index(IndexProblem::Damaged("it names an event that is not there")))
}

fn file_span(segment: &Arc<SealedSegment>, file: &SealedIndex, key: &StreamKey<'_>, files: &Files) -> Result<Option<Span>, Trouble> {
    for entry in file.streams(stream_hash(file.identity().store_id, key.tenant, key.aggregate_id))? {
        let last_version = entry.first_version + u64::from(entry.count).saturating_sub(1);
        let mut slots = Vec::with_capacity(1);
        file.stream_slots(&entry, last_version, last_version, &mut slots)?;
        let slot = *slots.first().ok_or(IndexProblem::Damaged("it has a stream without events"))?;
        let event = event_at(segment, file, slot, files)?;
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
