//! One aggregate of 1000 events, against reading the same rows with sqlx.

use std::hint::black_box;

use eventuali::ReadStream;
use eventuali_sql::{Config, Store};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::bare::{Bare, runtime};
use super::{append, postgres, terms};
use crate::Result;
use crate::figures::Place;
use crate::measure::Pair;
use crate::report::{Row, micros, percent};

const TURNS: usize = 100;
/// How many aggregates there are, and how many events each has.
const SHAPE: (usize, usize) = (50, 1000);

/// What a bare loop reads: the rows of one aggregate in order.
const POSTGRES: &str = "SELECT global_position, id, event_type, event_version, aggregate_version, event_data::text, metadata::text \
                        FROM figure_loads WHERE tenant = '' AND aggregate_id = $1 ORDER BY aggregate_version";
const SQLITE: &str = "SELECT global_position, id, event_type, event_version, aggregate_version, event_data, metadata \
                      FROM events WHERE tenant = '' AND aggregate_id = $1 ORDER BY aggregate_version";

pub(super) fn one_aggregate(place: &Place, url: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let store = postgres(url, "figure_loads")?;
    let mut bare = Bare::new(url)?;
    rows.push(turns("Postgres", &store, |name| bare.on(async |connection| Ok(sqlx::query(POSTGRES).bind(name).fetch_all(connection).await?.len())))?);

    let path = place.path("loads.db");
    let store = Config::sqlite(&path).open()?;
    let runtime = runtime()?;
    let mut connection = runtime.block_on(SqliteConnectOptions::new().filename(&path).connect())?;
    rows.push(turns("SQLite", &store, |name| Ok(runtime.block_on(sqlx::query(SQLITE).bind(name).fetch_all(&mut connection))?.len()))?);
    runtime.block_on(connection.close())?;
    Ok(rows)
}

fn turns(name: &str, store: &Store, mut bare: impl FnMut(String) -> Result<usize>) -> Result<Row> {
    for aggregate in 0..SHAPE.0 {
        store.as_dyn().append(append(aggregate, SHAPE.1)).wait()?;
    }
    let mut pair = Pair::default();
    for turn in 0..TURNS {
        let aggregate = format!("loan-{:07}", turn % SHAPE.0);
        let events = pair.ours.time(|| {
            let mut events = 0;
            for event in store.as_dyn().read(ReadStream::of(&*aggregate)) {
                black_box(event?.payload());
                events += 1;
            }
            Ok(events)
        })?;
        let rows = pair.limit.time(|| bare(aggregate))?;
        if (events, rows) != (SHAPE.1, SHAPE.1) {
            return Err(format!("{name}: {} events were appended, {events} read, {rows} selected", SHAPE.1).into());
        }
    }
    store.as_dyn().close().wait()?;
    Ok(Row {
        what: format!("{name}: load of an aggregate of {} events", SHAPE.1),
        terms: terms(store, "JSON of 78 bytes"),
        ours: format!("p50 {}, p99 {}", micros(pair.ours.median()), micros(pair.ours.percentile(99))),
        limit: format!("the same rows selected through sqlx: p50 {}", micros(pair.limit.median())),
        ratio: format!("{} of the limit", percent(pair.share())),
        bar: None,
    })
}
