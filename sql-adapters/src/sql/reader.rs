//! Reading page by page: each page is one query, and nothing is held between two of them.

use std::sync::Arc;
use std::task::{Context, Poll};

use eventuali::{BatchSource, Error, Event, Result};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::database::{Database, Page};
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
pub(crate) struct Reader<D: Database> {
    database: Arc<Within<D>>,
    begin: Handle,
    process: u32,
    next: Option<Answer<Step<D>>>,
}

/// A page that was read, and what is left of the query behind it.
struct Step<D: Database> {
    events: Vec<Event>,
    rest: Option<Page>,
    ahead: Option<Fetch<D>>,
}

impl<D: Database> Reader<D> {
    /// Begins with the first page at once: what is appended from now on is not seen.
    pub(crate) fn new(database: Arc<Within<D>>, remote: &Remote, gate: &Gate, page: Page) -> Self {
        let mut reader = Self { database, begin: remote.handle(), process: std::process::id(), next: None };
        if !page.is_empty() {
            reader.ask(page, None, Some(gate.enter()));
        }
        reader
    }

    fn ask(&mut self, page: Page, ahead: Option<Fetch<D>>, through: Option<oneshot::Sender<()>>) {
        let database = Arc::clone(&self.database);
        let (sender, receiver) = oneshot::channel();
        self.begin.spawn(async move {
            // Nobody may read any more.
            let _ = sender.send(read(&database, page, ahead, through).await);
        });
        self.next = Some(Answer::new(receiver));
    }

    /// Takes a page, and asks for the one behind it.
    fn take(&mut self, answer: Result<Step<D>>) -> Result<Vec<Event>> {
        self.next = None;
        let Step { events, rest, ahead } = answer?;
        if let Some(page) = rest {
            self.ask(page, ahead, None);
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

/// A page that is on its way while the events of the one before it are made.
struct Fetch<D: Database> {
    page: Page,
    /// `None` only while it is dropped, or awaited.
    raw: Option<JoinHandle<Result<D::Raw>>>,
    process: u32,
}

impl<D: Database> Fetch<D> {
    fn begin(database: &Arc<Within<D>>, page: Page) -> Self {
        let (database, window) = (Arc::clone(database), page.window());
        Self { page, raw: Some(tokio::spawn(async move { database.page(&window).await })), process: std::process::id() }
    }

    async fn raw(mut self) -> Result<D::Raw> {
        // It fails only where the store's runtime ends.
        match self.raw.take() {
            Some(raw) => raw.await.unwrap_or(Err(Error::Closed)),
            None => Err(Error::Closed),
        }
    }
}

impl<D: Database> Drop for Fetch<D> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // What the database made must not be touched in a forked child.
            std::mem::forget(self.raw.take());
        }
    }
}

/// Reads the next events of a query: none only if there are none. `through` is dropped as soon as it is known where the query ends,
/// because appends wait for that.
async fn read<D: Database>(
    database: &Arc<Within<D>>,
    mut page: Page,
    mut ahead: Option<Fetch<D>>,
    mut through: Option<oneshot::Sender<()>>,
) -> Result<Step<D>> {
    if through.is_some() && page.is_filtered() {
        // To find a page of such events may take long.
        page.end_at(database.head().await?);
        through = None;
    }
    loop {
        let window = page.window();
        let raw = match ahead.take() {
            Some(fetch) => fetch.raw().await?,
            None => database.page(&window).await?,
        };
        drop(through.take());
        let guess = D::outline(&window, &raw).and_then(|outline| page.clone().behind(&window, &outline, D::PAGE_EVENTS_MAX));
        ahead = guess.map(|page| Fetch::begin(database, page));
        let found = database.found(&window, raw)?;
        let rest = page.behind(&window, &found.outline(&window), D::PAGE_EVENTS_MAX);
        ahead = ahead.filter(|fetch| rest.as_ref() == Some(&fetch.page));
        page = match rest {
            Some(rest) if found.events.is_empty() => rest,
            rest => return Ok(Step { events: found.events, rest, ahead }),
        };
    }
}
