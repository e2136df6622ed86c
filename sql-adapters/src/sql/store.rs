//! A store over a database: the trait, a queue of appends, and one writer that commits them in groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use eventuali::{
    AppendBatch, Capabilities, Completion, Durability, Error, Event, EventReader, EventStore, Position, ReadAll, ReadStream, Receipt, Result,
    StoreIdentity, StreamInfo, StreamKey,
};
use tokio::sync::{mpsc, oneshot};

use crate::moving::{Origin, Standing};

use super::database::{Database, Failure, Page};
use super::leaving::LEFT_OUT;
use super::reader::{Gate, Reader};
use super::remote::{Answer, Remote, Within, later};
use super::writer::{Request, write};

/// A store whose events are rows of a database. Clones are handles on the same store.
pub(crate) struct SqlStore<D> {
    inner: Arc<Inner<D>>,
}

impl<D> Clone for SqlStore<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<D> {
    /// Dropping it wakes the writer, which a forked child must not do.
    requests: Within<mpsc::UnboundedSender<Request>>,
    gate: Arc<Gate>,
    /// Up to here everything was on disk at the last sync, where not every commit waits for the disk.
    synced: Arc<AtomicU64>,
    closed: AtomicBool,
    database: Arc<Within<D>>,
    // Last, so that everything else is gone before the threads are.
    remote: Remote,
}

impl<D: Database> SqlStore<D> {
    /// Begins the store's work on a database that `open` reaches, blocking until it has.
    pub(crate) fn open<F: Future<Output = Result<D>> + Send + 'static>(open: F) -> Result<Self> {
        let mut remote = Remote::new()?;
        let database = Arc::new(Within::new(remote.block(open)?, &remote));
        let (requests, received) = mpsc::unbounded_channel();
        let gate = Arc::new(Gate::default());
        let synced = Arc::new(AtomicU64::new(0));
        // The writer ends when the last sender is gone.
        remote.begin_writing(write(Arc::clone(&database), received, Arc::clone(&gate), Arc::clone(&synced)));
        let requests = Within::new(requests, &remote);
        Ok(Self { inner: Arc::new(Inner { requests, gate, synced, closed: AtomicBool::new(false), database, remote }) })
    }

    /// The database behind the store.
    pub(crate) fn database(&self) -> &Arc<Within<D>> {
        &self.inner.database
    }

    /// Begins work on the database, if the store can be used.
    pub(crate) fn ask<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Within<D>>) -> F + Send + 'static,
    ) -> Completion<T> {
        let inner = Arc::clone(&self.inner);
        later(move || {
            inner.usable()?;
            Ok(inner.remote.begin(work(Arc::clone(&inner.database))))
        })
    }

    /// Stores events as they are behind the last one.
    pub(crate) fn restore(&self, origin: Origin, events: Vec<Event>) -> Completion<()> {
        self.ask(move |database| async move { database.restore(origin, &events).await.map_err(Failure::error) })
    }

    /// How far a store that events are moved to has come.
    pub(crate) fn standing(&self) -> Completion<Standing> {
        self.ask(|database| async move { database.standing().await })
    }

    fn queue<T: Send + 'static>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request + Send + 'static) -> Completion<T> {
        let inner = Arc::clone(&self.inner);
        later(move || {
            inner.usable()?;
            let (sender, receiver) = oneshot::channel();
            inner.requests.send(request(sender)).map_err(|_| Error::Closed)?;
            Ok(Answer::new(receiver))
        })
    }

    fn read_page(&self, page: Page) -> EventReader {
        match self.inner.usable() {
            Err(error) => EventReader::failed(error),
            Ok(()) => EventReader::new(Reader::new(Arc::clone(&self.inner.database), &self.inner.remote, &self.inner.gate, page)),
        }
    }
}

impl<D> Inner<D> {
    fn usable(&self) -> Result<()> {
        if self.remote.is_of_parent() {
            return Err(Error::ForkedProcess);
        }
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }
}

