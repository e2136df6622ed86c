//! Events that are moved here: rows in the binary form of COPY, which is the fastest way into a table.

use eventuali::{Event, NewEvent, Result};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{Payload, PostgresDatabase, Trouble, metadata_columns};
use crate::moving::{Origin, Standing, new_event};
use crate::sql::database::{behind, signed, unsigned};
use crate::sql::leaving::{Leaving, leavings};
use crate::sql::timestamptz::moment;

/// The columns in the order in which they are copied.
pub(super) const COPIED: &str = "global_position, id, tenant, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data, \
                                 event_data_type, event_bytes, metadata, metadata_bytes, tags, timestamp, timestamp_micros, epoch";
const COPIED_COUNT: i16 = 17;

/// How much is sent at once.
const CHUNK: usize = 256 << 10;

/// How the binary form begins: a signature, no flags, no extension. And how it ends.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: [u8; 2] = (-1_i16).to_be_bytes();

/// The version of JSONB's binary form.
const JSONB: u8 = 1;
/// The number of the type TEXT.
const TEXT: i32 = 25;

impl PostgresDatabase {
    pub(super) async fn restore_within(&self, connection: &mut PgConnection, origin: Origin, events: &[Event]) -> Result<(), Trouble> {
        let (standing, _) = self.begin(connection).await?;
        let events = behind(self.shown(), standing, origin, events)?;
        let Some(last) = events.last() else { return Ok(()) };
        let leavings = leavings(events)?;
        // What is there goes first: the source may have given an id again since.
        self.leave_out(connection, &leavings).await?;
        let mut copy = connection.copy_in_raw(&self.statements.copy).await?;
        let mut bytes = Vec::with_capacity(CHUNK * 2);
        bytes.extend_from_slice(HEAD);
        for event in events {
            row(&mut bytes, event, &new_event(event)?, i64::from(origin.epoch))?;
            if bytes.len() >= CHUNK {
                copy.send(&*bytes).await?;
                bytes.clear();
            }
        }
        bytes.extend_from_slice(&END);
        copy.send(&*bytes).await?;
        let copied = copy.finish().await?;
        self.check_inserted(copied, events.len())?;
        for leaving in &leavings {
            self.leave_out(connection, std::slice::from_ref(leaving)).await?;
            self.bury(connection, leaving).await?;
        }
        let moved = sqlx::query(AssertSqlSafe(&*self.statements.moved)).bind(signed(last.position().0)).bind(last.timestamp().0);
        moved.bind(i64::from(origin.epoch)).bind(origin.store_id).execute(&mut *connection).await?;
        Ok(())
    }

    /// Takes the content out of rows of what was deleted or limited.
    async fn leave_out(&self, connection: &mut PgConnection, leavings: &[Leaving]) -> sqlx::Result<()> {
        for Leaving { tenant, aggregate_id, after, .. } in leavings {
            let leave_out = sqlx::query(AssertSqlSafe(&*self.statements.leave_out)).bind(tenant).bind(aggregate_id);
            leave_out.bind(signed(*after)).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// Keeps what is to be known of an aggregate, if it is a deleted one.
    async fn bury(&self, connection: &mut PgConnection, leaving: &Leaving) -> sqlx::Result<()> {
        let Leaving { tenant, aggregate_id, aggregate_type, after, deleted_at: Some(deleted_at), position } = leaving else { return Ok(()) };
        let bury = sqlx::query(AssertSqlSafe(&*self.statements.bury)).bind(tenant).bind(aggregate_id).bind(aggregate_type);
        bury.bind(signed(*after)).bind(signed(*deleted_at)).bind(signed(*position)).execute(connection).await.map(drop)
    }

    /// Locks the state, and says how far the store has come, and in which epoch it is.
    pub(super) async fn begin(&self, connection: &mut PgConnection) -> Result<(Standing, State), Trouble> {
        use sqlx::Row as _;
        let begun = sqlx::raw_sql(AssertSqlSafe(&*self.statements.begin)).fetch_all(&mut *connection).await?;
        let row = begun.last().ok_or(sqlx::Error::RowNotFound)?;
        let origin: Option<Uuid> = row.try_get(4)?;
        let source_position: Option<i64> = row.try_get(5)?;
        let standing = Standing { head: unsigned(row.try_get(0)?), origin: origin.zip(source_position.map(unsigned)) };
        Ok((standing, State { epoch: row.try_get(1)?, last_commit: row.try_get(2)?, clock: row.try_get(3)? }))
    }
}

/// What the locked row says beside how far the store has come.
pub(super) struct State {
    pub(super) epoch: i64,
    /// In microseconds since 1970, as the server's clock.
    pub(super) last_commit: i64,
    pub(super) clock: i64,
}

fn field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    // A value is at most a payload long.
    let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

fn jsonb(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&i32::try_from(text.len() + 1).unwrap_or(i32::MAX).to_be_bytes());
    out.push(JSONB);
    out.extend_from_slice(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: i64) {
    field(out, Some(&number.to_be_bytes()));
}

fn row(out: &mut Vec<u8>, event: &Event, new: &NewEvent, epoch: i64) -> Result<()> {
    out.extend_from_slice(&COPIED_COUNT.to_be_bytes());
    number(out, signed(event.position().0));
    field(out, Some(new.id.as_bytes()));
    for name in [event.tenant(), event.aggregate_id(), event.aggregate_type(), event.event_type()] {
        field(out, Some(name.as_bytes()));
    }
    number(out, i64::from(new.schema_version));
    number(out, signed(event.version().0));
    let payload = Payload::of(&new.data)?;
    jsonb(out, payload.data);
    field(out, Some(payload.data_type.as_bytes()));
    field(out, payload.bytes);
    let (metadata, exact) = metadata_columns(&new.metadata)?;
    jsonb(out, &metadata);
    field(out, exact.as_deref());
    if new.tags.is_empty() {
        field(out, None);
    } else {
        let count = i32::try_from(new.tags.len()).unwrap_or(i32::MAX);
        let mut array = Vec::new();
        // One dimension, without NULLs, of this type, so long, counted from 1.
        for number in [1, 0, TEXT, count, 1] {
            array.extend_from_slice(&number.to_be_bytes());
        }
        new.tags.iter().for_each(|tag| field(&mut array, Some(tag.0.as_bytes())));
        field(out, Some(&array));
    }
    let (moment, micros) = moment(event.timestamp());
    number(out, moment.on_the_wire());
    field(out, micros.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    number(out, epoch);
    Ok(())
}
