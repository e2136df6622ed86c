//! Connection strings: what each opens, what is refused, and what a refusal must not show.

use std::path::{Path, PathBuf};

use eventuali::Error;
use eventuali_sql::{Config, open};

/// A password that no message may show.
const SECRET: &str = "hunter2";

#[track_caller]
fn refusal(text: &str) -> String {
    let config = Config::parse(text);
    match config {
        Err(Error::Configuration { message }) => message,
        other => panic!("{text:?} is refused as a slip, not {other:?}"),
    }
}

#[track_caller]
fn directory(text: &str) -> PathBuf {
    let config = Config::parse(text).unwrap_or_else(|error| panic!("{text:?} names a directory: {error}"));
    config.path().expect("a directory").to_owned()
}

#[test]
fn memory_names_the_engine_in_memory() {
    for text in ["memory://", "MEMORY://"] {
        assert_eq!(Config::parse(text).expect("memory"), Config::memory());
    }
    assert_eq!((Config::memory().path(), Config::memory().to_string()), (None, "memory://".to_owned()));
}

#[test]
fn paths_name_a_directory_as_they_stand() {
    let paths = [
        "./orders",
        "../orders",
        "/var/lib/orders",
        ".",
        "..",
        "./a b",
        "./ä/🦀",
        "./100%",
        "./a?b=c#d@e",
        "./events.db",
        "/",
        "./x://y",
        "./.hidden",
    ];
    for text in paths {
        assert_eq!(directory(text), Path::new(text));
        assert_eq!(Config::parse(text).expect("a directory"), Config::embedded(text));
        assert_eq!(Config::embedded(text).to_string(), text);
    }
}

#[test]
fn a_tilde_stands_for_the_home_directory() {
    let home = std::env::home_dir().expect("a home directory");
    assert_eq!(directory("~/orders"), home.join("orders"));
    assert_eq!(directory("~/a/b c"), home.join("a/b c"));
    for text in ["~", "~/", "~ada/orders", "~orders"] {
        assert!(refusal(text).contains("~/orders"), "{text}");
    }
}

#[test]
fn an_eventuali_url_names_an_absolute_directory_percent_encoded() {
    let table = [
        ("eventuali:///var/lib/orders", "/var/lib/orders"),
        ("Eventuali:///orders", "/orders"),
        ("eventuali:///a%20b/100%25/%3F%23", "/a b/100%/?#"),
        ("eventuali:///%C3%A4/%F0%9F%A6%80", "/ä/🦀"),
        ("eventuali:///ä/a+b", "/ä/a+b"),
    ];
    for (text, path) in table {
        assert_eq!(directory(text), Path::new(path), "{text}");
    }
}

#[test]
fn a_wrong_eventuali_url_is_refused_with_what_was_meant() {
    let table = [
        ("eventuali://relative", "eventuali:///var/lib/orders"),
        ("eventuali://relative", "./orders"),
        ("eventuali://localhost/orders", "three slashes"),
        ("eventuali://", "three slashes"),
        ("eventuali:///", "names a directory"),
        ("eventuali:////", "names a directory"),
        ("eventuali:///orders?durability=os", "%3F"),
        ("eventuali:///orders#1", "%23"),
        ("eventuali:///100%", "%25"),
        ("eventuali:///100%2", "%25"),
        ("eventuali:///100%zz", "%25"),
        ("eventuali:///a%00b", "NUL"),
        ("eventuali:///%ff", "UTF-8"),
        ("eventuali:/orders", "two slashes"),
        ("eventuali:orders", "two slashes"),
    ];
    for (text, meant) in table {
        let message = refusal(text);
        assert!(message.contains(meant), "{text}: {message}");
    }
}

