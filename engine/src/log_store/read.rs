//! Reading: locations from the index, bytes from the segments, every checksum verified.

mod versions;

use std::sync::Arc;
use std::task::{Context, Poll};

use super::append::Deciding;
use super::keeping::{Checks, Keeping, first_live};
use super::sealed::{Files, Sealed, SealedFilter, Span};
use crate::codec::BodyLayout;
use crate::error::{Corruption, Error, Result};
use crate::event::{Event, StreamKey, Timestamp};
use crate::index::{Before, Location, Standing, Tip};
use crate::log::compressed::Damage;
use crate::log::format::{BODY_SEED, RecordEntry, checksum, record_entry};
use crate::log::segment::{Bytes, Segment};
use crate::log::segments::Segments;
use crate::log::sys;
use crate::log::writer::Writer;
use crate::store::{BatchSource, ReadAll, ReadStream};
use crate::version::{AggregateVersion, Position};
use versions::locate_versions;

/// How many events a batch has at most.
const BATCH_EVENTS: usize = 1024;
/// How many bytes a batch has at most, unless one event is larger.
const BATCH_BYTES: u64 = 256 << 10;
/// Two places that are closer than this are read together.
const GAP_BYTES: u64 = 4 << 10;
/// How much is read behind an entry in the hope that its body ends there.
const BODY_GUESS: u64 = 1 << 10;
/// How much is read behind the last of many entries in a row, whose bodies are likely to follow.
const BODIES_GUESS: u64 = 16 << 10;
/// How much of a long frame's bodies is read at once.
const BODIES_ELSEWHERE: u64 = 64 << 10;
/// From so many entries in a row on, their bodies are expected behind the last one.
const MANY: usize = 16;

/// A part of a segment that is in memory.
struct Block {
    start: u64,
    bytes: Arc<[u8]>,
    /// How much of it the file has.
    length: usize,
    /// Why it has no more, if it is not at its end.
    damage: Option<Damage>,
}

/// Memory that a reader has read into before: filled again, once no event of it is held any more.
#[derive(Default)]
pub(crate) struct Buffers(Vec<Arc<[u8]>>);

impl Buffers {
    /// How many are kept: a batch of a long frame is read in two parts.
    const KEPT: usize = 2;

    /// Memory for this many bytes, and no more than twice as much: whoever keeps an event keeps all of it.
    fn take(&mut self, length: usize) -> Arc<[u8]> {
        let fits = |bytes: &mut Arc<[u8]>| (length..=length * 2).contains(&bytes.len()) && Arc::get_mut(bytes).is_some();
        match self.0.iter_mut().position(fits) {
            Some(index) => self.0.swap_remove(index),
            None => std::iter::repeat_n(0, length).collect(),
        }
    }

    fn keep(&mut self, block: Block) {
        if self.0.len() == Self::KEPT {
            self.0.remove(0);
        }
        self.0.push(block.bytes);
    }
}

impl Block {
    fn read(segment: &Segment, start: u64, end: u64, buffers: &mut Buffers) -> Result<Self> {
        let length = usize::try_from(end - start).map_err(|_| Error::configuration("a record is larger than memory"))?;
        let mut bytes = buffers.take(length);
        let Bytes { read: length, damage } = match Arc::get_mut(&mut bytes) {
            Some(buffer) => segment.read_at(&mut buffer[..length], start)?,
            None => Bytes { read: 0, damage: None },
        };
        Ok(Self { start, bytes, length, damage })
    }

