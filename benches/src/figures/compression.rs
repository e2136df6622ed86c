//! What compressing sealed segments saves and costs, on real events, beside SQLite's file for the same events.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

use eventuali::{Durability, EventStore, LogStore, OpenOptions, ReadAll, ReadStream, compress};
use eventuali_sql::{Config, Synchronous};

use super::Place;
use crate::Result;
use crate::bare::{evict, scan_blocks, segments};
use crate::measure::{Pair, Samples, float, rate};
use crate::real::{RealEvent, appends, loans, webhooks};
use crate::report::{Row, events_per_second, micros, percent};
use crate::workload::{Ids, batch};

/// How many turns each side has.
const TURNS: usize = 7;
/// How many events an append has, and how many of an aggregate are loaded.
const EVENTS: (usize, usize) = (1, 100);
/// How many aggregates are loaded.
const AGGREGATES: usize = 50;
/// The smallest segments there are: a store that is opened with them begins a new one.
const SMALLEST_SEGMENT: u64 = 64 << 10;

/// Sizes, replay and loads, plain and compressed.
///
/// # Errors
/// Those of the stores and the file system; and that the data is not there.
pub fn real_events(place: &Place) -> Result<Vec<Row>> {
    let mut rows = of(place, "loan applications", &loans()?, 0.25)?;
    rows.extend(of(place, "webhooks", &webhooks()?, 0.10)?);
    Ok(rows)
}

fn of(place: &Place, name: &str, events: &[RealEvent], share_max: f64) -> Result<Vec<Row>> {
    let (plain, packed, sqlite) =
        (place.path(&format!("{name} plain")), place.path(&format!("{name} compressed")), place.path(&format!("{name}.db")));
    write_sealed(&plain, events)?;
    write_sealed(&packed, events)?;
    let done = compress(&packed)?;
    let sqlite_bytes = write_sqlite(&sqlite, events)?;
    let (plain_store, packed_store) = (open(&plain)?, open(&packed)?);
    let (mut replay, mut hot, mut cold) = (Pair::default(), Pair::default(), Pair::default());
    let (mut from_disk, mut disk) = (Pair::default(), Samples::default());
    let (plain_files, packed_files) = (segments(&plain)?, segments(&packed)?);
    for _ in 0..TURNS {
        evict(&plain_files)?;
        disk.time(|| scan_blocks(&plain_files))?;
        evict(&plain_files)?;
        from_disk.limit.time(|| replayed(&plain_store, events.len()))?;
        evict(&packed_files)?;
        from_disk.ours.time(|| replayed(&packed_store, events.len()))?;
    }
    for _ in 0..TURNS {
        replay.limit.time(|| replayed(&plain_store, events.len()))?;
        replay.ours.time(|| replayed(&packed_store, events.len()))?;
    }
    let long = long_aggregates(events);
    for aggregate in &long {
        load(&plain_store, aggregate, &mut cold.limit)?;
        load(&packed_store, aggregate, &mut cold.ours)?;
        load(&plain_store, aggregate, &mut hot.limit)?;
        load(&packed_store, aggregate, &mut hot.ours)?;
    }
    plain_store.close().wait()?;
    packed_store.close().wait()?;
    let index = bytes_of(&packed, "idx")?;
    let share = float(usize::try_from(done.bytes_after + index)?) / float(usize::try_from(sqlite_bytes)?);
    let terms = format!("{name}: {} events, {} in each append; page cache warm", events.len(), EVENTS.0);
    let row = |what: String, ours: String, limit: String, ratio: String| Row { what, terms: terms.clone(), ours, limit, ratio, bar: None };
    let mut rows = vec![Row {
        bar: Some((format!("at most {}", percent(share_max)), share <= share_max)),
        ..row(
            "size of sealed segments and their indexes".to_owned(),
            format!("{} bytes and {index} of indexes", done.bytes_after),
            format!("plain: {} bytes; SQLite's file: {sqlite_bytes} bytes", done.bytes_before),
            format!(
                "{} of SQLite's file; {} of the plain segments",
                percent(share),
                percent(float(usize::try_from(done.bytes_after)?) / float(usize::try_from(done.bytes_before)?))
            ),
        )
    }];
    let speed = |samples: &Samples| events_per_second(rate(events.len(), samples.median()));
    rows.push(row(
        "replay of everything, compressed".to_owned(),
        speed(&replay.ours),
        format!("plain: {}", speed(&replay.limit)),
        format!("{} of the plain one's speed", percent(replay.share())),
    ));
    let plain_bytes = float(usize::try_from(bytes_of(&plain, "seg")?)?);
    let megabytes = |samples: &Samples| format!("{:.0} MB/s of plain segments", plain_bytes / 1e6 / samples.median().as_secs_f64());
    rows.push(Row {
        terms: terms.replace("warm", "emptied before each turn"),
        ..row(
            "the same, read from the disk".to_owned(),
            format!("{}, {}", speed(&from_disk.ours), megabytes(&from_disk.ours)),
            format!("plain: {}, {}; reading the files alone: {}", speed(&from_disk.limit), megabytes(&from_disk.limit), megabytes(&disk)),
            format!("{} of the plain one's speed", percent(from_disk.share())),
        )
    });
    if !long.is_empty() {
        for (what, pair) in [("for the first time since opening", &cold), ("again", &hot)] {
            rows.push(row(
                format!("load of {} events of an aggregate, {what}, compressed", EVENTS.1),
                format!("p50 {}", micros(pair.ours.median())),
                format!("plain: p50 {}", micros(pair.limit.median())),
                format!("{} of the plain one's speed", percent(pair.share())),
            ));
        }
    }
    Ok(rows)
}

