//! Every way in which a store can fail, with the facts a caller branches on.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// The result of every operation of a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do next; facts are fields.
///
/// It can be cloned, because one failed sync answers everyone who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not at the version the writer expected. Nothing was stored: load it again, decide again, append again.
    #[error(
        "aggregate {aggregate_id:?} {} version {actual}, but {expected} was expected; nothing was stored: {}",
        if *deleted { "was deleted at" } else { "is at" },
        if *deleted { "append expecting no stream, or any version, to go on with its id and versions, or use another id" } else { "load it again and retry" }
    )]
    Conflict {
        /// The aggregate whose version differs.
        aggregate_id: String,
        /// What the writer expected.
        expected: ExpectedVersion,
        /// The version that the stream has; 0 if it never had events.
        actual: AggregateVersion,
        /// Whether the aggregate was deleted, at that version, and nothing was appended to it since.
        deleted: bool,
    },
    /// The aggregate was asked for but has no events: it never had any, or was deleted.
    #[error("aggregate {aggregate_id:?} has no events in this store: it never had any, or was deleted; create it first, or check the id")]
    AggregateNotFound {
        /// The aggregate that was asked for.
        aggregate_id: String,
    },
    /// The id belongs to an aggregate of another type. An id is unique in its tenant, whatever the type.
    #[error("aggregate {aggregate_id:?} is a {stored:?}, not a {requested:?}; use another id, or the stored type")]
    AggregateType {
        /// The aggregate whose type differs.
        aggregate_id: String,
        /// The type its first event was stored with.
        stored: String,
        /// The type of this request.
        requested: String,
    },
    /// An event id is in the store already, and this append is not a repetition of the one that stored it.
    #[error("event id {event_id} cannot be stored: {reason}; give a new event a new id, or repeat the first append exactly")]
    EventIdConflict {
        /// The event id in question.
        event_id: Uuid,
        /// What is wrong with it.
        reason: EventIdProblem,
    },
    /// A name (aggregate id, type, tenant, tag) cannot be used.
    #[error("{what} {value:?} {problem}")]
    InvalidName {
        /// Which name: `"aggregate id"`, `"event type"`, ….
        what: &'static str,
        /// The name, cut to its first 64 characters.
        value: String,
        /// Why it cannot be used, as the end of a sentence.
        problem: &'static str,
    },
    /// Something is larger than the store accepts.
    #[error("{what} is {actual}, and the limit is {max}; make it smaller or split it")]
    LimitExceeded {
        /// What is too large, with its unit.
        what: &'static str,
        /// How large it is.
        actual: u64,
        /// How large it may be.
        max: u64,
    },
    /// A payload that was given as JSON is not JSON, or a value cannot be turned into a payload.
    #[error("the payload cannot be stored: {reason}")]
    Serialization {
        /// What is wrong with it.
        reason: String,
    },
    /// A stored event cannot be turned back into the type that was asked for.
    #[error("event {event_type:?} at position {position} cannot be read: {reason}; make the type accept what is stored")]
    Deserialization {
        /// Where the event is.
        position: Position,
        /// Its type.
        event_type: String,
        /// Why it does not fit.
        reason: String,
    },
    /// What is on disk is damaged. Nothing has been changed; see [`Corruption`] for the ways out.
    #[error("{0}")]
    Corruption(Box<Corruption>),
    /// The files were written by a release with another format.
    #[error(
        "{path:?} has format version {found} (readable from version {readable_from} on); this release knows up to {supported}: open it with a newer release"
    )]
    FormatVersion {
        /// The file that was read.
        path: PathBuf,
        /// The version it was written with.
        found: u32,
        /// The oldest version that can read it.
        readable_from: u32,
        /// The newest version that this release knows.
        supported: u32,
    },
    /// Another process writes to this store.
    #[error("the store {path:?} is open for writing in process {} ({holder}); close it there, or wait for that process to end", pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string()))]
    StoreLocked {
        /// The directory of the store.
        path: PathBuf,
        /// The process that holds the lock, as it wrote it down.
        pid: Option<u32>,
        /// The holder in words: host and start time.
        holder: String,
    },
    /// The store was closed.
    #[error("the store is closed; open it again")]
    Closed,
    /// The store was opened before this process was forked off.
    #[error("this store was opened in the parent process; open it again after the fork, when the parent has closed it")]
    ForkedProcess,
    /// A write or sync failed while this append waited for it: it may be stored or not. Open the store again and repeat the append with the same event ids.
    #[error("the outcome of this append is unknown: {cause}; open the store again and repeat it with the same event ids")]
    OutcomeUnknown {
        /// What failed.
        cause: String,
    },
    /// An earlier write or sync failed, and the writer stopped. This request stored nothing; reads go on.
    ///
    /// The repetition of an append that is stored already is refused too: what of it is on disk is known only when the store
    /// has been opened again, and then it is answered as ever.
    #[error("the writer stopped after a failure: {cause}; this request stored nothing: close the store, mend the cause, open it again")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// Every writer needs an epoch of its own, and the last one there is has been given. Nothing of this request was stored; reads go on.
    #[error(
        "the store {path:?} takes no more appends: its last writer had epoch {epoch}, and there is no higher one; nothing was stored, and everything can be read: \
         append its events to a new store"
    )]
    EpochsExhausted {
        /// The directory of the store.
        path: PathBuf,
        /// The highest epoch that its files name.
        epoch: u32,
    },
    /// The store was opened for reading only: beside the process that writes to it, or up to its damage. Nothing was stored.
    #[error(
        "the store is open for reading only, so nothing can be stored or synced here; open it for writing, or leave that to the process that writes to it"
    )]
    ReadOnly,
    /// A store that is read beside its writer does not hold any more what was read from it: a power failure or the repair of damage took the
    /// last events, and their positions are given to others. Events that were durable when they were read are not concerned.
    #[error(
        "the store {path:?} has lost events that were read here, up to position {position} at most ({reason}); nothing more is read: open it again, and forget what \
         was read behind the last position that was durable"
    )]
    HistoryReplaced {
        /// The directory of the store.
        path: PathBuf,
        /// The last event that could be read here.
        position: Position,
        /// How that showed.
        reason: &'static str,
    },
    /// There is no room for this append. Nothing of it was stored; appending works again when space is free.
    #[error(
        "no space left on the device of {path:?}{}; nothing was stored: free space and retry",
        needed_bytes.map_or_else(String::new, |bytes| format!(" (needed {bytes} bytes more)"))
    )]
    StorageFull {
        /// The directory of the store, or its address without secrets.
        path: PathBuf,
        /// How much was asked for; `None` where a database does not tell.
        needed_bytes: Option<u64>,
    },
    /// The operating system refused an operation.
    #[error("cannot {operation} {path:?}: {message}")]
    Io {
        /// What was tried, as a verb: `"open"`, `"read"`, ….
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The kind of the failure.
        kind: io::ErrorKind,
        /// The system's words.
        message: String,
    },
    /// A database cannot be reached, is held by another process or did not answer in time. Nothing of this request was stored; it can be repeated.
    #[error("{store} is not available: {reason}; nothing was stored: try again, {remedy}")]
    Unavailable {
        /// The store's address, without secrets.
        store: String,
        /// What was waited for, and what happened instead.
        reason: String,
        /// What may help, as the end of a sentence that begins with "try again".
        remedy: &'static str,
    },
    /// A database refused a statement. Nothing of this request was stored.
    #[error("{store} refused a statement{}: {message}; nothing was stored", code.as_ref().map_or_else(String::new, |code| format!(" ({code})")))]
    Database {
        /// The store's address, without secrets.
        store: String,
        /// The database's own code for it: five characters of the SQL standard for Postgres, a number for `SQLite`.
        code: Option<String>,
        /// The database's own words.
        message: String,
    },
    /// The target of an export or import holds events that its source does not have. Nothing of the source was written there.
    #[error("{target} cannot take these events: {reason} (position {position}); choose an empty target, or the one that the earlier export went to")]
    Diverged {
        /// The store that events were to be moved to, without secrets.
        target: String,
        /// Where the two part.
        position: Position,
        /// What the target has there.
        reason: String,
    },
    /// The store cannot be forked at this position. Nothing was made.
    #[error("the store {path:?} cannot be forked at position {position}: {problem}; fork it at {}", nearest(*before, *after))]
    ForkPosition {
        /// The directory of the store.
        path: PathBuf,
        /// Where it was to be forked.
        position: Position,
        /// What is wrong with it.
        problem: ForkProblem,
        /// The nearest position before it where it can be forked.
        before: Option<Position>,
        /// The nearest position behind it where it can be forked.
        after: Option<Position>,
    },
    /// A connection string, path or option cannot be used. Nothing was created.
    #[error("{message}")]
    Configuration {
        /// What is wrong, and the spelling that was probably meant.
        message: String,
    },
    /// This store or build cannot do what was asked.
    #[error("{message}")]
    Unsupported {
        /// What is not supported, and what to use instead.
        message: String,
    },
}

