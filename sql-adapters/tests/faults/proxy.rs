//! A wire between the store and its server that can be cut when it carries a commit.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::session::Session;

/// The bytes of the message that commits.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
/// What every attempt to append sends first.
const ATTEMPT: &[u8] = b"FOR UPDATE";

/// What happens to the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    /// It does not reach the server.
    BeforeTheServer,
    /// It reaches the server, and the wire is cut at once.
    WhileCommitting,
    /// It is answered, but the answer does not arrive.
    BeforeTheAnswer,
    /// The store's end is cut at once; the server receives the commit when the store is trying again.
    Late,
    /// The server ends the session before the commit reaches it.
    TerminatedBefore,
    /// The server ends the session while it commits.
    TerminatedWhile,
}

impl Cut {
    pub(crate) const ALL: [Self; 6] =
        [Self::BeforeTheServer, Self::WhileCommitting, Self::BeforeTheAnswer, Self::Late, Self::TerminatedBefore, Self::TerminatedWhile];
}

#[derive(Default)]
struct State {
    next: Option<Cut>,
    /// How many attempts to append have begun.
    attempts: u64,
    /// Whether nothing is carried from the next cut on.
    goes_down: bool,
    down: bool,
}

impl State {
    fn take(&mut self) -> Option<Cut> {
        let cut = self.next.take()?;
        self.down = self.goes_down;
        Some(cut)
    }
}

struct Wire {
    server: (String, u16),
    url: String,
    state: Mutex<State>,
    changed: Condvar,
}

/// Listens at a port, and carries what comes to the server.
pub(crate) struct Proxy {
    wire: Arc<Wire>,
    port: u16,
}

impl Proxy {
    pub(crate) fn before(url: &str) -> Self {
        let options: sqlx::postgres::PgConnectOptions = url.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let server = (options.get_host().to_owned(), options.get_port());
        let wire = Arc::new(Wire { server, url: url.to_owned(), state: Mutex::default(), changed: Condvar::new() });
        let carrying = Arc::clone(&wire);
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let wire = Arc::clone(&carrying);
                thread::spawn(move || wire.carry(&client));
            }
        });
        Self { wire, port }
    }

    /// The address through the proxy, in clear text.
    pub(crate) fn url(&self) -> String {
        let (before, rest) = self.wire.url.rsplit_once('@').expect("an address with a user");
        let database = rest.split_once('/').map_or("", |(_, database)| database);
        let more = if database.contains('?') { '&' } else { '?' };
        format!("{before}@127.0.0.1:{}/{database}{more}sslmode=disable", self.port)
    }

    pub(crate) fn cut_next_commit(&self, cut: Cut) {
        self.wire.state().next = Some(cut);
    }

    /// Cuts the next commit, and every connection that is made from then on.
    pub(crate) fn cut_next_commit_and_stay_down(&self, cut: Cut) {
        *self.wire.state() = State { next: Some(cut), goes_down: true, ..State::default() };
    }

    pub(crate) fn come_up(&self) {
        *self.wire.state() = State::default();
    }

    /// Whether the cut that was ordered is still to come.
    pub(crate) fn waits(&self) -> bool {
        self.wire.state().next.is_some()
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn hang_up(sockets: &[&TcpStream]) {
    for socket in sockets {
        // It may be gone already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("its lock")
    }

    fn carry(self: Arc<Self>, client: &TcpStream) {
        if self.state().down {
            return hang_up(&[client]);
        }
        let Ok(server) = TcpStream::connect((&*self.server.0, self.server.1)) else { return hang_up(&[client]) };
        let muted = Arc::new(Mutex::new(false));
        let (mut from, mut to) = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
        let answers_are_muted = Arc::clone(&muted);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if *answers_are_muted.lock().expect("its lock") || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            hang_up(&[&from, &to]);
        });
        let (mut from, mut to) = (client, &server);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..count];
            if self.state().down {
                break;
            }
            if contains(bytes, ATTEMPT) {
                self.state().attempts += 1;
                self.changed.notify_all();
            }
            let cut = if contains(bytes, COMMIT) { self.state().take() } else { None };
            let sent = match cut {
                None => to.write_all(bytes),
                Some(cut) => self.cut(cut, bytes, (client, &server), &muted),
            };
            if sent.is_err() {
                break;
            }
        }
        hang_up(&[client, &server]);
    }

    fn cut(&self, cut: Cut, bytes: &[u8], (client, mut server): (&TcpStream, &TcpStream), muted: &Mutex<bool>) -> std::io::Result<()> {
        match cut {
            Cut::BeforeTheServer => hang_up(&[client, server]),
            Cut::WhileCommitting => {
                server.write_all(bytes)?;
                hang_up(&[client, server]);
            }
            Cut::BeforeTheAnswer => {
                *muted.lock().expect("its lock") = true;
                server.write_all(bytes)?;
            }
            Cut::Late => {
                *muted.lock().expect("its lock") = true;
                hang_up(&[client]);
                let state = self.state();
                let attempts = state.attempts;
                let waited = self.changed.wait_timeout_while(state, Duration::from_secs(20), |state| state.attempts == attempts);
                assert!(!waited.expect("the lock").1.timed_out(), "the store tries again");
                server.write_all(bytes)?;
                // The server's answer ends the other direction, which hangs up.
                let _ = server.read(&mut [0]);
            }
            Cut::TerminatedBefore => {
                self.terminate(server);
                server.write_all(bytes)?;
            }
            Cut::TerminatedWhile => {
                server.write_all(bytes)?;
                self.terminate(server);
            }
        }
        Ok(())
    }

    /// Has the server end the session on the other end of this socket.
    fn terminate(&self, server: &TcpStream) {
        let port = server.local_addr().expect("its address").port();
        Session::new(&self.url).run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = {port}"));
    }
}
