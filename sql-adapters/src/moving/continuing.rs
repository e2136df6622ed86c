//! Going on where a target ends: what it shows last must be the source's, or be what the source leaves out by now.

use std::collections::HashMap;

use eventuali::{Change, Error, Event, HistoryItem, Notice, Position, ReadAll, Result};

use super::differing::differing;
use super::source::{Source, has_left_out, leaves_out};
use crate::config::Store;

/// How many of the target's last events are looked at for one that both have.
const LOOKED_AT: u64 = 256;

/// How much that is new to the target is held back until the source says that it has left those events out.
const HELD: usize = 100_000;

/// A target whose events are found to be the source's, or are compared while the source is read.
pub(super) struct Continued {
    target: String,
    head: u64,
    /// Where the source is to be read from.
    from: u64,
    /// The target's last events by position, where only reading the source tells whether they are its.
    to_compare: HashMap<u64, Event>,
    /// Whether one of them was found there, or was left out there by what it says, or there are none.
    is_certain: bool,
    held: Vec<HistoryItem>,
}

impl Continued {
    /// Looks at the end of a target with this head. `is_named` says that the target itself has kept that its events are the source's.
    ///
    /// # Errors
    /// [`Diverged`](Error::Diverged) if they are not.
    pub(super) fn find(source: &dyn Source<'_>, target: &Store, head: u64, is_named: bool) -> Result<Self> {
        let mut continued = Self { target: target.shown(), head, from: head + 1, to_compare: HashMap::new(), is_certain: true, held: Vec::new() };
        let last = ReadAll::new().before(Position(head.saturating_add(1))).include_system().backwards();
        let Some(store) = source.store() else {
            for event in target.as_dyn().read_all(last.limit(LOOKED_AT)) {
                let event = event?;
                continued.from = event.position().0;
                continued.to_compare.insert(continued.from, event);
            }
            continued.is_certain = is_named || continued.to_compare.is_empty();
            return Ok(continued);
        };
        let mut left_out = None;
        // The last one tells, as a rule: a mirror looks at it each time.
        let first = target.as_dyn().read_all(last.clone().limit(1));
        let others = std::iter::once_with(|| target.as_dyn().read_all(last.limit(LOOKED_AT)).skip(1)).flatten();
        for event in first.chain(others) {
            let event = event?;
            match event_at(store, event.position())? {
                Some(other) => return continued.compare(&event, &other).map(|()| continued),
                None if !leaves_out(store, event.position().0, event.position().0)? => return Err(continued.nothing_there(event.position().0)),
                None => left_out = left_out.or(Some(event)),
            }
        }
        match left_out {
            // Nothing is common to both that is left: then the source must say that it has left it out.
            Some(event) if !is_named && !has_left_out(store, &event)? => Err(continued.nothing_there(event.position().0)),
            _ => Ok(continued),
        }
    }

    /// The position from which on the source is to be read.
    pub(super) fn from(&self) -> u64 {
        self.from
    }

    /// Compares what the target has already, and puts out what is new to it.
    pub(super) fn pass(&mut self, item: HistoryItem, new: &mut Vec<HistoryItem>) -> Result<()> {
        if let HistoryItem::Event(event) = &item {
            if let Some(shown) = self.to_compare.remove(&event.position().0) {
                self.compare(&shown, event)?;
                self.is_certain = true;
            }
            self.is_certain = self.is_certain || self.says_what_is_left_out(event)?;
        }
        if item.last().0 <= self.head {
            return Ok(());
        }
        self.held.push(match item {
            HistoryItem::LeftOut { first, last } => HistoryItem::LeftOut { first: first.max(Position(self.head + 1)), last },
            event @ HistoryItem::Event(_) => event,
        });
        if self.is_certain {
            new.append(&mut self.held);
        } else if self.held.len() > HELD {
            return self.end();
        }
        Ok(())
    }

    /// Whether an event of the source says that it leaves out one that the target shows, and that was not found there.
    fn says_what_is_left_out(&self, event: &Event) -> Result<bool> {
        let Some(notice) = Notice::of_event(event)? else { return Ok(false) };
        let up_to = match notice.change {
            Change::Deleted { version, .. } => version,
            Change::Limited { after, .. } => after,
        };
        let key = (&*notice.tenant, &*notice.aggregate_id);
        Ok(self.to_compare.values().any(|shown| (shown.tenant(), shown.aggregate_id()) == key && shown.version().0 <= up_to))
    }

    /// Whether the target's events are known to be the source's, of which all is read that the target has.
    pub(super) fn end(&self) -> Result<()> {
        if self.is_certain { Ok(()) } else { Err(self.nothing_there(self.head)) }
    }

    fn compare(&self, shown: &Event, event: &Event) -> Result<()> {
        if differing(shown, event).is_ok_and(|parts| parts.is_empty()) {
            return Ok(());
        }
        Err(self.diverged(event.position().0, "its event there is another one"))
    }

    fn nothing_there(&self, position: u64) -> Error {
        self.diverged(position, "the source has no event there")
    }

    fn diverged(&self, position: u64, reason: &str) -> Error {
        Error::Diverged { target: self.target.clone(), position: Position(position), reason: reason.to_owned() }
    }
}

/// The event of a store at a position, if it shows one.
fn event_at(store: &dyn eventuali::EventStore, position: Position) -> Result<Option<Event>> {
    let query = ReadAll::new().after(Position(position.0.saturating_sub(1))).before(Position(position.0.saturating_add(1))).include_system();
    store.read_all(query).next().transpose()
}
