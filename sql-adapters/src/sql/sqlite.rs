//! A store in a SQLite file, or in SQLite's memory.

mod faults;
mod opened;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eventuali::{
    AggregateVersion, AppendBatch, Capabilities, Durability, Error, Event, NewEvent, Position, Receipt, Result, StoreIdentity, StreamInfo, Tag,
    Timestamp,
};
use futures_util::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};
use tokio::time::sleep;
use uuid::Uuid;

use faults::{commit_fault, fault, is_busy};
use opened::{Opened, resolve};

use super::database::{Collected, Database, Failure, Found, Of, Page, asked, behind, own_epoch, signed, unsigned};
use super::decide::{Known, Row, Stream, decide};
use super::row::{Columns, JSON, PROTOBUF, metadata_text, tags_text};
use super::schema::{self, Migrated};
use super::store::{SqlStore, sql_store};
use crate::moving::{Origin, Standing, new_event};
use crate::options::{SqlOptions, Synchronous};
use crate::table::TableName;

/// How many rows one statement inserts: few different numbers, so that the statements are prepared once.
const ROWS: [usize; 3] = [64, 8, 1];

/// How many rows SQLite's thread is ahead of the reader: they may be of the largest size.
const ROWS_AHEAD: usize = 4;

const COLUMNS: &str = "global_position, id, tenant, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data, \
                       event_data_type, event_bytes, metadata, tags, timestamp, timestamp_micros, epoch";
const COLUMNS_COUNT: usize = 16;

/// A SQLite database that holds a store.
pub(crate) struct Sqlite {
    /// What messages call it.
    shown: String,
    /// `None` in memory.
    file: Option<Opened>,
    table: TableName,
    statements: Statements,
    /// One connection: SQLite has one writer.
    writer: SqlitePool,
    readers: SqlitePool,
    capabilities: Capabilities,
    /// How long a transaction waits for another process's.
    lock_timeout: Duration,
}

struct Statements {
    state: String,
    streams: String,
    events: String,
    insert: [String; 3],
    advance: String,
    moved: String,
    stream: String,
}

