//! Which events of a stream are left: always those from one version on.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::append::Deciding;
use super::super::read::{LogReader, visible_tip};
use super::Keeping;
use crate::error::Result;
use crate::event::{Event, StreamKey, Timestamp};
use crate::log::writer::Writer;
use crate::store::ReadStream;
use crate::version::AggregateVersion;

/// The first version that is left of a stream that stands at `version`; one more than that if none is.
/// Ages are told by `now`, or else by the clock.
pub(crate) fn first_live(
    writer: &Arc<Writer<Deciding>>,
    keeping: &Keeping,
    key: &StreamKey<'_>,
    version: u64,
    now: Option<Timestamp>,
) -> Result<u64> {
    let Some(kept) = keeping.get(key) else { return Ok(1) };
    let Some(limits) = &kept.limits else { return Ok(kept.after.saturating_add(1)) };
    // What was found to be too old by the clock may not have been then.
    let old = if now.is_none() { limits.old } else { 0 };
    let first = limits.retention.first_kept(version, kept.after.max(old));
    let Some(oldest) = limits.retention.oldest(now.unwrap_or_else(Timestamp::now).0) else { return Ok(first) };
    let young = first_young(writer, key, (first, version), oldest)?;
    if young > first && now.is_none() {
        keeping.note_old(key, kept.position, young - 1);
    }
    Ok(young)
}

/// The first of these versions that is not from before `oldest`, or the last of them.
fn first_young(writer: &Arc<Writer<Deciding>>, key: &StreamKey<'_>, (first, last): (u64, u64), oldest: i64) -> Result<u64> {
    let mut query = ReadStream::of(key.aggregate_id).before(AggregateVersion(last));
    key.tenant.clone_into(&mut query.tenant);
    query.after = Some(AggregateVersion(first.saturating_sub(1)));
    let mut reader = LogReader::raw_stream(writer, query)?;
    loop {
        let events = reader.read()?;
        if events.is_empty() {
            return Ok(last.max(first));
        }
        if let Some(young) = events.iter().find(|event| event.timestamp().0 >= oldest) {
            return Ok(young.version().0);
        }
    }
}

/// What a reader of all streams leaves out. How far a stream is left out is looked up when its first event is met.
pub(crate) struct Checks {
    keeping: Arc<Keeping>,
    now: Option<Timestamp>,
    /// By tenant and aggregate id, the first version that is left of streams that are limited.
    limited: HashMap<(String, String), u64>,
}

impl Checks {
    /// Ages are told by `now`, or else by the clock.
    pub(crate) fn new(keeping: Arc<Keeping>, now: Option<Timestamp>) -> Self {
        Self { keeping, now, limited: HashMap::new() }
    }

    /// Takes out the events that are not left.
    pub(crate) fn retain(&mut self, writer: &Arc<Writer<Deciding>>, events: &mut Vec<Event>) -> Result<()> {
        let mut live = Vec::with_capacity(events.len());
        for event in events.iter() {
            live.push(self.is_live(writer, event)?);
        }
        let mut live = live.into_iter();
        events.retain(|_| live.next().unwrap_or(true));
        Ok(())
    }

    fn is_live(&mut self, writer: &Arc<Writer<Deciding>>, event: &Event) -> Result<bool> {
        let key = StreamKey { tenant: event.tenant(), aggregate_id: event.aggregate_id() };
        let Some(kept) = self.keeping.get(&key) else { return Ok(true) };
        if kept.limits.is_none() {
            return Ok(event.version().0 > kept.after);
        }
        let name = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        if let Some(first) = self.limited.get(&name) {
            return Ok(event.version().0 >= *first);
        }
        let version = visible_tip(writer, &key)?.map_or(0, |tip| tip.version);
        let first = first_live(writer, &self.keeping, &key, version, self.now)?;
        self.limited.insert(name, first);
        Ok(event.version().0 >= first)
    }
}
