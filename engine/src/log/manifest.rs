//! The MANIFEST: which segments a store consists of. Replaced whole; the swap is the commit point of every change of files.

use uuid::Uuid;

use super::format::{FILE_SEED, FORMAT_VERSION, HeadProblem, READABLE_FROM, check_version, checksum, get, is_plausible, u32_at, u64_at};
use super::lineage::Lineage;
use super::storage::{Access, Storage, read_exact_at};
use crate::error::{Error, Result};

/// The manifest's name.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// The name under which the next manifest is prepared.
pub(crate) const MANIFEST_TMP: &str = "MANIFEST.tmp";

/// The length of a segment's digest.
pub(crate) const DIGEST_BYTES: usize = 32;

/// The layout: a head, then an entry for each segment, then the lineage, then how far deletions were carried out, then a checksum of all
/// before it.
pub(crate) mod layout {
    /// The first bytes of a manifest (8 bytes).
    pub(crate) const MAGIC_BYTES: [u8; 8] = *b"EVTLIMAN";
    /// Magic (8 bytes).
    pub(crate) const MAGIC: usize = 0;
    /// Format version (u32).
    pub(crate) const FORMAT_VERSION: usize = MAGIC + 8;
    /// Oldest format version that can read it (u32).
    pub(crate) const READABLE_FROM: usize = FORMAT_VERSION + 4;
    /// Store id (16 bytes).
    pub(crate) const STORE_ID: usize = READABLE_FROM + 4;
    /// Epoch when it was written (u32).
    pub(crate) const EPOCH: usize = STORE_ID + 16;
    /// Number of segments (u32).
    pub(crate) const SEGMENTS: usize = EPOCH + 4;
    /// Length of the lineage behind the segments: the stores that this one was forked from, 0 if none (u32).
    pub(crate) const LINEAGE_BYTES: usize = SEGMENTS + 4;
    /// Length of what follows the lineage: 8 if it says how far deletions were carried out, 0 if not (u32).
    pub(crate) const SCAVENGED_BYTES: usize = LINEAGE_BYTES + 4;
    /// Length of the head.
    pub(crate) const HEAD_BYTES: usize = SCAVENGED_BYTES + 4;
    /// In an entry: sequence number (u64).
    pub(crate) const SEQUENCE: usize = 0;
    /// In an entry: generation (u32).
    pub(crate) const GENERATION: usize = SEQUENCE + 8;
    /// In an entry: 0 while the segment is written to, 1 if it is sealed, 2 if it is also as small as compressing makes it (u32).
    pub(crate) const SEALED: usize = GENERATION + 4;
    /// In an entry: LSN of its first frame (u64).
    pub(crate) const BASE_LSN: usize = SEALED + 4;
    /// In an entry: position of its first event (u64).
    pub(crate) const BASE_POSITION: usize = BASE_LSN + 8;
    /// In an entry: LSN behind its seal; 0 if it is not sealed (u64).
    pub(crate) const END_LSN: usize = BASE_POSITION + 8;
    /// In an entry: BLAKE3 of a sealed segment's frames without the seal; zeros where none was made (32 bytes).
    pub(crate) const DIGEST: usize = END_LSN + 8;
    /// Length of an entry.
    pub(crate) const ENTRY_BYTES: usize = DIGEST + super::DIGEST_BYTES;
    /// The largest manifest that is read.
    pub(crate) const BYTES_MAX: u64 = 64 << 20;
}

/// What the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) store_id: Uuid,
    /// Whose segments come first.
    pub(crate) lineage: Lineage,
    pub(crate) epoch: u32,
    pub(crate) segments: Vec<ManifestSegment>,
    /// Whatever the deletions up to this position leave out was taken out of the segments; 0 if nothing is known.
    pub(crate) scavenged: u64,
}

/// What the manifest says of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ManifestSegment {
    pub(crate) sequence: u64,
    pub(crate) generation: u32,
    pub(crate) base_lsn: u64,
    pub(crate) base_position: u64,
    /// The LSN behind its seal; `None` for the segment that is written to.
    pub(crate) end_lsn: Option<u64>,
    /// BLAKE3 of its frames, without the seal; `None` where none was made.
    pub(crate) digest: Option<[u8; DIGEST_BYTES]>,
    /// It is sealed, and as small as compressing makes it: compressed, or found not to become smaller.
    pub(crate) is_packed: bool,
}

