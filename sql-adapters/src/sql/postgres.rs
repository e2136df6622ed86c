//! A store in a Postgres database.

mod connections;
mod faults;
mod restore;
mod rows;

use std::str::FromStr;
use std::time::Duration;

use eventuali::{
    AggregateVersion, AppendBatch, Capabilities, Durability, Error, Event, EventData, Position, ReadAll, Receipt, Result, StoreIdentity, StreamInfo,
    Timestamp,
};
use futures_util::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Row as _};
use tokio::sync::Mutex;
use uuid::Uuid;

use connections::{Connections, not_a_url};
use faults::{commit_fault, fault};
use restore::COPIED;
use rows::{COLUMNS, Check, event, head_of};

use super::database::{Collected, Database, Failure, Found, Of, Outline, Page, asked, own_epoch, signed, unsigned};
use super::decide::{Decided, Known, decide};
use super::leaving::{IS_THERE, LEFT_OUT};
use super::row::{JSON, PROTOBUF, metadata_text};
use super::schema::{self, Migrated};
use super::store::{SqlStore, sql_store};
use super::timestamptz::{Micros, moment};
use crate::config::no_store;
use crate::connection::Address;
use crate::json;
use crate::moving::{Origin, Standing};
use crate::options::{Missing, SqlOptions};
use crate::table::TableName;

/// A Postgres database that holds a store.
pub(crate) struct PostgresDatabase {
    table: TableName,
    statements: Statements,
    connections: Connections,
    /// The writer's connection, kept from group to group while it is sound.
    writer: Mutex<Option<PoolConnection<Postgres>>>,
    capabilities: Capabilities,
}

sql_store! {
    /// A store in a Postgres database. Clones are handles on the same store.
    PostgresStore over PostgresDatabase
}

impl PostgresStore {
    /// Whether the driver understands an address.
    pub(crate) fn check(address: &Address) -> Result<()> {
        PgConnectOptions::from_str(&address.0).map(drop).map_err(|_| not_a_url())
    }

    pub(crate) fn open(address: Address, options: SqlOptions, missing: Missing) -> Result<Self> {
        SqlStore::open(async move { PostgresDatabase::open(&address.0, &options, missing).await }).map(Self)
    }
}

struct Statements {
    begin: String,
    state: String,
    copy: String,
    moved: String,
    streams: String,
    events: String,
    insert: String,
    stream: String,
    /// Leaves out the first versions of a stream.
    leave_out: String,
    /// Keeps the names and the version of a deleted stream where its last event was.
    bury: String,
}

