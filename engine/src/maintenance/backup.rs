//! Hot backup: a copy of an open store up to one durable position, while others go on appending.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::unfinished::Unfinished;
use crate::error::{Corruption, Error, Remedy, Result};
use crate::log::format::{Kind, SegmentHeader, encoding};
use crate::log::manifest::{MANIFEST, Manifest, ManifestProblem, ManifestSegment};
use crate::log::open::{first_chain, named};
use crate::log::recovery::Chain;
use crate::log::segment::{AttachProblem, FIRST_FRAME, Segment, file_name, index_name, parse_index_name, parse_name};
use crate::log::storage::{Access, Storage, StorageFile, read_exact_at};
use crate::log::watermark::{Mark, WATERMARK, Watermark};
use crate::log_store::LogStore;
use crate::progress::Progress;
use crate::store::EventStore;
use crate::version::Position;

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BackupReport {
    /// The id of the store, which the backup keeps.
    pub store_id: Uuid,
    /// How many events it holds.
    pub events: u64,
    /// Its last event.
    pub position: Position,
    /// How many segments it consists of.
    pub segments: u64,
    /// How many bytes of segments were written.
    pub bytes: u64,
    /// BLAKE3 over the digests of all segments in their order, in hexadecimal digits.
    pub digest: String,
    /// Whether it was finished; false if it was stopped, and then there is no backup.
    pub complete: bool,
}

