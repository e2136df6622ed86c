//! Figures as a table that a person can read.

use std::fmt::Write;
use std::time::Duration;

/// One figure, with everything that is needed to judge it.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// Durability mode and payload size.
    pub terms: String,
    /// What the engine reached.
    pub ours: String,
    /// What the bare limit of the same run is.
    pub limit: String,
    /// How the two compare.
    pub ratio: String,
    /// What is asked for, and whether it holds; nothing if the figure is only reported.
    pub bar: Option<(String, bool)>,
}

/// The rows under a title.
#[must_use]
pub fn table(title: &str, rows: &[Row]) -> String {
    let mut text = format!("\n{title}\n");
    for row in rows {
        let verdict = match &row.bar {
            None => "reported".to_owned(),
            Some((bar, true)) => format!("holds: {bar}"),
            Some((bar, false)) => format!("MISSED: {bar}"),
        };
        let Row { what, terms, ours, limit, ratio, .. } = row;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what}\n    {terms}\n    ours {ours}; limit {limit}; {ratio}  [{verdict}]");
    }
    text
}

/// A duration in microseconds.
#[must_use]
pub fn micros(duration: Duration) -> String {
    format!("{:.1} µs", duration.as_secs_f64() * 1e6)
}

/// A rate in events a second.
#[must_use]
pub fn events_per_second(rate: f64) -> String {
    let mut digits = format!("{rate:.0}");
    let mut at = digits.len();
    while at > 3 {
        at -= 3;
        digits.insert(at, ',');
    }
    format!("{digits} events/s")
}

/// A share in per cent.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
