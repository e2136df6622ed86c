//! Aggregates for Rust users: state that is derived from its events, loaded and saved by id.

mod root;
mod variant;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use root::{Root, Save};

use crate::error::{Error, Result};
use crate::event::{Event, StreamKey, Timestamp};
use crate::store::{EventReader, EventStore, ReadStream};
use crate::version::{AggregateVersion, Position};

/// A kind of thing whose state follows from its events alone.
///
/// Its state before the first event is its [`Default`]. Commands are methods that look at the state and return an event or
/// a refusal; [`Root::apply`] takes the event in, [`Root::save`] stores it.
///
/// ```
/// use eventuali::{Aggregate, LogStore, Root};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// enum CourseEvent {
///     Announced { title: String, seats: u32 },
///     SeatTaken { student: String },
/// }
///
/// #[derive(Debug, Default)]
/// struct Course {
///     title: String,
///     seats: u32,
///     students: Vec<String>,
/// }
///
/// impl Aggregate for Course {
///     const TYPE: &'static str = "Course";
///     type Event = CourseEvent;
///
///     fn apply(&mut self, event: CourseEvent) {
///         match event {
///             CourseEvent::Announced { title, seats } => (self.title, self.seats) = (title, seats),
///             CourseEvent::SeatTaken { student } => self.students.push(student),
///         }
///     }
/// }
///
/// impl Course {
///     fn enroll(&self, student: &str) -> Result<CourseEvent, &'static str> {
///         let free = self.students.len() < self.seats as usize;
///         if free { Ok(CourseEvent::SeatTaken { student: student.to_owned() }) } else { Err("the course is full") }
///     }
/// }
///
/// let store = LogStore::memory()?;
/// let mut course = Root::<Course>::with_id("course-7");
/// course.apply(CourseEvent::Announced { title: "Rust".to_owned(), seats: 1 })?;
/// let taken = course.enroll("ann").expect("there is a seat");
/// course.apply(taken)?;
/// let receipt = course.save(&store).wait()?;
/// assert_eq!((receipt.events, course.version().0), (2, 2));
///
/// let course = Root::<Course>::load(&store, "course-7").wait()?;
/// assert_eq!((&*course.title, &course.students[..]), ("Rust", &["ann".to_owned()][..]));
/// assert_eq!(course.enroll("bob"), Err("the course is full"));
/// # Ok::<(), eventuali::Error>(())
/// ```
///
/// In asynchronous code `.await` stands in place of `.wait()`.
pub trait Aggregate: Default {
    /// The aggregate type that its streams are stored with. It names stored data: renaming it makes them another type.
    const TYPE: &'static str;

    /// Its events: an enum with serde's derived representation.
    ///
    /// The variant's name is the event type (`#[serde(rename = "…")]` gives another, `#[serde(alias = "…")]` reads a former
    /// one), its fields are the JSON payload. A variant without fields is stored as `{}`.
    type Event: Serialize + DeserializeOwned;

    /// Takes in what has happened.
    ///
    /// It cannot refuse: the event is a fact, perhaps of years ago. What may be refused belongs in the command that makes
    /// the event.
    fn apply(&mut self, event: Self::Event);
}

/// Up to where an aggregate's events are taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AsOf {
    /// Up to the newest event.
    #[default]
    Latest,
    /// Up to and including this version; a version that is not reached yet is the latest.
    Version(AggregateVersion),
    /// As the whole store was at this position, that one included.
    Position(Position),
    /// Up to the first event that is later than this moment, exclusively: what comes after that one is left out, even where
    /// its timestamp is earlier.
    Time(Timestamp),
}

impl AsOf {
    fn includes(self, event: &Event) -> bool {
        match self {
            Self::Latest => true,
            Self::Version(version) => event.version() <= version,
            Self::Position(position) => event.position() <= position,
            Self::Time(time) => event.timestamp() <= time,
        }
    }
}

