//! An aggregate with its id, its version, and the events that are not saved yet.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use uuid::Uuid;

use super::{Aggregate, variant};
use crate::error::{Error, Result};
use crate::event::{Event, EventMetadata, NewEvent, StreamKey, Timestamp};
use crate::store::{AppendBatch, Completion, EventStore, Receipt};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// An aggregate at work: its id, its state, and the events that were applied but not saved yet.
///
/// It dereferences to its state. See [`Aggregate`] for an example.
#[derive(Debug, Clone)]
pub struct Root<A> {
    tenant: String,
    id: String,
    state: A,
    /// The version and position of its last stored event.
    stored: AggregateVersion,
    position: Position,
    pending: Vec<NewEvent>,
    /// How many of the pending events went out in a save whose outcome is unknown: they are sent again as they are.
    in_doubt: usize,
}

impl<A: Aggregate> Root<A> {
    /// A new aggregate with a fresh id (UUID v7 as text). Nothing is stored before its first save.
    #[must_use]
    pub fn new() -> Self {
        Self::with_id(&*Uuid::now_v7().to_string())
    }

    /// A new aggregate with an id of your own. Saving it conflicts if there is one already.
    ///
    /// An aggregate id stands for itself; a [`StreamKey`] names its tenant, too.
    #[must_use]
    pub fn with_id<'a>(key: impl Into<StreamKey<'a>>) -> Self {
        let StreamKey { tenant, aggregate_id } = key.into();
        Self {
            tenant: tenant.to_owned(),
            id: aggregate_id.to_owned(),
            state: A::default(),
            stored: AggregateVersion::NONE,
            position: Position::START,
            pending: Vec::new(),
            in_doubt: 0,
        }
    }

    /// Takes in a new event, to be stored by the next [`save`](Self::save).
    ///
    /// The payload is made first: it is what will be stored, with an id and a timestamp that it keeps however often it is sent.
    ///
    /// # Errors
    /// [`Serialization`](Error::Serialization) if the event cannot be written as JSON or is no enum; then nothing has changed.
    pub fn apply(&mut self, event: A::Event) -> Result<()> {
        self.apply_with(event, EventMetadata::default())
    }

    /// Takes in a new event that carries metadata.
    ///
    /// # Errors
    /// Those of [`Root::apply`].
    pub fn apply_with(&mut self, event: A::Event, metadata: EventMetadata) -> Result<()> {
        let (event_type, data) = variant::split(&event)?;
        self.pending.push(NewEvent { metadata, timestamp: Some(Timestamp::now()), ..NewEvent::new(event_type, data) });
        self.state.apply(event);
        Ok(())
    }

    /// Stores the pending events, all or none, if nobody else has stored events of this aggregate since it was loaded.
    ///
    /// With nothing pending nothing is stored, and the receipt says 0 events.
    ///
    /// It can be abandoned at any point, and repeated after [`OutcomeUnknown`](Error::OutcomeUnknown): the next save first
    /// sends the same events again, which stores them once, then those that were applied since (in an append of their own).
    ///
    /// # Errors
    /// [`Conflict`](Error::Conflict): load it again, decide again. Those of [`EventStore::append`]. After an error the events
    /// are pending still.
    pub fn save<'a>(&'a mut self, store: &'a dyn EventStore) -> Save<'a, A> {
        Save { root: self, store, under_way: None, saved: None }
    }

    pub(super) fn take_in(&mut self, stored: &Event, event: A::Event) {
        self.state.apply(event);
        (self.stored, self.position) = (stored.version(), stored.position());
    }
}

impl<A: Aggregate> Default for Root<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Root<A> {
    /// The aggregate's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The tenant it belongs to; empty if tenants are not used.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Its version, the pending events included.
    #[must_use]
    pub fn version(&self) -> AggregateVersion {
        AggregateVersion(self.stored.0 + self.pending.len() as u64)
    }

    /// The position of its last stored event; 0 if it has none.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The events that are not saved yet, oldest first.
    #[must_use]
    pub fn pending(&self) -> &[NewEvent] {
        &self.pending
    }

    /// Its state, without id and version.
    #[must_use]
    pub fn into_state(self) -> A {
        self.state
    }
}

impl<A> Deref for Root<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.state
    }
}

/// A save under way: await it, or [`wait`](Self::wait) for it.
#[must_use = "nothing is saved before it is awaited or waited for"]
pub struct Save<'a, A> {
    root: &'a mut Root<A>,
    store: &'a dyn EventStore,
    under_way: Option<Sent>,
    /// What was saved before what is under way.
    saved: Option<Receipt>,
}

/// An append of the first pending events.
struct Sent {
    events: usize,
    append: Completion<Vec<Receipt>>,
    /// Whether these events may be stored already.
    again: bool,
}

impl<A: Aggregate> Save<'_, A> {
    /// Blocks until the events are stored, as durably as the store promises.
    ///
    /// # Errors
    /// Those of [`Root::save`].
    pub fn wait(mut self) -> Result<Receipt> {
        loop {
            let sent = self.send();
            let answer = loop {
                if let Some(answer) = sent.append.wait_until(None) {
                    break answer;
                }
            };
            if let Some(receipt) = self.note(answer)? {
                return Ok(receipt);
            }
        }
    }

    /// The append that is under way, or the next one, which is in doubt from now until it has answered.
    fn send(&mut self) -> &mut Sent {
        self.under_way.get_or_insert_with(|| {
            let root = &mut *self.root;
            let again = root.in_doubt > 0;
            if !again {
                root.in_doubt = root.pending.len();
            }
            let events = root.pending[..root.in_doubt].to_vec();
            // With nothing to store there is nothing to expect, only a receipt to get.
            let expected = if events.is_empty() { ExpectedVersion::Any } else { ExpectedVersion::Exact(root.stored) };
            let batch = AppendBatch::one(&*root.id, A::TYPE, expected, events).for_tenant(&*root.tenant);
            Sent { events: root.in_doubt, append: self.store.append(batch), again }
        })
    }

    /// Takes in the answer to what was sent; the receipt, unless there is more to send.
    fn note(&mut self, answer: Result<Vec<Receipt>>) -> Result<Option<Receipt>> {
        let Some(sent) = self.under_way.take() else { return Ok(None) };
        let root = &mut *self.root;
        let receipt = match answer {
            Ok(mut receipts) => receipts.swap_remove(0),
            Err(error) => {
                if is_verdict(&error) || !(sent.again || matches!(error, Error::OutcomeUnknown { .. })) {
                    root.in_doubt = 0;
                }
                return Err(error);
            }
        };
        root.in_doubt = 0;
        root.pending.drain(..sent.events);
        if sent.events > 0 {
            (root.stored, root.position) = (receipt.version, receipt.position);
        }
        let before = self.saved.take().map_or(0, |saved| saved.events);
        let receipt = Receipt { events: receipt.events + before, ..receipt };
        if root.pending.is_empty() {
            return Ok(Some(receipt));
        }
        self.saved = Some(receipt);
        Ok(None)
    }
}

/// Whether an error proves that the events are not stored, also where they were sent before: the ids are looked at first.
fn is_verdict(error: &Error) -> bool {
    matches!(error, Error::Conflict { .. } | Error::AggregateType { .. } | Error::EventIdConflict { .. })
}

impl<A: Aggregate> Future for Save<'_, A> {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match Pin::new(&mut self.send().append).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(answer) => {
                    if let Some(receipt) = self.note(answer)? {
                        return Poll::Ready(Ok(receipt));
                    }
                }
            }
        }
    }
}