impl Statements {
    fn new(table: &TableName) -> Self {
        let fill = |statement: &str| table.fill(statement).replace("{columns}", COLUMNS).replace("{copied}", COPIED);
        Self {
            // The row is locked before anything else is read: what is read later is what the last commit left.
            begin: fill(
                r#"BEGIN; SELECT head, epoch, last_commit, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, source_store_id, source_position
                   FROM "{table}_state" WHERE id = 1 FOR UPDATE"#,
            ),
            state: fill(r#"SELECT head, epoch, store_id, source_store_id, source_position FROM "{table}_state" WHERE id = 1"#),
            copy: fill(r#"COPY "{table}" ({copied}) FROM STDIN (FORMAT binary)"#),
            moved: fill(
                r#"UPDATE "{table}_state" SET head = $1, epoch = $3, source_store_id = $4, source_epoch = $3, source_position = $1,
                   last_commit = greatest(last_commit, least($2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)) WHERE id = 1"#,
            ),
            streams: fill(
                r#"SELECT k.place - 1, e.aggregate_type, e.aggregate_version, e.event_type = '$left_out'
                   FROM UNNEST($1::varchar[], $2::varchar[]) WITH ORDINALITY AS k (tenant, aggregate_id, place)
                   CROSS JOIN LATERAL (SELECT aggregate_type, aggregate_version, event_type FROM "{table}" WHERE tenant = k.tenant AND aggregate_id = k.aggregate_id
                                       ORDER BY aggregate_version DESC LIMIT 1) AS e"#,
            ),
            // One look into the index for each id. A plan for all of them at once, made while the table was empty, reads it whole.
            events: fill(
                r#"SELECT e.* FROM UNNEST($1::uuid[]) AS k (id)
                   CROSS JOIN LATERAL (SELECT {columns} FROM "{table}" WHERE id = k.id LIMIT 1) AS e"#,
            ),
            insert: fill(
                r#"WITH advanced AS (UPDATE "{table}_state" SET head = $1, last_commit = $2, epoch = $3 WHERE id = 1)
                   INSERT INTO "{table}" ({copied})
                   SELECT e.position, e.id, e.tenant, e.aggregate_id, e.aggregate_type, e.event_type, e.schema_version, e.version,
                          e.data::jsonb, e.data_type, e.bytes, e.metadata::jsonb, e.metadata_bytes,
                          CASE WHEN e.tags IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(e.tags::jsonb)) END,
                          e.timestamp, e.timestamp_micros, $3
                   FROM UNNEST($4::bigint[], $5::uuid[], $6::varchar[], $7::varchar[], $8::varchar[], $9::varchar[], $10::bigint[], $11::bigint[],
                               $12::text[], $13::varchar[], $14::bytea[], $15::text[], $16::bytea[], $17::text[], $18::timestamptz[], $19::bigint[])
                        AS e (position, id, tenant, aggregate_id, aggregate_type, event_type, schema_version, version, data, data_type, bytes,
                              metadata, metadata_bytes, tags, timestamp, timestamp_micros)"#,
            ),
            stream: fill(
                r#"SELECT aggregate_type, aggregate_version, global_position, event_type FROM "{table}"
                   WHERE tenant = $1 AND aggregate_id = $2 ORDER BY aggregate_version DESC LIMIT 1"#,
            ),
            leave_out: fill(
                r#"UPDATE "{table}" SET id = gen_random_uuid(), tenant = '', aggregate_id = '$left_out', aggregate_type = '$',
                   event_type = '$left_out', event_version = 1, aggregate_version = global_position, event_data = 'null', event_data_type = 'json',
                   event_bytes = NULL, metadata = '{}', metadata_bytes = NULL, tags = NULL, timestamp = 'epoch', timestamp_micros = NULL
                   WHERE tenant = $1 AND aggregate_id = $2 AND aggregate_version <= $3"#,
            ),
            bury: fill(
                r#"UPDATE "{table}" SET tenant = $1, aggregate_id = $2, aggregate_type = $3, aggregate_version = $4 WHERE global_position = coalesce(
                   (SELECT global_position FROM "{table}" WHERE tenant = '' AND aggregate_id = '$left_out' AND aggregate_version = $5),
                   (SELECT max(aggregate_version) FROM "{table}" WHERE tenant = '' AND aggregate_id = '$left_out' AND aggregate_version < $6))"#,
            ),
        }
    }
}

