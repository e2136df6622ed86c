//! Export to Postgres against a bare COPY of the same rows; verify against a bare COPY out of them.

use std::ops::ControlFlow;

use eventuali::{Durability, EventStore};
use eventuali_sql::{Progress, export, verify};

use super::bare::{Bare, parts};
use super::{EVENTS, EVENTS_EACH, append, postgres, terms};
use crate::Result;
use crate::figures::Place;
use crate::measure::{Pair, Samples, rate, ratio};
use crate::report::{Row, events_per_second, percent};
use crate::workload::open;

const TURNS: usize = 5;
/// How many events an export stores in a transaction.
const IN_A_TRANSACTION: usize = 16_384;

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn drop_tables(table: &str) -> String {
    format!(r#"DROP TABLE IF EXISTS "{table}", "{table}_state", "{table}_migrations""#)
}

pub(super) fn export_and_verify(place: &Place, url: &str) -> Result<Vec<Row>> {
    let source = open(&place.path("sql-source"), Durability::Sync)?;
    for aggregate in 0..EVENTS / EVENTS_EACH {
        // Not waited for one by one: this is not what is measured.
        drop(source.append(append(aggregate, EVENTS_EACH)).wait()?);
    }
    let mut bare = Bare::new(url)?;
    let (mut moving, mut verifying, mut at_once) = (Pair::default(), Pair::default(), Samples::default());
    let mut said = String::new();
    let (mut split, mut whole) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let target = postgres(url, "figure_ours")?;
        let exported = moving.ours.time(|| Ok(export(&source, &target, on)?))?;
        if turn == 0 {
            said = terms(&target, "262,200 small events, JSON of 78 bytes");
            let rows = bare.copy_out("figure_ours")?;
            (split, whole) = (parts(&rows, IN_A_TRANSACTION), parts(&rows, usize::MAX));
        }
        bare.run("CHECKPOINT")?;
        bare.run("VACUUM ANALYZE figure_ours")?;
        let verified = verifying.ours.time(|| Ok(verify(&source, target.as_dyn(), on)?))?;
        if exported.events != EVENTS as u64 || verified.difference.is_some() {
            return Err(format!("{exported:?}, {verified:?}").into());
        }
        verifying.limit.time(|| bare.copy_out("figure_ours"))?;
        target.as_dyn().close().wait()?;
        bare.run(&drop_tables("figure_ours"))?;
        for (parts, samples) in [(&split, &mut moving.limit), (&whole, &mut at_once)] {
            postgres(url, "figure_bare")?.as_dyn().close().wait()?;
            bare.run("CHECKPOINT")?;
            samples.time(|| bare.copy_in("figure_bare", parts))?;
            bare.run(&drop_tables("figure_bare"))?;
        }
        bare.run("CHECKPOINT")?;
    }
    source.close().wait()?;
    let compared = rate(EVENTS, verifying.ours.median());
    Ok(vec![
        Row {
            what: "export from the embedded engine to an empty Postgres table".to_owned(),
            terms: said.clone(),
            ours: events_per_second(rate(EVENTS, moving.ours.median())),
            limit: format!("bare COPY of the same rows in {} transactions: {}", split.len(), events_per_second(rate(EVENTS, moving.limit.median()))),
            ratio: format!(
                "{} of the limit; {} of a bare COPY in one transaction ({})",
                percent(moving.share()),
                percent(ratio(at_once.median(), moving.ours.median())),
                events_per_second(rate(EVENTS, at_once.median()))
            ),
            bar: Some(("at least 80 %".to_owned(), moving.share() >= 0.8)),
        },
        Row {
            what: "verify, the embedded engine against Postgres".to_owned(),
            terms: said,
            ours: format!("{} compared, twice as many read", events_per_second(compared)),
            limit: format!("bare COPY of the same rows to the client: {}", events_per_second(rate(EVENTS, verifying.limit.median()))),
            ratio: format!("{} of the limit", percent(verifying.share())),
            bar: Some((format!("at least {} compared", events_per_second(250_000.0)), compared >= 250_000.0)),
        },
    ])
}
