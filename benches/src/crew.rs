//! One thread that drives many futures, with a waker for each: the least that any executor does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use parking_lot::Mutex;

struct Ready {
    slots: Mutex<Vec<usize>>,
    thread: Thread,
}

struct SlotWaker {
    slot: usize,
    ready: Arc<Ready>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut slots = self.ready.slots.lock();
        slots.push(self.slot);
        if slots.len() == 1 {
            self.ready.thread.unpark();
        }
    }
}

/// Drives `width` futures at a time until `next` has no more, and shows each output to `done`.
pub fn drive<F: Future + Unpin>(width: usize, mut next: impl FnMut() -> Option<F>, mut done: impl FnMut(F::Output)) {
    let ready = Arc::new(Ready { slots: Mutex::new(Vec::new()), thread: thread::current() });
    let wakers: Vec<Waker> = (0..width).map(|slot| Waker::from(Arc::new(SlotWaker { slot, ready: Arc::clone(&ready) }))).collect();
    let mut slots: Vec<Option<F>> = (0..width).map(|_| next()).collect();
    let mut running = slots.iter().flatten().count();
    let mut turn: Vec<usize> = (0..width).collect();
    while running > 0 {
        for slot in turn.drain(..) {
            let mut context = Context::from_waker(&wakers[slot]);
            while let Some(future) = &mut slots[slot] {
                let Poll::Ready(output) = Pin::new(future).poll(&mut context) else { break };
                done(output);
                slots[slot] = next();
                running -= usize::from(slots[slot].is_none());
            }
        }
        while running > 0 && turn.is_empty() {
            std::mem::swap(&mut *ready.slots.lock(), &mut turn);
            if turn.is_empty() {
                thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_future_is_driven_to_its_end() {
        let mut given = 0..100_usize;
        let mut outputs = Vec::new();
        let next = || {
            let number = given.next()?;
            let mut polled = number.is_multiple_of(3);
            Some(std::future::poll_fn(move |context: &mut Context<'_>| {
                if std::mem::replace(&mut polled, true) {
                    return Poll::Ready(number);
                }
                let waker = context.waker().clone();
                thread::spawn(move || waker.wake());
                Poll::Pending
            }))
        };
        drive(7, next, |number| outputs.push(number));
        outputs.sort_unstable();
        assert_eq!(outputs, (0..100).collect::<Vec<_>>());
    }
}
