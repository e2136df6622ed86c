//! Nobody starves the loop: counts what was done since the event loop last had a turn.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// After so many operations the loop gets a turn.
const OPERATIONS_MAX: u32 = 128;
/// After so long the loop gets a turn, however few operations it was.
const SPAN_MAX: Duration = Duration::from_millis(1);
/// The clock is read once for so much work: reading it costs as much as a hundredth of a save.
const CLOCK_EVERY: u32 = 8;

struct Turn {
    operations: Cell<u32>,
    work: Cell<u32>,
    began: Cell<Option<Instant>>,
}

thread_local! {
    static TURN: Turn = const { Turn { operations: Cell::new(0), work: Cell::new(0), began: Cell::new(None) } };
}

/// Counts one operation that is about to be carried out; true if the loop is to have a turn before it.
pub(crate) fn due() -> bool {
    TURN.with(|turn| {
        let operations = turn.operations.get();
        if operations == 0 {
            turn.began.set(Some(Instant::now()));
        }
        turn.operations.set(operations + 1);
        turn.work.set(turn.work.get() + 1);
        if operations >= OPERATIONS_MAX { give(turn) } else { late(turn) }
    })
}

/// Notes work that one operation does beyond its share, in events.
pub(crate) fn worked(events: usize) {
    TURN.with(|turn| turn.work.set(turn.work.get().saturating_add(u32::try_from(events).unwrap_or(u32::MAX))));
}

/// Whether the loop is to have a turn before an operation that was begun goes on.
pub(crate) fn overdue() -> bool {
    TURN.with(late)
}

/// Notes that the loop has a turn.
pub(crate) fn taken() {
    TURN.with(|turn| {
        give(turn);
    });
}

fn late(turn: &Turn) -> bool {
    if turn.work.get() < CLOCK_EVERY {
        return false;
    }
    turn.work.set(0);
    let Some(began) = turn.began.get() else {
        // The loop had its turn, and the operation that waited for it goes on.
        turn.began.set(Some(Instant::now()));
        return false;
    };
    began.elapsed() >= SPAN_MAX && give(turn)
}

fn give(turn: &Turn) -> bool {
    turn.operations.set(0);
    turn.work.set(0);
    turn.began.set(None);
    true
}
