//! The names of a store's tables.

use eventuali::{Error, Result};

/// The name of the events table where none is chosen.
pub(crate) const DEFAULT: &str = "events";

/// The longest name: Postgres cuts names at 63 bytes, and the names of indexes and further tables are made from this one.
const BYTES_MAX: usize = 40;

/// A name that was checked: letters, digits and underscores, and so the same quoted and unquoted in every database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName(String);

impl TableName {
    /// # Errors
    /// [`Configuration`](Error::Configuration) with what a name may be.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let well_begun = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
        let well_made = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if well_begun && well_made && name.len() <= BYTES_MAX && !name.starts_with("sqlite_") && !name.starts_with("pg_") {
            return Ok(Self(name.to_owned()));
        }
        let shown: String = name.chars().take(64).collect();
        Err(Error::configuration(format!(
            "{shown:?} cannot name the events table: lower-case letters, digits and underscores, at most {BYTES_MAX}, beginning with a letter or \
             underscore, and not with sqlite_ or pg_, as in custom_events"
        )))
    }

    /// The tables in a database, for messages.
    #[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "without a SQL store there are no tables"))]
    pub(crate) fn within(&self, shown: &str) -> String {
        format!("the table {:?} of {shown}", self.0)
    }

    /// Puts the name into a statement wherever it says `{table}`.
    #[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "without a SQL store there are no statements"))]
    pub(crate) fn fill(&self, statement: &str) -> String {
        statement.replace("{table}", &self.0)
    }
}

impl Default for TableName {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
