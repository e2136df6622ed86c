//! The promises, under faults: power cuts, failing disks, damaged and hostile files.
//!
//! `EVENTUALI_SOAK=1` runs many times as many rounds.

mod arrange;
mod backing_up;
mod bits;
mod every_operation;
mod files;
mod following;
mod forking;
mod forks_apart;
mod forks_in_directories;
mod hostile;
mod merging;
mod oracle;
mod page_reads;
mod planted;
mod poisoning;
mod power_cuts;
mod runs;
mod runs_of_indexes;
mod salvaging;
mod scavenging;
mod truncation;
mod verifying;
mod ways_out;
