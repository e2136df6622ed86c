//! What is measured by processes of their own, whose memory grows by nothing but the store.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Durability, EventStore, ExpectedVersion, LogStore, OpenOptions, ReadStream};

use crate::Result;
use crate::figures::memory::resident;
use crate::measure::{Samples, float, rate};
use crate::workload::{Ids, PAYLOAD_BYTES, aggregate_id, event};

/// The argument with which the program appends events from a number to a number.
pub(super) const WRITE: &str = "--growth-write";
/// The argument with which the program appends to a store and ends without closing it.
pub(super) const WRITE_AND_DIE: &str = "--growth-die";
/// The argument with which the program opens a store and closes it.
pub(super) const OPEN: &str = "--growth-open";
/// The argument with which the program opens a store, and loads and appends to aggregates it knows nothing of.
pub(super) const LOOK: &str = "--growth-look";

/// Every append is of so many events; every second one begins an aggregate.
pub(super) const BATCH: usize = 5;
/// How many aggregates are loaded, and appended to.
const LOOKS: usize = 1000;
/// How many events are appended before a process ends without closing.
pub(super) const UNCLOSED_EVENTS: usize = 100_000;
/// Aggregates with numbers from this one on are not among those that the store grows by.
const NEW_FROM: usize = 5_000_000;

/// How many aggregates the first so many events have.
pub(super) fn aggregates(events: usize) -> usize {
    events.div_ceil(BATCH).div_ceil(2)
}

/// Does what an argument says, if it is one of these.
#[must_use]
pub fn run(argument: &str, path: &Path, numbers: &[u64]) -> Option<Result<()>> {
    let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
    let events = |index: usize| usize::try_from(number(index)).unwrap_or(usize::MAX);
    Some(match argument {
        WRITE => write(path, events(0), events(1), number(2)),
        WRITE_AND_DIE => write_and_die(path, events(0), number(1)),
        OPEN => open_and_tell(path, number(0)),
        LOOK => look(path, number(0)),
        _ => return None,
    })
}

fn open(path: &Path, segment_bytes: u64) -> Result<LogStore> {
    let options = OpenOptions::new().durability(Durability::Os);
    let options = if segment_bytes == 0 { options } else { options.segment_bytes(segment_bytes) };
    Ok(options.open(path)?)
}

/// Append number so and so: all of them are the same in every run.
fn append(store: &LogStore, number: usize) -> Result<()> {
    let aggregate = if number.is_multiple_of(2) { number / 2 } else { zipf(number, number / 2 + 1) };
    append_to(store, aggregate, BATCH)
}

fn append_to(store: &LogStore, aggregate: usize, count: usize) -> Result<()> {
    let events = (0..count).map(|_| event(PAYLOAD_BYTES, Ids::Growing)).collect();
    store.append(AppendBatch::one(aggregate_id(aggregate), "Account", ExpectedVersion::Any, events)).wait()?;
    Ok(())
}

/// A number without any order, which follows from another.
fn mixed(number: usize) -> u64 {
    let mixed = (number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11
}

/// One of so many, number k about k times less often than the first: half of all appends go to a few hundred of a million.
fn zipf(number: usize, count: usize) -> usize {
    let share = float(usize::try_from(mixed(number)).unwrap_or(0)) / float(1 << 53);
    let rank = (share * float(count + 1).ln()).exp();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies between 1 and the count, which is far below 2^52")]
    let rank = rank as usize;
    rank.saturating_sub(1).min(count - 1)
}

/// One of so many, each as often as any other.
fn any(number: usize, count: usize) -> usize {
    usize::try_from(mixed(number) % (count.max(1) as u64)).unwrap_or(0)
}

fn write(path: &Path, from: usize, to: usize, segment_bytes: u64) -> Result<()> {
    let store = open(path, segment_bytes)?;
    let start = Instant::now();
    for number in from / BATCH..to / BATCH {
        append(&store, number)?;
    }
    let rate = rate(to - from, start.elapsed());
    println!("rate={rate:.0} resident={} index_memory={}", resident()?.0, store.index_memory_bytes());
    store.close().wait()?;
    Ok(())
}

fn write_and_die(path: &Path, from: usize, segment_bytes: u64) -> Result<()> {
    let store = open(path, segment_bytes)?;
    for number in from / BATCH..(from + UNCLOSED_EVENTS) / BATCH {
        append(&store, number)?;
    }
    std::process::abort()
}

fn open_and_tell(path: &Path, segment_bytes: u64) -> Result<()> {
    let (before, start) = (resident()?.0, Instant::now());
    let store = open(path, segment_bytes)?;
    println!("open={} resident={}", start.elapsed().as_nanos(), resident()?.0.saturating_sub(before));
    store.close().wait()?;
    Ok(())
}

/// Loads aggregates of which nothing is in memory, and once more; then appends to others of which nothing is, once more, and to new ones.
fn look(path: &Path, segment_bytes: u64) -> Result<()> {
    let (before, start) = (resident()?.0, Instant::now());
    let store = open(path, segment_bytes)?;
    let opened = start.elapsed();
    let head = usize::try_from(store.head().wait()?.0)?;
    let count = aggregates(head) / 2;
    let mut loads = [Samples::default(), Samples::default()];
    for samples in &mut loads {
        for number in 0..LOOKS {
            let aggregate = aggregate_id(any(number * 7 + 1, count));
            let events = samples.time(|| Ok(store.read(ReadStream::of(&*aggregate)).collect::<eventuali::Result<Vec<_>>>()?.len()))?;
            if events < BATCH {
                return Err(format!("{aggregate} has {events} events").into());
            }
        }
    }
    let loaded = resident()?.0.saturating_sub(before);
    let mut appends = [Samples::default(), Samples::default(), Samples::default()];
    for (kind, samples) in appends.iter_mut().enumerate() {
        for number in 0..LOOKS {
            let aggregate = if kind < 2 { any(number * 11 + 3, count) } else { NEW_FROM + any(head + number, 4_000_000) };
            samples.time(|| append_to(&store, aggregate, 1))?;
        }
    }
    println!(
        "open={} load_first={} load_again={} resident_loaded={loaded} append_cold={} append_hot={} append_new={} events={}",
        opened.as_nanos(),
        loads[0].median().as_nanos(),
        loads[1].median().as_nanos(),
        appends[0].median().as_nanos(),
        appends[1].median().as_nanos(),
        appends[2].median().as_nanos(),
        store.head().wait()?.0,
    );
    store.close().wait()?;
    Ok(())
}

/// What another process has told, by name.
pub(super) struct Told(HashMap<String, usize>);

impl Told {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let pair = |word: &str| {
            let (name, number) = word.split_once('=').ok_or("a process has told something else than numbers")?;
            Ok((name.to_owned(), number.parse()?))
        };
        text.split_whitespace().map(pair).collect::<Result<_>>().map(Self)
    }

    pub(super) fn number(&self, name: &str) -> Result<usize> {
        self.0.get(name).copied().ok_or_else(|| format!("a process has not told {name}").into())
    }

    pub(super) fn time(&self, name: &str) -> Result<Duration> {
        Ok(Duration::from_nanos(self.number(name)? as u64))
    }
}
