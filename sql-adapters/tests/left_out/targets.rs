//! Targets of every kind, which are opened again where they are.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use eventuali::maintenance::{Extent, verify_storage};
use eventuali::storage::MemoryStorage;
use eventuali::{Durability, EventStore, LogStore, OpenOptions};
use eventuali_sql::{Config, Store, Synchronous};
use tempfile::TempDir;

use super::support::{new_table, postgres_url};

/// The kinds that are tried.
pub(crate) const KINDS: [&str; 4] = ["embedded", "sqlite", "sqlite in memory", "postgres"];

pub(crate) struct Target {
    pub(crate) kind: &'static str,
    pub(crate) store: Store,
    place: Arc<MemoryStorage>,
    folder: TempDir,
    table: String,
}

impl Target {
    pub(crate) fn new(kind: &'static str) -> Self {
        let (place, folder) = (Arc::new(MemoryStorage::new()), tempfile::tempdir().expect("a temporary folder"));
        let table = if kind == "postgres" { new_table() } else { String::new() };
        let store = open(kind, &place, folder.path(), &table);
        Self { kind, store, place, folder, table }
    }

    /// Closes it and opens it again, if it outlives that.
    pub(crate) fn reopen(&mut self) {
        if self.kind != "sqlite in memory" {
            self.store.as_dyn().close().wait().expect("closed");
            self.store = open(self.kind, &self.place, self.folder.path(), &self.table);
        }
    }

    fn embedded(&self) -> Option<&LogStore> {
        match &self.store {
            Store::Embedded(store) => Some(store),
            _ => None,
        }
    }

    /// Whether it honours limits that leave out more and more.
    pub(crate) fn honours_limits(&self) -> bool {
        self.embedded().is_some()
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

fn open(kind: &str, place: &Arc<MemoryStorage>, folder: &Path, table: &str) -> Store {
    let config = match kind {
        "embedded" => {
            let options = OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10);
            return Store::Embedded(options.open_storage(Arc::<MemoryStorage>::clone(place)).expect("it opens"));
        }
        "sqlite" => Config::sqlite(folder.join("events.db")).synchronous(Synchronous::Normal),
        "sqlite in memory" => Config::sqlite_in_memory(),
        _ => Config::postgres(&postgres_url()).and_then(|config| config.table_name(table)).expect("a config").max_connections(3),
    };
    config.open().expect("it opens")
}

/// A place for a target of a kind.
pub(crate) fn place(kind: &str, folder: &Path, number: u32) -> String {
    if kind == "postgres" { new_table() } else { folder.join(format!("target-{number}")).display().to_string() }
}

/// The target of a name: a kind and a place of that kind.
pub(crate) fn opened(target: &str) -> Store {
    let (kind, place) = target.split_once(' ').expect("a kind and a place");
    let config = match kind {
        "embedded" => Config::embedded(place),
        "sqlite" => Config::sqlite(place),
        _ => Config::postgres(&postgres_url()).and_then(|config| config.table_name(place)).expect("a config").max_connections(3),
    };
    config.open().expect("the target opens")
}
