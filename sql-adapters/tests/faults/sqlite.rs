//! SQLite files whose disk is full, that are locked, read-only, gone or no databases, and writers that are killed.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Error, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, ReadAll};
use eventuali_sql::{Config, Progress, export, verify};
use uuid::Uuid;

use crate::arrange::{Opened, Random, assert_usable, fails_within, one, open};
use crate::ledger::{Ledger, Told, everything};
use crate::roles::{Role, role, say, this_test, wait_for_the_test};
use crate::session::Session;

const SOON: Duration = Duration::from_secs(5);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_lock_of_another_process_is_told_after_the_lock_timeout() {
    if let Some(path) = role() {
        let mut session = Session::sqlite(Path::new(&path));
        session.run_sqlite("BEGIN IMMEDIATE");
        say("locked");
        wait_for_the_test();
        session.run_sqlite("ROLLBACK");
        return say("free");
    }
    let folder = folder();
    let path = folder.path().join("events.db");
    let store = open(Config::sqlite(&path).lock_timeout(Duration::from_millis(300)));
    let mut other = Role::of("sqlite::a_lock_of_another_process_is_told_after_the_lock_timeout", path.to_str().expect("UTF-8"));
    assert_eq!(other.hear().as_deref(), Some("locked"));
    let error = fails_within(SOON, "another process writes", || store.append(one("a")).wait());
    assert!(matches!(&error, Error::Unavailable { reason, .. } if reason.contains("another process writes")), "{error:?}");
    assert!(error.to_string().ends_with("try again, or allow more time with lock_timeout"), "{error}");
    assert_eq!(store.head().wait().expect("readers wait for nobody").0, 0, "nothing was stored");
    let tables = Config::sqlite(&path).lock_timeout(Duration::from_millis(300)).table_name("others").expect("a name");
    let error = fails_within(SOON, "tables cannot be made meanwhile", || tables.open());
    assert!(matches!(&error, Error::Unavailable { reason, .. } if reason.contains("another process writes")), "{error:?}");
    other.let_go();
    assert_eq!(other.hear().as_deref(), Some("free"));
    assert_usable(&store);
}

