//! A new manifest where the old one is damaged or missing.

use std::cmp::Reverse;

use super::{OnDamage, Opening, first_chain, with_lock};
use crate::error::{Error, Remedy, Result};
use crate::log::manifest::{MANIFEST, Manifest, ManifestSegment};
use crate::log::segment::{Segment, file_name, parse_name};
use crate::log::storage::{Access, Storage};

/// Writes a new manifest from what the segment files say of themselves. The old one is kept in quarantine.
pub(crate) fn rebuild_manifest(storage: &dyn Storage) -> Result<()> {
    with_lock(storage, || rebuild_manifest_locked(storage)).map(drop)
}

fn rebuild_manifest_locked(storage: &dyn Storage) -> Result<()> {
    let opening = Opening { storage, on_damage: OnDamage::Refuse };
    let mut names: Vec<(u64, u32)> = opening.list()?.iter().filter_map(|name| parse_name(name)).collect();
    // Of several generations the latest: each was compared with the one before it when it was made.
    names.sort_unstable_by_key(|(sequence, generation)| (*sequence, Reverse(*generation)));
    names.dedup_by_key(|(sequence, _)| *sequence);
    if names.is_empty() {
        return Err(Error::configuration(format!("{:?} holds no segment files, so there is nothing to rebuild a manifest from", storage.path())));
    }
    let mut segments: Vec<ManifestSegment> = Vec::new();
    let mut store_id = None;
    let mut epoch = 0;
    for (sequence, generation) in names {
        let name = file_name(sequence, generation);
        let segment =
            Segment::attach(storage, &name, Access::Read).map_err(|problem| to_rebuild_without(opening.unattachable(&name, sequence, 0, problem)))?;
        let header = segment.header;
        if *store_id.get_or_insert(header.store_id) != header.store_id {
            let damage = segment.corruption(0, 0, "the segment belongs to another store than the ones before it");
            return Err(to_rebuild_without(damage.into()));
        }
        // Each by itself: whether they continue each other is judged when the store is opened.
        let scan = segment.scan(&first_chain(&header), &mut |_, _| Ok(()))?;
        segments.push(ManifestSegment {
            sequence,
            generation,
            base_lsn: header.base_lsn,
            base_position: header.base_position,
            end_lsn: scan.seal.map(|_| scan.chain.lsn),
            digest: None,
        });
        epoch = epoch.max(scan.chain.epoch);
    }
    opening.quarantine_file(MANIFEST)?;
    let manifest = Manifest { store_id: store_id.unwrap_or_default(), epoch, segments };
    manifest.replace(storage).map_err(|error| opening.io("write", MANIFEST, &error))
}

/// The error about a segment that keeps the manifest from being rebuilt.
fn to_rebuild_without(mut error: Error) -> Error {
    if let Error::Corruption(damage) = &mut error {
        damage.remedy = Remedy::MoveAwayAndRebuild;
    }
    error
}
