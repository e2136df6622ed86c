//! Connection strings: what each names, and what a wrong one was probably meant to be.
//!
//! What is shown of a wrong one is never more than its scheme, its host and path, or a bare word: everything else may be
//! a secret.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use eventuali::{Error, Result};
use percent_encoding::percent_decode_str;

/// The connection string of a store in memory.
pub(crate) const MEMORY: &str = "memory://";

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Directory(PathBuf),
    SqliteMemory,
    SqliteFile(PathBuf),
    Postgres(Address),
}

/// The address of a Postgres database, which may hold a password: never shown as it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) String);

impl Address {
    /// What may be shown of it.
    pub(crate) fn shown(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        format!("{scheme}://{}", without_secrets(rest))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// What a connection string names.
pub(crate) fn parse(text: &str) -> Result<Place> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Error::configuration("the connection string is empty; use memory:// for a store in memory, or ./orders for one in a directory"));
    }
    if trimmed.len() != text.len() {
        return Err(Error::configuration("the connection string begins or ends with white space; leave it out"));
    }
    if text.contains('\0') {
        return Err(Error::configuration("the connection string contains a NUL character; leave it out"));
    }
    if let Some((scheme, rest)) = text.split_once("://")
        && is_scheme(scheme)
    {
        return parse_url(&scheme.to_ascii_lowercase(), rest);
    }
    parse_path(text)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "+-._".contains(character))
}

fn parse_url(scheme: &str, rest: &str) -> Result<Place> {
    match scheme {
        "memory" if rest.is_empty() => Ok(Place::Memory),
        "memory" => Err(Error::configuration("a store in memory has no name, each is a new one; use memory:// alone, and share the store itself")),
        "eventuali" => parse_directory_url(rest),
        "sqlite" => parse_sqlite_url(rest),
        "postgresql" | "postgres" => parse_postgres_url(rest),
        _ => Err(unknown_scheme(scheme)),
    }
}

/// `eventuali:///absolute/path`, percent-encoded, without host, query and fragment.
fn parse_directory_url(rest: &str) -> Result<Place> {
    if !rest.starts_with('/') {
        return Err(Error::configuration(
            "an eventuali:// URL names an absolute path, with three slashes: eventuali:///var/lib/orders; a relative one is written without scheme, as ./orders",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(Error::configuration(
            "an eventuali:// URL has neither query nor fragment; options are given when the store is opened, and a ? or # of the path is written %3F or %23",
        ));
    }
    check_for_secrets("an eventuali://", rest)?;
    let path = decoded("an eventuali://", rest)?;
    if path.chars().all(|character| character == '/') {
        return Err(Error::configuration("an eventuali:// URL names a directory, as in eventuali:///var/lib/orders"));
    }
    Ok(Place::Directory(PathBuf::from(path)))
}

/// A path that is shown in errors must not be what somebody wrote a password in.
fn check_for_secrets(what: &str, path: &str) -> Result<()> {
    if path.contains([':', '@', '=', '&', ';']) {
        return Err(Error::configuration(format!(
            "{what} URL has no user, host or options (not shown, because it may hold a password); of the path a : is written %3A, @ %40, = %3D, & %26 and ; %3B"
        )));
    }
    Ok(())
}

/// `sqlite://relative.db`, `sqlite:///absolute.db` or `sqlite://:memory:`, percent-encoded, without query and fragment.
fn parse_sqlite_url(rest: &str) -> Result<Place> {
    if rest == ":memory:" {
        return Ok(Place::SqliteMemory);
    }
    if rest.contains(['?', '#']) {
        return Err(Error::configuration(
            "a sqlite:// URL has neither query nor fragment; options are given when the store is opened, and a ? or # of the path is written %3F or %23",
        ));
    }
    check_for_secrets("a sqlite://", rest)?;
    let path = decoded("a sqlite://", rest)?;
    if path.is_empty() || path.ends_with('/') {
        return Err(Error::configuration(
            "a sqlite:// URL names a file, as in sqlite://events.db or sqlite:///var/lib/events.db, or a store in memory: sqlite://:memory:",
        ));
    }
    Ok(Place::SqliteFile(PathBuf::from(path)))
}

/// What a postgresql:// URL may say behind its `?`.
const PARAMETERS: [&str; 12] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "hostaddr", "port", "user", "password", "dbname", "application_name", "options"];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// `postgresql://user:password@host:5432/database?sslmode=verify-full`. The driver passes over what it does not know; here that is
/// refused, because a mistyped `sslmode` would be a connection without TLS.
fn parse_postgres_url(rest: &str) -> Result<Place> {
    let how = "it is written postgresql://user:password@host:5432/database";
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[authority..].contains('@') {
        return Err(Error::configuration(format!(
            "a postgresql:// URL has an @ behind its host; {how}, and a /, ? or # of a password is written %2F, %3F or %23, an @ %40"
        )));
    }
    let host = rest[..authority].rsplit('@').next().unwrap_or_default();
    if host.is_empty() && !rest[authority..].contains("host=") {
        return Err(Error::configuration(format!("a postgresql:// URL names a host; {how}")));
    }
    if rest.contains('#') {
        return Err(Error::configuration(format!("a postgresql:// URL has no fragment; {how}, and a # of its parts is written %23")));
    }
    if let Some((_, query)) = rest.split_once('?') {
        query.split('&').zip(1..).try_for_each(|(parameter, number)| check_parameter(parameter, number))?;
    }
    Ok(Place::Postgres(Address(format!("postgresql://{rest}"))))
}

/// Neither its name nor its value is shown: both may be parts of a password.
fn check_parameter(parameter: &str, number: usize) -> Result<()> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    if !PARAMETERS.contains(&name) {
        return Err(Error::configuration(format!(
            "parameter {number} behind the ? of a postgresql:// URL is none that is known, in lower case and as name=value: {}; timeouts, \
             table name and number of connections are options of the config",
            PARAMETERS.join(", ")
        )));
    }
    if name == "sslmode" && !SSL_MODES.contains(&value) {
        return Err(Error::configuration(format!("the sslmode of a postgresql:// URL is one of {}", SSL_MODES.join(", "))));
    }
    Ok(())
}

