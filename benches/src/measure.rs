//! Time, medians, and how machines of varying mood are compared fairly: in turns.

use std::time::{Duration, Instant};

use crate::Result;

/// Durations of the same thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Times `work` and keeps the duration.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn time<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work()?;
        self.0.push(start.elapsed());
        Ok(result)
    }

    /// Keeps a duration that was measured elsewhere.
    pub fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// The duration that so many per cent do not exceed; zero if there are none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

/// Our way and the bare limit, measured in turns.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    /// What the engine took.
    pub ours: Samples,
    /// What the bare limit took.
    pub limit: Samples,
}

impl Pair {
    /// The limit's median time as a share of ours: 1 is as fast as possible.
    #[must_use]
    pub fn share(&self) -> f64 {
        ratio(self.limit.median(), self.ours.median())
    }
}

/// One duration in units of another.
#[must_use]
pub fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// How often a second, if `count` of it took this long.
#[must_use]
pub fn rate(count: usize, took: Duration) -> f64 {
    float(count) / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// A count as a number to divide by.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of events and bytes of a bench are far below 2^52")]
pub fn float(count: usize) -> f64 {
    count as f64
}
