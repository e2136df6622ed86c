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
    store: Weak<Inner>,
}

type Stores = Arc<Mutex<Vec<Open>>>;

/// The stores of this process, beside the fork generation that tells it from its children.
static STORES: Mutex<Option<(u32, Stores)>> = Mutex::new(None);

/// A forked child begins with none: its parent's list may have been held by another thread when the child was made, and would
/// never be given back.
fn stores_of_this_process() -> Stores {
    sys::without_forks(|| {
        let generation = sys::fork_generation();
        let mut known = STORES.lock();
        if let Some((of, stores)) = &*known
            && *of == generation
        {
            return Arc::clone(stores);
        }
        let stores = Stores::default();
        // A thread of the parent may have been changing it: nothing in it may be touched any more.
        std::mem::forget(known.replace((generation, Arc::clone(&stores))));
        stores
    })
}

/// The open store of a directory, or the one that `open` makes. Held for as long as opening takes, so that two threads do
/// not lock each other out.
pub(super) fn find_or_open(path: &Path, options: &OpenOptions, open: impl FnOnce() -> Result<Arc<Inner>>) -> Result<Arc<Inner>> {
    let look_up = || DirectoryId::of(path).map_err(|error| Error::io("look up", path, &error));
    let stores = stores_of_this_process();
    let mut stores = stores.lock();
    let directory = look_up()?;
    stores.retain(|store| store.store.strong_count() > 0);
    if let Some(inner) = stores.iter().find(|store| store.directory == directory).and_then(|store| store.store.upgrade())
        && inner.add_handle()
    {
        if inner.options != *options {
            inner.release_handle()?;
            return Err(Error::configuration(format!(
                "the store {path:?} is open in this process with other options: {}; use the same, or close it first",
                options.differences_from(&inner.options)
            )));
        }
        return Ok(inner);
    }
    let inner = open()?;
    // Only now the lock file is there for certain.
    let directory = look_up()?;
    stores.retain(|store| store.directory != directory);
    stores.push(Open { directory, store: Arc::downgrade(&inner) });
    Ok(inner)
}
