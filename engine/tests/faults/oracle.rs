//! What a store has promised, and whether it keeps it.

use std::collections::HashMap;

use eventuali::{AppendBatch, Durability, Error, Event, EventStore, LogStore, Receipt, Result};

use crate::arrange::{is_intact, read_all};

/// What is known of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Under way, or its outcome is unknown.
    Unknown,
    /// Acknowledged: its last event has this position.
    Acknowledged(u64),
    /// Never stored, or lost where that was allowed: it must not come back unless it is appended again.
    Gone,
}

struct Sent {
    batch: AppendBatch,
    fate: Fate,
    /// What it was before it was appended the last time: a refusal changes nothing.
    before: Fate,
}

/// How the last process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Killed,
    PowerCut,
}

/// Everything that was sent to a store, and what it answered.
pub(crate) struct Oracle {
    durability: Durability,
    sent: Vec<Sent>,
    /// Up to here everything must survive the end of the process,
    survives_kill: u64,
    /// and up to here a power cut.
    survives_power_cut: u64,
    /// Whether acknowledgements count, or only what readers have seen.
    believes_answers: bool,
}

type Verdict<T> = Result<T, String>;

macro_rules! require {
    ($holds:expr, $($reason:tt)*) => {
        if !$holds {
            return Err(format!($($reason)*));
        }
    };
}

impl Oracle {
    pub(crate) fn new(durability: Durability) -> Self {
        Self { durability, sent: Vec::new(), survives_kill: 0, survives_power_cut: 0, believes_answers: true }
    }

    /// One that goes by what readers have seen alone.
    pub(crate) fn of_readers(durability: Durability) -> Self {
        Self { believes_answers: false, ..Self::new(durability) }
    }

    /// Notes a batch that is about to be appended; its number.
    pub(crate) fn send(&mut self, batch: AppendBatch) -> usize {
        self.sent.push(Sent { batch, fate: Fate::Unknown, before: Fate::Gone });
        self.sent.len() - 1
    }

    /// The numbers and batches whose outcome is unknown, or that were lost where that was allowed.
    pub(crate) fn unsettled(&self) -> Vec<(usize, AppendBatch)> {
        let unsettled = |sent: &&(usize, &Sent)| !matches!(sent.1.fate, Fate::Acknowledged(_));
        self.sent.iter().enumerate().filter(|sent| unsettled(&sent)).map(|(number, sent)| (number, sent.batch.clone())).collect()
    }

    /// Notes that a batch is about to be appended again.
    pub(crate) fn resend(&mut self, number: usize) {
        let sent = &mut self.sent[number];
        sent.before = std::mem::replace(&mut sent.fate, Fate::Unknown);
    }

    /// Notes an answer; whether the store goes on taking appends.
    pub(crate) fn answer(&mut self, number: usize, answer: &Result<Vec<Receipt>>) -> Verdict<bool> {
        let Sent { fate, before, .. } = &mut self.sent[number];
        match answer {
            Ok(receipts) => {
                if let (true, Some(receipt)) = (self.believes_answers, receipts.last()) {
                    *fate = Fate::Acknowledged(receipt.position.0);
                }
                Ok(true)
            }
            // What an append rests on cannot be read: then nothing of it is written.
            Err(Error::StorageFull { .. } | Error::Io { .. }) => {
                *fate = *before;
                Ok(true)
            }
            Err(Error::Poisoned { .. }) => {
                *fate = *before;
                Ok(false)
            }
            Err(Error::OutcomeUnknown { .. }) => Ok(false),
            Err(error) => Err(format!("an append ended with {error:?}")),
        }
    }

    /// Notes what a process that is about to end has shown to readers.
    pub(crate) fn note_what_is_seen(&mut self, store: &LogStore) {
        let head = store.head().wait().map_or(0, |position| position.0);
        let durable = store.durable_position().wait().map_or(0, |position| position.0);
        self.survives_kill = self.survives_kill.max(head);
        self.survives_power_cut = self.survives_power_cut.max(if self.durability == Durability::Sync { head } else { durable });
    }

