//! Reading a log beside the process that writes to it: nothing is locked, nothing is written, and the watermark says how far to read.

use std::collections::HashSet;
use std::sync::Arc;

use super::manifest::{MANIFEST, Manifest, ManifestProblem, ManifestSegment};
use super::names::Names;
use super::open::{Log, Outcome, first_chain, is_untouched};
use super::recovery::Chain;
use super::segment::{AttachProblem, Segment, file_name, parse_name};
use super::storage::{Access, Storage};
use super::watermark::{Mark, WATERMARK, Watermark};
use crate::error::{Corruption, Error, Remedy, Result};
use crate::version::Position;
use uuid::Uuid;

/// How often the manifest is read again because a file that it names is gone, and another manifest names others.
const MANIFESTS_MAX: usize = 100;

/// What a store sees that is opened for reading only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Follow {
    /// What the writer's own readers see. If its durability is `Interval` or `Os`, a power failure can take back the last of it: then this
    /// handle says so ([`HistoryReplaced`](Error::HistoryReplaced)) instead of reading on.
    #[default]
    Visible,
    /// Only what no power failure can take back. If the writer's durability is `Interval` or `Os`, that is seen later.
    Durable,
}

impl Follow {
    /// The LSN up to which a mark lets it read.
    pub(crate) fn limit(self, mark: &Mark) -> u64 {
        match self {
            Self::Visible => mark.visible_lsn.max(mark.durable_lsn),
            Self::Durable => mark.durable_lsn,
        }
    }
}

/// How far following has come.
pub(crate) struct Following {
    pub(crate) follow: Follow,
    /// The mark that was gone by last.
    pub(crate) last: Option<Mark>,
    /// What lies below this LSN was shown because a mark said that it may be.
    pub(crate) shown: u64,
    /// The last frame that was read of the segment that is read now.
    pub(crate) last_frame: Option<u64>,
    /// Why nothing more is read.
    pub(crate) ended: Option<Error>,
}

