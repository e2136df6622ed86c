//! Writers that are killed while their segments are sealed and compressed.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{Compress, LogStore, OpenOptions};

use super::{Role, check, role, write_until_killed};

/// Every segment is compressed as soon as the next one begins.
fn compressing(directory: &Path) -> LogStore {
    OpenOptions::new().segment_bytes(64 << 10).compression(Compress::OlderThan(0)).open(directory).expect("it opens")
}

/// How many files each segment has, and what is there under a temporary name.
fn files(directory: &Path) -> (BTreeMap<String, usize>, Vec<String>) {
    let (mut segments, mut temporary) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(directory).expect("readable") {
        let name = entry.expect("readable").file_name().into_string().expect("text");
        if let Some((sequence, _)) = name.strip_suffix(".seg").and_then(|name| name.split_once(".g")) {
            *segments.entry(sequence.to_owned()).or_default() += 1;
        } else if name.contains(".tmp") {
            temporary.push(name);
        }
    }
    (segments, temporary)
}

#[test]
fn everything_acknowledged_survives_kill_9_while_segments_are_compressed_and_nothing_is_left_over() {
    const TEST: &str = "packing::everything_acknowledged_survives_kill_9_while_segments_are_compressed_and_nothing_is_left_over";
    if let Some(directory) = role() {
        return write_until_killed(&compressing(&directory));
    }
    let rounds = if std::env::var_os("EVENTUALI_SOAK").is_some() { 200 } else { 40 };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut acknowledged, mut left_over): (Vec<Vec<String>>, usize) = (Vec::new(), 0);
    for round in 0..rounds {
        let mut writer = Role::of(TEST, directory.path());
        writer.expect("open");
        thread::sleep(Duration::from_micros(round * 7919 % 97_000));
        writer.kill();
        while let Some(words) = writer.hear() {
            acknowledged.push(words.split(' ').map(str::to_owned).collect());
        }
        let (segments, temporary) = files(directory.path());
        left_over += usize::from(segments.values().any(|count| *count > 1) || !temporary.is_empty());
        let store = compressing(directory.path());
        let deadline = Instant::now() + Duration::from_mins(1);
        while files(directory.path()).0.values().any(|count| *count > 1) {
            assert!(Instant::now() < deadline, "round {round}: {:?}", files(directory.path()));
            thread::sleep(Duration::from_millis(1));
        }
        drop(store);
        check(directory.path(), &acknowledged, round);
        let (_, temporary) = files(directory.path());
        assert!(temporary.is_empty(), "round {round}: {temporary:?}");
    }
    assert!(left_over > 0, "none was killed while it compressed");
    assert!(files(directory.path()).0.len() > 3, "the log has rolled over");
}
