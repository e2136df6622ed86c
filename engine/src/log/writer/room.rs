//! Room for frames: space secured ahead of them, and new segments.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::group::Answers;
use super::{Admitted, Decider, Guard, Mode, Point, State, Task, Waiting, Writer};
use crate::error::{Error, Result};
use crate::log::format::{Kind, TAIL_RESERVE, decode_seal, encode_seal, events_frame_bytes, frame_header, seal_body};
use crate::log::manifest::{Manifest, swap};
use crate::log::open::named;
use crate::log::recovery::Chain;
use crate::log::segment::{FIRST_FRAME, Segment, new_segment, temporary_name};
use crate::log::storage::{Space, read_exact_at};
use crate::log::watermark::{Mark, Watermark};

/// The smallest and largest steps in which space is secured ahead of the writer.
const SPACE_STEP: (u64, u64) = (64 << 10, 1 << 20);
/// The largest step where space is only reserved.
const RESERVED_STEP: u64 = 8 << 20;

impl<D: Decider> Writer<D> {
    /// Admits those who wait for room, making room where there is none.
    pub(super) fn serve_queue(self: &Arc<Self>, core: &mut Guard<'_, D>, answers: &mut Answers<'_, D>) {
        core.serving = true;
        while let Some((mut task, ticket)) = core.queue.pop_front() {
            if let Some(error) = core.refusal().filter(|_| !matches!(core.state, State::Closing)) {
                answers.give(&ticket, D::failed(error));
                continue;
            }
            match Self::admit(core, &mut task) {
                Admitted::Answered(answer) => answers.give(&ticket, answer),
                Admitted::Joined(waiting) => {
                    self.join(core, ticket, waiting);
                }
                Admitted::Again => {
                    self.join(core, ticket, Waiting::Again(task));
                }
                Admitted::Look => {
                    let looked = MutexGuard::unlocked(core, || match &mut task {
                        Task::Append(request) => D::look(request, self),
                        Task::Barrier => Ok(()),
                    });
                    match looked {
                        Ok(()) => core.queue.push_front((task, ticket)),
                        Err(error) => answers.give(&ticket, D::failed(error)),
                    }
                }
                Admitted::NoRoom if !core.group.is_empty() => {
                    core.queue.push_front((task, ticket));
                    break;
                }
                Admitted::NoRoom => {
                    let (count, body_bytes) = match &task {
                        Task::Append(request) => D::size(request),
                        Task::Barrier => (0, 0),
                    };
                    let needed = events_frame_bytes(count, body_bytes) + frame_header::BYTES as u64 + TAIL_RESERVE;
                    match self.make_room(core, needed) {
                        Ok(()) => core.queue.push_front((task, ticket)),
                        Err(NoRoom::Full) => {
                            answers.give(&ticket, D::failed(Error::StorageFull { path: self.storage.path(), needed_bytes: Some(needed) }));
                        }
                        Err(NoRoom::Failed(cause)) => {
                            answers.give(&ticket, D::failed(Error::Poisoned { cause: cause.clone() }));
                            Self::poison(core, &cause, answers);
                        }
                    }
                }
            }
        }
        core.serving = false;
    }

    /// Secures space for `needed` bytes, in this segment or in a new one. Everything assigned has been written.
    fn make_room(self: &Arc<Self>, core: &mut Guard<'_, D>, needed: u64) -> Result<(), NoRoom> {
        let segment = Arc::clone(&core.segment);
        let start = segment.offset(core.chain.lsn);
        let end = start + needed;
        let first = core.chain.lsn == segment.header.base_lsn;
        let sealed = core.sealed.last().is_some_and(|last| last.sequence == segment.header.sequence);
        if sealed || (end > self.options.segment_bytes && !first) {
            return self.roll(core, needed, sealed);
        }
        let (smallest, largest) = (SPACE_STEP.0, if self.space() == Space::Written { SPACE_STEP.1 } else { RESERVED_STEP });
        let step = start.clamp(smallest, largest);
        let target = end.max((start + step).min(self.options.segment_bytes)).next_multiple_of(4096);
        let secured = segment.offset(core.secured);
        let space = self.space();
        MutexGuard::unlocked(core, || self.check_lock().and_then(|()| segment.file.secure_space(secured, target, space)))
            .map_err(|error| NoRoom::of(&segment.io("secure space in", &error), &error))?;
        core.secured = core.chain.lsn + (target - start);
        Ok(())
    }

