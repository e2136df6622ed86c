//! TLS: the server's certificate is checked as far as the address asks.

use std::path::Path;

use eventuali::{Error, EventStore};

use crate::arrange::{assert_usable, open, postgres_at};
use crate::roles::with_own_server;
use crate::session::Session;
use crate::support::new_table;

/// The server's certificate for 127.0.0.1, valid until the year 2190 and signed by `trusted.pem`, whose key is gone, and its key.
const CERTIFICATE: &str = include_str!("tls/server.pem");
const KEY: &str = include_str!("tls/server.key");

/// The path of an authority's certificate.
fn authority(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/tls").join(name).display().to_string()
}

/// Has the server write a file in its own folder, for itself alone.
fn write(session: &mut Session, name: &str, text: &str) {
    session.run(&format!("COPY (SELECT unnest(string_to_array('{}', E'\\n'))) TO PROGRAM 'umask 077 && cat > {name}'", text.trim_end()));
}

#[test]
fn the_servers_certificate_is_checked_as_the_address_asks() {
    with_own_server("postgres_tls::the_servers_certificate_is_checked_as_the_address_asks", |server| {
        let mut session = Session::new(&server.url);
        write(&mut session, "server.crt", CERTIFICATE);
        write(&mut session, "server.key", KEY);
        session.run("ALTER SYSTEM SET ssl = on");
        let (trusted, other) = (authority("trusted.pem"), authority("other.pem"));
        server.control("restart");
        let table = new_table();
        for mode in ["require".to_owned(), format!("verify-ca&sslrootcert={trusted}"), format!("verify-full&sslrootcert={trusted}")] {
            let store = open(postgres_at(&format!("{}?sslmode={mode}", server.url), &table));
            assert_usable(&store);
            assert!(Session::new(&server.url).number("SELECT count(*) FROM pg_stat_ssl WHERE ssl") > 0, "{mode}");
            store.close().wait().expect("closed");
        }
        for mode in [format!("verify-ca&sslrootcert={other}"), format!("verify-full&sslrootcert={other}")] {
            let refused = postgres_at(&format!("{}?sslmode={mode}", server.url), &table).open();
            assert!(matches!(&refused, Err(Error::Configuration { message }) if message.contains("TLS")), "{mode}: {refused:?}");
        }
    });
}
