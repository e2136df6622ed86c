//! A scavenge that is interrupted or fails at any operation loses nothing and leaves nothing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use eventuali::maintenance::{ScavengeReport, scavenge, verify_storage};
use eventuali::storage::{Failure, Fault, FaultyStorage};
use eventuali::{AppendBatch, Error, Event, EventStore, ExpectedVersion, LogStore, ReadAll, Result, Retention};

use crate::arrange::{Chance, event, is_intact, one, open, rounds};
use crate::files::{Files, holding};

fn on(_: &eventuali::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn everything(store: &LogStore) -> Result<Vec<Event>> {
    store.read_all(ReadAll::new().include_system()).collect()
}

/// The files of a store of several segments with something to be taken out of most of them, and what can be read.
fn to_be_scavenged() -> (Files, Vec<Event>) {
    let storage = FaultyStorage::new(0);
    let store = open(&storage).expect("created");
    for round in 0..10 {
        for aggregate_id in ["gone", "few", "left"] {
            store.append(one(aggregate_id, 5000 + 700 * round)).wait().expect("stored");
        }
    }
    store.delete("gone".into(), ExpectedVersion::Any).wait().expect("deleted");
    store.set_retention("few".into(), Retention::new().max_count(3)).wait().expect("limited");
    store.append(AppendBatch::one("gone", "Thing", ExpectedVersion::NoStream, vec![event(300)])).wait().expect("stored");
    let live = everything(&store).expect("readable");
    assert_eq!(live.len(), 10 + 3 + 1 + 2);
    store.close().wait().expect("closed");
    (storage.files(), live)
}

/// Opens the store and scavenges it, with an append in the middle of it.
fn script(storage: &FaultyStorage) -> Result<ScavengeReport> {
    let store = open(storage)?;
    let mut appended = false;
    let report = scavenge(&store, |_| {
        if !std::mem::replace(&mut appended, true) {
            // It may fail; what was acknowledged is looked for all the same by its own tests.
            let _ = store.append(one("meanwhile", 40)).wait();
        }
        ControlFlow::Continue(())
    });
    let _ = store.close().wait();
    report
}

/// Asserts that nothing was lost, and that another scavenge takes out what is left and leaves no file that nothing names.
fn judge(what: &str, storage: &FaultyStorage, live: &[Event]) {
    let store = open(storage).unwrap_or_else(|error| panic!("{what}: {error}"));
    let read = everything(&store).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (before, meanwhile): (Vec<Event>, Vec<Event>) = read.into_iter().partition(|event| event.aggregate_id() != "meanwhile");
    assert!(before == live, "{what}: other events are there");
    assert!(meanwhile.len() <= 1 && meanwhile.iter().all(is_intact), "{what}");
    let report = scavenge(&store, on).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(report.complete);
    let again = scavenge(&store, on).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((again.events, again.segments), (0, 0), "{what}");
    store.append(one("last", 40)).wait().unwrap_or_else(|error| panic!("{what}: {error}"));
    store.close().wait().unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = verify_storage(storage, on).expect("read");
    assert!(found.is_sound(), "{what}: {:?}", found.damage);
    assert_eq!(found.removed, 17, "{what}");
    let files = storage.files();
    let sequences: Vec<&str> = files.keys().filter(|name| name.contains(".seg")).map(|name| &name[..9]).collect();
    let distinct: BTreeSet<&&str> = sequences.iter().collect();
    assert!(distinct.len() == sequences.len() && !files.keys().any(|name| name.contains(".tmp")), "{what}: {:?}", files.keys());
}

/// All operations, or some of them where time is short.
fn chosen(operations: u64) -> impl Iterator<Item = u64> {
    (0..operations).step_by(if rounds(1) == 1 { 13 } else { 1 })
}

#[test]
fn a_scavenge_that_is_interrupted_at_any_operation_loses_nothing_and_goes_on() {
    let (files, live) = to_be_scavenged();
    let whole = holding(&files);
    let report = script(&whole).expect("it is scavenged");
    assert_eq!(report.events, 17);
    assert!(report.segments > 2, "{report:?}");
    let operations = whole.operations();
    judge("not interrupted", &whole.process_kill(), &live);
    let mut chance = Chance::new(7);
    for number in chosen(operations) {
        for round in 0..rounds(1) {
            let storage = FaultyStorage::holding(&files, number * 100 + round);
            storage.stop_at(number);
            let _ = script(&storage);
            let storage = if chance.once_in(3) { storage.process_kill() } else { storage.power_cut() };
            judge(&format!("stopped at operation {number}, round {round}"), &storage, &live);
        }
    }
}

#[test]
fn a_scavenge_of_which_any_operation_fails_loses_nothing_and_goes_on() {
    let (files, live) = to_be_scavenged();
    let whole = holding(&files);
    script(&whole).expect("it is scavenged");
    for number in chosen(whole.operations()) {
        for failure in [Failure::Device, Failure::NoSpace] {
            let once = Fault::next().after(number).with(failure);
            for (fault, how) in [(once.clone(), "once"), (once.for_good(), "for good")] {
                if rounds(1) == 1 && (number % 4) != u64::from(how == "once") + 2 * u64::from(failure == Failure::Device) {
                    continue;
                }
                let what = format!("operation {number} fails {how} with {failure:?}");
                let storage = FaultyStorage::holding(&files, number);
                storage.inject(fault);
                match script(&storage) {
                    Ok(_) | Err(Error::Io { .. } | Error::StorageFull { .. } | Error::Poisoned { .. } | Error::OutcomeUnknown { .. }) => {}
                    Err(error) => panic!("{what}: {error:?}"),
                }
                judge(&what, &if number % 2 == 0 { storage.process_kill() } else { storage.power_cut() }, &live);
            }
        }
    }
}
