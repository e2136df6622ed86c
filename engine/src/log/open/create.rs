//! Making a store where there is none.

use std::io;

use uuid::Uuid;

use super::{Opening, named};
use crate::error::{Error, Result};

use crate::log::manifest::{MANIFEST, Manifest};
use crate::log::recovery::Chain;
use crate::log::segment::{AttachProblem, FIRST_FRAME, Segment, file_name, new_segment};
use crate::log::storage::{Access, Space};

/// How much space a new segment begins with.
const FIRST_SPACE: u64 = 64 << 10;

impl Opening<'_> {
    /// Without a manifest there is either no store, or one whose creation was interrupted before anything was promised, or damage.
    pub(super) fn manifest_of_unfinished_creation(&self) -> Result<Option<Manifest>> {
        let names = self.names()?;
        if names.segments().is_empty() {
            return if names.has_watermark {
                Err(self.manifest_corruption("there is a watermark, but neither a manifest nor a segment").into())
            } else {
                Ok(None)
            };
        }
        if let [(sequence, generation)] = *names.segments()
            && !names.has_watermark
        {
            let name = &file_name(sequence, generation);
            match Segment::attach(self.storage, name, Access::Read) {
                Ok(segment) if is_untouched(&segment)? => {
                    // Its own name may not be durable yet, and must be before the manifest's.
                    self.storage.sync_directory("").map_err(|error| self.io("sync", "", &error))?;
                    let manifest = Manifest::of_new_store(segment.header.store_id, named(&segment.header, None));
                    manifest.replace(self.storage).map_err(|error| self.io("write", MANIFEST, &error))?;
                    return Ok(Some(manifest));
                }
                Err(AttachProblem::Error(error)) => return Err(error),
                _ => {}
            }
        }
        Err(self.manifest_corruption("there are segment files, but no manifest").into())
    }

    /// A new store: its first segment, then the manifest that names it.
    pub(super) fn create(&self) -> Result<Manifest> {
        let header = new_segment(Uuid::new_v4(), 1, 0, &Chain { lsn: 0, position: 1, checksum: 0, epoch: 0, commit_time: 0, durable_upto: 0 }, 0);
        let create = || {
            let segment = Segment::prepare(self.storage, header, FIRST_FRAME, Space::Written)?;
            segment.publish(self.storage)?;
            let manifest = Manifest::of_new_store(header.store_id, named(&header, None));
            manifest.replace(self.storage).map(|()| manifest)
        };
        create().map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => Error::StorageFull { path: self.storage.path(), needed_bytes: Some(FIRST_SPACE) },
            _ => self.io("create the store in", "", &error),
        })
    }
}

/// Whether this is a store's first segment, as it was made, before any append.
pub(crate) fn is_untouched(segment: &Segment) -> Result<bool> {
    let header = &segment.header;
    Ok((header.sequence, header.base_lsn, header.generation) == (1, 0, 0) && segment.rest(0)?.bytes == 0)
}
