//! What a database leaves out: rows that say of a position that nothing is there any more.
//!
//! Such a row has the type [`LEFT_OUT`], in a stream of its own whose versions are the positions; reads pass over it unless they ask for that type.
//! The last event of an aggregate that was deleted keeps its names and its version in it, so that the aggregate goes on there.

use eventuali::{AggregateVersion, Change, Event, EventData, HistoryItem, NewEvent, Notice, Position, Result, Retention, StreamKey, Timestamp};

/// The event type and the stream of what is left out.
pub(crate) const LEFT_OUT: &str = "$left_out";
/// The aggregate type of a store's own streams.
pub(crate) const SYSTEM: &str = "$";

/// The condition that passes over what is left out.
pub(crate) const IS_THERE: &str = "AND event_type <> '$left_out'";

/// What is to be done when a system event is restored.
pub(crate) struct Leaving {
    pub(crate) tenant: String,
    pub(crate) aggregate_id: String,
    pub(crate) aggregate_type: String,
    /// The versions up to this are left out.
    pub(crate) after: u64,
    /// Where the last event was, if it is deleted.
    pub(crate) deleted_at: Option<u64>,
    /// The position of the system event.
    pub(crate) position: u64,
}

/// What system events among these say, in their order.
pub(crate) fn leavings(events: &[Event]) -> Result<Vec<Leaving>> {
    let mut found = Vec::new();
    for event in events.iter().filter(|event| event.event_type().starts_with('$')) {
        let Some(Notice { tenant, aggregate_id, aggregate_type, change }) = Notice::of_event(event)? else { continue };
        let (after, deleted_at) = match change {
            Change::Deleted { version, position } => (version, Some(position)),
            Change::Limited { after, .. } => (after, None),
        };
        found.push(Leaving { tenant, aggregate_id, aggregate_type, after, deleted_at, position: event.position().0 });
    }
    Ok(found)
}

/// Whether all that limits leave out is left out when they are set: a database does not look at them again. `after` are the versions that are left
/// out already.
pub(crate) fn is_done_at_once(after: u64, limits: &Retention) -> bool {
    let Retention { max_age, max_count, truncate_before } = limits;
    max_age.is_none() && max_count.is_none() && truncate_before.is_none_or(|before| before.0 <= after.saturating_add(1))
}

/// A part of a history as rows: one for each position.
pub(crate) fn as_events(history: Vec<HistoryItem>) -> Result<Vec<Event>> {
    let mut events = Vec::with_capacity(history.len());
    for item in history {
        match item {
            HistoryItem::Event(event) => events.push(event),
            HistoryItem::LeftOut { first, last } => {
                for position in first.0..=last.0 {
                    let nothing = NewEvent::new(LEFT_OUT, EventData::json(&())?);
                    let key = StreamKey { tenant: "", aggregate_id: LEFT_OUT };
                    events.push(Event::from_parts(&key, SYSTEM, &nothing, Position(position), AggregateVersion(position), Timestamp(0))?);
                }
            }
        }
    }
    Ok(events)
}
