use std::fs;

use eventuali::{AggregateVersion, Event, ExpectedVersion, NewEvent, Position, ReadAll};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqlitePool};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::moving::Origin;
use crate::options::{Missing, SqlOptions};
use crate::sql::database::{Database, Page};
use crate::sql::sqlite::SqliteFile;

/// A store, and whatever else has its file open.
struct Stores {
    runtime: Runtime,
    folder: TempDir,
    ours: Sqlite,
    other: Sqlite,
}

/// What memory alone made of an append.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    NothingRemembered,
    Unknown,
    Refused,
    StoredAt(u64, u64),
}

fn event() -> NewEvent {
    NewEvent::json("Happened", &1).expect("an event")
}

fn append(aggregate_id: &str, expected: ExpectedVersion, events: Vec<NewEvent>) -> AppendBatch {
    AppendBatch::one(aggregate_id, "Thing", expected, events)
}

fn one(aggregate_id: &str) -> AppendBatch {
    append(aggregate_id, ExpectedVersion::Any, vec![event()])
}

impl Stores {
    /// Where the stream `a` has two events, and memory holds them.
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let file = SqliteFile::File(folder.path().join("events.db"));
        let options = SqlOptions::default();
        let ours = runtime.block_on(Sqlite::open(file.clone(), &options, Missing::Create)).expect("it opens");
        let other = runtime.block_on(Sqlite::open(file, &options, Missing::Create)).expect("it opens");
        let stores = Self { runtime, folder, ours, other };
        assert_eq!(stores.by_memory(&one("a")), Outcome::NothingRemembered);
        assert_eq!(stores.append(&one("a")), (1, 1));
        assert_eq!(stores.by_memory(&one("a")), Outcome::StoredAt(2, 2), "what was committed is known");
        stores
    }

    fn by_memory(&self, batch: &AppendBatch) -> Outcome {
        self.runtime.block_on(async {
            let Some(mut memory) = self.ours.memory.lock().take() else { return Outcome::NothingRemembered };
            let Ok(mut connection) = self.ours.connection().await else { panic!("there is a connection") };
            let Ok(outcome) = self.ours.store_from_memory(&mut connection, &mut memory, &[batch]).await else { panic!("{batch:?}: no doubt") };
            let outcome = match outcome {
                FromMemory::Stored(mut answers) => {
                    let receipts = answers.remove(0).expect("memory gives no refusals");
                    Outcome::StoredAt(receipts[0].position.0, receipts[0].version.0)
                }
                FromMemory::Unknown => Outcome::Unknown,
                FromMemory::Refused => return Outcome::Refused,
            };
            *self.ours.memory.lock() = Some(memory);
            outcome
        })
    }

    fn answer_of(&self, store: &Sqlite, batch: &AppendBatch) -> Result<(u64, u64)> {
        let mut answers = self.runtime.block_on(store.append(&[batch])).map_err(Failure::error)?;
        answers.remove(0).map(|receipts| (receipts[0].position.0, receipts[0].version.0))
    }

    fn append(&self, batch: &AppendBatch) -> (u64, u64) {
        self.answer_of(&self.ours, batch).expect("stored")
    }

    fn append_elsewhere(&self, batch: &AppendBatch) -> (u64, u64) {
        self.answer_of(&self.other, batch).expect("stored")
    }

    fn by_hand(&self, statements: &'static str) {
        self.runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(self.folder.path().join("events.db"));
            let mut connection = options.connect().await.expect("a connection");
            sqlx::raw_sql(statements).execute(&mut connection).await.expect(statements);
            connection.close().await.expect("closed");
        });
    }

    fn everything(&self) -> Vec<Event> {
        let page = Page::all(ReadAll::new());
        let raw = self.runtime.block_on(self.other.page(&page)).expect("it can be read");
        self.other.found(&page, raw).expect("events can be made of it").events
    }

    /// The next append is refused to memory, answered by the database, and then known again.
    #[track_caller]
    fn assert_forgets_and_learns_again(&self, what: &str, aggregate_id: &str) {
        assert_eq!(self.by_memory(&one(aggregate_id)), Outcome::Refused, "{what}");
        let (position, version) = self.append(&one(aggregate_id));
        assert_eq!(self.by_memory(&one(aggregate_id)), Outcome::StoredAt(position + 1, version + 1), "{what}");
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            self.ours.close().await;
            self.other.close().await;
        });
    }
}

