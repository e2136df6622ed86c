//! What is left in the tables of a database of what is left out.

use std::ops::ControlFlow;

use eventuali::{AggregateVersion, Error, EventStore, ExpectedVersion, LogStore, NewEvent, ReadAll, ReadStream, Retention};
use eventuali_sql::{Config, export};

use super::compared::{assert_alike, batch, key};
use super::session::Session;
use super::support::{new_table, postgres_url};

fn append(source: &LogStore, stream: usize, secret: &str) {
    let event = NewEvent::json("Happened", &secret).expect("JSON");
    source.append(batch(stream, ExpectedVersion::Any, vec![event])).wait().expect("stored");
}

#[test]
fn no_row_has_anything_of_what_was_deleted_but_its_last_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.db");
    let (source, target) = (LogStore::memory().expect("a store"), Config::sqlite(&path).open().expect("it opens"));
    for number in 1..=3 {
        append(&source, 2, &format!("secret {number}"));
        append(&source, 0, &format!("limited {number}"));
    }
    export(&source, &target, |_| ControlFlow::Continue(())).expect("moved");
    source.delete(key(2), ExpectedVersion::Any).wait().expect("deleted");
    source.set_retention(key(0), Retention::new().truncate_before(AggregateVersion(3))).wait().expect("limited");
    export(&source, &target, |_| ControlFlow::Continue(())).expect("moved");
    assert_alike(&source, target.as_dyn());
    let mut session = Session::sqlite(&path);
    let mut count = |condition: &str| session.number_in_sqlite(&format!("SELECT count(*) FROM events WHERE {condition}"));
    assert_eq!((count("1 = 1"), count("event_type = '$left_out'")), (8, 5), "every position has a row");
    assert_eq!(count("event_data LIKE '%secret%' OR event_data LIKE '%limited 1%' OR event_data LIKE '%limited 2%'"), 0);
    assert_eq!(count("tenant = 'acme' AND aggregate_id = 'a' AND aggregate_type = 'Other' AND aggregate_version = 3"), 1);
    assert_eq!(count("tenant = 'acme'"), 1);
}

#[test]
fn a_row_that_is_missing_is_lost_and_not_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.db");
    let (source, target) = (LogStore::memory().expect("a store"), Config::sqlite(&path).open().expect("it opens"));
    for number in 1..=5 {
        append(&source, 0, "deleted");
        append(&source, 1, &format!("kept {number}"));
    }
    source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
    export(&source, &target, |_| ControlFlow::Continue(())).expect("moved");
    Session::sqlite(&path).run_sqlite("DELETE FROM events WHERE global_position = 5");
    let refused = export(target.as_dyn(), &Config::memory().open().expect("a store"), |_| ControlFlow::Continue(()));
    assert!(matches!(&refused, Err(Error::Unsupported { message }) if message.contains("no event at position 5,")), "{refused:?}");
}

#[test]
fn rows_that_say_that_nothing_is_there_are_in_no_stream() {
    let (source, target) = (LogStore::memory().expect("a store"), Config::sqlite_in_memory().open().expect("it opens"));
    append(&source, 0, "deleted");
    append(&source, 0, "deleted");
    source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
    export(&source, &target, |_| ControlFlow::Continue(())).expect("moved");
    assert_eq!(target.as_dyn().read(ReadStream::of("$left_out")).count(), 0);
    assert_eq!(target.as_dyn().read_all(ReadAll::new().include_system()).count(), 1);
    assert_eq!(target.as_dyn().stream("$left_out".into()).wait().expect("known"), None);
}

#[test]
fn in_postgres_a_role_needs_the_right_to_change_rows_only_where_something_was_deleted() {
    let (table, app) = (new_table(), new_table());
    let opened = |url: &str| Config::postgres(url).and_then(|config| config.table_name(&table)).and_then(Config::open).expect("it opens");
    drop(opened(&postgres_url()));
    let mut session = Session::new(&postgres_url());
    session.run(&format!(
        "CREATE ROLE {app} LOGIN PASSWORD 'password'; GRANT SELECT, INSERT ON {table} TO {app}; GRANT SELECT, UPDATE ON {table}_state TO {app};
         GRANT SELECT ON {table}_migrations TO {app}"
    ));
    let url = postgres_url();
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (_, place) = rest.rsplit_once('@').expect("a user");
    let (source, target) = (LogStore::memory().expect("a store"), opened(&format!("{scheme}://{app}:password@{place}")));
    append(&source, 0, "deleted");
    export(&source, &target, |_| ControlFlow::Continue(())).expect("moved");
    source.delete(key(0), ExpectedVersion::Any).wait().expect("deleted");
    let refused = export(&source, &target, |_| ControlFlow::Continue(()));
    assert!(matches!(&refused, Err(Error::Database { code: Some(code), .. }) if code == "42501"), "{refused:?}");
    session.run(&format!("GRANT UPDATE ON {table} TO {app}"));
    export(&source, &target, |_| ControlFlow::Continue(())).expect("moved");
    assert_alike(&source, target.as_dyn());
    drop(target);
    session.run(&format!("DROP TABLE {table}, {table}_state, {table}_migrations; DROP ROLE {app}"));
}
