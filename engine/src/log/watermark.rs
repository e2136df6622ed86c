//! The WATERMARK: a lower bound of what is on disk and of what can be read, rewritten after every group. Readers in other processes
//! follow it.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{FILE_SEED, checksum, get};
use super::storage::{Access, Storage, StorageFile};

/// The watermark's name.
pub(crate) const WATERMARK: &str = "WATERMARK";

/// How often a reader beside the writer looks for both slots to be whole.
const LOOKS: usize = 3;

/// The layout of one slot.
pub(crate) mod layout {
    /// The first bytes of a slot, as a number.
    pub(crate) const MAGIC_NUMBER: u32 = 0x4D57_5645;
    /// Magic (u32).
    pub(crate) const MAGIC: usize = 0;
    /// Epoch (u32).
    pub(crate) const EPOCH: usize = MAGIC + 4;
    /// Raised with every write: the slot with the higher number counts (u64).
    pub(crate) const SEQUENCE: usize = EPOCH + 4;
    /// Store id (16 bytes).
    pub(crate) const STORE_ID: usize = SEQUENCE + 8;
    /// Segment that is written to (u64).
    pub(crate) const SEGMENT: usize = STORE_ID + 16;
    /// Everything below this LSN is on disk (u64).
    pub(crate) const DURABLE_LSN: usize = SEGMENT + 8;
    /// Everything below this LSN can be read (u64).
    pub(crate) const VISIBLE_LSN: usize = DURABLE_LSN + 8;
    /// Position of the last event below the durable LSN (u64).
    pub(crate) const DURABLE_POSITION: usize = VISIBLE_LSN + 8;
    /// Position of the last event below the visible LSN (u64).
    pub(crate) const VISIBLE_POSITION: usize = DURABLE_POSITION + 8;
    /// Reserved, 0 (u32).
    pub(crate) const RESERVED: usize = VISIBLE_POSITION + 8;
    /// Checksum of the slot up to here (u32).
    pub(crate) const CHECKSUM: usize = RESERVED + 4;
    /// Length of a slot.
    pub(crate) const BYTES: usize = CHECKSUM + 4;
    /// Distance between the two slots, so that no torn page hits both.
    pub(crate) const SLOT_DISTANCE: u64 = 4096;
}

/// What one slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) epoch: u32,
    pub(crate) segment: u64,
    pub(crate) durable_lsn: u64,
    pub(crate) visible_lsn: u64,
    pub(crate) durable_position: u64,
    pub(crate) visible_position: u64,
}

/// In what state a watermark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none.
    Missing,
    /// Neither slot is whole and of this store.
    Unusable,
    /// What its newer slot says; nothing if none was ever written, as where nothing was synced yet.
    Says(Mark),
}