#[test]
fn slips_are_refused_with_the_spelling_that_was_meant() {
    let table = [
        ("", "memory://"),
        ("", "./orders"),
        ("  ", "./orders"),
        (" ./orders", "white space"),
        ("./orders\n", "white space"),
        ("./or\0ders", "NUL"),
        ("orders", "./orders"),
        ("data/orders", "./data/orders"),
        (".orders", "./.orders"),
        ("Bestellungen für 2026", "./Bestellungen für 2026"),
        ("memory", "memory://"),
        ("Memory", "memory://"),
        (":memory:", "memory://"),
        ("memory:", "memory://"),
        ("memory:/", "memory://"),
        ("memory://x", "memory:// alone"),
        ("memory:///x", "memory:// alone"),
        ("mem://", "memory://"),
        ("events.db", "sqlite://events.db"),
        ("data/events.SQLite3", "sqlite://data/events.SQLite3"),
        ("events.db", "./events.db"),
        ("sqlite:events.db", "sqlite://"),
        ("sqlite3://events.db", "sqlite://"),
        ("sqlite+aiosqlite://events.db", "sqlite://"),
        ("postgresql+asyncpg://localhost/events", "postgresql://"),
        ("postgres+psycopg2://localhost/events", "leave out +psycopg2"),
        ("postgre://localhost/events", "postgresql://"),
        ("pg://localhost/events", "postgresql://"),
        ("postgresql:localhost", "postgresql://"),
        ("file:///var/lib/orders", "eventuali:///var/lib/orders"),
        ("redis://localhost", "redis"),
        ("mysql://localhost", "postgresql://"),
        ("http://localhost", "known are"),
        ("://orders", "known are"),
        ("host=localhost dbname=events", "postgresql://user:password@host:5432/database"),
    ];
    for (text, meant) in table {
        let message = refusal(text);
        assert!(message.contains(meant), "{text:?}: {message}");
    }
}

#[test]
fn sql_stores_are_unsupported_so_far() {
    let table = [
        ("sqlite://events.db", "sqlite://events.db"),
        ("sqlite:///var/events.db", "sqlite:///var/events.db"),
        ("sqlite://:memory:", "SQLite"),
        ("postgresql://ada:hunter2@db:5432/events", "postgresql://***@db:5432/events"),
        ("POSTGRES://db/events", "postgres://db/events"),
    ];
    for (text, shown) in table {
        match open(text).err() {
            Some(Error::Unsupported { message }) => assert!(message.contains(shown) && message.contains("./orders"), "{message}"),
            other => panic!("{text:?} is unsupported, not {other:?}"),
        }
    }
}

#[test]
fn no_message_shows_a_secret() {
    let forms = [
        "postgresql://ada:{}@host:5432/events",
        "postgres://ada:{}@host/events",
        "postgresql://ada:1{}/2@host/events",
        "postgresql://ada:1?{}@host/events",
        "postgresql://ada:#{}@host/events",
        "postgresql://ada:={}@host/events",
        "postgresql://ada:@{}@host/events",
        "postgresql://ada:{}",
        "postgresql://host/events?user=ada&password={}",
        "postgresql://host/events?password=a@{}",
        "postgresql:ada:{}@host/events",
        "postgresql+asyncpg://ada:{}@host/events",
        "postgre://ada:{}@host/events",
        "mysql://ada:{}@host/events",
        "redis://:{}@host",
        "eventuali://ada:{}@host/events",
        "eventuali:///events?key={}",
        "sqlite://events.db?key={}",
        "memory://{}",
        "ada:{}@host/events",
        "ada:{}",
        "host=localhost password={}",
        "host=localhost password={}://",
        " postgresql://ada:{}@host/events",
        "//ada:{}@host/events\0",
        "password={}.db",
        "@{}",
    ];
    for form in forms {
        let text = form.replace("{}", SECRET);
        let error = Config::parse(&text).expect_err("no store");
        assert!(!error.to_string().contains(SECRET) && !format!("{error:?}").contains(SECRET), "{form}: {error}");
        assert!(open(&text).is_err_and(|error| !format!("{error} {error:?}").contains(SECRET)));
    }
}
