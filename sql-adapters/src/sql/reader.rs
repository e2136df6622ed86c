//! Reading page by page: each page is one query, and nothing is held between two of them.

use std::sync::Arc;
use std::task::{Context, Poll};

use eventuali::{BatchSource, Error, Event, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::database::{Database, Found, PAGE_BYTES, PAGE_EVENTS, Page};
use super::remote::{Answer, Remote, Within};

/// Keeps appends behind the readers that were begun before them: a reader ends at the head of its beginning.
#[derive(Default)]
pub(crate) struct Gate {
    begun: Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Gate {
    /// A reader begins; it is through when the sender is dropped.
    fn enter(&self) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        let mut begun = self.begun.lock();
        // Without appends nobody else would clear it.
        begun.retain_mut(|other| matches!(other.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        begun.push(receiver);
        sender
    }

    /// Waits until every reader that has begun is through.
    pub(crate) async fn wait(&self) {
        let begun = std::mem::take(&mut *self.begun.lock());
        for reader in begun {
            // Being through is dropping the sender.
            let _ = reader.await;
        }
    }
}

/// Reads the events of a query.
pub(crate) struct Reader<D> {
    database: Arc<Within<D>>,
    begin: tokio::runtime::Handle,
    process: u32,
    page: Page,
    /// How many events are still wanted.
    limit: u64,
    next: Option<Answer<Found>>,
}

impl<D: Database> Reader<D> {
    /// Begins with the first page at once: what is appended from now on is not seen.
    pub(crate) fn new(database: Arc<Within<D>>, remote: &Remote, gate: &Gate, page: Page, limit: u64) -> Self {
        let mut reader = Self { database, begin: remote.handle(), process: std::process::id(), page, limit, next: None };
        reader.ask(Some(gate.enter()));
        reader
    }

    fn ask(&mut self, through: Option<oneshot::Sender<()>>) {
        if self.page.is_empty() {
            return;
        }
        let (database, page) = (Arc::clone(&self.database), self.page.clone());
        let (sender, receiver) = oneshot::channel();
        self.begin.spawn(async move {
            let answer = database.page(&page).await;
            drop(through);
            // Nobody reads any more.
            let _ = sender.send(answer);
        });
        self.next = Some(Answer::new(receiver));
    }

    /// Takes a page, and asks for the one behind it.
    fn take(&mut self, answer: Result<Found>) -> Result<Vec<Event>> {
        self.next = None;
        let Found { events, head, full } = answer?;
        let Some(last) = events.last().filter(|_| full) else { return Ok(events) };
        self.page.head = self.page.head.min(head);
        let last = self.page.place(last);
        if self.page.backwards {
            self.page.to = last - 1;
        } else {
            self.page.from = last + 1;
        }
        self.limit -= events.len() as u64;
        let bytes: usize = events.iter().map(|event| event.payload().len() + 256).sum();
        let fitting = (PAGE_BYTES * events.len() / bytes.max(1)) as u64;
        self.page.limit = self.limit.min(fitting.clamp(1, PAGE_EVENTS));
        self.ask(None);
        Ok(events)
    }

    fn check_process(&self) -> Result<()> {
        if self.process == std::process::id() { Ok(()) } else { Err(Error::ForkedProcess) }
    }
}

impl<D: Database> BatchSource for Reader<D> {
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Event>>> {
        self.check_process()?;
        let Some(next) = &mut self.next else { return Poll::Ready(Ok(Vec::new())) };
        next.poll(context).map(|answer| self.take(answer))
    }

    fn wait_batch(&mut self) -> Result<Vec<Event>> {
        self.check_process()?;
        loop {
            let Some(next) = &mut self.next else { return Ok(Vec::new()) };
            if let Some(answer) = next.wait_until(None) {
                return self.take(answer);
            }
        }
    }
}