#[test]
fn streams_are_learnt_one_by_one_and_then_none_is_asked_for() {
    let stores = Stores::new();
    assert_eq!(stores.by_memory(&one("b")), Outcome::Unknown);
    assert_eq!(stores.append(&one("b")), (3, 1));
    for (stream, position, version) in [("a", 4, 3), ("b", 5, 2), ("a", 6, 4)] {
        assert_eq!(stores.by_memory(&one(stream)), Outcome::StoredAt(position, version));
    }
    let exact = ExpectedVersion::Exact(AggregateVersion(4));
    assert_eq!(stores.by_memory(&append("a", exact, vec![event(), event()])), Outcome::StoredAt(8, 6));
    let events = stores.everything();
    let places: Vec<(u64, &str, u64)> = events.iter().map(|event| (event.position().0, event.aggregate_id(), event.version().0)).collect();
    assert_eq!(places, [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "a", 3), (5, "b", 2), (6, "a", 4), (7, "a", 5), (8, "a", 6)]);
    assert!(events.is_sorted_by_key(Event::timestamp), "time goes on");
}

#[test]
fn only_the_database_says_what_is_not_simply_stored() {
    let stores = Stores::new();
    let twice = event();
    for (what, batch) in [
        ("a conflict", append("a", ExpectedVersion::Exact(AggregateVersion(1)), vec![event()])),
        ("another type", AppendBatch::one("a", "Other", ExpectedVersion::Any, vec![event()])),
        ("another tenant", one("a").for_tenant("other")),
        ("nothing to store", append("a", ExpectedVersion::Any, Vec::new())),
        ("an unknown stream beside a known one", one("a").and("b", "Thing", ExpectedVersion::Any, vec![event()])),
        ("more than one message holds", append("a", ExpectedVersion::Any, (0..65).map(|_| event()).collect())),
    ] {
        assert_eq!(stores.by_memory(&batch), Outcome::Unknown, "{what}");
    }
    let batches = [append("a", ExpectedVersion::Any, vec![twice.clone()]), append("a", ExpectedVersion::Any, vec![twice])];
    let answers = stores.runtime.block_on(stores.ours.append(&[&batches[0], &batches[1]])).map_err(Failure::error).expect("stored");
    let positions: Vec<u64> = answers.into_iter().map(|answer| answer.expect("a receipt")[0].position.0).collect();
    assert_eq!(positions, [3, 3], "the second one is the repetition of the first");
    assert!(matches!(stores.answer_of(&stores.ours, &append("a", ExpectedVersion::NoStream, vec![event()])), Err(Error::Conflict { .. })));
    assert_eq!(stores.by_memory(&one("a")), Outcome::StoredAt(4, 4), "a conflict leaves memory as it was");
}

#[test]
fn a_repeated_append_gets_its_first_receipts() {
    let stores = Stores::new();
    let batch = one("a");
    assert_eq!(stores.by_memory(&batch), Outcome::StoredAt(3, 3));
    assert_eq!(stores.append(&one("a")), (4, 4));
    assert_eq!(stores.by_memory(&batch), Outcome::Refused, "the id is stored");
    assert_eq!(stores.append(&batch), (3, 3));
    assert_eq!(stores.append(&batch), (3, 3));
    assert_eq!(stores.append(&one("a")), (5, 5));
    assert_eq!(stores.append(&batch), (3, 3), "also where memory was full of trust");
    assert_eq!(stores.everything().len(), 5);
}

#[test]
fn what_others_append_is_seen() {
    let stores = Stores::new();
    assert_eq!(stores.append_elsewhere(&one("a")), (3, 3));
    stores.assert_forgets_and_learns_again("another store appended to the stream", "a");
    assert_eq!(stores.append_elsewhere(&one("b")), (6, 1));
    stores.assert_forgets_and_learns_again("another store appended to another stream", "a");
    let mut next = 9;
    for _ in 0..20 {
        for stream in ["a", "b", "c"] {
            assert_eq!(stores.append(&one(stream)).0, next);
            assert_eq!(stores.append_elsewhere(&one(stream)).0, next + 1);
            next += 2;
        }
    }
    let events = stores.everything();
    for stream in ["a", "b", "c"] {
        let versions: Vec<u64> = events.iter().filter(|event| event.aggregate_id() == stream).map(|event| event.version().0).collect();
        assert!(versions.iter().copied().eq(1..=versions.len() as u64), "{stream}: {versions:?}");
    }
}

