//! Restoring another store's history: positions, versions, ids and times are given, and what is left out keeps its positions.

use std::sync::Arc;

use super::standing::{Stands, conflict, type_error};
use super::{Answer, Deciding, EventPart, Request, StreamPart, event_at, visible_tip};
use crate::codec::check_stream;
use crate::error::{Error, EventIdProblem, Result};
use crate::event::{Event, StreamKey, Timestamp};
use crate::index::{Before, KindId, Standing};
use crate::log::format::{BATCH_EVENTS_MAX, BODY_SEED, RecordEntry, checksum, events_frame_room, frame_header, record_entry};
use crate::log::writer::{Decision, Place, Writer};
use crate::log_store::restoring::HistoryItem;
use crate::retention::{Notice, SYSTEM};
use crate::store::Durability;
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// How many positions a frame has at most, and how many bytes of bodies, but for a single event that is larger.
const FRAME: (u64, usize) = (4096, 8 << 20);

/// What is given of a frame's records, beside what its entries say.
pub(crate) struct Restoring {
    /// The position of the first one.
    first: u64,
    /// The part that each record's event is of; `None` if it is left out.
    records: Vec<Option<usize>>,
    /// What the event says, if it is one of the store's own.
    pub(super) notice: Option<Notice>,
}

/// The next frame of a history, and how much of its first item is left for the one behind.
pub(crate) struct Frame<'a> {
    pub(crate) items: Vec<HistoryItem>,
    pub(crate) behind: &'a [HistoryItem],
    /// The first position of `behind`, where its first item was begun already.
    pub(crate) from: u64,
}

fn is_system(event: &Event) -> bool {
    event.aggregate_id() == SYSTEM
}

/// Takes a frame's worth of a history: events of one tenant and what is left out, or one of the store's own events. Positions before
/// `from` were taken already.
pub(crate) fn next_frame(items: &[HistoryItem], from: u64) -> Frame<'_> {
    let mut frame = Frame { items: Vec::new(), behind: items, from };
    let (mut count, mut bytes, mut tenant) = (0, 0, None);
    while let Some((item, behind)) = frame.behind.split_first() {
        match item {
            HistoryItem::LeftOut { first, last } => {
                let first = first.0.max(frame.from);
                let end = last.0.min(first.saturating_add(FRAME.0 - count).saturating_sub(1));
                if first <= end {
                    frame.items.push(HistoryItem::LeftOut { first: Position(first), last: Position(end) });
                    count += end - first + 1;
                }
                if end < last.0 {
                    frame.from = end + 1;
                    return frame;
                }
            }
            HistoryItem::Event(event) => {
                let is_other = is_system(event) || tenant.is_some_and(|tenant| tenant != event.tenant());
                bytes += event.body_bytes().len();
                if count > 0 && (is_other || bytes > FRAME.1) {
                    return frame;
                }
                tenant = Some(event.tenant());
                frame.items.push(item.clone());
                count += 1;
                if is_system(event) {
                    return Frame { behind, from: 0, ..frame };
                }
            }
        }
        (frame.behind, frame.from) = (behind, 0);
        if count >= FRAME.0 {
            return frame;
        }
    }
    frame
}

