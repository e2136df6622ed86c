//! The writer of a store: appends that wait together are committed together, each with its own verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Error, Position, Receipt, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::database::{Database, Failure};
use super::reader::Gate;
use super::remote::Within;

/// A group has at most so many appends, so many events and so many bytes of payload, but for a single append that is larger.
const GROUP_APPENDS: usize = 1024;
const GROUP_EVENTS: usize = 8192;
const GROUP_BYTES: usize = 16 << 20;

/// How long a group waits at most for the company that the last one had.
const PATIENCE_FOR_COMPANY: Duration = Duration::from_millis(1);

/// The pauses between attempts double from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long a group is tried again while the database is not available. To learn what became of a commit it is tried for as long as
/// the store waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to be done in the order of the store.
pub(crate) enum Request {
    Append { batch: AppendBatch, answer: oneshot::Sender<Result<Vec<Receipt>>> },
    Sync { answer: oneshot::Sender<Result<Position>> },
    Close { answer: oneshot::Sender<Result<()>> },
}

struct Append {
    batch: AppendBatch,
    answer: oneshot::Sender<Result<Vec<Receipt>>>,
}

/// Serves requests until the store is closed or its last handle is gone.
pub(crate) async fn write<D: Database>(
    database: Arc<Within<D>>,
    mut requests: mpsc::UnboundedReceiver<Request>,
    gate: Arc<Gate>,
    synced: Arc<AtomicU64>,
) {
    let mut next = requests.recv().await;
    let mut last = Company::default();
    while let Some(request) = next.take() {
        match request {
            Request::Append { batch, answer } => {
                last.wait(&requests).await;
                let (group, behind) = gather(Append { batch, answer }, &mut requests);
                // Readers that were begun before these appends do not see them.
                gate.wait().await;
                let (start, appends) = (Instant::now(), group.len());
                commit(&**database, group).await;
                last = Company { appends, took: start.elapsed() };
                next = behind;
            }
            // An answer that nobody waits for any more is dropped, here and below.
            Request::Sync { answer } => {
                let head = database.sync().await;
                if let Ok(head) = head {
                    synced.fetch_max(head, Ordering::AcqRel);
                }
                let _ = answer.send(head.map(Position));
            }
            Request::Close { answer } => {
                database.close().await;
                let _ = answer.send(Ok(()));
                return;
            }
        }
        if next.is_none() {
            next = requests.recv().await;
        }
    }
}

/// The last group: those whose appends it held are likely to append again at once.
#[derive(Default)]
struct Company {
    appends: usize,
    took: Duration,
}

impl Company {
    /// Waits a moment for as many appends as the last group had, the first of which is there.
    async fn wait(&self, requests: &mpsc::UnboundedReceiver<Request>) {
        // Without its company it would be a transaction of its own, and the company would wait for that as long.
        let (start, patience) = (Instant::now(), self.took.min(PATIENCE_FOR_COMPANY));
        while requests.len() + 1 < self.appends && start.elapsed() < patience {
            thread::yield_now();
            yield_now().await;
        }
    }
}

/// The appends that wait behind the first one, and the request behind those.
fn gather(first: Append, requests: &mut mpsc::UnboundedReceiver<Request>) -> (Vec<Append>, Option<Request>) {
    let size = |batch: &AppendBatch| {
        let events = batch.streams.iter().flat_map(|stream| &stream.events);
        events.fold((0, 0), |(count, bytes), event| (count + 1, bytes + event.data.as_bytes().len()))
    };
    let (mut events, mut bytes) = size(&first.batch);
    let mut group = vec![first];
    while group.len() < GROUP_APPENDS {
        match requests.try_recv() {
            Ok(Request::Append { batch, answer }) => {
                let (more_events, more_bytes) = size(&batch);
                (events, bytes) = (events + more_events, bytes + more_bytes);
                if events > GROUP_EVENTS || bytes > GROUP_BYTES {
                    return (group, Some(Request::Append { batch, answer }));
                }
                group.push(Append { batch, answer });
            }
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

/// Commits a group, or says to each of its appends what became of it.
async fn commit<D: Database>(database: &D, group: Vec<Append>) {
    let mut groups = vec![group];
    while let Some(mut group) = groups.pop() {
        let batches: Vec<&AppendBatch> = group.iter().map(|append| &append.batch).collect();
        match attempt(database, &batches).await {
            Ok(answers) => tell(group.into_iter().zip(answers)),
            // One of them cannot be stored: the others can do without it.
            Err(Ended::Refused(_)) if group.len() > 1 => {
                let second = group.split_off(group.len() / 2);
                groups.extend([second, group]);
            }
            Err(Ended::Refused(error) | Ended::NotStored(error)) => tell(group.into_iter().map(|append| (append, Err(error.clone())))),
            Err(Ended::Unknown(cause)) => tell(group.into_iter().map(|append| (append, Err(Error::OutcomeUnknown { cause: cause.clone() })))),
        }
    }
}

fn tell(answers: impl Iterator<Item = (Append, Result<Vec<Receipt>>)>) {
    for (append, answer) in answers {
        // Nobody may wait for it any more.
        let _ = append.answer.send(answer);
    }
}

enum Ended {
    Refused(Error),
    NotStored(Error),
    Unknown(String),
}

/// Tries until there is an answer or patience ends. A commit whose answer was lost is simply tried again: the transaction waits
/// for the one that may still be committing, and finds the events that it stored by their ids.
async fn attempt<D: Database>(database: &D, batches: &[&AppendBatch]) -> Result<Vec<Result<Vec<Receipt>>>, Ended> {
    let start = Instant::now();
    let mut pause = PAUSES.0;
    let mut doubt: Option<String> = None;
    loop {
        let error = match database.append(batches).await {
            Ok(answers) => return Ok(answers),
            Err(Failure::Refused(error) | Failure::All(error)) if doubt.is_some() => {
                return Err(Ended::Unknown(format!("{}; and then {}", doubt.unwrap_or_default(), cause(&error))));
            }
            Err(Failure::Refused(error)) => return Err(Ended::Refused(error)),
            Err(Failure::All(error)) => return Err(Ended::NotStored(error)),
            Err(Failure::Passing(error)) => error,
            Err(Failure::InDoubt(error)) => {
                doubt.get_or_insert_with(|| cause(&error));
                error
            }
        };
        let patience = if doubt.is_some() { database.patience() } else { PATIENCE.min(database.patience()) };
        if start.elapsed() + pause > patience || matches!(error, Error::Closed) {
            return Err(doubt.map_or(Ended::NotStored(error), Ended::Unknown));
        }
        tracing::warn!(%error, "an append is tried again");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// What happened, without the promise of other appends that nothing was stored.
fn cause(error: &Error) -> String {
    match error {
        Error::Unavailable { store, reason, .. } => format!("{store} did not answer: {reason}"),
        Error::Database { store, message, .. } => format!("{store} said: {message}"),
        other => other.to_string(),
    }
}
