//! What the tests have in common: the Postgres server, and stores in tables of their own.

mod server;

use std::sync::Arc;

use eventuali::EventStore;
use eventuali::testing::Home;
use eventuali_sql::{Config, comparable_json};

pub(crate) use server::{new_table, postgres_url};

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
