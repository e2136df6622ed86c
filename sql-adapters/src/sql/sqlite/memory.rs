//! What the writer knows of the database behind its own last commit: as long as nobody else has written to the file, it need not ask
//! before it commits again.

use std::borrow::Cow;
use std::collections::HashMap;

use eventuali::{AppendBatch, Durability, Timestamp};
use foldhash::fast::RandomState;

use crate::sql::database::{signed, unsigned};
use crate::sql::decide::{Decided, Known, Row, Stream, decide};

/// So many streams are remembered at most, with so many bytes of names. Then all are forgotten: who appends to more streams than these
/// would hardly ever find all of a group's among them.
const STREAMS: usize = 1 << 16;
const NAME_BYTES: usize = 8 << 20;

/// How the state stood behind a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stood {
    pub(super) head: i64,
    pub(super) epoch: i64,
    pub(super) last_commit: i64,
    /// Another number as soon as anybody else commits to the file, whatever it is.
    pub(super) data_version: i64,
}

/// What is remembered.
pub(super) struct Memory {
    pub(super) stood: Stood,
    /// By tenant and aggregate id.
    streams: HashMap<String, HashMap<String, Remembered, RandomState>, RandomState>,
    count: usize,
    bytes: usize,
}

struct Remembered {
    aggregate_type: String,
    version: u64,
}

impl Memory {
    /// How things stand, with no stream.
    pub(super) fn new(stood: Stood) -> Self {
        Self { stood, streams: HashMap::default(), count: 0, bytes: 0 }
    }

    /// Whether it is still what the database says.
    pub(super) fn is_of(&self, head: i64, data_version: i64) -> bool {
        (self.stood.head, self.stood.data_version) == (head, data_version)
    }

    /// Decides appends whose streams are all remembered and that are all to be stored. To anything else the database must answer: a
    /// conflict, a repetition, or an append with nothing to store.
    pub(super) fn decide<'a>(&self, batches: &[&'a AppendBatch], now: Timestamp, durability: Durability) -> Option<Decided<'a>> {
        let mut known = Known::new(unsigned(self.stood.head), now);
        known.streams.reserve(batches.len());
        let mut events = 0;
        for batch in batches {
            let streams = self.streams.get(&batch.tenant)?;
            for append in &batch.streams {
                let stream = streams.get(&append.aggregate_id).filter(|stream| stream.aggregate_type == append.aggregate_type)?;
                let stream = Stream { aggregate_type: Cow::Borrowed(&*append.aggregate_type), version: stream.version, deleted: false };
                known.streams.insert((&*batch.tenant, &*append.aggregate_id), stream);
                events += append.events.len();
            }
        }
        let decided = decide(known, batches.iter().copied(), durability, |_, _| false);
        (events > 0 && decided.rows.len() == events && decided.answers.iter().all(Result::is_ok)).then_some(decided)
    }

    /// Takes in rows that were committed.
    pub(super) fn learn(&mut self, rows: &[Row<'_>], now: Timestamp) {
        for row in rows {
            if let Some(stream) = self.streams.get_mut(row.tenant).and_then(|streams| streams.get_mut(row.aggregate_id)) {
                stream.version = row.version;
            } else {
                self.add(row);
            }
            self.stood.head = signed(row.position);
        }
        self.stood.last_commit = now.0;
    }

    fn add(&mut self, row: &Row<'_>) {
        let bytes = row.tenant.len() + row.aggregate_id.len() + row.aggregate_type.len();
        if self.count == STREAMS || self.bytes + bytes > NAME_BYTES {
            *self = Self::new(self.stood);
        }
        (self.count, self.bytes) = (self.count + 1, self.bytes + bytes);
        let remembered = Remembered { aggregate_type: row.aggregate_type.to_owned(), version: row.version };
        self.streams.entry(row.tenant.to_owned()).or_default().insert(row.aggregate_id.to_owned(), remembered);
    }
}
