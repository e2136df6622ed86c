//! Files taken away from an open store: its writer stops before it harms what is there now.
#![cfg(unix)]

use std::fs;
use std::path::Path;

use eventuali::{AppendBatch, Error, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, Receipt, Result};

fn open(path: &Path) -> LogStore {
    OpenOptions::new().segment_bytes(64 << 10).open(path).expect("opened")
}

fn append(store: &LogStore, text: &str) -> Result<Vec<Receipt>> {
    let event = NewEvent::new("Happened", EventData::Protobuf(text.as_bytes().to_vec()));
    store.append(AppendBatch::one("thing", "Thing", ExpectedVersion::Any, vec![event])).wait()
}

fn texts(store: &LogStore) -> Vec<String> {
    store.read_all(ReadAll::new()).map(|event| String::from_utf8_lossy(event.expect("read").payload()).into_owned()).collect()
}

#[track_caller]
fn assert_stopped(store: &LogStore, words: &str) {
    let error = append(store, "too late").expect_err("nothing can be promised any more");
    assert!(matches!(error, Error::OutcomeUnknown { .. }) && error.to_string().contains(words), "{error}");
    assert!(matches!(append(store, "again").expect_err("stopped"), Error::Poisoned { .. }));
}

#[test]
fn a_writer_whose_lock_file_was_removed_leaves_the_store_to_the_next_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path());
    append(&first, "one").expect("stored");
    fs::remove_file(directory.path().join("LOCK")).expect("removed");
    let second = open(directory.path());
    append(&second, "two").expect("stored");
    assert_stopped(&first, "LOCK");
    assert_eq!(texts(&first), ["one"]);
    first.close().wait().expect("it has nothing to write any more");
    append(&second, "three").expect("stored");
    second.close().wait().expect("closed");
    assert_eq!(texts(&open(directory.path())), ["one", "two", "three"]);
}

#[test]
fn closing_a_writer_whose_lock_file_was_removed_writes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path());
    append(&first, "one").expect("stored");
    fs::remove_file(directory.path().join("LOCK")).expect("removed");
    let second = open(directory.path());
    append(&second, "two").expect("stored");
    let error = first.close().wait().expect_err("it cannot be closed in order");
    assert!(error.to_string().contains("LOCK"), "{error}");
    drop(second);
    assert_eq!(texts(&open(directory.path())), ["one", "two"]);
}

#[test]
fn nothing_is_acknowledged_in_a_directory_that_was_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = open(&path);
    append(&store, "one").expect("stored");
    fs::remove_dir_all(&path).expect("removed");
    assert_stopped(&store, "LOCK");
    assert!(!path.exists());
}

#[test]
fn a_store_that_was_moved_goes_on_and_spares_the_one_in_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let (here, there) = (directory.path().join("here"), directory.path().join("there"));
    let moved = open(&here);
    append(&moved, "one").expect("stored");
    fs::rename(&here, &there).expect("moved");
    append(&moved, "two").expect("the files are where they are");
    let other = open(&here);
    append(&other, "another store's").expect("stored");
    let large = "x".repeat(20 << 10);
    let refused = (0..5).find_map(|_| append(&moved, &large).err()).expect("a new segment would be made by its path");
    assert!(refused.to_string().contains("moved"), "{refused}");
    append(&other, "also").expect("stored");
    drop((moved, other));
    assert_eq!(texts(&open(&here)), ["another store's", "also"]);
    assert_eq!(texts(&open(&there))[..2], ["one", "two"]);
}

/// Which files below a directory this process has open.
#[cfg(target_os = "linux")]
fn open_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let links = fs::read_dir("/proc/self/fd").expect("listed").filter_map(|entry| fs::read_link(entry.expect("listed").path()).ok());
    links.filter(|path| path.starts_with(directory)).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_store_has_no_file_open_whoever_keeps_a_handle_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for number in 0..200 {
        append(&store, &format!("{number} {}", "much ".repeat(2000))).expect("stored");
    }
    let reader = OpenOptions::new().read_only(eventuali::Follow::Visible).open(directory.path()).expect("a reader");
    for handle in [&store, &reader] {
        assert_eq!(texts(handle).len(), 200);
        assert_eq!(handle.read(eventuali::ReadStream::of("thing")).count(), 200);
    }
    let unread = store.read_all(ReadAll::new());
    assert!(open_files(directory.path()).len() > 20);
    reader.close().wait().expect("closed");
    store.close().wait().expect("closed");
    assert_eq!(open_files(directory.path()), Vec::<std::path::PathBuf>::new());
    drop((store, reader, unread));
}

#[test]
fn who_reads_while_the_store_is_closed_is_told_that_it_is_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for number in 0..60 {
        append(&store, &format!("{number} {}", "much ".repeat(5000))).expect("stored");
    }
    store.close().wait().expect("closed");
    for round in 0..40 {
        let store = open(directory.path());
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                loop {
                    let all: Result<Vec<_>> = store.read_all(ReadAll::new()).collect();
                    let stream: Result<Vec<_>> = store.read(eventuali::ReadStream::of("thing")).collect();
                    match all.and_then(|all| stream.map(|stream| (all.len(), stream.len()))) {
                        Ok(counts) => assert_eq!(counts, (60, 60), "nothing is left out in silence"),
                        Err(error) => return error,
                    }
                }
            });
            std::thread::sleep(std::time::Duration::from_micros(round * 211 % 3000));
            store.close().wait().expect("closed");
            let error = reading.join().expect("no panic");
            assert!(matches!(error, Error::Closed), "{error:?}");
        });
    }
}
