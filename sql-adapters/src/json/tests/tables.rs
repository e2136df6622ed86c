use super::super::{CANONICAL_TEXT_BYTES_MAX, JSONB_TEXT_BYTES_MAX};
use super::{NotCanonical, failure, fits_jsonb, form, nested};

#[test]
fn ordinary_values_fit_jsonb() {
    let values = [
        "null",
        " true ",
        "false",
        "0",
        "0.0",
        "0e5",
        "1.10",
        "1e2",
        "-1",
        "1E+2",
        "\"\"",
        "[]",
        "{}",
        "[ ]",
        "{ \"\" : [ { } , 1.50 ] }",
        r#""\ud83d\ude00 \u00e9 \/ \b\f\n\r\t\"\\ \uffff""#,
        r#""\\u0000 is a backslash and letters""#,
        r#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#,
        "123456789012345678901234567890.123456789012345678901234567890",
    ];
    for value in values {
        assert!(fits_jsonb(value.as_bytes()), "{value}");
    }
}

#[test]
fn a_nul_or_half_a_surrogate_pair_does_not_fit_jsonb() {
    let values = [
        r#""\u0000""#,
        r#"["a\u0000b"]"#,
        r#"{"\u0000":1}"#,
        r#"{"a":{"b\u0000":[]}}"#,
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\u0041""#,
        r#""\ud800\ud800\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#"{"\udfff":1}"#,
    ];
    for value in values {
        assert!(!fits_jsonb(value.as_bytes()), "{value}");
    }
}