    /// Why something of it cannot be read.
    fn missing(&self, otherwise: &'static str) -> &'static str {
        self.damage.map_or(otherwise, |damage| damage.reason)
    }

    /// Where `start..end` of the file lies in the block.
    fn range(&self, start: u64, end: u64) -> Option<(usize, usize)> {
        let from = usize::try_from(start.checked_sub(self.start)?).ok()?;
        let length = usize::try_from(end - start).ok()?;
        (from + length <= self.length).then_some((from, length))
    }
}

/// What was read of a list of locations.
pub(crate) struct Fetched {
    pub(crate) events: Vec<Event>,
    /// How many of the first locations were looked at: more than there are events where records were taken out.
    pub(crate) looked_at: usize,
}

/// Reads the events at these locations, which are in order (either way), as many as fit a batch; at least one location is looked at.
pub(crate) fn read_locations(segments: &Segments, locations: &[Location], buffers: &mut Buffers) -> Result<Fetched> {
    let mut events: Vec<Event> = Vec::with_capacity(locations.len().min(BATCH_EVENTS));
    let mut read_bytes = 0;
    let mut body_bytes = 0;
    let mut looked_at = 0;
    let mut rest = locations;
    let mut full = false;
    while let Some(first) = rest.first().filter(|_| !full) {
        let (segment, end_lsn) = segments.holding(first.lsn)?;
        let segment = &*segment;
        let run = run_of(segment, end_lsn, rest);
        let (start, end) = run.span;
        if read_bytes + (end - start) > BATCH_BYTES && read_bytes > 0 {
            break;
        }
        read_bytes += end - start;
        let block = Block::read(segment, start, end, buffers)?;
        // Bodies that lie elsewhere: those of a long frame, one after the other behind its table.
        let mut bodies: Option<Block> = None;
        for location in &rest[..run.count] {
            let (entry, (from, to)) = entry_at(segment, *location, &block)?;
            if entry.is_removed() && !entry.is_unknown() {
                looked_at += 1;
                continue;
            }
            body_bytes += to - from;
            full = body_bytes > BATCH_BYTES && !events.is_empty();
            if full {
                break;
            }
            let holds = |block: &&Block| block.range(from, to).is_some();
            let found = if let Some(found) = Some(&block).filter(holds).or(bodies.as_ref().filter(holds)) {
                found
            } else {
                bodies.take().into_iter().for_each(|used| buffers.keep(used));
                bodies.insert(Block::read(segment, from, to.max(from + run.bodies_guess), buffers)?)
            };
            events.push(event(segment, *location, &entry, (from, to), found)?);
            looked_at += 1;
        }
        bodies.into_iter().chain([block]).for_each(|used| buffers.keep(used));
        rest = &rest[run.count..];
    }
    Ok(Fetched { events, looked_at })
}

struct Run {
    count: usize,
    span: (u64, u64),
    /// How much is read at least where a body lies elsewhere.
    bodies_guess: u64,
}

/// How many of the next locations are read together, and from where to where.
fn run_of(segment: &Segment, end_lsn: u64, locations: &[Location]) -> Run {
    let at = |location: &Location| segment.offset(location.lsn);
    let entry_end = |start: u64| start + record_entry::BYTES as u64;
    let first = at(&locations[0]);
    let (mut low, mut high) = (first, entry_end(first));
    let mut count = 1;
    for location in &locations[1..] {
        if !(segment.header.base_lsn..end_lsn).contains(&location.lsn) {
            break;
        }
        let start = at(location);
        let (new_low, new_high) = (low.min(start), high.max(entry_end(start)));
        let next_to_it = location.position.abs_diff(locations[count - 1].position) == 1;
        let gap = if start >= high { start - high } else { low.saturating_sub(entry_end(start)) };
        if (gap > GAP_BYTES && !next_to_it) || new_high - new_low > BATCH_BYTES {
            break;
        }
        (low, high) = (new_low, new_high);
        count += 1;
    }
    let many = count >= MANY;
    let forwards = low == first;
    Run { count, span: (low, high + if many { BODIES_GUESS } else { BODY_GUESS }), bodies_guess: if many && forwards { BODIES_ELSEWHERE } else { 0 } }
}

fn damaged(segment: &Segment, offset: u64, location: Location, reason: &str) -> Error {
    segment.corruption(offset, location.position - 1, reason).into()
}

/// Reads and verifies the entry at a location, and says from where to where its body lies.
fn entry_at(segment: &Segment, location: Location, block: &Block) -> Result<(RecordEntry, (u64, u64))> {
    let at = segment.offset(location.lsn);
    let Some((start, length)) = block.range(at, at + record_entry::BYTES as u64) else {
        return Err(damaged(segment, at, location, block.missing("the file ends before this record")));
    };
    let Some(entry) = RecordEntry::decode(&block.bytes[start..start + length], segment.seed) else {
        return Err(damaged(segment, at, location, "the record's entry does not match its checksum"));
    };
    let body = at + u64::from(entry.body_offset);
    Ok((entry, (body, body + u64::from(entry.body_bytes))))
}

/// Verifies a record's body, and makes the event.
fn event(segment: &Segment, location: Location, entry: &RecordEntry, (from, to): (u64, u64), block: &Block) -> Result<Event> {
    let damaged = |reason: &str| damaged(segment, from, location, reason);
    let Some((start, length)) = block.range(from, to) else {
        return Err(damaged(block.missing("the file ends within this record")));
    };
    if entry.is_unknown() {
        return Err(damaged("the record is stored in a way that only a newer release knows; open the store with that release"));
    }
    if checksum(BODY_SEED, &block.bytes[start..start + length]) != entry.body_checksum {
        return Err(damaged("the record does not match its checksum"));
    }
    let body = BodyLayout::parse(&block.bytes, start, length).map_err(damaged)?;
    Ok(Event {
        block: Arc::clone(&block.bytes),
        body,
        position: Position(location.position),
        version: AggregateVersion(entry.version),
        timestamp: Timestamp(entry.timestamp),
    })
}

/// What is still to be read: positions of the whole log, or versions of one stream; both ends included.
struct Range {
    from: u64,
    to: u64,
    backwards: bool,
    limit: u64,
}

impl Range {
    fn is_empty(&self) -> bool {
        self.from > self.to || self.limit == 0
    }

