//! An event store you import: a durable, ordered event log in your process.
mod aggregate;
mod codec;
mod error;
mod event;
mod index;
mod log;
mod log_store;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod version;

pub use aggregate::{Aggregate, AsOf, Load, Root, Save};
pub use error::{Corruption, Error, EventIdProblem, Result};
pub use event::{DataFormat, Event, EventData, EventMetadata, Json, NewEvent, StreamKey, Tag, Timestamp};
pub use log::storage;
pub use log_store::{LogStore, OpenOptions, OpenOutcome, OpenReport, rebuild_manifest};
pub use store::{
    AppendBatch, BatchSource, Capabilities, Completion, Durability, EventReader, EventStore, Operation, ReadAll, ReadStream, Receipt, StreamAppend,
    StreamInfo,
};
pub use version::{AggregateVersion, ExpectedVersion, Position};

/// Runs the front page's Rust example with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FrontPage;
