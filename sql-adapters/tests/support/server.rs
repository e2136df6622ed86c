//! The Postgres server that tests use.

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
