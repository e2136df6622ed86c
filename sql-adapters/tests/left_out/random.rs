//! Random histories with deletions, limits and scavenging, moved at random points: every read of every target is the source's.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use eventuali::maintenance::Extent;
use eventuali::storage::MemoryStorage;
use eventuali::{AggregateVersion, Durability, Error, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, Retention, Timestamp};
use eventuali_sql::{Progress, Store, export, export_json_lines, import_json_lines};
use proptest::prelude::*;

use super::compared::{STREAMS, assert_alike, batch, key};
use super::targets::{KINDS, Target};

/// Segments are small, and events are large: a store soon has several.
const SEGMENT_BYTES: u64 = 64 << 10;

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        stream: usize,
        events: usize,
        large: bool,
        old: bool,
    },
    Delete {
        stream: usize,
    },
    Limit {
        stream: usize,
        max_count: Option<u64>,
        truncate_before: Option<u64>,
        max_age: bool,
    },
    Scavenge,
    /// To the target that goes on, and to a new one.
    Move {
        to: usize,
    },
    MoveToANewOne {
        to: usize,
    },
    Lines,
    Reopen {
        to: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS.len() - 1;
    prop_oneof![
        6 => (stream.clone(), 1..5_usize, any::<bool>(), any::<bool>())
            .prop_map(|(stream, events, large, old)| Step::Append { stream, events, large, old }),
        2 => stream.clone().prop_map(|stream| Step::Delete { stream }),
        2 => (stream, proptest::option::of(1..4_u64), proptest::option::of(1..12_u64), any::<bool>())
            .prop_map(|(stream, max_count, truncate_before, max_age)| Step::Limit { stream, max_count, truncate_before, max_age }),
        1 => Just(Step::Scavenge),
        4 => (0..8_usize).prop_map(|to| Step::Move { to }),
        1 => (0..8_usize).prop_map(|to| Step::MoveToANewOne { to }),
        1 => Just(Step::Lines),
        1 => (0..8_usize).prop_map(|to| Step::Reopen { to }),
    ]
}

fn source() -> LogStore {
    OpenOptions::new().durability(Durability::Memory).segment_bytes(SEGMENT_BYTES).open_storage(Arc::new(MemoryStorage::new())).expect("a store")
}

fn event(large: bool, old: bool) -> NewEvent {
    let now = Timestamp::now().0;
    // Nobody waits for an age to pass: it is years away in either direction.
    let timestamp = Some(Timestamp(if old { now - 1_000_000_000_000_000 } else { now }));
    let data = if large { EventData::Protobuf(vec![7; 12 << 10]) } else { EventData::json(&now).expect("JSON") };
    NewEvent { timestamp, ..NewEvent::new("Happened", data) }
}

fn play(steps: &[Step], kinds: &[&'static str]) {
    let source = source();
    let mut targets: Vec<Target> = kinds.iter().copied().map(Target::new).collect();
    for step in steps {
        match *step {
            Step::Append { stream, events, large, old } => {
                let events = (0..events).map(|_| event(large, old)).collect();
                source.append(batch(stream, ExpectedVersion::Any, events)).wait().expect("stored");
            }
            // It may not be there.
            Step::Delete { stream } => drop(source.delete(key(stream), ExpectedVersion::Any).wait()),
            Step::Limit { stream, max_count, truncate_before, max_age } => {
                let age = max_age.then_some(Duration::from_hours(24 * 365));
                let limits = Retention { max_count, truncate_before: truncate_before.map(AggregateVersion), max_age: age };
                drop(source.set_retention(key(stream), limits).wait());
            }
            Step::Scavenge => assert!(source.scavenge(Extent::Everything, on).expect("scavenged").complete),
            Step::Move { to } => {
                let at = to % targets.len();
                moved_or_refused(&source, &targets[at]);
            }
            Step::MoveToANewOne { to } => {
                let at = to % targets.len();
                targets[at] = Target::new(targets[at].kind);
                moved_or_refused(&source, &targets[at]);
            }
            Step::Lines => {
                let mut lines = Vec::new();
                export_json_lines(&source, &mut lines, on).expect("written");
                for kind in kinds {
                    let copy = Target::new(kind);
                    match import_json_lines(&mut &lines[..], &copy.store, on) {
                        // Lines do not tell whether other limits have taken their place since.
                        Err(Error::Unsupported { .. }) if !copy.honours_limits() => continue,
                        read => drop(read.expect("read")),
                    }
                    assert_alike(&source, copy.store.as_dyn());
                    let again = import_json_lines(&mut &lines[..], &copy.store, on).expect("read");
                    assert_eq!(again.events, 0, "{kind}");
                }
            }
            Step::Reopen { to } => {
                let at = to % targets.len();
                targets[at].reopen();
            }
        }
    }
    for target in &mut targets {
        if !target.honours_limits() {
            for stream in 0..STREAMS.len() {
                // It may not be there.
                drop(source.set_retention(key(stream), Retention::new()).wait());
            }
        }
        moved(&source, &target.store);
        target.check();
        target.reopen();
        assert_alike(&source, target.store.as_dyn());
        target.scavenge();
        assert_alike(&source, target.store.as_dyn());
        target.check();
        // A copy of the copy, and what each goes on with by itself.
        let copy = Target::new("embedded");
        moved(target.store.as_dyn(), &copy.store);
        for stream in 0..STREAMS.len() {
            let stored = vec![event(false, false), event(true, false)];
            let append = || batch(stream, ExpectedVersion::Any, stored.clone());
            let answers = [target.store.as_dyn(), copy.store.as_dyn()].map(|store| store.append(append()).wait().expect("stored"));
            let place = |answer: usize| (answers[answer][0].position, answers[answer][0].version);
            assert_eq!(place(0), place(1));
        }
        assert_alike(target.store.as_dyn(), copy.store.as_dyn());
    }
}

pub(crate) fn moved(source: &dyn EventStore, target: &Store) {
    let moved = export(source, target, on).expect("moved");
    assert!(moved.complete);
    assert_alike(source, target.as_dyn());
}

/// A database as target refuses limits that leave out more and more, as long as they count.
fn moved_or_refused(source: &LogStore, target: &Target) {
    match export(source, &target.store, on) {
        Err(Error::Unsupported { message }) if !target.honours_limits() => {
            let limited = |stream: usize| source.retention(key(stream)).wait().expect("known") != Retention::new();
            assert!(message.contains("limits") && (0..STREAMS.len()).any(limited), "{message}");
        }
        moved => {
            assert!(moved.expect("moved").complete);
            assert_alike(source, target.store.as_dyn());
        }
    }
}

fn cases() -> u32 {
    if std::env::var_os("EVENTUALI_SOAK").is_some() { 2000 } else { 12 }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn whatever_was_deleted_limited_and_scavenged_an_embedded_target_is_the_source(steps in proptest::collection::vec(any_step(), 1..40)) {
        play(&steps, &KINDS[..1]);
    }

    #[test]
    fn whatever_was_deleted_limited_and_scavenged_a_database_is_the_source(steps in proptest::collection::vec(any_step(), 1..40)) {
        play(&steps, &KINDS[1..]);
    }
}
