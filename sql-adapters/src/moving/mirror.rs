//! A mirror: an export that stays.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use eventuali::{Error, EventStore, Position, Result};
use parking_lot::{Condvar, Mutex};

use super::export::move_events;
use super::source::StoreSource;
use crate::config::Store;

/// How often the source is asked for new events.
const INTERVAL: Duration = Duration::from_millis(50);

/// How far a mirror has come.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct MirrorStatus {
    /// The last position of the target.
    pub position: Position,
    /// How many events this mirror has moved.
    pub events: u64,
    /// Why it waits, if one of the stores is not available.
    pub waiting: Option<Error>,
}

/// Follows a store: whatever becomes durable in the source is moved to the target soon after, for as long as this lives.
///
/// It survives restarts of a server on either side. A mirror that was stopped, with its process or without, goes on where it
/// was when it is started again.
pub struct Mirror {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    stopping: Condvar,
}

#[derive(Default)]
struct State {
    status: MirrorStatus,
    stop: bool,
}

impl Mirror {
    /// Begins to follow `source`.
    ///
    /// # Errors
    /// Those of [`export`](super::export()).
    pub fn start(source: Arc<dyn EventStore>, target: Store) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        // What is there already is moved by the thread: the target is only looked at here.
        let first = move_events(&mut StoreSource::following(&*source), &target, |_| ControlFlow::Break(()))?;
        shared.state.lock().status = MirrorStatus { position: first.position, events: first.events, waiting: None };
        let follower = Arc::clone(&shared);
        let thread = thread::Builder::new().name("eventuali-mirror".to_owned()).spawn(move || follow(&*source, &target, &follower));
        let thread = thread.map_err(|error| Error::configuration(format!("the mirror's thread cannot be started: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How far it has come.
    #[must_use]
    pub fn status(&self) -> MirrorStatus {
        self.shared.state.lock().status.clone()
    }

    /// Whether it goes on; if not, [`Mirror::stop`] tells why.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends it when the transaction that is under way is through.
    ///
    /// # Errors
    /// What ended it before it was stopped: [`Diverged`](Error::Diverged), damage, a refused statement.
    pub fn stop(mut self) -> Result<MirrorStatus> {
        self.end()?;
        Ok(self.status())
    }

    fn end(&mut self) -> Result<()> {
        self.shared.state.lock().stop = true;
        self.shared.stopping.notify_all();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // What ended it before is told by `stop`.
        let _ = self.end();
    }
}

fn follow(source: &dyn EventStore, target: &Store, shared: &Shared) -> Result<()> {
    let events_before = shared.state.lock().status.events;
    let mut moved_before = events_before;
    loop {
        let moved = move_events(&mut StoreSource::following(source), target, |progress| {
            let mut state = shared.state.lock();
            state.status = MirrorStatus { position: Position(progress.position), events: moved_before + progress.events, waiting: None };
            if state.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut state = shared.state.lock();
        match moved {
            Ok(moved) => {
                moved_before += moved.events;
                state.status = MirrorStatus { position: moved.position, events: moved_before, waiting: None };
            }
            Err(error @ (Error::Unavailable { .. } | Error::OutcomeUnknown { .. })) => state.status.waiting = Some(error),
            Err(error) => return Err(error),
        }
        if !state.stop {
            shared.stopping.wait_for(&mut state, INTERVAL);
        }
        if state.stop {
            return Ok(());
        }
    }
}
