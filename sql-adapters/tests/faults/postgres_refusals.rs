//! Servers that refuse: each time the error that says why, soon, without the password.

use std::ops::ControlFlow;
use std::time::Duration;

use eventuali::{Error, Position, ReadAll, StreamKey};
use eventuali_sql::{Config, export};

use crate::arrange::{Opened, assert_usable, fails_within, one, open, postgres, postgres_at};
use crate::roles::with_own_server;
use crate::session::Session;
use crate::support::{new_table, postgres_url};

const SOON: Duration = Duration::from_secs(10);
/// A password that no message may show.
const SECRET: &str = "tops3cret";

/// The tests' server, with these instead of its user, host and database.
fn address(user: Option<&str>, host: Option<&str>, database: Option<&str>) -> String {
    let url = postgres_url();
    let (credentials, rest) = url.trim_start_matches("postgresql://").split_once('@').expect("an address with a user");
    let (its_host, its_database) = rest.split_once('/').expect("an address with a database");
    let user = user.map_or(credentials.to_owned(), |user| format!("{user}:{SECRET}"));
    format!("postgresql://{user}@{}/{}", host.unwrap_or(its_host), database.unwrap_or(its_database))
}

#[track_caller]
fn refused(what: &str, url: &str) -> Error {
    let config = postgres_at(url, &new_table());
    let password = url.split_once('@').and_then(|(before, _)| before.rsplit_once(':')).expect("a password").1.to_owned();
    let error = fails_within(SOON, what, || config.open());
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains(&password) && !shown.contains(SECRET), "{what} shows the password");
    }
    error
}

#[track_caller]
fn assert_configuration(error: &Error, saying: &str) {
    assert!(matches!(error, Error::Configuration { message } if message.contains(saying)), "{error:?}");
}

#[track_caller]
fn assert_unavailable(error: &Error, saying: &str) {
    assert!(matches!(error, Error::Unavailable { reason, .. } if reason.contains(saying)), "{error:?}");
}

#[track_caller]
fn assert_code(error: &Error, expected: &str) {
    assert!(matches!(error, Error::Database { code: Some(code), .. } if code == expected), "{error:?}");
}

/// A role that may connect, and its address.
fn role(session: &mut Session) -> (String, String) {
    let role = new_table();
    session.run(&format!("CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'"));
    let url = address(Some(&role), None, None);
    (role, url)
}

#[test]
fn a_wrong_password_is_refused_at_once() {
    let (role, url) = role(&mut Session::new(&postgres_url()));
    let error = refused("a wrong password", &url.replace(SECRET, "wr0ng-one"));
    assert_configuration(&error, &role);
}

#[test]
fn an_unknown_user_is_refused_at_once() {
    assert_configuration(&refused("an unknown user", &address(Some("nobody_knows"), None, None)), "nobody_knows");
}

#[test]
fn an_unknown_database_is_refused_at_once() {
    assert_configuration(&refused("an unknown database", &address(None, None, Some("nowhere"))), "nowhere");
}

#[test]
fn an_unknown_host_is_told_at_once() {
    assert!(matches!(refused("an unknown host", &address(None, Some("host.invalid:5432"), None)), Error::Unavailable { .. }));
}

#[test]
fn a_port_where_nobody_listens_is_told_at_once() {
    // It is given free again, and nobody else takes it so soon.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    assert_unavailable(&refused("nobody listens", &address(None, Some(&format!("127.0.0.1:{port}")), None)), "refused");
}

#[test]
fn a_server_that_never_answers_is_given_up_after_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("its address").to_string();
    let config = postgres_at(&address(None, Some(&host), None), "events").acquire_timeout(Duration::from_secs(3));
    assert_unavailable(&fails_within(SOON, "no answer", || config.open()), "in time");
}

#[test]
fn tls_is_not_given_up_where_the_server_has_none() {
    with_own_server("postgres_refusals::tls_is_not_given_up_where_the_server_has_none", |server| {
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_configuration(&refused("no TLS", &format!("{}?sslmode={mode}", server.url)), "TLS");
        }
    });
}

