//! What the standard library lacks: handlers that run when the process forks.
//!
//! One of the two files with unsafe code; the other is `storage/os/mapped.rs`.
#![expect(unsafe_code, reason = "fork handlers can only be registered with libc")]

use std::os::fd::RawFd;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::lock_api::RawMutex as _;
use parking_lot::{Mutex, RawMutex};

/// Raised in every forked child, so that a store knows whether the process that opened it is still the one that uses it.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Held from before a fork until after it, so that no descriptor is being registered while the child is made.
static FORKING: RawMutex = RawMutex::INIT;
/// The descriptors of held locks. Only touched by who holds `FORKING`.
static LOCKS: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
static INSTALL: Once = Once::new();

/// Tells this process from its forked children: it differs in each of them.
pub(crate) fn fork_generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Runs something short during which no fork happens, so that no child finds it half done.
pub(crate) fn without_forks<T>(run: impl FnOnce() -> T) -> T {
    INSTALL.call_once(|| {
        // SAFETY: the three handlers are plain functions that live as long as the program; they only touch statics.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child)) };
    });
    FORKING.lock();
    let result = run();
    // SAFETY: locked two lines above by this thread.
    unsafe { FORKING.unlock() };
    result
}

/// Runs `change` on the list of descriptors that a forked child closes at once; no fork happens meanwhile.
pub(crate) fn with_lock_descriptors<T>(change: impl FnOnce(&mut Vec<RawFd>) -> T) -> T {
    without_forks(|| change(&mut LOCKS.lock()))
}

extern "C" fn before_fork() {
    FORKING.lock();
}

extern "C" fn after_fork_in_parent() {
    // SAFETY: `before_fork` locked it on this thread.
    unsafe { FORKING.unlock() };
}

extern "C" fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    // Nobody else can hold this lock: whoever takes it holds FORKING, and that was ours when the child was made.
    if let Some(mut locks) = LOCKS.try_lock() {
        for descriptor in locks.iter() {
            // SAFETY: the child's copy of a lock's descriptor, of which the child never makes any use: its owner checks the
            // fork generation before it touches or closes the descriptor. Closing it leaves the parent's lock alone.
            unsafe { libc::close(*descriptor) };
        }
        locks.clear();
    }
    // SAFETY: `before_fork` locked it on the thread that became this child.
    unsafe { FORKING.unlock() };
}
