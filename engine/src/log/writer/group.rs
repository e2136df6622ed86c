//! Leading: one write and one sync, then the answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::{Decider, Group, Guard, Mode, Point, State, Waiting, Writer};
use crate::error::Error;
use crate::log::ticket::Ticket;
use crate::log::watermark::Watermark;

/// A buffer that has grown beyond this is given back after its group.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

impl<D: Decider> Writer<D> {
    /// Leads groups until `until` is answered or nothing is left to do, then hands over.
    pub(super) fn lead(self: &Arc<Self>, mut core: Guard<'_, D>, until: Option<&Ticket<D::Answer>>) {
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
    pub(super) fn lead_group(self: &Arc<Self>, core: &mut Guard<'_, D>, until: Option<&Ticket<D::Answer>>) -> bool {
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
        let synced_anyway = self.options.mode == Mode::Sync && !group.bytes.is_empty();
        let sync = synced_anyway || group.wants_sync || group.begins_epoch || core.overdue(self.options.mode);
        let segment = Arc::clone(&core.segment);
        let mark = core.mark(if sync { end } else { core.durable }, end);
        let written = MutexGuard::unlocked(core, || {
            self.check_lock()?;
            if !group.bytes.is_empty() {
                segment.file.write_at(&group.bytes, segment.offset(group.start_lsn))?;
            }
            if !sync {
                if !group.bytes.is_empty() {
                    // For readers in other processes; what it says of the disk stays.
                    self.raise_watermark(&mark, Watermark::write);
                }
                return Ok(Duration::ZERO);
            }
            let start = Instant::now();
            segment.file.sync()?;
            let took = start.elapsed();
            self.raise_watermark(&mark, Watermark::write);
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
                let mut answered = Vec::with_capacity(group.waiters.len());
                for (ticket, waiting) in group.waiters {
                    match waiting {
                        Waiting::Answer(answer) => answered.push((ticket, answer)),
                        Waiting::Barrier => answered.push((ticket, D::synced(end.position))),
                        Waiting::Again(task) => core.queue.push_front((task, ticket)),
                    }
                }
                // Without the lock: whoever is woken first can append again while the others are still being answered.
                MutexGuard::unlocked(core, || {
                    for (ticket, answer) in answered {
                        answers.give(&ticket, answer);
                        answers.wake();
                    }
                });
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

    pub(super) fn publish(&self, core: &mut Guard<'_, D>) {
        self.durable.store(core.durable.position, Ordering::Release);
        self.visible.store(core.visible.position, Ordering::Release);
        let position = core.visible.position;
        core.decider.published(position);
    }

    /// The first failure ends all writing: who was in the group that filled cannot know, who waited for room was not stored.
    pub(super) fn poison(core: &mut Guard<'_, D>, cause: &str, answers: &mut Answers<'_, D>) {
        core.state = State::Poisoned(cause.to_owned());
        let next = Group::new(Vec::new(), core.chain.lsn);
        for (ticket, _) in std::mem::replace(&mut core.group, next).waiters {
            answers.give(&ticket, D::failed(Error::OutcomeUnknown { cause: cause.to_owned() }));
        }
        for (_, ticket) in std::mem::take(&mut core.queue) {
            answers.give(&ticket, D::failed(Error::Poisoned { cause: cause.to_owned() }));
        }
    }
}

/// Answers given under the lock, whose owners are woken without it.
pub(super) struct Answers<'a, D: Decider> {
    pub(super) wakers: Vec<Waker>,
    until: Option<&'a Ticket<D::Answer>>,
    pub(super) until_answered: bool,
}

impl<'a, D: Decider> Answers<'a, D> {
    pub(super) fn new(until: Option<&'a Ticket<D::Answer>>) -> Self {
        Self { wakers: Vec::new(), until, until_answered: false }
    }

    pub(super) fn give(&mut self, ticket: &Ticket<D::Answer>, answer: D::Answer) {
        self.until_answered |= self.until.is_some_and(|until| std::ptr::eq(until, ticket));
        self.wakers.extend(ticket.answer(answer));
    }

    pub(super) fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}
