//! How a store is opened, and where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::indexing::Indexer;
use super::packing::Compress;
use super::{Inner, LogStore, registry};
use crate::error::{Error, Result};
use crate::index::sealed::SealedIndex;
use crate::log::compressed::{Compression, compress_closed};
use crate::log::follow::Follow;
use crate::log::open::rebuild_manifest as rebuild;
use crate::log::storage::Storage;
use crate::log::storage::os::{OsStorage, SealedReads};
use crate::store::Durability;
use crate::version::Position;

/// The smallest and largest segments that can be asked for, in bytes.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 4 << 30);

/// How a [`LogStore`] is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    pub(super) durability: Durability,
    pub(super) segment_bytes: u64,
    pub(super) accept_loss_after: Option<Position>,
    pub(super) read_up_to_damage: bool,
    pub(super) read_only: Option<Follow>,
    pub(super) hot_bytes: u64,
    pub(super) filter_bytes: u64,
    pub(super) sealed_reads: SealedReads,
    pub(super) compression: Compress,
    pub(super) indexer: Indexer,
    pub(super) fan_out: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            segment_bytes: 64 << 20,
            accept_loss_after: None,
            read_up_to_damage: false,
            read_only: None,
            hot_bytes: 256 << 20,
            filter_bytes: 64 << 20,
            sealed_reads: SealedReads::default(),
            compression: Compress::default(),
            indexer: Indexer::Thread,
            fan_out: 8,
        }
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

    /// How sealed segments are read; of a store in a directory.
    #[must_use]
    pub fn sealed_reads(mut self, sealed_reads: SealedReads) -> Self {
        self.sealed_reads = sealed_reads;
        self
    }

    /// Which sealed segments are compressed while the store is open; of a store that is not in memory.
    #[must_use]
    pub fn compression(mut self, compression: Compress) -> Self {
        self.compression = compression;
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
    /// that is not damaged opens as usual; one that is damaged from its first byte on is refused all the same.
    #[must_use]
    pub fn read_up_to_damage(mut self) -> Self {
        self.read_up_to_damage = true;
        self
    }

    /// Opens a store for reading only, beside the process that writes to it, if one does. It takes no lock, and never creates, changes or
    /// repairs anything. Each use of the handle first sees what the writer has made visible by then; positions only grow, and there is no
    /// thread that waits for more. Each such handle is one of its own, also in the process that writes.
    ///
    /// Durability, the size of segments and compression are the writer's, and must not be chosen here.
    ///
    /// ```
    /// use eventuali::{AppendBatch, Error, EventStore, ExpectedVersion, Follow, LogStore, NewEvent, OpenOptions};
    ///
    /// # let folder = tempfile::tempdir().expect("a temporary folder");
    /// # let path = folder.path().join("orders");
    /// let store = LogStore::open(&path)?; // most often in another process
    /// let reader = OpenOptions::new().read_only(Follow::Visible).open(&path)?;
    ///
    /// let placed = AppendBatch::one("a", "Order", ExpectedVersion::Any, vec![NewEvent::json("Placed", &1)?]);
    /// store.append(placed.clone()).wait()?;
    /// assert_eq!(reader.head().wait()?.0, 1);
    /// assert!(matches!(reader.append(placed).wait(), Err(Error::ReadOnly)));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn read_only(mut self, follow: Follow) -> Self {
        self.read_only = Some(follow);
        self
    }

    /// How much memory is used to know where aggregates stand whose last events are in sealed segments, in bytes: one takes 64 and its
    /// name. Others are looked up in index files. 256 MiB unless chosen.
    #[must_use]
    pub fn hot_bytes(mut self, bytes: u64) -> Self {
        self.hot_bytes = bytes;
        self
    }

    /// How much memory is used to know without reading in which of the index files an aggregate may be, in bytes: two for each aggregate of
    /// each run of index files. Where it is not enough, an append to a new aggregate reads one page of 4 KiB. 64 MiB unless chosen.
    #[must_use]
    pub fn filter_bytes(mut self, bytes: u64) -> Self {
        self.filter_bytes = bytes;
        self
    }

    /// Has whoever seals a segment write its index file and compress what is to be compressed, instead of threads, so that a simulated
    /// storage sees the same operations in
    /// every run.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn index_when_sealing(mut self) -> Self {
        self.indexer = Indexer::Sealer;
        self
    }

    /// Has so many index files, or runs of them, merged to one, so that a small store has runs of every level; at least 2.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn merge_indexes_of(mut self, count: u64) -> Self {
        self.fan_out = count.max(2);
        self
    }

    /// Opens the store in a directory, or creates it; the parent directory must exist. For reading only, it must be there.
    ///
    /// # Errors
    /// [`StoreLocked`](Error::StoreLocked) if another process writes to it, [`Corruption`](Error::Corruption) if acknowledged
    /// events are damaged, [`FormatVersion`](Error::FormatVersion) if a newer release wrote it,
    /// [`Configuration`](Error::Configuration) if the path or an option cannot be used, or if there is no store to be read,
    /// [`Io`](Error::Io). Nothing is created where there is an error.
    pub fn open(self, path: impl AsRef<Path>) -> Result<LogStore> {
        if let Some(follow) = self.read_only {
            self.check()?;
            let storage: Arc<dyn Storage> = Arc::new(existing(path.as_ref())?.sealed_reads(self.sealed_reads));
            return Inner::follow(&storage, follow, &self).map(LogStore::handle);
        }
        let path = resolve(path.as_ref())?;
        self.check()?;
        if self.durability == Durability::Memory {
            return Err(Error::configuration(format!(
                "a store in a directory ({path:?}) cannot have the durability of memory; use Sync, Interval or Os, or a store in memory"
            )));
        }
        let created = make_directory(&path)?;
        let opened =
            registry::find_or_open(&path, &self, || Inner::open(Arc::new(OsStorage::new(path.clone()).sealed_reads(self.sealed_reads)), &self));
        if opened.is_err() && created {
            // Only an empty directory can be removed: one that another process has begun to use meanwhile holds its lock.
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
        match self.read_only {
            Some(follow) => Inner::follow(&storage, follow, &self),
            None => Inner::open(storage, &self),
        }
        .map(LogStore::handle)
    }

    /// In words, what is asked for here and is otherwise in a store that is open already.
    pub(super) fn differences_from(&self, open: &Self) -> String {
        let position = |position: Option<Position>| position.map_or_else(|| "nothing".to_owned(), |position| position.to_string());
        // In words that are those of every language that stores are opened from.
        let durability = |durability: Durability| match durability {
            Durability::Sync => "sync".to_owned(),
            Durability::Interval(interval) => format!("an interval of {interval:?}"),
            Durability::Os => "os".to_owned(),
            Durability::Memory => "memory".to_owned(),
        };
        let sealed_reads = |sealed_reads: SealedReads| match sealed_reads {
            SealedReads::Read => "read".to_owned(),
            SealedReads::Mapped => "mapped".to_owned(),
        };
        let compression = |compression: Compress| match compression {
            Compress::Never => "off".to_owned(),
            Compress::OlderThan(newest) => format!("older than {newest}"),
        };
        let compared = [
            ("durability", durability(open.durability), durability(self.durability)),
            ("segment_bytes", open.segment_bytes.to_string(), self.segment_bytes.to_string()),
            ("accept_loss_after", position(open.accept_loss_after), position(self.accept_loss_after)),
            ("hot_bytes", open.hot_bytes.to_string(), self.hot_bytes.to_string()),
            ("filter_bytes", open.filter_bytes.to_string(), self.filter_bytes.to_string()),
            ("sealed_reads", sealed_reads(open.sealed_reads), sealed_reads(self.sealed_reads)),
            ("compression", compression(open.compression), compression(self.compression)),
            ("read_up_to_damage", open.read_up_to_damage.to_string(), self.read_up_to_damage.to_string()),
        ];
        let differing = compared.iter().filter(|(_, there, asked)| there != asked);
        let words: Vec<String> = differing.map(|(option, there, asked)| format!("{option} is {there} there, {asked} was asked for")).collect();
        words.join("; ")
    }

    fn check(&self) -> Result<()> {
        let (least, most) = SEGMENT_BYTES;
        if !(least..=most).contains(&self.segment_bytes) {
            return Err(Error::configuration(format!("segment_bytes is {}, but must be from {least} to {most}", self.segment_bytes)));
        }
        if self.durability == Durability::Interval(Duration::ZERO) {
            return Err(Error::configuration("an interval of 0 is no interval; use Durability::Sync, or at least 1 ms"));
        }
        if self.read_only.is_some() {
            self.check_read_only()?;
        }
        if self.read_up_to_damage && self.accept_loss_after.is_some() {
            return Err(Error::configuration("accept_loss_after and read_up_to_damage exclude each other; choose one"));
        }
        Ok(())
    }
}

