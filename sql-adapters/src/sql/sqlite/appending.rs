//! How a group of appends is committed: from memory where that is enough, and otherwise with what the database says.

use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Error, Receipt, Result, Timestamp};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection as _, Either, Executor as _, Row as _, SqliteConnection};
use tokio::time::sleep;
use uuid::Uuid;

use super::faults::{commit_fault, fault, is_busy, is_constraint, is_without_value};
use super::memory::{Memory, Stood};
use super::rows::{Bound, ROWS, bind_rows, event, fitting, soon};
use super::{Sqlite, Trouble, as_json};
use crate::sql::database::{Failure, asked, own_epoch, signed, unsigned};
use crate::sql::decide::{Decided, Known, Row, decide};

/// What became of a group, and what is known behind it.
pub(super) struct Appended {
    pub(super) answers: Vec<Result<Vec<Receipt>>>,
    pub(super) memory: Option<Memory>,
}

impl Sqlite {
    /// Decides and stores appends in one transaction.
    pub(super) async fn append_group(
        &self,
        connection: &mut SqliteConnection,
        mut memory: Option<Memory>,
        batches: &[&AppendBatch],
    ) -> Result<Appended, Trouble> {
        if let Some(known) = &mut memory {
            match self.store_from_memory(connection, known, batches).await? {
                FromMemory::Stored(answers) => return Ok(Appended { answers, memory }),
                FromMemory::Unknown => {}
                FromMemory::Refused => memory = None,
            }
        }
        self.ask_and_store(connection, memory, batches).await
    }

    /// Stores appends without asking first, if nothing must be asked: in one message with all of its transaction, which the database
    /// refuses if anybody else wrote to the file since, or if an event is stored already.
    pub(super) async fn store_from_memory(
        &self,
        connection: &mut SqliteConnection,
        memory: &mut Memory,
        batches: &[&AppendBatch],
    ) -> Result<FromMemory, Trouble> {
        let stood = memory.stood;
        let now = Timestamp(stood.last_commit).max(Timestamp::now());
        let Some(Decided { answers, rows }) = memory.decide(batches, now, self.capabilities.durability) else { return Ok(FromMemory::Unknown) };
        let Some(last) = rows.last().filter(|_| rows.len() <= ROWS[ROWS.len() - 1]) else { return Ok(FromMemory::Unknown) };
        let at_once = sqlx::query(AssertSqlSafe(&*self.statements.at_once[fitting(rows.len())]));
        let at_once = at_once.bind(signed(rows.len() as u64)).bind(stood.head).bind(stood.data_version).bind(signed(last.position)).bind(now.0);
        match run::<5>(connection, bind_rows(at_once, &rows, stood.epoch)?).await {
            Ok(_) => {
                memory.learn(&rows, now);
                Ok(FromMemory::Stored(answers))
            }
            Err((4, error)) => Err(Trouble::Commit(error)),
            Err((_, error)) => {
                roll_back(connection, is_busy(&error) || is_constraint(&error)).await;
                Ok(FromMemory::Refused)
            }
        }
    }

    /// Stores appends with what the database says of their streams and ids.
    async fn ask_and_store(&self, connection: &mut SqliteConnection, memory: Option<Memory>, batches: &[&AppendBatch]) -> Result<Appended, Trouble> {
        let (keys, ids) = asked(batches);
        let [state, streams, events] = self.begin(connection, &keys, &ids).await?;
        let state = state.first().ok_or(sqlx::Error::RowNotFound)?;
        let (head, epoch, last_commit): (i64, i64, i64) = (state.try_get(0)?, state.try_get(1)?, state.try_get(2)?);
        let epoch = own_epoch(epoch, head, state.try_get(5)?);
        let data_version = state.try_get(6)?;
        let memory = memory.filter(|memory| memory.is_of(head, data_version));
        let now = Timestamp(last_commit).max(Timestamp::now());
        let mut known = Known::new(unsigned(head), now);
        // One row: a row for each stream would be handed from thread to thread alone.
        let streams: Vec<(i64, String, i64, i64)> = match streams.first() {
            Some(streams) => serde_json::from_str(streams.try_get(0)?).map_err(|error| sqlx::Error::Decode(error.into()))?,
            None => Vec::new(),
        };
        for (place, aggregate_type, version, deleted) in streams {
            known.add_stream(&keys, place, aggregate_type, unsigned(version), deleted != 0);
        }
        for row in &events {
            let (event, _) = event(row)?;
            known.events.insert(event.id(), event);
        }
        let Decided { answers, rows } = decide(known, batches.iter().copied(), self.capabilities.durability, |_, _| false);
        let Some(last) = rows.last() else {
            commit(connection).await?;
            return Ok(Appended { answers, memory });
        };
        let rest = self.insert(connection, &rows, epoch).await?;
        let advance = sqlx::query(AssertSqlSafe(&*self.statements.advance[fitting(rest.len())]));
        let advance = advance.bind(signed(rest.len() as u64)).bind(signed(last.position)).bind(now.0).bind(epoch);
        let advance = bind_rows(advance, rest, epoch)?;
        match run::<4>(connection, advance).await {
            Ok(_) => {
                let mut memory = memory.unwrap_or_else(|| Memory::new(Stood { head, epoch, last_commit, data_version }));
                memory.learn(&rows, now);
                Ok(Appended { answers, memory: Some(memory) })
            }
            Err((2, error)) if is_without_value(&error) => Err(self.left_out()),
            Err((3, error)) => Err(Trouble::Commit(error)),
            Err((_, error)) => Err(Trouble::Database(error)),
        }
    }

