//! Stores over SQL databases: one implementation of the trait, and what each database does for it.

mod database;
mod decide;
pub(crate) mod leaving;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod reader;
pub(crate) mod remote;
pub(crate) mod row;
mod schema;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
mod store;
#[cfg(feature = "postgres")]
mod timestamptz;
mod writer;
