//! How a store behaves as it grows: appending, opening, memory, loading. Each opening is by a process of its own.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Durability, EventStore, ExpectedVersion, LogStore, ReadStream};

use super::Place;
use super::memory::resident;
use crate::Result;
use crate::measure::{Samples, float, rate};
use crate::report::{Row, events_per_second, micros};
use crate::workload::{Ids, PAYLOAD_BYTES, aggregate_id, event, open};

/// The argument with which the program opens a store and tells what that took.
pub const OPEN: &str = "--growth-open";
/// The argument with which the program appends to a store and ends without closing it.
pub const KILL: &str = "--growth-kill";

/// The sizes, in millions of events; others by this variable, such as `1,3,10,30`.
const SIZES: &str = "1,3,10";
const VARIABLE: &str = "EVENTUALI_GROWTH_MILLIONS";
const MILLION: usize = 1_000_000;

/// Every append is of so many events; every second one begins an aggregate, the others go to those before, wherever they are.
const BATCH: usize = 10;
/// How many aggregates are loaded.
const LOADS: usize = 500;
/// How many events are appended before a process ends without closing.
const UNCLOSED: usize = 100_000;

/// What is asked of opening: closed in order, and after a kill.
const BARS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(300));

/// One store that grows.
///
/// # Errors
/// Those of the store and the file system.
pub fn stages(place: &Place) -> Result<Vec<Row>> {
    let path = place.path("growth");
    let sizes = std::env::var(VARIABLE).unwrap_or_else(|_| SIZES.to_owned());
    let mut rows = Vec::new();
    let mut appends = 0;
    for millions in sizes.split(',') {
        let events = millions.trim().parse::<usize>()? * MILLION;
        let store = open(&path, Durability::Os)?;
        let (start, before) = (Instant::now(), appends);
        while appends * BATCH < events {
            append(&store, appends)?;
            appends += 1;
        }
        let appended = rate((appends - before) * BATCH, start.elapsed());
        store.close().wait()?;
        drop(store);
        let closed = told(OPEN, &path)?;
        told(KILL, &path)?;
        let killed = told(OPEN, &path)?;
        let (opened, reopened) = (closed.micros(0)?, killed.micros(0)?);
        rows.push(Row {
            what: format!("{millions} million events of {} aggregates", appends / 2),
            terms: format!("Os, payload {PAYLOAD_BYTES} bytes, {BATCH} events an append, page cache warm"),
            ours: format!(
                "append {}; open {} when closed, {} after a kill; load of 20 events p50 {} first, {} again; resident {:.1} MB opened, {:.1} MB after {LOADS} loads",
                events_per_second(appended),
                micros(opened),
                micros(reopened),
                micros(closed.micros(1)?),
                micros(closed.micros(2)?),
                float(closed.number(3)?) / 1e6,
                float(closed.number(4)?) / 1e6,
            ),
            limit: "none".to_owned(),
            ratio: format!("the store has {:.1} GB", float(bytes_in(&path)?) / 1e9),
            bar: Some(("open within 10 ms when closed, 300 ms after a kill".to_owned(), opened <= BARS.0 && reopened <= BARS.1)),
        });
    }
    Ok(rows)
}

/// Appends number so and so: all of them are the same in every run.
fn append(store: &LogStore, number: usize) -> Result<()> {
    let aggregate = if number.is_multiple_of(2) { number / 2 } else { earlier(number, number / 2 + 1) };
    let events = (0..BATCH).map(|_| event(PAYLOAD_BYTES, Ids::Growing)).collect();
    store.append(AppendBatch::one(aggregate_id(aggregate), "Account", ExpectedVersion::Any, events)).wait()?;
    Ok(())
}

/// One of so many, without any order.
fn earlier(number: usize, count: usize) -> usize {
    let mixed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::try_from((mixed >> 32) % (count.max(1) as u64)).unwrap_or(0)
}

/// What another process has told, in numbers.
struct Told(Vec<usize>);

impl Told {
    fn number(&self, index: usize) -> Result<usize> {
        self.0.get(index).copied().ok_or_else(|| "the other process has told too little".into())
    }

    fn micros(&self, index: usize) -> Result<Duration> {
        Ok(Duration::from_nanos(self.number(index)? as u64))
    }
}

fn told(argument: &str, path: &Path) -> Result<Told> {
    let output = Command::new(std::env::current_exe()?).arg(argument).arg(path).output()?;
    if argument == OPEN && !output.status.success() {
        return Err(String::from_utf8(output.stderr)?.into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(Told(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?))
}

/// Opens a store, loads some aggregates twice, and prints what that took: times in nanoseconds, then memory in bytes.
///
/// # Errors
/// Those of the store; a system without `/proc`.
pub fn tell(path: &Path) -> Result<()> {
    let (before, _) = resident()?;
    let start = Instant::now();
    let store = open(path, Durability::Os)?;
    let opened = start.elapsed();
    let (after, _) = resident()?;
    let head = usize::try_from(store.head().wait()?.0)?;
    let aggregates: Vec<String> = (0..LOADS).map(|number| aggregate_id(earlier(number * 7 + 1, head / BATCH / 4))).collect();
    let mut times = [Samples::default(), Samples::default()];
    for samples in &mut times {
        for aggregate in &aggregates {
            let events = samples.time(|| Ok(store.read(ReadStream::of(&**aggregate)).collect::<eventuali::Result<Vec<_>>>()?.len()))?;
            if events < BATCH {
                return Err(format!("{aggregate} has {events} events").into());
            }
        }
    }
    let (loaded, _) = resident()?;
    println!(
        "{} {} {} {} {}",
        opened.as_nanos(),
        times[0].median().as_nanos(),
        times[1].median().as_nanos(),
        after.saturating_sub(before),
        loaded.saturating_sub(before)
    );
    store.close().wait()?;
    Ok(())
}

/// Appends to a store and ends this process without closing it.
///
/// # Errors
/// Those of the store.
pub fn end_unclosed(path: &Path) -> Result<()> {
    let store = open(path, Durability::Os)?;
    for number in 0..UNCLOSED / BATCH {
        append(&store, number)?;
    }
    std::process::abort()
}

fn bytes_in(path: &Path) -> Result<usize> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        let metadata = entry?.metadata()?;
        if metadata.is_file() {
            bytes += usize::try_from(metadata.len())?;
        }
    }
    Ok(bytes)
}
