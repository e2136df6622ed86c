//! Many at once: one thread that drives many futures, and many threads.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{Durability, EventStore};

use super::Place;
use crate::Result;
use crate::bare::Writer;
use crate::crew::drive;
use crate::measure::{Samples, rate, ratio};
use crate::report::{Row, events_per_second, micros, percent};
use crate::workload::{PAYLOAD_BYTES, batches, frame_bytes, open};

/// How many turns the store and the bare loop have.
const TURNS: usize = 24;
/// How often the bare loop writes and syncs in a turn.
const SYNCS: usize = 30;
/// How many events a turn of futures has.
const EVENTS: usize = 8192;
/// The fdatasync that the bars of futures are for.
const NOMINAL_SYNC: Duration = Duration::from_micros(130);

/// The bare limit: as many single-event frames as wait at once, written and synced together. And one alone, to tell the disk's mood.
struct Limit {
    file: Writer,
    group: Vec<u8>,
    single: Vec<u8>,
    groups: Samples,
    singles: Samples,
}

impl Limit {
    fn new(place: &Place, name: &str, width: usize) -> Result<Self> {
        let single = vec![b'x'; frame_bytes(1, PAYLOAD_BYTES)];
        let file = Writer::create(&place.path(name))?;
        Ok(Self { file, group: single.repeat(width), single, groups: Samples::default(), singles: Samples::default() })
    }

    fn turn(&mut self) -> Result<()> {
        for _ in 0..SYNCS {
            self.groups.time(|| Ok(self.file.write_synced(&self.group)?))?;
            self.singles.time(|| Ok(self.file.write_synced(&self.single)?))?;
        }
        Ok(())
    }

    fn row(&self, what: String, width: usize, events: usize, ours: &Samples) -> Row {
        let (group, single) = (self.groups.median(), self.singles.median());
        let reached = rate(events, ours.median());
        Row {
            what,
            terms: format!("Sync, payload {PAYLOAD_BYTES} bytes, {} bytes on disk", frame_bytes(1, PAYLOAD_BYTES)),
            ours: events_per_second(reached),
            limit: format!("{width} frames, pwrite and fdatasync: {}, {}", micros(group), events_per_second(rate(width, group))),
            ratio: format!(
                "{} of the limit, {:.1} syncs of {width} frames for {width} events; fdatasync of one frame {}",
                percent(reached / rate(width, group)),
                rate(width, group) / reached,
                micros(single)
            ),
            bar: None,
        }
    }
}

/// One thread that drives `width` futures, one event each.
///
/// # Errors
/// Those of the store and the file system.
pub fn futures(place: &Place, width: usize, bar: f64) -> Result<Row> {
    let name = format!("futures-{width}");
    let store = open(&place.path(&name), Durability::Sync)?;
    let mut limit = Limit::new(place, &format!("{name}.bare"), width)?;
    let mut ours = Samples::default();
    for turn in 0..=TURNS {
        let mut batches: VecDeque<_> = batches(EVENTS, 1, 1000).into();
        let mut failure = None;
        let start = Instant::now();
        drive(width, || batches.pop_front().map(|batch| store.append(batch)), |answer| failure = failure.take().or(answer.err()));
        // The first turn warms up.
        if turn > 0 {
            ours.push(start.elapsed());
        }
        if let Some(error) = failure {
            return Err(error.into());
        }
        limit.turn()?;
    }
    store.close().wait()?;
    let mut row = limit.row(format!("append, 1 thread that drives {width} futures, 1 event each"), width, EVENTS, &ours);
    let reached = rate(EVENTS, ours.median());
    // On a slower disk the same work per event would reach less: what is asked for is what the bar leaves beside the sync.
    let single = limit.singles.median();
    let budget = Duration::from_secs_f64(crate::measure::float(width) / bar);
    let scaled = rate(width, (budget + single).saturating_sub(NOMINAL_SYNC));
    let asked = if ratio(single, NOMINAL_SYNC) > 1.25 {
        format!("{} where fdatasync takes {}; here {}", events_per_second(bar), micros(NOMINAL_SYNC), events_per_second(scaled))
    } else {
        events_per_second(bar)
    };
    row.bar = Some((format!("at least {asked}"), reached >= bar || (ratio(single, NOMINAL_SYNC) > 1.25 && reached >= scaled)));
    Ok(row)
}

/// 64 threads, one event each.
///
/// # Errors
/// Those of the store and the file system.
pub fn threads(place: &Place, width: usize) -> Result<Row> {
    let store = open(&place.path("threads"), Durability::Sync)?;
    let mut limit = Limit::new(place, "threads.bare", width)?;
    let mut ours = Samples::default();
    let each = 32;
    for _ in 0..TURNS {
        let work: Vec<_> = (0..width).map(|_| batches(each, 1, 1000)).collect();
        let barrier = Barrier::new(width + 1);
        let (store, barrier) = (&store, &barrier);
        let took = thread::scope(|scope| {
            let workers: Vec<_> = work
                .into_iter()
                .map(|batches| {
                    scope.spawn(move || {
                        barrier.wait();
                        batches.into_iter().try_for_each(|batch| store.append(batch).wait().map(drop))
                    })
                })
                .collect();
            barrier.wait();
            let start = Instant::now();
            for worker in workers {
                worker.join().map_err(|_| "a writing thread panicked")??;
            }
            Ok::<_, Box<dyn std::error::Error>>(start.elapsed())
        })?;
        ours.push(took);
        limit.turn()?;
    }
    store.close().wait()?;
    Ok(limit.row(format!("append, {width} threads, 1 event each"), width, width * each, &ours))
}
