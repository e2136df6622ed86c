//! Makes checksums and chains match again after bytes were changed, so that hostile values get past them.

use std::ops::Range;

const FILE_SEED: u32 = 0x4556_464C;
const TABLE_SEED: u32 = 0x4556_5442;
const BODY_SEED: u32 = 0x4556_424F;
const INDEX_SEED: u32 = 0x4556_4958;
const SEGMENT_HEADER: usize = 4096;
const FRAME_HEADER: usize = 64;
const ENTRY: usize = 40;
const WATERMARK_SLOT: usize = 80;

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes the checksum of a part of `bytes` into the four bytes behind it.
fn seal(bytes: &mut [u8], part: Range<usize>, seed: u32) -> u32 {
    let sum = checksum(seed, &bytes[part.clone()]);
    bytes[part.end..part.end + 4].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Mends the checksums of a file of a store, whichever it is.
pub fn reseal(name: &str, bytes: &mut [u8]) {
    let length = bytes.len();
    match name {
        "MANIFEST" if length > 4 => drop(seal(bytes, 0..length - 4, FILE_SEED)),
        "WATERMARK" => {
            for slot in [0, 4096] {
                if length >= slot + WATERMARK_SLOT {
                    seal(bytes, slot..slot + WATERMARK_SLOT - 4, FILE_SEED);
                }
            }
        }
        name if name.ends_with(".seg") && length >= SEGMENT_HEADER => {
            seal(bytes, 0..SEGMENT_HEADER - 4, FILE_SEED);
            let seed = checksum(FILE_SEED, &bytes[32..40]);
            let anchor = u32_at(bytes, 72);
            reseal_frames(&mut bytes[SEGMENT_HEADER..], seed, anchor);
        }
        _ => {}
    }
}

/// Mends the pages of an index file.
pub fn reseal_index(bytes: &mut [u8]) {
    let Some(identity) = bytes.get(32..160).map(<[u8]>::to_vec) else { return };
    for (number, page) in (0_u64..).zip(bytes.chunks_exact_mut(4096)) {
        let seed = if number == 0 { INDEX_SEED } else { checksum(INDEX_SEED, &identity) };
        let sum = checksum(checksum(seed, &page[..4092]), &number.to_le_bytes());
        page[4092..].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Mends the frames that begin at the first byte and follow each other, as far as they lie within `bytes`.
pub fn reseal_frames(bytes: &mut [u8], seed: u32, mut previous: u32) {
    let mut at = 0;
    while bytes.len() >= at + FRAME_HEADER && u32_at(bytes, at) != 0 {
        let count = u32_at(bytes, at + 20) as usize;
        let table = at + FRAME_HEADER..(at + FRAME_HEADER).saturating_add(count.saturating_mul(ENTRY));
        let end = table.end.saturating_add(u32_at(bytes, at + 52) as usize);
        if end > bytes.len() {
            return;
        }
        for entry in table.clone().step_by(ENTRY) {
            let start = entry.saturating_add(u32_at(bytes, entry) as usize);
            let body = start..start.saturating_add(u32_at(bytes, entry + 4) as usize);
            if body.end <= bytes.len() {
                let sum = checksum(BODY_SEED, &bytes[body]);
                bytes[entry + 8..entry + 12].copy_from_slice(&sum.to_le_bytes());
            }
            seal(bytes, entry..entry + ENTRY - 4, seed);
        }
        let covered = if count == 0 { table.end..end } else { table };
        let sum = checksum(TABLE_SEED, &bytes[covered]);
        bytes[at + 56..at + 60].copy_from_slice(&sum.to_le_bytes());
        bytes[at + 48..at + 52].copy_from_slice(&previous.to_le_bytes());
        previous = seal(bytes, at..at + FRAME_HEADER - 4, seed);
        at = end.next_multiple_of(8);
    }
}
