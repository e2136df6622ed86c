//! The SQL stores under faults: connections cut at their worst moment, servers that stop, full disks, hostile names, many processes.
#![cfg(target_os = "linux")]

#[path = "../support/server.rs"]
mod support;

mod arrange;
mod ledger;
mod proxy;
mod roles;
mod session;

mod by_hand;
mod hostile;
mod memory;
mod order;
mod pages;
mod postgres_commits;
mod postgres_refusals;
mod postgres_server;
mod postgres_tls;
mod sqlite;
