//! What the model leaves out: found anew from the first event for every question.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Model, is_of};
use crate::codec::{Body, BodyLayout, check_stream};
use crate::error::{Error, Result};
use crate::event::{Event, StreamKey, Timestamp};
use crate::retention::{Change, Notice, Retention, SYSTEM};
use crate::store::{Durability, Receipt};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// By tenant and aggregate id.
pub(super) type Keeping = HashMap<(String, String), Kept>;

/// What was said last of an aggregate.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    position: Position,
    /// Versions up to this are left out for good.
    after: u64,
    /// `None` if it was deleted.
    limits: Option<Retention>,
}

impl Model {
    /// Deletes an aggregate.
    ///
    /// # Errors
    /// Those of [`EventStore::delete`](crate::EventStore::delete).
    pub fn delete(&mut self, key: &StreamKey<'_>, expected: ExpectedVersion) -> Result<Receipt> {
        check_stream(key, "any")?;
        let version = self.version(key);
        if self.is_deleted(key) && (expected == ExpectedVersion::Any || expected == ExpectedVersion::Exact(version)) {
            return Ok(self.said(key));
        }
        if self.is_deleted(key) {
            return Err(Error::Conflict { aggregate_id: key.aggregate_id.to_owned(), expected, actual: version, deleted: true });
        }
        self.expect(key, expected, version)?;
        let Some(info) = self.stream(key) else { return Err(absent(key)) };
        self.say(key, Change::Deleted { version: version.0, position: info.last_position.0 })
    }

    /// Limits an aggregate.
    ///
    /// # Errors
    /// Those of [`EventStore::set_retention`](crate::EventStore::set_retention).
    pub fn set_retention(&mut self, key: &StreamKey<'_>, retention: Retention) -> Result<Receipt> {
        let retention = retention.checked()?;
        check_stream(key, "any")?;
        let Some(info) = self.stream(key) else { return Err(absent(key)) };
        let kept = self.kept(key);
        if kept.is_some_and(|kept| kept.limits == Some(retention)) {
            return Ok(self.said(key));
        }
        if kept.is_none() && retention == Retention::new() {
            return Ok(receipt(key, self.head(), info.version));
        }
        let after = self.first_live(key) - 1;
        let after = self.limited(key, after, &Retention { max_age: None, ..retention }) - 1;
        self.say(key, Change::Limited { after, retention })
    }

    /// The limits of an aggregate.
    #[must_use]
    pub fn retention(&self, key: &StreamKey<'_>) -> Retention {
        self.kept(key).and_then(|kept| kept.limits).unwrap_or_default()
    }

    /// Whether the event with this id is there and left out.
    pub(crate) fn leaves_out(&self, id: Uuid) -> bool {
        let key = |event: &Event| self.first_live(&StreamKey { tenant: event.tenant(), aggregate_id: event.aggregate_id() });
        self.events.iter().any(|event| event.id() == id && event.version().0 < key(event))
    }

    fn kept(&self, key: &StreamKey<'_>) -> Option<&Kept> {
        self.keeping.get(&(key.tenant.to_owned(), key.aggregate_id.to_owned()))
    }

    /// Whether it was deleted and not appended to since.
    pub(super) fn is_deleted(&self, key: &StreamKey<'_>) -> bool {
        self.kept(key).is_some_and(|kept| kept.limits.is_none() && kept.after == self.version(key).0)
    }

    /// The first version of a stream that is left.
    pub(super) fn first_live(&self, key: &StreamKey<'_>) -> u64 {
        match self.kept(key) {
            None => 1,
            Some(Kept { after, limits: None, .. }) => after + 1,
            Some(Kept { after, limits: Some(retention), .. }) => self.limited(key, *after, retention),
        }
    }

    /// The first version that limits leave.
    fn limited(&self, key: &StreamKey<'_>, after: u64, retention: &Retention) -> u64 {
        let events: Vec<&Event> = self.events.iter().filter(|event| is_of(event, key)).collect();
        let version = events.len() as u64;
        let mut first = after + 1;
        let is_left_out = |first: u64| {
            let counted = retention.max_count.is_some_and(|count| version - first + 1 > count);
            let truncated = retention.truncate_before.is_some_and(|before| first < before.0);
            let time = events[usize::try_from(first - 1).unwrap_or(0)].timestamp().0;
            let aged = retention.max_age.is_some_and(|age| i128::from(time) < i128::from(Timestamp::now().0) - age.as_micros().cast_signed());
            counted || truncated || aged
        };
        while first < version && is_left_out(first) {
            first += 1;
        }
        first
    }

    fn said(&self, key: &StreamKey<'_>) -> Receipt {
        receipt(key, self.kept(key).map_or(Position::START, |kept| kept.position), self.version(key))
    }

    fn say(&mut self, key: &StreamKey<'_>, change: Change) -> Result<Receipt> {
        let (tenant, aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        let aggregate_type = self.ever(key).map(|info| info.aggregate_type).unwrap_or_default();
        let event = Notice { tenant: tenant.clone(), aggregate_id: aggregate_id.clone(), aggregate_type, change }.event()?;
        let mut bytes = Vec::new();
        Body::encode_system(&mut bytes, SYSTEM, &event)?;
        let body = BodyLayout::parse(&bytes, 0, bytes.len()).map_err(|reason| Error::Serialization { reason: reason.to_owned() })?;
        let version = AggregateVersion(self.events.iter().filter(|event| event.event_type().starts_with('$')).count() as u64 + 1);
        let position = Position(self.head().0 + 1);
        self.last_commit = self.last_commit.max(Timestamp::now());
        self.events.push(Event { block: bytes.into(), body, position, version, timestamp: self.last_commit });
        let kept = match change {
            Change::Deleted { version, .. } => Kept { position, after: version, limits: None },
            Change::Limited { after, retention } => Kept { position, after, limits: Some(retention) },
        };
        self.keeping.insert((tenant, aggregate_id), kept);
        Ok(self.said(key))
    }
}

fn absent(key: &StreamKey<'_>) -> Error {
    Error::AggregateNotFound { aggregate_id: key.aggregate_id.to_owned() }
}

fn receipt(key: &StreamKey<'_>, position: Position, version: AggregateVersion) -> Receipt {
    Receipt { aggregate_id: key.aggregate_id.to_owned(), position, version, events: 0, durability: Durability::Memory }
}