    /// Goes on behind `last`, of which `count` were delivered.
    fn advance(&mut self, last: u64, count: usize) {
        self.limit -= count as u64;
        if self.backwards {
            self.to = last - 1;
        } else {
            self.from = last + 1;
        }
    }
}

enum What {
    All(SealedFilter),
    Stream {
        tenant: String,
        aggregate_id: String,
        /// Where the stream stood when it was looked up.
        tip: Before,
        spans: Vec<Span>,
    },
    Nothing,
}

/// Where the next events to be read are found.
enum Found {
    /// In the index of the segment that is written to: these were the last that was looked at.
    Active(u64),
    /// In sealed segments.
    Sealed(Sealed),
}

/// Reads a range of the log, batch by batch.
pub(crate) struct LogReader {
    writer: Arc<Writer<Deciding>>,
    generation: u32,
    what: What,
    range: Range,
    /// Kinds are told apart by their numbers as far as they have any; the rest is sorted out here.
    query: ReadAll,
    /// What is left out; `None` where nothing was deleted or limited.
    checks: Option<Checks>,
    locations: Vec<Location>,
    buffers: Buffers,
    /// The damage that this reader comes upon: at its end, or before its beginning when it reads backwards.
    damage: Option<Corruption>,
}

/// Where a stream stands, as far as it is visible.
pub(crate) struct VisibleTip {
    pub(crate) version: u64,
    pub(crate) last_position: u64,
    pub(crate) aggregate_type: String,
    /// The segment with its last event, and what that has of it where it was looked up in index files.
    segment: u64,
    span: Option<Span>,
}

/// Looks up where a stream stands, as far as it is visible; `None` if it has no events.
pub(crate) fn visible_tip(writer: &Writer<Deciding>, key: &StreamKey<'_>) -> Result<Option<VisibleTip>> {
    let visible = writer.visible();
    let (sealed, files) = match writer.with(|deciding| match deciding.index.visible_standing(key, visible) {
        Standing::Absent => Ok(None),
        Standing::Known(Tip { version, last_position, aggregate_type, segment }) => {
            Ok(Some(VisibleTip { version, last_position, aggregate_type: aggregate_type.to_owned(), segment, span: None }))
        }
        Standing::Cold => Err(deciding.sealed.clone()),
    }) {
        Ok(found) => return Ok(found),
        Err(sealed) => (sealed, files(writer)),
    };
    let span = sealed.find(key, &files)?;
    Ok(span.map(|span| VisibleTip {
        version: span.last_version,
        last_position: span.last_position,
        aggregate_type: span.aggregate_type.clone(),
        segment: span.segment.named.sequence,
        span: Some(span),
    }))
}

/// Does what reads files, and does it again where it failed and files were replaced meanwhile. Where another process writes to the log, it
/// also makes sure that what was read is still its history.
pub(crate) fn in_files<T>(writer: &Writer<Deciding>, mut read: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        let replaced = writer.replaced_files();
        let done = read();
        writer.still_has_files()?;
        writer.refresh()?;
        if done.is_ok() || !writer.have_files_been_replaced(replaced)? {
            return done;
        }
    }
}

