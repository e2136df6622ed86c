//! Fork: another store that goes on from a position of this one, and shares the segments before it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::backup::{attach, read_manifest};
use super::unfinished::Unfinished;
use crate::error::{Error, ForkProblem, Result};
use crate::log::format::{Kind, SegmentHeader, encode_seal, encoding};
use crate::log::frame::FrameContext;
use crate::log::lineage::ANCESTORS_MAX;
use crate::log::manifest::{MANIFEST, Manifest, ManifestSegment, swap};
use crate::log::open::{first_chain, named};
use crate::log::recovery::Chain;
use crate::log::runs::{FOLDER, parse_run_name};
use crate::log::segment::{Segment, file_name, index_name, new_segment};
use crate::log::storage::{Access, Storage, StorageFile};
use crate::log::watermark::{Mark, WATERMARK, Watermark};
use crate::log_store::LogStore;
use crate::store::EventStore;
use crate::version::Position;

/// How much is written at once.
const COPY_BYTES: usize = 1 << 20;

/// What a fork consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ForkReport {
    /// The id of the fork.
    pub store_id: Uuid,
    /// The id of the store that it was forked from.
    pub parent_id: Uuid,
    /// Its last event; the next one that it takes has the position after it.
    pub position: Position,
    /// How many segments it shares with its parent.
    pub shared_segments: u64,
    /// How many segments were copied, in whole or in part.
    pub copied_segments: u64,
    /// How many bytes of segments were written for that.
    pub copied_bytes: u64,
}

/// Makes a store in `target`, which must not exist yet, that has every event of this one up to `at`, or all that there are now.
/// From there on both go their own ways: each takes appends, and neither sees the other's. Appending to this one goes on meanwhile.
///
/// The fork has a store id of its own, and keeps event ids, positions, versions, times and payloads. Sealed segments up to the position are
/// shared, which takes no longer for a large one than for a small one; of the segment that holds the position, if that is not its last one
/// or if it is not sealed yet, the part up to there is copied. What is shared is never written to, and lives as long as one of the two has it:
/// each can be moved, compressed or deleted without the other. In another file system nothing can be shared, and all is copied.
///
/// What one append has stored stays together: a position within it is refused. Position 0 gives a fork without events.
/// What is shared is not read: [`verify`](super::verify) tells whether it is sound. The fork has its name only when it is complete and on
/// disk; before, it is beside it as `target.fork.tmp`, which a later fork to the same target removes.
///
/// ```
/// use eventuali::maintenance::fork;
/// use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let (path, copy) = (folder.path().join("orders"), folder.path().join("what-if"));
/// let store = LogStore::open(&path)?;
/// let placed = || AppendBatch::one("order-42", "Order", ExpectedVersion::Any, vec![NewEvent::json("OrderPlaced", "").expect("JSON")]);
/// store.append(placed()).wait()?;
/// let report = fork(&store, &copy, None)?;
///
/// let what_if = LogStore::open(&copy)?;
/// let receipts = what_if.append(placed()).wait()?;
/// assert_eq!((receipts[0].position.0, receipts[0].version.0), (2, 2)); // it goes on where the fork was made
/// assert_eq!(store.head().wait()?.0, 1);
/// assert_eq!(what_if.identity().wait()?.store_id, report.store_id);
/// assert_ne!(report.store_id, report.parent_id);
/// # Ok::<(), eventuali::Error>(())
/// ```
///
/// # Errors
/// [`ForkPosition`](Error::ForkPosition) if it cannot be forked there, [`Configuration`](Error::Configuration) if there is a target,
/// [`StoreLocked`](Error::StoreLocked) if the same target is being written, [`Corruption`](Error::Corruption) if what has to be
/// copied is damaged, [`LimitExceeded`](Error::LimitExceeded) if it has too many ancestors, [`StorageFull`](Error::StorageFull),
/// [`Io`](Error::Io), [`Closed`](Error::Closed), and what keeps the store from being synced.
pub fn fork(store: &LogStore, target: impl AsRef<Path>, at: Option<Position>) -> Result<ForkReport> {
    let (source, persistent) = store.place()?;
    let path = persistent.then(|| source.path());
    let names = Unfinished::of("fork", path.as_deref(), target.as_ref())?;
    names.make(|storage| fork_storage(store, storage, at), |_| true)
}

