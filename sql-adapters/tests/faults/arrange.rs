//! Small things that the tests arrange.

use std::sync::Arc;
use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Error, EventStore, ExpectedVersion, NewEvent};
use eventuali_sql::Config;

use crate::support::postgres_url;

/// A store that is open.
pub(crate) type Opened = Arc<dyn EventStore>;

#[track_caller]
pub(crate) fn open(config: Config) -> Opened {
    config.open().expect("the store opens").into_dyn()
}

/// The tables `table` on the tests' server.
pub(crate) fn postgres(table: &str) -> Config {
    postgres_at(&postgres_url(), table)
}

pub(crate) fn postgres_at(url: &str, table: &str) -> Config {
    Config::postgres(url).and_then(|config| config.table_name(table)).expect("a config").max_connections(5)
}

/// An append of one event, wherever the stream is.
pub(crate) fn one(aggregate_id: &str) -> AppendBatch {
    expecting(aggregate_id, ExpectedVersion::Any)
}

pub(crate) fn expecting(aggregate_id: &str, expected: ExpectedVersion) -> AppendBatch {
    let event = NewEvent::json("Happened", &serde_json::json!({"to": aggregate_id, "amount": 1.50})).expect("an event");
    AppendBatch::one(aggregate_id, "Thing", expected, vec![event])
}

/// The error of something that must fail, and soon.
#[track_caller]
pub(crate) fn fails_within<T>(limit: Duration, what: &str, work: impl FnOnce() -> eventuali::Result<T>) -> Error {
    let start = Instant::now();
    let Err(error) = work() else { panic!("{what}: an error was expected") };
    let took = start.elapsed();
    assert!(took < limit, "{what}: it took {took:?} to say {error}");
    println!("{what}, after {} ms: {error}", took.as_millis());
    error
}

/// Appends and reads, as a store must be able to after whatever it went through.
#[track_caller]
pub(crate) fn assert_usable(store: &Opened) {
    let before = store.head().wait().expect("it tells its head");
    let receipts = store.append(one("afterwards")).wait().expect("it takes appends");
    assert!(receipts[0].position > before, "a new position");
    let last = store.read_all(eventuali::ReadAll::new().after(before)).last().expect("an event").expect("it can be read");
    assert!(last.position() >= receipts[0].position);
}

/// A random number generator that a seed repeats.
pub(crate) struct Random(u64);

impl Random {
    /// Its seed is printed, and may be given in `EVENTUALI_TEST_SEED`.
    pub(crate) fn new() -> Self {
        let given = std::env::var("EVENTUALI_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        println!("EVENTUALI_TEST_SEED={seed}");
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