/// Runs `test` in a process of its own, where `folder` is a file system of 4 MiB.
fn with_a_small_disk(test: &str, body: impl FnOnce(&Path)) {
    if let Some(part) = role() {
        return body(Path::new(&part));
    }
    let folder = folder();
    let by_root = fs::metadata("/proc/self").expect("the kernel's files").uid() == 0;
    let mut command = Command::new("unshare");
    command.args(if by_root { ["--mount"].as_slice() } else { &["--mount", "--map-root-user"] });
    command.args(["sh", "-c", r#"mount -t tmpfs -o size=4m none "$0" && exec "$@""#]).arg(folder.path());
    command.arg(std::env::current_exe().expect("this binary")).args(this_test(test)).env(crate::roles::ROLE, folder.path());
    let ran = command.output().expect("unshare is installed");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "a small file system can be mounted, and the test passes there: {}", String::from_utf8_lossy(&ran.stderr));
}

fn large(aggregate_id: &str) -> AppendBatch {
    let event = NewEvent::new("Happened", EventData::Protobuf(vec![7; 100_000]));
    AppendBatch::one(aggregate_id, "Thing", ExpectedVersion::Any, vec![event])
}

#[test]
fn a_full_disk_stores_nothing_and_works_again_when_there_is_room() {
    with_a_small_disk("sqlite::a_full_disk_stores_nothing_and_works_again_when_there_is_room", |folder| {
        let ballast = folder.join("ballast");
        fs::write(&ballast, vec![1; 1 << 20]).expect("room");
        let store = open(Config::sqlite(folder.join("events.db")));
        let mut ledger = Ledger::default();
        let mut full = 0;
        for round in 0..200 {
            let batch = large(&format!("stream-{}", round % 3));
            let answer = store.append(batch.clone()).wait();
            match &answer {
                Err(error) => {
                    if full == 0 {
                        println!("full after {round} appends: {error}");
                    }
                    assert!(matches!(error, Error::StorageFull { needed_bytes: None, .. }), "{error:?}");
                    assert!(!error.to_string().contains("bytes"), "SQLite does not tell how many: {error}");
                    assert_eq!(
                        store.read_all(ReadAll::new()).last().expect("events").expect("reads go on").position(),
                        store.head().wait().expect("known")
                    );
                    full += 1;
                }
                Ok(_) => assert_eq!(full, 0, "a full disk stays full"),
            }
            ledger.note(&batch, answer);
        }
        assert!(full > 100, "the disk was full");
        ledger.assert_true_of(&*store);
        fs::remove_file(&ballast).expect("removed");
        ledger.append(&*store, &large("stream-1"));
        assert_eq!(ledger.counts().2, full, "there is room again");
        ledger.assert_true_of(&*store);
        store.close().wait().expect("it closes");
        ledger.assert_true_of(&*open(Config::sqlite(folder.join("events.db"))));
    });
}

/// A transaction so large that SQLite writes some of it before its commit.
#[test]
fn a_disk_that_is_full_in_the_middle_of_a_transaction_stores_nothing_of_it_and_an_export_goes_on_when_there_is_room() {
    let name = "sqlite::a_disk_that_is_full_in_the_middle_of_a_transaction_stores_nothing_of_it_and_an_export_goes_on_when_there_is_room";
    with_a_small_disk(name, |folder| {
        let ballast = folder.join("ballast");
        let source = LogStore::memory().expect("memory");
        for number in 0..27 {
            source.append(large(&format!("stream-{}", number % 3))).wait().expect("stored");
        }
        let (path, on) = (folder.join("events.db"), |_: &Progress| ControlFlow::Continue(()));
        let target = Config::sqlite(&path).open().expect("it opens");
        for ballast_bytes in [3_300_000, 2_500_000, 1_800_000] {
            fs::write(&ballast, vec![1; ballast_bytes]).expect("room");
            for _ in 0..3 {
                let error = fails_within(SOON, "a full disk", || export(&source, &target, on));
                assert!(matches!(error, Error::StorageFull { .. }), "{ballast_bytes}: {error:?}");
                assert_eq!(target.as_dyn().head().wait().expect("known").0, 0, "nothing of the transaction is stored");
                let events = (0..27).flat_map(|_| large("whole").streams.remove(0).events).collect();
                let whole = AppendBatch::one("whole", "Thing", ExpectedVersion::Any, events);
                let error = fails_within(SOON, "a full disk", || target.as_dyn().append(whole).wait());
                assert!(matches!(error, Error::StorageFull { .. }), "{ballast_bytes}: {error:?}");
            }
            fs::remove_file(&ballast).expect("removed");
        }
        assert_eq!(export(&source, &target, on).expect("moved").events, 27);
        assert_eq!(verify(&source, target.as_dyn(), on).expect("compared").difference, None);
    });
}

#[test]
fn a_file_system_that_may_only_be_read_is_told() {
    with_a_small_disk("sqlite::a_file_system_that_may_only_be_read_is_told", |folder| {
        let path = folder.join("events.db");
        let store = open(Config::sqlite(&path));
        assert_usable(&store);
        store.close().wait().expect("it closes");
        let ran = Command::new("mount").args(["-o", "remount,ro"]).arg(folder).status().expect("it runs");
        assert!(ran.success());
        for path in [path, folder.join("new.db")] {
            let error = fails_within(SOON, "read-only", || Config::sqlite(&path).open());
            assert!(matches!(&error, Error::Configuration { message } if message.contains(path.to_str().expect("UTF-8"))), "{error:?}");
        }
    });
}

/// A trigger that was to look at rows, and ignores some, leaves them out without an error.
#[test]
fn a_trigger_that_leaves_events_out_is_told_and_nothing_is_stored() {
    let folder = folder();
    let path = folder.path().join("events.db");
    let store = open(Config::sqlite(&path));
    let mut session = Session::sqlite(&path);
    session.run_sqlite("CREATE TRIGGER looks BEFORE INSERT ON events WHEN NEW.aggregate_id = 'left out' BEGIN SELECT RAISE(IGNORE); END");
    let left_out = |error: &Error| assert!(matches!(error, Error::Database { message, .. } if message.contains("trigger")), "{error:?}");
    let events = |count: usize| (0..count).flat_map(|_| one("left out").streams.remove(0).events).collect::<Vec<_>>();
    let among =
        |count| one("kept").and("left out", "Thing", ExpectedVersion::Any, events(1)).and("kept", "Thing", ExpectedVersion::Any, events(count));
    for batch in [one("left out"), among(1), among(200)] {
        left_out(&fails_within(SOON, "a trigger leaves an event out", || store.append(batch).wait()));
    }
    for count in [1, 200] {
        let source = Config::sqlite_in_memory().open().expect("it opens");
        source.as_dyn().append(AppendBatch::one("left out", "Thing", ExpectedVersion::Any, events(count))).wait().expect("stored");
        let target = Config::sqlite(&path).open().expect("it opens");
        left_out(&fails_within(SOON, "a trigger leaves an exported event out", || export(source.as_dyn(), &target, |_| ControlFlow::Continue(()))));
    }
    assert_eq!(store.head().wait().expect("known").0, 0, "no position was given for it");
    assert_usable(&store);
    assert_eq!(everything(&*store).len(), 1, "nothing of what was refused is stored");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("events.db");
    let text = "not a database, but quite long enough to be taken for one at first sight. ".repeat(20);
    fs::write(&path, &text).expect("written");
    let error = fails_within(SOON, "no database", || Config::sqlite(&path).open());
    assert!(matches!(&error, Error::Configuration { message } if message.contains("no SQLite database")), "{error:?}");
    assert_eq!(fs::read_to_string(&path).expect("readable"), text);
}

#[test]
fn a_file_that_is_removed_or_replaced_takes_no_more_appends() {
    let folder = folder();
    let path = folder.path().join("events.db");
    for replaced in [false, true] {
        let store = open(Config::sqlite(&path));
        assert_usable(&store);
        fs::remove_file(&path).expect("removed");
        let other = replaced.then(|| open(Config::sqlite(&path)));
        let error = fails_within(SOON, "the file is gone", || store.append(one("a")).wait());
        assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error:?}");
        if let Some(other) = other {
            assert_usable(&other);
            assert_eq!(everything(&*other).len(), 1, "nothing came from the other store");
        }
        assert!(store.close().wait().is_ok());
        for end in ["", "-wal", "-shm"] {
            // Not every one is there.
            let _ = fs::remove_file(folder.path().join(format!("events.db{end}")));
        }
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    const KILLS: usize = 50;
    if let Some(path) = role() {
        let store = open(Config::sqlite(path));
        return std::thread::scope(|scope| {
            for task in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    loop {
                        let batch = one(&format!("stream-{task}"));
                        let id = batch.streams[0].events[0].id;
                        say(&format!("begin {id}"));
                        let receipts = store.append(batch).wait().expect("stored");
                        say(&format!("stored {id} {} {}", receipts[0].position.0, receipts[0].version.0));
                    }
                });
            }
        });
    }
    let folder = folder();
    let path = folder.path().join("events.db");
    let mut random = Random::new();
    let mut ledger = Ledger::default();
    for kill in 0..KILLS {
        let mut writer = Role::of("sqlite::a_killed_writer_loses_nothing_that_it_acknowledged", path.to_str().expect("UTF-8"));
        let mut left = 1 + random.below(60);
        while let Some(words) = writer.hear() {
            note(&mut ledger, &words);
            left -= 1;
            if left == 0 {
                break;
            }
        }
        assert_eq!(left, 0, "the writer of kill {kill} was at work");
        let pause = Instant::now() + Duration::from_micros(random.below(2000));
        while Instant::now() < pause {
            std::hint::spin_loop();
        }
        writer.kill();
        while let Some(words) = writer.hear() {
            note(&mut ledger, &words);
        }
        let store = open(Config::sqlite(&path));
        ledger.assert_true_of(&*store);
        store.close().wait().expect("it closes");
    }
    println!("{KILLS} kills, (acknowledged, in doubt, refused): {:?}", ledger.counts());
}

