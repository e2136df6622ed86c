//! Whole lives of a store, drawn by chance: opened, appended to, interrupted, opened again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use eventuali::maintenance::fork_storage;
use eventuali::storage::{Failure, Fault, FaultyStorage, Mistake, OperationKind, Storage};
use eventuali::{AppendBatch, Completion, Durability, Error, Event, EventStore, LogStore, OpenOptions, Receipt, Result};
use uuid::Uuid;

use crate::arrange::{Chance, compressing, event, many, one, open_with, options, read_all};
use crate::oracle::{End, Oracle};

/// What is drawn in a run beside its seed.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a run, each with its own name")]
pub(crate) struct Plan {
    pub(crate) durability: Durability,
    pub(crate) mistake: Option<Mistake>,
    /// Whether operations fail beside the power.
    pub(crate) failures: bool,
    pub(crate) believes_answers: bool,
    /// Whether lives go on in forks of the store.
    pub(crate) forks: bool,
    /// Whether sealed segments are compressed meanwhile.
    pub(crate) compresses: bool,
}

impl Plan {
    pub(crate) fn of(durability: Durability) -> Self {
        Self { durability, mistake: None, failures: false, believes_answers: true, forks: false, compresses: false }
    }

    pub(crate) fn compressing(self) -> Self {
        Self { compresses: true, ..self }
    }

    fn options(self) -> OpenOptions {
        if self.compresses { compressing(options(self.durability)) } else { options(self.durability) }
    }

    pub(crate) fn with_failures(self) -> Self {
        Self { failures: true, ..self }
    }

    pub(crate) fn in_forks(self) -> Self {
        Self { forks: true, ..self }
    }
}

/// Runs the lives of one store; what promise was broken, if one was.
pub(crate) fn run(plan: Plan, seed: u64) -> Result<(), String> {
    let mut chance = Chance::new(seed);
    let mut oracle = if plan.believes_answers { Oracle::new(plan.durability) } else { Oracle::of_readers(plan.durability) };
    let mut storage = FaultyStorage::new(seed).directory("store");
    let mut parents = Vec::new();
    if let Some(mistake) = plan.mistake {
        storage.make(mistake);
    }
    let mut end = End::Killed;
    for _ in 0..2 + chance.below(3) {
        let stops_after = if chance.once_in(4) { chance.below(25) } else { chance.below(120) };
        storage.stop_at(storage.operations() + stops_after);
        if plan.failures {
            storage.inject(failure(&mut chance));
        }
        let next_end = if chance.once_in(3) { End::Killed } else { End::PowerCut };
        match open_with(&storage, plan.options()) {
            Ok(store) => {
                let judged = oracle.judge(end, &store)?;
                let store = if plan.forks && judged { go_on_in_a_fork(plan, store, &mut storage, &mut parents)? } else { Some(store) };
                if let Some(store) = store {
                    append_until_it_stops(&store, &mut oracle, &mut chance)?;
                    oracle.note_what_is_seen(&store);
                }
                storage = next(&storage, next_end);
                // What nobody could look at may have been lost by the end before, or by this one: the worse of the two counts.
                end = if judged { next_end } else { end.max(next_end) };
            }
            Err(Error::Io { .. } | Error::StorageFull { .. }) => {
                storage = next(&storage, next_end);
                end = end.max(next_end);
            }
            Err(error) => return Err(format!("the store did not open: {error}")),
        }
    }
    let store = open_with(&storage, plan.options()).map_err(|error| format!("with all faults gone, the store does not open: {error}"))?;
    oracle.judge(end, &store)?;
    let goes_on = append_one(&store, &mut oracle, one("last", 10))?;
    for Parent { directory, events } in parents {
        let store =
            open_with(&storage.directory(&directory), options(plan.durability)).map_err(|error| format!("{directory} does not open: {error}"))?;
        let read = read_all(&store).map_err(|error| format!("{directory} cannot be read: {error}"))?;
        if !read.iter().map(Event::id).eq(events) {
            return Err(format!("{directory} has other events than when it was forked"));
        }
    }
    if storage.shared_file_was_changed() {
        return Err("a file was changed that two stores share".to_owned());
    }
    if goes_on { Ok(()) } else { Err("with all faults gone, the store takes no append".to_owned()) }
}

/// Forks the store, and opens the fork in its place; if it cannot be forked, goes on in the store. What a parent held is noted.
fn go_on_in_a_fork(plan: Plan, store: LogStore, storage: &mut FaultyStorage, parents: &mut Vec<Parent>) -> Result<Option<LogStore>, String> {
    let Ok(events) = read_all(&store) else { return Ok(Some(store)) };
    let fork = storage.directory(&format!("fork-{}", storage.operations()));
    match fork_storage(&store, &fork, None) {
        Ok(_) => {}
        Err(Error::Io { .. } | Error::StorageFull { .. } | Error::OutcomeUnknown { .. } | Error::Poisoned { .. }) => return Ok(Some(store)),
        Err(error) => return Err(format!("forking ended with {error:?}")),
    }
    // It may fail; what is in the fork is on disk in the parent too.
    let _ = store.close().wait();
    match open_with(&fork, options(plan.durability)) {
        Ok(opened) => {
            let directory = storage.path().to_string_lossy().trim_start_matches("faulty:").to_owned();
            parents.push(Parent { directory, events: events.iter().map(Event::id).collect() });
            *storage = fork;
            Ok(Some(opened))
        }
        Err(Error::Io { .. } | Error::StorageFull { .. }) => Ok(None),
        Err(error) => Err(format!("a fork does not open: {error}")),
    }
}

