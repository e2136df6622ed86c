//! Appending: what is checked and encoded on the caller's thread, and what is decided in the writer's critical section.

mod cold;
mod control;
mod restoring;
mod standing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use cold::Cold;
pub(crate) use control::Control;
pub(crate) use restoring::next_frame;
use restoring::{Restoring, is_left_out};

use super::indexing::Indexing;
use super::keeping::{InFlight, Keeping};
use super::packing::Packing;
use super::read::{Buffers, locate, read_locations, visible_tip};
use super::sealed::{Sealed, SealedFilter};
use super::{ends, take_in};
use crate::codec::{Body, check_stream};
use crate::error::{Error, EventIdProblem, Result};
use crate::event::{Event, StreamKey};
use crate::index::{Candidates, IdLookup, Index, KindId, Location, Standing};
use crate::log::format::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BODY_SEED, FRAME_ALIGN, RecordEntry, body, checksum, events_frame_room, frame_header, record_entry,
};
use crate::log::manifest::ManifestSegment;
use crate::log::recovery::Frame;
use crate::log::segment::Segment;
use crate::log::writer::{Decider, Decision, Place, Writer};
use crate::retention::{Notice, SYSTEM};
use crate::store::{AppendBatch, Durability, ReadAll, Receipt, StreamAppend};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// How many events are compared at once.
const AT_ONCE: usize = 1024;
/// The events of a batch are few enough to compare each id with each other.
const FEW: usize = 8;

/// An append whose records are encoded.
pub(crate) struct Request {
    tenant: String,
    streams: Vec<StreamPart>,
    events: Vec<EventPart>,
    /// The event types, one for each run of equal ones in a stream's part.
    event_types: Vec<String>,
    entries: Vec<RecordEntry>,
    /// The frame: room for its header and table, then the bodies.
    frame: Vec<u8>,
    /// Where the bodies begin in it.
    bodies_start: usize,
    durability: Durability,
    /// The log was looked at: up to this position it has none of the ids.
    absent_up_to: u64,
    /// What is to be looked at: the number of an event, and where its id may be.
    to_look: Vec<(usize, Candidates)>,
    /// The position up to which that look will reach.
    looking_up_to: u64,
    /// What was found in the index files of sealed segments, and what is to be found there.
    cold: Cold,
    /// The answer, if the log has shown that the batch is stored already, or cannot be.
    known: Option<Result<Vec<Receipt>>>,
    /// What is to be said of the first of its streams, if it is one of the store's own events that is appended.
    control: Option<Box<Control>>,
    /// What is given of its records, if they are another store's.
    restoring: Option<Box<Restoring>>,
}

struct StreamPart {
    aggregate_id: String,
    aggregate_type: String,
    expected: ExpectedVersion,
    events: u32,
    /// The first part for the same stream, this one itself in most cases.
    first: usize,
}

struct EventPart {
    id: Uuid,
    /// Its number among the request's types.
    event_type: usize,
    timestamp: Option<i64>,
}

impl Request {
    /// A request without events.
    fn empty(tenant: String, durability: Durability) -> Self {
        Self {
            tenant,
            streams: Vec::new(),
            events: Vec::new(),
            event_types: Vec::new(),
            entries: Vec::new(),
            frame: Vec::new(),
            bodies_start: 0,
            durability,
            absent_up_to: 0,
            to_look: Vec::new(),
            looking_up_to: 0,
            cold: Cold::default(),
            known: None,
            control: None,
            restoring: None,
        }
    }

