//! Positions, versions and the pure check of an expected version.

use std::fmt;

/// The place of an event in the whole store: 1, 2, 3, … without a gap.
///
/// [`Position::START`] (0) is the place before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event: reading `after` it reads everything.
    pub const START: Self = Self(0);
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an event within its aggregate: 1, 2, 3, … without a gap.
///
/// [`AggregateVersion::NONE`] (0) is the version of an aggregate that has no events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AggregateVersion(pub u64);

impl AggregateVersion {
    /// The version of an aggregate without events.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for AggregateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the writer of an append believes about the stream it writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ExpectedVersion {
    /// No belief: the append never conflicts, and two writers may interleave.
    #[default]
    Any,
    /// The stream has no events, none yet or none since it was deleted: exactly one of several creators wins.
    NoStream,
    /// The stream has at least one event, whatever its version.
    Exists,
    /// The stream is at this version: exactly one of several writers wins.
    /// `Exact(AggregateVersion::NONE)` is a stream that never had events: as [`ExpectedVersion::NoStream`], but a deleted one conflicts.
    Exact(AggregateVersion),
}

impl ExpectedVersion {
    /// Whether a stream at version `actual` is what the writer believes it to be.
    ///
    /// ```
    /// use eventuali::{AggregateVersion, ExpectedVersion};
    /// assert!(ExpectedVersion::NoStream.accepts(AggregateVersion::NONE));
    /// assert!(!ExpectedVersion::Exact(AggregateVersion(3)).accepts(AggregateVersion(4)));
    /// ```
    #[must_use]
    pub fn accepts(self, actual: AggregateVersion) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == AggregateVersion::NONE,
            Self::Exists => actual > AggregateVersion::NONE,
            Self::Exact(expected) => actual == expected,
        }
    }
}

impl ExpectedVersion {
    /// Whether a stream that was deleted, and not appended to since, is what the writer believes it to be. Its versions go on where
    /// they were, so that no writer who has a version in mind finds the stream that he knew.
    ///
    /// ```
    /// use eventuali::{AggregateVersion, ExpectedVersion};
    /// assert!(ExpectedVersion::NoStream.accepts_deleted());
    /// assert!(!ExpectedVersion::Exact(AggregateVersion::NONE).accepts_deleted());
    /// ```
    #[must_use]
    pub fn accepts_deleted(self) -> bool {
        matches!(self, Self::Any | Self::NoStream)
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no stream"),
            Self::Exists => f.write_str("an existing stream"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expectation_accepts_what_it_names() {
        use ExpectedVersion::{Any, Exact, Exists, NoStream};
        let (none, one, two) = (AggregateVersion(0), AggregateVersion(1), AggregateVersion(2));
        let table = [
            (Any, none, true),
            (Any, two, true),
            (NoStream, none, true),
            (NoStream, one, false),
            (Exists, none, false),
            (Exists, one, true),
            (Exact(none), none, true),
            (Exact(none), one, false),
            (Exact(one), one, true),
            (Exact(one), two, false),
            (Exact(two), one, false),
        ];
        for (expected, actual, accepted) in table {
            assert_eq!(expected.accepts(actual), accepted, "{expected} against {actual}");
        }
    }
}