/// Forks a store to any storage, which is empty: to another one in memory, and how tests inject faults.
///
/// # Errors
/// Those of [`fork`].
pub fn fork_storage(store: &LogStore, target: &dyn Storage, at: Option<Position>) -> Result<ForkReport> {
    let (source, _) = store.place()?;
    // Closing would change the files, and compressing would remove some.
    let _kept_open = store.clone();
    let _kept_files = store.keep_files()?;
    let last = last_event(store, &*source, at)?;
    // Whatever holds an event up to there is named by now.
    let manifest = read_manifest(&*source)?;
    let report = ForkReport { store_id: Uuid::new_v4(), parent_id: manifest.store_id, position: Position(last), ..ForkReport::default() };
    Forking { source: &*source, target, manifest: &manifest, last, segments: Vec::new(), report }.carry_out()
}

/// The last event of the fork, which is on disk.
fn last_event(store: &LogStore, source: &dyn Storage, at: Option<Position>) -> Result<u64> {
    let head = store.head().wait()?;
    let last = at.unwrap_or(head);
    if last > head {
        return Err(refused(source, last.0, ForkProblem::Ahead, (Some(head.0), None)));
    }
    if last > store.durable_position().wait()? {
        store.sync().wait()?;
    }
    Ok(last.0)
}

fn refused(source: &dyn Storage, position: u64, problem: ForkProblem, (before, after): (Option<u64>, Option<u64>)) -> Error {
    Error::ForkPosition { path: source.path(), position: Position(position), problem, before: before.map(Position), after: after.map(Position) }
}

/// Where what the fork takes over ends.
struct End {
    chain: Chain,
    /// What its next segment continues.
    anchor: u32,
    sequence: u64,
    /// From here on the segments are the fork's own.
    own_lsn: u64,
}

struct Forking<'a> {
    source: &'a dyn Storage,
    target: &'a dyn Storage,
    manifest: &'a Manifest,
    /// The last event that the fork has.
    last: u64,
    segments: Vec<ManifestSegment>,
    report: ForkReport,
}