fn note(ledger: &mut Ledger, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    let id: Uuid = words[1].parse().expect("an id");
    match words[..] {
        ["begin", _] => ledger.tell(id, Told::Unknown),
        ["stored", _, position, version] => {
            let (position, version) = (position.parse().expect("a number"), version.parse().expect("a number"));
            ledger.tell(id, Told::Stored { position, version });
        }
        _ => panic!("{words:?}"),
    }
}

#[track_caller]
fn appends_in_flight_are_answered_when_the_store_is_dropped(reopen: impl Fn() -> Opened) {
    let mut ledger = Ledger::default();
    for _ in 0..20 {
        let store = reopen();
        let batches: Vec<AppendBatch> = (0..20).map(|number| one(&format!("stream-{number}"))).collect();
        let mut appends: Vec<_> = batches.iter().map(|batch| store.append(batch.clone())).collect();
        for append in &mut appends {
            // It begins.
            let _ = append.wait_until(Some(Instant::now()));
        }
        drop(store);
        for (batch, append) in batches.iter().zip(appends) {
            ledger.note(batch, append.wait());
        }
    }
    ledger.assert_true_of(&*reopen());
    println!("400 appends when their store was dropped: (acknowledged, in doubt, refused) {:?}", ledger.counts());
    assert_eq!(ledger.counts(), (400, 0, 0));
}

#[test]
fn appends_in_flight_are_answered_when_a_store_in_a_file_is_dropped() {
    let folder: PathBuf = folder().keep();
    appends_in_flight_are_answered_when_the_store_is_dropped(|| open(Config::sqlite(folder.join("events.db"))));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn appends_in_flight_are_answered_when_a_store_on_a_server_is_dropped() {
    let table = crate::support::new_table();
    appends_in_flight_are_answered_when_the_store_is_dropped(|| open(crate::arrange::postgres(&table)));
}