/// Why a file that the manifest names cannot be used.
pub(crate) enum Unusable {
    /// It is gone: another manifest may name another.
    Gone(ManifestSegment),
    Error(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Corruption> for Unusable {
    fn from(corruption: Corruption) -> Self {
        Self::Error(corruption.into())
    }
}

/// Opens a log for reading beside others, at the end of its sealed segments: from there on the watermark is followed.
pub(crate) fn open_to_follow(storage: &Arc<dyn Storage>, follow: Follow) -> Result<(Log, Following)> {
    let log = with_manifest(&**storage, |manifest| at_the_end_of_what_is_sealed(storage, manifest))?;
    let following = Following { follow, last: None, shown: 0, last_frame: None, ended: None };
    Ok((log, following))
}

/// Does something with the manifest, and again with the next one, as long as a file is gone and another manifest says why.
pub(crate) fn with_manifest<T>(storage: &dyn Storage, mut work: impl FnMut(&Manifest) -> Result<T, Unusable>) -> Result<T> {
    let mut manifest = read_manifest(storage)?;
    for _ in 0..MANIFESTS_MAX {
        let gone = match work(&manifest) {
            Ok(done) => return Ok(done),
            Err(Unusable::Error(error)) => return Err(error),
            Err(Unusable::Gone(gone)) => gone,
        };
        let next = read_manifest(storage)?;
        if next == manifest {
            return Err(damaged(storage, &gone, "the manifest names this segment, but there is no such file").into());
        }
        manifest = next;
    }
    Err(Error::configuration(format!("the files of {:?} change faster than they can be opened; try again", storage.path())))
}

fn read_manifest(storage: &dyn Storage) -> Result<Manifest> {
    let problem = match Manifest::read(storage) {
        Ok(manifest) if manifest.segments.is_empty() => "it names no segments",
        Ok(manifest) if !is_in_order(&manifest) => "its segments do not continue each other",
        Ok(manifest) => return Ok(manifest),
        Err(ManifestProblem::Missing) => return Err(without_manifest(storage)?),
        Err(ManifestProblem::Damaged(reason)) => reason,
        Err(ManifestProblem::Error(error)) => return Err(error),
    };
    Err(manifest_corruption(storage, problem, true).into())
}

/// Whether all segments but the last are sealed, and each begins where the one before it ends.
fn is_in_order(manifest: &Manifest) -> bool {
    manifest.segments.windows(2).all(|pair| {
        let [one, next] = pair else { return true };
        one.sequence < next.sequence && one.end_lsn == Some(next.base_lsn) && one.base_position <= next.base_position
    })
}

fn manifest_corruption(storage: &dyn Storage, reason: &str, has_segments: bool) -> Corruption {
    Corruption {
        path: storage.path().join(MANIFEST),
        segment: 0,
        offset: 0,
        last_good_position: Position::START,
        next_good_position: None,
        reason: reason.to_owned(),
        remedy: if has_segments { Remedy::RebuildManifest } else { Remedy::Backup },
    }
}

/// What it means that there is no manifest: no store, one that is just being made, or damage.
fn without_manifest(storage: &dyn Storage) -> Result<Error> {
    let names = storage.list("").map_err(|error| Error::io("list", storage.path(), &error))?;
    let segments: Vec<&String> = names.iter().filter(|name| parse_name(name).is_some()).collect();
    if names.iter().any(|name| name == WATERMARK) {
        return Ok(manifest_corruption(storage, "there is a watermark, but no manifest", !segments.is_empty()).into());
    }
    match segments[..] {
        [] => {}
        [name] if is_being_made(storage, name)? => {}
        _ => return Ok(manifest_corruption(storage, "there are segment files, but no manifest", true).into()),
    }
    Ok(Error::configuration(format!(
        "there is no store in {:?} that could be read; check the path, or open it for writing first, which makes one",
        storage.path()
    )))
}

fn is_being_made(storage: &dyn Storage, name: &str) -> Result<bool> {
    match Segment::attach(storage, name, Access::Read) {
        Ok(segment) => is_untouched(&segment),
        Err(AttachProblem::Error(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn damaged(storage: &dyn Storage, named: &ManifestSegment, reason: &str) -> Corruption {
    Corruption {
        path: storage.path().join(file_name(named.sequence, named.generation)),
        segment: named.sequence,
        offset: 0,
        last_good_position: Position(named.base_position - 1),
        next_good_position: None,
        reason: reason.to_owned(),
        remedy: if named.base_position == 1 { Remedy::AcceptLoss } else { Remedy::ReadOrAcceptLoss },
    }
}

/// Opens the file of a segment that the manifest names.
pub(crate) fn attach(storage: &dyn Storage, manifest: &Manifest, named: &ManifestSegment) -> Result<Segment, Unusable> {
    let segment = match Segment::attach(storage, &file_name(named.sequence, named.generation), Access::Read) {
        Ok(segment) => segment,
        Err(AttachProblem::Missing) => return Err(Unusable::Gone(*named)),
        Err(AttachProblem::Damaged(reason)) => return Err(damaged(storage, named, reason).into()),
        Err(AttachProblem::Error(error)) => return Err(error.into()),
    };
    let header = &segment.header;
    if header.store_id != manifest.maker_of(named.base_lsn) {
        return Err(damaged(storage, named, "the segment belongs to another store").into());
    }
    let told = (header.sequence, header.generation, header.base_lsn, header.base_position);
    if told != (named.sequence, named.generation, named.base_lsn, named.base_position) {
        return Err(damaged(storage, named, "the segment is not the one that the manifest names").into());
    }
    Ok(segment)
}

/// Opens a segment that goes on where the chain, whose checksum is the anchor of the one before, has ended.
pub(crate) fn attach_next(storage: &dyn Storage, manifest: &Manifest, named: &ManifestSegment, chain: &Chain) -> Result<Segment, Unusable> {
    let segment = attach(storage, manifest, named)?;
    let header = &segment.header;
    if (header.base_lsn, header.base_position, header.anchor) != (chain.lsn, chain.position, chain.checksum) {
        return Err(damaged(storage, named, "the segment does not continue the one before it").into());
    }
    Ok(segment)
}

/// Opens a sealed segment; the chain behind its seal, with the anchor that the next segment continues.
pub(crate) fn attach_sealed(storage: &dyn Storage, manifest: &Manifest, named: &ManifestSegment) -> Result<(Segment, Chain), Unusable> {
    let segment = attach(storage, manifest, named)?;
    let end_lsn = named.end_lsn.unwrap_or(0);
    let seal = segment.seal(end_lsn).map_err(|error| segment.io("read", &error))?;
    if let Some((chain, seal)) = seal.filter(|(chain, _)| chain.position >= named.base_position) {
        return Ok((segment, Chain { checksum: seal.anchor, ..chain }));
    }
    // Where it is damaged shows when it is read; a crash may have left no more than zeros behind the seal.
    let scan = segment.scan(&first_chain(&segment.header), &mut |_, _| Ok(()))?;
    if let Some(seal) = scan.seal.filter(|_| scan.chain.lsn == end_lsn)
        && segment.rest(end_lsn)?.bytes == 0
    {
        return Ok((segment, Chain { checksum: seal.anchor, ..scan.chain }));
    }
    let reason = scan.stopped.unwrap_or("the segment does not end where the manifest says");
    Err(segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason).into())
}

/// The log as its sealed segments have it, with the segment behind them not read yet.
fn at_the_end_of_what_is_sealed(storage: &Arc<dyn Storage>, manifest: &Manifest) -> Result<Log, Unusable> {
    all_are_there(&**storage, manifest)?;
    let sealed: Vec<ManifestSegment> = manifest.segments.iter().copied().filter(|segment| segment.end_lsn.is_some()).collect();
    let end = sealed.last().map(|last| attach_sealed(&**storage, manifest, last)).transpose()?;
    let (segment, chain) = match (end, manifest.segments.last().filter(|last| last.end_lsn.is_none())) {
        (Some(end), None) => end,
        (Some((_, chain)), Some(active)) => (attach_next(&**storage, manifest, active, &chain)?, chain),
        (None, Some(active)) => {
            let segment = attach(&**storage, manifest, active)?;
            let chain = first_chain(&segment.header);
            (segment, chain)
        }
        (None, None) => return Err(manifest_corruption(&**storage, "it names no segments", true).into()),
    };
    Ok(Log {
        storage: Arc::clone(storage),
        lock: None,
        store_id: manifest.store_id,
        lineage: manifest.lineage.clone(),
        segments: vec![Arc::new(segment)],
        sealed,
        epoch_floor: chain.epoch,
        chain,
        watermark: None,
        outcome: Outcome::Followed,
        rewritten_bytes: 0,
        scavenged: manifest.scavenged,
        names: Names::default(),
    })
}

fn all_are_there(storage: &dyn Storage, manifest: &Manifest) -> Result<(), Unusable> {
    let names: HashSet<String> = storage.list("").map_err(|error| Error::io("list", storage.path(), &error))?.into_iter().collect();
    let is_gone = |named: &&ManifestSegment| !names.contains(&file_name(named.sequence, named.generation));
    manifest.segments.iter().find(is_gone).map_or(Ok(()), |gone| Err(Unusable::Gone(*gone)))
}

/// The newest mark, and whether that is certain.
pub(crate) fn look(storage: &dyn Storage, store_id: Uuid) -> Result<Option<(Mark, bool)>> {
    Watermark::look_beside(storage, store_id).map_err(|error| Error::io("read", storage.path().join(WATERMARK), &error))
}
