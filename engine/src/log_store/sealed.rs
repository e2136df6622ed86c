//! Finding events in sealed segments: by their index files, and where one is missing or damaged, by an index made from the segment.

mod filter;
mod ids;
mod runs;
mod streams;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use uuid::Uuid;

pub(crate) use filter::SealedFilter;
use filter::collect;
use ids::{IdRange, LargestId};
pub(crate) use runs::Merging;
use runs::Runs;
pub(crate) use streams::Span;

use super::indexing::Indexing;
use super::take_in;
use crate::error::{Error, Remedy, Result};
use crate::index::file::IndexProblem;
use crate::index::part::Part;
use crate::index::sealed::{Identity, SealedIndex};
use crate::index::{KindFilter, Location};
use crate::log::manifest::ManifestSegment;
use crate::log::open::first_chain;
use crate::log::segment::{Segment, index_name};
use crate::log::segments::Segments;
use crate::log::storage::Storage;

/// How many index files are kept open.
const OPEN_MAX: usize = 128;

/// How many indexes a reader keeps that it had to make itself.
const MADE_MAX: usize = 4;

/// Where the bytes are.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) segments: Arc<Segments>,
}

/// The sealed segments of a log, as they were at one moment, in their order.
#[derive(Clone)]
pub(crate) struct Sealed {
    /// Shared, since whoever looks something up takes them along.
    segments: Arc<Vec<Arc<SealedSegment>>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Those whose indexes were made from them because their files cannot be used, the first one first, and how many may be.
    made: Mutex<VecDeque<Arc<SealedSegment>>>,
    made_max: usize,
    /// Those whose index files were opened, the first one first.
    open: Mutex<VecDeque<Arc<SealedSegment>>>,
    /// `None` until somebody asked for them.
    runs: Mutex<Option<Runs>>,
    /// How much memory the filters of runs may take.
    filter_bytes: u64,
    largest_id: Mutex<LargestId>,
    /// Whether runs that are not used were looked for.
    swept: AtomicBool,
    /// Who makes damaged index files again, if somebody does.
    indexing: OnceLock<Weak<Indexing>>,
}

/// What the manifest says of a sealed segment, whichever generation of it counts.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) sequence: u64,
    pub(crate) base_lsn: u64,
    pub(crate) base_position: u64,
    pub(crate) end_lsn: Option<u64>,
}

/// A sealed segment, and its index once that was asked for.
pub(crate) struct SealedSegment {
    pub(crate) named: Extent,
    /// The position behind its last event.
    pub(crate) end_position: u64,
    index: Mutex<Option<SegmentIndex>>,
    /// The smallest and the largest of its event ids, once they are known.
    id_range: OnceLock<IdRange>,
}

/// The index of a sealed segment.
#[derive(Clone)]
pub(crate) enum SegmentIndex {
    Memory(Arc<Part>),
    File(Arc<SealedIndex>),
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
        let ManifestSegment { sequence, base_lsn, base_position, end_lsn, .. } = named;
        let named = Extent { sequence, base_lsn, base_position, end_lsn };
        Arc::new(Self { named, end_position, index: Mutex::new(index), id_range: OnceLock::new() })
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
        match look(&self.made(files, shared, &problem)?) {
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
                self.made(files, shared, &problem)
            }
        }
    }

    /// An index made from the segment, in place of a file that cannot be used.
    fn made(self: &Arc<Self>, files: &Files, shared: &Shared, problem: &IndexProblem) -> Result<SegmentIndex> {
        let path = files.storage.path().join(index_name(self.named.sequence));
        match problem {
            IndexProblem::Missing => tracing::info!(?path, "the segment has no index file; its index is made from the segment"),
            IndexProblem::Damaged(reason) => tracing::warn!(?path, reason, "the index file is damaged; the index is made from the segment"),
            IndexProblem::Io(error) => return Err(Error::io("read", path, error)),
            IndexProblem::Stopped => return Err(Error::Closed),
        }
        let made = SegmentIndex::Memory(Arc::new(self.part(files)?));
        *self.index.lock() = Some(made.clone());
        shared.found_damaged(self.named.sequence, problem);
        shared.made(self);
        Ok(made)
    }

    /// The index of the segment, made by reading it.
    pub(crate) fn part(&self, files: &Files) -> Result<Part> {
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

    /// Looks for its file again, or makes its index again, when it is asked next.
    pub(crate) fn forget_index(&self) {
        *self.index.lock() = None;
    }

    /// Its index in memory, made from the segment if it is not there.
    pub(crate) fn in_memory(&self, files: &Files) -> Result<Arc<Part>> {
        if let Some(SegmentIndex::Memory(part)) = &*self.index.lock() {
            return Ok(Arc::clone(part));
        }
        self.part(files).map(Arc::new)
    }

    /// Lets go of the filter of its index: a run covers it.
    fn let_go_of_filter(&self) {
        if let Some(SegmentIndex::File(file)) = &*self.index.lock() {
            file.let_go_of_filter();
        }
    }

    /// How many bytes of memory its index takes, if that is in a file.
    fn file_memory_bytes(&self) -> usize {
        if let Some(SegmentIndex::File(file)) = &*self.index.lock() { file.memory_bytes() } else { 0 }
    }
}

