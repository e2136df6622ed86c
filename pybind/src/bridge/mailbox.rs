//! How the commit thread tells an event loop that operations are done, without touching the interpreter.

#[cfg(unix)]
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Collects the keys of operations that can go on, and rings once for all that gather before they are fetched.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    rung: Condvar,
    #[cfg(unix)]
    bell: Option<Bell>,
}

#[derive(Default)]
struct State {
    keys: Vec<usize>,
    /// Something was posted since the last fetch.
    rung: bool,
    /// The listener knows.
    heard: bool,
    stopped: bool,
}

/// A descriptor that an event loop watches, and what makes it readable. Neither ever blocks.
#[cfg(unix)]
struct Bell {
    reader: OwnedFd,
    writer: OwnedFd,
}

#[cfg(unix)]
impl Bell {
    #[cfg(target_os = "linux")]
    fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let writer = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { reader: writer.try_clone()?, writer })
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> std::io::Result<Self> {
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader: reader.into(), writer: writer.into() })
    }

    fn ring(&self) {
        // It is full only if it was rung and not heard yet, and then it need not ring again.
        let _ = rustix::io::write(&self.writer, &1_u64.to_ne_bytes());
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.reader, &mut [0; 64]);
    }
}

impl Mailbox {
    /// A mailbox whose bell is a file descriptor, to be watched by the loop itself.
    #[cfg(unix)]
    pub(crate) fn with_descriptor() -> std::io::Result<Self> {
        Ok(Self { bell: Some(Bell::new()?), ..Self::with_listener() })
    }

    /// A mailbox whose bell is heard by a thread in [`Mailbox::listen`], for loops that cannot watch a descriptor.
    pub(crate) fn with_listener() -> Self {
        Self {
            state: Mutex::default(),
            rung: Condvar::new(),
            #[cfg(unix)]
            bell: None,
        }
    }

    /// What the loop has to watch.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.bell.as_ref().map(|bell| bell.reader.as_raw_fd())
    }

    /// Says that the operation under `key` can go on. Called from any thread, also from those that Python does not know.
    pub(crate) fn post(&self, key: usize) {
        let silent = {
            let mut state = self.state.lock();
            state.keys.push(key);
            !std::mem::replace(&mut state.rung, true)
        };
        if silent {
            self.ring();
        }
    }

    #[cfg(unix)]
    fn ring(&self) {
        match &self.bell {
            Some(bell) => bell.ring(),
            None => {
                self.rung.notify_all();
            }
        }
    }

    #[cfg(not(unix))]
    fn ring(&self) {
        self.rung.notify_all();
    }

    /// Takes what has gathered into `keys`, which is empty, and makes the next post ring again.
    pub(crate) fn fetch(&self, keys: &mut Vec<usize>) {
        #[cfg(unix)]
        if let Some(bell) = &self.bell {
            bell.silence();
        }
        let mut state = self.state.lock();
        state.rung = false;
        state.heard = false;
        std::mem::swap(&mut state.keys, keys);
    }

    /// Waits for the bell, at most `span`: true if it rang since it was last heard.
    pub(crate) fn listen(&self, span: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.stopped && (!state.rung || state.heard) {
            self.rung.wait_for(&mut state, span);
        }
        let rang = state.rung && !state.heard && !state.stopped;
        state.heard |= rang;
        rang
    }

    /// Sends the listener home.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.rung.notify_all();
    }

    /// Whether the listener was sent home.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// A waker that posts `key`.
    pub(crate) fn waker(self: &Arc<Self>, key: usize) -> Waker {
        Arc::new(Note { mailbox: Arc::clone(self), key }).into()
    }
}

struct Note {
    mailbox: Arc<Mailbox>,
    key: usize,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mailbox.post(self.key);
    }
}
