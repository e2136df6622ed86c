//! This binary in another process, in another role.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Set in the processes that play a role; the directory of their store.
const ROLE: &str = "EVENTUALI_TEST_ROLE_IN";

/// How a role's words are told from what the test runner prints.
const MARK: &str = "@ ";

/// This binary in another process, running the same test in its role. It dies with the test.
pub(crate) struct Role {
    pub(crate) child: Child,
    said: BufReader<ChildStdout>,
}

impl Role {
    /// The role plays in `directory`.
    pub(crate) fn of(test: &str, directory: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, directory);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, said }
    }

    /// The next thing it says; nothing when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.said.read_line(&mut line).expect("its output can be read") > 0 {
            if let Some(words) = line.strip_prefix(MARK) {
                return Some(words.trim_end().to_owned());
            }
            line.clear();
        }
        None
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, words: &str) {
        assert_eq!(self.hear().as_deref(), Some(words));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
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

/// The directory to play in, if this process has a role.
pub(crate) fn role() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
}

pub(crate) fn say(words: &str) {
    // The test runner leaves its line unfinished.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{MARK}{words}\n").as_bytes()).and_then(|()| out.flush()).expect("said");
}

/// Waits until the test lets go, which it also does by ending.
pub(crate) fn wait_for_the_test() {
    let _ = std::io::stdin().read(&mut [0]);
}
