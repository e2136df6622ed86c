//! Appends in each durability mode, with the bare limit in the same group.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use eventuali::{Durability, EventStore, LogStore};
use eventuali_benches::Result;
use eventuali_benches::bare::Writer;
use eventuali_benches::crew::drive;
use eventuali_benches::figures::Place;
use eventuali_benches::workload::{Ids, PAYLOAD_BYTES, batch, batches, frame_bytes, open};

fn batches_of_100(criterion: &mut Criterion, place: &Place) -> Result<()> {
    let mut group = criterion.benchmark_group("append, batches of 100, 200-byte payloads");
    group.throughput(Throughput::Elements(100));
    let stores = [("Os", open(&place.path("os"), Durability::Os)?), ("memory", LogStore::memory()?)];
    for (name, store) in &stores {
        group.bench_function(*name, |bencher| {
            let make = || batch(0, 100, PAYLOAD_BYTES, Ids::Growing);
            bencher.iter_batched(make, |batch| black_box(store.append(batch).wait()).is_ok(), BatchSize::PerIteration);
        });
    }
    let bare = RefCell::new(Writer::create(&place.path("os.bare"))?);
    let source = vec![b'x'; frame_bytes(100, PAYLOAD_BYTES)];
    group.bench_function("limit: copy, checksum, write", |bencher| {
        bencher.iter_batched(|| (), |()| bare.borrow_mut().copy_sum_write(&source).is_ok(), BatchSize::PerIteration);
    });
    group.finish();
    Ok(())
}

fn synced(criterion: &mut Criterion, place: &Place) -> Result<()> {
    let mut group = criterion.benchmark_group("append, synced, 1 event, 200-byte payload");
    group.throughput(Throughput::Elements(1));
    let store = open(&place.path("synced"), Durability::Sync)?;
    group.bench_function("1 thread", |bencher| {
        let make = || batch(0, 1, PAYLOAD_BYTES, Ids::Growing);
        bencher.iter_batched(make, |batch| black_box(store.append(batch).wait()).is_ok(), BatchSize::PerIteration);
    });
    let mut bare = Writer::create(&place.path("synced.bare"))?;
    let frame = vec![b'x'; frame_bytes(1, PAYLOAD_BYTES)];
    group.bench_function("limit: pwrite and fdatasync", |bencher| bencher.iter(|| bare.write_synced(&frame).is_ok()));
    for width in [64, 512] {
        group.bench_function(format!("1 thread that drives {width} futures"), |bencher| {
            bencher.iter_custom(|events| driven(&store, usize::try_from(events).unwrap_or(usize::MAX), width));
        });
    }
    group.finish();
    Ok(())
}

fn driven(store: &LogStore, events: usize, width: usize) -> Duration {
    let mut batches = batches(events, 1, 1000).into_iter();
    let start = Instant::now();
    drive(width, || batches.next().map(|batch| store.append(batch)), |answer| _ = black_box(answer));
    start.elapsed()
}

fn main() -> Result<()> {
    let place = Place::new()?;
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    batches_of_100(&mut criterion, &place)?;
    synced(&mut criterion, &place)?;
    criterion.final_summary();
    Ok(())
}