/// The path in a URL.
fn decoded(what: &str, rest: &str) -> Result<String> {
    let mut escapes = rest.split('%').skip(1);
    if !escapes.all(|escape| escape.len() >= 2 && escape.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())) {
        return Err(Error::configuration(format!("{what} URL is percent-encoded; write a % of the path as %25")));
    }
    let path = percent_decode_str(rest)
        .decode_utf8()
        .map_err(|_| Error::configuration(format!("the path of {what} URL is not UTF-8; open it by its path, with a config")))?;
    if path.contains('\0') {
        return Err(Error::configuration(format!("the path of {what} URL contains a NUL character (%00); leave it out")));
    }
    Ok(path.into_owned())
}

/// What may be shown of a URL behind its scheme: host and path, nothing before an `@`, nothing from a query on.
fn without_secrets(rest: &str) -> String {
    let end = rest.find(['?', '#', ';', '&', '=', ' ']).unwrap_or(rest.len());
    let (hidden, start, end) = match rest[..end].rfind('@') {
        Some(at) => ("***@", at + 1, end),
        // An `@` behind one of those characters: they were part of a password.
        None if rest.contains('@') => ("", 0, 0),
        // What follows a colon may be a port, or the password of somebody who forgot the host.
        None => ("", 0, rest[..end].find(':').unwrap_or(end)),
    };
    format!("{hidden}{}{}", &rest[start..end], if end < rest.len() { "…" } else { "" })
}

const KNOWN: &str =
    "known are memory://, a directory such as ./orders, eventuali:///var/lib/orders, sqlite://events.db and postgresql://host/database";

fn unknown_scheme(scheme: &str) -> Error {
    if let Some((database, driver)) = scheme.split_once('+')
        && let Some(meant) = sql_scheme(database)
    {
        return Error::configuration(format!("{meant}:// is written without a driver: leave out +{driver}"));
    }
    let meant = match scheme {
        "mem" | "inmemory" | "in-memory" | "ram" => MEMORY,
        "file" | "dir" | "path" => "eventuali:///var/lib/orders or ./orders",
        _ => match sql_scheme(scheme) {
            Some("sqlite") => "sqlite://",
            Some(_) => "postgresql://",
            None => return Error::configuration(format!("there is no store for {scheme}://; {KNOWN}")),
        },
    };
    Error::configuration(format!("there is no store for {scheme}://; perhaps {meant} was meant"))
}

