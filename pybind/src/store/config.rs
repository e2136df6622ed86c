//! What connection strings and configs say, as the config that opens a store.

use std::path::{Component, PathBuf};
use std::time::Duration;

use eventuali::{Compress, Durability, Error, Follow, Result, SealedReads};
use eventuali_sql::{Config, Synchronous};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::arguments::at_least;
use crate::bridge::{self, configuration};
use crate::text::{self, kind};

/// Checks what a config says, and opens nothing; its place without secrets.
#[pyfunction]
pub(crate) fn check_config(place: PathBuf, kind: &str, options: &Bound<'_, PyDict>) -> PyResult<String> {
    configured(place, Some(kind), options).map(|config| config.to_string())
}

/// Where a store is, and how it is to be opened: `place` is a connection string unless `kind` is the kind of a config.
///
/// # Errors
/// `ConfigurationError` or `TypeError` for what cannot be used; none shows what may be a password.
pub(super) fn configured(place: PathBuf, kind: Option<&str>, options: &Bound<'_, PyDict>) -> PyResult<Config> {
    let refused = |error: Error| bridge::raise(options.py(), &error);
    let mut config = match kind {
        None => named_by(place).map_err(refused)?,
        Some("embedded") => Config::embedded(place),
        Some("sqlite") if place.as_os_str() == ":memory:" => Config::sqlite_in_memory(),
        Some("sqlite") => Config::sqlite(place),
        Some(_) => Config::postgres(&place.to_string_lossy()).map_err(refused)?,
    };
    for (name, value) in options.iter() {
        config = with_option(config, &name.extract::<String>()?, &value)?;
    }
    config.check().map_err(refused)?;
    Ok(config)
}

/// What a connection string names; one that is not UTF-8 can only be a path.
fn named_by(place: PathBuf) -> Result<Config> {
    match (place.to_str(), place.components().next()) {
        (Some(text), _) => Config::parse(text),
        (None, None | Some(Component::Normal(_))) => {
            Err(Error::configuration("the connection string has bytes that are not UTF-8; a directory of such a name is given as a pathlib.Path"))
        }
        (None, Some(_)) => Ok(Config::embedded(place)),
    }
}

fn with_option(config: Config, name: &str, value: &Bound<'_, PyAny>) -> PyResult<Config> {
    let refused = |error: Error| bridge::raise(value.py(), &error);
    Ok(match name {
        "durability" => config.durability(durability(value)?),
        "sealed_reads" => config.sealed_reads(sealed_reads(value)?),
        "compress_older_than" => config.compression(compression(name, value)?),
        "read_only" => config.read_only(follow(value)?),
        "table_name" => config.table_name(&word(name, value)?).map_err(refused)?,
        "max_connections" => config.max_connections(u32::try_from(at_least(name, 1, value)?).unwrap_or(u32::MAX)),
        "acquire_timeout" => config.acquire_timeout(milliseconds(name, value)?),
        "lock_timeout" => config.lock_timeout(milliseconds(name, value)?),
        "statement_timeout" => config.statement_timeout(milliseconds(name, value)?),
        "synchronous" => config.synchronous(synchronous(value)?),
        _ => return Err(PyTypeError::new_err(format!("there is no option {name:?}"))),
    })
}

/// `"sync"`, `"os"`, or the number of milliseconds within which everything is synced.
fn durability(value: &Bound<'_, PyAny>) -> PyResult<Durability> {
    match value.extract::<u64>() {
        Ok(ms) => Ok(Durability::Interval(Duration::from_millis(ms))),
        Err(_) if value.extract::<&str>()? == "os" => Ok(Durability::Os),
        Err(_) => Ok(Durability::Sync),
    }
}

fn sealed_reads(value: &Bound<'_, PyAny>) -> PyResult<SealedReads> {
    match &*word("sealed_reads", value)? {
        "read" => Ok(SealedReads::Read),
        "mapped" => Ok(SealedReads::Mapped),
        _ => Err(configuration(value.py(), &format!("sealed_reads is 'read' or 'mapped', not {}", value.repr()?))),
    }
}

/// How many of the newest segments stay as they are; `None`: all.
fn compression(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Compress> {
    if value.is_none() {
        return Ok(Compress::Never);
    }
    at_least(name, 0, value).map(|newest| Compress::OlderThan(usize::try_from(newest).unwrap_or(usize::MAX)))
}

fn follow(value: &Bound<'_, PyAny>) -> PyResult<Follow> {
    match &*word("sees", value)? {
        "visible" => Ok(Follow::Visible),
        "durable" => Ok(Follow::Durable),
        _ => Err(configuration(value.py(), &format!("sees is 'visible' or 'durable', not {}", value.repr()?))),
    }
}

fn synchronous(value: &Bound<'_, PyAny>) -> PyResult<Synchronous> {
    match &*word("synchronous", value)? {
        "full" => Ok(Synchronous::Full),
        "normal" => Ok(Synchronous::Normal),
        _ => Err(configuration(value.py(), &format!("synchronous is 'full' or 'normal', not {}", value.repr()?))),
    }
}

fn word(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    match value.cast::<PyString>() {
        Ok(value) => text::text(name, value),
        Err(_) => Err(PyTypeError::new_err(format!("{name} is a str, not {}", kind(value)))),
    }
}

fn milliseconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    at_least(name, 1, value).map(Duration::from_millis)
}
