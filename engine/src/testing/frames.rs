//! A door to the frame decoder, for bytes that nobody wrote.

use crate::codec::BodyLayout;
use crate::log::format::{self, segment_seed};
use crate::log::recovery::{Chain, Step, later_headers, step};

/// The salt of the segment that the bytes are said to be from.
const SALT: u64 = 7;

/// The seed that the frames given to [`decode_frames`] are checked with.
#[must_use]
pub fn frame_seed() -> u32 {
    segment_seed(SALT)
}

/// Decodes frames one after the other, their records, and whatever can be recognized behind the last; how many frames there were.
///
/// Whatever the bytes are, it ends and does not panic.
#[must_use]
pub fn decode_frames(bytes: &[u8]) -> usize {
    // What a frame must continue is taken from its own header, so that any numbers get further than this.
    let told = format::FrameHeader::decode(bytes, frame_seed());
    let mut chain = Chain {
        lsn: told.map_or(0, |header| header.lsn),
        position: told.map_or(1, |header| header.base_position),
        checksum: told.map_or(0, |header| header.previous),
        epoch: told.map_or(0, |header| header.epoch),
        commit_time: i64::MIN,
        durable_upto: 0,
    };
    let mut rest = bytes;
    let mut frames = 0;
    while let Step::Frame(frame) = step(rest, true, frame_seed(), &chain) {
        for (_, _, body) in frame.records() {
            if let Ok(layout) = BodyLayout::parse(body, 0, body.len()) {
                let body = layout.of(body);
                let _ = (body.tenant(), body.aggregate_id(), body.event_type(), body.payload(), body.extras());
            }
        }
        frames += 1;
        if !format::is_plausible(1, frame.header.lsn, frame.header.base_position) {
            break;
        }
        chain = chain.after(&frame.header);
        rest = &rest[frame.bytes.len()..];
    }
    frames + later_headers(rest, SALT).count()
}
