//! The commit thread, and closing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::group::Answers;
use super::{Decider, Guard, Mode, Point, State, Writer};
use crate::error::{Error, Result};
use crate::log::format::{Kind, encode_seal};
use crate::log::frame::FrameContext;
use crate::log::manifest::{Manifest, swap};
use crate::log::open::named;
use crate::log::segments::Segments;
use crate::log::watermark::{Mark, Watermark};

/// A segment that has grown to this is sealed at a clean close: it need not be read when the log is opened.
pub(crate) const SEALED_AT_CLOSE_BYTES: u64 = 4 << 20;

impl<D: Decider> Writer<D> {
    /// Fails if another writer may be at work: what was locked is gone.
    pub(super) fn check_lock(&self) -> io::Result<()> {
        if self.lock.lock().as_ref().is_none_or(|lock| lock.keeps_others_out()) {
            return Ok(());
        }
        Err(io::Error::other("the file LOCK, which keeps other writers out, was removed or replaced while the store was open"))
    }

    /// Fails if the names of files may lead to another store.
    pub(super) fn check_place(&self) -> io::Result<()> {
        if self.lock.lock().as_ref().is_none_or(|lock| lock.is_in_place()) {
            return Ok(());
        }
        Err(io::Error::other("the directory was moved or replaced while the store was open"))
    }

    /// Raises the lower bound of what is on disk.
    pub(super) fn raise_watermark(&self, mark: &Mark, write: fn(&mut Watermark, &Mark) -> io::Result<()>) {
        if let Some(watermark) = &mut *self.watermark.lock() {
            watermark.raise(&*self.storage, mark, write);
        }
    }

    /// Has the commit thread look for work; starts it when it is needed for the first time.
    pub(super) fn wake_thread(self: &Arc<Self>, core: &mut Guard<'_, D>) {
        if !core.thread_runs {
            let writer = Arc::clone(self);
            match thread::Builder::new().name("eventuali-commit".to_owned()).spawn(move || writer.serve()) {
                Ok(handle) => {
                    core.thread_runs = true;
                    *self.thread.lock() = Some(handle);
                }
                Err(error) => {
                    // Without the thread nobody would ever answer, so everyone is told now.
                    let mut answers = Answers::new(None);
                    Self::poison(core, &format!("the commit thread cannot be started: {error}"), &mut answers);
                    MutexGuard::unlocked(core, || answers.wake());
                }
            }
        }
        self.work.notify_one();
    }

    /// The commit thread: leads for those who cannot, and keeps the interval.
    fn serve(self: &Arc<Self>) {
        let mut core = self.core.lock();
        loop {
            if matches!(core.state, State::Closed) {
                return;
            }
            let due = match (self.options.mode, core.unsynced_since) {
                (Mode::Interval(interval), Some(since)) if matches!(core.state, State::Open) => since.checked_add(interval),
                _ => None,
            };
            if !core.leading && due.is_some_and(|due| due <= Instant::now()) {
                core.group.wants_sync = true;
            }
            if !core.leading && core.has_work() {
                self.lead(core, None);
                core = self.core.lock();
                continue;
            }
            match due.filter(|_| !core.leading) {
                Some(due) => {
                    self.work.wait_until(&mut core, due);
                }
                None => self.work.wait(&mut core),
            }
        }
    }

