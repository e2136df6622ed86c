//! The tables of a store: made on opening, brought up to date by versioned migrations, refused if a newer release made them.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr};

#[cfg(feature = "postgres")]
use crate::options::Missing;
use crate::table::TableName;

/// What opening found.
pub(crate) enum Migrated {
    /// The tables are those of this release.
    Current,
    /// A newer release made them.
    Newer { found: u32, supported: u32 },
}

/// A migration: its version, what it does, its statements.
type Step = (i64, &'static str, &'static str);

fn migrator(table: &TableName, steps: &[Step]) -> Migrator {
    let migrations = steps.iter().map(|(version, description, statements)| {
        let sql = AssertSqlSafe(table.fill(statements)).into_sql_str();
        Migration::new(*version, Cow::Borrowed(description), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(migrations_table(table));
    migrator
}

fn migrations_table(table: &TableName) -> String {
    format!("{table}_migrations")
}

/// Compares what was applied with what there is.
fn standing(applied: Option<i64>, steps: &[Step]) -> Option<Migrated> {
    let newest = steps.last().map_or(0, |(version, ..)| *version);
    match applied {
        Some(applied) if applied > newest => {
            let number = |version: i64| u32::try_from(version).unwrap_or(u32::MAX);
            Some(Migrated::Newer { found: number(applied), supported: number(newest) })
        }
        Some(applied) if applied == newest => Some(Migrated::Current),
        _ => None,
    }
}

#[cfg(feature = "sqlite")]
pub(crate) async fn migrate_sqlite(pool: &sqlx::SqlitePool, table: &TableName) -> sqlx::Result<Migrated> {
    const STEPS: &[Step] = &[(1, "events and state", include_str!("sqlite.sql"))];
    if let Some(standing) = standing(applied_to_sqlite(pool, table).await?, STEPS) {
        return Ok(standing);
    }
    let migrated = migrator(table, STEPS).run(pool).await;
    // Another process may have made the tables meanwhile: SQLite has no lock for it.
    match standing(applied_to_sqlite(pool, table).await?, STEPS) {
        Some(standing) => Ok(standing),
        None => Ok(migrated.map(|()| Migrated::Current)?),
    }
}

#[cfg(feature = "sqlite")]
async fn applied_to_sqlite(pool: &sqlx::SqlitePool, table: &TableName) -> sqlx::Result<Option<i64>> {
    if !is_in_sqlite(pool, table).await? {
        return Ok(None);
    }
    sqlx::query_scalar(AssertSqlSafe(newest(table))).fetch_one(pool).await
}

/// Whether there are tables of that name.
#[cfg(feature = "sqlite")]
pub(crate) async fn is_in_sqlite(executor: impl sqlx::SqliteExecutor<'_>, table: &TableName) -> sqlx::Result<bool> {
    let there = sqlx::query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?").bind(migrations_table(table));
    Ok(there.fetch_optional(executor).await?.is_some())
}

/// `None` if there are no tables, and none are to be made.
#[cfg(feature = "postgres")]
pub(crate) async fn migrate_postgres(pool: &sqlx::PgPool, table: &TableName, missing: Missing) -> sqlx::Result<Option<Migrated>> {
    const STEPS: &[Step] = &[(1, "events and state", include_str!("postgres.sql"))];
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(format!("\"{}\"", migrations_table(table))).fetch_one(pool).await?;
    if there {
        // A role that may only use the tables needs no right to make them.
        let applied: Option<i64> = sqlx::query_scalar(AssertSqlSafe(newest(table))).fetch_one(pool).await?;
        if let Some(standing) = standing(applied, STEPS) {
            return Ok(Some(standing));
        }
    } else if missing == Missing::Refuse {
        return Ok(None);
    }
    migrator(table, STEPS).run(pool).await?;
    Ok(Some(Migrated::Current))
}

/// The statement that tells the version of the tables.
fn newest(table: &TableName) -> String {
    format!(r#"SELECT max(version) FROM "{}" WHERE success"#, migrations_table(table))
}
