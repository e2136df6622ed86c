//! Events as Postgres' rows: how pages of them are read.

use eventuali::{Event, Result, Tag};
use sqlx::postgres::PgRow;
use sqlx::{Decode, Postgres, Row as _, Type};

use super::Trouble;
use crate::sql::database::unsigned;
use crate::sql::row::Columns;
use crate::sql::timestamptz::Micros;

/// What is kept of an event.
pub(super) const COLUMNS: &str = "global_position, id, tenant, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data::text, \
     event_data_type, event_bytes, metadata::text, metadata_bytes, tags, timestamp, timestamp_micros";
/// The column behind them, in a page: the head of the store.
const HEAD: usize = 16;

/// What is looked at in a row. That the columns have their types need be checked only in the first one of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Types,
    Values,
}

fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, column: usize, check: Check) -> sqlx::Result<T> {
    if check == Check::Types { row.try_get(column) } else { row.try_get_unchecked(column) }
}

/// The last position of the store.
pub(super) fn head_of(row: &PgRow, check: Check) -> sqlx::Result<u64> {
    get::<Option<i64>>(row, HEAD, check)?.map(unsigned).ok_or(sqlx::Error::RowNotFound)
}

/// The event of a row.
pub(super) fn event(row: &PgRow, check: Check) -> Result<Event, Trouble> {
    let (Micros(moment), micros): (Micros, Option<i64>) = (get(row, 14, check)?, get(row, 15, check)?);
    let metadata = match get::<Option<&[u8]>>(row, 12, check)? {
        Some(exact) => std::str::from_utf8(exact).map_err(|error| sqlx::Error::Decode(error.into()))?,
        None => get(row, 11, check)?,
    };
    let tags: Option<Vec<String>> = get(row, 13, check)?;
    let payload = match get::<Option<&[u8]>>(row, 10, check)? {
        Some(exact) => exact,
        None => get::<&str>(row, 8, check)?.as_bytes(),
    };
    let columns = Columns {
        position: get(row, 0, check)?,
        id: get(row, 1, check)?,
        tenant: get(row, 2, check)?,
        aggregate_id: get(row, 3, check)?,
        aggregate_type: get(row, 4, check)?,
        event_type: get(row, 5, check)?,
        schema_version: get(row, 6, check)?,
        version: get(row, 7, check)?,
        data_type: get(row, 9, check)?,
        payload,
        metadata,
        tags: tags.unwrap_or_default().into_iter().map(Tag).collect(),
        timestamp: micros.unwrap_or(moment),
    };
    Ok(columns.into_event()?)
}
