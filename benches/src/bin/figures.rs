//! Prints every figure beside the bare limit of the same run.
//!
//! `figures [PART]...` prints only the parts whose names begin so: written, synced, futures, threads, reading, verify, forking, compression, memory, growth,
//! sql-moving, sql-appending, sql-loading.
//! Those of `sql` need a Postgres server, whose address they take from `EVENTUALI_TEST_POSTGRES_URL`; a throwaway one comes from
//! `python3 pybind/tools/with_postgres.py cargo run --release -p eventuali-benches --bin figures -- sql`.

use std::path::Path;
use std::time::Instant;

use eventuali_benches::Result;
use eventuali_benches::figures::{Place, compression, concurrent, forking, growth, memory, reading, sql, written};
use eventuali_benches::report::{Row, table};

type Part = fn(&Place) -> Result<Vec<Row>>;

const PARTS: [(&str, &str, Part); 13] = [
    ("written", "One writer, handed to the operating system", written::os_batches),
    ("synced", "One writer, on disk", written::synced),
    ("futures", "Many futures on one thread, on disk", |place| {
        Ok(vec![concurrent::futures(place, 64, 150_000.0)?, concurrent::futures(place, 512, 500_000.0)?])
    }),
    ("threads", "Many threads, on disk", |place| Ok(vec![concurrent::threads(place, 64)?])),
    ("reading", "Reading", |place| {
        let mut rows = reading::replay(place, 2_000_000, 100)?;
        rows.extend(reading::replay(place, 1_000_000, 1)?);
        Ok(rows)
    }),
    ("verify", "Verify", |place| {
        let mut rows = reading::verify(place, 2_000_000, 100)?;
        rows.extend(reading::verify(place, 1_000_000, 1)?);
        Ok(rows)
    }),
    ("forking", "Forks", forking::million),
    ("compression", "Compressed segments", compression::real_events),
    ("memory", "Memory", memory::index),
    ("growth", "Growth", growth::stages),
    ("sql-moving", "SQL: moving", sql::moving),
    ("sql-appending", "SQL: many futures on one thread", sql::appending),
    ("sql-loading", "SQL: loading", sql::loading),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, path, numbers @ ..] = &arguments[..] {
        let (path, numbers) = (Path::new(path), numbers.iter().filter_map(|number| number.parse().ok()).collect::<Vec<u64>>());
        if argument == memory::ARGUMENT {
            return memory::tell(path);
        }
        if let Some(done) = growth::child(argument, path, &numbers) {
            return done;
        }
    }
    let start = Instant::now();
    let place = Place::new()?;
    println!("Load of the machine at the start: {}", load());
    for (name, title, part) in PARTS {
        if arguments.is_empty() || arguments.iter().any(|argument| name.starts_with(argument)) {
            print!("{}", table(title, &part(&place)?));
        }
    }
    println!("\nLoad of the machine at the end: {}; {:.0} s in all", load(), start.elapsed().as_secs_f64());
    Ok(())
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
