//! A store of which records were taken out, with a few bytes changed whose checksums match again, but for index files.
#![no_main]

use eventuali_fuzz::changed;
use eventuali_fuzz::reseal::reseal;
use eventuali_fuzz::scavenged::{SCAVENGED, open_and_use};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut files = changed(&SCAVENGED, input);
    for (name, bytes) in &mut files {
        reseal(name, bytes);
    }
    open_and_use(&files, input.len() % 4 == 1);
});
