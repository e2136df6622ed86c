//! Verify: both stores read whole, and their digests compared range by range.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use eventuali::{Event, EventStore, Position, ReadAll, Result, Timestamp};

use super::differing::{differing, digested};
use super::{Difference, DifferenceKind, Progress};

/// How many positions share a digest.
const RANGE: u64 = 4096;
/// How many bytes are digested at once: many are several times faster than few.
const DIGESTED_BYTES: usize = 64 << 10;
/// How many ranges one side may be ahead of the other.
const AHEAD: usize = 16;

/// What verifying found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// How many events of the source were compared.
    pub events: u64,
    /// At how many of the positions that were compared neither has an event, because it was deleted or limits leave it out.
    pub left_out: u64,
    /// The digest of everything that was compared: equal for equal histories, wherever they are stored. `None` if they differ.
    pub digest: Option<String>,
    /// The first event in which they differ; `None` if they are equal.
    pub difference: Option<Difference>,
    /// Whether everything was compared; false if it was stopped before.
    pub complete: bool,
}

/// Compares everything that two stores hold, as it is stored: positions, ids, names, versions, timestamps, payloads (JSON as
/// values, to the last digit and character), metadata and tags. On a difference it names the first event that differs. What either leaves
/// out is compared as of one moment: an event that one of them leaves out and the other does not is a difference.
///
/// # Errors
/// Those of reading either store.
pub fn verify(source: &dyn EventStore, target: &dyn EventStore, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Verified> {
    let (start, now) = (Instant::now(), Timestamp::now());
    let last_position = source.head().wait()?.0.max(target.head().wait()?.0);
    let mut all = blake3::Hasher::new();
    let (mut events, mut position) = (0, 0);
    let (from_source, from_target) = (sync_channel(AHEAD), sync_channel(AHEAD));
    let ended = thread::scope(|scope| -> Result<Ended> {
        let (sources, targets) = (from_source.1, from_target.1);
        scope.spawn(move || digest(source, (last_position, now), &from_source.0));
        scope.spawn(move || digest(target, (last_position, now), &from_target.0));
        loop {
            let (one, other) = (next(&sources)?, next(&targets)?);
            let (Some(one), Some(other)) = (one, other) else { return Ok(Ended::Equal) };
            if (one.digest, one.events) != (other.digest, other.events) {
                return Ok(Ended::Differ(one.first));
            }
            all.update(one.digest.as_bytes());
            events += one.events;
            position = (one.first + RANGE - 1).min(last_position);
            if progress(&Progress { position, last_position: Some(last_position), events, elapsed: start.elapsed() }).is_break() {
                return Ok(Ended::Stopped);
            }
        }
    })?;
    let left_out = position.saturating_sub(events);
    match ended {
        Ended::Equal => {
            let difference = stray(source, target, last_position)?;
            let digest = difference.is_none().then(|| all.finalize().to_hex().to_string());
            Ok(Verified { events, left_out, digest, difference, complete: true })
        }
        Ended::Stopped => Ok(Verified { events, left_out, digest: None, difference: None, complete: false }),
        Ended::Differ(first) => Ok(Verified { events, left_out, digest: None, difference: find(source, target, first, now)?, complete: true }),
    }
}

enum Ended {
    Equal,
    Differ(u64),
    Stopped,
}

/// The digest of the events of a range of positions.
struct RangeDigest {
    first: u64,
    events: u64,
    digest: blake3::Hash,
}

/// The next range, or that there is none, or why it could not be read.
fn next(digests: &Receiver<Result<RangeDigest>>) -> Result<Option<RangeDigest>> {
    digests.recv().map_or(Ok(None), |digest| digest.map(Some))
}

/// Reads a store and sends the digest of each range, also of those without events.
fn digest(store: &dyn EventStore, (last_position, now): (u64, Timestamp), digests: &SyncSender<Result<RangeDigest>>) {
    let mut reader = store.read_all(ReadAll::new().before(Position(last_position.saturating_add(1))).include_system().now(now));
    let mut first = 1;
    let mut events = 0;
    let mut bytes = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let send = |first: u64, events: u64, bytes: &mut Vec<u8>, hasher: &mut blake3::Hasher| {
        let digest = RangeDigest { first, events, digest: hasher.update(bytes).finalize() };
        bytes.clear();
        hasher.reset();
        // Who compares may have seen enough.
        digests.send(Ok(digest)).is_ok()
    };
    loop {
        let batch = match reader.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => return drop(digests.send(Err(error))),
        };
        for event in &batch {
            while event.position().0 >= first + RANGE {
                if !send(first, events, &mut bytes, &mut hasher) {
                    return;
                }
                (first, events) = (first + RANGE, 0);
            }
            if let Err(error) = digested(event, &mut bytes) {
                return drop(digests.send(Err(error)));
            }
            if bytes.len() >= DIGESTED_BYTES {
                hasher.update(&bytes);
                bytes.clear();
            }
            events += 1;
        }
    }
    while first <= last_position {
        if !send(first, events, &mut bytes, &mut hasher) {
            return;
        }
        (first, events) = (first + RANGE, 0);
    }
}