#[test]
fn what_is_changed_by_hand_is_seen_though_the_head_stands_still() {
    let stores = Stores::new();
    stores.by_hand("DELETE FROM events WHERE global_position = 2");
    assert_eq!(stores.by_memory(&one("a")), Outcome::Refused, "somebody wrote");
    assert_eq!(stores.append(&one("a")), (3, 2), "it goes on behind what is there");
    stores.by_hand("UPDATE events SET aggregate_type = 'Other'");
    assert_eq!(stores.by_memory(&one("a")), Outcome::Refused, "somebody wrote");
    assert!(matches!(stores.answer_of(&stores.ours, &one("a")), Err(Error::AggregateType { .. })));
    stores.by_hand("UPDATE events SET aggregate_type = 'Thing'; UPDATE events_state SET epoch = 7");
    assert_eq!(stores.append(&one("a")), (4, 3));
    assert_eq!(stores.by_memory(&one("a")), Outcome::StoredAt(5, 4));
    assert_eq!(stores.runtime.block_on(stores.ours.identity()).expect("known").epoch, 7);
    stores.by_hand("CREATE INDEX of_theirs ON events (event_type)");
    stores.assert_forgets_and_learns_again("a schema that is another one", "a");
    stores.by_hand("VACUUM");
    assert_eq!(stores.append(&one("a")), (8, 7));
}

#[test]
fn a_transaction_of_memory_is_refused_whole() {
    let stores = Stores::new();
    let raises = "CREATE TRIGGER bad BEFORE INSERT ON events WHEN NEW.aggregate_id = 'b' BEGIN SELECT RAISE(IGNORE); END";
    assert_eq!(stores.append(&one("b")), (3, 1));
    let both = one("a").and("b", "Thing", ExpectedVersion::Any, vec![event()]).and("a", "Thing", ExpectedVersion::Any, vec![event()]);
    for (make, says) in [
        (raises, "trigger"),
        ("DROP TRIGGER bad; CREATE TRIGGER bad AFTER INSERT ON events WHEN NEW.aggregate_id = 'b' BEGIN SELECT RAISE(ABORT, 'not b'); END", "not b"),
        (
            "DROP TRIGGER bad; CREATE TRIGGER bad AFTER INSERT ON events WHEN NEW.aggregate_id = 'b' BEGIN SELECT RAISE(ROLLBACK, 'not b'); END",
            "not b",
        ),
    ] {
        stores.by_hand(make);
        let head = stores.append(&one("a")).0;
        assert_eq!(stores.by_memory(&one("a")), Outcome::StoredAt(head + 1, head), "it was learnt with the trigger in place");
        // Of `b` nothing can be learnt behind the trigger, so it is remembered by hand.
        let mut memory = stores.ours.memory.lock().take().expect("remembered");
        let of_b = one("b");
        let row = Row {
            tenant: "",
            aggregate_id: "b",
            aggregate_type: "Thing",
            event: &of_b.streams[0].events[0],
            position: head + 1,
            version: 1,
            timestamp: Timestamp(0),
        };
        memory.learn(&[row], Timestamp(memory.stood.last_commit));
        *stores.ours.memory.lock() = Some(memory);
        assert_eq!(stores.by_memory(&both), Outcome::Refused, "{make}");
        let error = stores.answer_of(&stores.ours, &both).expect_err("a trigger is in the way");
        assert!(matches!(&error, Error::Database { message, .. } if message.contains(says)), "{error:?}");
        assert_eq!(stores.everything().len() as u64, head + 1, "nothing of it is stored");
    }
}

#[test]
fn tables_that_are_gone_are_told_and_nothing_is_stored_from_memory() {
    let stores = Stores::new();
    stores.by_hand("CREATE TABLE away AS SELECT * FROM events_state; DELETE FROM events_state");
    assert_eq!(stores.by_memory(&one("a")), Outcome::Refused, "there is no row of state");
    let error = stores.answer_of(&stores.ours, &one("a")).expect_err("there is no row of state");
    assert!(error.to_string().contains("row of state"), "{error}");
    stores.by_hand("INSERT INTO events_state SELECT * FROM away");
    assert_eq!(stores.append(&one("a")), (3, 3));
    stores.by_hand("ALTER TABLE events RENAME TO others");
    assert_eq!(stores.by_memory(&one("a")), Outcome::Refused, "there is no table");
    assert!(stores.answer_of(&stores.ours, &one("a")).is_err());
    stores.by_hand("ALTER TABLE others RENAME TO events");
    assert_eq!(stores.append(&one("a")), (4, 4));
    assert_eq!(stores.by_memory(&one("a")), Outcome::StoredAt(5, 5));
    let file = stores.folder.path().join("events.db");
    fs::rename(&file, file.with_extension("away")).expect("moved");
    assert!(matches!(stores.answer_of(&stores.ours, &one("a")), Err(Error::Io { .. })));
    fs::rename(file.with_extension("away"), &file).expect("moved back");
    assert_eq!(stores.by_memory(&one("a")), Outcome::NothingRemembered);
    assert_eq!(stores.append(&one("a")), (6, 6));
}

