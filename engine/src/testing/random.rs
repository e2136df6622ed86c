//! Random operations, each answered as the naive model answers it.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use uuid::Uuid;

use super::arrange::{Subject, event};
use super::{Backend, Model};
use crate::error::{Error, Result};
use crate::event::{Event, EventData, NewEvent, StreamKey, Tag, Timestamp};
use crate::retention::Retention;
use crate::store::{AppendBatch, ReadAll, ReadStream, Receipt, StreamAppend};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// One operation; everything that depends on what came before is an index into it.
#[derive(Debug, Clone)]
enum Step {
    Append(AppendBatch, Vec<IdPlan>),
    Repeat(Index),
    Read(ReadStream),
    ReadAll(ReadAll),
    Describe(&'static str, &'static str),
    Delete(&'static str, &'static str, ExpectedVersion),
    Limit(&'static str, &'static str, Retention),
    Reopen,
    /// Whatever the backend does with its files while the store is open.
    Tidy,
}

/// Where an event's id comes from.
#[derive(Debug, Clone)]
enum IdPlan {
    TimeOrdered,
    Random(u128),
    Known(Index),
}

const TENANTS: [&str; 2] = ["", "acme"];
const AGGREGATES: [&str; 4] = ["a", "b", "../c", "🦀"];
const EVENT_TYPES: [&str; 3] = ["Opened", "Changed", "Closed"];
const AGGREGATE_TYPES: [&str; 2] = ["Account", "Basket"];

fn expected_version() -> impl Strategy<Value = ExpectedVersion> {
    prop_oneof![
        4 => Just(ExpectedVersion::Any),
        1 => Just(ExpectedVersion::NoStream),
        1 => Just(ExpectedVersion::Exists),
        3 => (0..6_u64).prop_map(|version| ExpectedVersion::Exact(AggregateVersion(version))),
    ]
}

fn new_event() -> impl Strategy<Value = NewEvent> {
    let timestamp = proptest::option::weighted(0.3, any::<i64>().prop_map(Timestamp));
    let tags = proptest::collection::vec(select(&EVENT_TYPES[..]).prop_map(|tag| Tag(tag.to_owned())), 0..3);
    // Now and then a large one, so that files fill up.
    let padding = proptest::option::weighted(0.1, 0..30_000_usize);
    (select(&EVENT_TYPES[..]), timestamp, tags, padding).prop_map(|(event_type, timestamp, tags, padding)| {
        let small = event(event_type);
        let data = padding.map_or(small.data, |bytes| EventData::Protobuf([small.id.as_bytes().to_vec(), vec![0xa5; bytes]].concat()));
        NewEvent { data, tags, timestamp, ..event(event_type) }
    })
}

fn stream_append() -> impl Strategy<Value = StreamAppend> {
    // An aggregate mostly keeps its type; now and then somebody is mistaken.
    let aggregate = (0..AGGREGATES.len(), proptest::bool::weighted(0.05));
    (aggregate, expected_version(), proptest::collection::vec(new_event(), 0..4)).prop_map(|((at, mistaken), expected, events)| StreamAppend {
        aggregate_id: AGGREGATES[at].to_owned(),
        aggregate_type: AGGREGATE_TYPES[(at + usize::from(mistaken)) % 2].to_owned(),
        expected,
        events,
    })
}

fn append() -> impl Strategy<Value = Step> {
    let id = prop_oneof![12 => Just(IdPlan::TimeOrdered), 6 => any::<u128>().prop_map(IdPlan::Random), 1 => any::<Index>().prop_map(IdPlan::Known)];
    let batch = (select(&TENANTS[..]), proptest::collection::vec(stream_append(), 1..4))
        .prop_map(|(tenant, streams)| AppendBatch { tenant: tenant.to_owned(), streams });
    (batch, proptest::collection::vec(id, 12)).prop_map(|(batch, ids)| Step::Append(batch, ids))
}

fn bound() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 4 => (0..12_u64).prop_map(Some), 2 => (0..80_u64).prop_map(Some), 1 => Just(Some(u64::MAX))]
}