impl PostgresDatabase {
    pub(crate) async fn open(url: &str, options: &SqlOptions, missing: Missing) -> Result<Self> {
        let (connections, mut first) = Connections::open(url, options).await?;
        let shown = &connections.shown;
        let fail = |error: sqlx::Error| fault(shown, &error).error();
        let durability = durability(&mut first).await.map_err(fail)?;
        let encoding: String = sqlx::query_scalar("SELECT current_setting('server_encoding')").fetch_one(&mut first).await.map_err(fail)?;
        first.close().await.map_err(fail)?;
        if encoding != "UTF8" {
            return Err(Error::configuration(format!(
                "{shown} has the encoding {encoding}, which cannot hold every text; make a database with UTF8"
            )));
        }
        match schema::migrate_postgres(&connections.pool, &options.table, missing).await.map_err(fail)? {
            Some(Migrated::Current) => {}
            None => return Err(no_store(&options.table.within(shown))),
            Some(Migrated::Newer { found, supported }) => {
                return Err(Error::FormatVersion { path: shown.into(), found, readable_from: found, supported });
            }
        }
        let capabilities = Capabilities::new("postgres", durability, true, true).json_as_values();
        let statements = Statements::new(&options.table);
        let database = Self { table: options.table.clone(), statements, connections, writer: Mutex::new(None), capabilities };
        // Tables that were made, but are gone or may not be read, are told now and not at the first append.
        let nothing = Page { to: 0, ..Page::all(ReadAll::new()) };
        database.page(&nothing).await?;
        database.head().await?;
        Ok(database)
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> &str {
        &self.connections.shown
    }

    fn error(&self, error: &sqlx::Error) -> Error {
        self.connections.fault(error).error()
    }

    /// A connection to read with.
    async fn reader(&self) -> Result<PoolConnection<Postgres>> {
        self.connections.acquire().await.map_err(Failure::error)
    }

    /// Everything between the transaction's beginning and its commit.
    async fn store(&self, connection: &mut PgConnection, batches: &[&AppendBatch]) -> Result<Vec<Result<Vec<Receipt>>>, Trouble> {
        let (standing, state) = self.begin(connection).await?;
        let source_position = standing.origin.map(|(_, position)| signed(position));
        let epoch = own_epoch(state.epoch, signed(standing.head), source_position);
        let now = Timestamp(state.last_commit.max(state.clock));
        let mut known = Known::new(standing.head, now);
        let (keys, ids) = asked(batches);
        let (tenants, aggregates): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
        let rows = sqlx::query(AssertSqlSafe(&*self.statements.streams)).bind(tenants).bind(aggregates).fetch_all(&mut *connection).await?;
        for row in rows {
            known.add_stream(&keys, row.try_get(0)?, row.try_get(1)?, unsigned(row.try_get(2)?), row.try_get(3)?);
        }
        if !ids.is_empty() {
            let rows = sqlx::query(AssertSqlSafe(&*self.statements.events)).bind(ids).fetch_all(&mut *connection).await?;
            for row in &rows {
                let event = event(row, Check::Types)?;
                known.events.insert(event.id(), event);
            }
        }
        let decided = decide(known, batches.iter().copied(), self.capabilities.durability, same_json);
        self.insert(connection, &decided, now, epoch).await?;
        Ok(decided.answers)
    }

    async fn insert(&self, connection: &mut PgConnection, decided: &Decided<'_>, now: Timestamp, epoch: i64) -> Result<(), Trouble> {
        let rows = &decided.rows;
        let Some(last) = rows.last() else { return Ok(()) };
        let payloads: Vec<Payload<'_>> = rows.iter().map(|row| Payload::of(&row.event.data)).collect::<Result<_>>()?;
        let metadata: Vec<(String, Option<Vec<u8>>)> = rows.iter().map(|row| metadata_columns(&row.event.metadata)).collect::<Result<_>>()?;
        let tags: Vec<Option<String>> = rows.iter().map(|row| super::row::tags_text(&row.event.tags)).collect::<Result<_>>()?;
        let moments: Vec<(Micros, Option<i64>)> = rows.iter().map(|row| moment(row.timestamp)).collect();
        let insert = sqlx::query(AssertSqlSafe(&*self.statements.insert))
            .bind(signed(last.position))
            .bind(now.0)
            .bind(epoch)
            .bind(rows.iter().map(|row| signed(row.position)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.event.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.tenant).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.aggregate_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.aggregate_type).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| &*row.event.event_type).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| i64::from(row.event.schema_version)).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| signed(row.version)).collect::<Vec<_>>())
            .bind(payloads.iter().map(|payload| payload.data).collect::<Vec<_>>())
            .bind(payloads.iter().map(|payload| payload.data_type).collect::<Vec<_>>())
            .bind(payloads.iter().map(|payload| payload.bytes).collect::<Vec<_>>())
            .bind(metadata.iter().map(|(text, _)| &**text).collect::<Vec<_>>())
            .bind(metadata.iter().map(|(_, bytes)| bytes.as_deref()).collect::<Vec<_>>())
            .bind(tags)
            .bind(moments.iter().map(|(moment, _)| *moment).collect::<Vec<_>>())
            .bind(moments.iter().map(|(_, micros)| *micros).collect::<Vec<_>>());
        let inserted = insert.execute(&mut *connection).await?.rows_affected();
        self.check_inserted(inserted, rows.len())
    }

    /// A trigger may leave rows out, and the server says nothing but how many it took.
    fn check_inserted(&self, inserted: u64, events: usize) -> Result<(), Trouble> {
        if inserted == events as u64 {
            return Ok(());
        }
        let message = format!("its events table took {inserted} of {events} events; let no trigger or rule of that table leave rows out");
        Err(Trouble::Store(Error::Database { store: self.shown().to_owned(), code: None, message }))
    }

    /// The writer's connection: the one it had, or a new one.
    async fn writer(&self) -> Result<PoolConnection<Postgres>, Failure> {
        match self.writer.lock().await.take() {
            Some(connection) => Ok(connection),
            None => self.connections.acquire().await,
        }
    }

    /// Commits what was done with the writer's connection and keeps it, or gives it up.
    async fn end<T>(&self, mut connection: PoolConnection<Postgres>, done: Result<T, Trouble>, refused: fn(Error) -> Failure) -> Result<T, Failure> {
        let failure = match done {
            Ok(answer) => match sqlx::raw_sql("COMMIT").execute(&mut *connection).await {
                Ok(_) => {
                    *self.writer.lock().await = Some(connection);
                    return Ok(answer);
                }
                Err(error) => commit_fault(self.shown(), &error),
            },
            Err(Trouble::Database(error)) => self.connections.fault(&error),
            Err(Trouble::Store(error)) => refused(error),
        };
        // Closing the connection ends its transaction, whatever state it is in.
        let _ = connection.detach().close_hard().await;
        Err(failure)
    }
}

