//! What JSONB holds and what the canonical form is, by tables and by generated values.

mod generated;
mod hostile;
#[cfg(feature = "postgres")]
mod server;
mod tables;

use super::{NotCanonical, canonical, fits_jsonb};

fn form(text: impl AsRef<[u8]>) -> String {
    let mut out = Vec::new();
    canonical(text.as_ref(), &mut out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text.as_ref())));
    String::from_utf8(out).expect("the canonical form is UTF-8")
}

fn failure(text: impl AsRef<[u8]>) -> NotCanonical {
    let mut out = b"kept".to_vec();
    let error = canonical(text.as_ref(), &mut out).expect_err("no canonical form");
    assert_eq!(out, b"kept", "a failure leaves what was there");
    error
}

fn nested(levels: usize) -> [String; 2] {
    [format!("{}1{}", "[".repeat(levels), "]".repeat(levels)), format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels))]
}
