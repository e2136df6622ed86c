//! What the tests have in common: the Postgres server, and stores in tables of their own.

use std::sync::Arc;

use eventuali::EventStore;
use eventuali::testing::Home;
use eventuali_sql::{Config, comparable_json};
use uuid::Uuid;

/// The address of the server that the tests use.
pub(crate) fn postgres_url() -> String {
    std::env::var("EVENTUALI_TEST_POSTGRES_URL").expect(
        "these tests need a Postgres server: run them as `make test-rust` does, under pybind/tools/with_postgres.py, or set EVENTUALI_TEST_POSTGRES_URL",
    )
}

/// A name for tables that no other test uses.
pub(crate) fn new_table() -> String {
    format!("t_{}", Uuid::new_v4().simple())
}

/// A store in tables of its own.
pub(crate) struct PostgresHome {
    table: String,
}

impl PostgresHome {
    pub(crate) fn new() -> Self {
        Self { table: new_table() }
    }

    pub(crate) fn config(&self) -> Config {
        Config::postgres(&postgres_url()).and_then(|config| config.table_name(&self.table)).expect("a config").max_connections(5)
    }
}

impl Home for PostgresHome {
    fn open(&self) -> Arc<dyn EventStore> {
        self.config().open().expect("the store opens").into_dyn()
    }

    fn comparable_json(&self, bytes: &[u8]) -> Vec<u8> {
        comparable_json(bytes).into_owned()
    }
}
