//! Where events come from.

use eventuali::{Event, EventStore, Position, ReadAll, Result, StoreIdentity};

/// Something that has events in the order of their positions.
pub(super) trait Source {
    /// Which store the events are of.
    fn identity(&self) -> Result<StoreIdentity>;

    /// The last position that can be moved; `None` if only reading to the end tells.
    fn last_position(&self) -> Result<Option<u64>>;

    /// Batches of events from this position on.
    fn read_from<'s>(&'s mut self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Vec<Event>>> + 's>>;
}

/// A store; what could still be lost is not read.
pub(super) struct StoreSource<'a>(pub(super) &'a dyn EventStore);

impl Source for StoreSource<'_> {
    fn identity(&self) -> Result<StoreIdentity> {
        self.0.identity().wait()
    }

    fn last_position(&self) -> Result<Option<u64>> {
        // A store that is not persistent has nothing that is more durable than the rest.
        let last = if self.0.capabilities().persistent { self.0.durable_position().wait()? } else { self.0.head().wait()? };
        Ok(Some(last.0))
    }

    fn read_from<'s>(&'s mut self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Vec<Event>>> + 's>> {
        let last = self.last_position()?.unwrap_or(0);
        let query = ReadAll::new().after(Position(position.saturating_sub(1))).before(Position(last + 1)).include_system();
        let mut reader = self.0.read_all(query);
        Ok(Box::new(std::iter::from_fn(move || reader.next_batch().transpose())))
    }
}