fn read() -> impl Strategy<Value = Step> {
    (select(&TENANTS[..]), select(&AGGREGATES[..]), bound(), bound(), bound(), any::<bool>()).prop_map(
        |(tenant, aggregate_id, after, before, limit, backwards)| {
            Step::Read(ReadStream {
                tenant: tenant.to_owned(),
                aggregate_id: aggregate_id.to_owned(),
                after: after.map(AggregateVersion),
                before: before.map(AggregateVersion),
                limit,
                backwards,
            })
        },
    )
}

fn names(among: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![9 => select(among), 1 => Just("Unknown")].prop_map(str::to_owned);
    prop_oneof![1 => Just(Vec::new()), 1 => proptest::collection::vec(name, 0..3)]
}

fn read_all() -> impl Strategy<Value = Step> {
    (bound(), bound(), bound(), any::<bool>(), names(&EVENT_TYPES), names(&AGGREGATE_TYPES), proptest::bool::weighted(0.2)).prop_map(
        |(after, before, limit, backwards, event_types, aggregate_types, include_system)| {
            let (after, before) = (after.map(Position), before.map(Position));
            Step::ReadAll(ReadAll { after, before, event_types, aggregate_types, limit, backwards, include_system, now: None })
        },
    )
}

fn delete() -> impl Strategy<Value = Step> {
    (select(&TENANTS[..]), select(&AGGREGATES[..]), expected_version())
        .prop_map(|(tenant, aggregate_id, expected)| Step::Delete(tenant, aggregate_id, expected))
}

fn limit() -> impl Strategy<Value = Step> {
    // Times are from long ago or far ahead, where they are given.
    let age = proptest::option::weighted(0.4, Just(Duration::from_hours(1)));
    let (count, version) = (proptest::option::weighted(0.5, 0..4_u64), proptest::option::weighted(0.3, (0..8_u64).prop_map(AggregateVersion)));
    (select(&TENANTS[..]), select(&AGGREGATES[..]), age, count, version).prop_map(|(tenant, aggregate_id, max_age, max_count, truncate_before)| {
        Step::Limit(tenant, aggregate_id, Retention { max_age, max_count, truncate_before })
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => append(),
        1 => any::<Index>().prop_map(Step::Repeat),
        3 => read(),
        3 => read_all(),
        1 => (select(&TENANTS[..]), select(&AGGREGATES[..])).prop_map(|(tenant, aggregate_id)| Step::Describe(tenant, aggregate_id)),
        1 => delete(),
        1 => limit(),
        1 => Just(Step::Reopen),
        1 => Just(Step::Tidy),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A payload that is shown in short.
#[derive(PartialEq)]
struct Payload(Vec<u8>);

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x?}… ({} bytes)", &self.0[..self.0.len().min(24)], self.0.len())
    }
}

/// What can be compared of a stored event: everything, but the time only where it was given.
fn known(subject: &Subject, event: &Event, given: &[Uuid]) -> impl PartialEq + std::fmt::Debug + use<> {
    let names = [event.tenant(), event.aggregate_id(), event.aggregate_type(), event.event_type()].map(str::to_owned);
    let timestamp = given.contains(&event.id()).then(|| event.timestamp());
    // The store gives its own events their ids, and what they say of several aggregates at once may be about any of them.
    let id = if event.event_type().starts_with('$') { Uuid::nil() } else { event.id() };
    let place = (event.position(), event.version(), id, timestamp);
    (place, names, Payload(subject.comparable(event)), event.tags().expect("the tags are readable"))
}

/// What can be compared of an answer to an append: which id a conflict of ids names is up to the store.
fn verdict(result: &Result<Vec<Receipt>>) -> Result<Vec<(String, Position, AggregateVersion, u32)>, String> {
    match result {
        Ok(receipts) => Ok(receipts.iter().map(|one| (one.aggregate_id.clone(), one.position, one.version, one.events)).collect()),
        Err(Error::EventIdConflict { .. }) => Err("a conflict of event ids".to_owned()),
        Err(error) => Err(format!("{error:?}")),
    }
}

fn verdict_of_one(result: Result<Receipt>) -> Result<Vec<(String, Position, AggregateVersion, u32)>, String> {
    verdict(&result.map(|receipt| vec![receipt]))
}

/// The store, the model, and what was appended so far.
struct Comparison {
    subject: Subject,
    model: Model,
    stored: Vec<AppendBatch>,
    ids: Vec<Uuid>,
    /// The ids of events whose time was given.
    given: Vec<Uuid>,
}

