//! Where the streams of a request stand, and whether that is what it expects.

use std::borrow::Cow;

use super::{Deciding, Request, StreamPart};
use crate::error::Error;
use crate::event::StreamKey;
use crate::index::Standing;
use crate::log_store::keeping::Kept;
use crate::version::{AggregateVersion, ExpectedVersion};

/// What the streams of a batch will be, by part.
#[derive(Default)]
pub(super) struct Stands<'a> {
    /// The type that its events have, if it has any.
    pub(super) aggregate_type: Option<Cow<'a, str>>,
    pub(super) version: u64,
    /// Whether it was deleted at that version.
    pub(super) deleted: bool,
}

impl Stands<'_> {
    pub(super) fn accepts(&self, expected: ExpectedVersion) -> bool {
        if self.deleted { expected.accepts_deleted() } else { expected.accepts(AggregateVersion(self.version)) }
    }
}

impl Deciding {
    /// Checks what the request expects of its streams. The error comes with whether it rests on events that are not visible yet.
    pub(super) fn stand<'a>(&'a self, request: &'a Request, visible: u64) -> Result<(Vec<Stands<'a>>, bool), (Error, bool)> {
        let mut standings: Vec<Stands<'a>> = Vec::with_capacity(request.streams.len());
        let mut in_flight = false;
        for (number, part) in request.streams.iter().enumerate() {
            if part.first == number {
                let (standing, rests_on_others) = self.standing_of(request, number, visible);
                in_flight |= rests_on_others;
                standings.push(standing);
            } else {
                standings.push(Stands::default());
            }
            let standing = &mut standings[part.first];
            if let Some(stored) = standing.aggregate_type.as_deref().filter(|stored| *stored != part.aggregate_type) {
                return Err((type_error(part, stored), in_flight));
            }
            if !standing.accepts(part.expected) {
                return Err((conflict(part, standing), in_flight));
            }
            standing.version += u64::from(part.events);
            if part.events > 0 {
                standing.aggregate_type = Some(Cow::Borrowed(&part.aggregate_type));
                standing.deleted = false;
            }
            standings[number].version = standings[part.first].version;
        }
        Ok((standings, in_flight))
    }

    /// Where a part's stream stands, and whether that rests on what is not visible yet.
    pub(super) fn standing_of<'a>(&'a self, request: &'a Request, number: usize, visible: u64) -> (Stands<'a>, bool) {
        let key = request.key(&request.streams[number]);
        let (aggregate_type, version, in_flight) = match self.index.standing(&key) {
            Standing::Absent => (None, 0, false),
            Standing::Known(tip) => (Some(tip.aggregate_type), tip.version, tip.last_position > visible),
            Standing::Cold => {
                request.cold.streams.get(&number).map_or((None, 0, false), |cold| (cold.aggregate_type.as_deref(), cold.before.version, false))
            }
        };
        let stands = Stands { aggregate_type: aggregate_type.map(Cow::Borrowed), version, deleted: false };
        let Some(kept) = self.kept(&key) else { return (stands, in_flight) };
        match kept.deleted_at(version) {
            Some(version) => {
                let aggregate_type = Some(Cow::Owned(kept.aggregate_type.to_string()));
                (Stands { aggregate_type, version, deleted: true }, in_flight || kept.position > visible)
            }
            None => (stands, in_flight),
        }
    }

    /// What is known of a deletion or limits of a stream, with what is not visible yet.
    pub(super) fn kept(&self, key: &StreamKey<'_>) -> Option<Kept> {
        if !self.keeping.any() && self.in_flight.is_empty() {
            return None;
        }
        self.in_flight.get(key).or_else(|| self.keeping.get(key))
    }
}

pub(super) fn conflict(part: &StreamPart, standing: &Stands<'_>) -> Error {
    let actual = AggregateVersion(standing.version);
    Error::Conflict { aggregate_id: part.aggregate_id.clone(), expected: part.expected, actual, deleted: standing.deleted }
}

pub(super) fn type_error(part: &StreamPart, stored: &str) -> Error {
    Error::AggregateType { aggregate_id: part.aggregate_id.clone(), stored: stored.to_owned(), requested: part.aggregate_type.clone() }
}