    /// Checks all that can be checked without the log, and encodes the records.
    pub(crate) fn new(batch: AppendBatch, durability: Durability) -> Result<Self> {
        let AppendBatch { tenant, streams: appends } = batch;
        let count: usize = appends.iter().map(|stream| stream.events.len()).sum();
        if count > BATCH_EVENTS_MAX {
            return Err(Error::LimitExceeded { what: "number of events in one append", actual: count as u64, max: BATCH_EVENTS_MAX as u64 });
        }
        let bodies_start = events_frame_room(count);
        let mut request = Self {
            streams: Vec::with_capacity(appends.len()),
            events: Vec::with_capacity(count),
            entries: Vec::with_capacity(count),
            frame: Vec::with_capacity((bodies_start + bodies_bytes(&tenant, &appends)).next_multiple_of(FRAME_ALIGN)),
            bodies_start,
            ..Self::empty(tenant, durability)
        };
        request.frame.resize(bodies_start, 0);
        for mut stream in appends {
            let key = StreamKey { tenant: &request.tenant, aggregate_id: &stream.aggregate_id };
            check_stream(&key, &stream.aggregate_type)?;
            let events = u32::try_from(stream.events.len()).unwrap_or(u32::MAX);
            let mut like = None;
            for event in &mut stream.events {
                let start = request.frame.len();
                like = like.filter(|_| request.event_types.last() == Some(&event.event_type));
                Body::encode(&mut request.frame, &key, &stream.aggregate_type, event, like)?;
                if like.is_none() {
                    like = Some(start);
                    request.event_types.push(std::mem::take(&mut event.event_type));
                }
                let bodies_bytes = request.frame.len() - bodies_start;
                if bodies_bytes > BATCH_BYTES_MAX {
                    return Err(Error::LimitExceeded {
                        what: "size of one append (bytes)",
                        actual: bodies_bytes as u64,
                        max: BATCH_BYTES_MAX as u64,
                    });
                }
                let body_bytes = u32::try_from(request.frame.len() - start).unwrap_or(u32::MAX);
                request.entries.push(RecordEntry { body_bytes, ..RecordEntry::default() });
                let event_type = request.event_types.len() - 1;
                request.events.push(EventPart { id: event.id, event_type, timestamp: event.timestamp.map(|time| time.0) });
            }
            let first = request.streams.len();
            request.streams.push(StreamPart {
                aggregate_id: stream.aggregate_id,
                aggregate_type: stream.aggregate_type,
                expected: stream.expected,
                events,
                first,
            });
        }
        request.sum_bodies();
        request.link_streams();
        request.check_ids()?;
        Ok(request)
    }

    /// Fills in the checksums of the bodies, when all are there: summed one by one as they are written, each would wait for
    /// the processor's pending writes, which takes longer than the sum.
    fn sum_bodies(&mut self) {
        let mut bodies = &self.frame[self.bodies_start..];
        for entry in &mut self.entries {
            let (body, rest) = bodies.split_at(entry.body_bytes as usize);
            entry.body_checksum = checksum(BODY_SEED, body);
            bodies = rest;
        }
    }

    /// Finds the parts that go to the same stream.
    fn link_streams(&mut self) {
        if self.streams.len() < 2 {
            return;
        }
        let mut firsts: HashMap<&str, usize> = HashMap::with_capacity(self.streams.len());
        let links: Vec<usize> = self.streams.iter().enumerate().map(|(index, part)| *firsts.entry(&part.aggregate_id).or_insert(index)).collect();
        for (part, first) in self.streams.iter_mut().zip(links) {
            part.first = first;
        }
    }

    fn check_ids(&self) -> Result<()> {
        let twice = |event_id: Uuid| Error::EventIdConflict { event_id, reason: EventIdProblem::TwiceInBatch };
        if self.events.is_sorted_by(|one, next| one.id < next.id) {
            return Ok(());
        }
        if self.events.len() <= FEW {
            for (index, event) in self.events.iter().enumerate() {
                if self.events[..index].iter().any(|before| before.id == event.id) {
                    return Err(twice(event.id));
                }
            }
            return Ok(());
        }
        let mut seen = HashSet::with_capacity(self.events.len());
        self.events.iter().find(|event| !seen.insert(event.id)).map_or(Ok(()), |event| Err(twice(event.id)))
    }

