//! Group commit: one write and one sync for everyone who waits.
//!
//! A request is decided in a short critical section, which assigns its positions and copies its frame into the group that
//! is filling. One leader at a time writes and syncs a group with the lock released, while the next one fills. A thread
//! that waits leads itself; tasks are served by the commit thread. No group is ever owned by something that can be dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::format::{FrameContext, Kind, RecordEntry, TAIL_RESERVE, encode_seal, events_frame_bytes, frame_header, seal_body};
use super::manifest::{Manifest, ManifestSegment, swap};
use super::open::{Log, Outcome, named, new_segment};
use super::recovery::Chain;
use super::segment::{FIRST_FRAME, Segment, temporary_name};
use super::storage::{Lock, Space, Storage};
use super::sys;
use super::ticket::{Ticket, park};
use super::watermark::{Mark, Watermark};
use crate::error::{Error, Result};

/// A group is written when it has grown to this, whoever else waits.
const GROUP_BYTES_MAX: usize = 64 << 20;
/// A buffer that has grown beyond this is given back after its group.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// The smallest and largest steps in which space is secured ahead of the writer.
const SPACE_STEP: (u64, u64) = (64 << 10, 1 << 20);
/// The largest step where space is only reserved.
const RESERVED_STEP: u64 = 8 << 20;

/// What the log does not know: which requests are accepted. Its state is guarded by the writer's lock.
pub(crate) trait Decider: Send + 'static {
    /// Something to be appended.
    type Request: Send + 'static;
    /// What becomes of it.
    type Answer: Send + 'static;

    /// How many records a request has, and how long their bodies are together.
    fn size(request: &Self::Request) -> (usize, usize);

    /// Accepts or answers a request. Accepting fills in what was assigned.
    fn decide(&mut self, request: &mut Self::Request, place: &Place) -> Decision<Self::Answer>;

    /// The records of an accepted request: their entries, and their bodies one after the other.
    fn records(request: &Self::Request) -> (&[RecordEntry], &[u8]);

    /// Reads the log for a request that asked to look, without the lock.
    fn look(request: &mut Self::Request, writer: &Writer<Self>) -> Result<()>
    where
        Self: Sized;

    /// Everything up to `position` can be read now.
    fn published(&mut self, position: u64);

    /// The answer to a request that failed.
    fn failed(error: Error) -> Self::Answer;

    /// The answer to a barrier.
    fn synced(position: u64) -> Self::Answer;
}

/// Where an accepted request will stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The LSN of its frame.
    pub(crate) lsn: u64,
    /// The position of its first event.
    pub(crate) position: u64,
    /// When it is committed, in microseconds since 1970.
    pub(crate) commit_time: i64,
    /// The position of the last event that can be read.
    pub(crate) visible: u64,
}

/// What is to be done with a request.
pub(crate) enum Decision<A> {
    /// Its records are appended; it gets this answer when they are as durable as promised.
    Append(A),
    /// Nothing is appended, and everything the answer rests on can be read.
    Answer(A),
    /// Nothing is appended, and the answer rests on events that are not published yet: it shares their fate.
    AnswerWithGroup(A),
    /// It depends on events that are not published yet: decide again when they are.
    AgainAfterGroup,
    /// The log must be read first.
    Look,
}

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
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    storage: Arc<dyn Storage>,
    store_id: uuid::Uuid,
    options: WriterOptions,
    watermark: Mutex<Watermark>,
    lock: Mutex<Option<Box<dyn Lock>>>,
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open,
    Closing,
    Closed,
    ReadOnly,
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
            State::Poisoned(cause) => Some(Error::Poisoned { cause: cause.clone() }),
        }
    }
}

impl<D: Decider> Group<D> {
    fn new(bytes: Vec<u8>, start_lsn: u64) -> Self {
        Self { bytes, start_lsn, waiters: Vec::new(), wants_sync: false }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.waiters.is_empty() && !self.wants_sync
    }
}

type Guard<'a, D> = MutexGuard<'a, Core<D>>;

