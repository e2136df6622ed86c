//! The stores that this process has open: opening a directory again gives another handle on the same store.

use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Inner, OpenOptions};
use crate::error::{Error, Result};
use crate::log::storage::os::DirectoryId;
use crate::log::sys;

struct Open {
    directory: DirectoryId,
    generation: u32,
    store: Weak<Inner>,
}

static STORES: Mutex<Vec<Open>> = Mutex::new(Vec::new());

/// The open store of a directory, or the one that `open` makes. Held for as long as opening takes, so that two threads do
/// not lock each other out.
pub(super) fn find_or_open(path: &Path, options: &OpenOptions, open: impl FnOnce() -> Result<Arc<Inner>>) -> Result<Arc<Inner>> {
    let directory = DirectoryId::of(path).map_err(|error| Error::io("look up", path, &error))?;
    let mut stores = STORES.lock();
    stores.retain(|store| store.store.strong_count() > 0);
    let here = |store: &&Open| store.directory == directory && store.generation == sys::fork_generation();
    if let Some(inner) = stores.iter().find(here).and_then(|store| store.store.upgrade())
        && inner.add_handle()
    {
        if inner.options != *options {
            inner.release_handle()?;
            return Err(Error::configuration(format!(
                "the store {path:?} is open in this process with other options ({:?}, not {options:?}); use the same, or close it first",
                inner.options
            )));
        }
        return Ok(inner);
    }
    let inner = open()?;
    stores.retain(|store| store.directory != directory);
    stores.push(Open { directory, generation: sys::fork_generation(), store: Arc::downgrade(&inner) });
    Ok(inner)
}
