//! Writing the index files of sealed segments, behind the writer's back.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::append::Deciding;
use super::merging::Merger;
use super::read::files;
use super::sealed::{Files, Sealed, SealedSegment};
use super::take_in_ids;
use crate::error::{Error, Result};
use crate::index::HotStream;
use crate::index::part::Part;
use crate::index::sealed::SealedIndex;
use crate::log::open::first_chain;
use crate::log::segment::index_name;
use crate::log::writer::Writer;

/// How many sealed segments may wait for their index before the writer waits for them.
const WAITING_MAX: usize = 2;
/// How many streams are taken into the hot table at once, while appends wait.
const HOT_AT_ONCE: usize = 256;

/// Who writes index files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexer {
    /// A thread of its own.
    Thread,
    /// Whoever seals a segment, so that the order of all writing is the same in every run.
    Sealer,
    /// Nobody: what is sealed stays in memory.
    Nobody,
    /// Another process: what is sealed stays in memory until that has had time to write its file.
    Elsewhere,
}

/// The segments that wait for their index file.
pub(crate) struct Indexing {
    indexer: Indexer,
    merger: Arc<Merger>,
    writer: OnceLock<Weak<Writer<Deciding>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    sealed: VecDeque<Arc<Part>>,
    /// Those whose files are missing, by sequence number.
    missing: VecDeque<u64>,
    working: bool,
    ending: bool,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Sealed(Arc<Part>),
    Missing(u64),
}

impl State {
    /// What is to be done next: the writer may be waiting for what was sealed.
    fn job(&mut self) -> Option<Job> {
        let sealed = self.sealed.pop_front().map(Job::Sealed);
        sealed.or_else(|| if self.ending { None } else { self.missing.pop_front().map(Job::Missing) })
    }
}

impl Indexing {
    pub(crate) fn new(indexer: Indexer, fan_out: u64) -> Arc<Self> {
        let merger = Merger::new(fan_out);
        Arc::new(Self { indexer, merger, writer: OnceLock::new(), state: Mutex::default(), changed: Condvar::new() })
    }

    /// Says whose segments they are, and which of them lack their files.
    pub(crate) fn begin(self: &Arc<Self>, writer: &Arc<Writer<Deciding>>, missing: Vec<u64>) {
        // It is said once.
        let _ = self.writer.set(Arc::downgrade(writer));
        self.merger.begin(writer);
        if self.indexer == Indexer::Elsewhere {
            return;
        }
        writer.with(|deciding| deciding.sealed.tended_by(self));
        let mut state = self.state.lock();
        state.missing = missing.into();
        if !state.missing.is_empty() {
            self.start(&mut state);
        }
    }

    /// A segment was sealed.
    pub(crate) fn push(self: &Arc<Self>, part: Arc<Part>) {
        if self.indexer == Indexer::Nobody {
            return;
        }
        let mut state = self.state.lock();
        state.sealed.push_back(part);
        self.start(&mut state);
        self.changed.notify_all();
    }

