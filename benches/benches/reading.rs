//! Appends, with the bare limit in the same group.
#![expect(missing_docs, reason = "criterion's macros make public functions")]
fn main() {}