impl Comparison {
    fn append(&mut self, batch: &AppendBatch) -> Result<(), TestCaseError> {
        let mut events = batch.streams.iter().flat_map(|stream| &stream.events);
        if self.subject.forgets() && events.any(|event| self.model.leaves_out(event.id)) {
            return Ok(());
        }
        let expected = self.model.append(batch);
        prop_assert_eq!(verdict(&self.subject.try_append(batch)), verdict(&expected));
        if expected.is_ok() {
            let events = batch.streams.iter().flat_map(|stream| &stream.events);
            self.given.extend(events.filter(|event| event.timestamp.is_some()).map(|event| event.id));
            self.stored.push(batch.clone());
        }
        Ok(())
    }

    fn keeps(&self) -> bool {
        self.subject.store.capabilities().retention
    }

    fn give_ids(&mut self, mut batch: AppendBatch, ids: &[IdPlan]) -> AppendBatch {
        for (event, plan) in batch.streams.iter_mut().flat_map(|stream| &mut stream.events).zip(ids) {
            event.id = match plan {
                IdPlan::Known(index) if !self.ids.is_empty() => *index.get(&self.ids),
                IdPlan::Random(id) => Uuid::from_u128(*id),
                IdPlan::TimeOrdered | IdPlan::Known(_) => Uuid::now_v7(),
            };
            self.ids.push(event.id);
        }
        batch
    }

    fn compare_events(&self, read: &[Event], expected: &[Event]) -> Result<(), TestCaseError> {
        let known = |events: &[Event]| events.iter().map(|event| known(&self.subject, event, &self.given)).collect::<Vec<_>>();
        prop_assert_eq!(known(read), known(expected));
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(batch, ids) => {
                let batch = self.give_ids(batch, &ids);
                self.append(&batch)?;
            }
            Step::Repeat(index) if !self.stored.is_empty() => {
                let batch = index.get(&self.stored).clone();
                self.append(&batch)?;
            }
            Step::Read(query) => self.compare_events(&self.subject.read(query.clone()), &self.model.read(&query))?,
            Step::ReadAll(query) => self.compare_events(&self.subject.read_all(query.clone()), &self.model.read_all(&query))?,
            Step::Describe(tenant, aggregate_id) => {
                let key = StreamKey { tenant, aggregate_id };
                prop_assert_eq!(self.subject.info(key), self.model.stream(&key));
            }
            Step::Delete(tenant, aggregate_id, expected) if self.keeps() => {
                let key = StreamKey { tenant, aggregate_id };
                let (deleted, expected) = (self.subject.store.delete(key, expected).wait(), self.model.delete(&key, expected));
                prop_assert_eq!(verdict_of_one(deleted), verdict_of_one(expected));
            }
            Step::Limit(tenant, aggregate_id, retention) if self.keeps() => {
                let key = StreamKey { tenant, aggregate_id };
                let (limited, expected) = (self.subject.store.set_retention(key, retention).wait(), self.model.set_retention(&key, retention));
                prop_assert_eq!(verdict_of_one(limited), verdict_of_one(expected));
                prop_assert_eq!(self.subject.store.retention(key).wait().expect("known"), self.model.retention(&key));
            }
            Step::Reopen if self.subject.is_persistent() => self.subject.reopen(),
            Step::Tidy => self.subject.tidy(),
            Step::Repeat(_) | Step::Reopen | Step::Delete(..) | Step::Limit(..) => {}
        }
        prop_assert_eq!(self.subject.head(), self.model.head().0);
        Ok(())
    }
}

pub(super) fn random_operations_agree_with_the_model(backend: &dyn Backend) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let run = |steps: Vec<Step>| {
        let subject = Subject::new(backend);
        let mut comparison = Comparison { subject, model: Model::default(), stored: Vec::new(), ids: Vec::new(), given: Vec::new() };
        steps.into_iter().try_for_each(|step| comparison.take(step))?;
        comparison.take(Step::ReadAll(ReadAll::new()))?;
        comparison.subject.store.close().wait().map_err(|error| TestCaseError::fail(error.to_string()))
    };
    if let Err(failure) = runner.run(&steps(), run) {
        panic!("the store and the model differ: {failure}");
    }
}
