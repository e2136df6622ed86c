//! A new manifest where the old one is damaged or missing.

use std::cell::OnceCell;
use std::cmp::Reverse;

use uuid::Uuid;

use super::{OnDamage, Opening, first_chain, named, with_lock};
use crate::error::{Corruption, Error, Remedy, Result};
use crate::log::format::SegmentHeader;
use crate::log::lineage::{Ancestor, Lineage};
use crate::log::manifest::{MANIFEST, Manifest, ManifestSegment};
use crate::log::runs;
use crate::log::scan::{Scan, Seal};
use crate::log::segment::{Segment, file_name};
use crate::log::storage::{Access, Storage};
use crate::log::watermark::{WATERMARK, Watermark};

/// The root of the family of stores that a sealed segment's index was made in, by its header, the LSN behind its seal, and the position
/// after it; `None` where that is not known.
pub(crate) type OriginOf<'a> = dyn Fn(&SegmentHeader, u64, u64) -> Option<Uuid> + 'a;

/// Writes a new manifest from what the segment files say of themselves. The old one is kept in quarantine.
pub(crate) fn rebuild_manifest(storage: &dyn Storage, origin_of: &OriginOf<'_>) -> Result<()> {
    with_lock(storage, || rebuild_manifest_locked(storage, origin_of)).map(drop)
}

fn rebuild_manifest_locked(storage: &dyn Storage, origin_of: &OriginOf<'_>) -> Result<()> {
    let opening = Opening { storage, on_damage: OnDamage::Refuse, names: OnceCell::new() };
    let mut names = opening.names()?.segments().to_vec();
    // Of several generations the latest: each was compared with the one before it when it was made.
    names.sort_unstable_by_key(|(sequence, generation)| (*sequence, Reverse(*generation)));
    names.dedup_by_key(|(sequence, _)| *sequence);
    if names.is_empty() {
        return Err(Error::configuration(format!("{:?} holds no segment files, so there is nothing to rebuild a manifest from", storage.path())));
    }
    let mut rebuilt = Rebuilt::default();
    for (sequence, generation) in names {
        let name = file_name(sequence, generation);
        let segment =
            Segment::attach(storage, &name, Access::Read).map_err(|problem| to_rebuild_without(opening.unattachable(&name, sequence, 0, problem)))?;
        // Each by itself: whether those of one store continue each other is judged when it is opened.
        let scan = segment.scan(&first_chain(&segment.header), &mut |_, _| Ok(()))?;
        rebuilt.add(&segment, &scan)?;
        if let (None, Some(seal)) = (rebuilt.origin, scan.seal) {
            // A fork may have none of its ancestors' segments any more.
            rebuilt.origin = origin_of(&segment.header, scan.chain.lsn, seal.end_position);
        }
    }
    let manifest = rebuilt.manifest();
    if let Some(store_id) = Watermark::store_of(storage).filter(|store_id| *store_id != manifest.store_id) {
        let reason = format!(
            "it is of the store {store_id}, but the newest segment is of {}: that store's own segments are missing, or this file is not of this store",
            manifest.store_id
        );
        let damage = Corruption { path: storage.path().join(WATERMARK), reason, ..opening.manifest_corruption("") };
        return Err(to_rebuild_without(damage.into()));
    }
    remove_runs(&opening)?;
    opening.quarantine_file(MANIFEST)?;
    manifest.replace(storage).map_err(|error| opening.io("write", MANIFEST, &error))
}

/// Removes the merged runs of indexes, which are merged again. They do not say whose hashes they have: if the root of the family is not found, they
/// would deny what is there.
fn remove_runs(opening: &Opening<'_>) -> Result<()> {
    let names = opening.storage.list(runs::FOLDER).map_err(|error| opening.io("list", runs::FOLDER, &error))?;
    let runs: Vec<_> = names.iter().filter(|name| runs::parse_run_name(name).is_some()).map(|name| format!("{}/{name}", runs::FOLDER)).collect();
    for name in &runs {
        opening.storage.remove(name).map_err(|error| opening.io("remove", name, &error))?;
    }
    if runs.is_empty() {
        return Ok(());
    }
    opening.storage.sync_directory(runs::FOLDER).map_err(|error| opening.io("sync", runs::FOLDER, &error))
}

/// What the segments have told so far.
#[derive(Default)]
struct Rebuilt {
    segments: Vec<ManifestSegment>,
    epoch: u32,
    /// The stores that segments were made by, the root first, each with where its first one begins.
    makers: Vec<(Uuid, u64, u64)>,
    /// The root of the family, if something else tells it.
    origin: Option<Uuid>,
    seal: Option<Seal>,
}

impl Rebuilt {
    /// Takes in the next segment. One of another store must go on from the seal before it: that store was forked there.
    fn add(&mut self, segment: &Segment, scan: &Scan) -> Result<()> {
        let header = &segment.header;
        let maker = (header.store_id, header.base_lsn, header.base_position);
        match self.makers.last() {
            None => self.makers.push(maker),
            Some((store_id, ..)) if *store_id == header.store_id => {}
            Some(_) if self.is_forked_at(header) => self.makers.push(maker),
            Some(_) => {
                let damage = segment.corruption(0, 0, "the segment belongs to another store than the ones before it");
                return Err(to_rebuild_without(damage.into()));
            }
        }
        self.seal = scan.seal;
        self.segments.push(named(header, scan.seal.map(|_| scan.chain.lsn)));
        self.epoch = self.epoch.max(scan.chain.epoch);
        Ok(())
    }

    fn is_forked_at(&self, header: &SegmentHeader) -> bool {
        let is_new = self.makers.iter().all(|(store_id, ..)| *store_id != header.store_id);
        let end_lsn = self.segments.last().and_then(|last| last.end_lsn);
        is_new
            && end_lsn == Some(header.base_lsn)
            && self.seal.map(|seal| (seal.anchor, seal.end_position)) == Some((header.anchor, header.base_position))
    }

    /// The store that made the last segment, with the others for its ancestors.
    fn manifest(self) -> Manifest {
        let store_id = self.makers.last().map(|(store_id, ..)| *store_id).unwrap_or_default();
        let ancestor = |pair: &[(Uuid, u64, u64)]| Ancestor { store_id: pair[0].0, end_lsn: pair[1].1, position: pair[1].2 - 1 };
        let mut ancestors: Vec<Ancestor> = self.makers.windows(2).map(ancestor).collect();
        let is_other = |origin: &Uuid| self.makers.iter().all(|(maker, ..)| maker != origin);
        if let (Some(root), Some((_, end_lsn, position))) = (self.origin.filter(is_other), self.makers.first()) {
            ancestors.insert(0, Ancestor { store_id: root, end_lsn: *end_lsn, position: position - 1 });
        }
        let lineage = Lineage::new(ancestors);
        Manifest { store_id, lineage, epoch: self.epoch, segments: self.segments, scavenged: 0 }
    }
}

/// The error about a file that keeps the manifest from being rebuilt.
fn to_rebuild_without(mut error: Error) -> Error {
    if let Error::Corruption(damage) = &mut error {
        damage.remedy = Remedy::MoveAwayAndRebuild;
    }
    error
}
