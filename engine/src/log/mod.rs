//! Bytes, frames, segments: knows positions and batches, not aggregates.

pub(crate) mod compressed;
pub(crate) mod follow;
pub(crate) mod format;
pub(crate) mod frame;
pub(crate) mod lineage;
pub(crate) mod manifest;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod recovery;
pub(crate) mod runs;
pub(crate) mod scan;
pub(crate) mod scavenge;
pub(crate) mod segment;
pub(crate) mod segments;
pub mod storage;
#[cfg(unix)]
pub(crate) mod sys;
#[cfg(not(unix))]
pub(crate) mod sys {
    //! Where processes do not fork, the one that opened a store is always the one that uses it.

    pub(crate) const fn fork_generation() -> u32 {
        0
    }

    pub(crate) fn without_forks<T>(run: impl FnOnce() -> T) -> T {
        run()
    }
}
pub(crate) mod ticket;
mod utc;
pub(crate) mod watermark;
pub(crate) mod writer;