    fn key<'a>(&'a self, part: &'a StreamPart) -> StreamKey<'a> {
        // The store's own stream has no tenant.
        let tenant = if part.aggregate_id == SYSTEM { "" } else { &*self.tenant };
        StreamKey { tenant, aggregate_id: &part.aggregate_id }
    }

    /// The stream part of each event, in order.
    fn parts(&self) -> impl Iterator<Item = &StreamPart> {
        self.streams.iter().flat_map(|part| std::iter::repeat_n(part, part.events as usize))
    }

    /// Whether `stored`, at the place of this batch's event, is that event, whose body begins at `start`.
    fn is_stored_as(&self, index: usize, start: usize, part: &StreamPart, stored: &Event) -> Result<(), EventIdProblem> {
        let event = &self.events[index];
        if stored.id() != event.id || (stored.tenant(), stored.aggregate_id()) != (&*self.tenant, &*part.aggregate_id) {
            return Err(EventIdProblem::PartlyStored);
        }
        let body = &self.frame[start..start + self.entries[index].body_bytes as usize];
        if stored.has_same_content(body) { Ok(()) } else { Err(EventIdProblem::DifferentEvent) }
    }

    /// Takes in that the log has the id of the event number `index` at `position`; whether that answers the request.
    fn is_stored(&mut self, index: usize, position: u64, writer: &Arc<Writer<Deciding>>) -> Result<bool> {
        self.known = if self.restoring.is_none() {
            Some(self.compare(index, position, writer))
        } else if is_left_out(position, writer)? {
            None
        } else {
            Some(Err(self.stored_elsewhere(index)))
        };
        Ok(self.known.is_some())
    }

    /// Whether the log holds this whole batch, given that it holds the event number `index` at `position`.
    fn compare(&self, index: usize, position: u64, writer: &Writer<Deciding>) -> Result<Vec<Receipt>> {
        let conflict = |index: usize, reason| Error::EventIdConflict { event_id: self.events[index].id, reason };
        let count = self.events.len() as u64;
        let Some(first) = position.checked_sub(index as u64).filter(|first| *first > 0 && first + count - 1 <= writer.visible()) else {
            return Err(conflict(index, EventIdProblem::PartlyStored));
        };
        let mut receipts = Vec::with_capacity(self.streams.len());
        let mut parts = self.parts();
        let mut stored_at = Vec::with_capacity(self.events.len());
        let (mut number, mut start) = (0, self.bodies_start);
        while number < self.events.len() {
            let mut locations = Vec::new();
            locate_all(writer, (first + number as u64, first + count - 1), &mut locations)?;
            let fetched = read_locations(&writer.segments(), &locations, &mut Buffers::default())?;
            if fetched.events.len() < fetched.looked_at {
                // Of what was taken out nobody can tell whether it is the same.
                return Err(conflict(index, EventIdProblem::PartlyStored));
            }
            for stored in fetched.events {
                let Some(part) = parts.next() else { break };
                self.is_stored_as(number, start, part, &stored).map_err(|reason| {
                    let differing = if reason == EventIdProblem::DifferentEvent { number } else { index };
                    conflict(differing, reason)
                })?;
                stored_at.push((stored.position(), stored.version()));
                start += self.entries[number].body_bytes as usize;
                number += 1;
            }
        }
        let mut end = 0;
        for part in &self.streams {
            end += part.events as usize;
            let (position, version) = if part.events > 0 {
                stored_at[end - 1]
            } else {
                let key = self.key(part);
                let version = visible_tip(writer, &key)?.map_or(0, |tip| tip.version);
                // Of a deleted one nothing but its deletion may be left.
                let deleted_at = writer.with(|deciding| deciding.kept(&key)).map_or(0, |kept| kept.after);
                (Position(writer.visible()), AggregateVersion(version.max(deleted_at)))
            };
            receipts.push(self.receipt(part, position, version));
        }
        Ok(receipts)
    }

    fn receipt(&self, part: &StreamPart, position: Position, version: AggregateVersion) -> Receipt {
        Receipt { aggregate_id: part.aggregate_id.clone(), position, version, events: part.events, durability: self.durability }
    }
}

