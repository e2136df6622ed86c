//! [`LogStore`]: the embedded implementation of [`EventStore`].

mod append;
mod indexing;
mod keeping;
mod merging;
mod operation;
mod options;
mod packing;
mod read;
mod registry;
mod scavenging;
mod sealed;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

use append::{Answer, Control, Deciding};
use indexing::{Indexer, Indexing};
use keeping::{InFlight, Keeping};
use operation::{CloseOperation, Fresh, TaskOperation, TaskState};
pub(crate) use options::existing;
pub use options::{OpenOptions, compress, compress_storage, rebuild_manifest};
pub use packing::Compress;
use packing::{Packing, compress_open};
use read::{LogReader, in_files, visible_tip};
pub use scavenging::ScavengeReport;
use scavenging::scavenge_open;
use sealed::Sealed;

use crate::codec::Body;
use crate::error::{Corruption, Error, Remedy, Result};
use crate::event::StreamKey;
use crate::index::part::Part;
use crate::index::{Before, Index};
use crate::log::compressed::Compression;
use crate::log::follow::{Follow, open_to_follow};
use crate::log::format::Kind;
use crate::log::manifest::ManifestSegment;
use crate::log::open::{OnDamage, Outcome, open};
use crate::log::recovery::Frame;
use crate::log::segment::Segment;
use crate::log::storage::{MemoryStorage, Storage};
use crate::log::sys;
use crate::log::writer::{KeptFiles, Mode, Writer, WriterOptions};
use crate::progress::Progress;
use crate::retention::Retention;
use crate::store::{
    AppendBatch, Capabilities, Completion, Durability, EventReader, EventStore, ReadAll, ReadStream, Receipt, StoreIdentity, StreamInfo,
};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

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

/// The embedded event store: an append-only log in a directory, or in memory.
///
/// It is a handle: clones share the same store, and opening the same directory again in this process with equal options
/// gives another handle. The last handle to be closed or dropped closes the store.
pub struct LogStore {
    handle: Handle,
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("options", &self.handle.inner.options).finish_non_exhaustive()
    }
}

/// What a handle and the operations begun on it share.
#[derive(Clone)]
struct Handle {
    inner: Arc<Inner>,
    closed: Arc<AtomicBool>,
}

impl Handle {
    fn new(inner: Arc<Inner>, closed: bool) -> Self {
        Self { inner, closed: Arc::new(AtomicBool::new(closed)) }
    }

    /// Gives the handle back. Again, or in a forked child, that does nothing.
    fn release(&self) -> Result<()> {
        if self.inner.generation != sys::fork_generation() || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.inner.release_handle()
    }
}

struct Inner {
    writer: Arc<Writer<Deciding>>,
    options: OpenOptions,
    report: OpenReport,
    damage: Option<Corruption>,
    persistent: bool,
    keeping: Arc<Keeping>,
    /// How many handles are open; none can be added once it is 0.
    handles: Mutex<usize>,
    generation: u32,
}