impl OpenOptions {
    /// What is the writer's business cannot be chosen by who only reads.
    fn check_read_only(&self) -> Result<()> {
        let usual = Self::default();
        let chosen = [
            ("durability", self.durability != usual.durability),
            ("segment_bytes", self.segment_bytes != usual.segment_bytes),
            ("compression", self.compression != usual.compression),
            ("accept_loss_after", self.accept_loss_after.is_some()),
            ("read_up_to_damage", self.read_up_to_damage),
        ];
        match chosen.iter().find(|(_, is_chosen)| *is_chosen) {
            Some((option, _)) => {
                Err(Error::configuration(format!("{option} is for the process that writes; leave it out where a store is opened read_only")))
            }
            None => Ok(()),
        }
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

/// Writes a new `MANIFEST` from what the segment files of the store say of themselves, where the old one is damaged or
/// missing. The old one is kept in `quarantine/`.
///
/// # Errors
/// [`StoreLocked`](Error::StoreLocked), [`Corruption`](Error::Corruption) if a segment's header is damaged,
/// [`Configuration`](Error::Configuration) if there are no segments, [`Io`](Error::Io).
pub fn rebuild_manifest(path: impl AsRef<Path>) -> Result<()> {
    let storage = existing(path.as_ref())?;
    rebuild(&storage, &|header, end_lsn, end_position| SealedIndex::origin_told(&storage, header, end_lsn, end_position))
}

/// The directory of a store that must be there.
pub(crate) fn existing(path: &Path) -> Result<OsStorage> {
    let path = std::path::absolute(path).map_err(|error| Error::configuration(format!("{path:?} is no path of a store: {error}")))?;
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(OsStorage::new(path)),
        Ok(_) => Err(Error::configuration(format!("{path:?} is a file, but a store is a directory; choose another path"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::configuration(format!("{path:?} does not exist"))),
        Err(error) => Err(Error::io("look up", path, &error)),
    }
}

/// Compresses every sealed segment of a store that is not open, where that pays. Each is decoded
/// and compared with its original before it takes its place.
///
/// # Errors
/// [`StoreLocked`](Error::StoreLocked), [`Corruption`](Error::Corruption) if a segment cannot be read,
/// [`Configuration`](Error::Configuration) if there is no store, [`Io`](Error::Io). The store is as it was, or compressed in part.
pub fn compress(path: impl AsRef<Path>) -> Result<Compression> {
    compress_closed(&existing(path.as_ref())?)
}

/// [`compress`] of a store over any storage: how tests inject faults.
///
/// # Errors
/// Those of [`compress`].
pub fn compress_storage(storage: &dyn Storage) -> Result<Compression> {
    compress_closed(storage)
}
