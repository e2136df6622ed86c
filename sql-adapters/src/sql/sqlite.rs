//! A store in a SQLite file, or in SQLite's memory.

mod appending;
mod faults;
mod memory;
mod opened;
mod rows;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eventuali::{
    AggregateVersion, AppendBatch, Capabilities, Durability, Error, Event, NewEvent, Position, Receipt, Result, StoreIdentity, StreamInfo, Timestamp,
};
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};
use tokio::time::sleep;
use uuid::Uuid;

use appending::{Appended, commit};
use faults::fault;
use memory::Memory;
use opened::{Opened, require_store, resolve};
use rows::{ROWS, bind_page, block_statement, event, events, fitting, insert_statement, outline, rows_statement, select_statement, soon};

use super::database::{Collected, Database, FEW, Failure, Found, Outline, Page, behind, signed, unsigned};
use super::decide::Row;
use super::leaving::{LEFT_OUT, Leaving, leavings};
use super::schema::{self, Migrated};
use super::store::{SqlStore, sql_store};
use crate::moving::{Origin, Standing, new_event};
use crate::options::{Missing, SqlOptions, Synchronous};
use crate::table::TableName;

/// After how many pages in the write-ahead log they are moved to the database: pages that many commits changed are moved once.
const WAL_PAGES: &str = "4000";

/// How much of the database the writer keeps in memory, in KiB as SQLite counts it: each append looks at the end of its stream and puts
/// it into three indexes.
const WRITER_CACHE: &str = "-16384";

/// A number that is another one as soon as another connection has committed anything.
const DATA_VERSION: &str = "(SELECT data_version FROM pragma_data_version)";

/// The epoch that is bound, if it is that of the row of state.
const OWN_EPOCH: &str = r#"(SELECT epoch FROM "{table}_state" WHERE id = 1 AND epoch = ?)"#;

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
    /// What is known behind the writer's last commit. Only who holds its connection looks at it.
    memory: Mutex<Option<Memory>>,
    readers: SqlitePool,
    capabilities: Capabilities,
    /// How long a transaction waits for another process's.
    lock_timeout: Duration,
}

struct Statements {
    /// Begins a transaction and asks for all that decides it: what is not sent apart needs no thread to wake up for it.
    begin: String,
    state: String,
    insert: [String; ROWS.len()],
    /// The last rows of a transaction, and its end. Where the table did not take as many rows as it was given, there is no head to be
    /// set, and the transaction is refused. (To find values by their numbers takes SQLite long where there are many: the rows have none.)
    advance: [String; ROWS.len()],
    /// All of a transaction that was decided from memory: it is refused where anybody else wrote since, and where there is no row of
    /// state.
    at_once: [String; ROWS.len()],
    moved: String,
    stream: String,
    /// Leaves out the first versions of a stream.
    leave_out: String,
    /// Keeps the names and the version of a deleted stream where its last event was.
    bury: String,
}