#[test]
fn a_database_with_another_encoding_is_refused() {
    let name = new_table();
    let mut session = Session::new(&postgres_url());
    session.run(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"));
    assert_configuration(&refused("LATIN1", &address(None, None, Some(&name))), "UTF8");
    session.run(&format!("DROP DATABASE {name}"));
}

#[test]
fn a_server_without_a_free_connection_is_told_and_used_again_later() {
    with_own_server("postgres_refusals::a_server_without_a_free_connection_is_told_and_used_again_later", |server| {
        let mut session = Session::new(&server.url);
        for setting in ["max_connections = 10", "superuser_reserved_connections = 0"] {
            session.run(&format!("ALTER SYSTEM SET {setting}"));
        }
        drop(session);
        server.control("restart");
        let config = postgres_at(&server.url, "events").acquire_timeout(Duration::from_secs(3));
        let store = open(config.clone());
        let mut session = Session::new(&server.url);
        // The store has to make its connections anew.
        session.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eventuali'");
        let mut taken: Vec<Session> = (0..9).map(|_| Session::new(&server.url)).collect();
        assert_unavailable(&fails_within(SOON, "opening without a free connection", || config.open()), "too many clients");
        assert_unavailable(&fails_within(SOON, "reading without a free connection", || store.head().wait()), "too many clients");
        assert_unavailable(&fails_within(SOON, "appending without a free connection", || store.append(one("a")).wait()), "too many clients");
        taken.truncate(1);
        assert_usable(&store);
        assert_eq!(store.head().wait().expect("known").0, 1, "nothing of what was refused is stored");
    });
}

#[test]
fn a_counter_that_another_transaction_holds_is_told_after_the_lock_timeout() {
    let table = new_table();
    let store = open(postgres(&table).lock_timeout(Duration::from_millis(200)));
    let mut session = Session::new(&postgres_url());
    session.run(&format!("BEGIN; SELECT 1 FROM {table}_state FOR UPDATE"));
    assert_unavailable(&fails_within(SOON, "the counter is held", || store.append(one("a")).wait()), "lock");
    assert_eq!(store.head().wait().expect("readers wait for nobody").0, 0);
    session.run("ROLLBACK");
    assert_usable(&store);
    assert_eq!(store.head().wait().expect("known").0, 1, "nothing of what was refused is stored");
}

#[test]
fn a_statement_that_takes_too_long_is_told_after_its_timeout() {
    let table = new_table();
    let store = open(postgres(&table).statement_timeout(Duration::from_millis(300)));
    let mut session = Session::new(&postgres_url());
    session.run(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
    assert_unavailable(&fails_within(SOON, "an append takes too long", || store.append(one("a")).wait()), "timeout");
    let read = || store.read_all(ReadAll::new()).collect::<eventuali::Result<Vec<_>>>();
    assert_unavailable(&fails_within(SOON, "a read takes too long", read), "timeout");
    session.run("ROLLBACK");
    assert_usable(&store);
    assert_eq!(store.head().wait().expect("known").0, 1, "nothing of what was refused is stored");
}

#[test]
fn a_table_that_is_gone_is_told_by_its_name_until_it_is_back() {
    const UNDEFINED_TABLE: &str = "42P01";
    let table = new_table();
    let store = open(postgres(&table));
    assert_usable(&store);
    let mut session = Session::new(&postgres_url());
    for gone in [table.clone(), format!("{table}_state")] {
        session.run(&format!("ALTER TABLE {gone} RENAME TO {gone}_away"));
        let appended = fails_within(SOON, "appending to a table that is gone", || store.append(one("a")).wait());
        let read = fails_within(SOON, "reading a table that is gone", || store.read_all(ReadAll::new()).collect::<eventuali::Result<Vec<_>>>());
        let opened = fails_within(SOON, "opening a table that is gone", || postgres(&table).open());
        for error in [appended, read, opened] {
            assert_code(&error, UNDEFINED_TABLE);
            assert!(error.to_string().contains(&gone), "{error}");
        }
        session.run(&format!("ALTER TABLE {gone}_away RENAME TO {gone}"));
        assert_usable(&store);
    }
    assert_eq!(store.head().wait().expect("known").0, 3, "nothing of what was refused is stored");
}

#[test]
fn a_row_of_state_that_is_gone_is_told_as_such() {
    let table = new_table();
    let store = open(postgres(&table));
    assert_usable(&store);
    Session::new(&postgres_url()).run(&format!("DELETE FROM {table}_state"));
    let read = || store.read_all(ReadAll::new()).collect::<eventuali::Result<Vec<_>>>().map(drop);
    for answer in [store.append(one("a")).wait().map(drop), read(), store.head().wait().map(drop), store.identity().wait().map(drop)] {
        assert!(matches!(&answer, Err(Error::Database { message, .. }) if message.contains("row of state")), "{answer:?}");
    }
}

/// A server refuses prepared statements whose columns have other types now: a connection that had them was of no use any more.
#[test]
fn columns_whose_types_were_changed_are_read_and_written_by_a_store_that_is_open() {
    let table = new_table();
    let store = open(postgres(&table));
    let mut session = Session::new(&postgres_url());
    for change in [
        format!(r#"ALTER TABLE {table} ALTER COLUMN event_type TYPE TEXT COLLATE "C""#),
        format!(r#"ALTER TABLE {table} ALTER COLUMN aggregate_type TYPE TEXT COLLATE "C", ALTER COLUMN event_data_type TYPE TEXT"#),
    ] {
        for _ in 0..3 {
            assert_usable(&store);
            store.stream(StreamKey { tenant: "", aggregate_id: "afterwards" }).wait().expect("known");
        }
        session.run(&change);
        let read = || store.read_all(ReadAll::new().after(Position(1))).collect::<eventuali::Result<Vec<_>>>();
        let refused: Vec<Error> = (0..10).filter_map(|_| read().err()).collect();
        assert!(matches!(&refused[..], [] | [Error::Unavailable { .. }]), "one at most, and it may try again: {refused:?}");
        for _ in 0..3 {
            store.stream(StreamKey { tenant: "", aggregate_id: "afterwards" }).wait().expect("known");
            assert_usable(&store);
        }
    }
}

/// A trigger that was to look at rows, and returns nothing, leaves them out without an error.
#[test]
fn a_trigger_that_leaves_events_out_is_told_and_nothing_is_stored() {
    let table = new_table();
    let store = open(postgres(&table));
    let mut session = Session::new(&postgres_url());
    session.run(&format!(
        "CREATE FUNCTION f_{table}() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF NEW.aggregate_id = ''a'' THEN RETURN NULL; END IF; RETURN NEW; END';
         CREATE TRIGGER looks BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION f_{table}()"
    ));
    let left_out = |error: &Error| {
        assert!(matches!(error, Error::Database { message, .. } if message.contains("0 of 1") && message.contains("trigger")), "{error:?}");
    };
    left_out(&fails_within(SOON, "a trigger leaves an event out", || store.append(one("a")).wait()));
    let source = Config::sqlite_in_memory().open().expect("it opens");
    source.as_dyn().append(one("a")).wait().expect("stored");
    let target = postgres(&table).open().expect("it opens");
    left_out(&fails_within(SOON, "a trigger leaves an exported event out", || export(source.as_dyn(), &target, |_| ControlFlow::Continue(()))));
    assert_usable(&store);
    assert_eq!(session.number(&format!("SELECT count(*) FROM {table}")), 1, "nothing of what was refused is stored");
    assert_eq!(store.head().wait().expect("known").0, 1, "and no position was given for it");
}

#[test]
fn tables_of_a_newer_release_are_refused_and_left_alone() {
    let table = new_table();
    assert_usable(&open(postgres(&table)));
    let mut session = Session::new(&postgres_url());
    session.run(&format!(
        "INSERT INTO {table}_migrations (version, description, success, checksum, execution_time) VALUES (99, 'from later', true, '', 0)"
    ));
    let error = fails_within(SOON, "newer tables", || postgres(&table).open());
    assert!(matches!(error, Error::FormatVersion { found: 99, supported: 1, .. }), "{error:?}");
    assert_eq!(session.number(&format!("SELECT count(*) FROM {table}")), 1);
}

/// A store in tables that are there, opened by a role with these rights on them.
fn opened_with_rights(rights: &str, table: &str) -> (Opened, Session) {
    assert_usable(&open(postgres(table)));
    let mut session = Session::new(&postgres_url());
    let (role, url) = role(&mut session);
    session.run(&format!("REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT {rights} ON {table}, {table}_state, {table}_migrations TO {role}"));
    (open(postgres_at(&url, table)), session)
}

#[test]
fn a_role_that_may_not_create_tables_uses_those_that_are_there() {
    let table = new_table();
    let (store, _session) = opened_with_rights("SELECT, INSERT, UPDATE", &table);
    assert_usable(&store);
    assert_eq!(store.head().wait().expect("known").0, 2);
}

#[test]
fn a_role_that_may_only_read_reads_and_is_told_what_it_may_not() {
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let table = new_table();
    let (store, mut session) = opened_with_rights("SELECT", &table);
    assert_eq!(store.read_all(ReadAll::new()).map(|read| read.expect("it may read").position().0).collect::<Vec<_>>(), [1]);
    assert_code(&fails_within(SOON, "appending as a reader", || store.append(one("a")).wait()), INSUFFICIENT_PRIVILEGE);
    assert_eq!(store.head().wait().expect("it may read").0, 1, "nothing was stored");
    let (_, url) = role(&mut session);
    assert_code(&fails_within(SOON, "a store of no rights", || postgres_at(&url, &table).open()), INSUFFICIENT_PRIVILEGE);
    assert_code(&refused("a new store without the right to create it", &url), INSUFFICIENT_PRIVILEGE);
}

#[test]
fn the_config_of_a_server_shows_no_password() {
    let config = Config::postgres(&address(Some("ada"), None, None)).expect("a config");
    assert!(!format!("{config} {config:?}").contains(SECRET));
    let store = open(postgres(&new_table()));
    let url = postgres_url();
    let password = url.split_once('@').and_then(|(before, _)| before.rsplit_once(':')).expect("a password").1;
    assert!(!format!("{:?}", store.capabilities()).contains(password));
}