/// Where the bytes of the writer's log are.
pub(crate) fn files(writer: &Writer<Deciding>) -> Files {
    Files { storage: Arc::clone(writer.storage()), segments: writer.segments() }
}

/// Where the events are whose positions are `from..=to`, at most `limit` of those that the filter may want, in the direction of
/// reading. Gives the last position that was looked at.
pub(crate) fn locate(
    writer: &Writer<Deciding>,
    (from, to): (u64, u64),
    backwards: bool,
    (query, filter): (&ReadAll, &SealedFilter),
    limit: usize,
    out: &mut Vec<Location>,
) -> Result<u64> {
    let first = if backwards { to } else { from };
    let found = writer.with(|deciding| {
        let active = deciding.index.active();
        if first < active.first_position() {
            return Found::Sealed(deciding.sealed.clone());
        }
        let from = from.max(active.first_position());
        Found::Active(active.locations(from, to, backwards, active.filter(query).as_ref(), limit, out))
    });
    let sealed = match found {
        Found::Active(looked) => return Ok(looked),
        Found::Sealed(sealed) => sealed,
    };
    let Some(segment) = sealed.holding(first) else {
        return Err(Error::configuration(format!("position {first} lies in no segment")));
    };
    let range = (from.max(segment.named.base_position), to.min(segment.end_position - 1));
    sealed.locations(segment, range, backwards, filter, limit, &files(writer), out)
}

impl LogReader {
    pub(crate) fn all(writer: &Arc<Writer<Deciding>>, keeping: &Arc<Keeping>, query: ReadAll, damage: Option<&Corruption>) -> Result<Self> {
        let (head, is_kept) = keeping.with_all(writer, || Ok(writer.visible()))?;
        let checks = is_kept.then(|| Checks::new(Arc::clone(keeping), query.now));
        let first = writer.with(Deciding::first_position);
        let from = query.after.map_or(first, |after| after.0.saturating_add(1)).max(first);
        let to = query.before.map_or(head, |before| before.0.saturating_sub(1).min(head));
        let range = Range { from, to, backwards: query.backwards, limit: query.limit.unwrap_or(u64::MAX) };
        let crosses = query.before.is_none_or(|before| before.0 > head + 1);
        Ok(Self { checks, ..Self::new(writer, What::All(SealedFilter::new(query.clone())), range, query, damage.filter(|_| crosses)) })
    }

    pub(crate) fn stream(writer: &Arc<Writer<Deciding>>, keeping: &Keeping, query: ReadStream, damage: Option<&Corruption>) -> Result<Self> {
        let key = StreamKey { tenant: &query.tenant, aggregate_id: &query.aggregate_id };
        let (tip, is_kept) = keeping.with_all(writer, || in_files(writer, || visible_tip(writer, &key)))?;
        let version = tip.as_ref().map_or(0, |tip| tip.version);
        let first = if is_kept { first_live(writer, keeping, &key, version, None)? } else { 1 };
        Ok(Self::versions(writer, query, first, tip, damage))
    }

    /// All events that the log has of a stream, also those that are left out.
    pub(crate) fn raw_stream(writer: &Arc<Writer<Deciding>>, query: ReadStream) -> Result<Self> {
        let key = StreamKey { tenant: &query.tenant, aggregate_id: &query.aggregate_id };
        let tip = in_files(writer, || visible_tip(writer, &key))?;
        Ok(Self::versions(writer, query, 1, tip, None))
    }