impl Inner {
    /// Opens the store beside the process that writes to it.
    fn follow(storage: &Arc<dyn Storage>, follow: Follow, options: &OpenOptions) -> Result<Arc<Self>> {
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

    fn open(storage: Arc<dyn Storage>, options: &OpenOptions) -> Result<Arc<Self>> {
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

    /// Counts one more handle, unless the store is closed or closing.
    fn add_handle(&self) -> bool {
        let mut handles = self.handles.lock();
        *handles += usize::from(*handles > 0);
        *handles > 0
    }

    /// Gives one handle back; the last one closes the store.
    fn release_handle(&self) -> Result<()> {
        let mut handles = self.handles.lock();
        *handles -= 1;
        if *handles == 0 { self.writer.close() } else { Ok(()) }
    }
}

/// The error of rewriting a segment, where the disk is full.
fn full(error: Error) -> Error {
    match error {
        Error::Io { kind: io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, path, .. } => Error::StorageFull { path, needed_bytes: None },
        error => error,
    }
}

/// Sealed segments, each with the position behind its last event.
fn ends(sealed: &[ManifestSegment], end_position: u64) -> Vec<(ManifestSegment, u64)> {
    let ends = sealed.iter().skip(1).map(|next| next.base_position).chain([end_position]);
    sealed.iter().copied().zip(ends).collect()
}

/// Takes the ids of a verified frame's events; none of those that were taken out.
fn take_in_ids(ids: &mut Vec<Option<Uuid>>, frame: &Frame<'_>) -> Result<()> {
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
fn take_in(index: &mut Part, segment: &Segment, frame: &Frame<'_>) -> Result<()> {
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
            stream
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

impl LogStore {
    /// Opens the store in a directory with the default options, or creates it.
    ///
    /// # Errors
    /// Those of [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    /// A new store in memory, which ends with its last handle.
    ///
    /// # Errors
    /// None is known; a `Result` as everywhere a store is opened.
    pub fn memory() -> Result<Self> {
        OpenOptions::new().durability(Durability::Memory).open_storage(Arc::new(MemoryStorage::new()))
    }

    fn handle(inner: Arc<Inner>) -> Self {
        Self { handle: Handle::new(inner, false) }
    }

    /// What opening found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.handle.inner.report
    }

    /// Where the store is, and whether it is there when this process has ended.
    pub(crate) fn place(&self) -> Result<(Arc<dyn Storage>, bool)> {
        self.usable().map(|writer| (Arc::clone(writer.storage()), self.handle.inner.persistent))
    }

    /// Gives back the space of events that were deleted or have passed their limits: see [`scavenge`](crate::maintenance::scavenge).
    ///
    /// # Errors
    /// Those of [`scavenge`](crate::maintenance::scavenge).
    pub fn scavenge(&self, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<ScavengeReport> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let writer = self.usable()?;
        // Closing waits for nobody who has a handle.
        let _kept_open = self.clone();
        scavenge_open(writer, || self.sync().wait(), &mut progress).map_err(full)
    }

    /// Compresses now what is sealed, where that pays, whatever [`OpenOptions::compression`] says; but not the segment that was written to
    /// last. Each is decoded and compared with its original before it takes its place. Others append and read meanwhile.
    ///
    /// # Errors
    /// [`Corruption`](Error::Corruption) if a segment cannot be read, [`StorageFull`](Error::StorageFull), [`Io`](Error::Io),
    /// [`Closed`](Error::Closed), [`ReadOnly`](Error::ReadOnly). What was compressed before stays so.
    pub fn compress(&self) -> Result<Compression> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        self.usable().and_then(|writer| compress_open(writer).map_err(full))
    }

    /// Has every file stay that the manifest names from now on, until the guard is dropped.
    pub(crate) fn keep_files(&self) -> Result<KeptFiles<Deciding>> {
        self.usable().map(Writer::keep_files)
    }

    /// Whether it was opened for reading only, beside the process that writes.
    pub(crate) fn is_read_only(&self) -> bool {
        self.handle.inner.options.read_only.is_some()
    }

    /// How much memory the index takes, in bytes.
    #[must_use]
    pub fn index_memory_bytes(&self) -> usize {
        let writer = &self.handle.inner.writer;
        if writer.is_of_parent() {
            return 0;
        }
        let (index, sealed) = writer.with(|deciding| (deciding.index.memory_bytes() + deciding.keeping.memory_bytes(), deciding.sealed.clone()));
        index + sealed.memory_bytes()
    }

    /// The writer, if this handle may use it. Where another process writes, what it has made visible is seen from here on.
    fn usable(&self) -> Result<&Arc<Writer<Deciding>>> {
        if self.handle.inner.generation != sys::fork_generation() {
            return Err(Error::ForkedProcess);
        }
        if self.handle.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        self.handle.inner.writer.refresh()?;
        Ok(&self.handle.inner.writer)
    }

    /// Appends one of the store's own events about a stream.
    fn control(&self, key: StreamKey<'_>, control: Control) -> Completion<Receipt> {
        self.task(Fresh::Control(key.tenant.to_owned(), key.aggregate_id.to_owned(), Box::new(control)), |answer| match answer {
            Answer::Receipts(receipts) => receipts.into_iter().next(),
            Answer::Position(_) => None,
        })
    }

    fn task<T: Send + 'static>(&self, fresh: Fresh, extract: fn(Answer) -> Option<T>) -> Completion<T> {
        match self.usable() {
            Err(error) => Completion::ready(Err(error)),
            Ok(writer) => Completion::running(TaskOperation {
                writer: Arc::clone(writer),
                durability: self.handle.inner.options.durability,
                state: TaskState::Fresh(fresh),
                extract,
            }),
        }
    }
}

impl Clone for LogStore {
    /// Another handle on the same store; of a closed handle, a closed one.
    fn clone(&self) -> Self {
        let of_parent = self.handle.inner.writer.is_of_parent();
        // In a forked child the count may be held for ever, and a handle of the parent's store is refused everything anyway.
        let open = !self.handle.closed.load(Ordering::Acquire) && (of_parent || self.handle.inner.add_handle());
        Self { handle: Handle::new(Arc::clone(&self.handle.inner), !open) }
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        // Whoever wants to know how closing went calls `close`.
        let _ = self.handle.release();
    }
}

impl EventStore for LogStore {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        self.task(Fresh::Append(batch), |answer| match answer {
            Answer::Receipts(receipts) => Some(receipts),
            Answer::Position(_) => None,
        })
    }