impl Request {
    /// A request to append these records as they are, which [`next_frame`] has chosen.
    ///
    /// # Errors
    /// What an append would not take: names and sizes beyond the limits, an id that stands twice, a system event that says nothing.
    pub(crate) fn restoring(items: &[HistoryItem], durability: Durability) -> Result<Self> {
        let first = items.first().map_or(0, |item| item.first().0);
        let mut restoring = Restoring { first, records: Vec::new(), notice: None };
        let mut request = Self::empty(String::new(), durability);
        let mut bodies: Vec<&[u8]> = Vec::new();
        for item in items {
            match item {
                HistoryItem::LeftOut { first, last } => {
                    let count = usize::try_from(last.0 - first.0 + 1).unwrap_or(usize::MAX).min(BATCH_EVENTS_MAX);
                    let left_out = RecordEntry { flags: record_entry::REMOVED, body_checksum: checksum(BODY_SEED, &[]), ..RecordEntry::default() };
                    request.entries.extend(std::iter::repeat_n(left_out, count));
                    restoring.records.extend(std::iter::repeat_n(None, count));
                }
                HistoryItem::Event(event) => {
                    request.restored(event, &mut restoring)?;
                    bodies.push(event.body_bytes());
                }
            }
        }
        request.bodies_start = events_frame_room(request.entries.len());
        request.frame = Vec::with_capacity(request.bodies_start + bodies.iter().map(|body| body.len()).sum::<usize>() + 8);
        request.frame.resize(request.bodies_start, 0);
        for body in bodies {
            request.frame.extend_from_slice(body);
        }
        request.sum_bodies();
        request.link_streams();
        request.check_ids()?;
        request.restoring = Some(Box::new(restoring));
        Ok(request)
    }

    /// Takes in an event.
    fn restored(&mut self, event: &Event, restoring: &mut Restoring) -> Result<()> {
        let key = StreamKey { tenant: event.tenant(), aggregate_id: event.aggregate_id() };
        if is_system(event) {
            restoring.notice = Notice::of_event(event)?;
        } else {
            check_stream(&key, event.aggregate_type())?;
            event.tenant().clone_into(&mut self.tenant);
        }
        match self.streams.last_mut() {
            Some(part) if part.aggregate_id == key.aggregate_id && part.aggregate_type == event.aggregate_type() => part.events += 1,
            _ => self.streams.push(StreamPart {
                aggregate_id: key.aggregate_id.to_owned(),
                aggregate_type: event.aggregate_type().to_owned(),
                expected: ExpectedVersion::Exact(AggregateVersion(event.version().0.saturating_sub(1))),
                events: 1,
                first: self.streams.len(),
            }),
        }
        if self.event_types.last().is_none_or(|last| last != event.event_type()) {
            self.event_types.push(event.event_type().to_owned());
        }
        restoring.records.push(Some(self.streams.len() - 1));
        let body_bytes = u32::try_from(event.body_bytes().len()).unwrap_or(u32::MAX);
        self.entries.push(RecordEntry { body_bytes, version: event.version().0, timestamp: event.timestamp().0, ..RecordEntry::default() });
        let (event_type, timestamp) = (self.event_types.len() - 1, Some(event.timestamp().0));
        self.events.push(EventPart { id: event.id(), event_type, timestamp });
        Ok(())
    }

    /// The refusal of an event whose id is stored.
    pub(super) fn stored_elsewhere(&self, number: usize) -> Error {
        Error::EventIdConflict { event_id: self.events[number].id, reason: EventIdProblem::PartlyStored }
    }
}

/// Whether the event at a position, which has the id of one that is to be restored, is left out: then the source may have given its id
/// again.
pub(super) fn is_left_out(position: u64, writer: &Arc<Writer<Deciding>>) -> Result<bool> {
    let Some(event) = event_at(position, writer)? else { return Ok(true) };
    let key = StreamKey { tenant: event.tenant(), aggregate_id: event.aggregate_id() };
    // What was handed in just before counts as well.
    let (kept, assigned) = writer.with(|deciding| {
        let assigned = if let Standing::Known(tip) = deciding.index.standing(&key) { Some(tip.version) } else { None };
        (deciding.kept(&key), assigned)
    });
    let Some(kept) = kept else { return Ok(false) };
    let (version, retention) = (event.version().0, kept.retention());
    let tip = match assigned {
        Some(version) => version,
        None => visible_tip(writer, &key)?.map_or(0, |tip| tip.version),
    };
    let is_too_old = retention.oldest(Timestamp::now().0).is_some_and(|oldest| event.timestamp().0 < oldest);
    Ok(version <= kept.after || (kept.limits.is_some() && (version < retention.first_kept(tip, kept.after) || is_too_old)))
}

