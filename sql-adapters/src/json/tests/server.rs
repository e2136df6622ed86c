//! What a Postgres server gives back.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::Connection;

use super::fits_jsonb;
use super::generated::{spell, value};
use crate::json::comparable_json;

const VALUES: usize = 1000;

#[test]
fn what_jsonb_gives_back_has_the_same_comparable_form() {
    let url = std::env::var("EVENTUALI_TEST_POSTGRES_URL")
        .expect("this test needs a Postgres server: run it as `make test-rust` does, under pybind/tools/with_postgres.py");
    let mut runner = TestRunner::deterministic();
    let written: Vec<String> = (0..VALUES)
        .map(|_| {
            let value = value().new_tree(&mut runner).expect("a value").current();
            let mut rng = any::<u64>().prop_perturb(|_, rng| rng).new_tree(&mut runner).expect("a generator").current();
            spell(&value, &mut rng)
        })
        .collect();
    assert!(written.iter().all(|text| fits_jsonb(text.as_bytes())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let read: Vec<String> = runtime.block_on(async {
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("a connection");
        let query = "SELECT (written.text::jsonb)::text FROM UNNEST($1::text[]) WITH ORDINALITY AS written (text, number) ORDER BY number";
        sqlx::query_scalar(query).bind(&written).fetch_all(&mut connection).await.expect("JSONB takes each of them")
    });
    assert_eq!(read.len(), VALUES);
    for (written, read) in written.iter().zip(&read) {
        assert_eq!(comparable_json(written.as_bytes()), comparable_json(read.as_bytes()), "{written}\n{read}");
    }
    let changed = written.iter().zip(&read).filter(|(written, read)| written != read).count();
    println!("{VALUES} values, {changed} of them spelt otherwise by JSONB: each has the form that it had");
    assert!(changed > VALUES / 4, "JSONB spells values in its own way");
}
