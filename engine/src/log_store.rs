//! [`LogStore`]: the embedded implementation of [`EventStore`].

mod append;
mod indexing;
mod keeping;
mod merging;
mod opening;
mod operation;
mod options;
mod packing;
mod read;
mod registry;
mod restoring;
mod scavenging;
mod sealed;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use append::{Answer, Control, Deciding};
use keeping::Keeping;
pub use opening::{OpenOutcome, OpenReport};
use opening::{ends, take_in, take_in_ids};
use operation::{CloseOperation, Fresh, TaskOperation, TaskState};
pub(crate) use options::existing;
pub use options::{OpenOptions, compress, compress_storage, rebuild_manifest};
pub use packing::Compress;
use packing::compress_open;
use read::{LogReader, in_files, visible_tip};
pub use restoring::HistoryItem;
use scavenging::scavenge_open;
pub use scavenging::{Extent, ScavengeReport};

use crate::error::{Corruption, Error, Result};
use crate::event::StreamKey;
use crate::log::compressed::Compression;
use crate::log::follow::Follow;
use crate::log::storage::{MemoryStorage, Storage};
use crate::log::sys;
use crate::log::writer::{KeptFiles, Writer};
use crate::progress::Progress;
use crate::retention::Retention;
use crate::store::{
    AppendBatch, Capabilities, Completion, Durability, EventReader, EventStore, ReadAll, ReadStream, Receipt, StoreIdentity, StreamInfo,
};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

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
    pub fn scavenge(&self, extent: Extent, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<ScavengeReport> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let writer = self.usable()?;
        // Closing waits for nobody who has a handle.
        let _kept_open = self.clone();
        scavenge_open(writer, extent, || self.sync().wait(), &mut progress).map_err(full)
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
