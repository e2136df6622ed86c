//! A sound store with a few bytes changed, in any of its files: three bytes of place and one of value for each change.
#![no_main]

use eventuali_fuzz::{SOUND, open_read_append};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut files = SOUND.clone();
    for change in input.chunks_exact(4) {
        let count = files.len();
        let (_, bytes) = &mut files[usize::from(change[0]) % count];
        let place = usize::from(u16::from_le_bytes([change[1], change[2]]));
        if !bytes.is_empty() {
            let length = bytes.len();
            bytes[place % length] = change[3];
        }
    }
    open_read_append(&files);
});
