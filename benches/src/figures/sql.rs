//! SQLite and Postgres: moving, verifying, appending and loading, each beside what sqlx does bare with the same rows.

mod appending;
mod bare;
mod loading;
mod moving;

use eventuali::{AppendBatch, Durability, EventData, ExpectedVersion, Json, NewEvent};
use eventuali_sql::{Config, Store};

use super::Place;
use crate::Result;
use crate::report::Row;

/// As many small events as the loan data has, of as many aggregates, in appends of one aggregate's.
const EVENTS: usize = 262_200;
const EVENTS_EACH: usize = 20;

/// Export to Postgres, and verify.
///
/// # Errors
/// Those of the stores and the server; and that there is none.
pub fn moving(place: &Place) -> Result<Vec<Row>> {
    moving::export_and_verify(place, &url()?)
}

/// Many appends at once.
///
/// # Errors
/// Those of the stores and the server; and that there is none.
pub fn appending(place: &Place) -> Result<Vec<Row>> {
    appending::futures(place, &url()?)
}

/// Loads of one aggregate.
///
/// # Errors
/// Those of the stores and the server; and that there is none.
pub fn loading(place: &Place) -> Result<Vec<Row>> {
    loading::one_aggregate(place, &url()?)
}

fn url() -> Result<String> {
    std::env::var("EVENTUALI_TEST_POSTGRES_URL").map_err(|_| {
        "the parts sql-… need a Postgres server: run them under pybind/tools/with_postgres.py, or set EVENTUALI_TEST_POSTGRES_URL".into()
    })
}

/// A small event, like those of the loan data.
fn small(number: usize) -> NewEvent {
    let json = format!(r#"{{"activity": "W_Completeren aanvraag", "lifecycle": "COMPLETE", "resource": "{}"}}"#, 10_000 + number % 1000);
    NewEvent::new("WorkItemCompleted", EventData::Json(Json::from_serializer(json.into_bytes())))
}

/// So many of them, of one aggregate.
fn append(aggregate: usize, events: usize) -> AppendBatch {
    AppendBatch::one(format!("loan-{aggregate:07}"), "LoanApplication", ExpectedVersion::Any, (0..events).map(small).collect())
}

fn postgres(url: &str, table: &str) -> Result<Store> {
    Ok(Config::postgres(url)?.table_name(table)?.open()?)
}

/// What is said of a store's durability beside a figure.
fn terms(store: &Store, payload: &str) -> String {
    let durability = match store.as_dyn().capabilities().durability {
        Durability::Sync => "synced",
        Durability::Memory => "in memory",
        _ => "not synced at every commit",
    };
    let setting = if store.as_dyn().capabilities().backend == "postgres" { "synchronous_commit=on" } else { "synchronous=FULL, WAL" };
    format!("{durability} ({setting}), {payload}")
}
