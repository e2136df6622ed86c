//! Where an answer is left for whoever waits for it: a task or a thread.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use parking_lot::Mutex;

/// One answer, to be picked up once.
pub(crate) struct Ticket<A>(Mutex<Slot<A>>);

struct Slot<A> {
    answer: Option<A>,
    waker: Option<Waker>,
    /// A thread waits, and can lead a group itself.
    blocking: bool,
}

impl<A> Ticket<A> {
    pub(crate) fn new(blocking: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Slot { answer: None, waker: None, blocking })))
    }

    /// Leaves the answer, and gives the waker of who waits for it.
    pub(crate) fn answer(&self, answer: A) -> Option<Waker> {
        let mut slot = self.0.lock();
        slot.answer = Some(answer);
        slot.waker.take()
    }

    pub(crate) fn take(&self) -> Option<A> {
        self.0.lock().answer.take()
    }

    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<A> {
        let mut slot = self.0.lock();
        if let Some(answer) = slot.answer.take() {
            return Poll::Ready(answer);
        }
        slot.blocking = false;
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            slot.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Says that a thread is about to wait; the answer if it is there.
    pub(crate) fn prepare_wait(&self) -> Option<A> {
        let mut slot = self.0.lock();
        if slot.answer.is_none() {
            slot.blocking = true;
            slot.waker = Some(thread_waker());
        }
        slot.answer.take()
    }

    /// Says that nobody waits any more.
    pub(crate) fn abandon(&self) {
        let mut slot = self.0.lock();
        slot.blocking = false;
        slot.waker = None;
    }

    /// Wakes the thread that waits, if one does, so that it leads.
    pub(crate) fn wake_blocking(&self) -> bool {
        let slot = self.0.lock();
        if let (true, Some(waker)) = (slot.blocking, &slot.waker) {
            waker.wake_by_ref();
            return true;
        }
        false
    }
}

struct WakeThread(Thread);

impl Wake for WakeThread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn thread_waker() -> Waker {
    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(WakeThread(thread::current())));
    }
    WAKER.with(Clone::clone)
}

/// Parks this thread until its waker is called or the deadline has passed; may return early.
pub(crate) fn park(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
    }
}
