//! Looking after a store's files: [`backup`] copies an open store while it is written to, [`fork`] makes another one that goes on from
//! a position and shares what comes before it, [`verify`] reads everything and reports every damaged place, [`salvage`] writes what can
//! be saved to a new store and lists what cannot.
//!
//! All leave the store as it is, byte for byte. [`verify`] and [`salvage`] take no lock: they work on a closed store, on
//! one that is damaged beyond opening, and on one that a writer is appending to.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use eventuali::maintenance::{backup, salvage, verify};
//! use eventuali::{AppendBatch, EventStore, ExpectedVersion, LogStore, NewEvent};
//!
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! # let (path, copy, rescued) = (folder.path().join("orders"), folder.path().join("copy"), folder.path().join("rescued"));
//! let store = LogStore::open(&path)?;
//! let placed = NewEvent::json("OrderPlaced", &serde_json::json!({"total": 120}))?;
//! store.append(AppendBatch::one("order-42", "Order", ExpectedVersion::Any, vec![placed])).wait()?;
//!
//! let report = backup(&store, &copy, |_| ControlFlow::Continue(()))?; // others go on appending
//! assert_eq!((report.events, report.complete), (1, true));
//!
//! let report = verify(&path, |_| ControlFlow::Continue(()))?; // while it is open
//! assert!(report.is_sound());
//! assert_eq!(report.events, 1);
//!
//! let report = salvage(&path, &rescued, |_| ControlFlow::Continue(()))?;
//! assert_eq!((report.events, report.lost.len()), (1, 0));
//! # Ok::<(), eventuali::Error>(())
//! ```

mod abreast;
mod backup;
mod digest;
mod files;
mod fork;
mod indexes;
mod kin;
mod pipeline;
mod reading;
mod rescue;
mod runs;
mod salvage;
mod scavenge;
mod seed;
mod source;
mod streams;
mod survey;
mod target;
mod unfinished;
mod verify;
mod walk;

use std::fmt;

pub use backup::{BackupReport, backup, backup_storage};
pub use fork::{ForkReport, fork, fork_storage};
pub use salvage::{PositionRange, SalvageReport, StreamLoss, Transfer, salvage, salvage_storage};
pub use scavenge::{Extent, ScavengeReport, scavenge, scavenge_with};
pub use verify::{VerifyReport, verify, verify_storage};

use crate::version::Position;

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The name of the damaged or missing file, in the store's directory.
    pub file: String,
    /// The segment's sequence number; `None` where the damage is not in a segment.
    pub segment: Option<u64>,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How many bytes are concerned; `None` if nobody knows.
    pub length: Option<u64>,
    /// The first event that is concerned; `None` if none is, or nobody knows.
    pub first_position: Option<Position>,
    /// The last event that is concerned; `None` if none is, or nobody knows.
    pub last_position: Option<Position>,
    /// What was found there.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file, self.offset)?;
        if let Some(length) = self.length {
            write!(f, " ({length} bytes)")?;
        }
        match (self.first_position, self.last_position) {
            (Some(first), Some(last)) if first == last => write!(f, ", position {first}")?,
            (Some(first), Some(last)) => write!(f, ", positions {first} to {last}")?,
            (Some(first), None) => write!(f, ", positions from {first} on")?,
            (None, _) => {}
        }
        write!(f, ": {}", self.reason)
    }
}
