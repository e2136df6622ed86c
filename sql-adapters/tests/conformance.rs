//! The conformance suite on SQLite, in a file and in memory, and on a Postgres server.

mod support;

use std::sync::Arc;

use eventuali::EventStore;
use eventuali::testing::Home;
use eventuali_sql::{Config, SqliteStore, Store, Synchronous};
use support::PostgresHome;
use tempfile::TempDir;

fn sqlite(config: Config) -> SqliteStore {
    match config.open().expect("the store opens") {
        Store::Sqlite(store) => store,
        other => panic!("expected a SQLite store, not {other:?}"),
    }
}

/// A store in a file of its own.
struct File {
    folder: TempDir,
    synchronous: Synchronous,
}

impl Home for File {
    fn open(&self) -> Arc<dyn EventStore> {
        Arc::new(sqlite(Config::sqlite(self.folder.path().join("events.db")).synchronous(self.synchronous)))
    }
}

fn file(synchronous: Synchronous) -> Box<dyn Home> {
    Box::new(File { folder: tempfile::tempdir().expect("a temporary folder"), synchronous })
}

mod sqlite_file {
    eventuali::conformance_suite!(|| super::file(super::Synchronous::Full));
}

mod sqlite_file_with_normal_synchronous {
    eventuali::conformance_suite!(|| super::file(super::Synchronous::Normal));
}

mod sqlite_in_memory {
    use super::{Arc, Config, EventStore, Home, sqlite};

    fn open() -> Arc<dyn EventStore> {
        Arc::new(sqlite(Config::sqlite_in_memory()))
    }

    eventuali::conformance_suite!(|| Box::new(open) as Box<dyn Home>);
}

mod postgres {
    eventuali::conformance_suite!(|| Box::new(super::PostgresHome::new()) as Box<dyn super::Home>);
}
