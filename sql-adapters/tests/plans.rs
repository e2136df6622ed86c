//! How Postgres finds what a store asks for: by its indexes, also when its plans were made while the table was empty.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

#[path = "faults/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;

use std::time::{Duration, Instant};

use eventuali::{AppendBatch, ExpectedVersion, NewEvent, ReadStream};
use eventuali_sql::Config;
use session::Session;
use support::{new_table, postgres_url};

const APPENDS: u64 = 300;

/// Each append looks for the ids of its events. The plan for that was kept from the time when the table was empty, and read the
/// whole table: appends slowed down in proportion to what was stored.
#[test]
fn appends_and_loads_read_no_table_whole() {
    let table = new_table();
    let mut session = Session::new(&postgres_url());
    let store = Config::postgres(&postgres_url()).and_then(|config| config.table_name(&table)).and_then(Config::open).expect("it opens");
    // No statistics are gathered meanwhile: they would have new plans made.
    session.run(&format!(r#"ALTER TABLE "{table}" SET (autovacuum_enabled = false)"#));
    for number in 0..APPENDS {
        let events = (0..4).map(|_| NewEvent::json("Happened", &number).expect("an event")).collect();
        let batch = AppendBatch::one(format!("s-{}", number % 10), "Thing", ExpectedVersion::Any, events);
        store.as_dyn().append(batch).wait().expect("stored");
        assert!(store.as_dyn().read(ReadStream::of("s-0").limit(1)).all(|event| event.is_ok()));
    }
    store.as_dyn().close().wait().expect("closed");
    drop(store);
    // The server tells of what a connection did after that has ended.
    let inserted = format!("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = '{table}'");
    let start = Instant::now();
    while session.number(&inserted).unsigned_abs() < APPENDS * 4 {
        assert!(start.elapsed() < Duration::from_mins(1), "the server tells what was done");
        std::thread::yield_now();
    }
    let read_whole = session.number(&format!("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = '{table}'"));
    assert!(read_whole.unsigned_abs() < APPENDS, "{read_whole} rows were read without an index");
}