fn open(path: &Path) -> Result<LogStore> {
    Ok(OpenOptions::new().durability(Durability::Os).open(path)?)
}

/// A closed store of these events, all in sealed segments but one that rolled over.
fn write_sealed(path: &Path, events: &[RealEvent]) -> Result<()> {
    let store = open(path)?;
    for batch in appends(events, EVENTS.0) {
        store.append(batch).wait()?;
    }
    store.close().wait()?;
    let store = OpenOptions::new().durability(Durability::Os).segment_bytes(SMALLEST_SEGMENT).open(path)?;
    store.append(batch(0, 1, 10, Ids::Growing)).wait()?;
    store.close().wait()?;
    Ok(())
}

fn write_sqlite(path: &Path, events: &[RealEvent]) -> Result<u64> {
    let store = Config::sqlite(path).synchronous(Synchronous::Normal).open()?;
    for batch in appends(events, 1000) {
        store.as_dyn().append(batch).wait()?;
    }
    store.as_dyn().close().wait()?;
    Ok(std::fs::metadata(path)?.len())
}

/// The bytes of the files in a directory whose names end so.
fn bytes_of(path: &Path, extension: &str) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|found| found == extension) {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn replayed(store: &LogStore, events: usize) -> Result<()> {
    let mut count = 0;
    for event in store.read_all(ReadAll::new()) {
        black_box(event?.payload());
        count += 1;
    }
    // The one that began another segment comes on top.
    if count == events + 1 { Ok(()) } else { Err(format!("{events} events were written, {count} read").into()) }
}

fn long_aggregates(events: &[RealEvent]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for event in events {
        *counts.entry(&event.aggregate_id).or_default() += 1;
    }
    counts.iter().filter(|(_, count)| **count >= EVENTS.1).map(|(name, _)| (*name).to_owned()).take(AGGREGATES).collect()
}

fn load(store: &LogStore, aggregate: &str, samples: &mut Samples) -> Result<()> {
    samples.time(|| {
        for event in store.read(ReadStream::of(aggregate).limit(EVENTS.1 as u64)) {
            black_box(event?.payload());
        }
        Ok(())
    })
}