impl Forking<'_> {
    fn carry_out(mut self) -> Result<ForkReport> {
        let (manifest, last) = (self.manifest, self.last);
        let first = manifest.segments.first();
        let first = first.ok_or_else(|| Error::configuration(format!("the manifest of {:?} names no segments", self.source.path())))?;
        if last + 1 < first.base_position {
            return Err(refused(self.source, last, ForkProblem::Gone, (None, Some(first.base_position - 1))));
        }
        let ancestors = manifest.lineage.ancestors().len() + 1;
        if ancestors > ANCESTORS_MAX {
            return Err(Error::LimitExceeded { what: "a store's number of ancestors", actual: ancestors as u64, max: ANCESTORS_MAX as u64 });
        }
        let mut end = None;
        for (number, entry) in manifest.segments.iter().enumerate().take_while(|(_, entry)| entry.base_position <= last) {
            if self.is_whole(entry, manifest.segments.get(number + 1))? {
                self.share(entry)?;
            } else {
                end = Some(self.cut(entry)?);
                break;
            }
        }
        let end = match (end, self.segments.last()) {
            (Some(end), _) => end,
            (None, Some(last)) => end_of_sealed(&self.attach(last)?, last)?,
            (None, None) => begin(&self.attach(first)?.header),
        };
        self.share_runs();
        self.finish(&end)?;
        Ok(self.report)
    }

    /// Whether a segment is sealed, and the fork has all of its events.
    fn is_whole(&self, entry: &ManifestSegment, next: Option<&ManifestSegment>) -> Result<bool> {
        let end_position = match (entry.end_lsn, next) {
            (None, _) => return Ok(false),
            (Some(_), Some(next)) => next.base_position,
            (Some(_), None) => end_of_sealed(&self.attach(entry)?, entry)?.chain.position,
        };
        Ok(end_position <= self.last + 1)
    }

    /// The segment that the manifest names, which is read.
    fn attach(&self, entry: &ManifestSegment) -> Result<Segment> {
        let segment = attach(self.source, entry)?;
        let header = &segment.header;
        let told = (header.store_id, header.sequence, header.generation, header.base_lsn, header.base_position);
        if told != (self.manifest.maker_of(entry.base_lsn), entry.sequence, entry.generation, entry.base_lsn, entry.base_position) {
            return Err(segment.corruption(0, entry.base_position - 1, "the segment is not the one that the manifest names").into());
        }
        Ok(segment)
    }

    /// Gives a sealed segment and its index file names in the fork; copies them where that is not possible.
    fn share(&mut self, entry: &ManifestSegment) -> Result<()> {
        let name = file_name(entry.sequence, entry.generation);
        if self.share_file(&name)? {
            self.report.shared_segments += 1;
        } else {
            self.report.copied_bytes += self.copy_file(&name)?;
            self.report.copied_segments += 1;
        }
        self.segments.push(*entry);
        let index = index_name(entry.sequence);
        let shared = self.share_file(&index).and_then(|shared| if shared { Ok(()) } else { self.copy_file(&index).map(drop) });
        match shared {
            // Where it is not there yet, the fork makes its own.
            Err(Error::Io { kind: io::ErrorKind::NotFound, .. }) => Ok(()),
            shared => shared,
        }
    }

    /// Gives a file a name in the fork too; whether that is possible.
    fn share_file(&self, name: &str) -> Result<bool> {
        self.target.share_from(self.source, name).map_err(|error| self.sharing(name, &error))
    }

    /// Shares what was merged from index files of shared segments. What is missing is merged again.
    fn share_runs(&self) {
        // One that was cut is another one.
        let last = self.segments.iter().rfind(|entry| self.manifest.segments.contains(entry));
        let Some((first, last)) = self.segments.first().zip(last) else { return };
        let is_covered = |name: &String| parse_run_name(name).is_some_and(|(from, to)| first.sequence <= from && to <= last.sequence);
        let runs: Vec<String> = self.source.list(FOLDER).unwrap_or_default().into_iter().filter(is_covered).collect();
        if !runs.is_empty() && self.target.create_folder(FOLDER).is_ok() {
            for name in runs {
                let _ = self.target.share_from(self.source, &format!("{FOLDER}/{name}"));
            }
        }
    }

    /// Copies the frames of a segment up to the last event, and seals the copy, which is the fork's own.
    fn cut(&mut self, entry: &ManifestSegment) -> Result<End> {
        let segment = self.attach(entry)?;
        let header = SegmentHeader { store_id: self.report.store_id, encoding: encoding::PLAIN, ..segment.header };
        let mut copy = NewFile { file: self.create(&segment.name)?, bytes: header.encode(), written: 0 };
        let mut chain = first_chain(&segment.header);
        let copied = segment.scan(&first_chain(&segment.header), &mut |_, frame| {
            let after = chain.after(&frame.header);
            if after.position > self.last + 1 {
                let nearest = (Some(chain.position - 1), Some(after.position - 1));
                return Err(refused(self.source, self.last, ForkProblem::WithinAppend, nearest));
            }
            copy.add(frame.bytes).map_err(|error| self.writing("write", &segment.name, &error))?;
            chain = after;
            // Any error ends it: what follows is not wanted.
            if chain.position > self.last { Err(Error::Closed) } else { Ok(()) }
        });
        match copied {
            _ if chain.position == self.last + 1 => {}
            Err(error) => return Err(error),
            Ok(scan) => {
                let reason = scan.stopped.unwrap_or("there is nothing where a frame should be");
                return Err(segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason).into());
            }
        }
        let end_lsn = self.seal(&segment, copy, &chain)?;
        self.segments.push(named(&header, Some(end_lsn)));
        let anchor = chain.checksum;
        Ok(End { chain: Chain { lsn: end_lsn, ..chain }, anchor, sequence: header.sequence, own_lsn: header.base_lsn })
    }

    /// Seals a copied segment behind `chain`, and makes it durable; the LSN behind its seal.
    fn seal(&mut self, segment: &Segment, mut copy: NewFile, chain: &Chain) -> Result<u64> {
        let context = FrameContext {
            seed: segment.seed,
            lsn: chain.lsn,
            epoch: chain.epoch,
            base_position: chain.position,
            commit_time: chain.commit_time,
            durable_upto: chain.lsn,
            previous: chain.checksum,
        };
        let mut seal = Vec::new();
        context.plain(&mut seal, Kind::Seal, &encode_seal(chain.checksum, chain.position));
        let written = copy.add(&seal).and_then(|()| copy.finish());
        self.report.copied_bytes += written.map_err(|error| self.writing("write", &segment.name, &error))?;
        self.report.copied_segments += 1;
        Ok(chain.lsn + seal.len() as u64)
    }

    /// Completes the fork: a segment of its own to go on in, and the manifest last.
    fn finish(&mut self, end: &End) -> Result<()> {
        let store_id = self.report.store_id;
        let header = new_segment(store_id, end.sequence, end.chain.epoch, &end.chain, end.anchor);
        let header = SegmentHeader { sequence: end.sequence + u64::from(!self.segments.is_empty()), ..header };
        self.segments.push(named(&header, None));
        let name = file_name(header.sequence, header.generation);
        let mut next = NewFile { file: self.create(&name)?, bytes: header.encode(), written: 0 };
        next.finish().map_err(|error| self.writing("write", &name, &error))?;
        let mark = Mark {
            epoch: end.chain.epoch,
            segment: header.sequence,
            durable_lsn: end.chain.lsn,
            visible_lsn: end.chain.lsn,
            durable_position: self.last,
            visible_position: self.last,
        };
        let watermark = Watermark::create(self.target, store_id).and_then(|mut watermark| watermark.write_durably(&mark));
        watermark.map_err(|error| self.writing("write", WATERMARK, &error))?;
        let lineage = self.manifest.lineage.of_fork(self.manifest.store_id, end.own_lsn, self.last);
        let scavenged = self.manifest.scavenged.min(self.last);
        let manifest = Manifest { store_id, lineage, epoch: end.chain.epoch, segments: std::mem::take(&mut self.segments), scavenged };
        let prepared = manifest.prepare(self.target).map_err(|error| self.writing("write", MANIFEST, &error));
        // The names of what it names are durable before its own.
        prepared
            .and_then(|()| self.target.sync_directory("").and_then(|()| swap(self.target)).map_err(|error| self.writing("name", MANIFEST, &error)))
    }

    /// Copies a file as it is, durably; how long it is.
    fn copy_file(&self, name: &str) -> Result<u64> {
        let reading = |operation, error: io::Error| Error::io(operation, self.source.path().join(name), &error);
        let file = self.source.open(name, Access::Read).map_err(|error| reading("open", error))?;
        let mut copy = NewFile { file: self.create(name)?, bytes: Vec::new(), written: 0 };
        let mut bytes = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            let read = file.read_at(&mut bytes, at).map_err(|error| reading("read", error))?;
            copy.add(&bytes[..read]).map_err(|error| self.writing("write", name, &error))?;
            at += read as u64;
            if read < bytes.len() {
                return copy.finish().map_err(|error| self.writing("write", name, &error));
            }
        }
    }

    fn create(&self, name: &str) -> Result<Arc<dyn StorageFile>> {
        self.target.create(name).map_err(|error| self.writing("create", name, &error))
    }

    fn sharing(&self, name: &str, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound {
            Error::io("share", self.source.path().join(name), error)
        } else {
            self.writing("share", name, error)
        }
    }

    fn writing(&self, operation: &'static str, name: &str, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::StorageFull { path: self.target.path(), needed_bytes: None },
            _ => Error::io(operation, self.target.path().join(name), error),
        }
    }
}

