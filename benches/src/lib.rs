//! Workloads, bare limits and figures of the embedded engine.
//!
//! A figure alone says little on a machine that others use too. So every one is measured in turns with its bare limit: the
//! least that any program must do to the same bytes on the same file system. What counts is the ratio.

pub mod bare;
pub mod crew;
pub mod figures;
pub mod measure;
pub mod real;
pub mod report;
pub mod workload;

/// What goes wrong in a bench ends it.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;
