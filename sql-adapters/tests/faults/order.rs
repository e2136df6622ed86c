//! Order: whoever reads on behind the last position that was seen misses nothing and sees nothing twice.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{AggregateVersion, Error, EventStore, ExpectedVersion, Position, ReadAll};
use eventuali_sql::Config;
use uuid::Uuid;

use crate::arrange::{Opened, expecting, one, open, postgres};
use crate::ledger::everything;
use crate::roles::{Role, role, say, wait_for_the_test};
use crate::session::Session;
use crate::support::{new_table, postgres_url};

const DEADLINE: Duration = Duration::from_mins(2);
const POLLERS: usize = 4;
const TASKS: u64 = 8;
/// How many versions of one stream everybody fights for.
const CONTENDED: u64 = 20;

/// Reads on behind the last position until `last` is reached; how often it asked.
fn poll_until(store: &dyn EventStore, last: u64, asked: &AtomicU64, seen: &AtomicU64) {
    let mut ids = HashSet::new();
    let start = Instant::now();
    let mut position = 0;
    while position < last {
        assert!(start.elapsed() < DEADLINE, "position {last} is reached, not only {position}");
        for event in store.read_all(ReadAll::new().after(Position(position))) {
            let event = event.expect("it can be read");
            assert_eq!(event.position().0, position + 1, "nothing is missed, and nothing comes twice");
            assert!(ids.insert(event.id()), "{event:?} came twice");
            position += 1;
        }
        seen.store(position, Ordering::Relaxed);
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        thread::yield_now();
    }
}

#[test]
fn a_transaction_that_is_held_open_hides_nothing_from_those_who_poll() {
    const ROUNDS: u64 = 5;
    let table = new_table();
    let stores: Vec<Opened> = (0..POLLERS).map(|_| open(postgres(&table))).collect();
    let last = ROUNDS * (1 + TASKS);
    let (asked, seen): (Vec<AtomicU64>, Vec<AtomicU64>) = (0..POLLERS).map(|_| Default::default()).unzip();
    let mut by_hand = Session::new(&postgres_url());
    let mut watching = Session::new(&postgres_url());
    thread::scope(|scope| {
        let (asked, seen) = (&asked, &seen);
        for (number, store) in stores.iter().enumerate() {
            scope.spawn(move || poll_until(&**store, last, &asked[number], &seen[number]));
        }
        for round in 0..ROUNDS {
            let head = round * (1 + TASKS);
            let next = head + 1;
            by_hand.run(&format!(
                "BEGIN; SELECT head FROM {table}_state WHERE id = 1 FOR UPDATE; UPDATE {table}_state SET head = {next} WHERE id = 1;
                 INSERT INTO {table} (id, global_position, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data,
                                      metadata, timestamp, epoch)
                 VALUES (gen_random_uuid(), {next}, 'by-hand-{round}', 'Thing', 'Happened', 1, 1, '{{}}', '{{}}', now(), 1)"
            ));
            let appending: Vec<_> = (0..TASKS)
                .map(|task| {
                    let store = &stores[usize::try_from(task).expect("small") % POLLERS];
                    scope.spawn(move || store.append(one(&format!("stream-{task}"))).wait().expect("stored")[0].position.0)
                })
                .collect();
            let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{table}_state%'");
            wait_until("the appends wait for the transaction", || watching.number(&waiting) >= 1);
            let before: Vec<u64> = asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect();
            wait_until("everybody asks while the transaction is open", || {
                asked.iter().zip(&before).all(|(asked, before)| asked.load(Ordering::Relaxed) > before + 5)
            });
            assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == head), "nobody sees what is not committed");
            by_hand.run("COMMIT");
            let mut positions: Vec<u64> = appending.into_iter().map(|append| append.join().expect("it ended")).collect();
            positions.sort_unstable();
            assert_eq!(positions, (next + 1..=next + TASKS).collect::<Vec<_>>(), "behind what was held open");
        }
    });
    let asked: Vec<u64> = asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect();
    println!("{ROUNDS} transactions held open, {last} events; the pollers asked {asked:?} times: nothing missed, nothing twice");
}

/// The store that a role is to use.
fn place(text: &str) -> Config {
    match text.split_once(':').expect("a place") {
        ("postgres", table) => postgres(table),
        (_, path) => Config::sqlite(path).lock_timeout(Duration::from_mins(1)),
    }
}