impl<A: Aggregate> Root<A> {
    /// Loads an aggregate from its events. An aggregate id stands for itself; a [`StreamKey`] names its tenant, too.
    ///
    /// # Errors
    /// [`AggregateNotFound`](Error::AggregateNotFound) if it has no events, [`AggregateType`](Error::AggregateType) if it is
    /// of another type, [`Deserialization`](Error::Deserialization) with the position of an event that `A` does not know,
    /// and those of reading.
    pub fn load<'a>(store: &dyn EventStore, key: impl Into<StreamKey<'a>>) -> Load<A> {
        Self::load_as_of(store, key, AsOf::Latest)
    }

    /// Loads an aggregate as it once was.
    ///
    /// What is loaded is for looking: saving new events to it conflicts if anything has happened since.
    ///
    /// # Errors
    /// Those of [`Root::load`]; [`AggregateNotFound`](Error::AggregateNotFound) also if it had no events then.
    ///
    /// ```
    /// # use eventuali::{Aggregate, AggregateVersion, AsOf, LogStore, Position, Root};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # enum Step { Taken }
    /// # #[derive(Default)]
    /// # struct Walk { steps: u32 }
    /// # impl Aggregate for Walk {
    /// #     const TYPE: &'static str = "Walk";
    /// #     type Event = Step;
    /// #     fn apply(&mut self, _: Step) { self.steps += 1; }
    /// # }
    /// let store = LogStore::memory()?;
    /// let mut walk = Root::<Walk>::with_id("walk-1");
    /// for _ in 0..5 {
    ///     walk.apply(Step::Taken)?;
    /// }
    /// walk.save(&store).wait()?;
    /// let earlier = Root::<Walk>::load_as_of(&store, "walk-1", AsOf::Version(AggregateVersion(3))).wait()?;
    /// assert_eq!(earlier.steps, 3);
    /// let earlier = Root::<Walk>::load_as_of(&store, "walk-1", AsOf::Position(Position(4))).wait()?;
    /// assert_eq!(earlier.steps, 4);
    /// # Ok::<(), eventuali::Error>(())
    /// ```
    pub fn load_as_of<'a>(store: &dyn EventStore, key: impl Into<StreamKey<'a>>, as_of: AsOf) -> Load<A> {
        let StreamKey { tenant, aggregate_id } = key.into();
        let mut query = ReadStream { tenant: tenant.to_owned(), ..ReadStream::of(aggregate_id) };
        if let AsOf::Version(AggregateVersion(version)) = as_of {
            query.before = version.checked_add(1).map(AggregateVersion);
        }
        Load { root: Some(Root::with_id(StreamKey { tenant, aggregate_id })), reader: store.read(query), as_of }
    }
}

/// An aggregate that is being loaded: await it, or [`wait`](Self::wait) for it.
#[must_use = "nothing is loaded before it is awaited or waited for"]
pub struct Load<A> {
    root: Option<Root<A>>,
    reader: EventReader,
    as_of: AsOf,
}

impl<A: Aggregate> Load<A> {
    /// Blocks until the aggregate is loaded.
    ///
    /// # Errors
    /// Those of [`Root::load`].
    pub fn wait(mut self) -> Result<Root<A>> {
        loop {
            let batch = self.reader.next_batch()?;
            if let Some(root) = self.take_in(batch)? {
                return Ok(root);
            }
        }
    }

    /// Takes in the next events; the aggregate, once there are no more.
    fn take_in(&mut self, batch: Option<Vec<Event>>) -> Result<Option<Root<A>>> {
        let Some(root) = &mut self.root else { panic!("an aggregate was loaded again after it had been loaded") };
        let ended = batch.is_none();
        let batch = batch.unwrap_or_default();
        let included = batch.iter().take_while(|event| self.as_of.includes(event)).count();
        for event in &batch[..included] {
            if event.aggregate_type() != A::TYPE {
                let (stored, requested) = (event.aggregate_type().to_owned(), A::TYPE.to_owned());
                return Err(Error::AggregateType { aggregate_id: root.id().to_owned(), stored, requested });
            }
            root.take_in(event, variant::join(event)?);
        }
        if !ended && included == batch.len() {
            return Ok(None);
        }
        if root.version() == AggregateVersion::NONE {
            return Err(Error::AggregateNotFound { aggregate_id: root.id().to_owned() });
        }
        Ok(self.root.take())
    }
}

/// Nothing in it is ever pinned.
impl<A> Unpin for Load<A> {}

impl<A: Aggregate> Future for Load<A> {
    type Output = Result<Root<A>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        while let Poll::Ready(batch) = self.reader.poll_batch(context) {
            if let Some(root) = self.take_in(batch?)? {
                return Poll::Ready(Ok(root));
            }
        }
        Poll::Pending
    }
}
