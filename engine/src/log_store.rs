//! [`LogStore`]: the embedded implementation of [`EventStore`].

mod append;
mod read;
mod registry;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use append::{Answer, Deciding, Request};
use read::LogReader;

use crate::codec::BodyLayout;
use crate::error::{Corruption, Error, Result};
use crate::event::StreamKey;
use crate::index::Index;
use crate::log::format::Kind;
use crate::log::open::{OnDamage, Outcome, open, rebuild_manifest as rebuild};
use crate::log::recovery::Frame;
use crate::log::segment::Segment;
use crate::log::storage::os::OsStorage;
use crate::log::storage::{MemoryStorage, Storage};
use crate::log::sys;
use crate::log::ticket::Ticket;
use crate::log::writer::{Mode, Submitted, Task, Writer, WriterOptions};
use crate::store::{AppendBatch, Capabilities, Completion, Durability, EventReader, EventStore, Operation, ReadAll, ReadStream, Receipt, StreamInfo};
use crate::version::{AggregateVersion, Position};

/// The smallest and largest segments that can be asked for, in bytes.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 4 << 30);

/// How a [`LogStore`] is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    durability: Durability,
    segment_bytes: u64,
    accept_loss_after: Option<Position>,
    read_up_to_damage: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { durability: Durability::Sync, segment_bytes: 64 << 20, accept_loss_after: None, read_up_to_damage: false }
    }
}

impl OpenOptions {
    /// The defaults: durable by sync, segments of 64 MiB, damage refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What an acknowledged append has survived.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How large a segment file grows before the next one is begun, in bytes: 64 KiB to 4 GiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Gives up everything after `position`, which must be the last good position that the refusal named. What was damaged
    /// is moved to `quarantine/` first.
    #[must_use]
    pub fn accept_loss_after(mut self, position: Position) -> Self {
        self.accept_loss_after = Some(position);
        self
    }

    /// Opens a damaged store for reading up to the damage: reading across it is an error, and appends are refused. A store
    /// that is not damaged opens as usual.
    #[must_use]
    pub fn read_up_to_damage(mut self) -> Self {
        self.read_up_to_damage = true;
        self
    }

    /// Opens the store in a directory, or creates it; the parent directory must exist.
    ///
    /// # Errors
    /// [`StoreLocked`](Error::StoreLocked) if another process writes to it, [`Corruption`](Error::Corruption) if acknowledged
    /// events are damaged, [`FormatVersion`](Error::FormatVersion) if a newer release wrote it,
    /// [`Configuration`](Error::Configuration) if the path or an option cannot be used, [`Io`](Error::Io). Nothing is
    /// created where there is an error.
    pub fn open(self, path: impl AsRef<Path>) -> Result<LogStore> {
        let path = resolve(path.as_ref())?;
        self.check()?;
        if self.durability == Durability::Memory {
            return Err(Error::configuration(format!(
                "a store in a directory ({path:?}) cannot have the durability of memory; use Sync, Interval or Os, or a store in memory"
            )));
        }
        let created = make_directory(&path)?;
        let opened = registry::find_or_open(&path, &self, || Inner::open(Arc::new(OsStorage::new(path.clone())), &self));
        if opened.is_err() && created {
            // Only an empty directory can be removed: what the attempt left is the lock.
            let _ = fs::remove_file(path.join("LOCK"));
            let _ = fs::remove_dir(&path);
        }
        opened.map(LogStore::handle)
    }

    /// Opens a store over any storage: how tests inject faults.
    ///
    /// # Errors
    /// Those of [`OpenOptions::open`].
    pub fn open_storage(self, storage: Arc<dyn Storage>) -> Result<LogStore> {
        self.check()?;
        Inner::open(storage, &self).map(LogStore::handle)
    }

