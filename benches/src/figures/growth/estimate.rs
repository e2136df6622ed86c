//! The table, and what it says of a billion events.

use std::time::Duration;

use crate::measure::float;
use crate::report::{events_per_second, micros};

/// The size that is asked for.
const EVENTS: usize = 1_000_000_000;
const AGGREGATES: usize = 100_000_000;
/// What `OpenOptions` gives hot streams and filters of runs unless told otherwise.
const HOT_BYTES: usize = 256 << 20;
const FILTER_BYTES: usize = 64 << 20;
/// How many segments' indexes are in memory at most: that of the segment that is written to, and of two that wait for their files.
const PARTS: usize = 3;
/// What an event and an aggregate of such a segment take.
const PART_BYTES: (usize, usize) = (24, 160);
/// What an aggregate takes in a run: its entry and its bits in the filter. An id takes its bits only.
const RUN_BYTES: (usize, usize) = (14, 2);

/// A store of one size.
pub(super) struct Stage {
    pub(super) events: usize,
    pub(super) aggregates: usize,
    pub(super) segments: usize,
    pub(super) runs: usize,
    pub(super) append_rate: usize,
    pub(super) append_hot: Duration,
    pub(super) append_cold: Duration,
    pub(super) append_new: Duration,
    pub(super) open_closed: Duration,
    pub(super) open_killed: Duration,
    pub(super) open_dropped: Duration,
    pub(super) resident_writing: usize,
    pub(super) index_memory_writing: usize,
    pub(super) resident_opened: usize,
    pub(super) resident_loaded: usize,
    pub(super) load_hot: Duration,
    pub(super) load_cold: Duration,
    pub(super) load_dropped: Duration,
    /// On disk, by event.
    pub(super) log_bytes: usize,
    pub(super) index_bytes: f64,
    pub(super) run_bytes: f64,
}

fn mega(bytes: usize) -> String {
    format!("{:.1} MB", float(bytes) / 1e6)
}

impl Stage {
    pub(super) const HEADING: &str = "\
        | events | aggregates | segments | runs | append | one event: hot / cold / new aggregate | open: closed / killed / not cached \
        | resident: writing (index) / opened / after loads | load: hot / cold / not cached | bytes an event: log / index files / runs |\n\
        |---|---|---|---|---|---|---|---|---|---|";

    pub(super) fn line(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} / {} / {} | {} / {} / {} | {} ({}) / {} / {} | {} / {} / {} | {} / {:.1} / {:.1} |",
            self.events,
            self.aggregates,
            self.segments,
            self.runs,
            events_per_second(float(self.append_rate)),
            micros(self.append_hot),
            micros(self.append_cold),
            micros(self.append_new),
            micros(self.open_closed),
            micros(self.open_killed),
            micros(self.open_dropped),
            mega(self.resident_writing),
            mega(self.index_memory_writing),
            mega(self.resident_opened),
            mega(self.resident_loaded),
            micros(self.load_hot),
            micros(self.load_cold),
            micros(self.load_dropped),
            self.log_bytes,
            self.index_bytes,
            self.run_bytes,
        )
    }
}

/// The estimate, and how it was reached. `largest` is the largest store that was measured, `many` one of as many segments.
pub(super) fn of_a_billion(largest: &Stage, many: &Stage) -> String {
    let segments = EVENTS / (largest.events / largest.segments.max(1)).max(1);
    let (events_each, aggregates_each) = (EVENTS / segments.max(1), (EVENTS / segments.max(1)).min(AGGREGATES));
    let parts = PARTS * (events_each * PART_BYTES.0 + aggregates_each / 2 * PART_BYTES.1);
    let memory = largest.resident_opened + HOT_BYTES + FILTER_BYTES + parts;
    // An aggregate's ten events lie in five segments on the average, and those in as many runs before they are merged to one.
    let runs = float(AGGREGATES * RUN_BYTES.0 + EVENTS * RUN_BYTES.1) / 1e9;
    let indexes = largest.index_bytes * float(EVENTS) / 1e9;
    let log = float(largest.log_bytes) * float(EVENTS) / 1e9;
    let opening = many.open_closed.mul_f64(float(segments) / float(many.segments.max(1)));
    let opening_killed = largest.open_killed + opening;
    format!(
        "\nEstimate for {EVENTS} events of {AGGREGATES} aggregates:\n\
         - {segments} segments, as many events in each as in the largest store measured.\n\
         - On disk {log:.0} GB of log and {indexes:.0} GB of index files, by the bytes an event measured; {runs:.1} GB of runs: {} bytes for each \
         aggregate and {} for each event once they are merged to the first run, up to twice that while they are merged.\n\
         - Resident while writing {} at most: {} as opened, {} for hot aggregates and {} for filters, both of which are budgets and full by then, and \
         {} for the indexes of {PARTS} segments, half of whose events are of different aggregates.\n\
         - Open {} when closed, {} after a kill: a store of {} segments took {}, by their number; after a kill the last segment is read, as in the \
         largest store measured.\n\
         - Load and append by the page reads that are counted in engine/tests/faults/page_reads.rs with 4,000 segments: none for a hot aggregate, one at \
         most for a new one, fewer than ten for a cold one, beside its events. From the page cache that is what the table shows; from a disk its \
         latency comes on top of each.\n",
        RUN_BYTES.0,
        RUN_BYTES.1,
        mega(memory),
        mega(largest.resident_opened),
        mega(HOT_BYTES),
        mega(FILTER_BYTES),
        mega(parts),
        micros(opening),
        micros(opening_killed),
        many.segments,
        micros(many.open_closed),
    )
}
