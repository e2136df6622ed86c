//! Names and payloads that are meant to be more than names and payloads.

use eventuali::{AppendBatch, Error, ExpectedVersion, NewEvent, ReadAll, ReadStream, StreamKey};
use eventuali_sql::Config;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::arrange::{Opened, assert_usable, open, postgres};
use crate::support::new_table;

const NAMES: usize = 10_000;
const APPENDS_AT_ONCE: usize = 1000;

fn hostile() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "'",
        "\"",
        "\\",
        ";",
        "--",
        "/*",
        "*/",
        "$1",
        "$$",
        "?",
        "{table}",
        "{columns}",
        "%s",
        "%",
        "\0",
        "\n",
        "\u{202e}",
        "\u{feff}",
        "ß",
        "İ",
        "🦀",
        "events",
        "_state",
        "DROP TABLE events",
        "x'; DELETE FROM events; --",
        "' OR '1'='1",
        "\");",
        "E'\\x00'",
        "NULL",
        "pg_",
        "sqlite_",
        "null",
        "[]",
    ]);
    let parts = prop::collection::vec(prop_oneof![3 => fragment.prop_map(str::to_owned), 1 => any::<String>(), 1 => "[a-z_0-9]{0,50}"], 0..5);
    parts.prop_map(|parts| parts.concat())
}

/// As many as are wanted, the same in every run.
fn values<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}

#[test]
fn a_hostile_name_of_a_table_is_refused_before_it_reaches_sql() {
    let mut accepted = 0;
    for name in values(hostile(), NAMES) {
        match Config::sqlite_in_memory().table_name(&name) {
            Ok(_) => {
                let mut letters = name.chars();
                assert!(letters.next().is_some_and(|first| first.is_ascii_lowercase() || first == '_'), "{name:?}");
                assert!(letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'), "{name:?}");
                assert!(name.len() <= 40, "{name:?}");
                accepted += 1;
            }
            Err(error) => assert!(matches!(error, Error::Configuration { .. }), "{error:?}"),
        }
    }
    println!("{accepted} of {NAMES} names are identifiers");
    assert!((1..NAMES / 2).contains(&accepted), "both kinds were tried");
}

#[derive(Debug)]
struct Hostile {
    tenant: String,
    aggregate_id: String,
    aggregate_type: String,
    event_type: String,
    payload: String,
}

fn assert_stored_exactly(store: &Opened) {
    let strategy = (hostile(), hostile(), hostile(), hostile(), hostile());
    let mut kept = Vec::new();
    let mut refused = 0;
    let numbered = values(strategy, NAMES).into_iter().zip(0..);
    let all: Vec<Hostile> = numbered
        .map(|((tenant, id, aggregate_type, event_type, payload), number)| {
            // An id of its own: one that comes twice would have two types.
            Hostile { tenant, aggregate_id: format!("{id}#{number}"), aggregate_type, event_type, payload }
        })
        .collect();
    for some in all.chunks(APPENDS_AT_ONCE) {
        let appends: Vec<_> = some
            .iter()
            .map(|hostile| {
                let event = NewEvent::json(&*hostile.event_type, &hostile.payload).expect("JSON");
                let batch = AppendBatch::one(&*hostile.aggregate_id, &*hostile.aggregate_type, ExpectedVersion::NoStream, vec![event]);
                let mut append = store.append(batch.for_tenant(&*hostile.tenant));
                // It begins, and is answered later.
                let answered = append.wait_until(Some(std::time::Instant::now()));
                (hostile, append, answered)
            })
            .collect();
        for (hostile, append, answered) in appends {
            match answered.unwrap_or_else(|| append.wait()) {
                Ok(_) => kept.push(hostile),
                Err(Error::InvalidName { .. } | Error::LimitExceeded { .. }) => refused += 1,
                Err(other) => panic!("{hostile:?} is stored or refused by its name, not: {other}"),
            }
        }
    }
    let mut read = store.read_all(ReadAll::new().include_system());
    for (hostile, number) in kept.iter().zip(0..) {
        let event = read.next().expect("it is there").expect("it can be read");
        let names = (event.tenant(), event.aggregate_id(), event.aggregate_type(), event.event_type());
        assert_eq!(names, (&*hostile.tenant, &*hostile.aggregate_id, &*hostile.aggregate_type, &*hostile.event_type));
        assert_eq!(event.json::<String>().expect("a text"), hostile.payload);
        if number % 20 == 0 {
            let key = StreamKey { tenant: &hostile.tenant, aggregate_id: &hostile.aggregate_id };
            let stream = store.stream(key).wait().expect("known").expect("it is there");
            assert_eq!((stream.aggregate_type, stream.version.0, stream.last_position), (hostile.aggregate_type.clone(), 1, event.position()));
            let query = ReadStream { tenant: hostile.tenant.clone(), ..ReadStream::of(&*hostile.aggregate_id) };
            assert_eq!(store.read(query).map(|event| event.expect("it can be read").id()).collect::<Vec<_>>(), [event.id()]);
            let typed = store.read_all(ReadAll::new().event_types([&*hostile.event_type]).aggregate_types([&*hostile.aggregate_type]));
            assert!(typed.map(|event| event.expect("it can be read").id()).any(|id| id == event.id()));
        }
    }
    assert!(read.next().is_none(), "nothing else");
    println!("{} stored exactly, {refused} refused by their names", kept.len());
    assert!(kept.len() > NAMES / 4 && refused > 0, "both kinds were tried");
    assert_usable(store);
}

#[test]
fn hostile_names_and_payloads_are_stored_exactly_or_refused_by_sqlite() {
    assert_stored_exactly(&open(Config::sqlite_in_memory()));
}

#[test]
fn hostile_names_and_payloads_are_stored_exactly_or_refused_by_postgres() {
    assert_stored_exactly(&open(postgres(&new_table())));
}
