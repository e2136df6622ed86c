//! Group commit: one write and one sync for everyone who waits.
//!
//! A request is decided in a short critical section, which assigns its positions and copies its frame into the group that
//! is filling. One leader at a time writes and syncs a group with the lock released, while the next one fills. A thread
//! that waits leads itself; tasks are served by the commit thread. No group is ever owned by something that can be dropped.

mod decider;
mod following;
mod group;
mod rewriting;
mod room;
mod service;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

pub(crate) use decider::{Decider, Decision, Place};
pub(crate) use rewriting::KeptFiles;
use rewriting::Named;
pub(crate) use service::SEALED_AT_CLOSE_BYTES;

use super::follow::Following;
use super::format::{Kind, TAIL_RESERVE, events_frame_bytes, frame_header};
use super::frame::FrameContext;
use super::lineage::Lineage;
use super::manifest::ManifestSegment;
use super::open::{Log, Outcome};
use super::recovery::Chain;
use super::segment::Segment;
use super::segments::Segments;
use super::storage::{Lock, Storage};
use super::sys;
use super::ticket::{Ticket, park};
use super::watermark::{Mark, Watermark};
use crate::error::{Error, Result};

/// The first frame of a group, if it is as long as this, becomes the group instead of being copied.
const FRAME_BYTES_TAKEN: usize = 16 << 10;
/// A group is written when it has grown to this, whoever else waits.
const GROUP_BYTES_MAX: usize = 64 << 20;

/// Something to be done in the order of the log.
pub(crate) enum Task<D: Decider> {
    Append(D::Request),
    /// Completes when everything before it is on disk.
    Barrier,
}

/// How a task ended, or where its answer will be.
pub(crate) enum Submitted<A> {
    Answered(A),
    Ticket(Arc<Ticket<A>>),
}

/// When the writer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// When the group is synced.
    Sync,
    /// When the group is written; synced within the interval.
    Interval(Duration),
    /// When the group is written.
    Written,
}

/// How the writer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriterOptions {
    pub(crate) mode: Mode,
    pub(crate) segment_bytes: u64,
}

/// The writer of an open log.
pub(crate) struct Writer<D: Decider> {
    core: Mutex<Core<D>>,
    /// The commit thread waits here for work.
    work: Condvar,
    /// Whoever waits for the leader to be done waits here.
    idle: Condvar,
    segments: RwLock<Arc<Segments>>,
    storage: Arc<dyn Storage>,
    store_id: uuid::Uuid,
    lineage: Lineage,
    options: WriterOptions,
    /// `None` where nothing is ever written.
    watermark: Mutex<Option<Watermark>>,
    /// `None` where nothing is ever written, and once it is closed.
    lock: Mutex<Option<Box<dyn Lock>>>,
    /// Where the log is read beside the process that writes to it.
    following: Option<Mutex<Following>>,
    /// How often it was seen there that files were replaced.
    replaced: AtomicU64,
    /// Held by whoever makes another generation of a segment, or removes one.
    rewriting: Mutex<()>,
    /// Held by whoever writes a manifest; taken before `core`.
    manifest: Mutex<Named>,
    /// Whether the files were let go of: what was looked for meanwhile may not have been found because of that.
    let_go: AtomicBool,
    /// How many want every file to stay.
    kept: Mutex<usize>,
    visible: AtomicU64,
    durable: AtomicU64,
    /// How many wait for the group that is filling.
    members: AtomicUsize,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// In a forked child nothing here may be touched: its locks may have been held when the child was made.
    generation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    lsn: u64,
    position: u64,
}

#[derive(Debug, Clone)]
enum State {
    Open,
    Closing,
    Closed,
    ReadOnly,
    /// There is no epoch left for it: with this error everything is refused that would write.
    Exhausted(Error),
    Poisoned(String),
}

/// Where the answer to a task is left.
type TicketOf<D> = Arc<Ticket<<D as Decider>::Answer>>;

