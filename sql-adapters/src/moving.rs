//! Moving history from one store to another: positions, ids, versions, timestamps and payloads stay what they were.

mod continuing;
mod differing;
mod eventsourcing;
mod export;
mod limits;
mod lines;
mod mirror;
mod source;
mod target;
mod verify;

pub use differing::{Difference, DifferenceKind};
pub use eventsourcing::{check_eventsourcing, import_eventsourcing};
pub use eventuali::Progress;
pub use export::{Moved, export};
pub use lines::{export_json_lines, import_json_lines};
pub use mirror::{Mirror, MirrorStatus};
pub(crate) use target::{Origin, Standing, new_event};
pub use verify::{Verified, verify};