/// Why an event id cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventIdProblem {
    /// The id stands twice in one append.
    TwiceInBatch,
    /// Some of the append's ids are stored and some are not, or they are stored elsewhere or in another order.
    PartlyStored,
    /// The id is stored with another payload or type.
    DifferentEvent,
}

impl std::fmt::Display for EventIdProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TwiceInBatch => "it stands twice in one append",
            Self::PartlyStored => "it is stored already, but the rest of this append is not stored next to it",
            Self::DifferentEvent => "it is stored already with another type or payload",
        })
    }
}

/// Why a store cannot be forked at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForkProblem {
    /// The store has not come so far yet.
    Ahead,
    /// It lies within the events of one append, which stay together.
    WithinAppend,
    /// The events up to there are not in the store any more.
    Gone,
}

impl std::fmt::Display for ForkProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ahead => "it lies ahead of the last event",
            Self::WithinAppend => "it lies within the events of one append, which stay together",
            Self::Gone => "the first events that the store has come later",
        })
    }
}

/// In words, where a store can be forked.
fn nearest(before: Option<Position>, after: Option<Position>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{before} or {after}"),
        (Some(only), None) | (None, Some(only)) => only.to_string(),
        (None, None) => "another position".to_owned(),
    }
}

/// A damaged place, and what is known to be good on both sides of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is damaged at byte {offset}: {reason}.{} Nothing was changed. Ways out: {}", Self::intact(self), Self::ways_out(self))]
pub struct Corruption {
    /// The damaged file.
    pub path: PathBuf,
    /// The segment's sequence number; 0 where the damage is not in a segment.
    pub segment: u64,
    /// Where in the file the damage begins, in bytes.
    pub offset: u64,
    /// The last event before the damage.
    pub last_good_position: Position,
    /// The first event after the damage that is whole, if one was found.
    pub next_good_position: Option<Position>,
    /// What was found there.
    pub reason: String,
    /// What helps.
    pub remedy: Remedy,
}

