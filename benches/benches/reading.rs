//! Replay, single streams and open, with the bare scan of the same bytes in the same group.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use eventuali::{Durability, EventStore, LogStore, ReadAll, ReadStream, Result as Stored};
use eventuali_benches::Result;
use eventuali_benches::bare::{scan_blocks, scan_frames, segments};
use eventuali_benches::figures::Place;
use eventuali_benches::workload::{Ids, PAYLOAD_BYTES, Shape, aggregate_id, fill, open};

const SHAPE: Shape = Shape { events: 200_000, batch: 100, aggregates: 2000, payload_bytes: PAYLOAD_BYTES, ids: Ids::Growing };

fn replay(store: &LogStore) -> Stored<usize> {
    store.read_all(ReadAll::new()).map(|event| event.map(|event| event.payload().len())).sum()
}

fn load(store: &LogStore, number: usize) -> Stored<usize> {
    store.read(ReadStream::of(aggregate_id(number))).map(|event| event.map(|event| event.payload().len())).sum()
}

fn main() -> Result<()> {
    let place = Place::new()?;
    let path = place.path("read");
    fill(&path, SHAPE)?;
    let segments = segments(&path)?;
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).sample_size(20).configure_from_args();

    let mut group = criterion.benchmark_group("200,000 events with 200-byte payloads, verified");
    group.throughput(Throughput::Elements(SHAPE.events as u64));
    group.bench_function("open by scanning", |bencher| bencher.iter(|| open(&path, Durability::Os).is_ok()));
    let store = open(&path, Durability::Os)?;
    group.bench_function("replay", |bencher| bencher.iter(|| replay(&store).is_ok()));
    group.bench_function("limit: bare verified scan", |bencher| bencher.iter(|| scan_frames(&segments).is_ok()));
    group.bench_function("limit: checksum of whole blocks", |bencher| bencher.iter(|| scan_blocks(&segments).is_ok()));
    group.finish();

    let mut group = criterion.benchmark_group("one aggregate of 100 events");
    group.throughput(Throughput::Elements(100));
    let mut number = 0;
    group.bench_function("load", |bencher| {
        bencher.iter(|| {
            number = (number + 7) % SHAPE.aggregates;
            black_box(load(&store, number)).is_ok()
        });
    });
    group.finish();
    criterion.final_summary();
    Ok(())
}
