//! The digests that a manifest has of sealed segments: of their frames, whatever the encoding of the file.

use super::Damage;
use super::source::Source;
use super::survey::{Block, Item};
use crate::log::segment::FIRST_FRAME;

/// Compares the frames of a segment with its digest, if it has one.
pub(super) struct Digest(Option<blake3::Hasher>);

impl Digest {
    /// Nothing of the segment was read yet.
    pub(super) fn of(source: &Source) -> Self {
        Self(source.digest.map(|_| blake3::Hasher::new()))
    }

    /// Takes in the frames of a block.
    pub(super) fn take_in(&mut self, block: &Block) {
        let Some(hasher) = &mut self.0 else { return };
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

    /// All blocks of the segment were taken in.
    pub(super) fn end(self, source: &Source) -> Option<Damage> {
        let digest = *self.0?.finalize().as_bytes();
        let reason = "the segment's frames are not those that the manifest has a digest of";
        (Some(digest) != source.digest).then(|| source.damage(FIRST_FRAME, None, (0, 0), reason))
    }
}