impl Statements {
    fn new(table: &TableName) -> Self {
        let values = |rows: usize| {
            let row = format!("({})", vec!["?"; COLUMNS_COUNT].join(", "));
            vec![row; rows].join(", ")
        };
        let fill = |statement: &str| table.fill(statement).replace("{columns}", COLUMNS);
        Self {
            state: fill(r#"SELECT head, epoch, last_commit, store_id, source_store_id, source_position FROM "{table}_state" WHERE id = 1"#),
            streams: fill(
                r#"WITH k (tenant, aggregate_id) AS MATERIALIZED (SELECT value ->> 0, value ->> 1 FROM json_each(?))
                   SELECT k.tenant, k.aggregate_id, e.aggregate_type, e.aggregate_version FROM k JOIN "{table}" AS e
                   ON e.tenant = k.tenant AND e.aggregate_id = k.aggregate_id AND e.aggregate_version =
                   (SELECT max(aggregate_version) FROM "{table}" WHERE tenant = k.tenant AND aggregate_id = k.aggregate_id)"#,
            ),
            events: fill(r#"SELECT {columns} FROM "{table}" WHERE id IN (SELECT value FROM json_each(?))"#),
            insert: ROWS.map(|rows| fill(&format!(r#"INSERT INTO "{{table}}" ({{columns}}) VALUES {}"#, values(rows)))),
            advance: fill(r#"UPDATE "{table}_state" SET head = ?, last_commit = ?, epoch = ? WHERE id = 1"#),
            moved: fill(
                r#"UPDATE "{table}_state" SET head = ?1, last_commit = max(last_commit, min(?2, ?3)), epoch = ?4, source_store_id = ?5, source_epoch = ?4,
                   source_position = ?1 WHERE id = 1"#,
            ),
            stream: fill(
                r#"SELECT aggregate_type, aggregate_version, global_position FROM "{table}"
                   WHERE tenant = ? AND aggregate_id = ? ORDER BY aggregate_version DESC LIMIT 1"#,
            ),
        }
    }
}

sql_store! {
    /// A store in a SQLite file, or in SQLite's memory. Clones are handles on the same store.
    SqliteStore over Sqlite
}

impl SqliteStore {
    pub(crate) fn open(file: SqliteFile, options: SqlOptions) -> Result<Self> {
        SqlStore::open(async move { Sqlite::open(file, &options).await }).map(Self)
    }
}

/// What SQLite is to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SqliteFile {
    Memory,
    File(PathBuf),
}

impl Sqlite {
    pub(crate) async fn open(file: SqliteFile, options: &SqlOptions) -> Result<Self> {
        let (connect, shown, path) = match file {
            SqliteFile::Memory => (SqliteConnectOptions::new().filename(":memory:"), "sqlite://:memory:".to_owned(), None),
            SqliteFile::File(path) => {
                let path = resolve(&path)?;
                let connect = SqliteConnectOptions::new().filename(&path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
                (connect, format!("sqlite://{}", path.display()), Some(path))
            }
        };
        let persistent = path.is_some();
        let synchronous = match options.synchronous {
            Synchronous::Full => SqliteSynchronous::Full,
            Synchronous::Normal => SqliteSynchronous::Normal,
        };
        let connect = connect.synchronous(synchronous).busy_timeout(options.lock_timeout).statement_cache_capacity(64).row_buffer_size(ROWS_AHEAD);
        let pool = |connections: u32| {
            let pool = SqlitePoolOptions::new().max_connections(connections).acquire_timeout(options.acquire_timeout);
            pool.test_before_acquire(false).idle_timeout(None).max_lifetime(None)
        };
        let fail = |error: sqlx::Error| fault(&shown, &error).error();
        // The writer waits for its lock itself, see `begin`.
        let at_once = pool(1)
            .after_connect(|connection, _| Box::pin(async move { sqlx::query("PRAGMA busy_timeout = 0").execute(connection).await.map(drop) }));
        let writer = at_once.connect_with(connect.clone()).await.map_err(fail)?;
        let file = path.map(Opened::new).transpose()?;
        let readers = if persistent { pool(options.max_connections.saturating_sub(1).max(1)).connect_lazy_with(connect) } else { writer.clone() };
        let migrated = schema::migrate_sqlite(&readers, &options.table).await;
        match migrated {
            Ok(Migrated::Current) => {}
            Ok(Migrated::Newer { found, supported }) => {
                return Err(Error::FormatVersion { path: shown.into(), found, readable_from: found, supported });
            }
            Err(error) => return Err(fail(error)),
        }
        let durability = match (persistent, options.synchronous) {
            (false, _) => Durability::Memory,
            (true, Synchronous::Full) => Durability::Sync,
            (true, Synchronous::Normal) => Durability::Os,
        };
        let capabilities = Capabilities::new("sqlite", durability, persistent, true);
        let statements = Statements::new(&options.table);
        Ok(Self { shown, file, table: options.table.clone(), statements, writer, readers, capabilities, lock_timeout: options.lock_timeout })
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    fn error(&self, error: &sqlx::Error) -> Error {
        fault(&self.shown, error).error()
    }

    /// The writer's connection, in a transaction of its own.
    async fn begin(&self) -> Result<PoolConnection<sqlx::Sqlite>, Failure> {
        let mut connection = self.writer.acquire().await.map_err(|error| fault(&self.shown, &error))?;
        self.file.as_ref().map_or(Ok(()), Opened::check).map_err(Failure::All)?;
        let start = Instant::now();
        while let Err(error) = sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await {
            if !is_busy(&error) || start.elapsed() > self.lock_timeout {
                return Err(fault(&self.shown, &error));
            }
            // SQLite itself would wait longer and longer between two attempts, and hardly ever get the lock from a busy process.
            sleep(Duration::from_micros(500 + u64::from(start.elapsed().subsec_micros() % 1000))).await;
        }
        Ok(connection)
    }

    /// Everything between the transaction's beginning and its commit.
    async fn store(&self, connection: &mut SqliteConnection, batches: &[&AppendBatch]) -> Result<Vec<Result<Vec<Receipt>>>, Trouble> {
        let state = sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *connection).await?;
        let (head, epoch, last_commit): (i64, i64, i64) = (state.try_get(0)?, state.try_get(1)?, state.try_get(2)?);
        let epoch = own_epoch(epoch, head, state.try_get(5)?);
        let now = Timestamp(last_commit).max(Timestamp::now());
        let (keys, ids) = asked(batches);
        let mut known = Known { head: unsigned(head), now, streams: [].into(), events: [].into() };
        let rows = sqlx::query(AssertSqlSafe(&*self.statements.streams)).bind(as_json(&keys)?).fetch_all(&mut *connection).await?;
        for row in rows {
            let stream = Stream { aggregate_type: row.try_get(2)?, version: unsigned(row.try_get(3)?) };
            known.streams.insert((row.try_get(0)?, row.try_get(1)?), stream);
        }
        if !ids.is_empty() {
            let rows = sqlx::query(AssertSqlSafe(&*self.statements.events)).bind(as_json(&ids)?).fetch_all(&mut *connection).await?;
            for row in &rows {
                let event = event(row)?;
                known.events.insert(event.id(), event);
            }
        }
        let decided = decide(known, batches.iter().copied(), self.capabilities.durability, |_, _| false);
        self.insert(connection, &decided.rows, epoch).await?;
        if let Some(last) = decided.rows.last() {
            let advance = sqlx::query(AssertSqlSafe(&*self.statements.advance)).bind(signed(last.position)).bind(now.0).bind(epoch);
            advance.execute(&mut *connection).await?;
        }
        Ok(decided.answers)
    }

    async fn insert(&self, connection: &mut SqliteConnection, mut rows: &[Row<'_>], epoch: i64) -> Result<(), Trouble> {
        while let Some((at, count)) = ROWS.iter().enumerate().find(|(_, count)| **count <= rows.len()) {
            let (chunk, rest) = rows.split_at(*count);
            let mut insert = sqlx::query(AssertSqlSafe(&*self.statements.insert[at]));
            for row in chunk {
                let payload = row.event.data.as_bytes();
                let (data, bytes, data_type) = match &row.event.data {
                    eventuali::EventData::Json(_) => (std::str::from_utf8(payload).map_err(Trouble::not_text)?, None, JSON),
                    eventuali::EventData::Protobuf(_) => ("null", Some(payload), PROTOBUF),
                };
                let (timestamp, micros) = timestamp_text(row.timestamp);
                insert = insert
                    .bind(signed(row.position))
                    .bind(row.event.id.to_string())
                    .bind(row.tenant)
                    .bind(row.aggregate_id)
                    .bind(row.aggregate_type)
                    .bind(&*row.event.event_type)
                    .bind(i64::from(row.event.schema_version))
                    .bind(signed(row.version))
                    .bind(data)
                    .bind(data_type)
                    .bind(bytes)
                    .bind(metadata_text(&row.event.metadata)?)
                    .bind(tags_text(&row.event.tags)?)
                    .bind(timestamp)
                    .bind(micros)
                    .bind(epoch);
            }
            insert.execute(&mut *connection).await?;
            rows = rest;
        }
        Ok(())
    }
}

impl Sqlite {
    async fn restore_within(&self, connection: &mut SqliteConnection, origin: Origin, events: &[Event]) -> Result<(), Trouble> {
        let state = sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *connection).await?;
        let events = behind(&self.shown, standing(&state)?, origin, events)?;
        let new: Vec<NewEvent> = events.iter().map(new_event).collect::<Result<_>>()?;
        let rows: Vec<Row<'_>> = events.iter().zip(&new).map(|(event, new)| Row::of(event, new)).collect();
        self.insert(connection, &rows, i64::from(origin.epoch)).await?;
        if let Some(last) = rows.last() {
            let moved =
                sqlx::query(AssertSqlSafe(&*self.statements.moved)).bind(signed(last.position)).bind(last.timestamp.0).bind(Timestamp::now().0);
            moved.bind(i64::from(origin.epoch)).bind(origin.store_id.to_string()).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

fn standing(state: &SqliteRow) -> sqlx::Result<Standing> {
    let (store_id, position): (Option<&str>, Option<i64>) = (state.try_get(4)?, state.try_get(5)?);
    let origin = store_id.zip(position).map(|(store_id, position)| Uuid::parse_str(store_id).map(|store_id| (store_id, unsigned(position))));
    Ok(Standing { head: unsigned(state.try_get(0)?), origin: origin.transpose().map_err(|error| sqlx::Error::Decode(error.into()))? })
}

/// What ends a transaction before its commit.
enum Trouble {
    Database(sqlx::Error),
    Store(Error),
}

impl Trouble {
    fn not_text(error: std::str::Utf8Error) -> Self {
        Self::Store(Error::Serialization { reason: format!("it is not UTF-8: {error}") })
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Database for Sqlite {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn patience(&self) -> Duration {
        self.writer.options().get_acquire_timeout()
    }

    async fn append(&self, batches: &[&AppendBatch]) -> Result<Vec<Result<Vec<Receipt>>>, Failure> {
        let mut connection = self.begin().await?;
        let stored = self.store(&mut connection, batches).await;
        let failure = match stored {
            Ok(answers) => match sqlx::query("COMMIT").execute(&mut *connection).await {
                Ok(_) => return Ok(answers),
                Err(error) => commit_fault(&self.shown, &error),
            },
            Err(Trouble::Database(error)) => fault(&self.shown, &error),
            Err(Trouble::Store(error)) => Failure::Refused(error),
        };
        // SQLite may have done it itself.
        let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        Err(failure)
    }

    async fn restore(&self, origin: Origin, events: &[Event]) -> Result<(), Failure> {
        let mut connection = self.begin().await?;
        let failure = match self.restore_within(&mut connection, origin, events).await {
            Ok(()) => match sqlx::query("COMMIT").execute(&mut *connection).await {
                Ok(_) => return Ok(()),
                Err(error) => commit_fault(&self.shown, &error),
            },
            Err(Trouble::Database(error)) => fault(&self.shown, &error),
            Err(Trouble::Store(error)) => Failure::All(error),
        };
        // SQLite may have done it itself.
        let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
        Err(failure)
    }

    async fn standing(&self) -> Result<Standing> {
        let state = sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&self.readers).await.map_err(|error| self.error(&error))?;
        standing(&state).map_err(|error| self.error(&error))
    }

    async fn sync(&self) -> Result<u64> {
        if self.capabilities.durability == Durability::Os {
            // Without a full sync at each commit, a checkpoint is what makes commits durable.
            sqlx::query("PRAGMA wal_checkpoint(FULL)").execute(&self.writer).await.map_err(|error| self.error(&error))?;
        }
        self.head().await
    }

    async fn identity(&self) -> Result<StoreIdentity> {
        let state = sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&self.readers).await.map_err(|error| self.error(&error))?;
        let (epoch, store_id): (i64, String) = (state.get(1), state.get(3));
        let store_id =
            Uuid::parse_str(&store_id).map_err(|error| Error::Database { store: self.shown.clone(), code: None, message: error.to_string() })?;
        Ok(StoreIdentity { store_id, epoch: u32::try_from(epoch).unwrap_or(u32::MAX) })
    }

    async fn head(&self) -> Result<u64> {
        let state = sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&self.readers).await.map_err(|error| self.error(&error))?;
        Ok(unsigned(state.get(0)))
    }

    async fn stream(&self, tenant: &str, aggregate_id: &str) -> Result<Option<StreamInfo>> {
        let stream = sqlx::query(AssertSqlSafe(&*self.statements.stream)).bind(tenant).bind(aggregate_id);
        let row = stream.fetch_optional(&self.readers).await.map_err(|error| self.error(&error))?;
        Ok(row.map(|row| StreamInfo {
            aggregate_type: row.get(0),
            version: AggregateVersion(unsigned(row.get(1))),
            last_position: Position(unsigned(row.get(2))),
        }))
    }

    async fn page(&self, page: &Page) -> Result<Found> {
        let order = if page.backwards { "DESC" } else { "ASC" };
        let head = r#"(SELECT head FROM "{table}_state" WHERE id = 1)"#;
        let statement = match &page.of {
            Of::All { event_types, aggregate_types, include_system } => {
                let types = |column: &str, names: &[String]| {
                    if names.is_empty() { String::new() } else { format!("AND {column} IN (SELECT value FROM json_each(?))") }
                };
                let (events, aggregates) = (types("event_type", event_types), types("aggregate_type", aggregate_types));
                let system = if *include_system { "" } else { "AND event_type NOT GLOB '$*'" };
                format!(
                    r#"SELECT {COLUMNS}, {head} FROM "{{table}}" WHERE global_position BETWEEN ? AND ? AND global_position <= ? {events} {aggregates}
                       {system} ORDER BY global_position {order} LIMIT ?"#
                )
            }
            Of::Stream { .. } => format!(
                r#"SELECT {COLUMNS}, {head} FROM "{{table}}" WHERE tenant = ? AND aggregate_id = ? AND aggregate_version BETWEEN ? AND ?
                   AND global_position <= ? ORDER BY aggregate_version {order} LIMIT ?"#
            ),
        };
        let mut query = sqlx::query(AssertSqlSafe(self.table.fill(&statement)));
        if let Of::Stream { tenant, aggregate_id } = &page.of {
            query = query.bind(&**tenant).bind(&**aggregate_id);
        }
        query = query.bind(signed(page.from)).bind(signed(page.to)).bind(signed(page.head));
        if let Of::All { event_types, aggregate_types, .. } = &page.of {
            for names in [event_types, aggregate_types].into_iter().filter(|names| !names.is_empty()) {
                query = query.bind(as_json(names)?);
            }
        }
        let mut rows = query.bind(signed(page.limit)).fetch(&self.readers);
        let mut collected = Collected::new(page);
        while let Some(row) = rows.try_next().await.map_err(|error| self.error(&error))? {
            let head: i64 = row.try_get(COLUMNS_COUNT).map_err(|error| self.error(&error))?;
            let event = event(&row).map_err(|trouble| match trouble {
                Trouble::Database(error) => self.error(&error),
                Trouble::Store(error) => error,
            })?;
            if !collected.push(event, unsigned(head)) {
                break;
            }
        }
        Ok(collected.found())
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn as_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Serialization { reason: error.to_string() })
}

fn event(row: &SqliteRow) -> Result<Event, Trouble> {
    let decode = |message: String| Trouble::Database(sqlx::Error::Decode(message.into()));
    let (text, micros): (&str, Option<i64>) = (row.try_get(13)?, row.try_get(14)?);
    let timestamp = match micros {
        Some(micros) => micros,
        None => text.parse::<jiff::Timestamp>().map_err(|error| decode(error.to_string()))?.as_microsecond(),
    };
    let tags: Vec<Tag> = match row.try_get::<Option<&str>, _>(12)? {
        Some(tags) => serde_json::from_str(tags).map_err(|error| decode(error.to_string()))?,
        None => Vec::new(),
    };
    let columns = Columns {
        position: row.try_get(0)?,
        id: Uuid::parse_str(row.try_get(1)?).map_err(|error| decode(error.to_string()))?,
        tenant: row.try_get(2)?,
        aggregate_id: row.try_get(3)?,
        aggregate_type: row.try_get(4)?,
        event_type: row.try_get(5)?,
        schema_version: row.try_get(6)?,
        version: row.try_get(7)?,
        data: row.try_get(8)?,
        data_type: row.try_get(9)?,
        bytes: row.try_get(10)?,
        metadata: row.try_get(11)?,
        tags,
        timestamp,
    };
    Ok(columns.into_event()?)
}

/// A moment as RFC 3339 text that sorts by time; what text has no year for is kept as a number beside it.
fn timestamp_text(timestamp: Timestamp) -> (String, Option<i64>) {
    const YEARS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
    match jiff::Timestamp::from_microsecond(timestamp.0) {
        Ok(moment) if YEARS.contains(&timestamp.0) => (format!("{moment:.6}"), None),
        _ => ((if timestamp.0 < 0 { "-infinity" } else { "infinity" }).to_owned(), Some(timestamp.0)),
    }
}
