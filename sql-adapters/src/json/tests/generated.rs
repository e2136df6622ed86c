//! Generated values, in random spellings.

use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::{fits_jsonb, form};

/// A JSON value whose numbers are a sign, digits without zeros at either end (none for 0), and an exponent. Keys differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Literal(&'static str),
    Number { negative: bool, digits: String, exponent: i32 },
    String(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

fn number() -> impl Strategy<Value = Value> {
    let digits = prop_oneof![Just(String::new()), "[1-9]", "[1-9][0-9]{0,20}[1-9]", "[1-9][0-9]{4000,5000}[1-9]"];
    (any::<bool>(), digits, -40..40_i32).prop_map(|(negative, digits, exponent)| {
        if digits.is_empty() { Value::Number { negative: false, digits, exponent: 0 } } else { Value::Number { negative, digits, exponent } }
    })
}

fn text() -> impl Strategy<Value = String> {
    let characters = prop_oneof![4 => prop::char::range('a', 'c'), 2 => prop::char::range('\u{1}', '\u{7f}'), 1 => any::<char>().prop_filter("JSONB holds no NUL", |c| *c != '\0')];
    prop::collection::vec(characters, 0..6).prop_map(|characters| characters.into_iter().collect())
}

pub(super) fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![prop::sample::select(vec!["null", "true", "false"]).prop_map(Value::Literal), number(), text().prop_map(Value::String)];
    scalar.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..20).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Spells a value at random.
pub(super) fn spell(value: &Value, rng: &mut TestRng) -> String {
    let mut out = String::new();
    Speller { rng, out: &mut out }.value(value);
    out
}

struct Speller<'a> {
    rng: &'a mut TestRng,
    out: &'a mut String,
}

impl Speller<'_> {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.rng.next_u32()).unwrap() % end
    }

    fn space(&mut self) {
        for _ in 0..self.below(8).saturating_sub(5) {
            let space = [' ', '\t', '\n', '\r'][self.below(4)];
            self.out.push(space);
        }
    }

    fn value(&mut self, value: &Value) {
        self.space();
        match value {
            Value::Literal(text) => self.out.push_str(text),
            Value::Number { negative, digits, exponent } => self.number(*negative, digits, *exponent),
            Value::String(text) => self.string(text),
            Value::Array(values) => self.sequence('[', values, ']', Self::value),
            Value::Object(members) => {
                let mut members = members.clone();
                for end in (1..members.len()).rev() {
                    let other = self.below(end + 1);
                    members.swap(end, other);
                }
                self.sequence('{', &members, '}', |speller, (key, value)| {
                    speller.space();
                    speller.string(key);
                    speller.space();
                    speller.out.push(':');
                    speller.value(value);
                });
            }
        }
        self.space();
    }

    fn sequence<T>(&mut self, open: char, items: &[T], close: char, item: impl Fn(&mut Self, &T)) {
        self.out.push(open);
        for (index, each) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            item(self, each);
        }
        if items.is_empty() {
            self.space();
        }
        self.out.push(close);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match (character, self.below(4)) {
                ('"' | '\\' | '/', 0) => self.out.extend(['\\', character]),
                ('\n', 0 | 1) => self.out.push_str("\\n"),
                ('\t', 0 | 1) => self.out.push_str("\\t"),
                ('\u{8}', 0 | 1) => self.out.push_str("\\b"),
                ('\0'..' ' | '"' | '\\', _) | (_, 0) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let escape = if self.below(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
                        self.out.push_str(&escape);
                    }
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    /// Sets the point anywhere in the digits, with zeros at both ends, and an exponent that makes up for it.
    fn number(&mut self, negative: bool, digits: &str, exponent: i32) {
        let digits = format!("{}{digits}{}", "0".repeat(self.below(3)), "0".repeat(self.below(3)));
        let digits = if digits.is_empty() { "0" } else { &digits };
        let appended = digits.len() - digits.trim_end_matches('0').len();
        let whole = self.below(digits.len() + 1);
        let integer = match digits[..whole].trim_start_matches('0') {
            "" => "0",
            integer => integer,
        };
        let fraction = &digits[whole..];
        let exponent = exponent - i32::try_from(appended).unwrap() + i32::try_from(fraction.len()).unwrap();
        let sign = if negative { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let letter = ["e", "E"][self.below(2)];
        let plus = if exponent >= 0 { ["", "+"][self.below(2)] } else { "" };
        let exponent = if exponent == 0 && self.below(2) == 0 { String::new() } else { format!("{letter}{plus}{exponent}") };
        self.out.extend([sign, integer, point, fraction, &exponent]);
    }
}

proptest! {
    #[test]
    fn equal_values_have_one_form_however_they_are_spelt(value in value(), mut rng in any::<u64>().prop_perturb(|_, rng| rng)) {
        let (one, other) = (spell(&value, &mut rng), spell(&value, &mut rng));
        prop_assert!(fits_jsonb(one.as_bytes()), "{}", one);
        prop_assert_eq!(form(&one), form(&other), "{}\n{}", one, other);
        prop_assert_eq!(form(form(&one)), form(&one));
    }

    #[test]
    fn different_values_have_different_forms((one, other) in different(), mut rng in any::<u64>().prop_perturb(|_, rng| rng)) {
        prop_assert_eq!(one == other, form(spell(&one, &mut rng)) == form(spell(&other, &mut rng)));
    }

    #[test]
    fn one_unfit_value_anywhere_keeps_all_from_jsonb(value in value(), unfit in unfit(), mut rng in any::<u64>().prop_perturb(|_, rng| rng)) {
        let value = spell(&value, &mut rng);
        for text in [format!("[{value},{unfit}]"), format!("{{\"a\":{unfit},\"b\":{value}}}"), format!("[{{\"\":[{unfit}]}},{value}]")] {
            prop_assert!(!fits_jsonb(text.as_bytes()), "{}", text);
        }
    }
}

/// Pairs of values: of any two, and of two that differ in one place.
fn different() -> impl Strategy<Value = (Value, Value)> {
    let close = (value(), value()).prop_map(|(inner, other)| (wrap(&inner), wrap(&other)));
    prop_oneof![(value(), value()), close, (number(), number())]
}

fn wrap(inner: &Value) -> Value {
    Value::Object(vec![("a".into(), Value::Array(vec![Value::Literal("null"), inner.clone()])), ("b".into(), Value::String(String::new()))])
}

fn unfit() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        r#""\u0000""#,
        r#""\ud800""#,
        r#"{"\u0000":1}"#,
        r#"{"k":1,"\u006b":1}"#,
        "-0",
        "-0.0e7",
        "1e131072",
        "1e-16384",
        "NaN",
        "01",
        "[1,]",
        "\"\t\"",
    ])
}
