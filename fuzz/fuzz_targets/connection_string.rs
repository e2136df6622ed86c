//! Connection strings: any text is a place or an error, and no error shows a password.
#![no_main]

use eventuali_sql::Config;
use libfuzzer_sys::fuzz_target;

/// Looks like nothing that a message would say by itself.
const PASSWORD: &str = "pw5Zq9xK";

fuzz_target!(|text: &str| {
    let _ = Config::parse(text);
    let (before, after) = text.split_at(text.char_indices().nth(text.chars().count() / 2).map_or(0, |(middle, _)| middle));
    if let Err(error) = Config::parse(&format!("postgres://user:{PASSWORD}@{before}/{after}")) {
        assert!(!error.to_string().contains(PASSWORD), "{error}");
    }
});
