//! One writer: `Os` batches against copying, summing and writing; synced events against a bare write and sync.

use std::time::{Duration, Instant};

use eventuali::{Durability, EventStore};

use super::Place;
use crate::Result;
use crate::bare::Writer;
use crate::measure::{Pair, Samples, rate, ratio};
use crate::report::{Row, events_per_second, micros, percent};
use crate::workload::{Ids, PAYLOAD_BYTES, batch, batches, frame_bytes, open};

/// How many events a batch has.
const BATCH: usize = 100;
/// How many batches each side appends in a turn, and how many turns each has.
const BATCHES: (usize, usize) = (50, 128);
/// After so many turns the bare loop syncs, as a store does when it begins a new segment.
const TURNS_A_SEGMENT: usize = 43;
/// How many single events are appended in one turn, and how many turns of them each side has.
const SYNCED: (usize, usize) = (50, 32);
/// How much a synced append may take beyond a bare write and sync.
const SYNC_EXTRA: Duration = Duration::from_micros(10);

/// `Os` durability, one thread, batches of 100.
///
/// # Errors
/// Those of the store and the file system.
pub fn os_batches(place: &Place) -> Result<Vec<Row>> {
    let store = open(&place.path("os"), Durability::Os)?;
    let mut bare = Writer::create(&place.path("os.bare"))?;
    let mut source = vec![0; frame_bytes(BATCH, PAYLOAD_BYTES)];
    let mut pair = Pair::default();
    let mut bare_syncs = Samples::default();
    store.append(batches(1, 1, 1).remove(0)).wait()?;
    for turn in 0..BATCHES.1 {
        for number in 0..BATCHES.0 {
            // As in a program, a batch has just been made when it is appended.
            let batch = batch(number, BATCH, PAYLOAD_BYTES, Ids::Growing);
            pair.ours.time(|| Ok(store.append(batch).wait()?))?;
        }
        for number in 0..BATCHES.0 {
            source.fill(number.to_le_bytes()[0]);
            pair.limit.time(|| Ok(bare.copy_sum_write(&source)?))?;
        }
        if turn % TURNS_A_SEGMENT == TURNS_A_SEGMENT - 1 {
            bare_syncs.time(|| Ok(bare.sync()?))?;
        }
    }
    store.close().wait()?;
    let terms = format!("Os, payload {PAYLOAD_BYTES} bytes, {} bytes on disk", frame_bytes(BATCH, PAYLOAD_BYTES) / BATCH);
    let events = BATCH * BATCHES.0 * BATCHES.1;
    let (all_ours, all_bare) = (pair.ours.total(), pair.limit.total() + bare_syncs.total());
    let of_all = format!("{} of the limit", percent(ratio(all_bare, all_ours)));
    Ok(vec![
        Row {
            what: format!("append, 1 thread, batches of {BATCH}"),
            terms: terms.clone(),
            ours: events_per_second(rate(BATCH, pair.ours.median())),
            limit: format!("copy, checksum, write: {}", events_per_second(rate(BATCH, pair.limit.median()))),
            ratio: format!("{} of the limit", percent(pair.share())),
            bar: Some(("at least 60 %".to_owned(), pair.share() >= 0.6)),
        },
        Row {
            what: "the same in all, with segments that roll over, each synced".to_owned(),
            terms,
            ours: events_per_second(rate(events, all_ours)),
            limit: format!("the same bare, synced every 64 MB: {}", events_per_second(rate(events, all_bare))),
            ratio: of_all,
            bar: None,
        },
    ])
}

/// Synced appends of one event by one thread.
///
/// # Errors
/// Those of the store and the file system.
pub fn synced(place: &Place) -> Result<Vec<Row>> {
    let store = open(&place.path("synced"), Durability::Sync)?;
    let mut bare = Writer::create(&place.path("synced.bare"))?;
    let frame = vec![b'x'; frame_bytes(1, PAYLOAD_BYTES)];
    let mut pair = Pair::default();
    for turn in 0..SYNCED.1 {
        for batch in batches(SYNCED.0, 1, 1000) {
            let start = Instant::now();
            store.append(batch).wait()?;
            if turn > 0 {
                pair.ours.push(start.elapsed());
            }
        }
        for _ in 0..SYNCED.0 {
            let start = Instant::now();
            bare.write_synced(&frame)?;
            if turn > 0 {
                pair.limit.push(start.elapsed());
            }
        }
    }
    store.close().wait()?;
    let extra = pair.ours.median().saturating_sub(pair.limit.median());
    let tails = |samples: &Samples| format!("p50 {}, p99 {}", micros(samples.median()), micros(samples.percentile(99)));
    Ok(vec![Row {
        what: "append, 1 thread, 1 event".to_owned(),
        terms: format!("Sync, payload {PAYLOAD_BYTES} bytes, {} bytes on disk", frame.len()),
        ours: tails(&pair.ours),
        limit: format!("pwrite and fdatasync: {}", tails(&pair.limit)),
        ratio: format!("p50 {} more", micros(extra)),
        bar: Some((format!("at most {} more", micros(SYNC_EXTRA)), extra <= SYNC_EXTRA)),
    }])
}
