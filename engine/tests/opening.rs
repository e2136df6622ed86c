//! What opening a directory leaves behind, and what its refusals say.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use eventuali::maintenance::verify;
use eventuali::{
    AppendBatch, Durability, Error, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, Position, ReadAll, rebuild_manifest,
};

/// The files in a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("readable");
        (entry.file_name().into_string().expect("a name"), fs::read(entry.path()).expect("readable"))
    };
    fs::read_dir(directory).expect("readable").map(read).collect()
}

fn directory_with(names: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in names {
        fs::write(directory.path().join(name), bytes).expect("written");
    }
    directory
}

/// A refusal said that nothing was changed, and left a lock file in a directory that is no store.
#[test]
fn a_refused_directory_is_left_as_it_was() {
    let foreign: [&[(&str, &[u8])]; 5] = [
        &[("MANIFEST", b"of a ship")],
        &[("000000001.g0.seg", b"no segment"), ("notes.txt", b"something else")],
        &[("WATERMARK", b"on paper")],
        &[("MANIFEST", b"of a ship"), ("MANIFEST.tmp", b"of another"), ("000000002.g0.seg.tmp", b"nothing")],
        &[("LOCK", b"of a door")],
    ];
    for names in foreign {
        let directory = directory_with(names);
        let before = files(directory.path());
        for options in [OpenOptions::new(), OpenOptions::new().read_up_to_damage(), OpenOptions::new().accept_loss_after(Position(1))] {
            assert!(options.open(directory.path()).is_err(), "{names:?}");
            assert!(files(directory.path()) == before, "{names:?}: something was changed");
        }
    }
}

#[test]
fn a_refused_rebuilding_of_a_manifest_leaves_the_directory_as_it_was() {
    for names in [&[("notes.txt", &b"something else"[..])][..], &[("000000001.g0.seg", b"no segment")]] {
        let directory = directory_with(names);
        let before = files(directory.path());
        assert!(rebuild_manifest(directory.path()).is_err(), "{names:?}");
        assert!(files(directory.path()) == before, "{names:?}: something was changed");
    }
}

#[test]
fn a_lock_file_that_was_there_stays_when_opening_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(LogStore::open(directory.path()).expect("created"));
    fs::write(directory.path().join("MANIFEST"), b"of a ship").expect("written");
    assert!(matches!(LogStore::open(directory.path()), Err(Error::Corruption(_))));
    assert!(files(directory.path()).contains_key("LOCK"));
}

#[test]
fn a_damaged_store_that_came_without_its_lock_file_gets_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(LogStore::open(directory.path()).expect("created"));
    fs::remove_file(directory.path().join("LOCK")).expect("removed");
    let segment = directory.path().join("000000001.g0.seg");
    let mut bytes = fs::read(&segment).expect("readable");
    bytes[100] ^= 1;
    fs::write(&segment, bytes).expect("written");
    let before = files(directory.path());
    assert!(matches!(LogStore::open(directory.path()), Err(Error::Corruption(_))));
    assert!(files(directory.path()) == before, "something was changed");
}

#[cfg(unix)]
#[test]
fn a_lock_file_may_be_a_link_to_one_that_is_not_there_yet() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    std::os::unix::fs::symlink(elsewhere.path().join("lock"), directory.path().join("LOCK")).expect("linked");
    drop(LogStore::open(directory.path()).expect("created"));
    assert!(elsewhere.path().join("lock").exists());
}

#[track_caller]
fn assert_refused_with(options: OpenOptions, open: &Path, words: &str) {
    let Err(Error::Configuration { message }) = options.open(open) else { panic!("other options are accepted") };
    assert!(message.contains(&format!("with other options: {words}; use the same")), "{message}");
    assert!(!message.contains("OpenOptions"), "{message}");
}

#[test]
fn opening_an_open_store_with_other_options_is_refused_with_those_that_differ() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let store = LogStore::open(path).expect("created");
    assert_refused_with(OpenOptions::new().durability(Durability::Os), path, "durability is sync there, os was asked for");
    assert_refused_with(
        OpenOptions::new().durability(Durability::Interval(Duration::from_millis(5))).segment_bytes(1 << 20),
        path,
        "durability is sync there, an interval of 5ms was asked for; segment_bytes is 67108864 there, 1048576 was asked for",
    );
    assert_refused_with(OpenOptions::new().accept_loss_after(Position(7)), path, "accept_loss_after is nothing there, 7 was asked for");
    assert_refused_with(OpenOptions::new().read_up_to_damage(), path, "read_up_to_damage is false there, true was asked for");
    drop(LogStore::open(path).expect("equal options give another handle"));
    drop(store);
}

/// Appends events that fill segments, whose payloads begin with this byte.
fn append(store: &LogStore, first: u8, events: usize) {
    for _ in 0..events {
        let event = NewEvent::new("Happened", EventData::Protobuf(vec![first; 20_000]));
        store.append(AppendBatch::one("a", "Thing", ExpectedVersion::Any, vec![event])).wait().expect("stored");
    }
}

#[test]
fn two_directories_with_one_store_id_are_two_stores_and_a_segment_of_one_in_the_other_is_told() {
    let options = || OpenOptions::new().segment_bytes(64 << 10);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let paths = [folder.path().join("one"), folder.path().join("two")];
    let store = options().open(&paths[0]).expect("it opens");
    append(&store, 0, 4);
    store.close().wait().expect("closed");
    fs::create_dir(&paths[1]).expect("made");
    for (name, bytes) in files(&paths[0]) {
        fs::write(paths[1].join(name), bytes).expect("copied");
    }
    let [one, two] = [&paths[0], &paths[1]].map(|path| options().open(path).expect("each has a lock of its own"));
    assert_eq!(one.identity().wait().expect("known").store_id, two.identity().wait().expect("known").store_id);
    append(&one, 1, 8);
    append(&two, 2, 8);
    for (store, first) in [(&one, 1), (&two, 2)] {
        let firsts: Vec<u8> = store.read_all(ReadAll::new()).map(|event| event.expect("read").payload()[0]).collect();
        assert_eq!(firsts, [[0; 4].as_slice(), &[first; 8]].concat());
        store.close().wait().expect("closed");
    }
    let on = |_: &eventuali::Progress| ControlFlow::Continue(());
    assert!(paths.iter().all(|path| verify(path, on).expect("read").is_sound()));
    // They have parted within the second segment, and the third one of the other continues that.
    let third = files(&paths[1]).into_keys().find(|name| name.starts_with("000000003.g")).expect("a third segment");
    fs::copy(paths[1].join(&third), paths[0].join(&third)).expect("copied");
    let report = verify(&paths[0], on).expect("read");
    assert!(report.damage.iter().any(|damage| damage.file == third), "{:?}", report.damage);
}
