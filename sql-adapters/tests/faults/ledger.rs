//! What appenders were told, held against what is stored.

use std::collections::{HashMap, HashSet};

use eventuali::{AppendBatch, Error, EventStore, ReadAll, Receipt, Result};
use uuid::Uuid;

/// What the caller of an append of one event was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Stored { position: u64, version: u64 },
    Unknown,
    NotStored(String),
}

/// An event as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: Uuid,
    pub(crate) position: u64,
    pub(crate) stream: String,
    pub(crate) version: u64,
}

/// Everything that appenders were told, by event id.
#[derive(Debug, Default)]
pub(crate) struct Ledger(HashMap<Uuid, Told>);

impl Ledger {
    /// Notes the answer to an append of one event.
    pub(crate) fn note(&mut self, batch: &AppendBatch, answer: Result<Vec<Receipt>>) {
        let told = match answer {
            Ok(receipts) => Told::Stored { position: receipts[0].position.0, version: receipts[0].version.0 },
            Err(Error::OutcomeUnknown { .. }) => Told::Unknown,
            Err(error) => Told::NotStored(error.to_string()),
        };
        self.tell(batch.streams[0].events[0].id, told);
    }

    pub(crate) fn tell(&mut self, id: Uuid, told: Told) {
        self.0.insert(id, told);
    }

    /// Appends and notes the answer.
    pub(crate) fn append(&mut self, store: &dyn EventStore, batch: &AppendBatch) {
        let answer = store.append(batch.clone()).wait();
        self.note(batch, answer);
    }

    pub(crate) fn take_in(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many appends were answered with receipts, were left in doubt, and were refused.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&Told) -> bool| self.0.values().filter(|told| wanted(told)).count();
        (count(|told| matches!(told, Told::Stored { .. })), count(|told| *told == Told::Unknown), count(|told| matches!(told, Told::NotStored(_))))
    }

    /// What of the answers, or of the order of events, does not hold.
    pub(crate) fn lies(&self, stored: &[Stored]) -> Vec<String> {
        let mut lies = Vec::new();
        let mut seen = HashSet::new();
        let mut versions: HashMap<&str, u64> = HashMap::new();
        for (event, position) in stored.iter().zip(1..) {
            let version = versions.entry(&event.stream).or_default();
            *version += 1;
            if (event.position, event.version) != (position, *version) {
                lies.push(format!("{event:?} stands where position {position} and version {version} belong"));
            }
            if !seen.insert(event.id) {
                lies.push(format!("{event:?} is stored twice"));
            }
            match self.0.get(&event.id) {
                None => lies.push(format!("{event:?} was never appended")),
                Some(Told::NotStored(error)) => lies.push(format!("{event:?} is stored, but was refused: {error}")),
                Some(Told::Stored { position, version }) if (*position, *version) != (event.position, event.version) => {
                    lies.push(format!("{event:?} was said to be at position {position}, version {version}"));
                }
                Some(Told::Stored { .. } | Told::Unknown) => {}
            }
        }
        for (id, told) in self.0.iter().filter(|(id, told)| matches!(told, Told::Stored { .. }) && !seen.contains(*id)) {
            lies.push(format!("{id} was acknowledged ({told:?}), but is not there"));
        }
        lies
    }

    #[track_caller]
    pub(crate) fn assert_true_of(&self, store: &dyn EventStore) {
        let lies = self.lies(&everything(store));
        assert!(lies.is_empty(), "{} lies: {}", lies.len(), lies.join("\n"));
    }
}

#[track_caller]
pub(crate) fn everything(store: &dyn EventStore) -> Vec<Stored> {
    let event = |event: eventuali::Event| Stored {
        id: event.id(),
        position: event.position().0,
        stream: format!("{}/{}", event.tenant(), event.aggregate_id()),
        version: event.version().0,
    };
    store.read_all(ReadAll::new()).map(|read| event(read.expect("everything can be read"))).collect()
}

#[test]
fn the_ledger_finds_each_kind_of_lie() {
    let ids: Vec<Uuid> = (0..4).map(Uuid::from_u128).collect();
    let at = |id: usize, position, version| Stored { id: ids[id], position, stream: "a".to_owned(), version };
    let mut ledger = Ledger::default();
    ledger.tell(ids[0], Told::Stored { position: 1, version: 1 });
    ledger.tell(ids[1], Told::Unknown);
    ledger.tell(ids[2], Told::NotStored("no room".to_owned()));
    assert_eq!(ledger.lies(&[at(0, 1, 1)]), [] as [String; 0]);
    assert_eq!(ledger.lies(&[at(0, 1, 1), at(1, 2, 2)]), [] as [String; 0], "what is in doubt may be there or not");
    for (planted, found) in [
        (vec![], "not there"),
        (vec![at(1, 1, 1)], "not there"),
        (vec![at(0, 1, 1), at(0, 2, 2)], "twice"),
        (vec![at(0, 1, 1), at(2, 2, 2)], "was refused"),
        (vec![at(0, 1, 1), at(3, 2, 2)], "never appended"),
        (vec![at(1, 1, 1), at(0, 2, 2)], "was said to be"),
        (vec![at(0, 1, 1), at(1, 3, 2)], "belong"),
        (vec![at(0, 1, 1), at(1, 2, 3)], "belong"),
    ] {
        let lies = ledger.lies(&planted);
        assert!(lies.iter().any(|lie| lie.contains(found)), "{found:?} is not among {lies:?}");
    }
}
