//! Reading: events under way, batch by batch.

use std::task::{Context, Poll};

use crate::error::{Error, Result};
use crate::event::Event;

/// Events under way: an iterator, with awaiting twins. Memory stays bounded however many there are, and no lock is held between two calls.
///
/// After an error it ends; an error is never mistaken for the end.
pub struct EventReader {
    source: Box<dyn BatchSource>,
    batch: std::vec::IntoIter<Event>,
    done: bool,
}

/// How a backend delivers the events of an [`EventReader`].
pub trait BatchSource: Send {
    /// The next events; none at the end.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Event>>>;

    /// The next events, blocking until they are there; none at the end.
    ///
    /// # Errors
    /// Those of reading: damage, a closed store.
    fn wait_batch(&mut self) -> Result<Vec<Event>>;
}

struct Failed(Option<Error>);

impl BatchSource for Failed {
    fn poll_batch(&mut self, _context: &mut Context<'_>) -> Poll<Result<Vec<Event>>> {
        Poll::Ready(self.wait_batch())
    }

    fn wait_batch(&mut self) -> Result<Vec<Event>> {
        self.0.take().map_or(Ok(Vec::new()), Err)
    }
}

impl EventReader {
    /// Reads from `source`.
    #[must_use]
    pub fn new(source: impl BatchSource + 'static) -> Self {
        Self { source: Box::new(source), batch: Vec::new().into_iter(), done: false }
    }

    /// Nothing but an error, for a store that cannot be read at all.
    #[must_use]
    pub fn failed(error: Error) -> Self {
        Self::new(Failed(Some(error)))
    }

    /// The next batch as it was read from the store, blocking; `None` at the end. What `next` has begun is finished first.
    ///
    /// # Errors
    /// Those of reading: damage, a closed store.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Event>>> {
        if self.batch.len() > 0 {
            return Ok(Some(std::mem::take(&mut self.batch).collect()));
        }
        if self.done {
            return Ok(None);
        }
        let read = self.source.wait_batch();
        self.note(read)
    }

    /// The awaiting twin of [`EventReader::next_batch`].
    ///
    /// # Errors
    /// Those of reading: damage, a closed store.
    pub fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Vec<Event>>>> {
        if self.batch.len() > 0 {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.batch).collect())));
        }
        if self.done {
            return Poll::Ready(Ok(None));
        }
        self.source.poll_batch(context).map(|read| self.note(read))
    }

    /// The awaiting twin of the iterator's `next`.
    pub async fn next_event(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.batch.next() {
                return Some(Ok(event));
            }
            match std::future::poll_fn(|context| self.poll_batch(context)).await {
                Ok(None) => return None,
                Ok(Some(batch)) => self.batch = batch.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn note(&mut self, read: Result<Vec<Event>>) -> Result<Option<Vec<Event>>> {
        match read {
            Ok(batch) if batch.is_empty() => {
                self.done = true;
                Ok(None)
            }
            Ok(batch) => Ok(Some(batch)),
            Err(error) => {
                self.done = true;
                Err(error)
            }
        }
    }
}

impl Iterator for EventReader {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.batch.next() {
                return Some(Ok(event));
            }
            match self.next_batch() {
                Ok(None) => return None,
                Ok(Some(batch)) => self.batch = batch.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
