//! How far something long has come.

use std::time::Duration;

/// How far moving, verifying, salvaging or backing up has come.
#[derive(Debug, Clone, Copy, PartialEq)]
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
