//! The seed of a segment's checksums, found in its frames where the segment's header is lost.
//!
//! A CRC is linear: of a frame's header and its checksum there is one seed that fits. Whether it is the right one is told by
//! a checksum elsewhere: that of the frame's first record entry, which has the same seed.

use super::source::read_tolerantly;
use crate::log::format::{FRAME_ALIGN, FrameHeader, RecordEntry, checksum, frame_header, record_entry, segment_header};
use crate::log::segment::FIRST_FRAME;
use crate::log::storage::StorageFile;

/// How many headers are tried.
const TRIES_MAX: usize = 256;
/// How much is read at once.
const BLOCK_BYTES: usize = 256 << 10;

/// The one seed with which `bytes` have this checksum.
fn seed_of(bytes: &[u8], sum: u32) -> Option<u32> {
    let of_zero = checksum(0, bytes);
    // For each leading bit: what has it, and the seed bits that make it.
    let mut basis = [(0_u32, 0_u32); 32];
    for bit in 0..32 {
        let (mut value, mut seed) = (checksum(1 << bit, bytes) ^ of_zero, 1 << bit);
        while value != 0 {
            let at = &mut basis[value.leading_zeros() as usize];
            if at.0 == 0 {
                *at = (value, seed);
                break;
            }
            value ^= at.0;
            seed ^= at.1;
        }
    }
    let (mut value, mut seed) = (sum ^ of_zero, 0);
    while value != 0 {
        let at = basis[value.leading_zeros() as usize];
        if at.0 == 0 {
            return None;
        }
        value ^= at.0;
        seed ^= at.1;
    }
    Some(seed)
}

/// The seed of the frames in a segment file whose header is damaged, if one of them still tells it. `salt` is what the header
/// says, right or wrong; `base_lsn` that of the first frame.
pub(super) fn find_seed(file: &dyn StorageFile, salt_seed: Option<u32>, base_lsn: u64) -> Option<u32> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let mut at = FIRST_FRAME;
    let mut tries = 0;
    let overlap = frame_header::BYTES + record_entry::BYTES - FRAME_ALIGN;
    loop {
        let (read, _) = read_tolerantly(file, &mut bytes, at).ok()?;
        for start in (0..read.saturating_sub(overlap + FRAME_ALIGN - 1)).step_by(FRAME_ALIGN) {
            let frame = &bytes[start..read];
            if !looks_like_a_frame(frame, base_lsn + (at + start as u64 - FIRST_FRAME)) {
                continue;
            }
            if let Some(seed) = salt_seed
                && FrameHeader::decode(frame, seed).is_some()
            {
                return Some(seed);
            }
            tries += 1;
            let sum = u32::from_le_bytes([frame[60], frame[61], frame[62], frame[63]]);
            let found = seed_of(&frame[..frame_header::CHECKSUM], sum).filter(|seed| confirms(frame, *seed));
            if found.is_some() || tries == TRIES_MAX {
                return found;
            }
        }
        if read < bytes.len() {
            return None;
        }
        at += (bytes.len() - overlap) as u64;
    }
}

/// Whether a frame's magic number and address stand at the start of `bytes`.
fn looks_like_a_frame(bytes: &[u8], lsn: u64) -> bool {
    bytes[frame_header::MAGIC..frame_header::MAGIC + 4] == frame_header::MAGIC_NUMBER.to_le_bytes()
        && bytes[frame_header::LSN..frame_header::LSN + 8] == lsn.to_le_bytes()
}

/// Whether the entry behind the header has a checksum with the same seed.
fn confirms(frame: &[u8], seed: u32) -> bool {
    FrameHeader::decode(frame, seed).is_some_and(|header| header.count > 0)
        && RecordEntry::decode(&frame[frame_header::BYTES..frame_header::BYTES + record_entry::BYTES], seed)
            .is_some_and(|entry| entry.position_delta == 0)
}

/// The salt where a segment's header has it.
pub(super) fn salt_in(header: &[u8]) -> Option<u64> {
    let bytes = header.get(segment_header::SALT..segment_header::SALT + 8)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_of_a_checksum_is_found() {
        for seed in [0, 1, 0x8000_0000, 0x1234_5678, u32::MAX] {
            let bytes: Vec<u8> = (0..60_u8).map(|byte| byte.wrapping_mul(7)).collect();
            assert_eq!(seed_of(&bytes, checksum(seed, &bytes)), Some(seed));
        }
    }
}