impl<D: Decider> Writer<D> {
    /// The writer of `log`, whose events `decider` has seen.
    pub(crate) fn new(log: Log, decider: D, options: WriterOptions) -> Result<Arc<Self>> {
        let Log { storage, lock, store_id, segments, sealed, chain, epoch_floor, watermark, outcome, .. } = log;
        let Some(segment) = segments.last().cloned() else {
            return Err(Error::configuration("the log has no segments"));
        };
        let end = Point { lsn: chain.lsn, position: chain.position - 1 };
        let writer = Arc::new(Self {
            core: Mutex::new(Core {
                decider,
                chain,
                new_epoch: Some(epoch_floor + 1),
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
                state: if matches!(outcome, Outcome::Damaged(_)) { State::ReadOnly } else { State::Open },
                thread_runs: false,
                sealed,
                segment,
            }),
            work: Condvar::new(),
            idle: Condvar::new(),
            segments: RwLock::new(Arc::new(segments)),
            storage,
            store_id,
            options,
            watermark: Mutex::new(watermark),
            lock: Mutex::new(Some(lock)),
            visible: AtomicU64::new(end.position),
            durable: AtomicU64::new(end.position),
            members: AtomicUsize::new(0),
            thread: Mutex::new(None),
            generation: sys::fork_generation(),
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

    /// The segments, in their order.
    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.segments.read())
    }

    /// Looks at what the decider knows, under the lock.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&D) -> T) -> T {
        look(&self.core.lock().decider)
    }

