//! SQLite files whose tables and rows somebody changes underneath a store.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{Error, Position, ReadAll, Receipt, Result};
use eventuali_sql::Config;
use tempfile::TempDir;

use crate::arrange::{Opened, assert_usable, fails_within, one, open};
use crate::session::Session;

const SOON: Duration = Duration::from_secs(5);

/// A store in a file with three events.
fn with_three_events() -> (TempDir, PathBuf, Opened) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.db");
    let store = open(Config::sqlite(&path));
    for stream in ["a", "b", "a"] {
        store.append(one(stream)).wait().expect("stored");
    }
    (folder, path, store)
}

fn by_hand(path: &Path, statements: &str) {
    Session::sqlite(path).run_sqlite(statements);
}

fn appended(store: &Opened, stream: &str) -> Result<Vec<Receipt>> {
    store.append(one(stream)).wait_until(Some(Instant::now() + SOON)).unwrap_or_else(|| panic!("no answer within {SOON:?}"))
}

fn read(store: &Opened) -> Result<Vec<u64>> {
    store.read_all(ReadAll::new()).map(|read| read.map(|event| event.position().0)).collect()
}

/// The driver's thread once panicked when a statement behind `BEGIN` failed a second time because of what became of its table:
/// that append, and every later one, was never answered.
#[test]
fn appends_are_refused_as_long_as_their_tables_are_others_and_go_on_afterwards() {
    for (change, back) in [
        ("ALTER TABLE events_state RENAME TO away", "ALTER TABLE away RENAME TO events_state"),
        ("ALTER TABLE events RENAME TO away", "ALTER TABLE away RENAME TO events"),
        ("ALTER TABLE events RENAME COLUMN tags TO away", "ALTER TABLE events RENAME COLUMN away TO tags"),
        ("ALTER TABLE events RENAME COLUMN epoch TO away", "ALTER TABLE events RENAME COLUMN away TO epoch"),
        ("ALTER TABLE events_state RENAME COLUMN last_commit TO away", "ALTER TABLE events_state RENAME COLUMN away TO last_commit"),
        ("CREATE TRIGGER away BEFORE INSERT ON events BEGIN SELECT RAISE(ROLLBACK, 'no such'); END", "DROP TRIGGER away"),
        ("CREATE TRIGGER away BEFORE INSERT ON events BEGIN SELECT no_such FROM nowhere; END", "DROP TRIGGER away"),
    ] {
        let (_folder, path, store) = with_three_events();
        for _ in 0..2 {
            by_hand(&path, change);
            for _ in 0..3 {
                let refused = appended(&store, "b");
                assert!(matches!(&refused, Err(Error::Database { code: Some(_), message, .. }) if message.contains("no")), "{change}: {refused:?}");
                match read(&store) {
                    Ok(positions) => assert!(positions.starts_with(&[1, 2, 3]), "{change}: {positions:?}"),
                    Err(error) => {
                        assert!(matches!(&error, Error::Database { code: Some(_), message, .. } if message.contains("no such")), "{error:?}");
                    }
                }
            }
            by_hand(&path, back);
            assert_usable(&store);
        }
        assert_eq!(read(&store).expect("everything can be read"), [1, 2, 3, 4, 5], "{change}: nothing of what was refused is stored");
    }
}

/// Readers connect when they are needed, and one that did so when the file was gone made an empty database in its place.
#[test]
fn readers_of_a_file_that_is_gone_are_told_and_make_no_other_one() {
    let (_folder, path, store) = with_three_events();
    let away = path.with_extension("away");
    fs::rename(&path, &away).expect("moved");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for answer in [read(&store).map(drop), store.head().wait().map(drop), store.identity().wait().map(drop)] {
                    assert!(matches!(&answer, Err(Error::Io { path: named, .. }) if *named == path), "{answer:?}");
                }
            });
        }
    });
    assert!(!path.exists(), "nothing was made in its place");
    fs::rename(&away, &path).expect("moved back");
    assert_usable(&store);
    assert_eq!(read(&store).expect("everything can be read"), [1, 2, 3, 4]);
}

#[test]
fn a_row_that_is_no_event_any_more_is_named_by_its_position_and_the_others_are_read() {
    for change in [
        "event_data = CAST(x'ff' AS TEXT)",
        "event_data_type = 'xml'",
        "event_type = CAST(x'ff' AS TEXT)",
        "event_type = ''",
        "event_version = -1",
        "id = 'no uuid'",
        "metadata = 'none'",
        "metadata = CAST(x'7b22ff227d' AS TEXT)",
        "tags = 'none'",
        "tags = CAST(x'5b22ff225d' AS TEXT)",
        "timestamp = 'yesterday'",
    ] {
        let (_folder, path, store) = with_three_events();
        by_hand(&path, &format!("UPDATE events SET {change} WHERE global_position = 2"));
        let error = read(&store).expect_err(change);
        assert!(matches!(error, Error::Deserialization { position: Position(2), .. }), "{change}: {error:?}");
        for (query, wanted) in [(ReadAll::new().limit(1), 1), (ReadAll::new().after(Position(2)), 3)] {
            let positions: Vec<u64> = store.read_all(query).map(|read| read.expect(change).position().0).collect();
            assert_eq!(positions, [wanted], "{change}");
        }
        assert_usable(&store);
    }
}

#[test]
fn a_row_of_state_that_is_gone_is_told_as_such() {
    let (_folder, path, store) = with_three_events();
    by_hand(&path, "DELETE FROM events_state");
    for _ in 0..2 {
        for answer in [appended(&store, "b").map(drop), read(&store).map(drop), store.head().wait().map(drop), store.identity().wait().map(drop)] {
            assert!(matches!(&answer, Err(Error::Database { message, .. }) if message.contains("row of state")), "{answer:?}");
        }
    }
}

#[test]
fn a_file_that_another_process_has_for_itself_is_told_and_used_when_it_is_free() {
    let (_folder, path, store) = with_three_events();
    store.close().wait().expect("closed");
    drop(store);
    let mut other = Session::sqlite(&path);
    other.run_sqlite("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT");
    let config = Config::sqlite(&path).lock_timeout(Duration::from_millis(300));
    let error = fails_within(SOON, "another process has the file", || config.clone().open());
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    drop(other);
    let store = open(config);
    let mut other = Session::sqlite(&path);
    for _ in 0..2 {
        other.run_sqlite("BEGIN EXCLUSIVE; DELETE FROM events");
        let error = appended(&store, "b").expect_err("the lock is held");
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert_eq!(read(&store).expect("readers wait for nobody").len(), 3);
        other.run_sqlite("ROLLBACK");
    }
    assert_usable(&store);
    assert_eq!(read(&store).expect("everything can be read"), [1, 2, 3, 4]);
}