/// The SQL scheme that a word stands for.
fn sql_scheme(word: &str) -> Option<&'static str> {
    match word {
        "sqlite" | "sqlite3" => Some("sqlite"),
        "postgresql" | "postgres" | "postgre" | "postgress" | "pgsql" | "psql" | "pg" => Some("postgresql"),
        _ => None,
    }
}

fn parse_path(text: &str) -> Result<Place> {
    if let Some(rest) = text.strip_prefix('~') {
        return home_path(rest);
    }
    match Path::new(text).components().next() {
        Some(Component::Normal(_)) | None => Err(slip(text)),
        Some(_) => Ok(Place::Directory(PathBuf::from(text))),
    }
}

fn home_path(rest: &str) -> Result<Place> {
    let Some(rest) = rest.strip_prefix('/').filter(|rest| !rest.is_empty()) else {
        return Err(Error::configuration(
            "only ~/ at the beginning stands for the home directory, and a directory follows it, as in ~/orders; write any other path in full",
        ));
    };
    match std::env::home_dir() {
        Some(home) if home.is_absolute() => Ok(Place::Directory(home.join(rest))),
        _ => Err(Error::configuration("~ cannot be resolved, because there is no home directory; write the path in full")),
    }
}

/// What a bare word was probably meant to be.
fn slip(text: &str) -> Error {
    let word = text.to_ascii_lowercase();
    if ["memory", "mem", "inmemory", "in-memory"].contains(&word.trim_matches([':', '/'])) {
        return Error::configuration(format!("{text:?} is no connection string; a store in memory is written {MEMORY}"));
    }
    if let Some((scheme, _)) = word.split_once(':') {
        return match sql_scheme(scheme) {
            _ if scheme == "eventuali" => Error::configuration("a URL has two slashes behind its scheme: eventuali:///var/lib/orders"),
            Some(meant) => Error::configuration(format!("a URL has two slashes behind its scheme: {meant}://…")),
            None => Error::configuration(format!("this is no connection string; {KNOWN}")),
        };
    }
    if word.contains(['@', '=', '?', '&', ';']) {
        return Error::configuration(format!(
            "this is no connection string, but parts of one; a Postgres store is written postgresql://user:password@host:5432/database, and {KNOWN}"
        ));
    }
    let shown: String = text.chars().take(64).collect();
    if [".db", ".db3", ".sqlite", ".sqlite3"].iter().any(|ending| word.ends_with(ending)) {
        return Error::configuration(format!(
            "{shown:?} looks like a SQLite file, which is written sqlite://{shown}; a directory of that name is written ./{shown}"
        ));
    }
    Error::configuration(format!("{shown:?} may be a name or a path; if a directory is meant, write ./{shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_has_no_secret() {
        let table = [
            ("host/events", "host/events"),
            ("host:5432/events", "host…"),
            ("user:s3cret@host:5432/events", "***@host:5432/events"),
            ("user@host/events", "***@host/events"),
            ("user:s3cret@host/events?sslmode=require", "***@host/events…"),
            ("host/events?password=s3cret", "host/events…"),
            ("host/events?password=s3@cret", "…"),
            ("host/events;password=s3cret", "host/events…"),
            ("user:s3/cret@host/events", "***@host/events"),
            ("user:s3@cret@host/events", "***@host/events"),
            ("user:s3?cret@host/events", "…"),
            ("user:s3#cret@host/events", "…"),
            ("user:s3=cret@host/events", "…"),
            ("user:s3cret", "user…"),
            (":s3cret@host", "***@host"),
            (":memory:", "…"),
            ("events.db", "events.db"),
            ("", ""),
        ];
        for (rest, shown) in table {
            assert_eq!(without_secrets(rest), shown, "{rest}");
        }
    }
}
