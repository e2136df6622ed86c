//! What the segment that is written to has to be taken out, and whether it is sealed for that.

use std::collections::HashSet;

use super::Extent;
use super::floors::{Floor, Floors};
use crate::error::Result;
use crate::index::{Location, StreamId};
use crate::log::writer::{SEALED_AT_CLOSE_BYTES, Writer};
use crate::log_store::append::Deciding;
use crate::log_store::keeping::Name;
use crate::log_store::read::{Buffers, files, read_locations};

/// A part of the segment that is worth to be given back: one in so many.
const WORTHWHILE_PART: u64 = 4;

/// What of the segment that is written to is to be taken out.
#[derive(Default)]
pub(super) struct InActive {
    pub(super) streams: HashSet<Name>,
    pub(super) events: u64,
}

impl InActive {
    pub(super) fn look(writer: &Writer<Deciding>, floors: &Floors) -> Self {
        let mut found = Self::default();
        let floors: Vec<_> = floors.iter().collect();
        // Not all at once under the lock that appends need.
        for some in floors.chunks(256) {
            writer.with(|deciding| {
                for (name, floor) in some {
                    for (_, first, last) in runs(deciding, name, floor) {
                        found.streams.insert((*name).clone());
                        found.events += last - first + 1;
                    }
                }
            });
        }
        found
    }

    /// Whether the segment is to be sealed, so that this can be taken out.
    pub(super) fn is_worth_sealing(&self, writer: &Writer<Deciding>, floors: &Floors, extent: Extent) -> Result<bool> {
        if self.streams.is_empty() || extent == Extent::Everything {
            return Ok(!self.streams.is_empty());
        }
        let bytes = writer.active_bytes();
        Ok(bytes >= SEALED_AT_CLOSE_BYTES && self.has_bytes(writer, floors, bytes / WORTHWHILE_PART)?)
    }

    /// Whether it is so many bytes.
    fn has_bytes(&self, writer: &Writer<Deciding>, floors: &Floors, wanted: u64) -> Result<bool> {
        let segments = files(writer).segments;
        let mut buffers = Buffers::default();
        let mut bytes = 0;
        for (name, floor) in self.streams.iter().filter_map(|name| floors.get(name).map(|floor| (name, floor))) {
            let locations = writer.with(|deciding| locations(deciding, name, floor));
            let mut rest = &locations[..];
            while !rest.is_empty() {
                let fetched = read_locations(&segments, rest, &mut buffers)?;
                bytes += fetched.events.iter().map(|event| event.body.bytes(&event.block).len() as u64).sum::<u64>();
                if bytes >= wanted {
                    return Ok(true);
                }
                rest = &rest[fetched.looked_at.max(1)..];
            }
        }
        Ok(false)
    }
}

/// The versions of a stream in the segment that is written to that are to be taken out, run by run.
fn runs<'a>(deciding: &'a Deciding, name: &Name, floor: &'a Floor) -> impl Iterator<Item = (StreamId, u64, u64)> + use<'a> {
    let active = deciding.index.active();
    let all = std::iter::successors(active.stream(&name.key()), |stream| active.earlier_run(*stream));
    all.map(|stream| (stream, active.before(stream).version + 1, active.version(stream).min(floor.first - 1)))
        .filter(|(_, first, last)| first <= last)
}

/// Where they are; nowhere if the segment was sealed meanwhile.
fn locations(deciding: &Deciding, name: &Name, floor: &Floor) -> Vec<Location> {
    let (mut found, mut of_run) = (Vec::new(), Vec::new());
    for (stream, first, last) in runs(deciding, name, floor) {
        deciding.index.active().stream_locations(stream, first, last, &mut of_run);
        found.append(&mut of_run);
    }
    found
}
