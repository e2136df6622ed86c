//! JSON payloads on their way through Postgres' JSONB: what it can hold, and a form of their own for digests.
//!
//! JSONB keeps a value, not its text: white space, key order and the spelling of numbers and escapes change. [`fits_jsonb`] tells
//! which values come back equal to the last digit and character; the others are kept as their exact bytes. [`canonical`] gives
//! equal values equal bytes, however they are spelt, so that digests agree on both sides.

#![cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "what JSONB holds is asked for Postgres alone"))]

use std::borrow::Cow;

mod canonical;
mod jsonb;
mod number;
#[cfg(test)]
mod tests;
mod walk;

/// How deep arrays and objects may lie in one another. Postgres parses and stores JSONB recursively within `max_stack_depth`: 128
/// levels fit the smallest that a server can be set to (100 kB), and readers with a limit of their own rarely allow fewer.
const DEPTH_MAX: usize = 128;

/// The longest text that goes into JSONB: the engine's longest payload. Each value takes JSONB at most 12 bytes where its text
/// takes 2, so the binary form stays below JSONB's own limit of 256 MiB.
const JSONB_TEXT_BYTES_MAX: usize = 16 << 20;

/// The longest text that gets a canonical form: room for the longest JSONB text, with the space that Postgres puts after commas and
/// colons and the numbers it writes out.
const CANONICAL_TEXT_BYTES_MAX: usize = 64 << 20;

/// Why a text has no canonical form. Its bytes have to be compared as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotCanonical {
    /// The text is not JSON, or holds half of a surrogate pair, which is no character.
    #[error("the text is not JSON at byte {offset}: {reason}; compare its exact bytes instead")]
    Malformed {
        /// Where, in bytes from the start.
        offset: usize,
        /// What the parser expected there.
        reason: String,
    },
    /// Arrays and objects lie too deep in one another.
    #[error("the JSON text nests deeper than {depth_max} levels at byte {offset}; compare its exact bytes instead")]
    TooDeep {
        /// Where the first level too many opens, in bytes from the start.
        offset: usize,
        /// How many levels there may be.
        depth_max: usize,
    },
    /// The text is too long.
    #[error("the JSON text has {bytes} bytes, and a canonical form is made of at most {bytes_max}; compare its exact bytes instead")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
}

/// Whether Postgres' JSONB (in a UTF-8 database) can hold this JSON text so that what is read back equals it as a value, to the last
/// digit and character. White space, key order and spelling may change: `1e2` comes back as `100`.
///
/// False, so that the caller keeps the exact bytes, for what JSONB refuses, drops or rounds, and for what could not be read back:
/// - a NUL character, which can only be spelt `\u0000`, and half of a surrogate pair;
/// - one key twice in an object, compared without escapes;
/// - negative zero, however it is spelt;
/// - a number with more than 131,072 digits before or 16,383 after the decimal point, once its exponent is written out;
/// - numbers whose digits, written out, would make the text longer by more than 256 KiB in all;
/// - more than 128 levels of nesting, more than 16 MiB of text;
/// - whatever is not JSON.
pub(crate) fn fits_jsonb(bytes: &[u8]) -> bool {
    let mut check = jsonb::Check::default();
    bytes.len() <= JSONB_TEXT_BYTES_MAX && walk::walk(bytes, &mut check).is_ok() && check.fits()
}

/// Appends the canonical form of a JSON text: the same bytes for two texts exactly if they are equal as JSON values.
///
/// The form is JSON itself, and its own canonical form:
/// - no white space;
/// - keys in the order of their UTF-8 bytes without escapes; one that occurs twice is kept twice, in the order of the text;
/// - strings as plain UTF-8, but for `\"`, `\\`, `\b`, `\f`, `\n`, `\r`, `\t` and `\u00xx` (in lower case) for the other controls;
/// - numbers as all their significant digits, an integer without trailing zeros, with an exponent unless it is 0: `15e-1`, `1e2`, `7`.
///   The decimal text is worked on, so no digit is lost and no exponent is too large. Zero is `0`, and negative zero `-0`.
///
/// # Errors
/// [`NotCanonical`] if the text is not JSON, nests deeper than 128 levels or is longer than 64 MiB. `out` is then as it was.
pub(crate) fn canonical(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    if bytes.len() > CANONICAL_TEXT_BYTES_MAX {
        return Err(NotCanonical::TooLong { bytes: bytes.len(), bytes_max: CANONICAL_TEXT_BYTES_MAX });
    }
    let start = out.len();
    let walked = walk::walk(bytes, &mut canonical::Writer::new(out));
    walked.inspect_err(|_| out.truncate(start))
}

/// A JSON text in the form in which payloads are compared and digested: its canonical form, or the bytes themselves where it
/// has none. Two payloads of equal form are equal as JSON values.
///
/// ```
/// let form = |text: &str| eventuali_sql::comparable_json(text.as_bytes()).into_owned();
/// assert_eq!(form(r#"{"b": 1.50, "a": "\u0041"}"#), form(r#"{"a":"A","b":15e-1}"#));
/// assert_ne!(form("0.1"), form("0.10000000000000000001"));
/// ```
#[must_use]
pub fn comparable_json(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut form = Vec::with_capacity(bytes.len());
    match canonical(bytes, &mut form) {
        Ok(()) => Cow::Owned(form),
        Err(_) => Cow::Borrowed(bytes),
    }
}

/// Appends what [`comparable_json`] gives.
pub(crate) fn append_comparable_json(bytes: &[u8], out: &mut Vec<u8>) {
    if canonical(bytes, out).is_err() {
        out.extend_from_slice(bytes);
    }
}

/// An offset into a text, its keys or its canonical form, at half the size.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("texts have at most 64 MiB, and their canonical forms less than twice that")
}

/// The bytes between two offsets.
fn between(bytes: &[u8], start: u32, end: u32) -> &[u8] {
    &bytes[start as usize..end as usize]
}