    fn check(&self) -> Result<()> {
        let (least, most) = SEGMENT_BYTES;
        if !(least..=most).contains(&self.segment_bytes) {
            return Err(Error::configuration(format!("segment_bytes is {}, but must be from {least} to {most}", self.segment_bytes)));
        }
        if self.durability == Durability::Interval(Duration::ZERO) {
            return Err(Error::configuration("an interval of 0 is no interval; use Durability::Sync, or at least 1 ms"));
        }
        if self.read_up_to_damage && self.accept_loss_after.is_some() {
            return Err(Error::configuration("accept_loss_after and read_up_to_damage exclude each other; choose one"));
        }
        Ok(())
    }
}

/// The absolute path of a store's directory, if there can be one.
fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|error| Error::configuration(format!("{path:?} is no path of a store: {error}")))?;
    match fs::metadata(&absolute) {
        Ok(metadata) if metadata.is_dir() => return Ok(absolute),
        Ok(_) => return Err(Error::configuration(format!("{absolute:?} is a file, but a store is a directory; choose another path"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("look up", absolute, &error)),
    }
    match absolute.parent().map(fs::metadata) {
        Some(Ok(metadata)) if metadata.is_dir() => Ok(absolute),
        Some(Ok(_)) => Err(Error::configuration(format!("{absolute:?} cannot be created: its parent is a file"))),
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("look up the parent of", absolute, &error)),
        Some(Err(_)) | None => {
            Err(Error::configuration(format!("{absolute:?} cannot be created: its parent directory does not exist; create it first")))
        }
    }
}

fn make_directory(path: &Path) -> Result<bool> {
    match OsStorage::create_directory(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::io("create", path, &error)),
    }
}

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
}

/// The embedded event store: an append-only log in a directory, or in memory.
///
/// It is a handle: clones share the same store, and opening the same directory again in this process with equal options
/// gives another handle. The last handle to be closed or dropped closes the store.
pub struct LogStore {
    handle: Handle,
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
    /// How many handles are open; none can be added once it is 0.
    handles: Mutex<usize>,
    generation: u32,
}