/// Fights for the versions of one stream, and appends to streams of its own in between.
fn append_as(store: &Opened, name: &str, own: u64) -> Vec<u64> {
    let mut won = Vec::new();
    for number in 0..own.max(CONTENDED) {
        if number < CONTENDED {
            let expected = if number == 0 { ExpectedVersion::NoStream } else { ExpectedVersion::Exact(AggregateVersion(number)) };
            match store.append(expecting("contended", expected)).wait() {
                Ok(receipts) => won.push(receipts[0].version.0),
                Err(Error::Conflict { actual, .. }) => assert!(actual.0 > number, "a conflict names a later version"),
                Err(other) => panic!("stored or in conflict, not {other:?}"),
            }
        }
        if number < own {
            let receipts = store.append(one(name)).wait().expect("stored");
            assert_eq!(receipts[0].version.0, number + 1, "nobody else writes to it");
        }
    }
    won
}

fn play(part: &str) {
    let parts: Vec<&str> = part.split(' ').collect();
    let [part, text, number] = parts[..] else { panic!("three words, not {part:?}") };
    let number: u64 = number.parse().expect("a number");
    let store = open(place(text));
    say("open");
    wait_for_the_test();
    if part == "poll" {
        let asked = AtomicU64::new(0);
        poll_until(&*store, number, &asked, &AtomicU64::new(0));
        return say(&format!("asked {}", asked.load(Ordering::Relaxed)));
    }
    let name = Uuid::new_v4();
    let store = &store;
    thread::scope(|scope| {
        let tasks: Vec<_> = (0..TASKS).map(|task| scope.spawn(move || append_as(store, &format!("{name}-{task}"), number))).collect();
        for won in tasks.into_iter().flat_map(|task| task.join().expect("it ended")) {
            say(&format!("won {won}"));
        }
    });
    store.close().wait().expect("it closes");
    say("done");
}

#[track_caller]
fn many_processes_append_while_others_read(test: &str, place_name: &str, processes: u64, own: u64) {
    let last = CONTENDED + processes * TASKS * own;
    let store = open(place(place_name));
    let appending = (0..processes).map(|_| format!("append {place_name} {own}"));
    let polling = (0..POLLERS).map(|_| format!("poll {place_name} {last}"));
    let mut roles: Vec<Role> = appending.chain(polling).map(|part| Role::of(test, &part)).collect();
    for role in &mut roles {
        assert_eq!(role.hear().as_deref(), Some("open"));
    }
    roles.iter_mut().for_each(Role::let_go);
    let mut winners: HashMap<u64, u64> = HashMap::new();
    let mut asked = Vec::new();
    for role in &mut roles {
        loop {
            let words = role.hear().expect("it ends in order");
            match words.split_once(' ') {
                Some(("won", version)) => *winners.entry(version.parse().expect("a number")).or_default() += 1,
                Some(("asked", times)) => break asked.push(times.to_owned()),
                _ => break assert_eq!(words, "done"),
            }
        }
    }
    let expected: HashMap<u64, u64> = (1..=CONTENDED).map(|version| (version, 1)).collect();
    assert_eq!(winners, expected, "each version has one winner");
    let stored = everything(&*store);
    assert_eq!(stored.iter().map(|event| event.position).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>(), "no gap");
    assert_eq!(stored.iter().map(|event| event.id).collect::<HashSet<_>>().len(), stored.len(), "nothing twice");
    println!("{processes} processes of {TASKS} tasks stored {last} events; the pollers asked {asked:?} times: nothing missed, nothing twice");
}

#[test]
fn readers_of_postgres_miss_nothing_while_eight_processes_append() {
    if let Some(part) = role() {
        return play(&part);
    }
    let test = "order::readers_of_postgres_miss_nothing_while_eight_processes_append";
    many_processes_append_while_others_read(test, &format!("postgres:{}", new_table()), 8, 50);
}

#[test]
fn readers_of_a_sqlite_file_miss_nothing_while_four_processes_append() {
    if let Some(part) = role() {
        return play(&part);
    }
    let test = "order::readers_of_a_sqlite_file_miss_nothing_while_four_processes_append";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.db");
    many_processes_append_while_others_read(test, &format!("sqlite:{}", path.display()), 4, 50);
}
