//! Saving aggregates.

use std::collections::HashMap;
use std::sync::Arc;

use eventuali::{AppendBatch, Completion, Error, EventMetadata, Position, Receipt, StreamAppend};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use super::arguments::each;
use super::{Handle, PyReceipt};
use crate::aggregate::{Companions, PyAggregate, core_of};
use crate::bridge::{self, Effort, Job, LARGE_BYTES, Step, Waiter, configuration};

/// What it costs to append so much.
fn effort(handle: &Handle, streams: &[StreamAppend]) -> Effort {
    let bytes: usize = streams.iter().flat_map(|stream| &stream.events).map(|event| event.data.as_bytes().len() + 64).sum();
    Effort { large: bytes > LARGE_BYTES, disk: handle.waits() }
}

/// An append under way.
pub(super) struct Sent {
    pub(super) asked: Completion<Vec<Receipt>>,
    pub(super) effort: Effort,
}

impl Sent {
    pub(super) fn new(handle: &Handle, streams: Vec<StreamAppend>) -> Self {
        let effort = effort(handle, &streams);
        Self { asked: handle.store().append(AppendBatch { tenant: String::new(), streams }), effort }
    }
}

/// Saves aggregates, all of them in one append.
///
/// What is in doubt is resolved first, by sending exactly that append again; what was applied since goes in a round of its own.
pub(super) struct Save {
    handle: Arc<Handle>,
    metadata: Arc<EventMetadata>,
    members: Vec<Member>,
    /// Where each is among the members, if there may be several.
    places: HashMap<usize, usize>,
    /// Answer with a list, however many members there are.
    list: bool,
    round: Option<Round>,
    /// The pending events were sent: there is no further round.
    last: bool,
    /// Where the log ends, which is part of the answer for members that had nothing to save.
    head: Option<Completion<Position>>,
}

struct Member {
    aggregate: Py<PyAggregate>,
    /// What was acknowledged so far.
    receipt: Option<Receipt>,
}

/// One append and who takes part in it.
struct Round {
    sent: Sent,
    cores: Vec<Py<PyAggregate>>,
    /// It was sent before, and what became of it is not known.
    again: bool,
}

impl Save {
    pub(super) fn one(handle: &Arc<Handle>, aggregate: &Bound<'_, PyAny>, metadata: Arc<EventMetadata>) -> PyResult<Self> {
        Ok(Self::of(handle, vec![Member::new(core_of(aggregate)?)], HashMap::new(), metadata, false))
    }

    pub(super) fn all(handle: &Arc<Handle>, aggregates: &Bound<'_, PyAny>, metadata: Arc<EventMetadata>) -> PyResult<Self> {
        let (mut members, mut places) = (Vec::new(), HashMap::new());
        for aggregate in aggregates_of(aggregates)? {
            let aggregate = aggregate?;
            let core = core_of(&aggregate)?;
            if places.insert(core.as_ptr().addr(), members.len()).is_some() {
                return Err(configuration(aggregates.py(), &format!("save_all was given {} twice", aggregate.repr()?)));
            }
            members.push(Member::new(core));
        }
        Ok(Self::of(handle, members, places, metadata, true))
    }

    fn of(handle: &Arc<Handle>, members: Vec<Member>, places: HashMap<usize, usize>, metadata: Arc<EventMetadata>, list: bool) -> Self {
        Self { handle: Arc::clone(handle), metadata, members, places, list, round: None, last: false, head: None }
    }

    /// The next append, if there is anything to send.
    fn next_round(&mut self, py: Python<'_>) -> PyResult<Option<Round>> {
        let in_doubt = self.members.iter().map(|member| &member.aggregate).find(|aggregate| aggregate.get().in_doubt());
        let again = in_doubt.is_some();
        let companions = in_doubt.and_then(|aggregate| aggregate.get().companions(py));
        let begin = |core: &Py<PyAggregate>| core.get().begin_save(py, &self.metadata).map(|stream| (core.clone_ref(py), stream));
        let (cores, streams): (Vec<_>, Vec<_>) = match (&companions, in_doubt) {
            (Some(companions), _) => companions.iter().filter_map(begin).unzip(),
            (None, Some(alone)) => begin(alone).into_iter().unzip(),
            (None, None) => self.members.iter().filter_map(|member| begin(&member.aggregate)).unzip(),
        };
        self.last = !again;
        if streams.is_empty() {
            return Ok(None);
        }
        if cores.len() > 1 && !again {
            let companions = Companions::new(py, &cores)?;
            for core in &cores {
                core.get().set_companions(py, &companions);
            }
        }
        Ok(Some(Round { sent: Sent::new(&self.handle, streams), cores, again }))
    }

