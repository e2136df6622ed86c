//! Restoring another store's history: what [`LogStore::restore`] takes, and how it hands that in.

use std::sync::Arc;

use super::LogStore;
use super::append::{Answer, Request, next_frame};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::log::ticket::Ticket;
use crate::log::writer::{Submitted, Task};
use crate::version::Position;

/// What a store's history has at a position, or at several that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryItem {
    /// An event.
    Event(Event),
    /// Nothing that readers are given: events that were deleted, or that limits leave out.
    LeftOut {
        /// The first of these positions.
        first: Position,
        /// The last one.
        last: Position,
    },
}

impl HistoryItem {
    /// Its first position.
    #[must_use]
    pub fn first(&self) -> Position {
        match self {
            Self::Event(event) => event.position(),
            Self::LeftOut { first, .. } => *first,
        }
    }

    /// Its last position.
    #[must_use]
    pub fn last(&self) -> Position {
        match self {
            Self::Event(event) => event.position(),
            Self::LeftOut { last, .. } => *last,
        }
    }
}

impl LogStore {
    /// Appends another store's history as it is, behind the last event: positions, versions, ids and times stay what they are, and what is
    /// left out keeps its positions. Deletions and limits are honoured once the system events that say so are there, as in the store that
    /// they come from. Gives the new head, which is as durable as an append.
    ///
    /// ```
    /// use eventuali::{AppendBatch, EventStore, ExpectedVersion, HistoryItem, LogStore, NewEvent, Position, ReadAll};
    ///
    /// let source = LogStore::memory()?;
    /// for name in ["ada", "bob"] {
    ///     let came = NewEvent::json("Came", &name)?;
    ///     source.append(AppendBatch::one(name, "Guest", ExpectedVersion::NoStream, vec![came])).wait()?;
    /// }
    /// source.delete("ada".into(), ExpectedVersion::Any).wait()?;
    ///
    /// let mut history = vec![HistoryItem::LeftOut { first: Position(1), last: Position(1) }];
    /// for event in source.read_all(ReadAll::new().include_system()) {
    ///     history.push(HistoryItem::Event(event?));
    /// }
    /// let copy = LogStore::memory()?;
    /// assert_eq!(copy.restore(&history)?, Position(3));
    /// assert_eq!(copy.read_all(ReadAll::new()).next().transpose()?.map(|event| event.position()), Some(Position(2)));
    /// # Ok::<(), eventuali::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Diverged`](Error::Diverged) if the first position is not the one behind the head, or a later one does not follow; those of an append:
    /// a [`Conflict`](Error::Conflict) where a version cannot follow what the store has of its stream. What stands before may have been stored.
    pub fn restore(&self, history: &[HistoryItem]) -> Result<Position> {
        let writer = self.usable()?;
        let durability = self.handle.inner.options.durability;
        let (mut rest, mut from, mut waiting) = (history, 0, Vec::new());
        let mut outcome = Ok(Position(writer.visible()));
        while !rest.is_empty() {
            let frame = next_frame(rest, from);
            (rest, from) = (frame.behind, frame.from);
            let submitted = contiguous(&frame.items).and_then(|()| Request::restoring(&frame.items, durability));
            match submitted.map(|request| writer.submit(Task::Append(request), true)) {
                Ok(Submitted::Ticket(ticket)) => waiting.push(ticket),
                Ok(Submitted::Answered(Ok(_))) => {}
                Ok(Submitted::Answered(Err(error))) | Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // What was handed in is waited for, whatever became of the rest; what failed first is the reason.
        let mut failed = None;
        for answer in waiting.iter().filter_map(|ticket: &Arc<Ticket<Result<Answer>>>| writer.wait(ticket, None)) {
            match answer {
                Ok(Answer::Position(position)) if outcome.is_ok() => outcome = Ok(Position(position)),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(outcome, Err)
    }
}

/// Whether each item follows the one before it.
fn contiguous(items: &[HistoryItem]) -> Result<()> {
    let mut pairs = items.iter().zip(items.iter().skip(1));
    let broken = pairs.find(|(one, next)| one.last().0.checked_add(1) != Some(next.first().0));
    match broken {
        None => Ok(()),
        Some((one, next)) => Err(Error::Diverged {
            target: "the embedded store".to_owned(),
            position: one.last(),
            reason: format!("the next event to be stored behind it is at {}", next.first()),
        }),
    }
}
