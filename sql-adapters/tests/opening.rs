//! Opening: the store that a config names, and nothing else on the disk.

#[path = "support/server.rs"]
mod server;

#[path = "faults/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use eventuali::{AppendBatch, Durability, Error, EventStore, ExpectedVersion, NewEvent, OpenOptions, OpenOutcome, Position};
use eventuali_sql::{Config, Store, open};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn names_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn append_one(store: &dyn EventStore) {
    let event = NewEvent::json("Happened", &1).expect("an event");
    store.append(AppendBatch::one("a", "Thing", ExpectedVersion::Any, vec![event])).wait().expect("stored");
}

#[test]
fn a_directory_is_made_and_keeps_its_events() {
    let folder = folder();
    let path = folder.path().join("ord ers");
    let url = format!("eventuali://{}", text(&path).replace(' ', "%20"));
    for (spelling, events) in [text(&path), &url, text(&path)].iter().zip(1..) {
        let store = open(spelling).expect("the store opens");
        append_one(&*store);
        assert_eq!(store.head().wait().expect("a head"), Position(events));
        store.close().wait().expect("the store closes");
    }
    assert_eq!(names_in(folder.path()), [path]);
}

#[test]
fn memory_is_a_new_store_each_time() {
    let (one, other) = (open("memory://").expect("a store"), open("memory://").expect("a store"));
    append_one(&*one);
    assert_eq!((one.head().wait().expect("a head").0, other.head().wait().expect("a head").0), (1, 0));
    assert_eq!(one.capabilities().durability, Durability::Memory);
}

#[test]
fn options_reach_the_engine() {
    let folder = folder();
    for (number, durability) in [Durability::Sync, Durability::Os, Durability::Interval(Duration::from_millis(7))].into_iter().enumerate() {
        let config = Config::embedded(folder.path().join(number.to_string())).durability(durability);
        let Store::Embedded(store) = config.open().expect("the store opens") else { panic!("an embedded store") };
        assert_eq!(store.capabilities().durability, durability);
    }
    let refused = Config::embedded(folder.path().join("x")).segment_bytes(1).open();
    assert!(matches!(refused, Err(Error::Configuration { message }) if message.contains("segment_bytes")));
    let both = Config::embedded(folder.path().join("x")).accept_loss_after(Position(1)).read_up_to_damage().open();
    assert!(matches!(both, Err(Error::Configuration { .. })));
    let memory = Config::embedded(folder.path().join("x")).options(OpenOptions::new().durability(Durability::Memory)).open();
    assert!(matches!(memory, Err(Error::Configuration { .. })));
    assert_eq!(names_in(folder.path()).len(), 3, "a refused option creates nothing");
}

#[test]
fn memory_has_nothing_to_choose() {
    Config::memory().durability(Durability::Memory).open().expect("that is what it is");
    for config in [
        Config::memory().durability(Durability::Sync).segment_bytes(1 << 20),
        Config::memory().durability(Durability::Os),
        Config::memory().accept_loss_after(Position(1)),
        Config::memory().read_up_to_damage(),
    ] {
        assert!(matches!(config.open(), Err(Error::Configuration { message }) if message.contains("memory://")));
    }
}

#[test]
fn the_open_report_of_an_embedded_store_can_be_had() {
    let folder = folder();
    let config = Config::embedded(folder.path().join("orders"));
    let store = config.clone().open().expect("the store opens");
    assert_eq!(store.open_report().map(|report| &report.outcome), Some(&OpenOutcome::Created));
    let store = store.into_dyn();
    append_one(&*store);
    store.close().wait().expect("the store closes");
    let store = config.open().expect("the store opens");
    let report = store.open_report().expect("an embedded store");
    assert_eq!((&report.outcome, report.head), (&OpenOutcome::Clean, Position(1)));
    assert!(format!("{store:?}").contains("Clean"));
}

#[test]
fn damage_is_refused_and_the_ways_out_are_options() {
    let folder = folder();
    let config = Config::embedded(folder.path().join("orders"));
    let store = config.clone().open().expect("the store opens").into_dyn();
    for _ in 0..10 {
        append_one(&*store);
    }
    store.close().wait().expect("the store closes");
    let segment =
        names_in(&folder.path().join("orders")).into_iter().find(|path| path.extension().is_some_and(|end| end == "seg")).expect("a segment");
    let mut bytes = fs::read(&segment).expect("readable");
    let at = bytes.windows(8).enumerate().filter(|(_, window)| window == b"Happened").nth(5).expect("the sixth event").0;
    bytes[at] ^= 1;
    fs::write(&segment, bytes).expect("writable");

    let last_good = match config.clone().open() {
        Err(Error::Corruption(corruption)) => corruption.last_good_position,
        other => panic!("damage is refused, not {other:?}"),
    };
    assert_eq!(last_good, Position(5));
    let damaged = config.clone().read_up_to_damage().open().expect("open for reading");
    assert!(matches!(damaged.open_report().expect("a report").outcome, OpenOutcome::Damaged { up_to: Position(5), .. }));
    drop(damaged);
    let cut = config.accept_loss_after(last_good).open().expect("the loss is accepted");
    assert_eq!(cut.open_report().expect("a report").outcome, OpenOutcome::LossAccepted { after: last_good });
}

