//! What Postgres' JSONB can hold.

use super::number::Decimal;
use super::walk::{Container, Visitor};
use super::{between, offset};

/// What `numeric` holds, and what JSONB takes numbers as.
const DIGITS_BEFORE_POINT_MAX: usize = 131_072;
const DIGITS_AFTER_POINT_MAX: usize = 16_383;

/// How much longer than the text the numbers may become that JSONB writes out: one of the longest, or many of a few hundred digits. Without a
/// limit, 16 MiB of `1e131071` would be read back as 200 GiB, which is to say not at all.
const WRITTEN_OUT_BYTES_MAX: usize = 256 << 10;

/// Up to this many keys, comparing each with each is quicker than sorting them.
const KEYS_COMPARED_MAX: usize = 12;

/// Up to this length, a number without an exponent is taken without a closer look.
const PLAIN_DIGITS_MAX: usize = 32;

/// Watches for what JSONB does not hold.
#[derive(Debug, Default)]
pub(super) struct Check {
    refused: bool,
    written_out_bytes: usize,
    /// The keys of all open objects, without escapes.
    text: Vec<u8>,
    keys: Vec<Key>,
    /// How many keys there were when each open object began.
    objects: Vec<usize>,
}

/// Where a key stands in the text of all keys.
#[derive(Debug, Clone, Copy)]
struct Key {
    start: u32,
    end: u32,
}

impl Check {
    /// Whether everything so far fits.
    pub(super) fn fits(&self) -> bool {
        !self.refused && self.written_out_bytes <= WRITTEN_OUT_BYTES_MAX
    }

    fn end_object(&mut self) {
        let first = self.objects.pop().unwrap_or_default();
        let keys = &mut self.keys[first..];
        let Some(start) = keys.first().map(|key| key.start as usize) else { return };
        self.refused |= self.text[start..].contains(&0) || repeats(keys, &self.text);
        self.text.truncate(start);
        self.keys.truncate(first);
    }
}

/// Whether a key occurs twice. The keys may change places.
fn repeats(keys: &mut [Key], text: &[u8]) -> bool {
    let name = |key: &Key| between(text, key.start, key.end);
    if keys.len() <= KEYS_COMPARED_MAX {
        return keys.iter().enumerate().any(|(index, key)| keys[..index].iter().any(|earlier| name(earlier) == name(key)));
    }
    keys.sort_unstable_by(|one, other| name(one).cmp(name(other)));
    keys.windows(2).any(|pair| name(&pair[0]) == name(&pair[1]))
}

/// Whether a number is none of those to look at closely: short, and without a sign or an exponent.
fn is_plain(text: &[u8]) -> bool {
    text.len() <= PLAIN_DIGITS_MAX && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

impl Visitor for Check {
    fn literal(&mut self, _: &'static str) {}

    fn number(&mut self, text: &[u8]) {
        if is_plain(text) {
            return;
        }
        let number = Decimal::of(text);
        let Some((before, after)) = number.digits_written_out() else {
            self.refused = true;
            return;
        };
        self.refused |= before > DIGITS_BEFORE_POINT_MAX || after > DIGITS_AFTER_POINT_MAX || number.is_negative_zero();
        self.written_out_bytes = self.written_out_bytes.saturating_add((before + after).saturating_sub(text.len()));
    }

    fn string(&mut self, text: &str) {
        self.refused |= text.as_bytes().contains(&0);
    }

    fn open(&mut self, container: Container) {
        if container == Container::Object {
            self.objects.push(self.keys.len());
        }
    }

    fn another(&mut self) {}

    fn key(&mut self, text: &str) {
        let start = offset(self.text.len());
        self.text.extend_from_slice(text.as_bytes());
        self.keys.push(Key { start, end: offset(self.text.len()) });
    }

    fn close(&mut self, container: Container) {
        if container == Container::Object {
            self.end_object();
        }
    }
}
