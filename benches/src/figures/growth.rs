//! How a store behaves as it grows: appending, opening, memory, loading, and what that says of a billion events.

mod child;
mod estimate;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use child::run as child;
use child::{LOOK, OPEN, Told, WRITE, WRITE_AND_DIE};
use estimate::Stage;

use super::Place;
use crate::Result;
use crate::measure::float;
use crate::report::{Row, micros};
use crate::workload::PAYLOAD_BYTES;

/// The sizes, in millions of events; others by this variable, such as `1,3`.
const SIZES: &str = "1,3,10,30";
const VARIABLE: &str = "EVENTUALI_GROWTH_MILLIONS";
const MILLION: usize = 1_000_000;
/// As many segments as a billion events have, of the least length that segments can have.
const MANY_SEGMENTS_BYTES: u64 = 64 << 10;
const MANY_SEGMENTS_EVENTS: usize = 900_000;

/// What is asked of opening: closed in order, and after a kill.
const BARS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(300));

/// One store that grows; then one of as many segments as a billion events have.
///
/// # Errors
/// Those of the store and the file system.
pub fn stages(place: &Place) -> Result<Vec<Row>> {
    let path = place.path("growth");
    let sizes = std::env::var(VARIABLE).unwrap_or_else(|_| SIZES.to_owned());
    println!(
        "\nGrowth: Os, payload {PAYLOAD_BYTES} bytes, {} events an append, every second append begins an aggregate, the others go to those before, by a Zipf distribution",
        child::BATCH
    );
    println!("{}", Stage::HEADING);
    let (mut stages, mut before) = (Vec::new(), 0);
    for millions in sizes.split(',') {
        let events = millions.trim().parse::<usize>()? * MILLION;
        let stage = grown(&path, (before, events), 0)?;
        println!("{}", stage.line());
        stages.push(stage);
        before = events;
    }
    let on_disk = bytes_in(&path)?;
    std::fs::remove_dir_all(&path)?;
    let many = grown(&place.path("segments"), (0, MANY_SEGMENTS_EVENTS), MANY_SEGMENTS_BYTES)?;
    println!("{}  (segments of {} KiB)", many.line(), MANY_SEGMENTS_BYTES >> 10);
    std::fs::remove_dir_all(place.path("segments"))?;
    if let Some(last) = stages.last() {
        print!("{}", estimate::of_a_billion(last, &many));
    }
    let bar = |stage: &Stage| stage.open_closed <= BARS.0 && stage.open_killed <= BARS.1;
    let row = |stage: &Stage| Row {
        what: format!("open of a store of {} events in {} segments", stage.events, stage.segments),
        terms: "Os, page cache warm, by a process of its own".to_owned(),
        ours: format!("{} when closed, {} after a kill", micros(stage.open_closed), micros(stage.open_killed)),
        limit: "none".to_owned(),
        ratio: format!("the largest store had {:.1} GB", float(on_disk.0 + on_disk.1 + on_disk.2) / 1e9),
        bar: Some(("within 10 ms when closed, 300 ms after a kill".to_owned(), bar(stage))),
    };
    Ok(stages.iter().chain([&many]).map(row).collect())
}

/// Lets a store grow from so many events to so many, and measures it. Each step is by a process of its own.
fn grown(path: &Path, (from, to): (usize, usize), segment_bytes: u64) -> Result<Stage> {
    let written = told(WRITE, path, &[from as u64, to as u64, segment_bytes])?;
    let opened = told(OPEN, path, &[segment_bytes])?;
    told(WRITE_AND_DIE, path, &[to as u64, segment_bytes])?;
    let killed = told(OPEN, path, &[segment_bytes])?;
    let warm = told(LOOK, path, &[segment_bytes])?;
    drop_from_page_cache(path)?;
    let dropped = told(LOOK, path, &[segment_bytes])?;
    let (log, indexes, runs) = bytes_in(path)?;
    let events = warm.number("events")?;
    Ok(Stage {
        events: to,
        aggregates: child::aggregates(to),
        segments: files(path, "seg")?.len(),
        runs: files(&path.join("index"), "run")?.len(),
        append_rate: written.number("rate")?,
        append_hot: warm.time("append_hot")?,
        append_cold: warm.time("append_cold")?,
        append_new: warm.time("append_new")?,
        open_closed: opened.time("open")?,
        open_killed: killed.time("open")?,
        open_dropped: dropped.time("open")?,
        resident_writing: written.number("resident")?,
        index_memory_writing: written.number("index_memory")?,
        resident_opened: opened.number("resident")?,
        resident_loaded: warm.number("resident_loaded")?,
        load_hot: warm.time("load_again")?,
        load_cold: warm.time("load_first")?,
        load_dropped: dropped.time("load_first")?,
        log_bytes: log / events,
        index_bytes: float(indexes) / float(events),
        run_bytes: float(runs) / float(events),
    })
}

/// What another process tells.
fn told(argument: &str, path: &Path, numbers: &[u64]) -> Result<Told> {
    let output = Command::new(std::env::current_exe()?).arg(argument).arg(path).args(numbers.iter().map(u64::to_string)).output()?;
    if argument != WRITE_AND_DIE && !output.status.success() {
        return Err(format!("{argument}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Told::parse(&String::from_utf8(output.stdout)?)
}

/// Has the system forget what it holds of a store's files: `dd` tells it so, reading nothing.
fn drop_from_page_cache(path: &Path) -> Result<()> {
    for folder in [path.to_owned(), path.join("index")].iter().filter(|folder| folder.is_dir()) {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let file = format!("if={}", entry.path().display());
                let status = Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]).status()?;
                if !status.success() {
                    return Err("dd cannot empty the page cache".into());
                }
            }
        }
    }
    Ok(())
}

/// Bytes of the log, of index files and of runs.
fn bytes_in(path: &Path) -> Result<(usize, usize, usize)> {
    let sum = |folder: &Path, extension: &str| -> Result<usize> {
        let lengths = files(folder, extension)?.into_iter().map(|file| Ok(usize::try_from(std::fs::metadata(file)?.len())?));
        lengths.sum()
    };
    Ok((sum(path, "seg")?, sum(path, "idx")?, sum(&path.join("index"), "run")?))
}

/// The files of a folder with this extension; none if there is no such folder.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let paths = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect())
}