    fn read(&self, query: ReadStream) -> EventReader {
        match self.usable() {
            Ok(writer) => match LogReader::stream(writer, &self.handle.inner.keeping, query, self.handle.inner.damage.as_ref()) {
                Ok(reader) => EventReader::new(reader),
                Err(error) => EventReader::failed(error),
            },
            Err(error) => EventReader::failed(error),
        }
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        match self.usable() {
            Ok(writer) => match LogReader::all(writer, &self.handle.inner.keeping, query, self.handle.inner.damage.as_ref()) {
                Ok(reader) => EventReader::new(reader),
                Err(error) => EventReader::failed(error),
            },
            Err(error) => EventReader::failed(error),
        }
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        Completion::ready(self.usable().and_then(|writer| {
            let keeping = &self.handle.inner.keeping;
            let (tip, is_kept) = keeping.with_all(writer, || in_files(writer, || visible_tip(writer, &key)))?;
            let deleted = |version: u64| keeping.get(&key).is_some_and(|kept| kept.deleted_at(version).is_some());
            Ok(tip.filter(|tip| !is_kept || !deleted(tip.version)).map(|tip| StreamInfo {
                aggregate_type: tip.aggregate_type,
                version: AggregateVersion(tip.version),
                last_position: Position(tip.last_position),
            }))
        }))
    }

    fn delete(&self, key: StreamKey<'_>, expected: ExpectedVersion) -> Completion<Receipt> {
        self.control(key, Control::delete(expected))
    }

    fn set_retention(&self, key: StreamKey<'_>, retention: Retention) -> Completion<Receipt> {
        match retention.checked() {
            Ok(retention) => self.control(key, Control::limit(retention)),
            Err(error) => Completion::ready(Err(error)),
        }
    }

    fn retention(&self, key: StreamKey<'_>) -> Completion<Retention> {
        Completion::ready(self.usable().and_then(|writer| {
            let keeping = &self.handle.inner.keeping;
            Ok(if keeping.load(writer)? { keeping.get(&key).map(|kept| kept.retention()).unwrap_or_default() } else { Retention::new() })
        }))
    }

    fn head(&self) -> Completion<Position> {
        Completion::ready(self.usable().map(|writer| Position(writer.visible())))
    }

    fn durable_position(&self) -> Completion<Position> {
        Completion::ready(self.usable().map(|writer| Position(if self.handle.inner.persistent { writer.durable() } else { 0 })))
    }

    /// Completes when everything that was visible at the time of the call is on disk. A store that was opened for reading only has that
    /// from its writer: the completion succeeds at once if the writer has synced all of it, and else fails with
    /// [`ReadOnly`](Error::ReadOnly).
    fn sync(&self) -> Completion<Position> {
        if self.is_read_only() {
            return Completion::ready(self.usable().and_then(|writer| {
                let visible = writer.visible();
                if writer.durable() >= visible { Ok(Position(visible)) } else { Err(Error::ReadOnly) }
            }));
        }
        self.task(Fresh::Barrier, |answer| match answer {
            Answer::Position(position) => Some(Position(position)),
            Answer::Receipts(_) => None,
        })
    }

    fn close(&self) -> Completion<()> {
        Completion::running(CloseOperation { handle: self.handle.clone(), ticket: None })
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        Completion::ready(self.usable().map(|writer| {
            let (store_id, epoch) = writer.identity();
            StoreIdentity { store_id, epoch }
        }))
    }

    fn capabilities(&self) -> Capabilities {
        let Inner { options, persistent, writer, .. } = &*self.handle.inner;
        let durability = match options.read_only {
            None => options.durability,
            Some(Follow::Durable) => Durability::Sync,
            // The least that a writer can promise.
            Some(Follow::Visible) => Durability::Os,
        };
        Capabilities::new("embedded", durability, *persistent, writer.is_writable()).with_retention()
    }
}