impl Statements {
    fn new(table: &TableName) -> Self {
        let fill = |statement: &str| table.fill(statement);
        let insert = |rows: usize| fill(&insert_statement(rows, "?"));
        let columns = "head, epoch, last_commit, store_id, source_store_id, source_position";
        let state = fill(&format!(r#"SELECT {columns} FROM "{{table}}_state" WHERE id = 1"#));
        let state_and_version = fill(&format!(r#"SELECT {columns}, {DATA_VERSION} FROM "{{table}}_state" WHERE id = 1"#));
        let streams = fill(
            r#"WITH k (place, tenant, aggregate_id) AS MATERIALIZED (SELECT key, value ->> 0, value ->> 1 FROM json_each(?))
               SELECT json_group_array(json_array(k.place, e.aggregate_type, e.aggregate_version, e.event_type = '$left_out'))
               FROM k JOIN "{table}" AS e
               ON e.tenant = k.tenant AND e.aggregate_id = k.aggregate_id AND e.aggregate_version =
               (SELECT max(aggregate_version) FROM "{table}" WHERE tenant = k.tenant AND aggregate_id = k.aggregate_id)"#,
        );
        let events = fill(&format!("{} WHERE id IN (SELECT value FROM json_each(?))", select_statement()));
        let advance = fill(r#"UPDATE "{table}_state" SET head = iif(? > 0, ?, NULL), last_commit = ?, epoch = ? WHERE id = 1"#);
        let assume = fill(&format!(
            r#"UPDATE "{{table}}_state" SET head = iif(? > 0 AND head = ? AND {DATA_VERSION} = ?, ?, NULL), last_commit = ? WHERE id = 1"#
        ));
        let check = fill(r#"UPDATE "{table}_state" SET head = CASE changes() WHEN ?1 THEN head END WHERE id = 1"#);
        Self {
            begin: format!("BEGIN IMMEDIATE; {state_and_version}; {streams}; {events}"),
            insert: ROWS.map(insert),
            advance: ROWS.map(|rows| format!("{advance}; {}; {check}; COMMIT", insert(rows))),
            at_once: ROWS.map(|rows| format!("BEGIN IMMEDIATE; {assume}; {}; {check}; COMMIT", fill(&insert_statement(rows, OWN_EPOCH)))),
            state,
            moved: fill(
                r#"UPDATE "{table}_state" SET head = ?1, last_commit = max(last_commit, min(?2, ?3)), epoch = ?4, source_store_id = ?5, source_epoch = ?4,
                   source_position = ?1 WHERE id = 1"#,
            ),
            stream: fill(
                r#"SELECT aggregate_type, aggregate_version, global_position, event_type FROM "{table}"
                   WHERE tenant = ? AND aggregate_id = ? ORDER BY aggregate_version DESC LIMIT 1"#,
            ),
            leave_out: fill(
                r#"UPDATE "{table}" SET id = lower(hex(randomblob(16))), tenant = '', aggregate_id = '$left_out', aggregate_type = '$',
                   event_type = '$left_out', event_version = 1, aggregate_version = global_position, event_data = 'null', event_data_type = 'json',
                   event_bytes = NULL, metadata = '{}', tags = NULL, timestamp = '1970-01-01T00:00:00.000000Z', timestamp_micros = NULL
                   WHERE tenant = ? AND aggregate_id = ? AND aggregate_version <= ?"#,
            ),
            bury: fill(
                r#"UPDATE "{table}" SET tenant = ?, aggregate_id = ?, aggregate_type = ?, aggregate_version = ? WHERE global_position = ifnull(
                   (SELECT global_position FROM "{table}" WHERE tenant = '' AND aggregate_id = '$left_out' AND aggregate_version = ?),
                   (SELECT max(aggregate_version) FROM "{table}" WHERE tenant = '' AND aggregate_id = '$left_out' AND aggregate_version < ?))"#,
            ),
        }
    }
}

sql_store! {
    /// A store in a SQLite file, or in SQLite's memory. Clones are handles on the same store.
    SqliteStore over Sqlite
}

impl SqliteStore {
    pub(crate) fn open(file: SqliteFile, options: SqlOptions, missing: Missing) -> Result<Self> {
        SqlStore::open(async move { Sqlite::open(file, &options, missing).await }).map(Self)
    }
}

/// What SQLite is to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SqliteFile {
    Memory,
    File(PathBuf),
}

impl Sqlite {
    pub(crate) async fn open(file: SqliteFile, options: &SqlOptions, missing: Missing) -> Result<Self> {
        let start = Instant::now();
        loop {
            match Self::open_once(file.clone(), options, missing).await {
                // Where others open a new file at the same time SQLite does not always wait for them.
                Err(Error::Unavailable { .. }) if start.elapsed() < options.lock_timeout => sleep(Duration::from_millis(5)).await,
                opened => return opened,
            }
        }
    }

    async fn open_once(file: SqliteFile, options: &SqlOptions, missing: Missing) -> Result<Self> {
        let (connect, shown, path) = match file {
            SqliteFile::Memory => (SqliteConnectOptions::new().filename(":memory:"), "sqlite://:memory:".to_owned(), None),
            SqliteFile::File(path) => {
                let path = resolve(&path)?;
                let shown = format!("sqlite://{}", path.display());
                if missing == Missing::Refuse {
                    require_store(&path, &shown, options).await?;
                }
                let connect = SqliteConnectOptions::new().filename(&path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
                (connect, shown, Some(path))
            }
        };
        let persistent = path.is_some();
        let synchronous = match options.synchronous {
            Synchronous::Full => SqliteSynchronous::Full,
            Synchronous::Normal => SqliteSynchronous::Normal,
        };
        let connect = connect.synchronous(synchronous).busy_timeout(options.lock_timeout).statement_cache_capacity(64).row_buffer_size(FEW);
        let pool = |connections: u32| {
            let pool = SqlitePoolOptions::new().max_connections(connections).acquire_timeout(options.acquire_timeout);
            pool.test_before_acquire(false).idle_timeout(None).max_lifetime(None)
        };
        let fail = |error: sqlx::Error| fault(&shown, &error).error();
        // The writer waits for its lock itself, see `begin`.
        let at_once = pool(1)
            .after_connect(|connection, _| Box::pin(async move { sqlx::query("PRAGMA busy_timeout = 0").execute(connection).await.map(drop) }));
        let writer =
            at_once.connect_with(connect.clone().pragma("wal_autocheckpoint", WAL_PAGES).pragma("cache_size", WRITER_CACHE)).await.map_err(fail)?;
        let file = path.map(Opened::new).transpose()?;
        let readers = if persistent {
            pool(options.max_connections.saturating_sub(1).max(1)).connect_lazy_with(connect.create_if_missing(false))
        } else {
            writer.clone()
        };
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
        let (table, memory, lock_timeout) = (options.table.clone(), Mutex::new(None), options.lock_timeout);
        Ok(Self { shown, file, table, statements, writer, memory, readers, capabilities, lock_timeout })
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    fn error(&self, error: &sqlx::Error) -> Error {
        fault(&self.shown, error).error()
    }

    /// What is said of a trouble where nothing was to be stored.
    fn told(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Database(error) | Trouble::Commit(error) => self.error(&error),
            Trouble::Store(error) => error,
        }
    }

    /// The writer's connection.
    async fn connection(&self) -> Result<PoolConnection<sqlx::Sqlite>, Failure> {
        let connection = self.writer.acquire().await.map_err(|error| fault(&self.shown, &error))?;
        self.file.as_ref().map_or(Ok(()), |file| file.check("append to")).map_err(Failure::All)?;
        Ok(connection)
    }

    /// A connection to read with.
    async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>> {
        let connection = self.readers.acquire().await;
        if let Some(Err(gone)) = self.file.as_ref().map(|file| file.check("read")) {
            // It may have been made just now, to what is in the file's place.
            drop(connection.map(PoolConnection::detach));
            return Err(gone);
        }
        connection.map_err(|error| self.error(&error))
    }
}

impl Sqlite {
    /// The rows of a page, in which nothing is left out.
    async fn rows(&self, page: &Page) -> Result<Found> {
        let statement = self.table.fill(&rows_statement(page));
        let mut connection = self.reader().await?;
        let mut rows = bind_page(sqlx::query(AssertSqlSafe(statement)), page)?.fetch(&mut *connection);
        let mut collected = Collected::new(page);
        while let Some(row) = soon(&mut rows).await.map_err(|error| self.error(&error))? {
            let (event, head) = event(&row).map_err(|trouble| self.told(trouble))?;
            if !collected.push(event, head) {
                break;
            }
        }
        Ok(collected.found())
    }

    /// A page as one row.
    async fn block(&self, page: &Page) -> Result<sqlx::Result<SqliteRow>> {
        let statement = self.table.fill(&block_statement(page));
        let mut connection = self.reader().await?;
        Ok(bind_page(sqlx::query(AssertSqlSafe(statement)), page)?.fetch_one(&mut *connection).await)
    }

    async fn restore_within(&self, connection: &mut SqliteConnection, origin: Origin, events: &[Event]) -> Result<(), Trouble> {
        let [state, ..] = self.begin(connection, &[], &[]).await?;
        let events = behind(&self.shown, standing(state.first().ok_or(sqlx::Error::RowNotFound)?)?, origin, events)?;
        let new: Vec<NewEvent> = events.iter().map(new_event).collect::<Result<_>>()?;
        let rows: Vec<Row<'_>> = events.iter().zip(&new).map(|(event, new)| Row::of(event, new)).collect();
        if let Some(last) = rows.last() {
            let epoch = i64::from(origin.epoch);
            let leavings = leavings(events)?;
            // What is there goes first: the source may have given an id again since.
            self.leave_out(connection, &leavings).await?;
            let rest = self.insert(connection, &rows, epoch).await?;
            let insert = sqlx::query(AssertSqlSafe(&*self.statements.insert[fitting(rest.len())]));
            self.insert_all(connection, insert, rest, epoch).await?;
            for leaving in &leavings {
                self.leave_out(connection, std::slice::from_ref(leaving)).await?;
                self.bury(connection, leaving).await?;
            }
            let moved =
                sqlx::query(AssertSqlSafe(&*self.statements.moved)).bind(signed(last.position)).bind(last.timestamp.0).bind(Timestamp::now().0);
            moved.bind(epoch).bind(origin.store_id.to_string()).execute(&mut *connection).await?;
        }
        commit(connection).await
    }
}

impl Sqlite {
    /// Takes the content out of rows of what was deleted or limited.
    async fn leave_out(&self, connection: &mut SqliteConnection, leavings: &[Leaving]) -> sqlx::Result<()> {
        for Leaving { tenant, aggregate_id, after, .. } in leavings {
            let leave_out = sqlx::query(AssertSqlSafe(&*self.statements.leave_out)).bind(tenant).bind(aggregate_id);
            leave_out.bind(signed(*after)).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Keeps what is to be known of an aggregate, if it is a deleted one.
    async fn bury(&self, connection: &mut SqliteConnection, leaving: &Leaving) -> sqlx::Result<()> {
        let Leaving { tenant, aggregate_id, aggregate_type, after, deleted_at: Some(deleted_at), position } = leaving else { return Ok(()) };
        let bury = sqlx::query(AssertSqlSafe(&*self.statements.bury)).bind(tenant).bind(aggregate_id).bind(aggregate_type);
        bury.bind(signed(*after)).bind(signed(*deleted_at)).bind(signed(*position)).execute(connection).await.map(drop)
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
    Commit(sqlx::Error),
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

/// A page, as it comes from SQLite.
pub(crate) enum Raw {
    Block(SqliteRow),
    Rows(Found),
}

impl Database for Sqlite {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn patience(&self) -> Duration {
        self.writer.options().get_acquire_timeout()
    }

    async fn append(&self, batches: &[&AppendBatch]) -> Result<Vec<Result<Vec<Receipt>>>, Failure> {
        let connection = self.connection().await;
        // What ends without a commit that is certain leaves nothing to be remembered.
        let memory = self.memory.lock().take();
        let mut connection = connection?;
        match self.append_group(&mut connection, memory, batches).await {
            Ok(Appended { answers, memory }) => {
                // While the connection is held: nobody else commits through it.
                *self.memory.lock() = memory;
                Ok(answers)
            }
            Err(trouble) => Err(self.give_up(connection, trouble, Failure::Refused).await),
        }
    }

    async fn restore(&self, origin: Origin, events: &[Event]) -> Result<(), Failure> {
        let mut connection = self.connection().await?;
        *self.memory.lock() = None;
        match self.restore_within(&mut connection, origin, events).await {
            Ok(()) => Ok(()),
            Err(trouble) => Err(self.give_up(connection, trouble, Failure::All).await),
        }
    }

    async fn standing(&self) -> Result<Standing> {
        let state =
            sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
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
        let state =
            sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        let (epoch, store_id): (i64, String) = (state.get(1), state.get(3));
        let store_id =
            Uuid::parse_str(&store_id).map_err(|error| Error::Database { store: self.shown.clone(), code: None, message: error.to_string() })?;
        Ok(StoreIdentity { store_id, epoch: u32::try_from(epoch).unwrap_or(u32::MAX) })
    }

    async fn head(&self) -> Result<u64> {
        let state =
            sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        Ok(unsigned(state.get(0)))
    }

    async fn stream(&self, tenant: &str, aggregate_id: &str) -> Result<Option<StreamInfo>> {
        let stream = sqlx::query(AssertSqlSafe(&*self.statements.stream)).bind(tenant).bind(aggregate_id);
        let row = stream.fetch_optional(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        Ok(row.filter(|row| row.get::<&str, _>(3) != LEFT_OUT).map(|row| StreamInfo {
            aggregate_type: row.get(0),
            version: AggregateVersion(unsigned(row.get(1))),
            last_position: Position(unsigned(row.get(2))),
        }))
    }

    // They come at once, and each of them may be as large as events in a block are.
    const PAGE_EVENTS_MAX: u64 = 512;

    type Raw = Raw;

    async fn page(&self, page: &Page) -> Result<Raw> {
        if page.limit > FEW as u64 {
            match self.block(page).await? {
                Ok(row) => return Ok(Raw::Block(row)),
                // Row by row it shows in which event somebody changed something by hand.
                Err(sqlx::Error::Database(_)) => {}
                Err(error) => return Err(self.error(&error)),
            }
        }
        self.rows(&Page { limit: page.limit.min(FEW as u64), ..page.clone() }).await.map(Raw::Rows)
    }

    fn outline(page: &Page, raw: &Raw) -> Option<Outline> {
        match raw {
            Raw::Block(row) => outline(row, page).ok().flatten(),
            Raw::Rows(_) => None,
        }
    }

    fn found(&self, page: &Page, raw: Raw) -> Result<Found> {
        match raw {
            Raw::Block(row) => events(&row, page).map_err(|trouble| self.told(trouble)),
            Raw::Rows(found) => Ok(found),
        }
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn as_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Serialization { reason: error.to_string() })
}