/// What helps against damage, beside restoring a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Reading up to the damage, or giving up what follows it.
    ReadOrAcceptLoss,
    /// Giving up everything: there is nothing before the damage that could be read.
    AcceptLoss,
    /// Rebuilding the manifest from the segment files.
    RebuildManifest,
    /// Moving the damaged file out of the directory before the manifest is rebuilt.
    MoveAwayAndRebuild,
    /// Nothing else.
    Backup,
}

impl Corruption {
    /// What is intact; without a manifest nobody knows.
    fn intact(&self) -> String {
        if self.segment == 0 {
            return String::new();
        }
        let again = self.next_good_position.map_or_else(String::new, |position| format!(", and again from position {position} on"));
        format!(" Events up to position {} are intact{again}.", self.last_good_position)
    }

    fn ways_out(&self) -> String {
        let last_good = self.last_good_position;
        match self.remedy {
            Remedy::ReadOrAcceptLoss => format!(
                "restore a backup; open for reading up to the damage; salvage what is whole, also behind it, to a new store; or give up what follows with accept_loss_after={last_good} (it is moved to quarantine/ first)"
            ),
            Remedy::AcceptLoss => {
                format!(
                    "restore a backup; salvage what is whole to a new store; or give up what follows with accept_loss_after={last_good} (it is moved to quarantine/ first)"
                )
            }
            Remedy::RebuildManifest => {
                "rebuild_manifest makes a new manifest from the segment files, which are left as they are; or restore a backup".to_owned()
            }
            Remedy::MoveAwayAndRebuild => "restore a backup; or move this file out of the directory and rebuild the manifest without it".to_owned(),
            Remedy::Backup => "restore a backup; or choose another directory".to_owned(),
        }
    }
}

impl Error {
    /// Wraps what the operating system said about `path`.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Self::Io { operation, path: path.into(), kind: error.kind(), message: error.to_string() }
    }

    /// A refusal of a connection string, path or option.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::Configuration { message: message.into() }
    }

    /// A name that cannot be used, shortened for the message.
    pub(crate) fn name(what: &'static str, value: &str, problem: &'static str) -> Self {
        // A limit says in what it is counted, which says nothing about a name.
        Self::InvalidName { what: what.trim_end_matches(" (bytes)"), value: value.chars().take(64).collect(), problem }
    }
}

impl From<Corruption> for Error {
    fn from(corruption: Corruption) -> Self {
        Self::Corruption(Box::new(corruption))
    }
}
