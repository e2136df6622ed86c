//! Concurrency: one winner for each version, one order for everybody.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::Backend;
use super::arrange::{Subject, THING, assert_conflict, drive, events, exact, positions, versions};
use crate::error::{Error, Result};
use crate::store::{AppendBatch, ReadAll, Receipt};
use crate::version::ExpectedVersion::{self, Any, NoStream};

const RIVALS: usize = 64;

fn race(expected: ExpectedVersion) -> AppendBatch {
    AppendBatch::one("a", THING, expected, events(1))
}

/// Asserts that one rival won a version, and that all others learned the true one.
#[track_caller]
fn assert_one_winner(results: Vec<Result<Vec<Receipt>>>, expected: ExpectedVersion, won: u64) {
    let mut winners = 0;
    for result in results {
        match result {
            Ok(receipts) => {
                assert_eq!(receipts[0].version.0, won);
                winners += 1;
            }
            Err(error) => assert_conflict(&error, "a", expected, won),
        }
    }
    assert_eq!(winners, 1, "exactly one rival wins version {won}");
}

#[track_caller]
fn race_threads(subject: &Subject, expected: ExpectedVersion, won: u64) {
    let start = Barrier::new(RIVALS);
    let results = thread::scope(|scope| {
        let rival = || {
            let batch = race(expected);
            start.wait();
            subject.try_append(&batch)
        };
        let rivals: Vec<_> = (0..RIVALS).map(|_| scope.spawn(rival)).collect();
        rivals.into_iter().map(|rival| rival.join().expect("no rival panics")).collect()
    });
    assert_one_winner(results, expected, won);
}

pub(super) fn one_of_64_threads_wins_each_version(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for version in 0..8 {
        race_threads(&subject, exact(version), version + 1);
    }
    assert_eq!((versions(&subject.stream("a")), subject.head()), ((1..=8).collect(), 8));
}

pub(super) fn one_of_64_creators_wins(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    race_threads(&subject, NoStream, 1);
    assert_eq!(subject.head(), 1);
}

pub(super) fn one_of_64_tasks_wins_each_version(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for version in 0..8 {
        let results = drive((0..RIVALS).map(|_| subject.store.append(race(exact(version)))));
        assert_one_winner(results, exact(version), version + 1);
    }
    assert_eq!((versions(&subject.stream("a")), subject.head()), ((1..=8).collect(), 8));
}

pub(super) fn who_lost_a_race_can_read_what_won_it(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let increment = |_| {
        let mut lost = 0;
        loop {
            let version = subject.version("a");
            match subject.try_append(&race(exact(version))) {
                Ok(_) => return lost,
                Err(error) => {
                    let Error::Conflict { actual, .. } = error else { panic!("expected a conflict, not {error:?}") };
                    assert!(actual.0 > version && subject.version("a") >= actual.0, "a conflict rests on events that can be read");
                    lost += 1;
                }
            }
        }
    };
    let lost: u64 = thread::scope(|scope| {
        let rivals: Vec<_> = (0..RIVALS).map(|rival| scope.spawn(move || increment(rival))).collect();
        rivals.into_iter().map(|rival| rival.join().expect("no rival panics")).sum()
    });
    assert_eq!(subject.head(), RIVALS as u64, "each stored one event, after {lost} lost races");
}

pub(super) fn concurrent_appenders_get_gapless_positions_in_the_order_of_their_streams(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let (writers, rounds) = (8, 40);
    let written: Vec<Vec<(AppendBatch, Vec<Receipt>)>> = thread::scope(|scope| {
        let write = |writer: usize| {
            let append = |round: usize| {
                let own = format!("own-{writer}");
                let batch = AppendBatch::one(own, THING, exact(round as u64 * 2), events(2)).and("shared", THING, Any, events(1 + round % 3));
                let receipts = subject.append(&batch);
                (batch, receipts)
            };
            (0..rounds).map(append).collect()
        };
        let writers: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        writers.into_iter().map(|writer| writer.join().expect("no writer panics")).collect()
    });
    let all = subject.all();
    assert_eq!(positions(&all), (1..=subject.head()).collect::<Vec<_>>());
    let shared = subject.stream("shared");
    assert_eq!(versions(&shared), (1..=shared.len() as u64).collect::<Vec<_>>());
    assert!(positions(&shared).is_sorted());
    for (batch, receipts) in written.iter().flatten() {
        let last = receipts[1].position.0;
        let appended: Vec<_> = batch.streams.iter().flat_map(|stream| &stream.events).map(|event| event.id).collect();
        let stored: Vec<_> = all.iter().filter(|event| event.position().0 <= last).rev().take(appended.len()).map(crate::Event::id).collect();
        assert!(appended.iter().eq(stored.iter().rev()), "a batch lies together, at the place its receipt names");
        assert_eq!(shared[usize::try_from(receipts[1].version.0 - 1).expect("small")].position().0, last);
    }
}

pub(super) fn concurrent_repetitions_of_one_append_store_it_once(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for (round, expected) in [Any, exact(3), Any, exact(9)].into_iter().enumerate() {
        let batch = AppendBatch::one("a", THING, expected, events(3));
        let start = Barrier::new(16);
        let answers: Vec<Vec<Receipt>> = thread::scope(|scope| {
            let repeat = || {
                start.wait();
                subject.append(&batch)
            };
            let repeaters: Vec<_> = (0..16).map(|_| scope.spawn(repeat)).collect();
            repeaters.into_iter().map(|repeater| repeater.join().expect("no repeater panics")).collect()
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(subject.head(), 3 * (round as u64 + 1));
        let tasks = drive((0..16).map(|_| subject.store.append(batch.clone())));
        assert!(tasks.into_iter().all(|answer| answer.is_ok_and(|answer| answer == answers[0])));
    }
}

pub(super) fn readers_see_whole_batches_while_writers_go_on(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..60 {
                subject.append(&AppendBatch::one("a", THING, Any, events(2)).and("b", THING, Any, events(1)));
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut seen = 0;
        while !done.load(Ordering::SeqCst) {
            let head = subject.head();
            let read = positions(&subject.all());
            assert!(head >= seen && read.len() as u64 >= head, "what was seen once is seen ever after");
            assert_eq!(head % 3, 0, "the head stands between two batches");
            assert_eq!(read, (1..=read.len() as u64).collect::<Vec<_>>());
            assert_eq!(read.len() % 3, 0, "a batch is seen whole");
            let backwards = positions(&subject.read_all(ReadAll::new().backwards()));
            assert_eq!(backwards.len() % 3, 0, "a batch is seen whole");
            seen = backwards.len() as u64;
        }
    });
    assert_eq!(subject.head(), 180);
}
