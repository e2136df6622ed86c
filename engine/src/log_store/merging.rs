//! Merging runs, behind the writer's back and behind that of the thread that writes index files: a merge may take long, and nobody waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::append::Deciding;
use super::read::files;
use super::sealed::Merging;
use crate::log::writer::Writer;

/// Who merges runs.
pub(super) struct Merger {
    /// How many index files, or runs, are merged to one.
    fan_out: u64,
    writer: OnceLock<Weak<Writer<Deciding>>>,
    state: Mutex<State>,
    changed: Condvar,
    /// What is being merged is given up.
    ending: AtomicBool,
}

#[derive(Default)]
struct State {
    /// There may be something to merge.
    wanted: bool,
    thread: Option<JoinHandle<()>>,
}

impl Merger {
    pub(super) fn new(fan_out: u64) -> Arc<Self> {
        Arc::new(Self { fan_out, writer: OnceLock::new(), state: Mutex::default(), changed: Condvar::new(), ending: AtomicBool::new(false) })
    }

    /// Says whose segments they are.
    pub(super) fn begin(&self, writer: &Arc<Writer<Deciding>>) {
        // It is said once.
        let _ = self.writer.set(Arc::downgrade(writer));
    }

    /// There is another index file: a thread looks what can be merged.
    pub(super) fn wake(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if self.is_ending() {
            return;
        }
        state.wanted = true;
        self.changed.notify_all();
        if state.thread.is_some() {
            return;
        }
        let merger = Arc::clone(self);
        match thread::Builder::new().name("eventuali-merge".to_owned()).spawn(move || merger.run()) {
            Ok(thread) => state.thread = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread can be started to merge index files; each of them is asked"),
        }
    }

    fn run(&self) {
        while self.is_wanted() {
            // The store is kept from ending no longer than this takes.
            let Some(writer) = self.writer.get().and_then(Weak::upgrade) else { return };
            self.merge_now(&writer);
        }
    }

    fn is_wanted(&self) -> bool {
        let mut state = self.state.lock();
        while !state.wanted && !self.is_ending() {
            self.changed.wait(&mut state);
        }
        state.wanted = false;
        !self.is_ending()
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Merges all that can be merged.
    pub(super) fn merge_now(&self, writer: &Writer<Deciding>) {
        let (files, sealed) = (files(writer), writer.with(|deciding| deciding.sealed.clone()));
        sealed.merge_runs(Merging { fan_out: self.fan_out, files: &files, stop: &|| self.is_ending() });
    }

    /// Gives up what is being merged, and ends. It is merged when the store is open again.
    pub(super) fn end(&self) {
        let thread = {
            let mut state = self.state.lock();
            self.ending.store(true, Ordering::Relaxed);
            self.changed.notify_all();
            state.thread.take()
        };
        if let Some(thread) = thread {
            // A panic there has left a run unmerged, and nothing else.
            let _ = thread.join();
        }
    }
}
