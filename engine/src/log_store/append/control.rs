//! Deleting and limiting an aggregate: one of the store's own events is appended that says so.
//!
//! What it says of the aggregate (its type, where it stands) is known for certain only in the critical section, and encoded before: it is
//! encoded again where that has changed meanwhile.

use std::sync::Arc;

use super::standing::conflict;
use super::{Answer, Deciding, EventPart, Request, StreamPart};
use crate::codec::{Body, check_stream};
use crate::error::{Error, Result};
use crate::event::StreamKey;
use crate::log::format::{RecordEntry, events_frame_room};
use crate::log::writer::{Decision, Place, Writer};
use crate::log_store::keeping::{Kept, first_live};
use crate::log_store::read::visible_tip;
use crate::retention::{Change, Notice, Retention, SYSTEM};
use crate::store::{Durability, Receipt};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// What is to become of an aggregate.
pub(crate) struct Control {
    wanted: Wanted,
    /// What the aggregate was found to be, to be encoded.
    found: Option<Found>,
    /// What the encoded event says, and what it rests on.
    pub(super) said: Option<Notice>,
    rests_on: Option<Found>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Delete(ExpectedVersion),
    Limit(Retention),
}

/// Where an aggregate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    aggregate_type: String,
    version: u64,
    /// The position of the event that has deleted or limited it last; 0 if there is none.
    kept_position: u64,
}

impl Control {
    pub(crate) fn delete(expected: ExpectedVersion) -> Self {
        Self::new(Wanted::Delete(expected))
    }

    pub(crate) fn limit(retention: Retention) -> Self {
        Self::new(Wanted::Limit(retention))
    }

    fn new(wanted: Wanted) -> Self {
        Self { wanted, found: None, said: None, rests_on: None }
    }
}

impl Request {
    /// A request to delete or limit an aggregate.
    pub(crate) fn control(tenant: String, aggregate_id: String, control: Box<Control>, durability: Durability) -> Result<Self> {
        check_stream(&StreamKey { tenant: &tenant, aggregate_id: &aggregate_id }, "any")?;
        let expected = match control.wanted {
            Wanted::Delete(expected) => expected,
            Wanted::Limit(_) => ExpectedVersion::Any,
        };
        let part = |aggregate_id: String, aggregate_type: &str, events: u32, first: usize| StreamPart {
            aggregate_id,
            aggregate_type: aggregate_type.to_owned(),
            expected,
            events,
            first,
        };
        let streams = vec![part(aggregate_id, "", 0, 0), part(SYSTEM.to_owned(), SYSTEM, 1, 1)];
        Ok(Self { streams, control: Some(control), ..Self::empty(tenant, durability) })
    }

    /// Encodes the event for what the aggregate was found to be, if that was asked for.
    pub(super) fn encode_control(&mut self, writer: &Arc<Writer<Deciding>>) -> Result<()> {
        let Some((wanted, found)) = self.control.as_mut().and_then(|control| Some((control.wanted, control.found.take()?))) else { return Ok(()) };
        let (tenant, aggregate_id) = (self.tenant.clone(), self.streams[0].aggregate_id.clone());
        let key = StreamKey { tenant: &tenant, aggregate_id: &aggregate_id };
        let change = match wanted {
            Wanted::Delete(_) => {
                let position = visible_tip(writer, &key)?.map_or(0, |tip| tip.last_position);
                Change::Deleted { version: found.version, position }
            }
            Wanted::Limit(retention) => {
                let keeping = writer.with(|deciding| Arc::clone(&deciding.keeping));
                let first = first_live(writer, &keeping, &key, found.version, None)?;
                Change::Limited { after: retention.first_kept(found.version, first - 1) - 1, retention }
            }
        };
        let notice = Notice { tenant: tenant.clone(), aggregate_id: aggregate_id.clone(), aggregate_type: found.aggregate_type.clone(), change };
        let event = notice.event()?;
        let bodies_start = events_frame_room(1);
        self.frame = vec![0; bodies_start];
        self.bodies_start = bodies_start;
        Body::encode_system(&mut self.frame, SYSTEM, &event)?;
        let body_bytes = u32::try_from(self.frame.len() - bodies_start).unwrap_or(u32::MAX);
        self.entries = vec![RecordEntry { body_bytes, ..RecordEntry::default() }];
        self.sum_bodies();
        self.events = vec![EventPart { id: event.id, event_type: 0, timestamp: None }];
        self.event_types = vec![event.event_type];
        self.control = Some(Box::new(Control { wanted, found: None, said: Some(notice), rests_on: Some(found) }));
        Ok(())
    }
}

impl Deciding {
    /// Whether an aggregate is to be deleted or limited, or that was done already.
    pub(super) fn decide_control(&self, request: &mut Request, place: &Place) -> Decision<Result<Answer>> {
        let Some(control) = &request.control else { return Decision::Look };
        let part = &request.streams[0];
        let key = request.key(part);
        let (standing, in_flight) = self.standing_of(request, 0, place.visible);
        let kept = self.kept(&key);
        let kept_in_flight = in_flight || kept.as_ref().is_some_and(|kept| kept.position > place.visible);
        let answer = |in_flight: bool, answer: Result<Receipt>| {
            let answer = answer.map(|receipt| Answer::Receipts(vec![receipt]));
            if in_flight { Decision::AnswerWithGroup(answer) } else { Decision::Answer(answer) }
        };
        let done = |kept: &Kept, version: u64| request.receipt(part, Position(kept.position), AggregateVersion(version));
        let absent = || Error::AggregateNotFound { aggregate_id: part.aggregate_id.clone() };
        match (control.wanted, &kept) {
            (Wanted::Delete(expected), Some(kept)) if standing.deleted => {
                let same = matches!(expected, ExpectedVersion::Any) || expected == ExpectedVersion::Exact(AggregateVersion(standing.version));
                return answer(kept_in_flight, if same { Ok(done(kept, standing.version)) } else { Err(conflict(part, &standing)) });
            }
            (Wanted::Limit(_), _) if standing.deleted => return answer(in_flight, Err(absent())),
            (_, _) if standing.version == 0 && !part.expected.accepts(AggregateVersion::NONE) => {
                return answer(in_flight, Err(conflict(part, &standing)));
            }
            (_, _) if standing.version == 0 => return answer(in_flight, Err(absent())),
            (Wanted::Delete(_), _) if !standing.accepts(part.expected) => return answer(in_flight, Err(conflict(part, &standing))),
            (Wanted::Limit(retention), Some(kept)) if kept.limits.as_ref().is_some_and(|limits| limits.retention == retention) => {
                return answer(kept_in_flight, Ok(done(kept, standing.version)));
            }
            (Wanted::Limit(retention), None) if retention == Retention::new() => {
                let receipt = request.receipt(part, Position(place.visible), AggregateVersion(standing.version));
                return answer(in_flight, Ok(receipt));
            }
            _ => {}
        }
        let found = Found {
            aggregate_type: standing.aggregate_type.unwrap_or_default().into_owned(),
            version: standing.version,
            kept_position: kept.map_or(0, |kept| kept.position),
        };
        if control.rests_on.as_ref() == Some(&found) {
            return Decision::Append;
        }
        if let Some(control) = &mut request.control {
            control.found = Some(found);
        }
        Decision::Look
    }
}
