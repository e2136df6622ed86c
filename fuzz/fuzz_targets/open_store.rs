//! A sound store with a few bytes changed, in any of its files.
#![no_main]

use eventuali_fuzz::{SOUND, changed, open_read_append};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| open_read_append(&changed(&SOUND, input)));
