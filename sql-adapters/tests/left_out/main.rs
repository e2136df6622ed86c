//! Moving what was deleted, limited and scavenged: a target leaves out what its source leaves out.

mod compared;
mod in_tables;
mod killed;
mod mirrored;
mod random;
mod targets;

#[path = "../faults/roles.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod roles;

#[path = "../faults/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
mod support;
