//! Replay and verify, against bare scans of the same bytes.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;

use eventuali::maintenance;
use eventuali::{Durability, EventStore, ReadAll};

use super::Place;
use crate::Result;
use crate::bare::{bytes_of, scan_blocks, scan_frames, segments};
use crate::measure::{Pair, Samples, float, rate};
use crate::report::{Row, events_per_second, percent};
use crate::workload::{Ids, PAYLOAD_BYTES, Shape, fill, open};

/// How many turns each side has.
const TURNS: usize = 5;

/// Replay of everything, of a store whose events were appended in batches of this size.
///
/// # Errors
/// Those of the store and the file system.
pub fn replay(place: &Place, events: usize, batch: usize) -> Result<Vec<Row>> {
    let path = place.path(&format!("read-{batch}"));
    fill(&path, Shape { events, batch, aggregates: 20_000, payload_bytes: PAYLOAD_BYTES, ids: Ids::Growing })?;
    let rows = of_store(&path, events, batch);
    std::fs::remove_dir_all(&path)?;
    rows
}

fn of_store(path: &Path, events: usize, batch: usize) -> Result<Vec<Row>> {
    let segments = segments(path)?;
    let bytes = usize::try_from(bytes_of(&segments)?)?;
    let (mut replay, mut blocks) = (Pair::default(), Samples::default());
    scan_blocks(&segments)?;
    for _ in 0..TURNS {
        let store = open(path, Durability::Os)?;
        let scanned = replay.limit.time(|| scan_frames(&segments))?;
        let read = replay.ours.time(|| {
            let mut count = 0;
            for event in store.read_all(ReadAll::new()) {
                black_box(event?.payload());
                count += 1;
            }
            Ok(count)
        })?;
        if (scanned, read) != (events as u64, events) {
            return Err(format!("{events} events were written, {scanned} scanned, {read} read").into());
        }
        blocks.time(|| scan_blocks(&segments))?;
        store.close().wait()?;
    }
    let terms = format!("any durability, payload {PAYLOAD_BYTES} bytes, {} bytes on disk, batches of {batch}, page cache warm", bytes / events);
    Ok(vec![Row {
        what: format!("replay of {events} events, every checksum verified"),
        terms,
        ours: speed(events, bytes, replay.ours.median().as_secs_f64()),
        limit: format!("bare verified scan: {}", speed(events, bytes, replay.limit.median().as_secs_f64())),
        ratio: format!(
            "{} of the limit; {} of a checksum over whole blocks of 1 MiB ({})",
            percent(replay.share()),
            percent(blocks.median().as_secs_f64() / replay.ours.median().as_secs_f64()),
            events_per_second(rate(events, blocks.median()))
        ),
        bar: Some(("at least 50 %".to_owned(), replay.share() >= 0.5)),
    }])
}

/// Verify of a store whose events were appended in batches of this size.
///
/// # Errors
/// Those of the store and the file system; damage.
pub fn verify(place: &Place, events: usize, batch: usize) -> Result<Vec<Row>> {
    let path = place.path(&format!("verify-{batch}"));
    fill(&path, Shape { events, batch, aggregates: 20_000, payload_bytes: PAYLOAD_BYTES, ids: Ids::Growing })?;
    let segments = segments(&path)?;
    let bytes = usize::try_from(bytes_of(&segments)?)?;
    let mut pair = Pair::default();
    scan_blocks(&segments)?;
    for _ in 0..TURNS {
        let scanned = pair.limit.time(|| scan_frames(&segments))?;
        let report = pair.ours.time(|| Ok(maintenance::verify(&path, |_| ControlFlow::Continue(()))?))?;
        if !report.is_sound() || report.events != scanned {
            return Err(format!("{scanned} events were scanned, {} verified, {} places damaged", report.events, report.damaged_places).into());
        }
    }
    std::fs::remove_dir_all(&path)?;
    Ok(vec![Row {
        what: format!("verify of {events} events, positions, versions and chain included"),
        terms: format!("any durability, payload {PAYLOAD_BYTES} bytes, {} bytes on disk, batches of {batch}, page cache warm", bytes / events),
        ours: speed(events, bytes, pair.ours.median().as_secs_f64()),
        limit: format!("bare verified scan: {}", speed(events, bytes, pair.limit.median().as_secs_f64())),
        ratio: format!("{} of the limit", percent(pair.share())),
        bar: Some(("at least 60 %".to_owned(), pair.share() >= 0.6)),
    }])
}

fn speed(events: usize, bytes: usize, seconds: f64) -> String {
    format!("{} ({:.2} GB/s)", events_per_second(float(events) / seconds), float(bytes) / seconds / 1e9)
}