    /// Tells those who took part.
    fn acknowledged(&mut self, py: Python<'_>, cores: &[Py<PyAggregate>], receipts: Vec<Receipt>) {
        for (core, mut receipt) in cores.iter().zip(receipts) {
            core.get().saved(py, &receipt);
            let place = if self.list { self.places.get(&core.as_ptr().addr()).copied() } else { Some(0) };
            if let Some(member) = place.and_then(|place| self.members.get_mut(place)).filter(|member| member.aggregate.is(core)) {
                receipt.events += member.receipt.as_ref().map_or(0, |before| before.events);
                member.receipt = Some(receipt);
            }
        }
    }

    fn answer(&mut self, py: Python<'_>, head: Position) -> PyResult<Py<PyAny>> {
        let durability = self.handle.durability();
        let receipts = self.members.iter_mut().map(|member| {
            let core = member.aggregate.get();
            let nothing = || Receipt { aggregate_id: core.id().to_owned(), position: head, version: core.version(), events: 0, durability };
            Py::new(py, PyReceipt(member.receipt.take().unwrap_or_else(nothing)))
        });
        one_or_list(py, receipts.collect::<PyResult<Vec<_>>>()?, self.list)
    }
}

impl Member {
    fn new(aggregate: Bound<'_, PyAggregate>) -> Self {
        Self { aggregate: aggregate.unbind(), receipt: None }
    }
}

/// Tells those who took part that their events were not stored, if that is certain.
fn refused(py: Python<'_>, round: &Round, error: &Error) -> PyErr {
    // What was sent before may be stored, whatever prevents sending it now: only the log's own verdict on it counts.
    let certain = match error {
        Error::OutcomeUnknown { .. } => false,
        Error::Conflict { .. } | Error::AggregateType { .. } | Error::EventIdConflict { .. } => true,
        _ => !round.again,
    };
    if certain {
        for core in &round.cores {
            core.get().not_saved();
        }
    }
    bridge::raise(py, error)
}

pub(super) fn one_or_list(py: Python<'_>, mut receipts: Vec<Py<PyReceipt>>, list: bool) -> PyResult<Py<PyAny>> {
    match if list { None } else { receipts.pop() } {
        Some(receipt) => Ok(receipt.into_any()),
        None => PyList::new(py, receipts).map(|list| list.into_any().unbind()),
    }
}

impl Job for Save {
    fn waits(&self) -> bool {
        self.handle.waits()
    }

    fn step(&mut self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Step> {
        loop {
            if let Some(head) = &mut self.head {
                return match waiter.answer(py, head, Effort::SHORT)? {
                    None => Ok(Step::Wait),
                    Some(Ok(head)) => self.answer(py, head).map(Step::Done),
                    Some(Err(error)) => Err(bridge::raise(py, &error)),
                };
            }
            if self.round.is_none() && !self.last {
                self.round = self.next_round(py)?;
            }
            if let Some(mut round) = self.round.take() {
                let Some(answer) = waiter.answer(py, &mut round.sent.asked, round.sent.effort)? else {
                    self.round = Some(round);
                    return Ok(Step::Wait);
                };
                match answer {
                    Ok(receipts) => self.acknowledged(py, &round.cores, receipts),
                    Err(error) => return Err(refused(py, &round, &error)),
                }
            } else if self.members.iter().any(|member| member.receipt.is_none()) {
                self.head = Some(self.handle.store().head());
            } else {
                return self.answer(py, Position::START).map(Step::Done);
            }
        }
    }
}

/// Goes through the aggregates to be saved.
fn aggregates_of<'py>(aggregates: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyIterator>> {
    if core_of(aggregates).is_ok() {
        return Err(PyTypeError::new_err("save_all takes a list of aggregates; save takes one"));
    }
    each("aggregates", "aggregates", aggregates)
}
