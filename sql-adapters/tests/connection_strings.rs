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
fn a_sqlite_url_names_a_file_or_memory_percent_encoded() {
    let table = [("sqlite://events.db", "events.db"), ("SQLite:///var/a%20b.db", "/var/a b.db"), ("sqlite://data/%3F%23.db", "data/?#.db")];
    for (text, path) in table {
        assert_eq!(Config::parse(text).expect("a file"), Config::sqlite(path), "{text}");
        assert_eq!(directory(text), Path::new(path), "{text}");
    }
    assert_eq!(Config::parse("sqlite://:memory:").expect("memory"), Config::sqlite_in_memory());
    for (text, meant) in [
        ("sqlite://", "names a file"),
        ("sqlite:///", "names a file"),
        ("sqlite://data/", "names a file"),
        ("sqlite://events.db?mode=ro", "%3F"),
        ("sqlite://events.db#1", "%23"),
        ("sqlite://100%.db", "%25"),
        ("sqlite://a%00b", "NUL"),
    ] {
        let message = refusal(text);
        assert!(message.contains(meant), "{text}: {message}");
    }
}

#[test]
fn a_postgres_url_is_shown_without_its_secrets() {
    let table = [
        ("postgresql://ada:hunter2@db:5432/events", "postgresql://***@db:5432/events"),
        ("POSTGRES://db/events", "postgresql://db/events"),
        ("postgres://ada@db", "postgresql://***@db"),
        ("postgresql://db/events?sslmode=require&password=hunter2", "postgresql://db/events…"),
        ("postgresql://ada:hunter%232@db/events", "postgresql://***@db/events"),
    ];
    for (text, shown) in table {
        let config = Config::parse(text).expect("a database");
        assert_eq!((config.to_string(), config.path()), (shown.to_owned(), None), "{text}");
        assert!(!format!("{config:?}").contains(SECRET), "{config:?}");
        assert_eq!(Config::postgres(text).expect("a database"), config);
    }
    for (text, meant) in [
        ("postgresql://", "names a host"),
        ("postgresql:///events", "names a host"),
        ("postgresql://ada:12#x@db/events", "%23"),
        ("postgresql://db:port/events", "postgresql://user:password@host:5432/database"),
        ("postgresql://db/events?sslmode=perhaps", "verify-full"),
        ("postgresql://db/events?sslmode=require&sslmod=verify-full", "parameter 2 behind the ?"),
        ("postgresql://db/events?sslrootcert=ca.pem&SSLMODE=verify-full", "parameter 2 behind the ?"),
        ("postgresql://db/events?connect_timeout=3", "options of the config"),
        ("postgresql://db/events?", "parameter 1 behind the ?"),
        ("postgresql://db/events#sslmode=require", "no fragment"),
    ] {
        let message = refusal(text);
        assert!(message.contains(meant), "{text}: {message}");
    }
    assert!(Config::postgres("./orders").is_err());
}

#[test]
fn a_server_that_cannot_be_reached_is_named_without_secrets() {
    for form in ["postgresql://ada:{}@127.0.0.1:1/events", "postgres://127.0.0.1:1/events?user=ada&password={}"] {
        let config = Config::parse(&form.replace("{}", SECRET)).expect("a database");
        match config.acquire_timeout(std::time::Duration::from_millis(300)).open() {
            Err(error @ Error::Unavailable { .. }) => {
                let text = format!("{error} {error:?}");
                assert!(text.contains("127.0.0.1:1/events") && !text.contains(SECRET), "{text}");
            }
            other => panic!("expected an unreachable server, not {other:?}"),
        }
    }
}

#[test]
fn hostile_table_names_are_refused() {
    let hostile =
        ["", "Events", "events\"; DROP TABLE events; --", "1events", "a b", "ä", "events\0", "pg_class", "sqlite_schema", "a.b", "a-b", "'", "`"];
    for name in hostile.into_iter().map(str::to_owned).chain(["e".repeat(41)]) {
        let error = Config::sqlite("events.db").table_name(&name).expect_err("no name of a table");
        assert!(matches!(error, Error::Configuration { message } if message.contains("custom_events")), "{name:?}");
    }
    for name in ["events", "custom_events", "_e1", &"e".repeat(40)] {
        assert!(Config::sqlite("events.db").table_name(name).is_ok(), "{name}");
    }
}

#[test]
fn no_message_shows_a_secret() {
    let forms = [
        "postgresql://ada:{}@host:port/events",
        "postgres://ada:{}@host/events?sslmode=perhaps",
        "postgresql://ada:1{}/2@host/events",
        "postgresql://ada:1?{}@host/events",
        "postgresql://ada:#{}@host/events",
        "postgresql://ada:={}@host/events?sslmode=perhaps",
        "postgresql://ada:{}",
        "postgresql://host:port/events?user=ada&password={}",
        "postgresql://host/events?password=a@{}",
        "postgresql://host/events?pasword={}",
        "postgresql://host/events?password=a&{}",
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
