//! Scavenge: the space of deleted events is given back.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::log_store::LogStore;
pub use crate::log_store::{Extent, ScavengeReport};
use crate::progress::Progress;

/// Takes out of an open store's files what was [deleted](crate::EventStore::delete) or has passed its
/// [limits](crate::EventStore::set_retention), while others append and read. When it returns, the bytes of these events are in none of the
/// store's files, and the space is free; unless a backup or another process that reads has the old files open still.
///
/// Nothing that can be read changes, nor any position or version. What stays of an event that is taken out is its position, version and
/// timestamp and the length of its record; of a deleted aggregate also what the deletion says of it: its id, type and last version. Copies of
/// the store (backups, forks) are stores of their own and keep what they have.
///
/// Only segments are rewritten that have something to be taken out, one after the other; the one that is written to is sealed first, if it has.
/// Who calls it often to save space, and need not be certain that everything is gone, takes [`scavenge_with`] and [`Extent::Worthwhile`].
/// What was carried out is noted in the store, so that a later call looks at deletions that are new, and at aggregates whose limits go on
/// taking effect.
///
/// Each counts as soon as it is rewritten, read again and compared with the one before. Stopped by `progress`, or killed at any moment, it goes
/// on from there when it is called again; when nothing has to be taken out, nothing is written. It takes room for one segment at a time.
///
/// # Errors
/// [`Corruption`](crate::Error::Corruption) if a segment that has something to be taken out is damaged, [`StorageFull`](crate::Error::StorageFull),
/// [`Io`](crate::Error::Io), [`Closed`](crate::Error::Closed), [`ReadOnly`](crate::Error::ReadOnly), and what keeps the store from being synced.
/// What was rewritten before stays so.
///
/// ```
/// use std::ops::ControlFlow;
/// use eventuali::maintenance::scavenge;
/// use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent};
///
/// let store = LogStore::memory()?;
/// let registered = NewEvent::json("Registered", &serde_json::json!({"name": "Ada"}))?;
/// store.append(AppendBatch::one("user-7", "User", ExpectedVersion::NoStream, vec![registered])).wait()?;
/// store.delete("user-7".into(), ExpectedVersion::Exists).wait()?;
/// let report = scavenge(&store, |_| ControlFlow::Continue(()))?;
/// assert_eq!((report.events, report.complete), (1, true));
/// assert_eq!(store.head().wait()?.0, 2); // positions are not given again
/// # Ok::<(), eventuali::Error>(())
/// ```
pub fn scavenge(store: &LogStore, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<ScavengeReport> {
    store.scavenge(Extent::Everything, progress)
}

/// Scavenges a store [as thoroughly](Extent) as is said: [`scavenge`] is the same with [`Extent::Everything`].
///
/// # Errors
/// Those of [`scavenge`].
///
/// ```
/// use std::ops::ControlFlow;
/// use eventuali::maintenance::{Extent, scavenge_with};
/// use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent};
///
/// let store = LogStore::memory()?;
/// let registered = NewEvent::json("Registered", &serde_json::json!({"name": "Ada"}))?;
/// store.append(AppendBatch::one("user-7", "User", ExpectedVersion::NoStream, vec![registered])).wait()?;
/// store.delete("user-7".into(), ExpectedVersion::Exists).wait()?;
/// // A segment of one event is not sealed for what it has,
/// let report = scavenge_with(&store, Extent::Worthwhile, |_| ControlFlow::Continue(()))?;
/// assert_eq!((report.events, report.left), (0, 1));
/// // unless everything is to be gone.
/// let report = scavenge_with(&store, Extent::Everything, |_| ControlFlow::Continue(()))?;
/// assert_eq!((report.events, report.left), (1, 0));
/// # Ok::<(), eventuali::Error>(())
/// ```
pub fn scavenge_with(store: &LogStore, extent: Extent, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<ScavengeReport> {
    store.scavenge(extent, progress)
}
