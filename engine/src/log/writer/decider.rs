//! What the writer asks of those who know what the events mean.

use std::sync::Arc;

use super::Writer;
use crate::error::{Error, Result};
use crate::log::format::RecordEntry;
use crate::log::manifest::ManifestSegment;
use crate::log::recovery::Frame;
use crate::log::segment::Segment;

/// What the log does not know: which requests are accepted. Its state is guarded by the writer's lock.
pub(crate) trait Decider: Send + 'static {
    /// Something to be appended.
    type Request: Send + 'static;
    /// What becomes of it.
    type Answer: Send + 'static;

    /// How many records a request has, and how long their bodies are together.
    fn size(request: &Self::Request) -> (usize, usize);

    /// Answers a request that needs no room in the log, or finds that its records are to be appended.
    fn decide(&mut self, request: &mut Self::Request, place: &Place) -> Decision<Self::Answer>;

    /// Fills in what is assigned to a request that is to be appended; the answer that it gets when it is as durable as promised.
    fn assign(&mut self, request: &mut Self::Request, place: &Place) -> Result<Self::Answer>;

    /// The records of an accepted request: their entries, and the frame that they are to have, with room for its header and
    /// table and then the bodies one after the other.
    fn records(request: &mut Self::Request) -> (&[RecordEntry], &mut Vec<u8>);

    /// Reads the log for a request that asked to look, without the lock.
    fn look(request: &mut Self::Request, writer: &Arc<Writer<Self>>) -> Result<()>
    where
        Self: Sized;

    /// Everything up to `position` can be read now.
    fn published(&mut self, position: u64);

    /// The segment was sealed, and the next one begins with this sequence number and position.
    fn rolled(&mut self, sealed: ManifestSegment, next: u64, position: u64);

    /// Takes in a frame that another process has appended.
    fn take_in(&mut self, segment: &Segment, frame: &Frame<'_>) -> Result<()>;

    /// The log has these sealed segments, of which some were not read, and the next one begins with this sequence number and position.
    fn passed_over(&mut self, sealed: &[ManifestSegment], next: u64, position: u64);

    /// A segment is about to be sealed: may take its time, without the lock.
    fn before_rolling(writer: &Writer<Self>)
    where
        Self: Sized;

    /// A segment was sealed: may take its time, without the lock.
    fn after_rolling(writer: &Writer<Self>)
    where
        Self: Sized;

    /// Files that were kept need not be any more.
    fn files_released(writer: &Arc<Writer<Self>>)
    where
        Self: Sized;

    /// The log is finished, and nobody else may write to it yet.
    fn before_unlocking(writer: &Writer<Self>)
    where
        Self: Sized;

    /// The log is closed: no file need be open any more.
    fn let_go_of_files(&mut self);

    /// The answer to a request that failed.
    fn failed(error: Error) -> Self::Answer;

    /// The answer to a barrier.
    fn synced(position: u64) -> Self::Answer;
}

/// Where an accepted request will stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The LSN of its frame.
    pub(crate) lsn: u64,
    /// The position of its first event.
    pub(crate) position: u64,
    /// When it is committed, in microseconds since 1970.
    pub(crate) commit_time: i64,
    /// The position of the last event that can be read.
    pub(crate) visible: u64,
}

/// What is to be done with a request.
pub(crate) enum Decision<A> {
    /// Its records are to be appended.
    Append,
    /// Nothing is appended, and everything the answer rests on can be read.
    Answer(A),
    /// Nothing is appended, and the answer rests on events that are not published yet: it shares their fate.
    AnswerWithGroup(A),
    /// It depends on events that are not published yet: decide again when they are.
    AgainAfterGroup,
    /// The log must be read first.
    Look,
}