#[expect(clippy::struct_excessive_bools, reason = "four independent facts about who is at work, each with its own name")]
struct Core<D: Decider> {
    decider: D,
    /// The end of the log as assigned: what the next frame continues.
    chain: Chain,
    /// The epoch that this writer's first frame will carry, until it has been written.
    new_epoch: Option<u32>,
    wrote: bool,
    segment: Arc<Segment>,
    sealed: Vec<ManifestSegment>,
    /// Frames may be assigned below this LSN.
    secured: u64,
    group: Group<D>,
    spare: Vec<u8>,
    /// Tasks that wait for room, in their order.
    queue: VecDeque<(Task<D>, TicketOf<D>)>,
    /// The leader has taken a task out of the queue: nobody may overtake it.
    serving: bool,
    leading: bool,
    visible: Point,
    durable: Point,
    /// Since when there is something that is written and not synced.
    unsynced_since: Option<Instant>,
    last_sync: Duration,
    last_members: usize,
    state: State,
    thread_runs: bool,
}

struct Group<D: Decider> {
    bytes: Vec<u8>,
    start_lsn: u64,
    waiters: Vec<(TicketOf<D>, Waiting<D>)>,
    wants_sync: bool,
    /// It holds this writer's epoch, which must not be given again to other events: synced whatever the mode.
    begins_epoch: bool,
}

enum Waiting<D: Decider> {
    Answer(D::Answer),
    Again(Task<D>),
    Barrier,
}

enum Admitted<D: Decider> {
    Answered(D::Answer),
    Joined(Waiting<D>),
    Again,
    Look,
    NoRoom,
}

impl<D: Decider> Core<D> {
    fn has_work(&self) -> bool {
        !self.group.is_empty() || !self.queue.is_empty()
    }

    fn queueing(&self) -> bool {
        self.serving || !self.queue.is_empty()
    }

    fn overdue(&self, mode: Mode) -> bool {
        matches!((mode, self.unsynced_since), (Mode::Interval(interval), Some(since)) if since.elapsed() >= interval)
    }

    fn refusal(&self) -> Option<Error> {
        match &self.state {
            State::Open => None,
            State::Closing | State::Closed => Some(Error::Closed),
            State::ReadOnly => Some(Error::ReadOnly),
            State::Exhausted(error) => Some(error.clone()),
            State::Poisoned(cause) => Some(Error::Poisoned { cause: cause.clone() }),
        }
    }
}

impl<D: Decider> Group<D> {
    fn new(bytes: Vec<u8>, start_lsn: u64) -> Self {
        Self { bytes, start_lsn, waiters: Vec::new(), wants_sync: false, begins_epoch: false }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.waiters.is_empty() && !self.wants_sync
    }
}

type Guard<'a, D> = MutexGuard<'a, Core<D>>;

impl<D: Decider> Writer<D> {
    /// The writer of `log`, whose events `decider` has seen.
    pub(crate) fn new(log: Log, decider: D, options: WriterOptions, following: Option<Following>) -> Result<Arc<Self>> {
        let Log { storage, lock, store_id, lineage, segments, sealed, chain, epoch_floor, watermark, outcome, scavenged, .. } = log;
        let Some(segment) = segments.last().cloned() else {
            return Err(Error::configuration("the log has no segments"));
        };
        let segments = Segments::new(Arc::clone(&storage), (store_id, &lineage), &sealed, Arc::clone(&segment));
        let new_epoch = epoch_floor.checked_add(1);
        let state = match (&outcome, new_epoch) {
            (Outcome::Damaged(_) | Outcome::Followed, _) => State::ReadOnly,
            (_, None) => State::Exhausted(Error::EpochsExhausted { path: storage.path(), epoch: epoch_floor }),
            (_, Some(_)) => State::Open,
        };
        let end = Point { lsn: chain.lsn, position: chain.position - 1 };
        let writer = Arc::new(Self {
            core: Mutex::new(Core {
                decider,
                chain,
                new_epoch,
                wrote: false,
                secured: chain.lsn,
                group: Group::new(Vec::new(), chain.lsn),
                spare: Vec::new(),
                queue: VecDeque::new(),
                serving: false,
                leading: false,
                visible: end,
                durable: end,
                unsynced_since: None,
                last_sync: Duration::ZERO,
                last_members: 0,
                state,
                thread_runs: false,
                sealed,
                segment,
            }),
            work: Condvar::new(),
            idle: Condvar::new(),
            segments: RwLock::new(Arc::new(segments)),
            storage,
            store_id,
            lineage,
            options,
            watermark: Mutex::new(watermark),
            let_go: AtomicBool::new(false),
            rewriting: Mutex::default(),
            // Opening has synced the directory.
            manifest: Mutex::new(Named { is_certain: true, scavenged }),
            kept: Mutex::default(),
            lock: Mutex::new(lock),
            following: following.map(Mutex::new),
            replaced: AtomicU64::new(0),
            visible: AtomicU64::new(end.position),
            durable: AtomicU64::new(end.position),
            members: AtomicUsize::new(0),
            thread: Mutex::new(None),
            // Has forks noticed from here on, also where no lock is taken.
            generation: sys::without_forks(sys::fork_generation),
        });
        Ok(writer)
    }

