//! A sound store with a few bytes changed, whose checksums and chains match again: what is hostile about it is the values.
#![no_main]

use eventuali_fuzz::reseal::reseal;
use eventuali_fuzz::{SOUND, changed, open_read_append};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut files = changed(&SOUND, input);
    for (name, bytes) in &mut files {
        reseal(name, bytes);
    }
    open_read_append(&files);
});
