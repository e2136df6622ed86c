//! Bytes, frames, segments: knows positions and batches, not aggregates.
pub(crate) mod format;
pub mod storage;