    /// An index file turned out to be damaged.
    pub(super) fn make_again(self: &Arc<Self>, sequence: u64) {
        if self.indexer == Indexer::Nobody {
            return;
        }
        let mut state = self.state.lock();
        if !state.missing.contains(&sequence) {
            state.missing.push_back(sequence);
        }
        self.start(&mut state);
        self.changed.notify_all();
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        if self.indexer != Indexer::Thread || state.thread.is_some() || state.ending {
            return;
        }
        let indexing = Arc::clone(self);
        match thread::Builder::new().name("eventuali-index".to_owned()).spawn(move || indexing.run()) {
            Ok(thread) => state.thread = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread can be started to write index files; indexes stay in memory"),
        }
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            self.carry_out(job);
            self.state.lock().working = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.job() {
                state.working = true;
                return Some(job);
            }
            if state.ending {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until another segment may be sealed.
    pub(crate) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        while state.thread.is_some() && state.sealed.len() + usize::from(state.working) >= WAITING_MAX {
            self.changed.wait(&mut state);
        }
    }

    /// A segment was sealed: does what is left to the one who sealed it, or has read its seal.
    pub(crate) fn after_rolling(&self) {
        match self.indexer {
            Indexer::Sealer => self.work(),
            Indexer::Elsewhere => self.let_go_of_the_oldest(),
            Indexer::Thread | Indexer::Nobody => {}
        }
    }

    fn work(&self) {
        loop {
            let Some(job) = self.state.lock().job() else { return };
            self.carry_out(job);
        }
    }

    /// The writer waits where more segments wait for their index files, so the file of an older one is there, or will never be.
    fn let_go_of_the_oldest(&self) {
        let Some(writer) = self.writer.get().and_then(Weak::upgrade) else { return };
        writer.with(|deciding| deciding.sealed.forget_runs());
        loop {
            let mut state = self.state.lock();
            let part = if state.sealed.len() > WAITING_MAX { state.sealed.pop_front() } else { None };
            drop(state);
            let Some(part) = part else { return };
            let_go(&writer, &part);
            let sealed = writer.with(|deciding| deciding.sealed.numbered(part.sequence()).cloned());
            if let Some(sealed) = sealed {
                sealed.forget_index();
            }
        }
    }

    /// Forgets what waits: the index does not have it any more.
    pub(crate) fn forget(&self) {
        self.state.lock().sealed.clear();
    }

    /// Writes the files of all that is sealed, and ends. What is being merged is given up.
    pub(crate) fn end(&self) {
        if self.indexer == Indexer::Sealer {
            self.work();
        }
        self.merger.end();
        let thread = {
            let mut state = self.state.lock();
            state.ending = true;
            self.changed.notify_all();
            state.thread.take()
        };
        if let Some(thread) = thread {
            // A panic there has left indexes in memory, and nothing else.
            let _ = thread.join();
        }
    }

    fn carry_out(&self, job: Job) {
        let Some(writer) = self.writer.get().and_then(Weak::upgrade) else { return };
        let (files, sealed) = (files(&writer), writer.with(|deciding| deciding.sealed.clone()));
        let sequence = match &job {
            Job::Sealed(part) => part.sequence(),
            Job::Missing(sequence) => *sequence,
        };
        let Some(segment) = sealed.numbered(sequence) else { return };
        let written = match &job {
            Job::Sealed(part) => write_index(&files, &sealed, segment, part),
            Job::Missing(_) => segment.in_memory(&files).and_then(|part| write_index(&files, &sealed, segment, &part)),
        };
        if let Err(error) = written {
            // The segment keeps its index in memory.
            tracing::warn!(%error, sequence, "the index file of a segment cannot be written");
        }
        if let Job::Sealed(part) = job {
            let_go(&writer, &part);
        }
        match self.indexer {
            Indexer::Thread => self.merger.wake(),
            Indexer::Sealer => self.merger.merge_now(&writer),
            Indexer::Nobody | Indexer::Elsewhere => {}
        }
        writer.with(|deciding| Arc::clone(&deciding.packing)).look();
    }
}

/// Keeps the tips of a sealed segment's streams hot, and lets go of its part: written or not, since later ones may not be let go before.
fn let_go(writer: &Writer<Deciding>, part: &Part) {
    let mut tips = part.tips().peekable();
    while tips.peek().is_some() {
        writer.with_mut(|deciding| {
            for (key, tip) in tips.by_ref().take(HOT_AT_ONCE) {
                let stream =
                    HotStream { version: tip.version, last_position: tip.last_position, aggregate_type: tip.aggregate_type, segment: tip.segment };
                deciding.index.keep_hot(&key, stream);
            }
        });
    }
    writer.with_mut(|deciding| deciding.index.let_go(part.sequence()));
}

/// Writes the index file of a segment, and has it used from now on.
fn write_index(files: &Files, sealed: &Sealed, segment: &Arc<SealedSegment>, part: &Part) -> Result<()> {
    let log_segment = files.segments.numbered(part.sequence())?;
    let identity = segment.identity(&log_segment, files);
    let mut ids = Vec::new();
    log_segment.scan(&first_chain(&log_segment.header), &mut |_, frame| take_in_ids(&mut ids, frame))?;
    // What was taken out since the part was made is in no list of ids.
    let removed = ids.iter().filter(|id| id.is_none()).count();
    let remade = if removed == part.removed() { None } else { Some(segment.part(files)?) };
    let part = remade.as_ref().unwrap_or(part);
    let contents = part.contents(identity, &ids, |key| {
        let span = sealed.find_before(key, part.sequence(), files)?;
        Ok(span.map_or(0, |span| span.segment.named.sequence))
    })?;
    let name = index_name(segment.named.sequence);
    let fail = |operation, error: std::io::Error| Error::io(operation, files.storage.path().join(&name), &error);
    SealedIndex::write(&*files.storage, &name, &contents).map_err(|error| fail("write", error))?;
    let index = SealedIndex::open(&*files.storage, &name, &identity)
        .map_err(|problem| Error::configuration(format!("the index file {name:?} cannot be read again: {problem:?}")))?;
    sealed.use_file(segment, index);
    Ok(())
}
