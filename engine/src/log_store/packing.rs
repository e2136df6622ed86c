//! Compressing sealed segments behind the writer's back, and removing the files that others have taken the place of.

use std::collections::HashSet;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::append::Deciding;
use super::indexing::Indexer;
use crate::error::{Error, Result};
use crate::log::compressed::{Compressed, Compression, Stop, compress};
use crate::log::format::encoding;
use crate::log::manifest::ManifestSegment;
use crate::log::segment::Segment;
use crate::log::storage::Storage;
use crate::log::writer::Writer;

/// Which sealed segments are compressed while the store is open.
///
/// Each is decoded and compared with its original before it takes its place, which needs room for both. What would not become a tenth
/// smaller stays as it is. The segment that was written to last is never compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// None. Nothing is spent on it; [`compress`](crate::compress) and [`LogStore::compress`](crate::LogStore::compress) still do it at
    /// once when they are called.
    Never,
    /// All but so many of the newest, by a thread that gives way to others. A store of many segments takes a fraction of the room. What is
    /// compressed costs time to decode: reading all of it is slower where the disk is fast, or the segments are in memory already.
    OlderThan(usize),
}

impl Default for Compress {
    /// None: whoever has more of the disk than of time loses nothing.
    fn default() -> Self {
        Self::Never
    }
}

