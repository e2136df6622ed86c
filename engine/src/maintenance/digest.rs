//! The digests that a manifest has of sealed segments: of their frames, whatever the encoding of the file.

use std::sync::Arc;

use super::Damage;
use super::source::Source;
use super::survey::{Block, Item};
use crate::log::segment::FIRST_FRAME;

/// Compares the frames of each segment with its digest, where there is one.
#[derive(Default)]
pub(super) struct Digests {
    under_way: Option<(Arc<Source>, blake3::Hasher)>,
}

impl Digests {
    /// Takes in the frames of a block.
    pub(super) fn take_in(&mut self, block: &Block) {
        let Some(source) = block.source.as_ref().filter(|source| source.digest.is_some()) else { return };
        let (_, hasher) = self.under_way.get_or_insert_with(|| (Arc::clone(source), blake3::Hasher::new()));
        // As long pieces as there are: those are hashed faster.
        let mut piece = 0..0;
        for item in &block.items {
            if let Item::Frame { start, header } = item {
                if *start != piece.end {
                    hasher.update(&block.bytes[piece]);
                    piece = *start..*start;
                }
                piece.end += usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
            }
        }
        hasher.update(&block.bytes[piece]);
    }

    /// All blocks of the segment that is under way were taken in.
    pub(super) fn end_of_segment(&mut self) -> Option<Damage> {
        let (source, hasher) = self.under_way.take()?;
        let reason = "the segment's frames are not those that the manifest has a digest of";
        (Some(*hasher.finalize().as_bytes()) != source.digest).then(|| source.damage(FIRST_FRAME, None, (0, 0), reason))
    }
}