/// A file of the fork that is written from its first byte to its last.
struct NewFile {
    file: Arc<dyn StorageFile>,
    /// What is to be written next.
    bytes: Vec<u8>,
    written: u64,
}

impl NewFile {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= COPY_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(&self.bytes, self.written)?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Makes it durable; its length.
    fn finish(&mut self) -> io::Result<u64> {
        self.write()?;
        self.file.sync()?;
        Ok(self.written)
    }
}

/// Where a sealed segment ends.
fn end_of_sealed(segment: &Segment, entry: &ManifestSegment) -> Result<End> {
    let end_lsn = entry.end_lsn.unwrap_or(0);
    let mut found = segment.seal(end_lsn).map_err(|error| segment.io("read", &error))?;
    if found.is_none() {
        // Something follows the seal, or it is damaged: the frames tell.
        let scan = segment.scan(&first_chain(&segment.header), &mut |_, _| Ok(()))?;
        found = scan.seal.filter(|_| scan.chain.lsn == end_lsn).map(|seal| (scan.chain, seal));
    }
    let (chain, seal) = found.ok_or_else(|| {
        let (offset, last_good) = (segment.offset(end_lsn.max(entry.base_lsn)), entry.base_position - 1);
        segment.corruption(offset, last_good, "the segment does not end in the seal that the manifest tells of")
    })?;
    Ok(End { chain, anchor: seal.anchor, sequence: entry.sequence, own_lsn: end_lsn })
}

/// Before the first event of a store.
fn begin(header: &SegmentHeader) -> End {
    End { chain: first_chain(header), anchor: header.anchor, sequence: header.sequence, own_lsn: header.base_lsn }
}
