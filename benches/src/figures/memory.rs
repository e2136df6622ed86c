//! What the index takes: as it counts itself, and as the system sees it.
//!
//! Each store is opened by a process of its own, whose memory grows by nothing but the index.

use std::fs;
use std::path::Path;
use std::process::Command;

use eventuali::{Durability, EventStore};

use super::Place;
use crate::Result;
use crate::measure::float;
use crate::report::Row;
use crate::workload::{Ids, Shape, aggregate_id, fill, open};

/// The argument with which the program opens a store and tells what its index takes.
pub const ARGUMENT: &str = "--index-memory";

/// What an event may take, on the whole and at the worst moment of growth; what an aggregate may take beside its name.
const BARS: (usize, usize, usize) = (16, 24, 64);

/// Memory of the index of stores of several shapes.
///
/// # Errors
/// Those of the store and the file system.
pub fn index(place: &Place) -> Result<Vec<Row>> {
    let shape = |events: usize, batch, aggregates, ids| Shape { events, batch, aggregates, payload_bytes: 2, ids };
    let shapes = [
        ("2,000,000 events of 20,000 aggregates, growing ids", shape(2_000_000, 100, 20_000, Ids::Growing)),
        ("1,000,000 events of 500,000 aggregates, growing ids", shape(1_000_000, 1, 500_000, Ids::Growing)),
        ("1,000,000 events of 20,000 aggregates, random ids", shape(1_000_000, 100, 20_000, Ids::Random)),
    ];
    let mut rows = Vec::new();
    for (number, (what, shape)) in shapes.into_iter().enumerate() {
        let path = place.path(&format!("memory-{number}"));
        fill(&path, shape)?;
        rows.push(row(what, shape, &measured(&path)?));
        fs::remove_dir_all(&path)?;
    }
    Ok(rows)
}

struct Taken {
    counted: usize,
    resident: usize,
    peak: usize,
}

fn row(what: &str, shape: Shape, taken: &Taken) -> Row {
    let aggregates = shape.aggregates * (BARS.2 + aggregate_id(0).len());
    let each = |bytes: usize| (float(bytes) - float(aggregates)) / float(shape.events);
    let within = taken.counted <= BARS.0 * shape.events + aggregates && taken.peak <= BARS.1 * shape.events + aggregates;
    Row {
        what: format!("memory of the index, {what}"),
        terms: "any durability, any payload".to_owned(),
        ours: format!(
            "{:.1} MB by its own count, {:.1} MB resident, {:.1} MB at the peak",
            mega(taken.counted),
            mega(taken.resident),
            mega(taken.peak)
        ),
        limit: format!("{:.1} MB allowed", mega(BARS.0 * shape.events + aggregates)),
        ratio: format!(
            "{:.1} bytes an event by its own count, {:.1} resident, {:.1} at the peak, beside {} and the name an aggregate",
            each(taken.counted),
            each(taken.resident),
            each(taken.peak),
            BARS.2
        ),
        // Ids that grow with time, as this store gives them, need no table; any others need one.
        bar: Some(match shape.ids {
            Ids::Growing => (format!("at most {} bytes an event, {} at the worst moment of growth", BARS.0, BARS.1), within),
            Ids::Random => (format!("at most {} bytes an event by its own count", BARS.1), taken.counted <= BARS.1 * shape.events + aggregates),
        }),
    }
}

fn mega(bytes: usize) -> f64 {
    float(bytes) / 1e6
}

fn measured(path: &Path) -> Result<Taken> {
    let output = Command::new(std::env::current_exe()?).arg(ARGUMENT).arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next().ok_or_else(|| format!("the process that opens {} said nothing: {}", path.display(), output.status));
    Ok(Taken { counted: next()??, resident: next()??, peak: next()?? })
}

/// Opens a store and prints what its index takes, what is resident because of it, and what was at the peak.
///
/// # Errors
/// Those of the store; a system without `/proc`.
pub fn tell(path: &Path) -> Result<()> {
    let (before, _) = resident()?;
    let store = open(path, Durability::Os)?;
    let (now, peak) = resident()?;
    println!("{} {} {}", store.index_memory_bytes(), now.saturating_sub(before), peak.saturating_sub(before));
    store.close().wait()?;
    Ok(())
}

/// The resident memory of this process and its peak, in bytes.
pub(super) fn resident() -> Result<(usize, usize)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("{name} is not told by this system"))?;
        let kibibytes: usize = line.trim().trim_end_matches(" kB").parse()?;
        Ok::<_, Box<dyn std::error::Error>>(kibibytes << 10)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