#[test]
fn a_lock_of_somebody_else_is_waited_for() {
    let stores = Stores::new();
    let pool: &SqlitePool = &stores.other.writer;
    let mut held = stores.runtime.block_on(pool.begin_with("BEGIN IMMEDIATE")).expect("locked");
    assert_eq!(stores.by_memory(&one("a")), Outcome::Refused, "the lock is held");
    let answer = stores.runtime.block_on(async {
        let release = async {
            sleep(Duration::from_millis(50)).await;
            sqlx::query("UPDATE events_state SET last_commit = last_commit").execute(&mut *held).await.expect("it can write");
            held.commit().await.expect("committed");
        };
        let batch = one("a");
        let batches = [&batch];
        let (answers, ()) = futures_util::future::join(stores.ours.append(&batches), release).await;
        answers.map_err(Failure::error).expect("stored").remove(0).expect("stored")
    });
    assert_eq!((answer[0].position.0, answer[0].version.0), (3, 3));
}

#[test]
fn moved_events_are_learnt_of() {
    let from = Stores::new();
    assert_eq!(from.append(&one("b")), (3, 1));
    let events = from.everything();
    let origin = Origin { store_id: Uuid::new_v4(), epoch: 1 };
    for elsewhere in [false, true] {
        let stores = Stores::new();
        let table = stores.folder.path().join("target.db");
        let open =
            || stores.runtime.block_on(Sqlite::open(SqliteFile::File(table.clone()), &SqlOptions::default(), Missing::Create)).expect("it opens");
        let (target, mover) = (open(), open());
        let restore =
            |store: &Sqlite, events: &[Event]| stores.runtime.block_on(store.restore(origin, events)).map_err(Failure::error).expect("moved");
        restore(&target, &events[..2]);
        assert!(target.memory.lock().is_none());
        restore(if elsewhere { &mover } else { &target }, &events[2..]);
        assert_eq!(stores.answer_of(&target, &one("a")).expect("stored"), (4, 3));
        assert_eq!(stores.answer_of(&target, &one("a")).expect("stored"), (5, 4));
        assert_eq!(stores.runtime.block_on(target.identity()).expect("known").epoch, 2, "its own events have an epoch of their own");
        stores.runtime.block_on(async {
            target.close().await;
            mover.close().await;
        });
    }
}

#[test]
fn a_store_in_memory_asks_for_nothing_either() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Sqlite::open(SqliteFile::Memory, &SqlOptions::default(), Missing::Create).await.expect("it opens");
        for number in 1..=3 {
            let batch = one("a");
            let answer = store.append(&[&batch]).await.map_err(Failure::error).expect("stored").remove(0).expect("stored");
            assert_eq!((answer[0].position, answer[0].version), (Position(number), AggregateVersion(number)));
        }
        let mut memory = store.memory.lock().take().expect("remembered");
        let Ok(mut connection) = store.connection().await else { panic!("there is a connection") };
        let batch = one("a");
        let outcome = store.store_from_memory(&mut connection, &mut memory, &[&batch]).await;
        assert!(matches!(outcome, Ok(FromMemory::Stored(_))));
    });
}

#[test]
fn a_memory_that_is_full_forgets_and_begins_anew() {
    let mut memory = Memory::new(Stood { head: 0, epoch: 1, last_commit: 0, data_version: 1 });
    let decide = |memory: &Memory, batch: &AppendBatch| memory.decide(&[batch], Timestamp(0), eventuali::Durability::Sync).is_some();
    let event = event();
    let learn = |memory: &mut Memory, aggregate_id: &str| {
        let position = unsigned(memory.stood.head) + 1;
        let row = Row { tenant: "", aggregate_id, aggregate_type: "Thing", event: &event, position, version: 1, timestamp: Timestamp(0) };
        memory.learn(&[row], Timestamp(0));
    };
    learn(&mut memory, "first");
    assert!(decide(&memory, &one("first")));
    for number in 0..1 << 16 {
        learn(&mut memory, &format!("stream-{number}"));
    }
    assert!(!decide(&memory, &one("first")), "so many streams are not remembered");
    assert!(decide(&memory, &one("stream-65535")));
    learn(&mut memory, &"long ".repeat(2 << 20));
    assert!(!decide(&memory, &one("stream-65535")), "nor so many bytes");
}
