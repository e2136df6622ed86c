//! A sound store whose newest segment is whatever comes after its own first half.
#![no_main]

use eventuali_fuzz::{SOUND, open_read_append};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut files = SOUND.clone();
    if let Some((_, bytes)) = files.iter_mut().filter(|(name, _)| name.ends_with(".seg")).max() {
        bytes.truncate(bytes.len() / 2);
        bytes.extend_from_slice(input);
    }
    open_read_append(&files);
});
