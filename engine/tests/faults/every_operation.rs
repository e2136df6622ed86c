//! Every operation of a scripted run fails, once and for good, in both ways.

use std::ops::Range;

use eventuali::storage::{Failure, Fault, FaultyStorage};
use eventuali::{Durability, Error, EventStore, OpenOptions};

use crate::arrange::{compressing, many, one, open, open_with, options, read_all, rounds};
use crate::oracle::{End, Oracle};
use crate::runs::{append_one, refuses_from_now_on};

/// Creates a store, appends, rolls over twice, closes, opens it again, appends. Goes on after what failed, as a user would.
fn script(storage: &FaultyStorage, options: &OpenOptions, oracle: &mut Oracle) -> Result<(), String> {
    for _ in 0..3 {
        let store = match open_with(storage, options.clone()) {
            Ok(store) => store,
            Err(Error::Io { .. } | Error::StorageFull { .. }) => continue,
            Err(error) => return Err(format!("the store did not open: {error}")),
        };
        oracle.judge(End::Killed, &store)?;
        for batch in [one("a", 40), many("b", 3, 100), one("a", 30_000), one("c", 30_000), one("d", 70_000), one("a", 40)] {
            if !append_one(&store, oracle, batch)? {
                refuses_from_now_on(&store, oracle)?;
                break;
            }
        }
        let head = store.head().wait().map_err(|error| error.to_string())?.0;
        match read_all(&store) {
            Ok(events) if events.len() as u64 == head => {}
            Ok(events) => return Err(format!("reading ends silently at {} of {head} events", events.len())),
            Err(Error::Io { .. }) => {}
            Err(error) => return Err(format!("a failing disk looks like {error}")),
        }
        oracle.note_what_is_seen(&store);
        // It may fail; then the next one opens what is there.
        let _ = store.close().wait();
    }
    Ok(())
}

fn survives(fault: &Fault, options: &OpenOptions, end: End, seed: u64) -> Result<(), String> {
    let storage = FaultyStorage::new(seed);
    let mut oracle = Oracle::new(Durability::Sync);
    storage.inject(fault.clone());
    script(&storage, options, &mut oracle)?;
    let storage = match end {
        End::Killed => storage.process_kill(),
        End::PowerCut => storage.power_cut(),
    };
    let store = open_with(&storage, options.clone()).map_err(|error| format!("with the fault gone, the store does not open: {error}"))?;
    oracle.judge(end, &store)?;
    if append_one(&store, &mut oracle, one("last", 10))? { Ok(()) } else { Err("the reopened store takes no append".to_owned()) }
}

fn operations_of_the_script(options: &OpenOptions) -> u64 {
    let storage = FaultyStorage::new(0);
    script(&storage, options, &mut Oracle::new(Durability::Sync)).expect("the script runs where nothing fails");
    storage.operations()
}

#[test]
fn no_operation_that_fails_breaks_a_promise() {
    let operations = operations_of_the_script(&options(Durability::Sync));
    assert!(operations > 100);
    none_breaks_a_promise(&options(Durability::Sync), 0..operations, 1);
}

#[test]
fn no_operation_that_fails_while_segments_are_compressed_breaks_a_promise() {
    let compressing = compressing(options(Durability::Sync));
    let operations = operations_of_the_script(&compressing);
    assert!(operations > operations_of_the_script(&options(Durability::Sync)) + 100);
    // Every ninth, where time is short: an odd number, so that both ends have their turn.
    none_breaks_a_promise(&compressing, 0..operations, if rounds(1) > 1 { 1 } else { 9 });
}

fn none_breaks_a_promise(options: &OpenOptions, operations: Range<u64>, step: usize) {
    for number in operations.step_by(step) {
        for failure in [Failure::Device, Failure::NoSpace] {
            let once = Fault::next().after(number).with(failure);
            for (fault, how) in [(once.clone(), "once"), (once.for_good(), "for good")] {
                // One half of them where time is short, the other ending at the operation's neighbours.
                let ends = [End::Killed, End::PowerCut].into_iter().zip(0..).filter(|(_, which)| rounds(1) > 1 || which % 2 == number % 2);
                for (end, _) in ends {
                    if let Err(broken) = survives(&fault, options, end, number) {
                        panic!("operation {number} fails {how} with {failure:?}, then {end:?}: {broken}");
                    }
                }
            }
        }
    }
}

#[test]
fn creation_that_is_interrupted_at_any_operation_leaves_a_store_that_opens() {
    let whole = FaultyStorage::new(0);
    let store = open(&whole).expect("created");
    let operations = whole.operations();
    drop(store);
    for number in 0..=operations {
        for seed in 0..30 {
            let storage = FaultyStorage::new(seed);
            storage.stop_at(number);
            let created = open(&storage);
            assert_eq!(created.is_ok(), number == operations, "operation {number}");
            let storage = if seed % 3 == 0 { storage.process_kill() } else { storage.power_cut() };
            let store = open(&storage).unwrap_or_else(|error| panic!("operation {number}, seed {seed}: {error}"));
            store.append(one("a", 10)).wait().expect("it takes appends");
            drop(created);
        }
    }
}