    /// Finishes what is under way, marks a clean close, and gives the lock back. Closing again does nothing.
    pub(crate) fn close(self: &Arc<Self>) -> Result<()> {
        let mut core = self.core.lock();
        let read_only = matches!(core.state, State::ReadOnly);
        if matches!(core.state, State::Open) {
            core.state = State::Closing;
        }
        let result = loop {
            if core.leading {
                self.idle.wait(&mut core);
            } else if matches!(core.state, State::Closed) {
                break Ok(());
            } else if core.has_work() {
                self.lead(core, None);
                core = self.core.lock();
            } else if matches!(core.state, State::Closing) {
                core.leading = true;
                let finished = self.finish(&mut core);
                core.leading = false;
                core.state = State::Closed;
                self.idle.notify_all();
                break finished;
            } else {
                core.state = State::Closed;
                break Ok(());
            }
        };
        core.thread_runs = false;
        self.work.notify_all();
        drop(core);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // It has no way to panic that the closing caller could do anything about.
            let _ = thread.join();
        }
        D::before_unlocking(self);
        // Whoever rewrites a segment just now writes to the store.
        drop(self.rewriting.lock());
        if let Some(mut lock) = self.lock.lock().take()
            && read_only
        {
            lock.retract();
        }
        self.let_go_of_files();
        result
    }

    /// Closes every file: somebody may keep a handle of the closed store for long.
    fn let_go_of_files(&self) {
        self.let_go.store(true, Ordering::Release);
        *self.watermark.lock() = None;
        let mut core = self.core.lock();
        let closed = Arc::new(core.segment.without_file());
        core.segment = Arc::clone(&closed);
        core.decider.let_go_of_files();
        let segments = Segments::new(Arc::clone(&self.storage), (self.store_id, &self.lineage), &[], closed);
        *self.segments.write() = Arc::new(segments);
    }

    fn finish(self: &Arc<Self>, core: &mut Guard<'_, D>) -> Result<()> {
        let segment = Arc::clone(&core.segment);
        let before = Point { lsn: core.chain.lsn, position: core.chain.position - 1 };
        let is_sealed = core.sealed.last().is_some_and(|last| last.sequence == segment.header.sequence);
        if core.wrote && !is_sealed && segment.offset(before.lsn) >= SEALED_AT_CLOSE_BYTES && self.seal_at_close(core)? {
            return Ok(());
        }
        if core.wrote && !is_sealed {
            let mut bytes = Vec::new();
            let durable = FrameContext { durable_upto: before.lsn, ..core.context() };
            let checksum = durable.plain(&mut bytes, Kind::Close, &[]);
            core.extend(bytes.len() as u64, 0, checksum);
            let end = Point { lsn: core.chain.lsn, position: before.position };
            let mark = core.mark(end, end);
            MutexGuard::unlocked(core, || {
                self.check_lock()?;
                // The close frame says that everything before it is on disk, so that comes first.
                segment.file.sync()?;
                let at = segment.offset(before.lsn);
                segment.file.write_at(&bytes, at)?;
                segment.file.set_length(at + bytes.len() as u64)?;
                segment.file.sync()?;
                self.raise_watermark(&mark, Watermark::write_durably);
                Ok(())
            })
            .map_err(|error: io::Error| segment.io("close", &error))?;
            core.durable = end;
            core.visible = end;
            self.publish(core);
        } else {
            let mark = core.mark(before, before);
            let differs = self.watermark.lock().as_ref().is_some_and(|watermark| watermark.differs_from(&mark));
            if differs && self.check_lock().is_ok() {
                self.raise_watermark(&mark, Watermark::write_durably);
            }
        }
        Ok(())
    }

    /// Seals the last segment, if there is space for the manifest that says so; the next one is begun by whoever appends again.
    fn seal_at_close(self: &Arc<Self>, core: &mut Guard<'_, D>) -> Result<bool> {
        let manifest_on_disk = MutexGuard::unlocked(core, || self.manifest.lock());
        let segment = Arc::clone(&core.segment);
        let before = core.chain;
        let durable = FrameContext { durable_upto: before.lsn, ..core.context() };
        let mut seal = Vec::new();
        let checksum = durable.plain(&mut seal, Kind::Seal, &encode_seal(before.checksum, before.position));
        let end = Point { lsn: before.lsn + seal.len() as u64, position: before.position - 1 };
        let mark = core.mark(end, end);
        let sealed = named(&segment.header, Some(end.lsn));
        let (store_id, lineage, scavenged) = (self.store_id, self.lineage.clone(), manifest_on_disk.scavenged);
        let mut manifest = Manifest { store_id, lineage, epoch: core.chain.epoch, segments: core.sealed.clone(), scavenged };
        manifest.segments.push(sealed);
        let prepared = MutexGuard::unlocked(core, || {
            self.check_lock().and_then(|()| self.check_place()).map_err(|error| segment.io("close", &error))?;
            Ok::<_, Error>(manifest.prepare(&*self.storage).is_ok())
        })?;
        if !prepared {
            // What is left of it is removed by the next open.
            return Ok(false);
        }
        core.extend(seal.len() as u64, 0, checksum);
        MutexGuard::unlocked(core, || {
            // The seal says that everything before it is on disk, so that comes first.
            segment.file.sync()?;
            let at = segment.offset(before.lsn);
            segment.file.write_at(&seal, at)?;
            segment.file.set_length(at + seal.len() as u64)?;
            segment.file.sync()?;
            swap(&*self.storage)?;
            self.raise_watermark(&mark, Watermark::write_durably);
            Ok(())
        })
        .map_err(|error: io::Error| segment.io("close", &error))?;
        core.sealed.push(sealed);
        core.durable = end;
        core.visible = end;
        self.publish(core);
        core.decider.rolled(sealed, sealed.sequence + 1, before.position);
        Ok(true)
    }
}
