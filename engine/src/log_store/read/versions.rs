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
    let (active, sealed) = writer.with(|deciding| {
        let mut found = Active { before: tip, runs: Vec::new(), of: None };
        let active = deciding.index.active();
        let mut run = active.stream(key);
        while let Some(stream) = run {
            let (first, last) = (active.before(stream).version + 1, active.version(stream));
            if (first..=last).contains(&wanted) {
                let (from, to) = first_of(from.max(first), to.min(last));
                active.stream_locations(stream, from, to, out);
                found.of = Some((from, to));
                break;
            }
            found.runs.push((first, last));
            found.before = active.before(stream);
            run = active.earlier_run(stream);
        }
        (found, deciding.sealed.clone())
    });
    if active.of.is_some() {
        return Ok(active.of);
    }
    let before = active.before;
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
        return behind_what_was_taken_out(writer, key, (tip, spans), (from, to), (backwards, most, &active.runs), out);
    };
    let (from, to) = first_of(from.max(span.first_version), to.min(span.last_version));
    sealed.span_locations(span, key, from, to, &files, out)?;
    Ok(Some((from, to)))
}

/// What the active segment has of a stream.
struct Active {
    /// What is known of the stream before the runs that were looked at.
    before: Before,
    /// The runs of its versions that do not have the wanted one.
    runs: Vec<(u64, u64)>,
    /// The versions that are wanted first, if it has them.
    of: Option<(u64, u64)>,
}

/// [`locate_versions`] where the first wanted one is in no segment: it was taken out. Why may not be known any more, where a store was
/// forked before its deletion, or lost that; or not yet, where another store's history is still being restored. `active` are the runs of
/// versions in the active segment.
fn behind_what_was_taken_out(
    writer: &Writer<Deciding>,
    key: &StreamKey<'_>,
    (tip, spans): (Before, &mut Vec<Span>),
    (from, to): (u64, u64),
    (backwards, most, active): (bool, usize, &[(u64, u64)]),
    out: &mut Vec<Location>,
) -> Result<Option<(u64, u64)>> {
    let wanted = if backwards { to } else { from };
    let runs = spans.iter().map(|span| (span.first_version, span.last_version)).chain(active.iter().copied());
    let is_beginning = !runs.clone().any(|(_, last)| last < wanted);
    if !is_beginning && writer.with(|deciding| Arc::clone(&deciding.keeping)).get(key).is_none() {
        return Err(Error::configuration(format!(
            "version {wanted} of the aggregate {:?} lies in no segment, but earlier ones do: where the store is a copy that is still being made, have \
             that go on; else verify it, and restore a backup if it is damaged",
            key.aggregate_id
        )));
    }
    let next = if backwards {
        runs.map(|(_, last)| last).filter(|last| *last < to).max()
    } else {
        runs.map(|(first, _)| first).filter(|first| *first > from).min()
    };
    match next.filter(|next| (from..=to).contains(next)) {
        Some(next) if backwards => locate_versions(writer, key, (tip, spans), (from, next), (true, most), out),
        Some(next) => locate_versions(writer, key, (tip, spans), (next, to), (false, most), out),
        None => Ok(None),
    }
}
