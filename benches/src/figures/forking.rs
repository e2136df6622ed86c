//! Forks, beside the bare links, writes and syncs that make a directory of the same files durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use eventuali::maintenance::{ForkReport, fork};
use eventuali::{Durability, EventStore, LogStore};

use super::Place;
use crate::Result;
use crate::bare::{bytes_of, segments};
use crate::measure::{Pair, Samples};
use crate::report::Row;
use crate::workload::{Ids, PAYLOAD_BYTES, batch, open};

/// How many events, how many an append has, and how many aggregates they belong to.
const EVENTS: (usize, usize, usize) = (1_000_000, 100, 20_000);
/// How many turns each side has.
const TURNS: usize = 15;
/// How long the fork of a store may take whose last segment is sealed.
const BAR: Duration = Duration::from_millis(10);

/// Forks of a store whose last segment is open, and of the same store when that is sealed.
///
/// # Errors
/// Those of the store and the file system.
pub fn million(place: &Place) -> Result<Vec<Row>> {
    let path = place.path("forked");
    let store = open(&path, Durability::Os)?;
    for number in 0..EVENTS.0 / EVENTS.1 {
        store.append(batch(number % EVENTS.2, EVENTS.1, PAYLOAD_BYTES, Ids::Growing)).wait()?;
    }
    store.sync().wait()?;
    let unsealed = row("whose last segment is open", &store, place, None)?;
    store.close().wait()?;
    let store = open(&path, Durability::Sync)?;
    let sealed = row("whose last segment is sealed", &store, place, Some(BAR))?;
    store.close().wait()?;
    fs::remove_dir_all(&path)?;
    Ok(vec![sealed, unsealed])
}

fn row(which: &str, store: &LogStore, place: &Place, bar: Option<Duration>) -> Result<Row> {
    let (source, target, bare) = (place.path("forked"), place.path("fork"), place.path("bare"));
    let mut pair = Pair::default();
    let mut report = ForkReport::default();
    for _ in 0..TURNS {
        report = pair.ours.time(|| Ok(fork(store, &target, None)?))?;
        pair.limit.time(|| Ok(link_durably(&source, &target, &bare)?))?;
        fs::remove_dir_all(&target)?;
        fs::remove_dir_all(&bare)?;
    }
    let bytes = bytes_of(&segments(&source)?)?;
    let millis = |duration: Duration| format!("{:.2} ms", duration.as_secs_f64() * 1e3);
    let told = |samples: &Samples| format!("{} (fastest {})", millis(samples.median()), millis(samples.percentile(0)));
    let (ours, limit) = (pair.ours.median(), pair.limit.median());
    Ok(Row {
        what: format!("fork of a store of {} events {which}", EVENTS.0),
        terms: format!(
            "on disk when it returns, {bytes} bytes of segments, {} shared, {} bytes copied, median of {TURNS}",
            report.shared_segments, report.copied_bytes
        ),
        ours: told(&pair.ours),
        limit: format!("bare links, writes and syncs of the same files: {}", told(&pair.limit)),
        ratio: format!("{:.2} times the limit", ours.as_secs_f64() / limit.as_secs_f64()),
        bar: bar.map(|bar| (format!("at most {}", millis(bar)), ours <= bar)),
    })
}

/// Makes a directory with the files of a fork: links to those that it shares, the others written and synced; then it gets its name.
fn link_durably(source: &Path, fork: &Path, target: &Path) -> io::Result<()> {
    let unfinished = target.with_extension("tmp");
    fs::create_dir(&unfinished)?;
    for entry in fs::read_dir(fork)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            continue;
        }
        if is_same(&path, &source.join(&name))? {
            fs::hard_link(source.join(&name), unfinished.join(&name))?;
        } else {
            let mut file = OpenOptions::new().write(true).create_new(true).open(unfinished.join(&name))?;
            file.write_all(&fs::read(&path)?)?;
            file.sync_data()?;
        }
    }
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, target)?;
    File::open(target.parent().map_or_else(|| PathBuf::from("."), Path::to_owned))?.sync_all()
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(other) {
        Ok(found) => Ok(found.ino() == fs::metadata(one)?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