    /// Judges a store that has been opened again; `false` if it cannot be read. From then on everything in it is promised to stay.
    pub(crate) fn judge(&mut self, end: End, store: &LogStore) -> Verdict<bool> {
        match read_all(store) {
            Ok(events) => self.judge_events(end, &events).map(|()| true),
            // The power is off again, or the disk fails.
            Err(Error::Io { .. }) => Ok(false),
            Err(error) => Err(format!("reading a store that opened: {error}")),
        }
    }

    fn judge_events(&mut self, end: End, events: &[Event]) -> Verdict<()> {
        let head = events.len() as u64;
        let floor = if end == End::Killed { self.survives_kill } else { self.survives_power_cut };
        require!(head >= floor, "everything up to {floor} was promised to stay, but only {head} events are there");
        Self::require_order(events)?;
        let places = self.places_of_batches(events)?;
        for (number, sent) in self.sent.iter_mut().enumerate() {
            let place = places.get(&number).copied();
            match (sent.fate, place) {
                (Fate::Acknowledged(position), Some(found)) => {
                    require!(position == found, "batch {number} was acknowledged at position {position} and is at {found}");
                }
                (Fate::Acknowledged(position), None) => {
                    let may_be_lost = end == End::PowerCut && self.durability != Durability::Sync && position > head;
                    require!(may_be_lost, "batch {number}, acknowledged at position {position}, is not there; the head is {head}");
                    sent.fate = Fate::Gone;
                }
                (Fate::Unknown, Some(found)) => sent.fate = Fate::Acknowledged(found),
                (Fate::Unknown, None) => sent.fate = Fate::Gone,
                (Fate::Gone, None) => {}
                (Fate::Gone, Some(found)) => return Err(format!("batch {number} was gone for good and is at position {found}")),
            }
        }
        // What was published when the store was opened is durable in every mode.
        (self.survives_kill, self.survives_power_cut) = (head, head);
        Ok(())
    }

    /// Positions without a gap, versions without a gap, payloads as they were sent.
    fn require_order(events: &[Event]) -> Verdict<()> {
        let mut versions: HashMap<&str, u64> = HashMap::new();
        for (event, position) in events.iter().zip(1..) {
            let version = versions.entry(event.aggregate_id()).or_default();
            *version += 1;
            require!(event.position().0 == position, "position {position} is missing");
            require!(event.version().0 == *version, "version {version} of {:?} is missing", event.aggregate_id());
            require!(is_intact(event), "the event at position {position} is not what was sent");
        }
        Ok(())
    }

    /// Where each batch's last event is; an error if one is there in part, twice, or was never sent.
    fn places_of_batches(&self, events: &[Event]) -> Verdict<HashMap<usize, u64>> {
        let ids = |sent: &Sent| sent.batch.streams.iter().flat_map(|stream| &stream.events).map(|event| event.id).collect::<Vec<_>>();
        let batches: Vec<_> = self.sent.iter().map(ids).collect();
        let by_first: HashMap<_, _> = batches.iter().enumerate().map(|(number, ids)| (ids[0], number)).collect();
        let mut places = HashMap::new();
        let mut rest = events;
        while let Some(first) = rest.first() {
            let number = by_first.get(&first.id()).copied().ok_or_else(|| format!("{first:?} begins no batch that was sent"))?;
            let ids = &batches[number];
            let whole = rest.len() >= ids.len() && rest.iter().zip(ids).all(|(event, id)| event.id() == *id);
            require!(whole, "batch {number} is there in part, at position {}", first.position());
            let (these, others) = rest.split_at(ids.len());
            rest = others;
            let place = these[these.len() - 1].position().0;
            require!(places.insert(number, place).is_none(), "batch {number} is there twice");
        }
        Ok(places)
    }
}