    /// The events of a stream that stands at `tip`, from the version `first` on.
    fn versions(writer: &Arc<Writer<Deciding>>, query: ReadStream, first: u64, tip: Option<VisibleTip>, damage: Option<&Corruption>) -> Self {
        let version = tip.as_ref().map_or(0, |tip| tip.version);
        let from = query.after.map_or(1, |after| after.0.saturating_add(1)).max(first).max(1);
        let to = query.before.map_or(version, |before| before.0.saturating_sub(1).min(version));
        let range = Range { from, to, backwards: query.backwards, limit: query.limit.unwrap_or(u64::MAX) };
        let crosses = query.before.is_none_or(|before| before.0 > version + 1);
        let what = tip.map_or(What::Nothing, |VisibleTip { version, segment, span, .. }| What::Stream {
            tenant: query.tenant,
            aggregate_id: query.aggregate_id,
            tip: Before { version, segment },
            spans: span.into_iter().collect(),
        });
        Self::new(writer, what, range, ReadAll::default(), damage.filter(|_| crosses))
    }

    fn new(writer: &Arc<Writer<Deciding>>, what: What, range: Range, query: ReadAll, damage: Option<&Corruption>) -> Self {
        Self {
            writer: Arc::clone(writer),
            generation: sys::fork_generation(),
            what,
            range,
            query,
            checks: None,
            locations: Vec::new(),
            buffers: Buffers::default(),
            damage: damage.cloned(),
        }
    }

    /// The next events; none at the end.
    pub(crate) fn read(&mut self) -> Result<Vec<Event>> {
        if self.generation != sys::fork_generation() {
            return Err(Error::ForkedProcess);
        }
        if self.writer.is_closed() {
            return Err(Error::Closed);
        }
        if self.range.backwards
            && let Some(damage) = self.damage.take()
        {
            return Err(damage.into());
        }
        while !self.range.is_empty() && !matches!(self.what, What::Nothing) {
            let writer = Arc::clone(&self.writer);
            let events = in_files(&writer, || self.batch())?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        match self.damage.take().filter(|_| self.range.limit > 0) {
            Some(damage) => Err(damage.into()),
            None => Ok(Vec::new()),
        }
    }

    /// The next events of the range; none of a part of it may be wanted.
    fn batch(&mut self) -> Result<Vec<Event>> {
        let Range { from, to, backwards, limit } = self.range;
        let most = usize::try_from(limit).unwrap_or(usize::MAX).min(BATCH_EVENTS);
        let locations = &mut self.locations;
        match &mut self.what {
            What::Nothing => Ok(Vec::new()),
            What::All(filter) => {
                let looked = locate(&self.writer, (from, to), backwards, (&self.query, filter), most, locations)?;
                let Fetched { mut events, looked_at } = read_locations(&self.writer.segments(), locations, &mut self.buffers)?;
                let last = if looked_at == locations.len() { looked } else { locations[looked_at - 1].position };
                let query = &self.query;
                events.retain(|event| {
                    let (aggregate_type, event_type) = event.types();
                    query.wants(aggregate_type, event_type)
                });
                if let Some(checks) = &mut self.checks {
                    checks.retain(&self.writer, &mut events)?;
                }
                self.range.advance(last, events.len());
                Ok(events)
            }
            What::Stream { tenant, aggregate_id, tip, spans } => {
                let key = StreamKey { tenant, aggregate_id };
                let Some((first, last)) = locate_versions(&self.writer, &key, (*tip, spans), (from, to), (backwards, most), locations)? else {
                    // What is left of the range was taken out while it was read.
                    self.range.limit = 0;
                    return Ok(Vec::new());
                };
                if backwards {
                    locations.reverse();
                }
                let Fetched { events, looked_at } = read_locations(&self.writer.segments(), locations, &mut self.buffers)?;
                let end = match events.last() {
                    _ if looked_at == locations.len() => {
                        if backwards {
                            first
                        } else {
                            last
                        }
                    }
                    Some(event) => event.version().0,
                    None if backwards => last + 1 - looked_at as u64,
                    None => first + looked_at as u64 - 1,
                };
                self.range.advance(end, events.len());
                Ok(events)
            }
        }
    }
}

impl BatchSource for LogReader {
    /// Always ready: what it waits for is at most a read of the disk.
    fn poll_batch(&mut self, _context: &mut Context<'_>) -> Poll<Result<Vec<Event>>> {
        Poll::Ready(self.read())
    }

    fn wait_batch(&mut self) -> Result<Vec<Event>> {
        self.read()
    }
}
