//! [`LogStore`]: the embedded implementation of [`EventStore`].

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::event::StreamKey;
use crate::log::storage::Storage;
use crate::store::{AppendBatch, Capabilities, Completion, Durability, EventReader, EventStore, ReadAll, ReadStream, Receipt, StreamInfo};
use crate::version::Position;

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

    /// How large a segment file grows before the next one is begun, in bytes.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Gives up everything after `position`, which must be what the refusal named: the damaged rest is moved to `quarantine/` first.
    #[must_use]
    pub fn accept_loss_after(mut self, position: Position) -> Self {
        self.accept_loss_after = Some(position);
        self
    }

    /// Opens a damaged store for reading up to the damage; reading across it is an error, and appends are refused.
    #[must_use]
    pub fn read_up_to_damage(mut self) -> Self {
        self.read_up_to_damage = true;
        self
    }

    /// Opens the store in a directory, or creates it; the parent directory must exist.
    ///
    /// # Errors
    /// todo
    pub fn open(self, path: impl AsRef<Path>) -> Result<LogStore> {
        todo!()
    }

    /// Opens a store over any storage: how tests inject faults.
    ///
    /// # Errors
    /// todo
    pub fn open_storage(self, storage: Arc<dyn Storage>) -> Result<LogStore> {
        todo!()
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
        /// How many whole frames among them were not part of the log any more.
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
    },
}

/// The embedded event store: an append-only log in a directory, or in memory.
///
/// A handle: clones share the same store, and opening the same directory again in this process with equal options gives
/// another handle. The last handle to be closed or dropped closes the store.
#[derive(Clone)]
pub struct LogStore;

impl LogStore {
    /// Opens the store in a directory with the default options, or creates it.
    ///
    /// # Errors
    /// Those of [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    /// A new store in memory, which ends with its last handle.
    #[must_use]
    pub fn memory() -> Self {
        todo!()
    }

    /// What opening found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        todo!()
    }
}

impl EventStore for LogStore {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        todo!()
    }
    fn read(&self, query: ReadStream) -> EventReader {
        todo!()
    }
    fn read_all(&self, query: ReadAll) -> EventReader {
        todo!()
    }
    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        todo!()
    }
    fn head(&self) -> Completion<Position> {
        todo!()
    }
    fn durable_position(&self) -> Completion<Position> {
        todo!()
    }
    fn sync(&self) -> Completion<Position> {
        todo!()
    }
    fn close(&self) -> Completion<()> {
        todo!()
    }
    fn capabilities(&self) -> Capabilities {
        todo!()
    }
}

/// Writes a new `MANIFEST` from the segment files, where the old one is damaged or missing.
///
/// # Errors
/// todo
pub fn rebuild_manifest(path: impl AsRef<Path>) -> Result<()> {
    todo!()
}
