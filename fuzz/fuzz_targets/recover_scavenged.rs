//! A store of which records were taken out, as a crash or somebody's hand may have left it: files missing, cut, or there twice, and bytes
//! changed.
#![no_main]

use eventuali_fuzz::changed;
use eventuali_fuzz::scavenged::{SCAVENGED, open_and_use};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((how, input)) = input.split_at_checked(4) else { return };
    let (cuts, input) = input.split_at((usize::from(how[0] & 3) * 4).min(input.len()));
    let mut files = changed(&SCAVENGED, input);
    let count = files.len();
    for cut in cuts.chunks_exact(4) {
        let (name, bytes) = &mut files[usize::from(cut[0]) % count];
        let length = usize::from(u16::from_le_bytes([cut[1], cut[2]])) * 2;
        match cut[3] & 3 {
            0 => bytes.truncate(length),
            1 => bytes.extend(std::iter::repeat_n(cut[3], length)),
            // What a scavenge that was killed has left.
            2 => *name = name.replace(".g1.", ".g2."),
            _ => *name = format!("{name}.tmp"),
        }
    }
    // Few bits are set in both: few of the first files are missing.
    let missing = u16::from_le_bytes([how[1], how[2]]) & u16::from(how[3]);
    let mut number = 0;
    files.retain(|_| {
        number += 1;
        number > 16 || missing >> (number - 1) & 1 == 0
    });
    open_and_use(&files, input.len() % 4 == 1);
});
