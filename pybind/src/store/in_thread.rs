//! Work that may take long, done in a thread that Python does not know.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

use eventuali::{Completion, Error, Operation, Result};
use parking_lot::{Condvar, Mutex};

/// Begins the work when it is first polled or waited for; an answer that nobody wants any more is dropped in that thread.
pub(super) fn in_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Completion<T> {
    Completion::running(InThread { work: Some(Box::new(work)), shared: Arc::default() })
}

struct InThread<T> {
    work: Option<Box<dyn FnOnce() -> Result<T> + Send>>,
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<(Option<Result<T>>, Option<Waker>)>,
    done: Condvar,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { state: Mutex::new((None, None)), done: Condvar::new() }
    }
}

impl<T: Send + 'static> InThread<T> {
    fn begin(&mut self) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let done = move || {
            let result = work();
            let waker = {
                let mut state = shared.state.lock();
                state.0 = Some(result);
                state.1.take()
            };
            shared.done.notify_all();
            waker.into_iter().for_each(Waker::wake);
        };
        let started = thread::Builder::new().name("eventuali-open".to_owned()).spawn(done);
        started.map(drop).map_err(|error| Error::Unsupported { message: format!("cannot start a thread: {error}") })
    }
}

impl<T: Send + 'static> Operation<T> for InThread<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        if let Err(error) = self.begin() {
            return Poll::Ready(Err(error));
        }
        let mut state = self.shared.state.lock();
        if let Some(result) = state.0.take() {
            return Poll::Ready(result);
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        if let Err(error) = self.begin() {
            return Some(Err(error));
        }
        let mut state = self.shared.state.lock();
        while state.0.is_none() {
            let Some(deadline) = deadline else {
                self.shared.done.wait(&mut state);
                continue;
            };
            if self.shared.done.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.0.take()
    }
}