    /// Whether the store was closed.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.core.lock().state, State::Closed | State::Closing)
    }

    /// Whether appends are accepted.
    pub(crate) fn is_writable(&self) -> bool {
        self.core.lock().state == State::Open
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
                        && let Err(error) = D::look(request, self)
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
        if self.generation != sys::fork_generation() {
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
        let frame_bytes = if count == 0 { 0 } else { events_frame_bytes(count, body_bytes) };
        let epoch_bytes = if core.new_epoch.is_some() { frame_header::BYTES as u64 } else { 0 };
        let too_much = !core.group.bytes.is_empty() && core.group.bytes.len() + body_bytes > GROUP_BYTES_MAX;
        if count > 0 && (too_much || core.chain.lsn + epoch_bytes + frame_bytes + TAIL_RESERVE > core.secured) {
            return Admitted::NoRoom;
        }
        let commit_time = crate::event::Timestamp::now().0.max(core.chain.commit_time);
        let place = Place { lsn: core.chain.lsn + epoch_bytes, position: core.chain.position, commit_time, visible: core.visible.position };
        match core.decider.decide(request, &place) {
            Decision::Answer(answer) => Admitted::Answered(answer),
            Decision::AnswerWithGroup(answer) => Admitted::Joined(Waiting::Answer(answer)),
            Decision::AgainAfterGroup => Admitted::Again,
            Decision::Look => Admitted::Look,
            Decision::Append(answer) => {
                core.chain.commit_time = commit_time;
                if let Some(epoch) = core.new_epoch.take() {
                    core.chain.epoch = epoch;
                    core.wrote = true;
                    let checksum = core.context().plain(&mut core.group.bytes, Kind::Epoch, &[]);
                    core.extend(frame_header::BYTES as u64, 0, checksum);
                }
                let (entries, bodies) = D::records(request);
                let checksum = core.context().events(&mut core.group.bytes, entries, bodies);
                core.extend(frame_bytes, count as u64, checksum);
                Admitted::Joined(Waiting::Answer(answer))
            }
        }
    }

    /// Leads groups until `until` is answered or nothing is left to do, then hands over.
    fn lead(self: &Arc<Self>, mut core: Guard<'_, D>, until: Option<&Ticket<D::Answer>>) {
        core.leading = true;
        let mut answered = false;
        while core.has_work() && !answered {
            answered = self.lead_group(&mut core, until);
        }
        core.leading = false;
        self.idle.notify_all();
        if !core.has_work() {
            return;
        }
        let core_ref = &*core;
        let tickets = core_ref.group.waiters.iter().map(|(ticket, _)| ticket).chain(core_ref.queue.iter().map(|(_, ticket)| ticket));
        for ticket in tickets {
            if ticket.wake_blocking() {
                return;
            }
        }
        self.wake_thread(&mut core);
    }

    /// Writes the group that has filled, and answers who waited for it; whether `until` was among them.
    fn lead_group(self: &Arc<Self>, core: &mut Guard<'_, D>, until: Option<&Ticket<D::Answer>>) -> bool {
        let mut answers = Answers::new(until);
        if core.group.is_empty() {
            self.serve_queue(core, &mut answers);
        }
        if !core.group.is_empty() {
            self.gather(core);
            self.write_group(core, &mut answers);
        }
        let answered = answers.until_answered;
        if !answers.wakers.is_empty() {
            MutexGuard::unlocked(core, || answers.wake());
        }
        answered
    }

    /// Waits a moment for the company that the last group had.
    fn gather(&self, core: &mut Guard<'_, D>) {
        let expected = core.last_members;
        if self.options.mode != Mode::Sync || expected < 2 || core.group.waiters.len() >= expected {
            return;
        }
        let patience = core.last_sync / 5;
        MutexGuard::unlocked(core, || {
            let start = Instant::now();
            while self.members.load(Ordering::Relaxed) < expected && start.elapsed() < patience {
                thread::yield_now();
            }
        });
    }

    fn write_group(self: &Arc<Self>, core: &mut Guard<'_, D>, answers: &mut Answers<'_, D>) {
        let end = Point { lsn: core.chain.lsn, position: core.chain.position - 1 };
        let spare = std::mem::take(&mut core.spare);
        let group = std::mem::replace(&mut core.group, Group::new(spare, end.lsn));
        self.members.store(0, Ordering::Relaxed);
        let sync = self.options.mode == Mode::Sync && !group.bytes.is_empty() || group.wants_sync || core.overdue(self.options.mode);
        let segment = Arc::clone(&core.segment);
        let mark = core.mark(end, end);
        let written = MutexGuard::unlocked(core, || {
            if !group.bytes.is_empty() {
                segment.file.write_at(&group.bytes, segment.offset(group.start_lsn))?;
            }
            if !sync {
                return Ok(Duration::ZERO);
            }
            let start = Instant::now();
            segment.file.sync()?;
            let took = start.elapsed();
            // A lower bound that could not be raised is still a lower bound.
            let _ = self.watermark.lock().write(&mark);
            Ok(took)
        });
        match written {
            Ok(took) => {
                core.visible = end;
                if sync {
                    core.durable = end;
                    core.unsynced_since = None;
                    core.last_sync = took;
                } else if !group.bytes.is_empty() && core.unsynced_since.is_none() {
                    core.unsynced_since = Some(Instant::now());
                    if matches!(self.options.mode, Mode::Interval(_)) {
                        self.wake_thread(core);
                    }
                }
                core.last_members = group.waiters.len();
                self.publish(core);
                for (ticket, waiting) in group.waiters {
                    match waiting {
                        Waiting::Answer(answer) => answers.give(&ticket, answer),
                        Waiting::Barrier => answers.give(&ticket, D::synced(end.position)),
                        Waiting::Again(task) => core.queue.push_front((task, ticket)),
                    }
                }
            }
            Err(error) => {
                let cause = segment.io(if sync { "write and sync" } else { "write" }, &error).to_string();
                for (ticket, _) in group.waiters {
                    answers.give(&ticket, D::failed(Error::OutcomeUnknown { cause: cause.clone() }));
                }
                Self::poison(core, &cause, answers);
            }
        }
        let mut bytes = group.bytes;
        if bytes.capacity() <= BUFFER_BYTES_KEPT {
            bytes.clear();
            core.spare = bytes;
        }
    }

    fn publish(&self, core: &mut Guard<'_, D>) {
        self.durable.store(core.durable.position, Ordering::Release);
        self.visible.store(core.visible.position, Ordering::Release);
        let position = core.visible.position;
        core.decider.published(position);
    }

    /// The first failure ends all writing: who was in the group that filled cannot know, who waited for room was not stored.
    fn poison(core: &mut Guard<'_, D>, cause: &str, answers: &mut Answers<'_, D>) {
        core.state = State::Poisoned(cause.to_owned());
        let next = Group::new(Vec::new(), core.chain.lsn);
        for (ticket, _) in std::mem::replace(&mut core.group, next).waiters {
            answers.give(&ticket, D::failed(Error::OutcomeUnknown { cause: cause.to_owned() }));
        }
        for (_, ticket) in std::mem::take(&mut core.queue) {
            answers.give(&ticket, D::failed(Error::Poisoned { cause: cause.to_owned() }));
        }
    }

    /// Admits those who wait for room, making room where there is none.
    fn serve_queue(self: &Arc<Self>, core: &mut Guard<'_, D>, answers: &mut Answers<'_, D>) {
        core.serving = true;
        while let Some((mut task, ticket)) = core.queue.pop_front() {
            if let Some(error) = core.refusal().filter(|_| core.state != State::Closing) {
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
                        Err(NoRoom::Full) => answers.give(&ticket, D::failed(Error::StorageFull { path: self.storage.path(), needed_bytes: needed })),
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
        MutexGuard::unlocked(core, || segment.file.secure_space(secured, target, space))
            .map_err(|error| NoRoom::of(&segment.io("secure space in", &error), &error))?;
        core.secured = core.chain.lsn + (target - start);
        Ok(())
    }

    /// Seals the segment and begins the next one. Only securing its space can say that there is none.
    fn roll(self: &Arc<Self>, core: &mut Guard<'_, D>, needed: u64, sealed: bool) -> Result<(), NoRoom> {
        let old = Arc::clone(&core.segment);
        let space = self.space();
        let mut seal = Vec::new();
        let mut chain = core.chain;
        let anchor = chain.checksum;
        let mut manifest = Manifest { store_id: self.store_id, epoch: chain.epoch, segments: core.sealed.clone() };
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
                swap(&*self.storage)?;
                self.watermark.lock().write_durably(&mark)
            };
            seal_and_swap().map_err(|error| NoRoom::Failed(old.io("seal", &error).to_string()))?;
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
        let mut segments = Vec::clone(&self.segments.read());
        segments.push(rolled);
        *self.segments.write() = Arc::new(segments);
        self.publish(core);
        Ok(())
    }

    fn space(&self) -> Space {
        if self.options.mode == Mode::Sync { Space::Written } else { Space::Reserved }
    }

    /// Has the commit thread look for work; starts it when it is needed for the first time.
    fn wake_thread(self: &Arc<Self>, core: &mut Guard<'_, D>) {
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
            if core.state == State::Closed {
                return;
            }
            let due = match (self.options.mode, core.unsynced_since) {
                (Mode::Interval(interval), Some(since)) if core.state == State::Open => Some(since + interval),
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
        if core.state == State::Open {
            core.state = State::Closing;
        }
        let result = loop {
            if core.leading {
                self.idle.wait(&mut core);
            } else if core.state == State::Closed {
                break Ok(());
            } else if core.has_work() {
                self.lead(core, None);
                core = self.core.lock();
            } else if core.state == State::Closing {
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
        drop(self.lock.lock().take());
        result
    }

    fn finish(self: &Arc<Self>, core: &mut Guard<'_, D>) -> Result<()> {
        let segment = Arc::clone(&core.segment);
        let before = Point { lsn: core.chain.lsn, position: core.chain.position - 1 };
        if core.wrote {
            let mut bytes = Vec::new();
            let durable = FrameContext { durable_upto: before.lsn, ..core.context() };
            let checksum = durable.plain(&mut bytes, Kind::Close, &[]);
            core.extend(bytes.len() as u64, 0, checksum);
            let end = Point { lsn: core.chain.lsn, position: before.position };
            let mark = core.mark(end, end);
            MutexGuard::unlocked(core, || {
                // The close frame says that everything before it is on disk, so that comes first.
                segment.file.sync()?;
                let at = segment.offset(before.lsn);
                segment.file.write_at(&bytes, at)?;
                segment.file.set_length(at + bytes.len() as u64)?;
                segment.file.sync()?;
                self.watermark.lock().write_durably(&mark)
            })
            .map_err(|error| segment.io("close", &error))?;
            core.durable = end;
            core.visible = end;
            self.publish(core);
        } else {
            let mark = core.mark(before, before);
            if self.watermark.lock().says_less_than(&mark) {
                self.watermark.lock().write_durably(&mark).map_err(|error| segment.io("write the watermark of", &error))?;
            }
        }
        Ok(())
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
    super::storage::read_exact_at(&*segment.file, &mut bytes, at).map_err(|error| segment.io("read", &error))?;
    Ok(super::format::decode_seal(&bytes).map_or(0, |(anchor, _)| anchor))
}

/// Answers given under the lock, whose owners are woken without it.
struct Answers<'a, D: Decider> {
    wakers: Vec<Waker>,
    until: Option<&'a Ticket<D::Answer>>,
    until_answered: bool,
}

impl<'a, D: Decider> Answers<'a, D> {
    fn new(until: Option<&'a Ticket<D::Answer>>) -> Self {
        Self { wakers: Vec::new(), until, until_answered: false }
    }

    fn give(&mut self, ticket: &Ticket<D::Answer>, answer: D::Answer) {
        self.until_answered |= self.until.is_some_and(|until| std::ptr::eq(until, ticket));
        self.wakers.extend(ticket.answer(answer));
    }

    fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}