/// Who compresses, and what there is to do.
pub(crate) struct Packing {
    worker: Indexer,
    policy: Compress,
    writer: OnceLock<Weak<Writer<Deciding>>>,
    state: Mutex<State>,
    changed: Condvar,
    ending: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Something may be to be done.
    is_wanted: bool,
    /// There may be files that the manifest does not name.
    has_superseded: bool,
    /// Segments with which it did not succeed: not tried again before the next open.
    given_up: HashSet<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Packing {
    pub(crate) fn new(worker: Indexer, policy: Compress) -> Arc<Self> {
        let (writer, state, changed, ending) = (OnceLock::new(), Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Arc::new(Self { worker, policy, writer, state, changed, ending })
    }

    /// Says whose segments they are, and whether a process before has left files that nothing names.
    pub(crate) fn begin(self: &Arc<Self>, writer: &Arc<Writer<Deciding>>, has_superseded: bool) {
        // It is said once.
        let _ = self.writer.set(Arc::downgrade(writer));
        self.state.lock().has_superseded = has_superseded;
        self.look();
    }

    /// Something has changed: has the thread look whether there is something to do.
    pub(crate) fn look(self: &Arc<Self>) {
        if self.worker != Indexer::Thread || self.ending.load(Ordering::Relaxed) {
            return;
        }
        let Some(writer) = self.writer() else { return };
        let mut state = self.state.lock();
        if !state.has_superseded && self.next(&writer, &state.given_up).is_none() {
            return;
        }
        state.is_wanted = true;
        if state.thread.is_none() {
            let packing = Arc::clone(self);
            match thread::Builder::new().name("eventuali-pack".to_owned()).spawn(move || packing.run()) {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => tracing::warn!(%error, "no thread can be started to compress segments; they stay as they are"),
            }
        }
        self.changed.notify_all();
    }

    /// Files may be removed that were kept until now.
    pub(crate) fn files_released(self: &Arc<Self>) {
        if self.state.lock().has_superseded {
            self.look();
        }
    }

    /// Does what there is to do, if that is left to the one who seals.
    pub(crate) fn work_if_sealer(&self) {
        if self.worker == Indexer::Sealer
            && let Some(writer) = self.writer()
        {
            self.work(&writer);
        }
    }

    /// Has whoever compresses stop at the next block.
    pub(crate) fn stop(&self) {
        self.ending.store(true, Ordering::Relaxed);
        // Under the lock, so that nobody is between looking and waiting.
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// Stops, and waits until that is done.
    pub(crate) fn end(&self) {
        self.stop();
        let thread = self.state.lock().thread.take();
        if let Some(thread) = thread {
            // A panic there has left segments as they were, and nothing else.
            let _ = thread.join();
        }
    }

    fn writer(&self) -> Option<Arc<Writer<Deciding>>> {
        self.writer.get().and_then(Weak::upgrade)
    }

    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            while !state.is_wanted && !self.ending.load(Ordering::Relaxed) {
                self.changed.wait(&mut state);
            }
            state.is_wanted = false;
            drop(state);
            let Some(writer) = self.writer().filter(|_| !self.ending.load(Ordering::Relaxed)) else { return };
            self.work(&writer);
        }
    }

    fn work(&self, writer: &Writer<Deciding>) {
        self.remove_superseded(writer);
        loop {
            let next = self.next(writer, &self.state.lock().given_up);
            let Some(sequence) = next.filter(|_| !self.ending.load(Ordering::Relaxed)) else { return };
            let stop = || self.ending.load(Ordering::Relaxed);
            match pack(writer, sequence, self.worker, &stop) {
                Ok(Packed::Compressed { .. }) => {
                    self.state.lock().has_superseded = true;
                    self.remove_superseded(writer);
                }
                Ok(Packed::NotWorthIt | Packed::Stopped) => {}
                Err(error) => {
                    if !stop() {
                        tracing::warn!(%error, sequence, "a segment cannot be compressed; it stays as it is");
                    }
                    self.state.lock().given_up.insert(sequence);
                }
            }
        }
    }

    /// The oldest segment that is to be compressed.
    fn next(&self, writer: &Writer<Deciding>, given_up: &HashSet<u64>) -> Option<u64> {
        let Compress::OlderThan(newest) = self.policy else { return None };
        let sealed = writer.rewritable();
        let old = &sealed[..sealed.len().saturating_sub(newest)];
        old.iter().find(|named| !named.is_packed && !given_up.contains(&named.sequence)).map(|named| named.sequence)
    }

    /// A segment was rewritten: removes the file that nothing names any more, or has it removed when nobody wants it to stay.
    pub(crate) fn replaced(&self, writer: &Writer<Deciding>) -> Result<()> {
        self.state.lock().has_superseded = true;
        let removed = writer.remove_superseded()?;
        self.state.lock().has_superseded &= !removed;
        Ok(())
    }

    fn remove_superseded(&self, writer: &Writer<Deciding>) {
        if !self.state.lock().has_superseded {
            return;
        }
        match writer.remove_superseded() {
            Ok(removed) => self.state.lock().has_superseded &= !removed,
            Err(error) => tracing::warn!(%error, "files that others have taken the place of cannot be removed yet"),
        }
    }
}

/// What came of packing a segment.
enum Packed {
    Compressed { bytes_before: u64, bytes_after: u64 },
    NotWorthIt,
    Stopped,
}

/// Has a compressed generation of a sealed segment take its place, or has it noted that this does not pay.
fn pack(writer: &Writer<Deciding>, sequence: u64, worker: Indexer, stop: &(dyn Fn() -> bool + Sync)) -> Result<Packed> {
    let mut packed = Packed::Stopped;
    writer.rewrite(sequence, |named, segment| {
        if segment.header.encoding != encoding::PLAIN {
            packed = Packed::NotWorthIt;
            return Ok(ManifestSegment { is_packed: true, ..*named });
        }
        let compressed = match worker {
            Indexer::Thread => behind_others(&**writer.storage(), segment, stop)?,
            Indexer::Sealer | Indexer::Nobody | Indexer::Elsewhere => compress(&**writer.storage(), segment, &stop)?,
        };
        let generation = match compressed {
            Compressed::Stopped => return Ok(*named),
            Compressed::NotWorthIt => {
                packed = Packed::NotWorthIt;
                named.generation
            }
            Compressed::Prepared(prepared) => {
                packed = Packed::Compressed { bytes_before: prepared.plain_bytes, bytes_after: prepared.file_bytes };
                prepared.header.generation
            }
        };
        Ok(ManifestSegment { generation, is_packed: true, ..*named })
    })?;
    Ok(packed)
}

/// Compresses in a thread of low priority, which holds nothing that others wait for: whoever names the result has the usual one.
fn behind_others(storage: &dyn Storage, segment: &Segment, stop: &(dyn Fn() -> bool + Sync)) -> Result<Compressed> {
    thread::scope(|scope| {
        let compressing = || {
            lower_priority();
            compress(storage, segment, &stop as &Stop<'_>)
        };
        match thread::Builder::new().name("eventuali-zstd".to_owned()).spawn_scoped(scope, compressing) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => compress(storage, segment, &stop),
        }
    })
}

/// Has this thread run when no other wants to.
fn lower_priority() {
    // Elsewhere a priority is the whole process's.
    #[cfg(target_os = "linux")]
    {
        // At the usual priority it goes on as well.
        let _ = rustix::process::setpriority_process(None, 19);
    }
}

/// Compresses all that is sealed, but for the segment that was written to last, where that pays.
pub(crate) fn compress_open(writer: &Writer<Deciding>) -> Result<Compression> {
    let packing = writer.with(|deciding| Arc::clone(&deciding.packing));
    let mut done = Compression::default();
    for named in writer.rewritable() {
        if named.is_packed {
            done.left += usize::from(writer.segments().numbered(named.sequence)?.header.encoding == encoding::PLAIN);
            continue;
        }
        match pack(writer, named.sequence, Indexer::Nobody, &|| writer.is_closed())? {
            Packed::Compressed { bytes_before, bytes_after } => done.count(bytes_before, bytes_after),
            Packed::NotWorthIt => done.left += 1,
            Packed::Stopped => return Err(Error::Closed),
        }
        // If they are still in use, the thread removes them later.
        packing.state.lock().has_superseded = true;
        writer.remove_superseded()?;
    }
    Ok(done)
}
