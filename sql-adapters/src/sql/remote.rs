//! Work on a runtime of the store's own: callers need none, and wait or poll as they like.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use eventuali::{Completion, Error, Operation, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How many threads a store's runtime has. They only pass messages: the work is done by the database.
const THREADS: usize = 2;

/// The runtime of one store.
pub(crate) struct Remote {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    /// Work that goes on to its end when the runtime is dropped.
    writing: Option<JoinHandle<()>>,
    /// The process that has the threads; a forked child has none of them.
    process: u32,
}

impl Remote {
    pub(crate) fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("eventuali-sql").enable_all().build();
        let runtime = runtime.map_err(|error| Error::configuration(format!("the threads of the store cannot be started: {error}")))?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle, writing: None, process: std::process::id() })
    }

    /// Whether this process was forked off the one that opened the store: then nothing here may be touched.
    pub(crate) fn is_of_parent(&self) -> bool {
        self.process != std::process::id()
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Begins the work of the writer, which the runtime outlives.
    pub(crate) fn begin_writing(&mut self, writing: impl Future<Output = ()> + Send + 'static) {
        self.writing = Some(self.handle.spawn(writing));
    }

    /// Begins work; its answer can be polled and waited for from anywhere.
    pub(crate) fn begin<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Answer<T> {
        let (sender, receiver) = oneshot::channel();
        self.handle.spawn(async move {
            let answer = work.await;
            // Nobody waits for it any more.
            let _ = sender.send(answer);
        });
        Answer(receiver)
    }

    /// Runs work to its end on this thread, which must not be one of a runtime's.
    pub(crate) fn block<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let mut answer = self.begin(work);
        loop {
            if let Some(result) = answer.wait_until(None) {
                return result;
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let writing = self.writing.take();
        if self.is_of_parent() {
            // Its threads are the parent's, and joining them would never end.
            std::mem::forget((runtime, writing));
            return;
        }
        let Some(writing) = writing else { return runtime.shutdown_background() };
        // Appends that have begun are answered, though nobody can begin another one.
        let end = move || {
            // It panicked, or it is done.
            let _ = runtime.block_on(writing);
            runtime.shutdown_background();
        };
        // Where no thread can be started the runtime ends with what it was to run.
        let _ = thread::Builder::new().name("eventuali-sql-end".to_owned()).spawn(end);
    }
}

/// Something of the runtime that threads outside of it hold too: it is dropped as if within, and never in a forked child.
pub(crate) struct Within<T> {
    /// `None` only while it is dropped.
    value: Option<T>,
    handle: Handle,
    process: u32,
}

impl<T> Within<T> {
    pub(crate) fn new(value: T, remote: &Remote) -> Self {
        Self { value: Some(value), handle: remote.handle(), process: remote.process }
    }
}

impl<T> Deref for Within<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it has its value until it is dropped")
    }
}

impl<T> Drop for Within<T> {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            let _within = self.handle.enter();
            drop(self.value.take());
        } else {
            std::mem::forget(self.value.take());
        }
    }
}

/// An answer that is under way.
pub(crate) struct Answer<T>(oneshot::Receiver<Result<T>>);

impl<T> Answer<T> {
    pub(crate) fn new(receiver: oneshot::Receiver<Result<T>>) -> Self {
        Self(receiver)
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        // The sender is gone only when the store's runtime is.
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }

    pub(crate) fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = self.poll(&mut context) {
                return Some(answer);
            }
            match deadline {
                None => thread::park(),
                Some(deadline) => match deadline.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
                    Some(rest) => thread::park_timeout(rest),
                    None => return None,
                },
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A completion that begins its work when it is first polled or waited for.
pub(crate) fn later<T: Send + 'static>(begin: impl FnOnce() -> Result<Answer<T>> + Send + 'static) -> Completion<T> {
    Completion::running(Later { begin: Some(begin), answer: None })
}

struct Later<T, F> {
    begin: Option<F>,
    answer: Option<Answer<T>>,
}

impl<T, F: FnOnce() -> Result<Answer<T>>> Later<T, F> {
    fn answer(&mut self) -> Result<&mut Answer<T>> {
        if let Some(begin) = self.begin.take() {
            self.answer = Some(begin()?);
        }
        self.answer.as_mut().ok_or(Error::Closed)
    }
}

impl<T: Send, F: FnOnce() -> Result<Answer<T>> + Send> Operation<T> for Later<T, F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        match self.answer() {
            Ok(answer) => answer.poll(context),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        match self.answer() {
            Ok(answer) => answer.wait_until(deadline),
            Err(error) => Some(Err(error)),
        }
    }
}
