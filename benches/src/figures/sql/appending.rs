//! Many appends at once, against a transaction for each event, and for each group of as many.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use eventuali_sql::{Config, Store};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::bare::{Bare, runtime};
use super::{append, postgres, terms};
use crate::Result;
use crate::crew::drive;
use crate::figures::Place;
use crate::measure::{Pair, Samples, rate};
use crate::report::{Row, events_per_second, micros};

const TURNS: usize = 8;
const WIDTH: usize = 64;
/// How many events a turn of ours has, and how many one of the bare loop.
const EVENTS: (usize, usize) = (4096, 200);

const INSERT: &str = "(global_position, id, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data, metadata, \
                      timestamp, epoch)";

/// Rows of a bare loop, as SQL.
fn many(numbers: RangeInclusive<usize>, timestamp: &str) -> String {
    numbers.map(|number| values(number, timestamp)).collect::<Vec<_>>().join(", ")
}

/// A row of a bare loop, as SQL.
fn values(number: usize, timestamp: &str) -> String {
    format!(
        "({number}, '00000000-0000-4000-8000-{number:012}', 'loan-{:07}', 'LoanApplication', 'WorkItemCompleted', 1, {number}, \
         '{{\"activity\": \"W_Completeren aanvraag\", \"lifecycle\": \"COMPLETE\", \"resource\": \"{}\"}}', '{{}}', {timestamp}, 1)",
        number % 1000,
        10_000 + number % 1000
    )
}

/// 64 futures with one event each, on both databases.
pub(super) fn futures(place: &Place, url: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let store = postgres(url, "figure_appends")?;
    postgres(url, "figure_bare_appends")?.as_dyn().close().wait()?;
    let mut bare = Bare::new(url)?;
    let insert = |numbers| format!(r#"INSERT INTO "figure_bare_appends" {INSERT} VALUES {}"#, many(numbers, "now()"));
    rows.push(turns("Postgres", &store, |numbers| bare.run(&insert(numbers)))?);

    let (path, bare_path) = (place.path("appends.db"), place.path("bare-appends.db"));
    let store = Config::sqlite(&path).open()?;
    Config::sqlite(&bare_path).open()?.as_dyn().close().wait()?;
    let runtime = runtime()?;
    let options = SqliteConnectOptions::new().filename(&bare_path).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let mut connection = runtime.block_on(options.connect())?;
    let insert = |numbers| format!("INSERT INTO events {INSERT} VALUES {}", many(numbers, "'2026-01-01T00:00:00.000000Z'"));
    rows.push(turns("SQLite", &store, |numbers| {
        runtime.block_on(sqlx::raw_sql(AssertSqlSafe(insert(numbers))).execute(&mut connection))?;
        Ok(())
    })?);
    runtime.block_on(connection.close())?;
    Ok(rows)
}

fn turns(name: &str, store: &Store, mut bare: impl FnMut(RangeInclusive<usize>) -> Result<()>) -> Result<Row> {
    let mut pair = Pair::default();
    let mut groups = Samples::default();
    let mut number = 0;
    for _ in 0..TURNS {
        let mut batches: VecDeque<_> = (0..EVENTS.0).map(|number| append(number % 1000, 1)).collect();
        let mut failure = None;
        pair.ours.time(|| {
            drive(WIDTH, || batches.pop_front().map(|batch| store.as_dyn().append(batch)), |answer| failure = failure.take().or(answer.err()));
            Ok(())
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        pair.limit.time(|| {
            (0..EVENTS.1).try_for_each(|_| {
                number += 1;
                bare(number..=number)
            })
        })?;
        groups.time(|| {
            (0..EVENTS.0 / WIDTH).try_for_each(|_| {
                number += WIDTH;
                bare(number - WIDTH + 1..=number)
            })
        })?;
    }
    store.as_dyn().close().wait()?;
    let (ours, limit) = (rate(EVENTS.0, pair.ours.median()), rate(EVENTS.1, pair.limit.median()));
    let bare_groups = rate(EVENTS.0, groups.median());
    Ok(Row {
        what: format!("{name}: append, 1 thread that drives {WIDTH} futures, 1 event each"),
        terms: terms(store, "JSON of 78 bytes"),
        ours: events_per_second(ours),
        limit: format!(
            "a transaction for each event through sqlx, one connection, the same indexes: {} ({} each)",
            events_per_second(limit),
            micros(pair.limit.median() / u32::try_from(EVENTS.1)?)
        ),
        ratio: format!(
            "{:.1} times as many; {:.0} % of a bare transaction for each {WIDTH} events, which is {:.1} times as many",
            ours / limit,
            100.0 * ours / bare_groups,
            bare_groups / limit
        ),
        bar: Some(("at least 10 times as many".to_owned(), ours >= 10.0 * limit)),
    })
}