/// How long the bodies of a batch will be, but for metadata and tags, and no more than a batch may have.
fn bodies_bytes(tenant: &str, appends: &[StreamAppend]) -> usize {
    let stream_bytes = |stream: &StreamAppend| {
        let same = body::NAMES + tenant.len() + stream.aggregate_id.len() + stream.aggregate_type.len();
        stream.events.iter().map(|event| same + event.event_type.len() + event.data.as_bytes().len()).sum::<usize>()
    };
    appends.iter().map(stream_bytes).sum::<usize>().min(BATCH_BYTES_MAX)
}

/// The answer to a task of the writer.
pub(crate) enum Answer {
    Receipts(Vec<Receipt>),
    Position(u64),
}

/// Decides appends by the index.
pub(crate) struct Deciding {
    pub(crate) index: Index,
    pub(crate) sealed: Sealed,
    pub(crate) indexing: Arc<Indexing>,
    /// Deletions and limits that readers can see,
    pub(crate) keeping: Arc<Keeping>,
    /// and those that they cannot see yet.
    pub(crate) in_flight: InFlight,
    pub(crate) packing: Arc<Packing>,
}

impl Deciding {
    /// The position of the log's first event.
    pub(crate) fn first_position(&self) -> u64 {
        self.sealed.iter().next().map_or_else(|| self.index.active().first_position(), |first| first.named.base_position)
    }

    /// Whether none of the ids is in the store. Else the request is told where to look, or to wait.
    fn ids_are_new(&self, request: &mut Request, visible: u64) -> Result<(), Decision<Result<Answer>>> {
        request.to_look.clear();
        if !request.cold.ids_are_absent {
            let smallest = request.events.iter().map(|event| event.id).min();
            request.cold.ids_to_find |= smallest.is_some_and(|smallest| self.sealed.all_smaller(smallest) != Some(true));
        }
        for (number, event) in request.events.iter().enumerate() {
            match self.index.find_id(event.id, request.absent_up_to, visible) {
                IdLookup::Absent => {}
                // What is restored comes in its order, and no id twice: there is nothing to wait for.
                IdLookup::InFlight if request.restoring.is_some() => return Err(Decision::Answer(Err(request.stored_elsewhere(number)))),
                IdLookup::InFlight => return Err(Decision::AgainAfterGroup),
                IdLookup::Look(candidates) => request.to_look.push((number, candidates)),
            }
        }
        if request.to_look.is_empty() && !request.cold.ids_to_find {
            return Ok(());
        }
        request.looking_up_to = visible;
        self.have_looked(request);
        Err(Decision::Look)
    }

    /// Assigns versions and positions to the events of a request that was accepted.
    fn assign_places(&mut self, request: &mut Request, place: &Place) -> Result<Vec<Receipt>> {
        self.index.active().has_room_for(request.events.len())?;
        let mut receipts = Vec::with_capacity(request.streams.len());
        let mut number = 0;
        let mut last_kind: Option<(usize, KindId)> = None;
        for part in &request.streams {
            // Not by `key`: the entries are written to meanwhile.
            let tenant = if part.aggregate_id == SYSTEM { "" } else { &*request.tenant };
            let key = StreamKey { tenant, aggregate_id: &part.aggregate_id };
            let goes_on_after = self.kept(&key).map_or(0, |kept| kept.after);
            let cold = request.cold.streams.get(&part.first).map(|cold| cold.before);
            if part.events == 0 {
                let version = match self.index.standing(&key) {
                    Standing::Known(tip) => tip.version,
                    Standing::Absent | Standing::Cold => cold.map_or(0, |cold| cold.version),
                };
                let version = AggregateVersion(version.max(goes_on_after));
                receipts.push(request.receipt(part, Position(place.position + number as u64 - 1), version));
                continue;
            }
            let stream = self.index.stream_to_append(&key, &part.aggregate_type, cold, goes_on_after)?;
            let index = self.index.active_mut();
            for _ in 0..part.events {
                let event = &request.events[number];
                let kind = match last_kind {
                    Some((event_type, kind)) if event_type == event.event_type => kind,
                    _ => index.kind(stream, &request.event_types[event.event_type]),
                };
                last_kind = Some((event.event_type, kind));
                let lsn = place.lsn + (frame_header::BYTES + number * record_entry::BYTES) as u64;
                let entry = &mut request.entries[number];
                entry.version = index.push(stream, kind, event.id, lsn);
                entry.timestamp = event.timestamp.unwrap_or(place.commit_time);
                number += 1;
            }
            let position = Position(place.position + number as u64 - 1);
            receipts.push(request.receipt(part, position, AggregateVersion(index.version(stream))));
        }
        Ok(receipts)
    }
}