#[track_caller]
fn assert_refused(config: Config, path: &Path) {
    let error = config.open().expect_err("no store");
    assert!(matches!(error, Error::Configuration { .. } | Error::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(text(path)), "{error} shows {path:?}");
}

#[test]
fn a_missing_parent_is_refused_and_not_created() {
    let folder = folder();
    let path = folder.path().join("missing").join("orders");
    assert_refused(Config::embedded(&path), &path);
    assert_refused(Config::parse(&format!("eventuali://{}", text(&path))).expect("a path"), &path);
    assert_eq!(names_in(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_relative_path_is_shown_as_it_was_resolved() {
    let resolved = std::env::current_dir().expect("a working directory").join("missing/orders");
    assert_refused(Config::parse("./missing/orders").expect("a path"), &resolved);
}

#[test]
fn a_file_in_the_way_is_refused_and_left_alone() {
    let folder = folder();
    let file = folder.path().join("orders");
    fs::write(&file, "not a store").expect("writable");
    assert_refused(Config::embedded(&file), &file);
    let below = file.join("store");
    assert_refused(Config::embedded(&below), &below);
    assert_eq!(fs::read_to_string(&file).expect("readable"), "not a store");
    assert_eq!(names_in(folder.path()), [file]);
}

#[test]
fn an_empty_path_is_refused() {
    assert!(matches!(Config::embedded("").open(), Err(Error::Configuration { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_without_permission_is_refused_with_the_path() {
    use std::os::unix::fs::PermissionsExt;

    let folder = folder();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).expect("a folder");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).expect("its permissions");
    // The superuser may write anywhere in a usual file system, but not in the kernel's own.
    let closed = if fs::write(closed.join("probe"), "").is_ok() { PathBuf::from("/proc") } else { closed };
    let path = closed.join("orders");
    assert_refused(Config::embedded(&path), &path);
    assert!(!path.exists());
}

/// `store` exists, and `other` names a place where there is none.
#[track_caller]
fn only_what_is_there_is_opened(store: &Config, other: Config, named: &str) {
    let opened = store.clone().open().expect("the store opens").into_dyn();
    append_one(&*opened);
    opened.close().wait().expect("the store closes");
    let error = other.clone().existing().open().expect_err("there is no store");
    assert!(matches!(&error, Error::Configuration { message } if message.contains(named) && message.contains("none was made")), "{error:?}");
    let again = other.existing().open().expect_err("none was made");
    assert_eq!(again.to_string(), error.to_string());
    let opened = store.clone().existing().open().expect("the store opens").into_dyn();
    assert_eq!(opened.head().wait().expect("a head"), Position(1));
    opened.close().wait().expect("the store closes");
}

#[test]
fn an_existing_directory_is_one_with_a_store_in_it() {
    let folder = folder();
    let store = Config::embedded(folder.path().join("orders"));
    only_what_is_there_is_opened(&store, Config::embedded(folder.path().join("ordres")), "ordres");
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).expect("a folder");
    fs::write(photos.join("ada.jpg"), "a picture").expect("written");
    only_what_is_there_is_opened(&Config::embedded(folder.path().join("more")), Config::embedded(&photos), "photos");
    assert_eq!(names_in(&photos).len(), 1, "nothing was added to the pictures");
    assert_eq!(names_in(folder.path()).len(), 3, "no directory was made");
}

#[test]
fn many_open_a_new_file_at_once() {
    let folder = folder();
    for round in 0..40 {
        let config = Config::sqlite(folder.path().join(format!("{round}.db")));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| append_one(config.clone().open().expect("opened").as_dyn()));
            }
        });
        assert_eq!(config.open().expect("opened").as_dyn().head().wait().expect("read"), Position(6));
    }
}

#[test]
fn an_existing_file_is_one_with_the_tables_in_it() {
    let folder = folder();
    let path = folder.path().join("events.db");
    only_what_is_there_is_opened(&Config::sqlite(&path), Config::sqlite(folder.path().join("evnets.db")), "evnets.db");
    let empty = folder.path().join("empty.db");
    fs::write(&empty, "").expect("written");
    only_what_is_there_is_opened(&Config::sqlite(folder.path().join("more.db")), Config::sqlite(&empty), "empty.db");
    assert_eq!(fs::read(&empty).expect("readable"), b"", "it was left as it was");
    let named = |table| Config::sqlite(&path).table_name(table).expect("a name");
    only_what_is_there_is_opened(&named("audit"), named("aduit"), "aduit");
}

#[test]
fn existing_tables_of_a_server_are_not_made() {
    let named = |table: &str| Config::postgres(&server::postgres_url()).and_then(|config| config.table_name(table)).expect("a config");
    let (table, other) = (server::new_table(), server::new_table());
    only_what_is_there_is_opened(&named(&table), named(&other), &other);
}

#[test]
fn nothing_in_memory_exists_beforehand() {
    for config in [Config::memory(), Config::sqlite_in_memory()] {
        let error = config.existing().open().expect_err("each is a new one");
        assert!(matches!(&error, Error::Configuration { message } if message.contains("in memory")), "{error:?}");
    }
}

#[test]
fn what_the_address_of_a_server_says_reaches_the_server() {
    let (url, schema) = (server::postgres_url(), server::new_table());
    let mut session = session::Session::new(&url);
    session.run(&format!("CREATE SCHEMA {schema}"));
    let more = if url.contains('?') { '&' } else { '?' };
    let store = open(&format!("{url}{more}application_name={schema}&options=-c%20search_path%3D{schema}")).expect("the store opens");
    append_one(&*store);
    assert!(session.number(&format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{schema}'")) > 0);
    assert_eq!(session.number(&format!("SELECT count(*) FROM {schema}.events")), 1);
    store.close().wait().expect("the store closes");
    session.run(&format!("DROP SCHEMA {schema} CASCADE"));
}
