//! Where the events of one stream are, by their versions.

use std::sync::Arc;

use super::super::append::Deciding;
use super::super::sealed::Span;
use super::files;
use crate::error::{Error, Result};
use crate::event::StreamKey;
use crate::index::{Before, Location};
use crate::log::writer::Writer;

/// Where the events of a stream are whose versions are between two, both included: so many at most of those that one segment has, the
/// ones that come first in the direction of reading. Gives their versions; none if what is left of them was taken out. `tip` is where the
/// stream stood before, with all that is wanted; `spans` keeps what was found, newest first.
pub(super) fn locate_versions(
    writer: &Writer<Deciding>,
    key: &StreamKey<'_>,
    (tip, spans): (Before, &mut Vec<Span>),
    (from, to): (u64, u64),
    (backwards, most): (bool, usize),
    out: &mut Vec<Location>,
) -> Result<Option<(u64, u64)>> {
    let first_of = |from: u64, to: u64| {
        let others = most.saturating_sub(1) as u64;
        if backwards { (from.max(to.saturating_sub(others)), to) } else { (from, to.min(from.saturating_add(others))) }
    };
    let wanted = if backwards { to } else { from };
    out.clear();
    // What the active segment has of the stream, and what is known of what it had before.
    let (before, sealed) = writer.with(|deciding| {
        let active = deciding.index.active();
        let Some(stream) = active.stream(key) else {
            return (tip, deciding.sealed.clone());
        };
        let before = active.before(stream);
        if wanted > before.version {
            let (from, to) = first_of(from.max(before.version + 1), to);
            active.stream_locations(stream, from, to, out);
        }
        (before, deciding.sealed.clone())
    });
    if !out.is_empty() {
        return Ok(Some(first_of(from.max(before.version + 1), to)));
    }
    if spans.first().is_some_and(|newest| newest.last_version < wanted) {
        // The segment that was written to when they were found is sealed by now.
        spans.clear();
    }
    let files = files(writer);
    while spans.last().is_none_or(|span| span.first_version > wanted) {
        let found = match spans.last() {
            Some(span) => sealed.span_before(key, span.first_version, span.segment.named.sequence, span.before().segment, &files)?,
            None => sealed.span_before(key, before.version + 1, u64::MAX, before.segment, &files)?,
        };
        let Some(found) = found else { break };
        spans.push(found);
    }
    let Some(span) = spans.iter().find(|span| (span.first_version..=span.last_version).contains(&wanted)) else {
        return behind_what_was_taken_out(writer, key, (tip, spans), (from, to), (backwards, most, before.version), out);
    };
    let (from, to) = first_of(from.max(span.first_version), to.min(span.last_version));
    sealed.span_locations(span, key, from, to, &files, out)?;
    Ok(Some((from, to)))
}

/// [`locate_versions`] where the first wanted one is in no segment: it was taken out. Why may not be known any more, where a store was
/// forked before its deletion, or lost that. `active_after` is the version before those of the active segment.
fn behind_what_was_taken_out(
    writer: &Writer<Deciding>,
    key: &StreamKey<'_>,
    (tip, spans): (Before, &mut Vec<Span>),
    (from, to): (u64, u64),
    (backwards, most, active_after): (bool, usize, u64),
    out: &mut Vec<Location>,
) -> Result<Option<(u64, u64)>> {
    let wanted = if backwards { to } else { from };
    let is_beginning = !spans.iter().any(|span| span.last_version < wanted);
    if !is_beginning && writer.with(|deciding| Arc::clone(&deciding.keeping)).get(key).is_none() {
        return Err(Error::configuration(format!(
            "version {wanted} of the aggregate {:?} lies in no segment, but earlier ones do: verify the store, and restore a backup if it is damaged",
            key.aggregate_id
        )));
    }
    let next = if backwards {
        spans.iter().map(|span| span.last_version).filter(|last| *last < to).max()
    } else {
        let active = active_after.saturating_add(1);
        spans.iter().map(|span| span.first_version).chain([active]).filter(|first| *first > from).min()
    };
    match next.filter(|next| (from..=to).contains(next)) {
        Some(next) if backwards => locate_versions(writer, key, (tip, spans), (from, next), (true, most), out),
        Some(next) => locate_versions(writer, key, (tip, spans), (next, to), (false, most), out),
        None => Ok(None),
    }
}
