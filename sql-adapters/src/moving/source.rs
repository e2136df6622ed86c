//! Where events come from.

use eventuali::{Durability, Error, Event, EventStore, HistoryItem, Notice, Position, ReadAll, Result, StoreIdentity};

use crate::sql::leaving::LEFT_OUT;

/// Something that has events in the order of their positions.
pub(super) trait Source<'a> {
    /// Which store the events are of.
    fn identity(&self) -> Result<StoreIdentity>;

    /// The last position that can be moved; `None` if only reading to the end tells.
    fn last_position(&self) -> Result<Option<u64>>;

    /// The last position, also of what cannot be moved yet; `None` if only reading to the end tells.
    fn head(&self) -> Result<Option<u64>> {
        self.last_position()
    }

    /// The store that the events are read from, if it is one: then it cannot be their target, and can be asked for single events.
    fn store(&self) -> Option<&'a dyn EventStore> {
        None
    }

    /// Whether it can be read again from any position; if not, what was read and not stored is gone.
    fn reads_again(&self) -> bool {
        true
    }

    /// Batches of what there is from this position on: that one, and behind it what can be moved.
    fn read_from(&mut self, position: u64) -> Result<Items<'_>>;
}

/// Batches of a history, in the order of positions.
pub(super) type Items<'s> = Box<dyn Iterator<Item = Result<Vec<HistoryItem>>> + 's>;

/// A store; what could still be lost is not moved.
pub(super) struct StoreSource<'a> {
    store: &'a dyn EventStore,
    syncs: bool,
}

impl<'a> StoreSource<'a> {
    /// Follows what the store makes durable in its own time.
    pub(super) fn following(store: &'a dyn EventStore) -> Self {
        Self { store, syncs: false }
    }

    /// Has the store make everything durable first.
    pub(super) fn whole(store: &'a dyn EventStore) -> Self {
        Self { store, syncs: matches!(store.capabilities().durability, Durability::Interval(_) | Durability::Os) }
    }
}

impl<'a> Source<'a> for StoreSource<'a> {
    fn store(&self) -> Option<&'a dyn EventStore> {
        Some(self.store)
    }

    fn identity(&self) -> Result<StoreIdentity> {
        self.store.identity().wait()
    }

    fn last_position(&self) -> Result<Option<u64>> {
        if self.syncs {
            sync(self.store)?;
        }
        durable_position(self.store).map(Some)
    }

    fn head(&self) -> Result<Option<u64>> {
        self.store.head().wait().map(|head| Some(head.0))
    }

    fn read_from(&mut self, position: u64) -> Result<Items<'_>> {
        let last = self.last_position()?.unwrap_or(0).max(position.saturating_sub(1));
        let query = ReadAll::new().after(Position(position.saturating_sub(1))).before(Position(last + 1)).include_system();
        let mut reader = self.store.read_all(query);
        let mut gaps = Gaps { store: self.store, next: position.max(1), last };
        Ok(Box::new(std::iter::from_fn(move || match reader.next_batch() {
            Ok(Some(batch)) => Some(gaps.fill(batch)),
            Ok(None) => gaps.at_the_end().transpose(),
            Err(error) => Some(Err(error)),
        })))
    }
}

/// Has the store make durable what it has; who only reads follows what the writer makes durable.
fn sync(store: &dyn EventStore) -> Result<()> {
    match store.sync().wait() {
        Ok(_) | Err(Error::ReadOnly) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The last position that cannot be lost. A store that is not persistent has nothing that is more durable than the rest.
fn durable_position(store: &dyn EventStore) -> Result<u64> {
    let last = if store.capabilities().persistent { store.durable_position().wait()? } else { store.head().wait()? };
    Ok(last.0)
}

/// Whether a store leaves out every event between two positions, where it shows none. One in which aggregates are deleted proves each of its
/// records when it reads them; a database must have a row that says so, or it has lost the event.
pub(super) fn leaves_out(store: &dyn EventStore, first: u64, last: u64) -> Result<bool> {
    if store.capabilities().retention {
        return Ok(true);
    }
    let query = ReadAll::new().after(Position(first - 1)).before(Position(last.saturating_add(1))).include_system().event_types([LEFT_OUT]);
    let mut next = first;
    for event in store.read_all(query) {
        if event?.position().0 != next {
            return Ok(false);
        }
        next += 1;
    }
    Ok(next == last + 1)
}

/// Whether what a store says of an aggregate leaves out its events up to one of this version.
pub(super) fn has_left_out(store: &dyn EventStore, event: &Event) -> Result<bool> {
    let key = (event.tenant(), event.aggregate_id());
    let query = ReadAll::new().include_system().event_types(["$deleted", "$retention"]).backwards();
    for notice in store.read_all(query) {
        if let Some(notice) = Notice::of_event(&notice?)?
            && (&*notice.tenant, &*notice.aggregate_id) == key
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finds the positions that a reader passes over.
struct Gaps<'a> {
    store: &'a dyn EventStore,
    /// The next position that is expected, and the last one.
    next: u64,
    last: u64,
}

impl Gaps<'_> {
    fn fill(&mut self, events: Vec<Event>) -> Result<Vec<HistoryItem>> {
        let mut items = Vec::with_capacity(events.len());
        let mut gap = false;
        for event in events {
            let position = event.position().0;
            if position > self.next && leaves_out(self.store, self.next, position - 1)? {
                items.push(HistoryItem::LeftOut { first: Position(self.next), last: Position(position - 1) });
                gap = true;
            }
            self.next = position + 1;
            items.push(HistoryItem::Event(event));
        }
        if gap {
            self.have_it_kept()?;
        }
        Ok(items)
    }

    /// What is left out behind the last event.
    fn at_the_end(&mut self) -> Result<Option<Vec<HistoryItem>>> {
        let (first, last) = (Position(self.next), Position(self.last));
        if first > last || !leaves_out(self.store, first.0, last.0)? {
            return Ok(None);
        }
        self.have_it_kept()?;
        self.next = self.last + 1;
        Ok(Some(vec![HistoryItem::LeftOut { first, last }]))
    }

    /// Makes sure that no power failure can take back what has left the events out: they would be there again.
    fn have_it_kept(&self) -> Result<()> {
        let head = self.store.head().wait()?.0;
        if durable_position(self.store)? >= head {
            return Ok(());
        }
        sync(self.store)?;
        if durable_position(self.store)? >= head {
            return Ok(());
        }
        Err(Error::Unavailable {
            store: "the source".to_owned(),
            reason: "its writer has not synced yet what leaves out events of it".to_owned(),
            remedy: "when its writer has synced",
        })
    }
}