    /// Begins a transaction, and gives what decides these appends.
    pub(super) async fn begin(&self, connection: &mut SqliteConnection, keys: &[(&str, &str)], ids: &[Uuid]) -> Result<[Vec<SqliteRow>; 3], Trouble> {
        let (keys, ids) = (as_json(keys)?, as_json(ids)?);
        let start = Instant::now();
        loop {
            let begin = sqlx::query(AssertSqlSafe(&*self.statements.begin)).bind(&*keys).bind(&*ids);
            match run(connection, begin).await {
                Ok(rows) => return Ok(rows),
                Err((0, error)) if is_busy(&error) && start.elapsed() <= self.lock_timeout => {
                    // SQLite itself would wait longer and longer between two attempts, and hardly ever get the lock from a busy process.
                    sleep(Duration::from_micros(500 + u64::from(start.elapsed().subsec_micros() % 1000))).await;
                }
                Err((_, error)) => return Err(Trouble::Database(error)),
            }
        }
    }

    /// Inserts rows but for the last ones, which fit one statement.
    pub(super) async fn insert<'r, 'e>(
        &self,
        connection: &mut SqliteConnection,
        mut rows: &'r [Row<'e>],
        epoch: i64,
    ) -> Result<&'r [Row<'e>], Trouble> {
        while let Some((chunk, rest)) = rows.split_at_checked(ROWS[ROWS.len() - 1]).filter(|(_, rest)| !rest.is_empty()) {
            let insert = sqlx::query(AssertSqlSafe(&*self.statements.insert[ROWS.len() - 1]));
            self.insert_all(connection, insert, chunk, epoch).await?;
            rows = rest;
        }
        Ok(rows)
    }

    pub(super) async fn insert_all(&self, connection: &mut SqliteConnection, insert: Bound<'_>, rows: &[Row<'_>], epoch: i64) -> Result<(), Trouble> {
        let inserted = bind_rows(insert, rows, epoch)?.execute(connection).await?.rows_affected();
        if inserted == rows.len() as u64 { Ok(()) } else { Err(self.left_out()) }
    }

    /// A trigger may leave rows out, and SQLite says nothing but how many it took.
    fn left_out(&self) -> Trouble {
        let message = "its events table did not take every event; let no trigger of that table leave rows out".to_owned();
        Trouble::Store(Error::Database { store: self.shown.clone(), code: None, message })
    }

    /// Ends a transaction that cannot be committed.
    pub(super) async fn give_up(&self, mut connection: PoolConnection<sqlx::Sqlite>, trouble: Trouble, refused: fn(Error) -> Failure) -> Failure {
        roll_back(&mut connection, false).await;
        match trouble {
            Trouble::Database(error) => fault(&self.shown, &error),
            Trouble::Commit(error) => commit_fault(&self.shown, &error),
            Trouble::Store(error) => refused(error),
        }
    }
}

/// What became of appends that were decided from memory.
pub(super) enum FromMemory {
    Stored(Vec<Result<Vec<Receipt>>>),
    /// Memory is not enough.
    Unknown,
    /// Nothing was stored, and memory is not to be trusted.
    Refused,
}

/// Takes back what a transaction did, if there is one. After anything but a refusal of values every statement is prepared anew.
async fn roll_back(connection: &mut SqliteConnection, refusal: bool) {
    // SQLite may have done it itself.
    let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
    if !refusal {
        // A statement whose tables are others now fails before it begins, each time it is used again. The driver resets it behind those
        // that it was sent with, finds no error any more that it could tell, and its thread ends. A new one fails when it is prepared.
        let _ = connection.clear_cached_statements().await;
    }
}

/// Runs statements that are sent together: the rows of each, or what failed behind how many of them.
async fn run<const N: usize>(connection: &mut SqliteConnection, query: Bound<'_>) -> Result<[Vec<SqliteRow>; N], (usize, sqlx::Error)> {
    let mut rows = [const { Vec::new() }; N];
    let mut done = 0;
    let mut answers = connection.fetch_many(query);
    while let Some(answer) = soon(&mut answers).await.map_err(|error| (done, error))? {
        match answer {
            Either::Left(_) => done += 1,
            Either::Right(row) => rows[done - 1].push(row),
        }
    }
    Ok(rows)
}

pub(super) async fn commit(connection: &mut SqliteConnection) -> Result<(), Trouble> {
    sqlx::query("COMMIT").execute(connection).await.map(drop).map_err(Trouble::Commit)
}

#[cfg(test)]
mod tests;
