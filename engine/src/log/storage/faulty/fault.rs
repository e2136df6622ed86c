//! What can be made to fail, and the mistakes that a harness must notice.

use std::io;
use std::ops::Range;

/// What is done to a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of the storage or file with the same name, or what it does")]
pub enum OperationKind {
    Lock,
    Open,
    Create,
    Rename,
    Share,
    Remove,
    List,
    CreateFolder,
    SyncDirectory,
    Read,
    Write,
    Sync,
    Length,
    SetLength,
    SecureSpace,
}

/// How an operation fails. A write that fails has written any part of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An input/output error.
    Device,
    /// No space is left.
    NoSpace,
}

impl Failure {
    pub(super) fn error(self, kind: OperationKind, name: &str) -> io::Error {
        match self {
            Self::Device => io::Error::other(format!("injected: {kind:?} of {name:?} fails")),
            Self::NoSpace => io::Error::new(io::ErrorKind::StorageFull, format!("injected: no space for {kind:?} of {name:?}")),
        }
    }
}

/// Which operation fails, when, and how: without more words, the next one of any kind, once, with an input/output error.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    kind: Option<OperationKind>,
    part_of_name: Option<&'static str>,
    byte: Option<u64>,
    spared: u64,
    lasts: bool,
    failure: Option<Failure>,
    is_over: bool,
}

impl Fault {
    /// The next operation of any kind fails, once.
    #[must_use]
    pub fn next() -> Self {
        Self::default()
    }

    /// The next operation of a kind fails, once.
    #[must_use]
    pub fn on(kind: OperationKind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }

    /// Only for files with this in their names.
    #[must_use]
    pub fn of(mut self, part_of_name: &'static str) -> Self {
        self.part_of_name = Some(part_of_name);
        self
    }

    /// Only what reads this byte.
    #[must_use]
    pub fn at_byte(mut self, byte: u64) -> Self {
        self.byte = Some(byte);
        self
    }

    /// The first ones go well.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.spared = count;
        self
    }

    /// It goes on failing until it is mended.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        self.lasts = true;
        self
    }

    /// How it fails.
    #[must_use]
    pub fn with(mut self, failure: Failure) -> Self {
        self.failure = Some(failure);
        self
    }

    /// Whether the fault strikes an operation, which reads these bytes if it reads any; it notes it.
    pub(super) fn strikes(&mut self, kind: OperationKind, name: &str, bytes: &Range<u64>) -> Option<Failure> {
        let matches = self.kind.is_none_or(|wanted| wanted == kind)
            && self.part_of_name.is_none_or(|part| name.contains(part))
            && self.byte.is_none_or(|byte| bytes.contains(&byte));
        if !matches || self.is_over {
            return None;
        }
        if self.spared > 0 {
            self.spared -= 1;
            return None;
        }
        self.is_over = !self.lasts;
        Some(self.failure.unwrap_or(Failure::Device))
    }
}

/// A mistake that the engine could make, played by the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// Files are never synced.
    SkipSync,
    /// Directories are never synced.
    SkipDirectorySync,
    /// A sync is said to be done, and begun afterwards.
    AcknowledgeBeforeSync,
    /// A failed sync is said to have succeeded, so that readers see what is not durable.
    HideFailedSync,
    /// What is already readable is not written again.
    PublishWithoutRewriting,
    /// The watermark is written and never read.
    IgnoreWatermark,
    /// A manifest becomes valid before the segment that it names.
    ManifestBeforeSegment,
    /// A manifest becomes valid before the rewritten generation of a segment that it names.
    ManifestBeforeGeneration,
}
