//! What a completion of the store carries out: a task of the writer, or closing.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use super::Handle;
use super::append::{Answer, Control, Deciding, Request};
use crate::error::{Error, Result};
use crate::log::ticket::Ticket;
use crate::log::writer::{Submitted, Task, Writer};
use crate::store::{AppendBatch, Durability, Operation};

/// What a task is before it is handed in.
pub(super) enum Fresh {
    Append(AppendBatch),
    /// Tenant and aggregate id, and what is to become of the aggregate.
    Control(String, String, Box<Control>),
    Barrier,
}

pub(super) enum TaskState {
    Fresh(Fresh),
    Waiting(Arc<Ticket<Result<Answer>>>),
    Done,
}

/// A task of the writer as a future and a blocking call.
pub(super) struct TaskOperation<T> {
    pub(super) writer: Arc<Writer<Deciding>>,
    pub(super) durability: Durability,
    pub(super) state: TaskState,
    pub(super) extract: fn(Answer) -> Option<T>,
}

impl<T> TaskOperation<T> {
    fn answer(&mut self, answer: Result<Answer>) -> Result<T> {
        self.state = TaskState::Done;
        answer.and_then(|answer| (self.extract)(answer).ok_or_else(|| Error::configuration("the writer answered another question")))
    }

    /// Hands the task in, if that was not done yet.
    fn start(&mut self, blocking: bool) -> Option<Result<Answer>> {
        let TaskState::Fresh(fresh) = std::mem::replace(&mut self.state, TaskState::Done) else { return None };
        let task = match fresh {
            Fresh::Barrier => Task::Barrier,
            Fresh::Append(batch) => match Request::new(batch, self.durability) {
                Ok(request) => Task::Append(request),
                Err(error) => return Some(Err(error)),
            },
            Fresh::Control(tenant, aggregate_id, control) => match Request::control(tenant, aggregate_id, control, self.durability) {
                Ok(request) => Task::Append(request),
                Err(error) => return Some(Err(error)),
            },
        };
        match self.writer.submit(task, blocking) {
            Submitted::Answered(answer) => Some(answer),
            Submitted::Ticket(ticket) => {
                self.state = TaskState::Waiting(ticket);
                None
            }
        }
    }
}

impl<T: Send> Operation<T> for TaskOperation<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T>> {
        if self.writer.is_of_parent() {
            return Poll::Ready(Err(Error::ForkedProcess));
        }
        if matches!(self.state, TaskState::Fresh(_))
            && let Some(answer) = self.start(false)
        {
            return Poll::Ready(self.answer(answer));
        }
        match &self.state {
            TaskState::Waiting(ticket) => match ticket.poll(context) {
                Poll::Ready(answer) => Poll::Ready(self.answer(answer)),
                Poll::Pending => Poll::Pending,
            },
            TaskState::Fresh(_) | TaskState::Done => Poll::Ready(Err(Error::configuration("a completion was used again after it had answered"))),
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Option<Result<T>> {
        if self.writer.is_of_parent() {
            return Some(Err(Error::ForkedProcess));
        }
        if matches!(self.state, TaskState::Fresh(_))
            && let Some(answer) = self.start(true)
        {
            return Some(self.answer(answer));
        }
        match &self.state {
            TaskState::Waiting(ticket) => {
                let answer = self.writer.wait(ticket, deadline)?;
                Some(self.answer(answer))
            }
            TaskState::Fresh(_) | TaskState::Done => Some(Err(Error::configuration("a completion was used again after it had answered"))),
        }
    }
}

impl<T> Drop for TaskOperation<T> {
    fn drop(&mut self) {
        if let TaskState::Waiting(ticket) = &self.state {
            self.writer.abandon(ticket);
        }
    }
}

/// Closing as a future and a blocking call. It waits for the disk, so a task leaves it to a thread.
pub(super) struct CloseOperation {
    pub(super) handle: Handle,
    pub(super) ticket: Option<Arc<Ticket<Result<()>>>>,
}

impl Operation<()> for CloseOperation {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(ticket) = self.ticket.as_ref().filter(|_| !self.handle.inner.writer.is_of_parent()) {
            return ticket.poll(context);
        }
        if !self.handle.inner.persistent || self.handle.inner.writer.is_of_parent() {
            return Poll::Ready(self.handle.release());
        }
        let ticket = Ticket::new(false);
        let (handle, answer) = (self.handle.clone(), Arc::clone(&ticket));
        let closing = thread::Builder::new().name("eventuali-close".to_owned()).spawn(move || {
            if let Some(waker) = answer.answer(handle.release()) {
                waker.wake();
            }
        });
        match closing {
            Ok(_) => {
                let poll = ticket.poll(context);
                self.ticket = Some(ticket);
                poll
            }
            // Without a thread it is still closed, at the price of a wait.
            Err(_) => Poll::Ready(self.handle.release()),
        }
    }

    fn wait(&mut self, _deadline: Option<Instant>) -> Option<Result<()>> {
        Some(self.handle.release())
    }
}
