use proptest::prelude::*;

use super::{NotCanonical, canonical, failure, fits_jsonb, form};

const MANY: usize = 16 << 20;

/// Repeats a text until it is as long as the longest payload.
fn many(text: &str) -> String {
    text.repeat(MANY / text.len())
}

#[test]
fn sixteen_mebibytes_of_brackets_overflow_nothing() {
    for text in [many("["), many("{\"a\":"), many("[{\"a\":"), format!("{}{}", many("[]"), many("]"))] {
        assert!(!fits_jsonb(text.as_bytes()));
        assert!(matches!(failure(&text), NotCanonical::TooDeep { .. } | NotCanonical::Malformed { .. }));
    }
}

#[test]
fn millions_of_small_values_are_taken_in() {
    let texts = [format!("[{}0]", "0,".repeat(1 << 21)), format!("[{}[]]", "[],".repeat(1 << 20)), format!("[{}\"\"]", "\"\",".repeat(1 << 20))];
    for text in texts {
        assert!(fits_jsonb(text.as_bytes()));
        assert_eq!(form(&text), text);
    }
    let repeated = format!("{{{}\"\":0}}", "\"\":0,".repeat(1 << 20));
    assert!(!fits_jsonb(repeated.as_bytes()));
    assert_eq!(form(&repeated), repeated);
}

/// The exponent is as long as a payload, and a shift is carried through all of it.
#[test]
fn exponents_as_long_as_a_payload_are_carried_through() {
    let nines = "9".repeat(MANY);
    let zeros = "0".repeat(MANY);
    assert_eq!(form(format!("10e{nines}")), format!("1e1{zeros}"));
    assert_eq!(form(format!("0.1e1{zeros}")), format!("1e{nines}"));
    assert_eq!(form(format!("0.1e-{nines}")), format!("1e-1{zeros}"));
    assert_eq!(form(format!("10e-1{zeros}")), format!("1e-{nines}"));
    assert_eq!(form(format!("1e{zeros}1")), "1e1");
    assert!(!fits_jsonb(format!("10e{}", &nines[4..]).as_bytes()));
}

/// Each level has to be put in order, and holds all those within.
#[test]
fn deep_objects_out_of_order_are_sorted() {
    let levels = 128;
    let inner = "x".repeat(1 << 16);
    let text = format!("{}\"{inner}\"{}", "{\"b\":".repeat(levels), ",\"a\":0}".repeat(levels));
    assert_eq!(form(&text), format!("{}\"{inner}\"{}", "{\"a\":0,\"b\":".repeat(levels), "}".repeat(levels)));
}

/// Bytes that look like JSON often enough to get far.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "\\ud800", "\\udc00", "\\u0000", "\"a\"", "\"a\":", "null", "true", "-0", "0", "e",
            "E-", "."
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        "[0-9]{1,30}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..4),
        (1_usize..10_000).prop_map(|digits| vec![b'9'; digits]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn hostile_bytes_are_judged_without_a_panic(bytes in soup()) {
        let mut out = Vec::new();
        let read = canonical(&bytes, &mut out);
        prop_assert!(out.len() <= 2 * bytes.len());
        if fits_jsonb(&bytes) {
            prop_assert_eq!(&read, &Ok(()), "what fits has a form");
        }
        if read.is_ok() {
            prop_assert!(form(&out).as_bytes() == out, "a form is its own form");
        }
    }
}