/// A payload in its columns.
struct Payload<'a> {
    data: &'a str,
    data_type: &'static str,
    /// Its exact bytes, where JSONB cannot hold them.
    bytes: Option<&'a [u8]>,
}

impl<'a> Payload<'a> {
    fn of(data: &'a EventData) -> Result<Self> {
        let bytes = data.as_bytes();
        match data {
            EventData::Protobuf(_) => Ok(Self { data: "null", data_type: PROTOBUF, bytes: Some(bytes) }),
            EventData::Json(_) if json::fits_jsonb(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|error| Error::Serialization { reason: format!("it is not UTF-8: {error}") })?;
                Ok(Self { data: text, data_type: JSON, bytes: None })
            }
            EventData::Json(_) => Ok(Self { data: "null", data_type: JSON, bytes: Some(bytes) }),
        }
    }
}

/// The metadata as JSONB, or its exact text where JSONB cannot hold it.
fn metadata_columns(metadata: &eventuali::EventMetadata) -> Result<(String, Option<Vec<u8>>)> {
    let text = metadata_text(metadata)?;
    if json::fits_jsonb(text.as_bytes()) { Ok((text, None)) } else { Ok(("{}".to_owned(), Some(text.into_bytes()))) }
}

fn same_json(stored: &[u8], appended: &[u8]) -> bool {
    json::comparable_json(stored) == json::comparable_json(appended)
}

/// What ends a transaction before its commit.
enum Trouble {
    Database(sqlx::Error),
    Store(Error),
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

impl Database for PostgresDatabase {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn patience(&self) -> Duration {
        self.connections.pool.options().get_acquire_timeout()
    }

    async fn append(&self, batches: &[&AppendBatch]) -> Result<Vec<Result<Vec<Receipt>>>, Failure> {
        let mut connection = self.writer().await?;
        let done = self.store(&mut connection, batches).await;
        self.end(connection, done, Failure::Refused).await
    }

    async fn restore(&self, origin: Origin, events: &[Event]) -> Result<(), Failure> {
        let mut connection = self.writer().await?;
        let done = self.restore_within(&mut connection, origin, events).await;
        self.end(connection, done, Failure::All).await
    }

    async fn standing(&self) -> Result<Standing> {
        let state =
            sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        let (store_id, position): (Option<Uuid>, Option<i64>) = (state.get(3), state.get(4));
        Ok(Standing { head: unsigned(state.get(0)), origin: store_id.zip(position.map(unsigned)) })
    }

