//! Which events are to be taken out: of each stream that was deleted or limited, those before one version.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::codec::Body;
use crate::error::{Error, Result};
use crate::event::StreamKey;
use crate::log::format::RecordEntry;
use crate::log::writer::Writer;
use crate::log_store::append::Deciding;
use crate::log_store::keeping::{Keeping, Kept, Name, Wanted, first_live};
use crate::log_store::read::visible_tip;

/// How far deletions and limits were carried out, as far as this process knows.
#[derive(Default)]
pub(crate) struct CarriedOut {
    /// What the system events up to this position leave out once and for all is in no file,
    upto: u64,
    /// but for what of these streams is in the segment that was written to.
    left: HashSet<Name>,
}

impl CarriedOut {
    /// What was done so far is known from here on: all up to a position, but for these streams.
    pub(super) fn note(&mut self, upto: u64, left: HashSet<Name>) {
        (self.upto, self.left) = (upto, left);
    }
}

/// What is left of one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    /// The first version that is left.
    pub(super) first: u64,
    /// Versions up to this were taken out.
    pub(super) gone: u64,
    /// The position of the system event that says so.
    pub(super) position: u64,
    /// Whether it stays like that.
    pub(super) is_fixed: bool,
}

/// From which version on streams are left that were deleted or limited when scavenging began, and from which not everything is known to be
/// gone. Those before are to be taken out, whatever becomes of the streams meanwhile.
pub(super) struct Floors {
    streams: HashMap<Name, Floor, RandomState>,
    /// Every system event up to this position was looked at.
    pub(super) upto: u64,
}

impl Floors {
    pub(super) fn look(writer: &Arc<Writer<Deciding>>, keeping: &Keeping, carried_out: &CarriedOut) -> Result<Self> {
        // Whatever is visible under the lock was taken in.
        let upto = writer.with(|_| writer.visible());
        let done = carried_out.upto.max(writer.scavenged());
        let is_open = |name: &Name, kept: &Kept| kept.position > done || !kept.is_fixed() || carried_out.left.contains(name);
        let mut streams = HashMap::default();
        for (name, kept) in keeping.all(is_open) {
            let first = if kept.limits.is_none() {
                kept.after.saturating_add(1)
            } else {
                let version = visible_tip(writer, &name.key())?.map_or(0, |tip| tip.version);
                first_live(writer, keeping, &name.key(), version, None)?
            };
            let floor = Floor { first, gone: kept.taken_out(), position: kept.position, is_fixed: kept.is_fixed() };
            if floor.first > floor.gone.saturating_add(1) {
                streams.insert(name, floor);
            }
        }
        Ok(Self { streams, upto })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Floor)> {
        self.streams.iter()
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Floor> {
        self.streams.get(name)
    }

    /// The position of the last system event that says something for good and was carried out as all before it were; `None` if there is none.
    pub(super) fn carried_out(&self, left: &HashSet<Name>) -> Option<u64> {
        let fixed = || self.streams.iter().filter(|(_, floor)| floor.is_fixed && floor.position <= self.upto);
        let first_left = fixed().filter(|(name, _)| left.contains(*name)).map(|(_, floor)| floor.position).min();
        fixed().map(|(_, floor)| floor.position).filter(|position| first_left.is_none_or(|left| *position < left)).max()
    }

    pub(super) fn is_unwanted(&self, entry: &RecordEntry, body: &[u8]) -> Result<bool> {
        let (_, names) = Body::parse(body).map_err(Error::configuration)?;
        let key = StreamKey { tenant: names.tenant, aggregate_id: names.aggregate_id };
        Ok(self.streams.get(&Wanted(key)).is_some_and(|floor| entry.version < floor.first))
    }
}
