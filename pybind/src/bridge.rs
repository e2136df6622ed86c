//! The one door between Python and the engine: it holds or releases the GIL, lets Ctrl-C through, gives the event loop its turns
//! and completes its futures many at a time.
//!
//! What a call does is a [`Job`]. The same job serves both shells: [`block_on`] carries it out on the spot, [`start`] for asyncio.

mod errors;
mod event_loop;
mod mailbox;
mod pending;
pub(crate) mod turn;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use eventuali::{Completion, Event, EventReader};
use parking_lot::{Mutex, MutexGuard};
use pyo3::prelude::*;

pub(crate) use errors::{configuration, raise};
pub(crate) use event_loop::stop_listeners;
pub(crate) use pending::{Pending, not_stop_iteration, require_asyncio};

/// How long a blocking call waits before it looks for Ctrl-C.
const SLICE: Duration = Duration::from_millis(50);

/// More bytes than this are worked on without the GIL.
pub(crate) const LARGE_BYTES: usize = 64 << 10;

/// What one call does, in steps that hold the GIL.
pub(crate) trait Job: Send + 'static {
    /// Whether it is expected to wait, for the disk or for a thread.
    fn waits(&self) -> bool {
        false
    }

    /// Goes on until there is an answer or it has to wait.
    fn step(&mut self, py: Python<'_>, waiter: &Waiter<'_>) -> PyResult<Step>;
}

/// How far a step came.
pub(crate) enum Step {
    /// The answer.
    Done(Py<PyAny>),
    /// There is more to do, and the loop is to have a turn first.
    Turn,
    /// The waiter's waker is called when there is more to do.
    Wait,
}

/// How a job waits.
pub(crate) enum Waiter<'a> {
    /// On the spot.
    Block,
    /// By giving this waker to the engine.
    Wake(&'a Waker),
}

/// What an operation costs, which decides whether the GIL is held meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// It works on much data.
    pub(crate) large: bool,
    /// It waits for the disk.
    pub(crate) disk: bool,
}

impl Effort {
    /// Short work, for which releasing the GIL costs more than holding it.
    pub(crate) const SHORT: Self = Self { large: false, disk: false };
    /// Waits for the disk.
    pub(crate) const DISK: Self = Self { large: false, disk: true };
    /// Not short, wherever it is done.
    pub(crate) const LONG: Self = Self { large: true, disk: true };
}

impl Waiter<'_> {
    /// Continues an operation; `None` if the waker will be called.
    pub(crate) fn answer<T: Send + Unpin>(
        &self,
        py: Python<'_>,
        completion: &mut Completion<T>,
        effort: Effort,
    ) -> PyResult<Option<eventuali::Result<T>>> {
        match self {
            Self::Wake(waker) => Ok(poll(py, completion, waker, effort.large)),
            Self::Block if effort.disk => wait(py, completion).map(Some),
            Self::Block => match poll(py, completion, Waker::noop(), effort.large) {
                None => wait(py, completion).map(Some),
                answer => Ok(answer),
            },
        }
    }

    /// The next events of a reader (`Some(None)` at the end); `None` if the waker will be called.
    pub(crate) fn batch(&self, py: Python<'_>, reader: &mut EventReader, large: bool) -> PyResult<Option<Batch>> {
        match self {
            Self::Wake(waker) => Ok(poll_batch(py, reader, waker, large)),
            Self::Block => {
                let parking = Parking::here();
                loop {
                    if let Some(read) = poll_batch(py, reader, parking.waker(), large) {
                        return Ok(Some(read));
                    }
                    parking.wait(py)?;
                }
            }
        }
    }
}

/// What a reader has read.
pub(crate) type Batch = eventuali::Result<Option<Vec<Event>>>;

/// Where a thread waits for what it polls, without the GIL and open to Ctrl-C.
pub(crate) struct Parking(Waker);

impl Parking {
    /// For this thread.
    pub(crate) fn here() -> Self {
        Self(Arc::new(Unpark(thread::current())).into())
    }

    /// Ends the wait.
    pub(crate) fn waker(&self) -> &Waker {
        &self.0
    }

    /// Waits until it is woken, or for a while.
    ///
    /// # Errors
    /// What a signal's handler raises.
    #[expect(clippy::unused_self, reason = "there is nothing to wait for without a waker")]
    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| thread::park_timeout(SLICE));
        py.check_signals()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn poll_batch(py: Python<'_>, reader: &mut EventReader, waker: &Waker, large: bool) -> Option<Batch> {
    match unlocked_if(py, large, || reader.poll_batch(&mut Context::from_waker(waker))) {
        Poll::Ready(read) => Some(read),
        Poll::Pending => None,
    }
}

fn poll<T: Send + Unpin>(py: Python<'_>, completion: &mut Completion<T>, waker: &Waker, large: bool) -> Option<eventuali::Result<T>> {
    match unlocked_if(py, large, || Pin::new(completion).poll(&mut Context::from_waker(waker))) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Waits without the GIL, and looks for Ctrl-C in between.
///
/// # Errors
/// What a signal's handler raises.
pub(crate) fn wait<T: Send>(py: Python<'_>, completion: &mut Completion<T>) -> PyResult<eventuali::Result<T>> {
    loop {
        if let Some(answer) = py.detach(|| completion.wait_until(Some(Instant::now() + SLICE))) {
            return Ok(answer);
        }
        py.check_signals()?;
    }
}

fn unlocked_if<T: Send>(py: Python<'_>, large: bool, work: impl FnOnce() -> T + Send) -> T {
    if large { py.detach(work) } else { work() }
}

/// Locks without ever waiting for the lock while holding the GIL, which its holder may want.
pub(crate) fn lock<'a, T: Send>(py: Python<'_>, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    loop {
        if let Some(guard) = mutex.try_lock() {
            return guard;
        }
        py.detach(|| drop(mutex.lock()));
    }
}

/// Carries out a job on the spot.
pub(crate) fn block_on(py: Python<'_>, mut job: impl Job) -> PyResult<Py<PyAny>> {
    loop {
        if let Step::Done(answer) = job.step(py, &Waiter::Block)? {
            return Ok(answer);
        }
        py.check_signals()?;
    }
}

/// Carries out a job for asyncio: the answer itself if there is no need to wait, else a [`Pending`] to be awaited.
pub(crate) fn start(py: Python<'_>, mut job: impl Job) -> PyResult<Py<PyAny>> {
    if turn::due() {
        return Pending::after_a_turn(py, Box::new(job));
    }
    if job.waits() {
        return Pending::when_woken(py, Box::new(job));
    }
    match job.step(py, &Waiter::Wake(Waker::noop()))? {
        Step::Done(answer) => Ok(answer),
        Step::Turn => Pending::after_a_turn(py, Box::new(job)),
        Step::Wait => Pending::when_woken(py, Box::new(job)),
    }
}