    /// The position of the last event that can be read.
    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// The position of the last event that is on disk.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Which store this is. The epoch is that of the last frame, until this writer's first one raises it.
    pub(crate) fn identity(&self) -> (uuid::Uuid, u32) {
        (self.store_id, self.core.lock().chain.epoch)
    }

    /// The segments, in their order.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments.read())
    }

    /// Looks at what the decider knows, under the lock.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&D) -> T) -> T {
        look(&self.core.lock().decider)
    }

    /// Changes what the decider knows, under the lock.
    pub(crate) fn with_mut<T>(&self, change: impl FnOnce(&mut D) -> T) -> T {
        change(&mut self.core.lock().decider)
    }

    /// Where the log is.
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Whether the store was closed.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.core.lock().state, State::Closed | State::Closing)
    }

    /// Looks for what a request asks, as long as there are files to look into.
    fn look(self: &Arc<Self>, request: &mut D::Request) -> Result<()> {
        let looked = D::look(request, self);
        self.still_has_files()?;
        looked
    }

    /// # Errors
    /// [`Closed`](Error::Closed) if the files were let go of.
    pub(crate) fn still_has_files(&self) -> Result<()> {
        if self.let_go.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Whether this process was forked off the one that opened the log: then nothing here may be touched.
    pub(crate) fn is_of_parent(&self) -> bool {
        self.generation != sys::fork_generation()
    }

    /// Whether appends are accepted.
    pub(crate) fn is_writable(&self) -> bool {
        !self.is_of_parent() && matches!(self.core.lock().state, State::Open)
    }

    /// Hands a task in. A caller that will not block is answered at once where nothing has to be waited for.
    pub(crate) fn submit(self: &Arc<Self>, task: Task<D>, blocking: bool) -> Submitted<D::Answer> {
        let mut task = task;
        let mut core = self.core.lock();
        let ticket = loop {
            if let Some(error) = core.refusal() {
                return Submitted::Answered(D::failed(error));
            }
            if core.queueing() {
                let ticket = Ticket::new(blocking);
                core.queue.push_back((task, Arc::clone(&ticket)));
                break ticket;
            }
            match Self::admit(&mut core, &mut task) {
                Admitted::Answered(answer) => return Submitted::Answered(answer),
                Admitted::Joined(waiting) => break self.join(&mut core, Ticket::new(blocking), waiting),
                Admitted::Again => break self.join(&mut core, Ticket::new(blocking), Waiting::Again(task)),
                Admitted::Look => {
                    drop(core);
                    if let Task::Append(request) = &mut task
                        && let Err(error) = self.look(request)
                    {
                        return Submitted::Answered(D::failed(error));
                    }
                    core = self.core.lock();
                }
                Admitted::NoRoom => {
                    let ticket = Ticket::new(blocking);
                    core.queue.push_back((task, Arc::clone(&ticket)));
                    break ticket;
                }
            }
        };
        if blocking || core.leading {
            return Submitted::Ticket(ticket);
        }
        if self.options.mode == Mode::Sync || core.group.wants_sync || core.overdue(self.options.mode) {
            self.wake_thread(&mut core);
            return Submitted::Ticket(ticket);
        }
        self.lead(core, Some(&ticket));
        match ticket.take() {
            Some(answer) => Submitted::Answered(answer),
            None => Submitted::Ticket(ticket),
        }
    }

    /// Waits for an answer, leading groups meanwhile; `None` if the deadline has passed.
    pub(crate) fn wait(self: &Arc<Self>, ticket: &Ticket<D::Answer>, deadline: Option<Instant>) -> Option<D::Answer> {
        loop {
            let core = self.core.lock();
            if let Some(answer) = ticket.prepare_wait() {
                return Some(answer);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                drop(core);
                self.abandon(ticket);
                return ticket.take();
            }
            if !core.leading && core.has_work() {
                self.lead(core, Some(ticket));
                continue;
            }
            drop(core);
            park(deadline);
        }
    }

    /// Nobody waits for this ticket any more; what it stands for goes on.
    pub(crate) fn abandon(self: &Arc<Self>, ticket: &Ticket<D::Answer>) {
        if self.is_of_parent() {
            return;
        }
        ticket.abandon();
        let mut core = self.core.lock();
        if !core.leading && core.has_work() {
            self.wake_thread(&mut core);
        }
    }

    fn join(&self, core: &mut Guard<'_, D>, ticket: Arc<Ticket<D::Answer>>, waiting: Waiting<D>) -> Arc<Ticket<D::Answer>> {
        core.group.waiters.push((Arc::clone(&ticket), waiting));
        self.members.store(core.group.waiters.len(), Ordering::Relaxed);
        ticket
    }

    /// Decides a task, and copies its frame into the group if it is accepted.
    fn admit(core: &mut Guard<'_, D>, task: &mut Task<D>) -> Admitted<D> {
        let core = &mut **core;
        let Task::Append(request) = task else {
            core.group.wants_sync = true;
            return Admitted::Joined(Waiting::Barrier);
        };
        let (count, body_bytes) = D::size(request);
        let frame_bytes = events_frame_bytes(count, body_bytes);
        let epoch_bytes = if core.new_epoch.is_some() { frame_header::BYTES as u64 } else { 0 };
        let commit_time = now_micros().max(core.chain.commit_time);
        let place = Place { lsn: core.chain.lsn + epoch_bytes, position: core.chain.position, commit_time, visible: core.visible.position };
        match core.decider.decide(request, &place) {
            Decision::Answer(answer) => Admitted::Answered(answer),
            Decision::AnswerWithGroup(answer) => Admitted::Joined(Waiting::Answer(answer)),
            Decision::AgainAfterGroup => Admitted::Again,
            Decision::Look => Admitted::Look,
            Decision::Append => {
                // Only now, so that a full disk hides no answer that needs no room.
                let too_much = !core.group.bytes.is_empty() && core.group.bytes.len() + body_bytes > GROUP_BYTES_MAX;
                if too_much || core.chain.lsn + epoch_bytes + frame_bytes + TAIL_RESERVE > core.secured {
                    return Admitted::NoRoom;
                }
                let answer = match core.decider.assign(request, &place) {
                    Ok(answer) => answer,
                    Err(error) => return Admitted::Answered(D::failed(error)),
                };
                core.chain.commit_time = commit_time;
                if let Some(epoch) = core.new_epoch.take() {
                    core.chain.epoch = epoch;
                    core.wrote = true;
                    core.group.begins_epoch = true;
                    let checksum = core.context().plain(&mut core.group.bytes, Kind::Epoch, &[]);
                    core.extend(frame_header::BYTES as u64, 0, checksum);
                }
                let (entries, frame) = D::records(request);
                let checksum = core.context().events(frame, entries);
                if core.group.bytes.is_empty() && frame.len() >= FRAME_BYTES_TAKEN {
                    core.group.bytes = std::mem::take(frame);
                } else {
                    core.group.bytes.extend_from_slice(frame);
                }
                core.extend(frame_bytes, count as u64, checksum);
                Admitted::Joined(Waiting::Answer(answer))
            }
        }
    }
}

impl<D: Decider> Core<D> {
    fn context(&self) -> FrameContext {
        FrameContext {
            seed: self.segment.seed,
            lsn: self.chain.lsn,
            epoch: self.chain.epoch,
            base_position: self.chain.position,
            commit_time: self.chain.commit_time,
            durable_upto: self.durable.lsn,
            previous: self.chain.checksum,
        }
    }

    fn extend(&mut self, bytes: u64, events: u64, checksum: u32) {
        self.chain.lsn += bytes;
        self.chain.position += events;
        self.chain.checksum = checksum;
    }

    fn mark(&self, durable: Point, visible: Point) -> Mark {
        Mark {
            epoch: self.chain.epoch,
            segment: self.segment.header.sequence,
            durable_lsn: durable.lsn,
            visible_lsn: visible.lsn,
            durable_position: durable.position,
            visible_position: visible.position,
        }
    }
}

/// The system's clock, in microseconds since 1970-01-01 UTC.
fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