impl Inner {
    fn open(storage: Arc<dyn Storage>, options: &OpenOptions) -> Result<Arc<Self>> {
        let on_damage = match (options.accept_loss_after, options.read_up_to_damage) {
            (Some(position), _) => OnDamage::AcceptLossAfter(position),
            (None, true) => OnDamage::ReadUpTo,
            (None, false) => OnDamage::Refuse,
        };
        let mut index: Option<Index> = None;
        let log = open(storage, on_damage, &mut |segment, frame| {
            let index = index.get_or_insert_with(|| Index::new(frame.header.base_position));
            take_in(index, segment, frame)
        })?;
        let head = Position(log.chain.position - 1);
        let outcome = match log.outcome {
            Outcome::Created => OpenOutcome::Created,
            Outcome::Clean => OpenOutcome::Clean,
            Outcome::Recovered { bytes, frames } => OpenOutcome::Recovered { bytes, frames },
            Outcome::LossAccepted => OpenOutcome::LossAccepted { after: head },
            Outcome::Damaged(ref damage) => OpenOutcome::Damaged { up_to: head, damage: damage.clone() },
        };
        let damage = if let Outcome::Damaged(damage) = &log.outcome { Some(damage.clone()) } else { None };
        let report = OpenReport { outcome, rewritten_bytes: log.rewritten_bytes, head };
        let mode = match options.durability {
            Durability::Sync => Mode::Sync,
            Durability::Interval(interval) => Mode::Interval(interval),
            Durability::Os | Durability::Memory => Mode::Written,
        };
        let index = index.unwrap_or_else(|| Index::new(log.chain.position));
        let writer = Writer::new(log, Deciding { index }, WriterOptions { mode, segment_bytes: options.segment_bytes })?;
        let persistent = options.durability != Durability::Memory;
        Ok(Arc::new(Self {
            writer,
            options: options.clone(),
            report,
            damage,
            persistent,
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

/// Takes the events of a verified frame into the index.
fn take_in(index: &mut Index, segment: &Segment, frame: &Frame<'_>) -> Result<()> {
    if frame.header.kind != Kind::Events as u8 {
        return Ok(());
    }
    let position = frame.header.base_position;
    let fail = |reason: &str| Error::from(segment.corruption(segment.offset(frame.header.lsn), position - 1, reason));
    index.has_room_for(frame.header.count as usize)?;
    for (at, entry, bytes) in frame.records() {
        let body = BodyLayout::parse(bytes, 0, bytes.len()).map_err(fail)?.of(bytes);
        let key = StreamKey { tenant: body.tenant(), aggregate_id: body.aggregate_id() };
        let stream = index.stream_or_new(&key, body.aggregate_type())?;
        let kind = index.kind(stream, body.event_type());
        index.push(stream, kind, body.id(), frame.header.lsn + at as u64);
        if index.version(stream) != entry.version {
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

    /// How much memory the index takes, in bytes.
    #[must_use]
    pub fn index_memory_bytes(&self) -> usize {
        self.handle.inner.writer.with(|deciding| deciding.index.memory_bytes())
    }

    /// The writer, if this handle may use it.
    fn usable(&self) -> Result<&Arc<Writer<Deciding>>> {
        if self.handle.inner.generation != sys::fork_generation() {
            return Err(Error::ForkedProcess);
        }
        if self.handle.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(&self.handle.inner.writer) }
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
        let open = !self.handle.closed.load(Ordering::Acquire) && self.handle.inner.add_handle();
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
            Ok(writer) => EventReader::new(LogReader::stream(writer, query, self.handle.inner.damage.as_ref())),
            Err(error) => EventReader::failed(error),
        }
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        match self.usable() {
            Ok(writer) => EventReader::new(LogReader::all(writer, query, self.handle.inner.damage.as_ref())),
            Err(error) => EventReader::failed(error),
        }
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        Completion::ready(self.usable().map(|writer| {
            let visible = writer.visible();
            writer.with(|deciding| {
                let stream = deciding.index.stream(&key)?;
                let (version, position) = deciding.index.visible_tip(stream, visible)?;
                let aggregate_type = deciding.index.aggregate_type(stream).to_owned();
                Some(StreamInfo { aggregate_type, version: AggregateVersion(version), last_position: Position(position) })
            })
        }))
    }

    fn head(&self) -> Completion<Position> {
        Completion::ready(self.usable().map(|writer| Position(writer.visible())))
    }

    fn durable_position(&self) -> Completion<Position> {
        Completion::ready(self.usable().map(|writer| Position(if self.handle.inner.persistent { writer.durable() } else { 0 })))
    }

    fn sync(&self) -> Completion<Position> {
        self.task(Fresh::Barrier, |answer| match answer {
            Answer::Position(position) => Some(Position(position)),
            Answer::Receipts(_) => None,
        })
    }

    fn close(&self) -> Completion<()> {
        Completion::running(CloseOperation { handle: self.handle.clone(), ticket: None })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("embedded", self.handle.inner.options.durability, self.handle.inner.persistent, self.handle.inner.writer.is_writable())
    }
}

/// What a task is before it is handed in.
enum Fresh {
    Append(AppendBatch),
    Barrier,
}

enum TaskState {
    Fresh(Fresh),
    Waiting(Arc<Ticket<Result<Answer>>>),
    Done,
}

/// A task of the writer as a future and a blocking call.
struct TaskOperation<T> {
    writer: Arc<Writer<Deciding>>,
    durability: Durability,
    state: TaskState,
    extract: fn(Answer) -> Option<T>,
}

impl<T> TaskOperation<T> {
    fn answer(&mut self, answer: Result<Answer>) -> Result<T> {
        self.state = TaskState::Done;
        answer.and_then(|answer| (self.extract)(answer).ok_or_else(|| Error::configuration("the writer answered another question")))
    }

    /// Hands the task in, if that was not done yet.
    fn start(&mut self, blocking: bool) -> Option<Result<Answer>> {
        let TaskState::Fresh(fresh) = std::mem::replace(&mut self.state, TaskState::Done) else { return None };
        let task = match fresh {
            Fresh::Barrier => Task::Barrier,
            Fresh::Append(batch) => match Request::new(batch, self.durability) {
                Ok(request) => Task::Append(request),
                Err(error) => return Some(Err(error)),
            },
        };
        match self.writer.submit(task, blocking) {
            Submitted::Answered(answer) => Some(answer),
            Submitted::Ticket(ticket) => {
                self.state = TaskState::Waiting(ticket);
                None
            }
        }
    }
}

impl<T: Send> Operation<T> for TaskOperation<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        if matches!(self.state, TaskState::Fresh(_))
            && let Some(answer) = self.start(false)
        {
            return Poll::Ready(self.answer(answer));
        }
        match &self.state {
            TaskState::Waiting(ticket) => match ticket.poll(context) {
                Poll::Ready(answer) => Poll::Ready(self.answer(answer)),
                Poll::Pending => Poll::Pending,
            },
            TaskState::Fresh(_) | TaskState::Done => Poll::Ready(Err(Error::configuration("a completion was used again after it had answered"))),
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        if matches!(self.state, TaskState::Fresh(_))
            && let Some(answer) = self.start(true)
        {
            return Some(self.answer(answer));
        }
        match &self.state {
            TaskState::Waiting(ticket) => {
                let answer = self.writer.wait(ticket, deadline)?;
                Some(self.answer(answer))
            }
            TaskState::Fresh(_) | TaskState::Done => Some(Err(Error::configuration("a completion was used again after it had answered"))),
        }
    }
}

impl<T> Drop for TaskOperation<T> {
    fn drop(&mut self) {
        if let TaskState::Waiting(ticket) = &self.state {
            self.writer.abandon(ticket);
        }
    }
}

/// Closing as a future and a blocking call. It waits for the disk, so a task leaves it to a thread.
struct CloseOperation {
    handle: Handle,
    ticket: Option<Arc<Ticket<Result<()>>>>,
}

impl Operation<()> for CloseOperation {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(ticket) = &self.ticket {
            return ticket.poll(context);
        }
        if !self.handle.inner.persistent {
            return Poll::Ready(self.handle.release());
        }
        let ticket = Ticket::new(false);
        let (handle, answer) = (self.handle.clone(), Arc::clone(&ticket));
        let closing = thread::Builder::new().name("eventuali-close".to_owned()).spawn(move || {
            if let Some(waker) = answer.answer(handle.release()) {
                waker.wake();
            }
        });
        match closing {
            Ok(_) => {
                let poll = ticket.poll(context);
                self.ticket = Some(ticket);
                poll
            }
            // Without a thread it is still closed, at the price of a wait.
            Err(_) => Poll::Ready(self.handle.release()),
        }
    }

    fn wait(&mut self, _deadline: Option<Instant>) -> Option<Result<()>> {
        Some(self.handle.release())
    }
}

/// Writes a new `MANIFEST` from what the segment files of the store say of themselves, where the old one is damaged or
/// missing. The old one is kept in `quarantine/`.
///
/// # Errors
/// [`StoreLocked`](Error::StoreLocked), [`Corruption`](Error::Corruption) if a segment's header is damaged,
/// [`Configuration`](Error::Configuration) if there are no segments, [`Io`](Error::Io).
pub fn rebuild_manifest(path: impl AsRef<Path>) -> Result<()> {
    let path = resolve(path.as_ref())?;
    if !path.is_dir() {
        return Err(Error::configuration(format!("{path:?} does not exist")));
    }
    rebuild(&OsStorage::new(path))
}