/// Why there is no manifest to go by.
#[derive(Debug)]
pub(crate) enum ManifestProblem {
    /// There is none.
    Missing,
    /// It is damaged.
    Damaged(&'static str),
    /// It is of a format that this release does not know, or cannot be read.
    Error(Error),
}

/// What the manifest says of a segment that is sealed, and of one that is packed as well.
const SEALED: u32 = 1;
const PACKED: u32 = 2;

impl ManifestSegment {
    fn state(&self) -> u32 {
        match (self.end_lsn, self.is_packed) {
            (None, _) => 0,
            (Some(_), false) => SEALED,
            (Some(_), true) => PACKED,
        }
    }
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let lineage = self.lineage.encode();
        let mut bytes = Vec::with_capacity(layout::HEAD_BYTES + self.segments.len() * layout::ENTRY_BYTES + lineage.len() + 4);
        bytes.extend_from_slice(&layout::MAGIC_BYTES);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&READABLE_FROM.to_le_bytes());
        bytes.extend_from_slice(self.store_id.as_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(self.segments.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(lineage.len()).unwrap_or(u32::MAX).to_le_bytes());
        let scavenged_bytes: u32 = if self.scavenged == 0 { 0 } else { 8 };
        bytes.extend_from_slice(&scavenged_bytes.to_le_bytes());
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.sequence.to_le_bytes());
            bytes.extend_from_slice(&segment.generation.to_le_bytes());
            bytes.extend_from_slice(&segment.state().to_le_bytes());
            bytes.extend_from_slice(&segment.base_lsn.to_le_bytes());
            bytes.extend_from_slice(&segment.base_position.to_le_bytes());
            bytes.extend_from_slice(&segment.end_lsn.unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(&segment.digest.unwrap_or_default());
        }
        bytes.extend_from_slice(&lineage);
        if self.scavenged != 0 {
            bytes.extend_from_slice(&self.scavenged.to_le_bytes());
        }
        let sum = checksum(FILE_SEED, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, HeadProblem> {
        if bytes.len() < layout::HEAD_BYTES + 4 || bytes[..8] != layout::MAGIC_BYTES {
            return Err(HeadProblem::Damaged("it does not begin as a manifest does"));
        }
        let sum_at = bytes.len() - 4;
        if checksum(FILE_SEED, &bytes[..sum_at]) != u32_at(bytes, sum_at) {
            return Err(HeadProblem::Damaged("its checksum does not match"));
        }
        check_version(u32_at(bytes, layout::FORMAT_VERSION), u32_at(bytes, layout::READABLE_FROM))?;
        let count = u32_at(bytes, layout::SEGMENTS) as usize;
        let scavenged_bytes = u32_at(bytes, layout::SCAVENGED_BYTES) as usize;
        let (entries, scavenged) = bytes[layout::HEAD_BYTES..sum_at].split_at((sum_at - layout::HEAD_BYTES).saturating_sub(scavenged_bytes));
        let matches = entries.len() == count * layout::ENTRY_BYTES + u32_at(bytes, layout::LINEAGE_BYTES) as usize;
        if !matches || scavenged.len() != scavenged_bytes || !matches!(scavenged_bytes, 0 | 8) {
            return Err(HeadProblem::Damaged("its length does not match its contents"));
        }
        let scavenged = scavenged.try_into().map_or(0, u64::from_le_bytes);
        let store_id = Uuid::from_bytes(get(bytes, layout::STORE_ID));
        let lineage = Lineage::decode(&entries[count * layout::ENTRY_BYTES..], store_id);
        let lineage = lineage.ok_or(HeadProblem::Damaged("its lineage is one that no store has"))?;
        let segment = |entry: &[u8]| ManifestSegment {
            sequence: u64_at(entry, layout::SEQUENCE),
            generation: u32_at(entry, layout::GENERATION),
            base_lsn: u64_at(entry, layout::BASE_LSN),
            base_position: u64_at(entry, layout::BASE_POSITION),
            end_lsn: (u32_at(entry, layout::SEALED) >= SEALED).then(|| u64_at(entry, layout::END_LSN)),
            is_packed: u32_at(entry, layout::SEALED) >= PACKED,
            digest: entry[layout::DIGEST..].try_into().ok().filter(|digest| *digest != [0; DIGEST_BYTES]),
        };
        let segments: Vec<ManifestSegment> = entries.chunks_exact(layout::ENTRY_BYTES).take(count).map(segment).collect();
        if !segments.iter().all(|segment| is_plausible(segment.sequence, segment.base_lsn, segment.base_position)) {
            return Err(HeadProblem::Damaged("it holds numbers that no log reaches"));
        }
        Ok(Self { store_id, lineage, epoch: u32_at(bytes, layout::EPOCH), segments, scavenged })
    }

    /// That of a store which has nothing but its first segment.
    pub(crate) fn of_new_store(store_id: Uuid, first: ManifestSegment) -> Self {
        Self { store_id, lineage: Lineage::default(), epoch: 0, segments: vec![first], scavenged: 0 }
    }

    /// The store that made the segment which begins at this LSN: this one or an ancestor.
    pub(crate) fn maker_of(&self, base_lsn: u64) -> Uuid {
        self.lineage.maker_of(base_lsn, self.store_id)
    }

    /// Reads the manifest of a store.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, ManifestProblem> {
        let path = storage.path().join(MANIFEST);
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ManifestProblem::Missing,
            _ => ManifestProblem::Error(Error::io("read", &path, &error)),
        };
        let file = storage.open(MANIFEST, Access::Read).map_err(fail)?;
        let length = file.length().map_err(fail)?;
        if length > layout::BYTES_MAX {
            return Err(ManifestProblem::Damaged("it is longer than a manifest can be"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        read_exact_at(&*file, &mut bytes, 0).map_err(fail)?;
        Self::decode(&bytes).map_err(|problem| match problem {
            HeadProblem::Damaged(reason) => ManifestProblem::Damaged(reason),
            HeadProblem::Version { found, readable_from } => {
                ManifestProblem::Error(Error::FormatVersion { path: path.clone(), found, readable_from, supported: FORMAT_VERSION })
            }
        })
    }

    /// Writes and syncs the next manifest beside the present one. It counts only after [`swap`].
    pub(crate) fn prepare(&self, storage: &dyn Storage) -> std::io::Result<()> {
        let file = storage.create(MANIFEST_TMP)?;
        file.write_at(&self.encode(), 0)?;
        file.sync()
    }

    /// Writes the manifest and makes it the one that counts.
    pub(crate) fn replace(&self, storage: &dyn Storage) -> std::io::Result<()> {
        self.prepare(storage)?;
        swap(storage)
    }
}

/// Makes the prepared manifest the one that counts.
pub(crate) fn swap(storage: &dyn Storage) -> std::io::Result<()> {
    storage.rename(MANIFEST_TMP, MANIFEST)?;
    storage.sync_directory("")
}
