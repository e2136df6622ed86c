//! Targets that are opened again where they are.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use eventuali::maintenance::Extent;
use eventuali::maintenance::verify_storage;
use eventuali::storage::MemoryStorage;
use eventuali::{Durability, EventStore, LogStore, OpenOptions};
use eventuali_sql::{Config, Store};

/// The kinds that are tried.
pub(crate) fn kinds() -> Vec<&'static str> {
    vec!["embedded"]
}

pub(crate) struct Target {
    pub(crate) kind: &'static str,
    pub(crate) store: Store,
    place: Arc<MemoryStorage>,
}

fn open(place: &Arc<MemoryStorage>) -> Store {
    let options = OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10);
    Store::Embedded(options.open_storage(Arc::<MemoryStorage>::clone(place)).expect("it opens"))
}

impl Target {
    pub(crate) fn new(kind: &'static str) -> Self {
        let place = Arc::new(MemoryStorage::new());
        Self { kind, store: open(&place), place }
    }

    pub(crate) fn reopen(&mut self) {
        self.store.as_dyn().close().wait().expect("closed");
        self.store = open(&self.place);
    }

    fn embedded(&self) -> Option<&LogStore> {
        match &self.store {
            Store::Embedded(store) => Some(store),
            _ => None,
        }
    }

    /// Gives back the space of what it leaves out.
    pub(crate) fn scavenge(&self) {
        if let Some(store) = self.embedded() {
            assert!(store.scavenge(Extent::Everything, |_| ControlFlow::Continue(())).expect("scavenged").complete);
        }
    }

    /// Every byte of it is in order.
    pub(crate) fn check(&self) {
        if let Some(store) = self.embedded() {
            store.sync().wait().expect("synced");
            let report = verify_storage(&*self.place, |_| ControlFlow::Continue(())).expect("verified");
            assert!(report.is_sound(), "{report:?}");
        }
    }
}

/// A place for a target of a kind.
pub(crate) fn place(_kind: &str, folder: &Path, number: u32) -> String {
    folder.join(format!("target-{number}")).display().to_string()
}

/// The target of a name: a kind and a place of that kind.
pub(crate) fn opened(target: &str) -> Store {
    let (_kind, place) = target.split_once(' ').expect("a kind and a place");
    Config::embedded(place).open().expect("the target opens")
}