/// Writes a copy of an open store to `target`, which must not exist yet: every event up to a position that is on disk when
/// the backup begins. Appending and reading go on meanwhile. Every frame of the copy is read again and verified.
///
/// The copy is a store of its own, with the same store id, and opens without any repair. Its manifest has a digest of each
/// sealed segment, which [`verify`](super::verify) checks. It has its name only when it is complete and on disk; before, it is
/// beside it as `target.backup.tmp`, which a later backup to the same target removes. A store in memory can be backed up too.
///
/// # Errors
/// [`Configuration`](Error::Configuration) if there is a target, [`StoreLocked`](Error::StoreLocked) if the same target is being
/// written, [`Corruption`](Error::Corruption) if the store is damaged, [`StorageFull`](Error::StorageFull), [`Io`](Error::Io),
/// [`Closed`](Error::Closed), and what keeps the store from being synced.
pub fn backup(store: &LogStore, target: impl AsRef<Path>, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<BackupReport> {
    let (source, persistent) = store.place()?;
    let path = persistent.then(|| source.path());
    let names = Unfinished::of("backup", path.as_deref(), target.as_ref())?;
    names.make(|storage| backup_storage(store, storage, progress), |report| report.complete)
}

/// Backs a store up to any storage, which is empty: how tests inject faults.
///
/// # Errors
/// Those of [`backup`].
pub fn backup_storage(store: &LogStore, target: &dyn Storage, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<BackupReport> {
    let (source, _) = store.place()?;
    // Closing would change the files, and compressing would remove some.
    let _kept_open = store.clone();
    let _kept_files = store.keep_files()?;
    let start = Instant::now();
    let (mut manifest, mut last) = look(store, &*source)?;
    let mut copying = Copying {
        source: &*source,
        target,
        last,
        chain: None,
        anchor: 0,
        segments: Vec::new(),
        digests: blake3::Hasher::new(),
        bytes: 0,
        more: &mut |position, last| progress(&Progress { position, last_position: Some(last), events: position, elapsed: start.elapsed() }),
    };
    let mut report = BackupReport { store_id: manifest.store_id, ..BackupReport::default() };
    let mut number = 0;
    while let Some(entry) = manifest.segments.get(number).filter(|entry| number == 0 || entry.base_position <= last) {
        let segment = match Segment::attach(&*source, &file_name(entry.sequence, entry.generation), Access::Read) {
            Ok(segment) => segment,
            // Another process has replaced it. What is gone from the new one may have been deleted behind the last event, and may be
            // there still in those that were copied.
            Err(AttachProblem::Missing) if is_replaced(&*source, entry)? => {
                (manifest, last) = look(store, &*source)?;
                copying.begin_anew(last)?;
                number = 0;
                continue;
            }
            Err(problem) => return Err(unattachable(&*source, entry, problem)),
        };
        // Whether all that it holds is to be copied, and it is sealed.
        let whole = entry.end_lsn.is_some() && manifest.segments.get(number + 1).is_none_or(|next| next.base_position <= last + 1);
        if copying.segment(&segment, entry, whole)?.is_break() {
            return Ok(report);
        }
        number += 1;
    }
    let chain = copying.finish(&manifest)?;
    report.position = Position(chain.position - 1);
    report.events = chain.position - manifest.segments.first().map_or(1, |first| first.base_position);
    report.segments = copying.segments.len() as u64;
    report.bytes = copying.bytes;
    report.digest = copying.digests.finalize().to_hex().to_string();
    report.complete = true;
    Ok(report)
}

/// The segments to be copied, and the last event: all deletions are before it whose events were taken out of them.
fn look(store: &LogStore, source: &dyn Storage) -> Result<(Manifest, u64)> {
    loop {
        let before = read_manifest(source)?;
        // Where another process writes, what it has synced is copied.
        let last = if store.is_read_only() { store.durable_position().wait()?.0 } else { store.sync().wait()?.0 };
        // Whatever holds an event up to there is named by now.
        let now = read_manifest(source)?;
        let generation_before = |number: usize| before.segments.get(number).map_or(0, |named| named.generation);
        if now.segments.iter().enumerate().all(|(number, named)| named.generation == generation_before(number)) {
            return Ok((now, last));
        }
    }
}

/// Whether the manifest names another generation of a segment by now.
fn is_replaced(storage: &dyn Storage, entry: &ManifestSegment) -> Result<bool> {
    let manifest = read_manifest(storage)?;
    Ok(manifest.segments.iter().any(|named| named.sequence == entry.sequence && named.generation > entry.generation))
}

pub(super) fn read_manifest(storage: &dyn Storage) -> Result<Manifest> {
    let unusable = |reason: &str| {
        let path = storage.path().join(MANIFEST);
        let (last_good_position, next_good_position, reason) = (Position::START, None, reason.to_owned());
        let damage = Corruption { path, segment: 0, offset: 0, last_good_position, next_good_position, reason, remedy: Remedy::RebuildManifest };
        Error::from(damage)
    };
    Manifest::read(storage).map_err(|problem| match problem {
        ManifestProblem::Error(error) => error,
        ManifestProblem::Missing => unusable("it has been removed while the store is open"),
        ManifestProblem::Damaged(reason) => unusable(reason),
    })
}

/// What one copied segment has to be.
struct Wanted {
    end_lsn: u64,
    is_sealed: bool,
}

struct Copying<'a> {
    source: &'a dyn Storage,
    target: &'a dyn Storage,
    /// The last event that is copied.
    last: u64,
    /// Where the copy ends.
    chain: Option<Chain>,
    /// The anchor that the next segment continues.
    anchor: u32,
    segments: Vec<ManifestSegment>,
    digests: blake3::Hasher,
    bytes: u64,
    /// Whether to go on, told the last position that is copied, and the last that is to be.
    more: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
}

impl Copying<'_> {
    /// Removes what was copied.
    fn begin_anew(&mut self, last: u64) -> Result<()> {
        for name in self.target.list("").map_err(|error| self.writing("list", "", &error))? {
            if parse_name(&name).is_some() || parse_index_name(&name).is_some() {
                self.target.remove(&name).map_err(|error| self.writing("remove", &name, &error))?;
            }
        }
        (self.last, self.chain, self.anchor, self.bytes) = (last, None, 0, 0);
        self.segments.clear();
        self.digests.reset();
        Ok(())
    }

    /// Copies one segment and verifies the copy.
    fn segment(&mut self, segment: &Segment, entry: &ManifestSegment, whole: bool) -> Result<ControlFlow<()>> {
        let name = segment.name.clone();
        let chain = self.chain.unwrap_or_else(|| first_chain(&segment.header));
        let header = &segment.header;
        if (header.base_lsn, header.base_position) != (chain.lsn, chain.position) || (self.chain.is_some() && header.anchor != self.anchor) {
            return Err(segment.corruption(0, chain.position - 1, "the segment does not continue the one before it").into());
        }
        let wanted = match entry.end_lsn.filter(|_| whole) {
            Some(end_lsn) => Wanted { end_lsn, is_sealed: true },
            None => Wanted { end_lsn: self.end_of_last(segment, &chain)?, is_sealed: false },
        };
        let file = self.create(&name)?;
        let copied = if wanted.is_sealed { self.whole(segment, &*file, &wanted)? } else { self.part(segment, &*file, &wanted)? };
        if copied.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        file.sync().map_err(|error| self.writing("sync", &name, &error))?;
        let digest = self.verify(segment, entry, &chain, &wanted)?;
        if wanted.is_sealed {
            self.index(entry)?;
        }
        let sealed = wanted.is_sealed.then_some(wanted.end_lsn);
        let is_packed = entry.is_packed && wanted.is_sealed;
        self.segments.push(ManifestSegment { digest: sealed.map(|_| digest), is_packed, ..named(&segment.header, sealed) });
        self.digests.update(&digest);
        Ok(self.told())
    }

    /// Tells how far it is; whether to go on.
    fn told(&mut self) -> ControlFlow<()> {
        (self.more)(self.chain.map_or(0, |chain| chain.position - 1), self.last)
    }

    /// The LSN behind the frame of the last event that is copied.
    fn end_of_last(&self, segment: &Segment, chain: &Chain) -> Result<u64> {
        let mut end = (chain.lsn, chain.position);
        let scan = segment.scan(chain, &mut |_, frame| {
            let next = frame.header.base_position + u64::from(frame.header.count);
            if frame.header.kind == Kind::Events as u8 && next <= self.last + 1 {
                end = (frame.header.lsn + frame.header.frame_bytes(), next);
            }
            Ok(())
        })?;
        if end.1 == self.last + 1 {
            return Ok(end.0);
        }
        let reason = scan.stopped.unwrap_or("there is nothing where a frame should be");
        Err(segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason).into())
    }

    /// Copies the file of a sealed segment as it is.
    fn whole(&mut self, segment: &Segment, file: &dyn StorageFile, wanted: &Wanted) -> Result<ControlFlow<()>> {
        let stored = self.source.open(&segment.name, Access::Read).map_err(|error| segment.io("open", &error))?;
        let end = match segment.header.encoding {
            encoding::PLAIN => segment.offset(wanted.end_lsn),
            _ => stored.length().map_err(|error| segment.io("look up", &error))?,
        };
        self.copy(segment, &*stored, file, 0..end)
    }

    /// Writes the first frames of a segment to a plain file.
    fn part(&mut self, segment: &Segment, file: &dyn StorageFile, wanted: &Wanted) -> Result<ControlFlow<()>> {
        let header = SegmentHeader { encoding: encoding::PLAIN, ..segment.header };
        file.write_at(&header.encode(), 0).map_err(|error| self.writing("write", &segment.name, &error))?;
        self.bytes += FIRST_FRAME;
        self.copy(segment, &*segment.file, file, FIRST_FRAME..segment.offset(wanted.end_lsn))
    }

    fn copy(&mut self, segment: &Segment, from: &dyn StorageFile, to: &dyn StorageFile, range: std::ops::Range<u64>) -> Result<ControlFlow<()>> {
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            bytes.resize(usize::try_from(range.end - at).unwrap_or(COPY_BYTES).min(COPY_BYTES), 0);
            read_exact_at(from, &mut bytes, at).map_err(|error| segment.io("read", &error))?;
            to.write_at(&bytes, at).map_err(|error| self.writing("write", &segment.name, &error))?;
            at += bytes.len() as u64;
            self.bytes += bytes.len() as u64;
            if self.told().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads a copied segment from end to end; the digest of its frames.
    fn verify(&mut self, segment: &Segment, entry: &ManifestSegment, chain: &Chain, wanted: &Wanted) -> Result<[u8; 32]> {
        let copy = attach(self.target, entry)?;
        let mut hasher = blake3::Hasher::new();
        let scan = copy.scan(chain, &mut |_, frame| {
            hasher.update(frame.bytes);
            Ok(())
        })?;
        if scan.chain.lsn != wanted.end_lsn || scan.seal.is_some() != wanted.is_sealed {
            let reason = scan.stopped.unwrap_or("the segment does not end where it should");
            return Err(segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason).into());
        }
        self.anchor = scan.seal.map_or(0, |seal| seal.anchor);
        self.chain = Some(scan.chain);
        Ok(*hasher.finalize().as_bytes())
    }

    /// Copies the index file of a segment, if it has one yet: without it the copy makes its own.
    fn index(&self, entry: &ManifestSegment) -> Result<()> {
        let name = index_name(entry.sequence);
        let reading = |error: io::Error| Error::io("read", self.source.path().join(&name), &error);
        let from = match self.source.open(&name, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            from => from.map_err(reading)?,
        };
        let to = self.create(&name)?;
        let (mut at, end) = (0, from.length().map_err(reading)?);
        let mut bytes = Vec::new();
        while at < end {
            bytes.resize(usize::try_from(end - at).unwrap_or(COPY_BYTES).min(COPY_BYTES), 0);
            read_exact_at(&*from, &mut bytes, at).map_err(reading)?;
            to.write_at(&bytes, at).map_err(|error| self.writing("write", &name, &error))?;
            at += bytes.len() as u64;
        }
        to.sync().map_err(|error| self.writing("sync", &name, &error))
    }

    /// Completes the store: the manifest last.
    fn finish(&mut self, manifest: &Manifest) -> Result<Chain> {
        let (Some(chain), Some(last)) = (self.chain, self.segments.last()) else {
            return Err(Error::configuration(format!("the manifest of {:?} names no segments", self.source.path())));
        };
        let mark = Mark {
            epoch: chain.epoch,
            segment: last.sequence,
            durable_lsn: chain.lsn,
            visible_lsn: chain.lsn,
            durable_position: chain.position - 1,
            visible_position: chain.position - 1,
        };
        let mut watermark = Watermark::open(self.target, manifest.store_id).map_err(|error| self.writing("create", WATERMARK, &error))?;
        watermark.write_durably(&mark).map_err(|error| self.writing("write", WATERMARK, &error))?;
        // The names of what it names are durable before its own.
        self.target.sync_directory("").map_err(|error| self.writing("sync", "", &error))?;
        let scavenged = manifest.scavenged.min(chain.position - 1);
        let manifest = Manifest { epoch: manifest.epoch.max(chain.epoch), segments: self.segments.clone(), scavenged, ..manifest.clone() };
        manifest.replace(self.target).map_err(|error| self.writing("write", MANIFEST, &error))?;
        Ok(chain)
    }

    fn create(&self, name: &str) -> Result<Arc<dyn StorageFile>> {
        self.target.create(name).map_err(|error| self.writing("create", name, &error))
    }

    fn writing(&self, operation: &'static str, name: &str, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::StorageFull { path: self.target.path(), needed_bytes: None },
            _ => Error::io(operation, self.target.path().join(name), error),
        }
    }
}

/// The segment that the manifest names.
pub(super) fn attach(storage: &dyn Storage, entry: &ManifestSegment) -> Result<Segment> {
    Segment::attach(storage, &file_name(entry.sequence, entry.generation), Access::Read).map_err(|problem| unattachable(storage, entry, problem))
}

fn unattachable(storage: &dyn Storage, entry: &ManifestSegment, problem: AttachProblem) -> Error {
    let reason = match problem {
        AttachProblem::Error(error) => return error,
        AttachProblem::Missing => "the manifest names this segment, but there is no such file".to_owned(),
        AttachProblem::Damaged(reason) => reason.to_owned(),
    };
    let path = storage.path().join(file_name(entry.sequence, entry.generation));
    let (last_good_position, remedy) = (Position(entry.base_position - 1), Remedy::ReadOrAcceptLoss);
    Corruption { path, segment: entry.sequence, offset: 0, last_good_position, next_good_position: None, reason, remedy }.into()
}