    async fn sync(&self) -> Result<u64> {
        if self.capabilities.durability == Durability::Sync {
            return self.head().await;
        }
        // A commit that waits for the disk has everything before it on the disk.
        let barrier = self.table.fill(r#"BEGIN; SET LOCAL synchronous_commit = on; UPDATE "{table}_state" SET head = head WHERE id = 1; COMMIT"#);
        let head = self.head().await?;
        sqlx::raw_sql(AssertSqlSafe(barrier)).execute(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        Ok(head)
    }

    async fn identity(&self) -> Result<StoreIdentity> {
        let state =
            sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        let epoch: i64 = state.get(1);
        Ok(StoreIdentity { store_id: state.get(2), epoch: u32::try_from(epoch).unwrap_or(u32::MAX) })
    }

    async fn head(&self) -> Result<u64> {
        let state =
            sqlx::query(AssertSqlSafe(&*self.statements.state)).fetch_one(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        Ok(unsigned(state.get(0)))
    }

    async fn stream(&self, tenant: &str, aggregate_id: &str) -> Result<Option<StreamInfo>> {
        if [tenant, aggregate_id].iter().any(|name| name.contains('\0')) {
            return Ok(None);
        }
        let stream = sqlx::query(AssertSqlSafe(&*self.statements.stream)).bind(tenant).bind(aggregate_id);
        let row = stream.fetch_optional(&mut *self.reader().await?).await.map_err(|error| self.error(&error))?;
        Ok(row.filter(|row| row.get::<&str, _>(3) != LEFT_OUT).map(|row| StreamInfo {
            aggregate_type: row.get(0),
            version: AggregateVersion(unsigned(row.get(1))),
            last_position: Position(unsigned(row.get(2))),
        }))
    }

    // They come row by row, until there are enough.
    const PAGE_EVENTS_MAX: u64 = 2048;

    type Raw = Found;

    fn outline(_: &Page, _: &Found) -> Option<Outline> {
        None
    }

    fn found(&self, _: &Page, found: Found) -> Result<Found> {
        Ok(found)
    }

    async fn page(&self, page: &Page) -> Result<Found> {
        let order = if page.backwards { "DESC" } else { "ASC" };
        let head = r#"(SELECT head FROM "{table}_state" WHERE id = 1)"#;
        let statement = match &page.of {
            Of::All { event_types, aggregate_types, include_system } => {
                let types = |wanted: &[String], condition| if wanted.is_empty() { "" } else { condition };
                let events = types(event_types, "AND event_type = ANY($5)");
                let aggregates = types(aggregate_types, "AND aggregate_type = ANY($6)");
                let system = match (*include_system, event_types.is_empty()) {
                    (false, _) => "AND left(event_type, 1) <> '$'",
                    (true, true) => IS_THERE,
                    (true, false) => "",
                };
                // Arrays that no condition uses have no type that could be guessed.
                let given_types = "AND $5::varchar[] IS NOT NULL AND $6::varchar[] IS NOT NULL";
                format!(
                    r#"SELECT {COLUMNS}, {head} FROM "{{table}}" WHERE global_position BETWEEN $1 AND $2 AND global_position <= $3
                       {given_types} {events} {aggregates} {system} ORDER BY global_position {order} LIMIT $4"#
                )
            }
            Of::Stream { .. } => format!(
                r#"SELECT {COLUMNS}, {head} FROM "{{table}}" WHERE aggregate_version BETWEEN $1 AND $2 AND global_position <= $3
                   AND tenant = $5 AND aggregate_id = $6 {IS_THERE} ORDER BY aggregate_version {order} LIMIT $4"#
            ),
        };
        let statement = self.table.fill(&statement);
        let query =
            sqlx::query(AssertSqlSafe(statement)).bind(signed(page.from)).bind(signed(page.to)).bind(signed(page.head)).bind(signed(page.limit));
        let has_nul = |names: &[String]| names.iter().any(|name| name.contains('\0'));
        let query = match &page.of {
            // No stored name has a NUL, and Postgres refuses text that has one.
            Of::All { event_types, aggregate_types, .. } => {
                if has_nul(event_types) || has_nul(aggregate_types) {
                    let without = |names: &[String]| names.iter().filter(|name| !name.contains('\0')).cloned().collect::<Vec<_>>();
                    query.bind(without(event_types)).bind(without(aggregate_types))
                } else {
                    query.bind(event_types).bind(aggregate_types)
                }
            }
            Of::Stream { tenant, aggregate_id } => {
                if tenant.contains('\0') || aggregate_id.contains('\0') {
                    return Ok(Collected::new(page).found());
                }
                query.bind(&**tenant).bind(&**aggregate_id)
            }
        };
        let mut connection = self.reader().await?;
        let mut rows = query.fetch(&mut *connection);
        let mut collected = Collected::new(page);
        while let Some(row) = rows.try_next().await.map_err(|error| self.error(&error))? {
            let check = if collected.is_empty() { Check::Types } else { Check::Values };
            let head = head_of(&row, check).map_err(|error| self.error(&error))?;
            let event = event(&row, check).map_err(|trouble| match trouble {
                Trouble::Database(error) => self.error(&error),
                Trouble::Store(error) => error,
            })?;
            if !collected.push(event, head) {
                break;
            }
        }
        drop(rows);
        if collected.leaves_much() {
            // Before its next use a connection is read to the end.
            let _ = connection.detach().close_hard().await;
        }
        Ok(collected.found())
    }

    async fn close(&self) {
        drop(self.writer.lock().await.take());
        self.connections.pool.close().await;
    }
}

/// What the server promises of a commit.
async fn durability(connection: &mut PgConnection) -> sqlx::Result<Durability> {
    let setting =
        async |connection: &mut PgConnection, name: &'static str| -> sqlx::Result<String> { sqlx::query_scalar(name).fetch_one(connection).await };
    let fsync = setting(&mut *connection, "SELECT current_setting('fsync')").await?;
    let commit = setting(&mut *connection, "SELECT current_setting('synchronous_commit')").await?;
    let delay: String = setting(&mut *connection, "SELECT setting FROM pg_settings WHERE name = 'wal_writer_delay'").await?;
    Ok(match (&*fsync, &*commit) {
        ("off", _) => Durability::Os,
        // The server's WAL writer is at most three of its rounds behind.
        (_, "off") => Durability::Interval(Duration::from_millis(delay.parse().unwrap_or(200) * 3)),
        _ => Durability::Sync,
    })
}
