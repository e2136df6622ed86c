//! Limits that a target does not honour: a database leaves out what a limit left out when it was set, and nothing as time goes on.

use std::collections::HashMap;

use eventuali::{Change, Error, Event, EventStore, HistoryItem, Notice, Position, ReadAll, Result, Retention, StreamKey};

use super::source::Source;
use crate::config::Store;
use crate::sql::leaving::is_done_at_once;

/// Refuses a source that has limits which its target would not honour, as far as is known before anything is moved.
///
/// # Errors
/// [`Unsupported`](Error::Unsupported) with the position of the first of them.
pub(super) fn refuse(source: &dyn Source<'_>, target: &Store, head: u64) -> Result<()> {
    let Some(store) = source.store().filter(|_| !target.honours_limits()) else { return Ok(()) };
    let query = ReadAll::new().after(Position(head)).include_system().event_types(["$deleted", "$retention"]);
    // What counts is what was said last of an aggregate.
    let mut limited = HashMap::new();
    for event in store.read_all(query) {
        let event = event?;
        let Some(notice) = Notice::of_event(&event)? else { continue };
        let position = unhonoured(&notice).map(|_| event.position().0);
        limited.insert((notice.tenant, notice.aggregate_id), position);
    }
    limited.into_values().flatten().min().map_or(Ok(()), |position| Err(refused(position)))
}

/// Refuses a limit that was set since, when it comes, unless another one has taken its place.
pub(super) fn check(item: &HistoryItem, source: Option<&dyn EventStore>, target: &Store) -> Result<()> {
    let HistoryItem::Event(event) = item else { return Ok(()) };
    if target.honours_limits() || !event.event_type().starts_with('$') {
        return Ok(());
    }
    let Some(notice) = Notice::of_event(event)? else { return Ok(()) };
    match unhonoured(&notice) {
        Some(limits) if still_counts(source, &notice.key(), &limits)? => Err(refused_at(event)),
        _ => Ok(()),
    }
}

fn unhonoured(notice: &Notice) -> Option<Retention> {
    match notice.change {
        Change::Limited { after, retention } if !is_done_at_once(after, &retention) => Some(retention),
        Change::Limited { .. } | Change::Deleted { .. } => None,
    }
}

/// Whether these are the limits that the source has now. One that has none itself has only those that were replaced.
fn still_counts(source: Option<&dyn EventStore>, key: &StreamKey<'_>, limits: &Retention) -> Result<bool> {
    match source {
        Some(store) if store.capabilities().retention => store.retention(*key).wait().map(|now| now == *limits),
        Some(_) => Ok(false),
        None => Ok(true),
    }
}

fn refused_at(event: &Event) -> Error {
    refused(event.position().0)
}

fn refused(position: u64) -> Error {
    Error::Unsupported {
        message: format!(
            "the limits that are set at position {position} of the source leave out more as events are appended or grow old, which a database \
             does not do: nothing from there on was moved; move it to an embedded store, copy it with a backup, or lift the limits"
        ),
    }
}