impl Shared {
    /// Has an index file made again that is damaged.
    fn found_damaged(&self, sequence: u64, problem: &IndexProblem) {
        if matches!(problem, IndexProblem::Damaged(_))
            && let Some(indexing) = self.indexing.get().and_then(Weak::upgrade)
        {
            indexing.make_again(sequence);
        }
    }

    /// Remembers that an index was made from its segment, and forgets the one that was made first if there are too many.
    fn made(&self, segment: &Arc<SealedSegment>) {
        if self.made_max == usize::MAX {
            return;
        }
        let mut made = self.made.lock();
        made.push_back(Arc::clone(segment));
        let first = if made.len() > self.made_max { made.pop_front() } else { None };
        drop(made);
        if let Some(first) = first {
            first.forget_index();
        }
    }

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
    /// Those of a manifest, each with the position behind its last event. The filters of runs may take so many bytes of memory.
    pub(crate) fn new(segments: impl IntoIterator<Item = (ManifestSegment, u64)>, filter_bytes: u64) -> Self {
        let segments: Vec<_> = segments.into_iter().map(|(named, end)| SealedSegment::new(named, end, None)).collect();
        let largest_id = if segments.is_empty() { LargestId::UpTo(0, None) } else { LargestId::Unknown };
        let shared = Shared {
            made: Mutex::default(),
            // A writer makes files that are missing, so that an index in memory is used for a while only.
            made_max: usize::MAX,
            open: Mutex::default(),
            runs: Mutex::default(),
            filter_bytes,
            largest_id: Mutex::new(largest_id),
            swept: AtomicBool::new(false),
            indexing: OnceLock::new(),
        };
        Self { segments: Arc::new(segments), shared: Arc::new(shared) }
    }

    /// The same, of a reader that leaves index files to the writer: it makes no more than a few indexes where they are missing.
    pub(crate) fn of_a_reader(mut self) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.made_max = MADE_MAX;
        }
        self
    }

    /// Other segments in place of these, for a reader.
    pub(crate) fn anew(&self, segments: impl IntoIterator<Item = (ManifestSegment, u64)>) -> Self {
        Self::new(segments, self.shared.filter_bytes).of_a_reader()
    }

    /// Lists the runs again when they are asked next: the writer may have merged others.
    pub(crate) fn forget_runs(&self) {
        *self.shared.runs.lock() = None;
    }

    /// These and one more, whose index is in memory.
    pub(crate) fn and(&self, named: ManifestSegment, part: Arc<Part>) -> Self {
        let mut sealed = self.clone();
        let (end_position, largest_id) = (part.last_position() + 1, part.largest_id());
        let segment = SealedSegment::new(named, end_position, Some(SegmentIndex::Memory(part)));
        // Nobody else has it yet.
        let _ = segment.id_range.set(largest_id.map(|largest| (Uuid::nil(), largest)));
        self.shared.largest_id.lock().add(self.last_sequence(), named.sequence, largest_id);
        Arc::make_mut(&mut sealed.segments).push(segment);
        sealed
    }

    /// Says who makes damaged index files again.
    pub(crate) fn tended_by(&self, indexing: &Arc<Indexing>) {
        // It is said once.
        let _ = self.shared.indexing.set(Arc::downgrade(indexing));
    }

    /// Uses an index file from now on.
    pub(crate) fn use_file(&self, segment: &Arc<SealedSegment>, index: SealedIndex) {
        let before = segment.index.lock().replace(SegmentIndex::File(Arc::new(index)));
        if !matches!(before, Some(SegmentIndex::File(_))) {
            self.shared.opened(segment);
        }
    }

    fn last_sequence(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.named.sequence)
    }

    /// How many bytes of memory it takes to look events up here, beside indexes that are in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        let runs = self.shared.runs.lock().clone().unwrap_or_default();
        let open: Vec<_> = self.shared.open.lock().iter().cloned().collect();
        let of_segments = self.segments.len() * (size_of::<SealedSegment>() + size_of::<Arc<SealedSegment>>());
        of_segments + runs.memory_bytes() + open.iter().map(|segment| segment.file_memory_bytes()).sum::<usize>()
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
