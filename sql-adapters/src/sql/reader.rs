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
    /// How many events are still wanted.
    limit: u64,
    next: Option<Answer<Step>>,
}

/// A page that was read, and what is left of the query behind it.
struct Step {
    events: Vec<Event>,
    rest: Option<Page>,
}

impl<D: Database> Reader<D> {
    /// Begins with the first page at once: what is appended from now on is not seen.
    pub(crate) fn new(database: Arc<Within<D>>, remote: &Remote, gate: &Gate, page: Page, limit: u64) -> Self {
        let mut reader = Self { database, begin: remote.handle(), process: std::process::id(), limit, next: None };
        reader.ask(page, Some(gate.enter()));
        reader
    }

    fn ask(&mut self, page: Page, through: Option<oneshot::Sender<()>>) {
        if page.is_empty() {
            return;
        }
        let database = Arc::clone(&self.database);
        let (sender, receiver) = oneshot::channel();
        self.begin.spawn(async move {
            // Nobody may read any more.
            let _ = sender.send(read(&**database, page, through).await);
        });
        self.next = Some(Answer::new(receiver));
    }

    /// Takes a page, and asks for the one behind it.
    fn take(&mut self, answer: Result<Step>) -> Result<Vec<Event>> {
        self.next = None;
        let Step { events, rest } = answer?;
        self.limit -= events.len() as u64;
        if let Some(mut page) = rest {
            let bytes: usize = events.iter().map(|event| event.payload().len() + 256).sum();
            let fitting = (PAGE_BYTES * events.len() / bytes.max(1)) as u64;
            page.limit = self.limit.min(fitting.clamp(1, PAGE_EVENTS));
            self.ask(page, None);
        }
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

/// Reads the next events of a query: none only if there are none. `through` is dropped as soon as it is known where the query ends,
/// because appends wait for that.
async fn read<D: Database>(database: &D, mut page: Page, mut through: Option<oneshot::Sender<()>>) -> Result<Step> {
    if through.is_some() && page.is_filtered() {
        // To find a page of such events may take long.
        page.end_at(database.head().await?);
        through = None;
    }
    while !page.is_empty() {
        let window = page.window();
        let Found { events, head, full } = database.page(&window).await?;
        drop(through.take());
        match events.last() {
            Some(last) if full => {
                page.end_at(head);
                page.go_behind(page.place(last));
            }
            _ => page.go_behind(if page.backwards { window.from } else { window.to }),
        }
        if !events.is_empty() {
            return Ok(Step { events, rest: Some(page).filter(|page| !page.is_empty()) });
        }
    }
    Ok(Step { events: Vec::new(), rest: None })
}
