//! What `docs/postgres.md` shows in SQL is run as it stands there, and its roles are what it says.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

#[path = "faults/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;

use std::ops::ControlFlow;

use eventuali::{AppendBatch, Error, EventStore, ExpectedVersion, LogStore, NewEvent, ReadAll};
use eventuali_sql::{Config, Store, export};
use session::Session;
use support::{new_table, postgres_url};

const DOCUMENT: &str = include_str!("../../docs/postgres.md");

/// The blocks of SQL, in order.
fn blocks() -> Vec<&'static str> {
    DOCUMENT.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

fn batch(stream: &str) -> AppendBatch {
    let event = NewEvent::json("Happened", &serde_json::json!({"total": 12})).expect("JSON");
    AppendBatch::one(stream, "Thing", ExpectedVersion::Any, vec![event])
}

fn opened(url: &str, table: &str) -> eventuali::Result<Store> {
    Config::postgres(url)?.table_name(table)?.open()
}

/// The address of the same database for another role.
fn url_of(role: &str) -> String {
    let url = postgres_url();
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (_, place) = rest.rsplit_once('@').expect("a user");
    format!("{scheme}://{role}:password@{place}")
}

#[test]
fn the_sql_of_the_document_runs_and_its_roles_can_do_what_it_says_and_no_more() {
    let (table, app, reader) = (new_table(), new_table(), new_table());
    let source = LogStore::memory().expect("a store");
    source.append(batch("order-42")).wait().expect("stored");
    let owner = opened(&postgres_url(), &table).expect("it opens");
    export(&source, &owner, |_| ControlFlow::Continue(())).expect("moved");

    let mut session = Session::new(&postgres_url());
    for role in [&app, &reader] {
        session.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'password'"));
    }
    session.run(&format!("GRANT SELECT ON {table}, {table}_state, {table}_migrations TO {reader}"));
    let epoch = format!("SELECT epoch FROM {table}_state");
    let before = session.number(&epoch);
    assert!(blocks().len() >= 4);
    for block in blocks() {
        let named = block.replace("TO app", &format!("TO {app}")).replace("FROM events", &format!("FROM {table}"));
        let named = named.replace("ON events", &format!("ON {table}")).replace("UPDATE events", &format!("UPDATE {table}"));
        session.run(&named.replace("'events'", &format!("'{table}'")));
    }
    assert_eq!(session.number(&epoch), before + 1, "after a restore");

    let application = opened(&url_of(&app), &table).expect("it opens without the right to make tables");
    assert_eq!(application.as_dyn().append(batch("order-43")).wait().expect("stored")[0].position.0, 2);
    assert!(session.number(&epoch) > before + 1, "the first event of its own begins an epoch");
    let refused = export(&source, &owner, |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::Diverged { .. })), "{refused:?}");
    let other = opened(&url_of(&app), &new_table()).expect_err("no tables are made");
    assert!(matches!(&other, Error::Database { code: Some(code), .. } if code == "42501"), "{other:?}");

    let reading = opened(&url_of(&reader), &table).expect("it opens for reading");
    assert_eq!(reading.as_dyn().read_all(ReadAll::new()).count(), 2);
    let refused = reading.as_dyn().append(batch("order-44")).wait().expect_err("it only reads");
    assert!(matches!(&refused, Error::Database { code: Some(code), .. } if code == "42501"), "{refused:?}");
    for store in [application, reading] {
        store.as_dyn().close().wait().expect("closed");
    }
    session.run(&format!("DROP OWNED BY {app}, {reader}; DROP ROLE {app}, {reader}"));
}

#[test]
fn the_document_describes_every_column() {
    let schema = include_str!("../src/sql/postgres.sql");
    let table = schema.split(");").next().expect("a table");
    let columns = table.lines().skip(1).filter(|line| line.starts_with("    ") && !line.trim().starts_with("UNIQUE"));
    for column in columns.map(|line| line.split_whitespace().next().expect("a name")) {
        assert!(DOCUMENT.contains(&format!("`{column}`")), "{column}");
    }
}