/// A store that was forked, and what it held.
struct Parent {
    directory: String,
    events: Vec<Uuid>,
}

fn next(storage: &FaultyStorage, end: End) -> FaultyStorage {
    match end {
        End::Killed => storage.process_kill(),
        End::PowerCut => storage.power_cut(),
    }
}

fn failure(chance: &mut Chance) -> Fault {
    let (kind, failure) = match chance.below(6) {
        0 | 1 => (OperationKind::Sync, Failure::Device),
        2 => (OperationKind::SyncDirectory, Failure::Device),
        3 => (OperationKind::Write, Failure::Device),
        4 => (OperationKind::Write, Failure::NoSpace),
        _ => (OperationKind::SecureSpace, Failure::NoSpace),
    };
    let fault = Fault::on(kind).after(chance.below(20)).with(failure);
    if chance.once_in(2) { fault.for_good() } else { fault }
}

/// A batch of any shape: one event or many, one stream or several, small or large enough to roll over.
fn batch(chance: &mut Chance) -> AppendBatch {
    let stream = |chance: &mut Chance| format!("stream-{}", chance.below(5));
    match chance.below(10) {
        0 => one(&stream(chance), 70_000),
        1..=3 => one(&stream(chance), 20_000),
        4 => many(&stream(chance), 2 + usize::try_from(chance.below(4)).unwrap_or(0), 300),
        5 => {
            let second = (0..2).map(|_| event(50)).collect();
            many("stream-0", 2, 100).and("stream-1", "Thing", eventuali::ExpectedVersion::Any, second)
        }
        _ => one(&stream(chance), 40),
    }
}

fn append_until_it_stops(store: &LogStore, oracle: &mut Oracle, chance: &mut Chance) -> Result<(), String> {
    for (number, batch) in oracle.unsettled() {
        if chance.once_in(2) {
            oracle.resend(number);
            if !oracle.answer(number, &store.append(batch).wait())? {
                return Ok(());
            }
        }
    }
    for _ in 0..chance.below(30) {
        let goes_on = match chance.below(8) {
            0 => store.sync().wait().is_ok(),
            1 => append_together(store, oracle, chance)?,
            _ => append_one(store, oracle, batch(chance))?,
        };
        if !goes_on {
            return refuses_from_now_on(store, oracle);
        }
    }
    if chance.once_in(3) {
        // It may fail: then it is as if it had not been tried.
        let _ = store.close().wait();
    }
    Ok(())
}

pub(crate) fn append_one(store: &LogStore, oracle: &mut Oracle, batch: AppendBatch) -> Result<bool, String> {
    let number = oracle.send(batch.clone());
    oracle.answer(number, &store.append(batch).wait())
}

/// Appends several batches at once, so that some share a group.
fn append_together(store: &LogStore, oracle: &mut Oracle, chance: &mut Chance) -> Result<bool, String> {
    let batches: Vec<_> = (0..2 + chance.below(4)).map(|_| batch(chance)).collect();
    let under_way: Vec<_> = batches.into_iter().map(|batch| (oracle.send(batch.clone()), begin(store.append(batch)))).collect();
    let mut goes_on = true;
    for (number, begun) in under_way {
        goes_on &= oracle.answer(number, &begun.wait())?;
    }
    Ok(goes_on)
}

/// An append that has been handed in.
pub(crate) enum Begun {
    Answered(Result<Vec<Receipt>>),
    UnderWay(Completion<Vec<Receipt>>),
}

impl Begun {
    pub(crate) fn wait(self) -> Result<Vec<Receipt>> {
        match self {
            Self::Answered(answer) => answer,
            Self::UnderWay(completion) => completion.wait(),
        }
    }
}

pub(crate) fn begin(mut completion: Completion<Vec<Receipt>>) -> Begun {
    match Pin::new(&mut completion).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Begun::Answered(answer),
        Poll::Pending => Begun::UnderWay(completion),
    }
}

/// After a failure nothing is acknowledged any more.
pub(crate) fn refuses_from_now_on(store: &LogStore, oracle: &mut Oracle) -> Result<(), String> {
    for _ in 0..2 {
        let batch = one("refused", 10);
        let number = oracle.send(batch.clone());
        let answer = store.append(batch).wait();
        if !matches!(answer, Err(Error::Poisoned { .. })) {
            return Err(format!("after a failure an append ended with {answer:?}"));
        }
        oracle.answer(number, &answer)?;
    }
    Ok(())
}
