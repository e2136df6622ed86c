//! Numbers as decimal text.

/// The parts of a JSON number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decimal<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
    exponent: Exponent<'a>,
}

/// A whole number of any length: its digits are without leading zeros, and empty for 0.
#[derive(Debug, Clone, Copy)]
struct Exponent<'a> {
    negative: bool,
    digits: &'a [u8],
}

impl<'a> Decimal<'a> {
    /// Takes a number apart, which has to be spelt as JSON wants it.
    pub(super) fn of(text: &'a [u8]) -> Self {
        let (negative, text) = sign(text);
        let (mantissa, exponent) = split(text, |byte| byte | 0x20 == b'e');
        let (integer, fraction) = split(mantissa, |byte| byte == b'.');
        let (exponent_negative, digits) = sign(exponent);
        Self { negative, integer, fraction, exponent: Exponent { negative: exponent_negative, digits: without_leading_zeros(digits) } }
    }

    pub(super) fn is_negative_zero(&self) -> bool {
        self.negative && self.is_zero()
    }

    fn is_zero(&self) -> bool {
        self.integer == b"0" && without_leading_zeros(self.fraction).is_empty()
    }

    /// How many digits stand before and after the decimal point once the exponent is written out, zeros included, at the most. `None`
    /// if that is more than 10^18.
    pub(super) fn digits_written_out(&self) -> Option<(usize, usize)> {
        let exponent = self.exponent.value()?;
        let before = length(self.integer) + exponent;
        let after = length(self.fraction) - exponent;
        let at_least_none = |digits: i64| usize::try_from(digits.max(0)).ok();
        Some((at_least_none(before)?, at_least_none(after)?))
    }

    /// Appends the number's one canonical spelling.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        if self.is_zero() {
            out.push(b'0');
            return;
        }
        let fraction = without_trailing_zeros(self.fraction);
        if fraction.is_empty() {
            let integer = without_trailing_zeros(self.integer);
            out.extend_from_slice(integer);
            self.exponent.write_shifted(length(self.integer) - length(integer), out);
        } else {
            let integer = without_leading_zeros(self.integer);
            out.extend_from_slice(integer);
            out.extend_from_slice(if integer.is_empty() { without_leading_zeros(fraction) } else { fraction });
            self.exponent.write_shifted(-length(fraction), out);
        }
    }
}

impl Exponent<'_> {
    /// As many last digits as an `i64` holds with room for a shift.
    const LOW_DIGITS: usize = 18;
    const LOW_END: i64 = 10_i64.pow(18);

    /// `None` if there are more than [`LOW_DIGITS`](Self::LOW_DIGITS).
    fn value(&self) -> Option<i64> {
        let magnitude = (self.digits.len() <= Self::LOW_DIGITS).then(|| number(self.digits))?;
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// Appends `e` and the sum of the exponent and `shift`, which is no longer than a text; nothing if the sum is 0.
    fn write_shifted(&self, shift: i64, out: &mut Vec<u8>) {
        match self.value().map(|exponent| exponent + shift) {
            Some(0) => {}
            Some(sum) => out.extend_from_slice(format!("e{sum}").as_bytes()),
            None => self.write_long_shifted(shift, out),
        }
    }

    /// The same where the exponent is so long that the shift cannot change its sign: the sum of the last digits is carried into the
    /// others.
    fn write_long_shifted(&self, shift: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.negative { b"e-" } else { b"e" });
        let start = out.len();
        let (high, low) = self.digits.split_at(self.digits.len() - Self::LOW_DIGITS);
        out.extend_from_slice(high);
        let mut low = number(low) + if self.negative { -shift } else { shift };
        if low >= Self::LOW_END {
            low -= Self::LOW_END;
            increment(out, start);
        } else if low < 0 {
            low += Self::LOW_END;
            decrement(out, start);
        }
        out.extend_from_slice(format!("{low:018}").as_bytes());
    }
}

/// Adds 1 to the decimal number that ends the text.
fn increment(out: &mut Vec<u8>, start: usize) {
    for digit in out[start..].iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    out.insert(start, b'1');
}

/// Takes 1 from the decimal number, greater than 0, that ends the text; nothing remains of a 1.
fn decrement(out: &mut Vec<u8>, start: usize) {
    for digit in out[start..].iter_mut().rev() {
        if *digit > b'0' {
            *digit -= 1;
            break;
        }
        *digit = b'9';
    }
    if out[start] == b'0' {
        out.remove(start);
    }
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

/// What stands before and after the first byte of a kind; all before it if there is none.
fn split(text: &[u8], at: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| at(*byte)) {
        Some(place) => (&text[..place], &text[place + 1..]),
        None => (text, &[]),
    }
}

fn without_leading_zeros(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|digit| **digit == b'0').count()..]
}

fn without_trailing_zeros(digits: &[u8]) -> &[u8] {
    &digits[..digits.len() - digits.iter().rev().take_while(|digit| **digit == b'0').count()]
}

fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
}

fn length(digits: &[u8]) -> i64 {
    i64::try_from(digits.len()).expect("no slice is longer than isize::MAX")
}
