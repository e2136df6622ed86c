//! The conformance suite on stores that are scavenged all the time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use eventuali::maintenance::scavenge;
use eventuali::storage::MemoryStorage;
use eventuali::testing::Home;
use eventuali::{
    AppendBatch, Capabilities, Completion, EventReader, EventStore, ExpectedVersion, LogStore, OpenOptions, Position, ReadAll, ReadStream, Receipt,
    Retention, StoreIdentity, StreamInfo, StreamKey,
};
use parking_lot::Mutex;

/// A handle for whoever scavenges; none once the store is closed.
type Handle = Arc<Mutex<Option<LogStore>>>;

/// Files in memory whose store is scavenged by a thread of its own, and at once where a case asks for it.
struct Scavenged {
    storage: Arc<MemoryStorage>,
    handle: Handle,
}

impl Home for Scavenged {
    fn open(&self) -> Arc<dyn EventStore> {
        let options = OpenOptions::new().segment_bytes(64 << 10);
        let store = options.open_storage(self.storage.clone()).expect("the store opens");
        *self.handle.lock() = Some(store.clone());
        let handle = Arc::clone(&self.handle);
        let scavenging = thread::spawn(move || {
            while scavenge_once(&handle) {
                thread::sleep(Duration::from_millis(2));
            }
        });
        Arc::new(Underneath { store, handle: Arc::clone(&self.handle), scavenging: Mutex::new(Some(scavenging)) })
    }

    fn tidy(&self) {
        assert!(scavenge_once(&self.handle), "the store is open");
    }

    fn forgets(&self) -> bool {
        true
    }
}

/// Scavenges once; whether there is a store.
fn scavenge_once(handle: &Handle) -> bool {
    let handle = handle.lock();
    let Some(store) = &*handle else { return false };
    let report = scavenge(store, |_| ControlFlow::Continue(())).expect("it is scavenged");
    assert!(report.complete);
    true
}

/// A store with whoever scavenges it.
struct Underneath {
    store: LogStore,
    handle: Handle,
    scavenging: Mutex<Option<JoinHandle<()>>>,
}

impl Underneath {
    fn end(&self) {
        if let Some(scavenging) = self.scavenging.lock().take() {
            *self.handle.lock() = None;
            scavenging.join().expect("no scavenging fails");
        }
    }
}

impl Drop for Underneath {
    fn drop(&mut self) {
        self.end();
    }
}

impl EventStore for Underneath {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        self.store.append(batch)
    }

    fn read(&self, query: ReadStream) -> EventReader {
        self.store.read(query)
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        self.store.read_all(query)
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        self.store.stream(key)
    }

    fn delete(&self, key: StreamKey<'_>, expected: ExpectedVersion) -> Completion<Receipt> {
        self.store.delete(key, expected)
    }

    fn set_retention(&self, key: StreamKey<'_>, retention: Retention) -> Completion<Receipt> {
        self.store.set_retention(key, retention)
    }

    fn retention(&self, key: StreamKey<'_>) -> Completion<Retention> {
        self.store.retention(key)
    }

    fn head(&self) -> Completion<Position> {
        self.store.head()
    }

    fn durable_position(&self) -> Completion<Position> {
        self.store.durable_position()
    }

    fn sync(&self) -> Completion<Position> {
        self.store.sync()
    }

    fn close(&self) -> Completion<()> {
        self.end();
        self.store.close()
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        self.store.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

eventuali::conformance_suite!(|| {
    let home = Scavenged { storage: Arc::new(MemoryStorage::new()), handle: Handle::default() };
    Box::new(home) as Box<dyn Home>
});
