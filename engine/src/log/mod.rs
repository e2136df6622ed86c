//! Bytes, frames, segments: knows positions and batches, not aggregates.

pub(crate) mod format;
pub(crate) mod manifest;
pub(crate) mod open;
pub(crate) mod recovery;
pub(crate) mod segment;
pub mod storage;
pub(crate) mod sys;
pub(crate) mod ticket;
pub(crate) mod watermark;
pub(crate) mod writer;
