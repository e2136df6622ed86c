//! Simulated power cuts and killed processes, each life judged by what was promised.

use std::time::Duration;

use eventuali::Durability;

use crate::arrange::rounds;
use crate::runs::{Plan, run};

#[track_caller]
fn survives(plan: Plan, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(broken) = run(plan, seed) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn with_sync_no_power_cut_loses_what_was_acknowledged() {
    survives(Plan::of(Durability::Sync), 0..rounds(1500));
}

#[test]
fn with_segments_that_are_compressed_meanwhile_no_promise_is_broken() {
    survives(Plan::of(Durability::Sync).compressing(), 30_000..30_000 + rounds(500));
    survives(Plan::of(Durability::Os).compressing(), 40_000..40_000 + rounds(150));
    survives(Plan::of(Durability::Sync).compressing().with_failures(), 50_000..50_000 + rounds(350));
}

#[test]
fn with_an_interval_a_prefix_survives_every_power_cut() {
    survives(Plan::of(Durability::Interval(Duration::from_hours(1))), 0..rounds(500));
    // So short that every other append waits for its sync.
    survives(Plan::of(Durability::Interval(Duration::from_micros(1))), 1000..1000 + rounds(300));
}

#[test]
fn with_os_a_prefix_survives_every_power_cut() {
    survives(Plan::of(Durability::Os), 0..rounds(800));
}

#[test]
fn operations_that_fail_between_power_cuts_break_no_promise() {
    survives(Plan::of(Durability::Sync).with_failures(), 10_000..10_000 + rounds(1000));
    survives(Plan::of(Durability::Os).with_failures(), 20_000..20_000 + rounds(500));
}

#[test]
fn stores_that_are_forked_between_power_cuts_keep_their_promises_and_so_do_their_parents() {
    survives(Plan::of(Durability::Sync).in_forks(), 30_000..30_000 + rounds(400));
    survives(Plan::of(Durability::Os).in_forks(), 40_000..40_000 + rounds(200));
    survives(Plan::of(Durability::Sync).in_forks().with_failures(), 50_000..50_000 + rounds(300));
}
