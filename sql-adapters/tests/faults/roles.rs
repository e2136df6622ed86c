//! This test binary in other processes: in a role that a test gives it, or with a server of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::postgres_url;

/// Set in a process that plays a role: what it needs to know.
pub(crate) const ROLE: &str = "EVENTUALI_TEST_ROLE";
/// Set in a process that has a server of its own.
const ALONE: &str = "EVENTUALI_TEST_ALONE";
/// How a role's words are told from what the test runner prints.
const MARK: &str = "@ ";

pub(crate) fn this_test(test: &str) -> [String; 4] {
    [test.to_owned(), "--exact".to_owned(), "--nocapture".to_owned(), "--test-threads=1".to_owned()]
}

/// A process that plays a role; it dies with the test.
pub(crate) struct Role {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Role {
    /// Runs `test` again; there [`role`] gives `part`.
    pub(crate) fn of(test: &str, part: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(this_test(test)).env(ROLE, part).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("it starts");
        let (orders, said) = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        Self { child, orders, said }
    }

    /// The next thing it says; nothing when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.said.read_line(&mut line).expect("its output can be read") > 0 {
            // What was said in the moment of a kill may end anywhere.
            if let Some(words) = line.strip_prefix(MARK).and_then(|words| words.strip_suffix('\n')) {
                return Some(words.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Lets it go on behind [`wait_for_the_test`].
    pub(crate) fn let_go(&mut self) {
        self.orders.write_all(b"\n").expect("it listens");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process is to play, if it has a role.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

pub(crate) fn say(words: &str) {
    // The test runner leaves its line unfinished.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{words}\n").as_bytes()).and_then(|()| out.flush()).expect("said");
}

pub(crate) fn wait_for_the_test() {
    std::io::stdin().read_line(&mut String::new()).expect("the test");
}

/// A server that no other test uses, and that may be stopped.
pub(crate) struct OwnServer {
    pub(crate) url: String,
    control: String,
}

impl OwnServer {
    /// `start`, `stop`, `restart`, `kill` or `crash`.
    #[track_caller]
    pub(crate) fn control(&self, action: &str) {
        let ran = Command::new(&self.control).arg(action).output().expect("it runs");
        assert!(ran.status.success(), "{action}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// Runs `test` in a process of its own that has a server of its own.
pub(crate) fn with_own_server(test: &str, body: impl FnOnce(&OwnServer)) {
    if std::env::var_os(ALONE).is_some() {
        let control = std::env::var("EVENTUALI_TEST_POSTGRES_CONTROL").expect("a throwaway server");
        return body(&OwnServer { url: postgres_url(), control });
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let own = repository.join(".venv/bin/python");
    let mut command = Command::new(if own.exists() { own } else { "python3".into() });
    command.arg(repository.join("pybind/tools/with_postgres.py")).arg(std::env::current_exe().expect("this binary")).args(this_test(test));
    command.env(ALONE, "1").env_remove("EVENTUALI_TEST_POSTGRES_URL").env_remove("EVENTUALI_TEST_POSTGRES_CONTROL").stdin(Stdio::null());
    let ran = command.output().expect("Python runs");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