    /// Seals the segment and begins the next one. Only securing its space can say that there is none.
    fn roll(self: &Arc<Self>, core: &mut Guard<'_, D>, needed: u64, sealed: bool) -> Result<(), NoRoom> {
        let mut manifest_on_disk = MutexGuard::unlocked(core, || {
            D::before_rolling(self);
            self.manifest.lock()
        });
        let old = Arc::clone(&core.segment);
        let space = self.space();
        let mut seal = Vec::new();
        let mut chain = core.chain;
        let anchor = chain.checksum;
        let (store_id, lineage, scavenged) = (self.store_id, self.lineage.clone(), manifest_on_disk.scavenged);
        let mut manifest = Manifest { store_id, lineage, epoch: chain.epoch, segments: core.sealed.clone(), scavenged };
        if !sealed {
            core.context().plain(&mut seal, Kind::Seal, &encode_seal(anchor, chain.position));
            chain.lsn += seal.len() as u64;
            manifest.segments.push(named(&old.header, Some(chain.lsn)));
        }
        let anchor = if sealed { read_anchor(&old, chain.lsn).map_err(|error| NoRoom::Failed(error.to_string()))? } else { anchor };
        let header = new_segment(self.store_id, old.header.sequence + 1, chain.epoch, &chain, anchor);
        manifest.segments.push(named(&header, None));
        let file_bytes = (FIRST_FRAME + needed.max(SPACE_STEP.0)).next_multiple_of(4096);
        let end = Point { lsn: chain.lsn, position: chain.position - 1 };
        let mark = Mark { segment: header.sequence, ..core.mark(end, end) };
        let rolled = MutexGuard::unlocked(core, || {
            self.check_lock().and_then(|()| self.check_place()).map_err(|error| NoRoom::of(&old.io("continue", &error), &error))?;
            let next = Segment::prepare(&*self.storage, header, file_bytes, space)
                .map_err(|error| NoRoom::of(&old.io("prepare the successor of", &error), &error))?;
            if let Err(error) = manifest.prepare(&*self.storage) {
                // Left behind, it is removed by the next open.
                let _ = self.storage.remove(&temporary_name(&next.name));
                return Err(NoRoom::of(&old.io("prepare the manifest that seals", &error), &error));
            }
            let seal_and_swap = || {
                if !seal.is_empty() {
                    let at = old.offset(chain.lsn) - seal.len() as u64;
                    old.file.write_at(&seal, at)?;
                    old.file.sync()?;
                    old.file.set_length(at + seal.len() as u64)?;
                }
                next.publish(&*self.storage)?;
                swap(&*self.storage)
            };
            manifest_on_disk.is_certain = false;
            seal_and_swap().map_err(|error| NoRoom::Failed(old.io("seal", &error).to_string()))?;
            manifest_on_disk.is_certain = true;
            self.raise_watermark(&mark, Watermark::write_durably);
            Ok(Arc::new(next))
        })?;
        manifest.segments.pop();
        core.sealed = manifest.segments;
        core.chain = Chain { checksum: anchor, ..chain };
        core.group.start_lsn = chain.lsn;
        core.secured = chain.lsn + (file_bytes - FIRST_FRAME);
        core.visible = end;
        core.durable = end;
        core.unsynced_since = None;
        core.segment = Arc::clone(&rolled);
        if let Some(last) = core.sealed.last().copied() {
            let segments = self.segments.read().and(rolled, last);
            *self.segments.write() = Arc::new(segments);
            if !sealed {
                core.decider.rolled(last, header.sequence, chain.position);
            }
        }
        self.publish(core);
        drop(manifest_on_disk);
        MutexGuard::unlocked(core, || D::after_rolling(self));
        Ok(())
    }

    /// How long the segment that is written to is.
    pub(crate) fn active_bytes(&self) -> u64 {
        let core = self.core.lock();
        core.segment.offset(core.chain.lsn)
    }

    /// Seals the segment that is written to, if it has frames, and begins the next one.
    ///
    /// # Errors
    /// What keeps the writer from writing; [`StorageFull`](Error::StorageFull): then nothing has changed.
    pub(crate) fn begin_segment(self: &Arc<Self>) -> Result<()> {
        if self.is_of_parent() {
            return Err(Error::ForkedProcess);
        }
        let mut core = self.core.lock();
        loop {
            if let Some(error) = core.refusal() {
                return Err(error);
            }
            if core.leading {
                self.idle.wait(&mut core);
            } else if core.has_work() {
                self.lead(core, None);
                core = self.core.lock();
            } else {
                break;
            }
        }
        let is_sealed = core.sealed.last().is_some_and(|last| last.sequence == core.segment.header.sequence);
        if core.chain.lsn == core.segment.header.base_lsn && !is_sealed {
            return Ok(());
        }
        // As if somebody had waited for room: who comes meanwhile waits behind.
        (core.leading, core.serving) = (true, true);
        let mut answers = Answers::new(None);
        let rolled = match self.roll(&mut core, TAIL_RESERVE, is_sealed) {
            Ok(()) => Ok(()),
            Err(NoRoom::Full) => Err(Error::StorageFull { path: self.storage.path(), needed_bytes: Some(SPACE_STEP.0) }),
            Err(NoRoom::Failed(cause)) => {
                Self::poison(&mut core, &cause, &mut answers);
                Err(Error::Poisoned { cause })
            }
        };
        (core.leading, core.serving) = (false, false);
        self.idle.notify_all();
        if core.has_work() {
            self.lead(core, None);
        } else {
            drop(core);
        }
        answers.wake();
        rolled
    }

    fn space(&self) -> Space {
        if self.options.mode == Mode::Sync { Space::Written } else { Space::Reserved }
    }
}

/// Why there is no room.
enum NoRoom {
    /// The device is full.
    Full,
    /// Something else failed: the writer stops.
    Failed(String),
}

impl NoRoom {
    fn of(error: &Error, source: &std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The anchor in the seal that ends at an LSN.
fn read_anchor(segment: &Segment, end_lsn: u64) -> Result<u32> {
    let mut bytes = [0; seal_body::BYTES];
    let at = segment.offset(end_lsn) - seal_body::BYTES as u64;
    read_exact_at(&*segment.file, &mut bytes, at).map_err(|error| segment.io("read", &error))?;
    Ok(decode_seal(&bytes).map_or(0, |(anchor, _)| anchor))
}