impl Deciding {
    /// Whether records can be appended as they are.
    pub(super) fn decide_restoring(&self, request: &Request, restoring: &Restoring, place: &Place) -> Decision<Result<Answer>> {
        if place.position != restoring.first {
            return Decision::Answer(Err(Error::Diverged {
                target: "the embedded store".to_owned(),
                position: Position(place.position),
                reason: format!("the next event to be stored there is at {}", restoring.first),
            }));
        }
        match self.follows(request, restoring, place) {
            Ok(()) => Decision::Append,
            Err(error) => Decision::Answer(Err(error)),
        }
    }

    /// Whether each event's version can follow what the store has of its stream.
    fn follows(&self, request: &Request, restoring: &Restoring, place: &Place) -> Result<()> {
        let mut standings = Vec::with_capacity(request.streams.len());
        for (number, part) in request.streams.iter().enumerate() {
            let standing = if part.first == number { self.standing_of(request, number, place.visible).0 } else { Stands::default() };
            if let Some(stored) = standing.aggregate_type.as_deref().filter(|stored| *stored != part.aggregate_type) {
                return Err(type_error(part, stored));
            }
            standings.push(standing);
        }
        // So many records were left out before: one for each version that streams lack. What sealed segments have is not counted.
        let mut left_out = if self.sealed.is_empty() { self.index.active().removed() as u64 } else { u64::MAX };
        for (position, (part, entry)) in (restoring.first..).zip(restoring.records.iter().zip(&request.entries)) {
            let Some(part) = part else {
                left_out = left_out.saturating_add(1);
                continue;
            };
            let part = &request.streams[*part];
            let standing = &mut standings[part.first];
            let skipped = entry.version.checked_sub(standing.version + 1);
            if skipped.is_none_or(|skipped| skipped > left_out || entry.version > position)
                || part.aggregate_type != request.streams[part.first].aggregate_type
            {
                let expected = ExpectedVersion::Exact(AggregateVersion(entry.version.saturating_sub(1)));
                return Err(conflict(
                    &StreamPart { expected, aggregate_id: part.aggregate_id.clone(), aggregate_type: String::new(), ..*part },
                    standing,
                ));
            }
            standing.version = entry.version;
            standing.deleted = false;
        }
        Ok(())
    }

    /// Takes records that were accepted into the index.
    pub(super) fn assign_restoring(&mut self, request: &Request, restoring: &Restoring, place: &Place) -> Result<()> {
        self.index.active().has_room_for(request.entries.len())?;
        let mut events = request.events.iter();
        let mut last_kind: Option<(usize, usize, KindId)> = None;
        for (number, (part, entry)) in restoring.records.iter().zip(&request.entries).enumerate() {
            let lsn = place.lsn + (frame_header::BYTES + number * record_entry::BYTES) as u64;
            let Some((part_number, event)) = part.and_then(|part| Some((part, events.next()?))) else {
                self.index.active_mut().push_removed(lsn);
                continue;
            };
            let part = &request.streams[part_number];
            let cold: Option<Before> = request.cold.streams.get(&part.first).map(|cold| cold.before);
            let stream = self.index.stream_to_restore(&request.key(part), &part.aggregate_type, cold, entry.version)?;
            let stream = stream.ok_or_else(|| Error::configuration("an event was restored whose version cannot follow"))?;
            let index = self.index.active_mut();
            let kind = match last_kind {
                Some((of, event_type, kind)) if (of, event_type) == (part_number, event.event_type) => kind,
                _ => index.kind(stream, &request.event_types[event.event_type]),
            };
            last_kind = Some((part_number, event.event_type, kind));
            index.push(stream, kind, event.id, lsn);
        }
        if let Some(notice) = &restoring.notice {
            self.in_flight.push(place.position, notice.clone());
        }
        Ok(())
    }
}