/// An event that one of them has behind its head, where no append has put it.
fn stray(source: &dyn EventStore, target: &dyn EventStore, last_position: u64) -> Result<Option<Difference>> {
    let behind = |store: &dyn EventStore| -> Result<Option<Event>> {
        let found = store.read_all(ReadAll::new().after(Position(last_position)).include_system().limit(1)).next().transpose()?;
        // What was appended since is not behind the head, which moves with it.
        let head = store.head().wait()?;
        Ok(found.filter(|event| event.position() > head))
    };
    let (source_event, target_event) = (behind(source)?, behind(target)?);
    let at = |event: &Option<Event>| event.as_ref().map(Event::position);
    let (position, kind) = match (at(&source_event), at(&target_event)) {
        (None, None) => return Ok(None),
        (Some(here), Some(there)) if there < here => (there, DifferenceKind::MissingInSource),
        (Some(here), _) => (here, DifferenceKind::MissingInTarget),
        (None, Some(there)) => (there, DifferenceKind::MissingInSource),
    };
    Ok(Some(Difference { position, kind, source_event: source_event.map(|event| event.id()), target_event: target_event.map(|event| event.id()) }))
}

/// The first event that differs in a range whose digests do.
fn find(source: &dyn EventStore, target: &dyn EventStore, first: u64, now: Timestamp) -> Result<Option<Difference>> {
    let read = |store: &dyn EventStore| -> Result<Vec<Event>> {
        store.read_all(ReadAll::new().after(Position(first - 1)).before(Position(first + RANGE)).include_system().now(now)).collect()
    };
    let (sources, targets) = (read(source)?, read(target)?);
    let (mut one, mut other) = (sources.iter().peekable(), targets.iter().peekable());
    loop {
        let at = |event: Option<&&Event>| event.map_or(u64::MAX, |event| event.position().0);
        let (here, there) = (at(one.peek()), at(other.peek()));
        let (source_event, target_event) = (one.next_if(|event| event.position().0 <= there), other.next_if(|event| event.position().0 <= here));
        let kind = match (source_event, target_event) {
            // It was changed while it was compared, or changed back.
            (None, None) => return Ok(None),
            (Some(_), None) => DifferenceKind::MissingInTarget,
            (None, Some(_)) => DifferenceKind::MissingInSource,
            (Some(one), Some(other)) => match differing(one, other)? {
                parts if parts.is_empty() => continue,
                parts => DifferenceKind::Differs(parts),
            },
        };
        let position = Position(here.min(there));
        return Ok(Some(Difference { position, kind, source_event: source_event.map(Event::id), target_event: target_event.map(Event::id) }));
    }
}
