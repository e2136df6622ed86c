//! Servers that stop, quit and crash while appends are under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::ReadAll;

use crate::arrange::{Opened, assert_usable, one, open, postgres_at};
use crate::ledger::Ledger;
use crate::roles::with_own_server;

const TASKS: u64 = 8;
const DEADLINE: Duration = Duration::from_mins(1);

/// Appends until told to stop.
fn keep_appending(store: &Opened, task: u64, stop: &AtomicBool, appended: &AtomicU64) -> Ledger {
    let mut ledger = Ledger::default();
    while !stop.load(Ordering::Relaxed) {
        ledger.append(&**store, &one(&format!("stream-{task}")));
        appended.fetch_add(1, Ordering::Relaxed);
    }
    ledger
}

/// Reads from the beginning again and again; how often it came to the end, and how often it was told of an error.
fn keep_reading(store: &Opened, stop: &AtomicBool) -> (u64, u64) {
    let mut counts = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut last = 0;
        let failed = store.read_all(ReadAll::new()).any(|read| match read {
            Ok(event) => {
                assert_eq!(event.position().0, last + 1, "a reader sees every position in order");
                last += 1;
                false
            }
            Err(error) => {
                assert!(matches!(error, eventuali::Error::Unavailable { .. }), "a lost connection is no availability: {error:?}");
                true
            }
        });
        if failed { counts.1 += 1 } else { counts.0 += 1 }
    }
    counts
}

fn wait_for_more(appended: &AtomicU64, more: u64) {
    let (start, wanted) = (Instant::now(), appended.load(Ordering::Relaxed) + more);
    while appended.load(Ordering::Relaxed) < wanted {
        assert!(start.elapsed() < DEADLINE, "appends go on");
        thread::yield_now();
    }
}

#[test]
fn appends_go_on_after_a_server_stopped_quit_or_crashed_and_every_answer_is_true() {
    with_own_server("postgres_server::appends_go_on_after_a_server_stopped_quit_or_crashed_and_every_answer_is_true", |server| {
        let store = open(postgres_at(&server.url, "events"));
        let (stop, appended) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut ledger = Ledger::default();
        thread::scope(|scope| {
            let (store, stop, appended) = (&store, &stop, &appended);
            let appending: Vec<_> = (0..TASKS).map(|task| scope.spawn(move || keep_appending(store, task, stop, appended))).collect();
            let reading = scope.spawn(move || keep_reading(store, stop));
            for end in ["stop", "kill", "crash", "stop", "kill", "crash"] {
                wait_for_more(appended, 200);
                server.control(end);
                server.control("start");
            }
            wait_for_more(appended, 200);
            stop.store(true, Ordering::Relaxed);
            for appending in appending {
                ledger.take_in(appending.join().expect("it ended"));
            }
            let (whole, failed) = reading.join().expect("it ended");
            println!("{whole} whole reads, {failed} that were told of a lost connection");
        });
        ledger.assert_true_of(&*store);
        let (stored, unknown, refused) = ledger.counts();
        println!("6 ends of the server: {stored} appends stored, {unknown} unknown, {refused} refused");
        assert!(stored > 1000, "most appends are answered");
        assert_usable(&store);
        store.close().wait().expect("it closes");
    });
}

#[test]
fn appends_to_a_server_that_stays_away_fail_in_time_and_nothing_of_them_is_stored() {
    with_own_server("postgres_server::appends_to_a_server_that_stays_away_fail_in_time_and_nothing_of_them_is_stored", |server| {
        let store = open(postgres_at(&server.url, "events").acquire_timeout(Duration::from_secs(3)));
        assert_usable(&store);
        server.control("stop");
        let mut ledger = Ledger::default();
        let start = Instant::now();
        thread::scope(|scope| {
            let store = &store;
            let appending: Vec<_> = (0..TASKS)
                .map(|task| {
                    scope.spawn(move || {
                        let batch = one(&format!("stream-{task}"));
                        let answer = store.append(batch.clone()).wait();
                        assert!(matches!(answer, Err(eventuali::Error::Unavailable { .. })), "{answer:?}");
                        (batch, answer)
                    })
                })
                .collect();
            for appending in appending {
                let (batch, answer) = appending.join().expect("it ended");
                println!("{}", answer.as_ref().err().map(ToString::to_string).unwrap_or_default());
                ledger.note(&batch, answer);
            }
        });
        let took = start.elapsed();
        assert!(took < Duration::from_secs(40), "{took:?}");
        let error = store.head().wait().expect_err("there is no server");
        assert!(matches!(error, eventuali::Error::Unavailable { .. }) && error.to_string().contains("refused"), "{error}");
        server.control("start");
        assert_eq!(store.head().wait().expect("the server is back").0, 1, "nothing was stored");
        assert_usable(&store);
    });
}
