//! Moving history from one store to another: positions, ids, versions, timestamps and payloads stay what they were.

mod differing;
mod eventsourcing;
mod export;
mod lines;
mod mirror;
mod source;
mod target;
mod verify;

use std::time::Duration;

pub use differing::{Difference, DifferenceKind};
pub use eventsourcing::import_eventsourcing;
pub use export::{Moved, export};
pub use lines::{export_json_lines, import_json_lines};
pub use mirror::{Mirror, MirrorStatus};
pub(crate) use target::{Origin, Standing, new_event};
pub use verify::{Verified, verify};

/// How far moving or verifying has come.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The last position that is done.
    pub position: u64,
    /// The last position that there is to do; `None` where the source cannot tell.
    pub last_position: Option<u64>,
    /// How many events were done in this run.
    pub events: u64,
    /// For how long it has run.
    pub elapsed: Duration,
}

impl Progress {
    /// How many events are done in a second; 0 at the beginning.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        // Counts of events are far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let events = self.events as f64;
        if seconds > 0.0 { events / seconds } else { 0.0 }
    }

    /// How long the rest takes at this rate; `None` while that cannot be told.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let rest = self.last_position?.saturating_sub(self.position);
        #[expect(clippy::cast_precision_loss, reason = "a count of events")]
        let rest = rest as f64;
        Duration::try_from_secs_f64(rest / self.rate()).ok()
    }
}