impl Decider for Deciding {
    type Request = Request;
    type Answer = Result<Answer>;

    fn size(request: &Request) -> (usize, usize) {
        (request.entries.len(), request.frame.len() - request.bodies_start)
    }

    fn decide(&mut self, request: &mut Request, place: &Place) -> Decision<Result<Answer>> {
        if let Some(known) = request.known.take() {
            return Decision::Answer(known.map(Answer::Receipts));
        }
        self.forget_what_is_stale(&mut request.cold);
        if !self.keeping.is_loaded() {
            return Decision::Look;
        }
        if let Err(decision) = self.ids_are_new(request, place.visible).and_then(|()| self.streams_are_known(request)) {
            return decision;
        }
        if request.control.is_some() {
            return self.decide_control(request, place);
        }
        if let Some(restoring) = &request.restoring {
            return self.decide_restoring(request, restoring, place);
        }
        match self.stand(request, place.visible) {
            Err((error, false)) => Decision::Answer(Err(error)),
            Err((error, true)) => Decision::AnswerWithGroup(Err(error)),
            Ok((standings, in_flight)) if request.events.is_empty() => {
                let receipts = request.streams.iter().zip(&standings).map(|(part, standing)| {
                    let position = if in_flight { place.position - 1 } else { place.visible };
                    request.receipt(part, Position(position), AggregateVersion(standing.version))
                });
                let answer = Ok(Answer::Receipts(receipts.collect()));
                if in_flight { Decision::AnswerWithGroup(answer) } else { Decision::Answer(answer) }
            }
            Ok(_) => Decision::Append,
        }
    }

    fn assign(&mut self, request: &mut Request, place: &Place) -> Result<Result<Answer>> {
        if let Some(restoring) = &request.restoring {
            self.assign_restoring(request, restoring, place)?;
            return Ok(Ok(Answer::Position(place.position + request.entries.len() as u64 - 1)));
        }
        let mut receipts = self.assign_places(request, place)?;
        if let Some(notice) = request.control.take().and_then(|control| control.said) {
            self.in_flight.push(place.position, notice);
            receipts.truncate(1);
            receipts[0].position = Position(place.position);
        }
        Ok(Ok(Answer::Receipts(receipts)))
    }

    fn records(request: &mut Request) -> (&[RecordEntry], &mut Vec<u8>) {
        (&request.entries, &mut request.frame)
    }

    fn look(request: &mut Request, writer: &Arc<Writer<Self>>) -> Result<()> {
        writer.with(|deciding| Arc::clone(&deciding.keeping)).load(writer)?;
        request.look_into_files(writer)?;
        request.encode_control(writer)?;
        if request.known.is_some() {
            return Ok(());
        }
        for (number, candidates) in std::mem::take(&mut request.to_look) {
            let id = request.events[number].id;
            if let Some(position) = find_in_log(id, &candidates, writer)?
                && request.is_stored(number, position, writer)?
            {
                return Ok(());
            }
        }
        request.absent_up_to = request.looking_up_to;
        Ok(())
    }

    fn published(&mut self, position: u64) {
        self.index.published(position);
        if !self.in_flight.is_empty() {
            self.in_flight.published(position, &self.keeping);
        }
    }

