//! What sqlx does with rows alone: the least that a store over it must do.

use std::str::FromStr;

use futures_util::TryStreamExt;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::runtime::{Builder, Runtime};

use crate::Result;

/// The columns of a store's table that are copied.
const COLUMNS: &str = "global_position, id, tenant, aggregate_id, aggregate_type, event_type, event_version, aggregate_version, event_data, \
                       event_data_type, event_bytes, metadata, metadata_bytes, tags, timestamp, timestamp_micros, epoch";
/// How the binary form of COPY begins, and how it ends.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: [u8; 2] = [0xff, 0xff];
/// How much is sent at once.
const CHUNK: usize = 256 << 10;

/// The runtime that bare loops run on.
pub(super) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// A connection of one's own.
pub(super) struct Bare {
    runtime: Runtime,
    connection: PgConnection,
}

impl Bare {
    pub(super) fn new(url: &str) -> Result<Self> {
        let runtime = runtime()?;
        let connection = runtime.block_on(PgConnectOptions::from_str(url)?.connect())?;
        Ok(Self { runtime, connection })
    }

    pub(super) fn run(&mut self, statements: &str) -> Result<()> {
        self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut self.connection))?;
        Ok(())
    }

    /// Everything in a table, in the binary form of COPY.
    pub(super) fn copy_out(&mut self, table: &str) -> Result<Vec<u8>> {
        let statement = format!(r#"COPY (SELECT {COLUMNS} FROM "{table}" ORDER BY global_position) TO STDOUT (FORMAT binary)"#);
        self.runtime.block_on(async {
            let mut bytes = Vec::new();
            let mut out = self.connection.copy_out_raw(&statement).await?;
            while let Some(part) = out.try_next().await? {
                bytes.extend_from_slice(&part);
            }
            Ok(bytes)
        })
    }

    /// Rows into a table, each part in a transaction of its own.
    pub(super) fn copy_in(&mut self, table: &str, parts: &[Vec<u8>]) -> Result<()> {
        let statement = format!(r#"COPY "{table}" ({COLUMNS}) FROM STDIN (FORMAT binary)"#);
        self.runtime.block_on(async {
            for part in parts {
                let mut transaction = self.connection.begin().await?;
                let mut copy = transaction.copy_in_raw(&statement).await?;
                for chunk in part.chunks(CHUNK) {
                    copy.send(chunk).await?;
                }
                copy.finish().await?;
                transaction.commit().await?;
            }
            Ok(())
        })
    }

    /// Runs a future on this connection.
    pub(super) fn on<T>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> Result<T> {
        Ok(self.runtime.block_on(work(&mut self.connection))?)
    }
}

/// The rows of a copied table in parts of so many rows.
pub(super) fn parts(copied: &[u8], rows: usize) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut rest = copied.get(HEAD.len()..).unwrap_or_default();
    let mut part = HEAD.to_vec();
    let mut count = 0;
    while let Some(length) = row_bytes(rest) {
        let (row, behind) = rest.split_at(length);
        part.extend_from_slice(row);
        (rest, count) = (behind, count + 1);
        if count == rows {
            part.extend_from_slice(&END);
            parts.push(std::mem::replace(&mut part, HEAD.to_vec()));
            count = 0;
        }
    }
    if count > 0 {
        part.extend_from_slice(&END);
        parts.push(part);
    }
    parts
}

/// How long the first row is; nothing at the end.
fn row_bytes(bytes: &[u8]) -> Option<usize> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(i32::from_be_bytes);
    let fields = i16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    let mut at = 2;
    for _ in 0..usize::try_from(fields).ok()? {
        // A length of -1 is NULL.
        at += 4 + usize::try_from(number(at)?).unwrap_or(0);
    }
    Some(at)
}
