//! Whose hashes the index file of a segment has, where nothing else tells.

use uuid::Uuid;

use super::{Identity, SealedIndex, identity};
use crate::index::file::layout;
use crate::log::format::{SegmentHeader, get};
use crate::log::segment::index_name;
use crate::log::storage::{Access, Storage, read_exact_at};

impl SealedIndex {
    /// The store whose hashes the index file has of the segment with this header, whose seal ends at `end_lsn`; `None` if there is no such file
    /// that is sound in itself.
    pub(crate) fn origin_told(storage: &dyn Storage, header: &SegmentHeader, end_lsn: u64, end_position: u64) -> Option<Uuid> {
        let name = index_name(header.sequence);
        let file = storage.open(&name, Access::Read).ok()?;
        let mut bytes = [0; layout::IDENTITY + layout::IDENTITY_BYTES];
        read_exact_at(&*file, &mut bytes, 0).ok()?;
        let store_id = Uuid::from_bytes(get(&bytes, layout::IDENTITY + identity::STORE_ID));
        let SegmentHeader { sequence, salt, base_lsn, base_position, .. } = *header;
        let identity = Identity { store_id, sequence, salt, base_lsn, end_lsn, base_position, end_position };
        Self::open(storage, &name, &identity).and_then(|index| index.check()).ok().map(|()| store_id)
    }
}