impl<D: Database> EventStore for SqlStore<D> {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        match batch.check() {
            Err(error) => Completion::ready(Err(error)),
            Ok(()) => self.queue(move |answer| Request::Append { batch, answer }),
        }
    }

    fn read(&self, query: ReadStream) -> EventReader {
        // There are no events in it, but rows that say so.
        let limit = if query.aggregate_id == LEFT_OUT { Some(0) } else { query.limit };
        self.read_page(Page::stream(ReadStream { limit, ..query }))
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        self.read_page(Page::all(query))
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        let (tenant, aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        self.ask(move |database| async move { database.stream(&tenant, &aggregate_id).await })
    }

    fn head(&self) -> Completion<Position> {
        self.ask(|database| async move { database.head().await.map(Position) })
    }

    fn durable_position(&self) -> Completion<Position> {
        match self.capabilities().durability {
            Durability::Sync => self.head(),
            Durability::Memory => self.ask(|_| async { Ok(Position::START) }),
            Durability::Interval(_) | Durability::Os => {
                let synced = Arc::clone(&self.inner.synced);
                self.ask(move |_| async move { Ok(Position(synced.load(Ordering::Acquire))) })
            }
        }
    }

    fn sync(&self) -> Completion<Position> {
        self.queue(|answer| Request::Sync { answer })
    }

    fn close(&self) -> Completion<()> {
        let inner = Arc::clone(&self.inner);
        later(move || {
            if inner.remote.is_of_parent() || inner.closed.swap(true, Ordering::AcqRel) {
                let (sender, receiver) = oneshot::channel();
                // Received in the next step.
                let _ = sender.send(Ok(()));
                return Ok(Answer::new(receiver));
            }
            let (sender, receiver) = oneshot::channel();
            inner.requests.send(Request::Close { answer: sender }).map_err(|_| Error::Closed)?;
            Ok(Answer::new(receiver))
        })
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        self.ask(|database| async move { database.identity().await })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.database.capabilities()
    }
}

/// A public store over one kind of database: all of it is [`SqlStore`]'s.
macro_rules! sql_store {
    ($(#[$doc:meta])* $name:ident over $database:ty) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SqlStore<$database>);

        impl $name {
            pub(crate) fn shown(&self) -> &str {
                self.0.database().shown()
            }

            pub(crate) fn restore(&self, origin: Origin, events: Vec<Event>) -> eventuali::Completion<()> {
                self.0.restore(origin, events)
            }

            pub(crate) fn standing(&self) -> eventuali::Completion<Standing> {
                self.0.standing()
            }
        }

        impl eventuali::EventStore for $name {
            fn append(&self, batch: AppendBatch) -> eventuali::Completion<Vec<Receipt>> {
                self.0.append(batch)
            }

            fn read(&self, query: eventuali::ReadStream) -> eventuali::EventReader {
                self.0.read(query)
            }

            fn read_all(&self, query: eventuali::ReadAll) -> eventuali::EventReader {
                self.0.read_all(query)
            }

            fn stream(&self, key: eventuali::StreamKey<'_>) -> eventuali::Completion<Option<StreamInfo>> {
                self.0.stream(key)
            }

            fn head(&self) -> eventuali::Completion<Position> {
                self.0.head()
            }

            fn durable_position(&self) -> eventuali::Completion<Position> {
                self.0.durable_position()
            }

            fn sync(&self) -> eventuali::Completion<Position> {
                self.0.sync()
            }

            fn close(&self) -> eventuali::Completion<()> {
                self.0.close()
            }

            fn identity(&self) -> eventuali::Completion<StoreIdentity> {
                self.0.identity()
            }

            fn capabilities(&self) -> Capabilities {
                self.0.capabilities()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.shown()).finish()
            }
        }
    };
}

pub(crate) use sql_store;