    fn rolled(&mut self, sealed: ManifestSegment, next: u64, position: u64) {
        let part = self.index.roll(next, position);
        self.sealed = self.sealed.and(sealed, Arc::clone(&part));
        self.indexing.push(part);
    }

    fn take_in(&mut self, segment: &Segment, frame: &Frame<'_>) -> Result<()> {
        take_in(self.index.active_mut(), segment, frame)?;
        // Each of the store's own events has a frame of its own.
        if let Some((_, _, bytes)) = frame.records().next().filter(|(_, entry, _)| frame.header.count == 1 && !entry.is_removed()) {
            let (body, names) = Body::parse(bytes).map_err(Error::configuration)?;
            if names.aggregate_id == SYSTEM {
                let position = frame.header.base_position;
                let fail = |reason| Error::Deserialization { position: Position(position), event_type: names.event_type.to_owned(), reason };
                if let Some(notice) = Notice::of(names.event_type, body.payload()).map_err(fail)? {
                    self.in_flight.push(position, notice);
                }
            }
        }
        Ok(())
    }

    fn passed_over(&mut self, sealed: &[ManifestSegment], next: u64, position: u64) {
        self.index.pass_over(next, position);
        self.sealed = self.sealed.anew(ends(sealed, position));
        self.indexing.forget();
        self.keeping.load_again();
    }

    fn before_rolling(writer: &Writer<Self>) {
        writer.with(|deciding| Arc::clone(&deciding.indexing)).wait_for_room();
    }

    fn after_rolling(writer: &Writer<Self>) {
        let (indexing, packing) = writer.with(|deciding| (Arc::clone(&deciding.indexing), Arc::clone(&deciding.packing)));
        indexing.after_rolling();
        packing.work_if_sealer();
    }

    fn before_unlocking(writer: &Writer<Self>) {
        let (indexing, packing) = writer.with(|deciding| (Arc::clone(&deciding.indexing), Arc::clone(&deciding.packing)));
        packing.stop();
        indexing.end();
        packing.end();
    }

    fn files_released(writer: &Arc<Writer<Self>>) {
        writer.with(|deciding| Arc::clone(&deciding.packing)).files_released();
    }

    fn let_go_of_files(&mut self) {
        self.sealed = self.sealed.anew(Vec::new());
    }

    fn failed(error: Error) -> Result<Answer> {
        Err(error)
    }

    fn synced(position: u64) -> Result<Answer> {
        Ok(Answer::Position(position))
    }
}

/// Where the first of the events at these positions are.
fn locate_all(writer: &Writer<Deciding>, range: (u64, u64), out: &mut Vec<Location>) -> Result<()> {
    let all = ReadAll::new().include_system();
    locate(writer, range, false, (&all, &SealedFilter::new(all.clone())), AT_ONCE, out).map(drop)
}

/// The event at a position; `None` if it was taken out.
fn event_at(position: u64, writer: &Writer<Deciding>) -> Result<Option<Event>> {
    let mut locations = Vec::new();
    locate_all(writer, (position, position), &mut locations)?;
    Ok(read_locations(&writer.segments(), &locations, &mut Buffers::default())?.events.into_iter().next())
}

/// Which of the candidates has the id.
fn find_in_log(id: Uuid, candidates: &Candidates, writer: &Writer<Deciding>) -> Result<Option<u64>> {
    let ranges = candidates.positions.iter().map(|position| (*position, *position)).chain(candidates.ranges.iter().copied());
    for (mut from, to) in ranges {
        while from <= to {
            let mut locations = Vec::new();
            locate_all(writer, (from, to), &mut locations)?;
            let fetched = read_locations(&writer.segments(), &locations, &mut Buffers::default())?;
            if let Some(event) = fetched.events.iter().find(|event| event.id() == id) {
                return Ok(Some(event.position().0));
            }
            from += fetched.looked_at as u64;
        }
    }
    Ok(None)
}
