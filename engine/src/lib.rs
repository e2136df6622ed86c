//! An event store you import: a durable, ordered event log in your process.
//!
//! A program opens a directory and has an event store: appends that are on disk when they are acknowledged, optimistic
//! concurrency, one gapless order of all events, and recovery that refuses rather than forgets. There is no server, no
//! runtime and no configuration.
//!
//! # From opening to loading
//!
//! `cargo add eventuali` and `cargo add serde --features derive`; further down also `cargo add serde_json`.
//!
//! ```
//! use eventuali::{Aggregate, LogStore, Root};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! enum OrderEvent {
//!     Placed { customer: String, cents: u64 },
//!     Shipped,
//! }
//!
//! #[derive(Default)]
//! struct Order {
//!     cents: u64,
//!     is_shipped: bool,
//! }
//!
//! impl Aggregate for Order {
//!     const TYPE: &'static str = "Order";
//!     type Event = OrderEvent;
//!
//!     fn apply(&mut self, event: OrderEvent) {
//!         match event {
//!             OrderEvent::Placed { cents, .. } => self.cents = cents,
//!             OrderEvent::Shipped => self.is_shipped = true,
//!         }
//!     }
//! }
//!
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! # let path = folder.path().join("orders");
//! let store = LogStore::open(&path)?; // a directory, made if it is not there
//!
//! let mut order = Root::<Order>::new();
//! order.apply(OrderEvent::Placed { customer: "Ada".to_owned(), cents: 1200 })?;
//! order.apply(OrderEvent::Shipped)?;
//! order.save(&store).wait()?; // on disk when this returns
//!
//! let order = Root::<Order>::load(&store, order.id()).wait()?;
//! assert!(order.is_shipped && order.cents == 1200);
//! # Ok::<(), eventuali::Error>(())
//! ```
//!
//! Below the [`Aggregate`] lies the [`EventStore`]: appends of events to one or several streams, reads of one stream or of
//! everything, forwards and backwards.
//!
//! ```
//! use eventuali::{AppendBatch, Error, EventStore, ExpectedVersion, LogStore, NewEvent, ReadAll, ReadStream};
//! use serde_json::json;
//!
//! let store = LogStore::memory()?; // the same engine, in memory
//! let placed = NewEvent::json("OrderPlaced", &json!({"customer": "Ada"}))?;
//! let opened = NewEvent::json("InvoiceOpened", &json!({"order": "order-42"}))?;
//! let both = AppendBatch::one("order-42", "Order", ExpectedVersion::NoStream, vec![placed.clone()])
//!     .and("invoice-7", "Invoice", ExpectedVersion::NoStream, vec![opened]);
//! let receipts = store.append(both.clone()).wait()?; // all of it, or nothing
//! assert_eq!((receipts[0].position.0, receipts[1].position.0), (1, 2));
//!
//! // Repeated with the same event ids, an append stores nothing and gets its first answer.
//! assert_eq!(store.append(both).wait()?, receipts);
//!
//! // Somebody who believes that there is no such order yet is told better.
//! let again = NewEvent::json("OrderPlaced", &json!({"customer": "Bob"}))?;
//! let refused = store.append(AppendBatch::one("order-42", "Order", ExpectedVersion::NoStream, vec![again])).wait();
//! assert!(matches!(refused, Err(Error::Conflict { actual, .. }) if actual.0 == 1));
//!
//! for event in store.read(ReadStream::of("order-42")) {
//!     let event = event?;
//!     assert_eq!((event.id(), event.event_type(), event.version().0), (placed.id, "OrderPlaced", 1));
//!     assert_eq!(event.json::<serde_json::Value>()?, json!({"customer": "Ada"}));
//! }
//! let newest: Vec<_> = store.read_all(ReadAll::new().backwards().limit(1)).collect::<Result<_, Error>>()?;
//! assert_eq!(newest[0].aggregate_id(), "invoice-7");
//! # Ok::<(), Error>(())
//! ```
//!
//! # What an acknowledgement means
//!
//! | [`Durability`] | acknowledged means | the process dies | the power fails |
//! |---|---|---|---|
//! | `Sync`, the default | on disk, directory entry included | nothing is lost | nothing acknowledged is lost |
//! | `Interval` | handed to the operating system, synced within the interval | nothing is lost | at most the interval is lost; what survives is a prefix |
//! | `Os` | handed to the operating system | nothing is lost | a recent suffix may be lost; what survives is a prefix |
//! | `Memory` | in memory | all is lost | all is lost |
//!
//! [`OpenOptions`] chooses; [`EventStore::sync`] is a barrier in every mode. Readers see an event only when it is as durable
//! as the mode promises.
//!
//! # Threads and futures
//!
//! A store is shared by reference, in an `Arc`, or by its clones. Whatever may wait returns a [`Completion`]:
//! [`wait`](Completion::wait) blocks, `.await` works on any executor and needs none of its own. Appends that wait for
//! the disk at the same time share one sync, whether many threads wait or one thread that drives many futures.
//!
//! ```
//! use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent, Receipt, Result};
//!
//! async fn note(store: &dyn EventStore, text: &str) -> Result<Receipt> {
//!     let noted = NewEvent::json("Noted", text)?;
//!     let receipts = store.append(AppendBatch::one("notes", "Notes", ExpectedVersion::Any, vec![noted])).await?;
//!     Ok(receipts[0].clone())
//! }
//!
//! let store = LogStore::memory()?;
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| {
//!             let noted = NewEvent::json("Noted", "from a thread")?;
//!             store.append(AppendBatch::one("notes", "Notes", ExpectedVersion::Any, vec![noted])).wait()
//!         });
//!     }
//! });
//! # use std::{future::Future, pin::pin, task::{Context, Poll, Waker}};
//! # fn block_on<T>(future: impl Future<Output = T>) -> T {
//! #     let mut future = pin!(future);
//! #     loop {
//! #         if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) { return output; }
//! #     }
//! # }
//! let receipt = block_on(note(&store, "from a task"))?; // any executor's `block_on`
//! assert_eq!(receipt.version.0, 5);
//! # Ok::<(), eventuali::Error>(())
//! ```
//!
//! A completion is lazy: nothing happens before it is first polled or waited for. Dropping it after that abandons the answer,
//! not the operation.
//!
//! # Errors
//!
//! Every [`Error`] says what happened, where, and what to do next, and carries the facts as fields. The ones to plan for:
//!
//! | error | what it means | what to do |
//! |---|---|---|
//! | [`Error::Conflict`] | somebody else wrote to the stream | load, decide and append again |
//! | [`Error::OutcomeUnknown`] | a write or sync failed while the append waited for it | open the store again, repeat the append with the same event ids; [`Root::save`] does so by itself |
//! | [`Error::StorageFull`] | nothing was stored | free space, append again |
//! | [`Error::StoreLocked`] | another process writes to the store | close it there |
//! | [`Error::Corruption`] | acknowledged data is damaged | restore a copy, or choose one of the ways out that it names |
//!
//! # Features
//!
//! `testing` brings the conformance suite that every [`EventStore`] must pass.

mod aggregate;
mod codec;
#[cfg(test)]
mod documented;
mod error;
mod event;
mod index;
mod log;
mod log_store;
pub mod maintenance;
mod progress;
mod retention;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod version;

pub use aggregate::{Aggregate, AsOf, Load, Root, Save};
pub use error::{Corruption, Error, EventIdProblem, ForkProblem, Remedy, Result};
pub use event::{DataFormat, Event, EventData, EventMetadata, Json, NewEvent, StreamKey, Tag, Timestamp};
pub use log::compressed::Compression;
pub use log::follow::Follow;
pub use log::storage;
pub use log::storage::os::SealedReads;
pub use log_store::{Compress, HistoryItem, LogStore, OpenOptions, OpenOutcome, OpenReport, compress, compress_storage, rebuild_manifest};
pub use progress::Progress;
pub use retention::{Change, Notice, Retention};
pub use store::{
    AppendBatch, BatchSource, Capabilities, Completion, Durability, EventReader, EventStore, Operation, ReadAll, ReadStream, Receipt, StoreIdentity,
    StreamAppend, StreamInfo,
};
pub use version::{AggregateVersion, ExpectedVersion, Position};

/// Runs the front page's Rust example with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FrontPage;
