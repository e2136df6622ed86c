//! Sealed segments read by calls and through maps: the same events, and what becomes of a process whose files another one cuts.
#![cfg(unix)]

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use eventuali::{
    AppendBatch, Error, Event, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, Result, SealedReads, compress,
};

/// Set in the child: the directory of the store.
const ROLE: &str = "EVENTUALI_TEST_READS_IN";
/// The signal of a page that is gone.
const SIGBUS: i32 = 7;

fn open(path: &Path, sealed_reads: SealedReads) -> LogStore {
    OpenOptions::new().segment_bytes(64 << 10).sealed_reads(sealed_reads).open(path).expect("the store opens")
}

/// A closed store with several segments.
fn written(path: &Path) {
    let store = open(path, SealedReads::Read);
    for number in 0..40 {
        let event = NewEvent::new("Happened", EventData::Protobuf(vec![number; 5000]));
        store.append(AppendBatch::one("a", "A", ExpectedVersion::Any, vec![event])).wait().expect("appended");
    }
    store.close().wait().expect("closed");
}

fn all(store: &LogStore) -> Result<Vec<Event>> {
    store.read_all(ReadAll::new()).collect()
}

#[test]
fn both_ways_read_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store");
    written(&path);
    let read = |sealed_reads| {
        let store = open(&path, sealed_reads);
        let events = all(&store).expect("read");
        store.close().wait().expect("closed");
        events
    };
    let events = read(SealedReads::Read);
    assert_eq!(events.len(), 40);
    assert_eq!(read(SealedReads::Mapped), events);
    assert!(compress(&path).expect("compressed").segments > 2);
    assert_eq!(read(SealedReads::Mapped), events);
    assert_eq!(read(SealedReads::Read), events);
}

/// Opens the store, reads one event, and reads the rest when it is told to: in a process of its own.
fn child(path: &Path, sealed_reads: SealedReads) {
    let store = open(path, sealed_reads);
    let first: Vec<Event> = store.read_all(ReadAll::new().limit(1)).collect::<Result<_>>().expect("read");
    assert_eq!(first.len(), 1);
    println!("\n@ open");
    std::io::stdin().read_line(&mut String::new()).expect("told");
    match all(&store) {
        Err(Error::Corruption(damage)) if damage.segment == 1 => println!("\n@ damaged"),
        other => println!("\n@ {:?}", other.map(|events| events.len())),
    }
}

/// What a child says that reads after its first segment was cut, and how it ends.
fn after_cutting(test: &str) -> (Vec<String>, ExitStatus) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store");
    written(&path);
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, &path);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    let mut told = child.stdin.take().expect("piped");
    let mut words = Vec::new();
    for line in said.lines() {
        let line = line.expect("text");
        let Some(word) = line.strip_prefix("@ ") else { continue };
        words.push(word.to_owned());
        if word == "open" {
            let segment: File = FileOptions::new().write(true).open(path.join("000000001.g0.seg")).expect("there");
            segment.set_len(4096).expect("cut");
            writeln!(told, "read").expect("it listens");
        }
    }
    (words, child.wait().expect("it ends"))
}

#[test]
fn a_file_that_another_process_cuts_is_an_error_of_reading() {
    if let Some(path) = std::env::var_os(ROLE) {
        return child(Path::new(&path), SealedReads::Read);
    }
    let (words, status) = after_cutting("a_file_that_another_process_cuts_is_an_error_of_reading");
    assert_eq!(words, ["open", "damaged"]);
    assert!(status.success());
}

#[test]
fn a_mapped_file_that_another_process_cuts_ends_the_process() {
    if let Some(path) = std::env::var_os(ROLE) {
        return child(Path::new(&path), SealedReads::Mapped);
    }
    let (words, status) = after_cutting("a_mapped_file_that_another_process_cuts_ends_the_process");
    assert_eq!(words, ["open"]);
    assert_eq!(status.signal(), Some(SIGBUS), "{status}");
}