fn encode(store_id: Uuid, sequence: u64, mark: &Mark) -> [u8; layout::BYTES] {
    let mut bytes = [0; layout::BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(layout::MAGIC, &layout::MAGIC_NUMBER.to_le_bytes());
    put(layout::EPOCH, &mark.epoch.to_le_bytes());
    put(layout::SEQUENCE, &sequence.to_le_bytes());
    put(layout::STORE_ID, store_id.as_bytes());
    put(layout::SEGMENT, &mark.segment.to_le_bytes());
    put(layout::DURABLE_LSN, &mark.durable_lsn.to_le_bytes());
    put(layout::VISIBLE_LSN, &mark.visible_lsn.to_le_bytes());
    put(layout::DURABLE_POSITION, &mark.durable_position.to_le_bytes());
    put(layout::VISIBLE_POSITION, &mark.visible_position.to_le_bytes());
    let sum = checksum(FILE_SEED, &bytes[..layout::CHECKSUM]);
    bytes[layout::CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; layout::BYTES], store_id: Uuid) -> Option<(u64, Mark)> {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if u32_at(layout::MAGIC) != layout::MAGIC_NUMBER
        || checksum(FILE_SEED, &bytes[..layout::CHECKSUM]) != u32_at(layout::CHECKSUM)
        || bytes[layout::STORE_ID..layout::STORE_ID + 16] != *store_id.as_bytes()
    {
        return None;
    }
    let mark = Mark {
        epoch: u32_at(layout::EPOCH),
        segment: u64_at(layout::SEGMENT),
        durable_lsn: u64_at(layout::DURABLE_LSN),
        visible_lsn: u64_at(layout::VISIBLE_LSN),
        durable_position: u64_at(layout::DURABLE_POSITION),
        visible_position: u64_at(layout::VISIBLE_POSITION),
    };
    let sequence = u64_at(layout::SEQUENCE);
    // As many were never written, and could not be counted on from.
    (sequence < 1 << 62).then_some((sequence, mark))
}

/// The watermark of an open store.
pub(crate) struct Watermark {
    file: Arc<dyn StorageFile>,
    store_id: Uuid,
    sequence: u64,
    last: Mark,
    /// The last attempt to raise it has failed.
    fails: bool,
}

impl Watermark {
    /// What the watermark of a store says; nothing if it is missing or damaged, since it is only a lower bound.
    pub(crate) fn read(storage: &dyn Storage, store_id: Uuid) -> io::Result<Mark> {
        match storage.open(WATERMARK, Access::Read) {
            Ok(file) => Ok(newest(&*file, store_id)?.map(|(_, mark)| mark).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Mark::default()),
            Err(error) => Err(error),
        }
    }

    /// In what state the watermark of a store is, for who wants to tell one that is damaged from one that says nothing.
    pub(crate) fn look(storage: &dyn Storage, store_id: Uuid) -> io::Result<Standing> {
        let file = match storage.open(WATERMARK, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Missing),
            file => file?,
        };
        // What cannot be read says nothing.
        if let Ok(Some((_, mark))) = newest(&*file, store_id) {
            return Ok(Standing::Says(mark));
        }
        let untouched = (0..2).all(|slot| {
            let mut bytes = [0; layout::BYTES];
            file.read_at(&mut bytes, slot * layout::SLOT_DISTANCE).is_ok() && bytes.iter().all(|byte| *byte == 0)
        });
        Ok(if untouched { Standing::Says(Mark::default()) } else { Standing::Unusable })
    }

    /// The store whose watermark this is, if one of its slots is whole.
    pub(crate) fn store_of(storage: &dyn Storage) -> Option<Uuid> {
        let file = storage.open(WATERMARK, Access::Read).ok()?;
        (0..2).find_map(|slot| {
            let mut bytes = [0; layout::BYTES];
            let read = file.read_at(&mut bytes, slot * layout::SLOT_DISTANCE).ok()?;
            let store_id = Uuid::from_bytes(get(&bytes, layout::STORE_ID));
            (read == bytes.len()).then(|| decode(&bytes, store_id))?.map(|_| store_id)
        })
    }

    /// Makes the watermark of a new store. Its name is durable when the directory is synced.
    pub(crate) fn create(storage: &dyn Storage, store_id: Uuid) -> io::Result<Self> {
        Ok(Self { file: storage.create(WATERMARK)?, store_id, sequence: 0, last: Mark::default(), fails: false })
    }

    /// What a reader beside the writer finds: the newest mark, and whether that is certain. While a slot is not whole (it may be
    /// written just now) the other one tells, which may be older than what was read before.
    pub(crate) fn look_beside(storage: &dyn Storage, store_id: Uuid) -> io::Result<Option<(Mark, bool)>> {
        let file = match storage.open(WATERMARK, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut found = slots(&*file, store_id)?;
        for _ in 1..LOOKS {
            if found.iter().all(Option::is_some) {
                break;
            }
            found = slots(&*file, store_id)?;
        }
        let certain = found.iter().all(Option::is_some);
        Ok(newer(found).map(|(_, mark)| (mark, certain)))
    }

    /// Opens the watermark for writing, or makes one.
    pub(crate) fn open(storage: &dyn Storage, store_id: Uuid) -> io::Result<Self> {
        let file = match storage.open(WATERMARK, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = storage.create(WATERMARK)?;
                storage.sync_directory("")?;
                file
            }
            file => file?,
        };
        let (sequence, last) = newest(&*file, store_id)?.unwrap_or_default();
        Ok(Self { file, store_id, sequence, last, fails: false })
    }

    /// Raises the lower bound by `write`. One that cannot be raised is still a lower bound, so a failure is reported, once until
    /// it works again, and stops nobody.
    pub(crate) fn raise(&mut self, storage: &dyn Storage, mark: &Mark, write: fn(&mut Self, &Mark) -> io::Result<()>) {
        match write(self, mark) {
            Ok(()) => self.fails = false,
            Err(error) => {
                if !self.fails {
                    let path = storage.path().join(WATERMARK);
                    tracing::warn!(
                        ?path,
                        %error,
                        "the watermark cannot be written; nothing is lost, but damage to the newest events may pass for an interrupted append"
                    );
                }
                self.fails = true;
            }
        }
    }

    /// Writes one slot. It survives the process; the machine only after a sync.
    pub(crate) fn write(&mut self, mark: &Mark) -> io::Result<()> {
        // A slot that cannot be written is the next one too: the other holds what was written last.
        let sequence = self.sequence + 1;
        self.file.write_at(&encode(self.store_id, sequence, mark), (sequence % 2) * layout::SLOT_DISTANCE)?;
        self.sequence = sequence;
        self.last = *mark;
        Ok(())
    }

    /// Whether it says anything else of where the log ends than `mark`.
    pub(crate) fn differs_from(&self, mark: &Mark) -> bool {
        (self.last.durable_lsn, self.last.visible_lsn) != (mark.durable_lsn, mark.visible_lsn)
    }

    /// Writes both slots: nothing older is left to be believed.
    pub(crate) fn write_both(&mut self, mark: &Mark) -> io::Result<()> {
        self.write(mark)?;
        self.write(mark)
    }

    /// Writes both slots and syncs them.
    pub(crate) fn write_durably(&mut self, mark: &Mark) -> io::Result<()> {
        self.write_both(mark)?;
        self.file.sync()
    }
}

/// Both slots, those that are whole.
type Slots = [Option<(u64, Mark)>; 2];

fn slots(file: &dyn StorageFile, store_id: Uuid) -> io::Result<Slots> {
    let mut found = Slots::default();
    for (slot, found) in (0..).zip(&mut found) {
        let mut bytes = [0; layout::BYTES];
        if file.read_at(&mut bytes, slot * layout::SLOT_DISTANCE)? == bytes.len() {
            *found = decode(&bytes, store_id);
        }
    }
    Ok(found)
}

fn newer(slots: Slots) -> Option<(u64, Mark)> {
    slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence)
}

fn newest(file: &dyn StorageFile, store_id: Uuid) -> io::Result<Option<(u64, Mark)>> {
    slots(file, store_id).map(newer)
}
