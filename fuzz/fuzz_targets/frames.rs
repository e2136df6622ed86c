//! The frame decoder and the search for frames behind damage, on any bytes; once more with checksums that match.
#![no_main]

use eventuali::testing::decode_frames;
use eventuali_fuzz::reseal::reseal_frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = decode_frames(input);
    let mut bytes = input.to_vec();
    reseal_frames(&mut bytes, eventuali::testing::frame_seed(), 0);
    let _ = decode_frames(&bytes);
});