#[test]
fn a_repeated_key_does_not_fit_jsonb() {
    let mut many: Vec<String> = (0..40).map(|key| format!("\"key {key}\":{key}")).collect();
    assert!(fits_jsonb(format!("{{{}}}", many.join(",")).as_bytes()));
    many.push(r#""key\u00207":7"#.into());
    let values = [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":2,"\u0061":3}"#,
        r#"{"":1,"":2}"#,
        r#"[{"b":{"é":1,"c":2,"\u00e9":1}}]"#,
        r#"{"a":{"x":1},"b":{"x":1},"a":1}"#,
        &format!("{{{}}}", many.join(",")),
    ];
    for value in values {
        assert!(!fits_jsonb(value.as_bytes()), "{value}");
    }
}

#[test]
fn negative_zero_does_not_fit_jsonb() {
    for value in ["-0", "-0.0", "-0e5", "-0E-5", "-0.000e+1", "[-0]", r#"{"a":-0.0}"#] {
        assert!(!fits_jsonb(value.as_bytes()), "{value}");
    }
}

#[test]
fn numbers_fit_jsonb_up_to_the_digits_of_numeric() {
    let digits = |count: usize| "7".repeat(count);
    let fit = [
        "1e131071".to_owned(),
        "12e131070".to_owned(),
        "1e-16383".to_owned(),
        "1.5e-16382".to_owned(),
        "0e-16383".to_owned(),
        "0.5e131071".to_owned(),
        digits(131_072),
        format!("-{}", digits(131_072)),
        format!("{}.{}", digits(131_072), digits(16_383)),
        format!("{}e2", digits(131_070)),
        format!("1e{}7", "0".repeat(100)),
    ];
    for value in fit {
        assert!(fits_jsonb(value.as_bytes()), "{value:.40}");
    }
    let beyond = [
        "1e131072".to_owned(),
        "12e131071".to_owned(),
        "1e-16384".to_owned(),
        "1.5e-16383".to_owned(),
        "0e-16384".to_owned(),
        "1e999999999999999999999".to_owned(),
        "1e-999999999999999999999".to_owned(),
        "1e999999999999999999".to_owned(),
        digits(131_073),
        format!("1.{}", digits(16_384)),
    ];
    for value in beyond {
        assert!(!fits_jsonb(value.as_bytes()), "{value:.40}");
    }
}

/// Each of these numbers fits alone. Written out, all of them would be longer than Postgres can send.
#[test]
fn numbers_that_would_be_read_back_as_gigabytes_do_not_fit_jsonb() {
    assert!(fits_jsonb(format!("[{}]", vec!["1e308"; 500].join(",")).as_bytes()));
    assert!(!fits_jsonb(format!("[{}]", vec!["1e131071"; 10_000].join(",")).as_bytes()));
    assert!(!fits_jsonb(format!("[{}]", vec!["1e-16383"; 10_000].join(",")).as_bytes()));
}

#[test]
fn nesting_is_counted_to_its_limit() {
    for value in nested(128) {
        assert!(fits_jsonb(value.as_bytes()));
        assert_eq!(form(&value), value);
    }
    for value in nested(129) {
        assert!(!fits_jsonb(value.as_bytes()));
        assert!(matches!(failure(&value), NotCanonical::TooDeep { depth_max: 128, .. }), "{value}");
    }
    assert_eq!(failure(&nested(129)[0]), NotCanonical::TooDeep { offset: 128, depth_max: 128 });
}

#[test]
fn a_text_of_any_number_of_bytes_is_judged_by_its_length() {
    let string = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
    assert!(fits_jsonb(string(JSONB_TEXT_BYTES_MAX).as_bytes()));
    assert!(!fits_jsonb(string(JSONB_TEXT_BYTES_MAX + 1).as_bytes()));
    assert_eq!(
        failure(string(CANONICAL_TEXT_BYTES_MAX + 1)),
        NotCanonical::TooLong { bytes: CANONICAL_TEXT_BYTES_MAX + 1, bytes_max: CANONICAL_TEXT_BYTES_MAX }
    );
}

#[test]
fn what_is_not_json_neither_fits_nor_has_a_form() {
    let texts: [&[u8]; 44] = [
        b"",
        b" ",
        b"nul",
        b"nulll",
        b"True",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"-NaN",
        b"inf",
        b"[NaN]",
        b"+1",
        b"01",
        b"-01",
        b"1.",
        b".5",
        b"1.e5",
        b"1e",
        b"1e+",
        b"-",
        b"- 1",
        b"0x10",
        b"1_000",
        b"1 2",
        b"[1,]",
        b"[,]",
        b"[1 2]",
        b"[1",
        b"]",
        b"{",
        b"{,}",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{1:1}",
        b"'a'",
        b"\"a",
        b"\"\\x\"",
        b"\"\\u12\"",
        b"\"a\nb\"",
        b"\"\xff\"",
        b"\"\xed\xa0\x80\"",
        b"\xef\xbb\xbf1",
    ];
    for text in texts {
        assert!(!fits_jsonb(text), "{}", text.escape_ascii());
        assert!(matches!(failure(text), NotCanonical::Malformed { .. }), "{}", text.escape_ascii());
    }
    assert!(matches!(failure(r#"{"a":1,"b":tru}"#), NotCanonical::Malformed { offset: 14, .. }));
    for text in
        [format!("{}x", "7".repeat(5_000)), format!("{}.", "7".repeat(5_000)), format!("0{}", "7".repeat(5_000)), format!("[{}", "7".repeat(5_000))]
    {
        assert!(!fits_jsonb(text.as_bytes()));
        assert!(matches!(failure(&text), NotCanonical::Malformed { .. }), "{text:.20}");
    }
}

#[test]
fn each_number_has_one_form() {
    let table = [
        ("1", &["1", "1.0", "10e-1", "0.1e1", "0.1E+1", "1e0", "1e-0", "1.000e000", "100e-00002", "0.0001e4"][..]),
        ("1e2", &["100", "1e2", "1E2", "1e+2", "0.1e3", "100.00", "1000e-1"]),
        ("11e-1", &["1.1", "1.10", "11e-1", "0.11e1", "0.0110e2"]),
        ("-15e-1", &["-1.5", "-15e-1", "-1.50", "-0.15e1"]),
        ("102e1", &["1020", "102e1", "1.02e3"]),
        ("0", &["0", "0.0", "0e0", "0e5", "0.00e-7", "0e999999999999999999999999"]),
        ("-0", &["-0", "-0.0", "-0e5", "-0.00E-999999999999999999999"]),
        (
            "1e999999999999999999999",
            &["1e999999999999999999999", "10e999999999999999999998", "0.1e1000000000000000000000", "1e+00999999999999999999999"],
        ),
        (
            "1e-999999999999999999999",
            &["1e-999999999999999999999", "0.1e-999999999999999999998", "10e-1000000000000000000000", "1.0e-999999999999999999999"],
        ),
        ("1e999999999999999999", &["1e999999999999999999", "0.1e1000000000000000000", "10e999999999999999998"]),
        ("1e1000000000000000000", &["1e1000000000000000000", "10e999999999999999999", "0.1e1000000000000000001"]),
        ("1e-1000000000000000000", &["1e-1000000000000000000", "0.1e-999999999999999999", "10e-1000000000000000001"]),
        ("25e2000000000000000000", &["25e2000000000000000000", "2500e1999999999999999998", "0.25e2000000000000000002"]),
        ("123456789012345678901234567891", &["123456789012345678901234567891", "123456789012345678901234567891.0"]),
        ("9007199254740993", &["9007199254740993"]),
        ("9007199254740992", &["9007199254740992"]),
    ];
    for (expected, spellings) in table {
        for spelling in spellings {
            assert_eq!(form(spelling), expected, "{spelling}");
        }
    }
}

#[test]
fn a_number_keeps_ten_thousand_digits() {
    let digits: String = "1234567890".chars().cycle().take(10_009).collect();
    assert_eq!(form(&digits), digits);
    assert_eq!(
        form(format!("[-{digits},{digits}.{digits}e7,{digits}0 ,\"next\"]")),
        format!("[-{digits},{digits}{digits}e-10002,{digits}e1,\"next\"]")
    );
    assert!(fits_jsonb(format!("{{\"a\":-{digits},\"b\":{digits}.5}}").as_bytes()));
    assert!(!fits_jsonb(format!("{{\"a\":-{digits},\"a\":{digits}.5}}").as_bytes()));
}

#[test]
fn each_string_has_one_form() {
    let table = [
        (r#""a""#, &[r#""a""#, r#""\u0061""#][..]),
        (r#""/""#, &[r#""/""#, r#""\/""#, r#""\u002F""#, r#""\u002f""#]),
        (r#""\"\\""#, &[r#""\"\\""#, r#""\u0022\u005C""#]),
        (r#""\b\f\n\r\t""#, &[r#""\b\f\n\r\t""#, r#""\u0008\u000C\u000a\u000D\u0009""#]),
        (r#""\u0000\u001f""#, &[r#""\u0000\u001F""#]),
        ("\"\u{7f}é😀\"", &["\"\u{7f}é😀\"", r#""\u007f\u00E9\ud83d\uDE00""#]),
    ];
    for (expected, spellings) in table {
        for spelling in spellings {
            assert_eq!(form(spelling), expected, "{spelling}");
        }
    }
    assert_ne!(form("\"é\""), form("\"e\u{301}\""), "characters are not normalised");
}

#[test]
fn members_are_in_the_order_of_their_keys_without_escapes() {
    let table = [
        (" { \"b\" : [ ] , \"a\" : { } } ", r#"{"a":{},"b":[]}"#),
        (r#"{"\u0062":1,"a":2,"":3}"#, r#"{"":3,"a":2,"b":1}"#),
        (r#"{"é":1,"z":2,"\n":3,"!":4,"\\":5}"#, r#"{"\n":3,"!":4,"\\":5,"z":2,"é":1}"#),
        (r#"{"b":{"d":1,"c":[{"f":1,"e":2}]},"a":{"y":0,"x":0}}"#, r#"{"a":{"x":0,"y":0},"b":{"c":[{"e":2,"f":1}],"d":1}}"#),
        (r#"[[],{},[[]],{"a":{}}]"#, r#"[[],{},[[]],{"a":{}}]"#),
        ("[ 1 , null, true ,false]", "[1,null,true,false]"),
    ];
    for (text, expected) in table {
        assert_eq!(form(text), expected);
    }
}

#[test]
fn a_repeated_key_keeps_all_its_values_in_their_order() {
    assert_eq!(form(r#"{"b":0,"a":1,"\u0061":2,"a":0}"#), r#"{"a":1,"a":2,"a":0,"b":0}"#);
    assert_ne!(form(r#"{"a":1,"a":2}"#), form(r#"{"a":2,"a":1}"#));
}

#[test]
fn the_form_is_appended() {
    let mut out = b"before".to_vec();
    super::canonical(br#"{"b":1,"a":{"d":2,"c":3}}"#, &mut out).unwrap();
    assert_eq!(out, br#"before{"a":{"c":3,"d":2},"b":1}"#);
}
