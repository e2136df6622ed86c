//! Where events come from.

use eventuali::{Durability, Error, Event, EventStore, Position, ReadAll, Result, StoreIdentity};

/// Something that has events in the order of their positions.
pub(super) trait Source {
    /// Which store the events are of.
    fn identity(&self) -> Result<StoreIdentity>;

    /// The last position that can be moved; `None` if only reading to the end tells.
    fn last_position(&self) -> Result<Option<u64>>;

    /// The last position, also of what cannot be moved yet; `None` if only reading to the end tells.
    fn head(&self) -> Result<Option<u64>> {
        self.last_position()
    }

    /// The first position behind `after` at which events were deleted or limited; `None` if there is none.
    fn first_left_out(&self, after: u64) -> Result<Option<u64>> {
        let _ = after;
        Ok(None)
    }

    /// Whether the events are read from that store itself, so that it cannot be their target.
    fn is_a_store(&self) -> bool {
        false
    }

    /// Whether it can be read again from any position; if not, what was read and not stored is gone.
    fn reads_again(&self) -> bool {
        true
    }

    /// Batches of events from this position on: that one, and behind it what can be moved.
    fn read_from<'s>(&'s mut self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Vec<Event>>> + 's>>;
}

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

impl Source for StoreSource<'_> {
    fn is_a_store(&self) -> bool {
        true
    }

    fn identity(&self) -> Result<StoreIdentity> {
        self.store.identity().wait()
    }

    fn last_position(&self) -> Result<Option<u64>> {
        if self.syncs {
            match self.store.sync().wait() {
                // Who only reads follows what the writer makes durable.
                Ok(_) | Err(Error::ReadOnly) => {}
                Err(error) => return Err(error),
            }
        }
        // A store that is not persistent has nothing that is more durable than the rest.
        let last = if self.store.capabilities().persistent { self.store.durable_position().wait()? } else { self.store.head().wait()? };
        Ok(Some(last.0))
    }

    fn head(&self) -> Result<Option<u64>> {
        self.store.head().wait().map(|head| Some(head.0))
    }

    fn first_left_out(&self, after: u64) -> Result<Option<u64>> {
        if !self.store.capabilities().retention {
            return Ok(None);
        }
        let query = ReadAll::new().after(Position(after)).include_system().event_types(["$deleted", "$retention"]).limit(1);
        Ok(self.store.read_all(query).next().transpose()?.map(|event| event.position().0))
    }

    fn read_from<'s>(&'s mut self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Vec<Event>>> + 's>> {
        let last = self.last_position()?.unwrap_or(0).max(position);
        let query = ReadAll::new().after(Position(position.saturating_sub(1))).before(Position(last + 1)).include_system();
        let mut reader = self.store.read_all(query);
        Ok(Box::new(std::iter::from_fn(move || reader.next_batch().transpose())))
    }
}
