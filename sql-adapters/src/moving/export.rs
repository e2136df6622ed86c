//! Export: every event of a source that the target does not have yet, as it is.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{Error, EventStore, HistoryItem, Position, Result};

use super::continuing::Continued;
use super::limits;
use super::source::{Source, StoreSource};
use super::{Origin, Progress, Standing};
use crate::config::Store;

/// How many positions are stored in one transaction, and how many bytes of payload.
const CHUNK: (u64, usize) = (16_384, 8 << 20);
/// How long a store that is not available is tried again, and the pauses between.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// What moving has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// How many events were stored in this run.
    pub events: u64,
    /// The last position of the target.
    pub position: Position,
    /// Whether everything was moved; false if it was stopped before.
    pub complete: bool,
}

/// Moves every event of `source` that is not in `target` yet, with its position, id, version, timestamp and payload. What could
/// still be lost is made durable first.
///
/// Deletions and limits are moved with the events: what the source leaves out, the target leaves out as well, at the same positions, and an
/// aggregate that was deleted goes on with its versions there. A target that has events already which were deleted since leaves them out
/// once it has the system event that says so.
///
/// The target keeps whose events it has, in the same transaction as the events: an export that was interrupted, even by the
/// end of the process or the server, goes on where it ended when it is called again, and calling it once more changes nothing.
/// After every transaction `progress` is told, and can stop it; also while it waits for a store that is not available.
/// A source that is opened for it is best opened as an [`existing`](crate::Config::existing) one: a mistyped place would be made.
///
/// # Errors
/// [`Diverged`](Error::Diverged) if the target holds events that are not the source's; then nothing was written. Those of reading
/// and of appending; a store that is not available is tried again for 30 s. [`Configuration`](Error::Configuration) if both are the
/// same store, or one is a backup of the other. [`Unsupported`](Error::Unsupported) if the source has
/// lost an event; or if the target is a database and aggregates of the source have limits that leave out more and more (`max_age`, `max_count`, or
/// a `truncate_before` that is not reached yet): then nothing was written, or what comes before a limit that was set meanwhile.
///
/// ```
/// use std::ops::ControlFlow;
/// use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent};
/// use eventuali_sql::{Config, export, verify};
///
/// let source = LogStore::memory()?;
/// let placed = NewEvent::json("OrderPlaced", &serde_json::json!({"total": 12}))?;
/// source.append(AppendBatch::one("order-42", "Order", ExpectedVersion::NoStream, vec![placed])).wait()?;
///
/// let target = Config::sqlite_in_memory().open()?;
/// let moved = export(&source, &target, |progress| {
///     println!("{} events, {:?} left", progress.events, progress.time_left());
///     ControlFlow::Continue(())
/// })?;
/// assert!(moved.complete && moved.events == 1);
/// assert_eq!(verify(&source, target.as_dyn(), |_| ControlFlow::Continue(()))?.difference, None);
/// # Ok::<(), eventuali::Error>(())
/// ```
pub fn export(source: &dyn EventStore, target: &Store, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Moved> {
    move_events(&mut StoreSource::whole(source), target, progress)
}

pub(super) fn move_events(source: &mut dyn Source<'_>, target: &Store, mut progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Moved> {
    let mut run = Run { start: Instant::now(), events: 0, position: 0, last_position: None };
    let mut available = Instant::now();
    loop {
        let before = run.position;
        match pass(source, target, &mut run, &mut progress) {
            Ok(complete) => return Ok(Moved { events: run.events, position: Position(run.position), complete }),
            Err(error @ (Error::Unavailable { .. } | Error::OutcomeUnknown { .. })) => {
                if run.position > before {
                    available = Instant::now();
                }
                if !source.reads_again() || available.elapsed() > PATIENCE {
                    return Err(error);
                }
                if progress(&run.progress()).is_break() {
                    return Ok(Moved { events: run.events, position: Position(run.position), complete: false });
                }
                // What was committed last is read from the target again.
                tracing::warn!(%error, "moving events is tried again");
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

struct Run {
    start: Instant,
    events: u64,
    position: u64,
    /// Of the source, as it was when it was last read.
    last_position: Option<u64>,
}

impl Run {
    fn progress(&self) -> Progress {
        Progress { position: self.position, last_position: self.last_position, events: self.events, elapsed: self.start.elapsed() }
    }
}

/// Moves what the target does not have; whether that was everything.
fn pass(source: &mut dyn Source<'_>, target: &Store, run: &mut Run, progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>) -> Result<bool> {
    let identity = source.identity()?;
    let origin = Origin { store_id: identity.store_id, epoch: identity.epoch };
    let last_position = source.last_position()?;
    let Standing { head, origin: known } = target.standing()?;
    let diverged = |position: u64, reason: String| Error::Diverged { target: target.shown(), position: Position(position), reason };
    match known {
        Some((store_id, _)) if store_id != origin.store_id => {
            return Err(diverged(1, format!("its events are those of the store {store_id}, not of {}", origin.store_id)));
        }
        Some((_, position)) if position != head => return Err(diverged(position + 1, "it has events of its own from there on".to_owned())),
        _ => {}
    }
    if known.is_none() && source.store().is_some() && target.as_dyn().identity().wait()?.store_id == origin.store_id {
        return Err(Error::configuration("the source and the target are the same store, or one is a backup of the other: name two stores"));
    }
    // A source that was opened again may not know yet how much of it is durable: that is no difference.
    if last_position.is_some_and(|last| last < head)
        && let Some(last) = source.head()?.filter(|last| *last < head)
    {
        return Err(diverged(last + 1, format!("it has events up to position {head}, which the source does not have")));
    }
    limits::refuse(source, target, head)?;
    (run.position, run.last_position) = (head, last_position);
    let mut continued = Continued::find(source, target, head, known.is_some())?;
    let mut chunk = Chunk::default();
    let from_store = source.store();
    let mut new = Vec::new();
    for batch in source.read_from(continued.from())? {
        for item in batch? {
            continued.pass(item, &mut new)?;
        }
        for item in new.drain(..) {
            limits::check(&item, from_store, target)?;
            let next = run.position + chunk.positions + 1;
            if item.first().0 != next {
                return Err(missing(next));
            }
            let mut rest = Some(item);
            while let Some(item) = rest.take() {
                rest = chunk.push(item);
                if chunk.is_full() && store(target, origin, std::mem::take(&mut chunk), run, progress)?.is_break() {
                    return Ok(false);
                }
            }
        }
    }
    continued.end()?;
    let stopped = chunk.positions > 0 && store(target, origin, chunk, run, progress)?.is_break();
    if !stopped && last_position.is_some_and(|last| last > run.position) {
        return Err(missing(run.position + 1));
    }
    Ok(!stopped)
}

/// What is stored in one transaction.
#[derive(Default)]
struct Chunk {
    items: Vec<HistoryItem>,
    positions: u64,
    events: u64,
    bytes: usize,
}

impl Chunk {
    /// Adds an item; gives back what is left of it for the next chunk.
    fn push(&mut self, item: HistoryItem) -> Option<HistoryItem> {
        let (first, last) = (item.first(), item.last());
        let HistoryItem::LeftOut { .. } = item else {
            if let HistoryItem::Event(event) = &item {
                self.bytes += event.payload().len();
            }
            self.positions += 1;
            self.events += 1;
            self.items.push(item);
            return None;
        };
        let end = Position(last.0.min(first.0.saturating_add(CHUNK.0 - self.positions - 1)));
        self.positions += end.0 - first.0 + 1;
        self.items.push(HistoryItem::LeftOut { first, last: end });
        (end < last).then_some(HistoryItem::LeftOut { first: Position(end.0 + 1), last })
    }

    fn is_full(&self) -> bool {
        self.positions >= CHUNK.0 || self.bytes >= CHUNK.1
    }
}

/// The refusal of a source that has lost an event.
fn missing(position: u64) -> Error {
    Error::Unsupported {
        message: format!(
            "the source has no event at position {position}, where it must have had one: nothing behind it was moved; restore the source from a backup"
        ),
    }
}

fn store(
    target: &Store,
    origin: Origin,
    chunk: Chunk,
    run: &mut Run,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let position = chunk.items.last().map_or(0, |item| item.last().0);
    target.restore(origin, chunk.items)?;
    run.events += chunk.events;
    run.position = position;
    Ok(progress(&run.progress()))
}
