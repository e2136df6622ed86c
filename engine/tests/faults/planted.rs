//! The harness finds the mistakes it is there to find.

use eventuali::Durability;
use eventuali::storage::Mistake;

use crate::poisoning::what_is_published_after_a_failed_sync_survives;
use crate::runs::{Plan, run};

/// How many seeds a mistake may take to be found.
const SEEDS: u64 = 300;

#[track_caller]
fn is_found(plan: Plan) {
    assert!((0..SEEDS).any(|seed| run(plan, seed).is_err()), "{:?} is not found", plan.mistake);
}

fn sync_with(mistake: Mistake) -> Plan {
    Plan { mistake: Some(mistake), ..Plan::of(Durability::Sync) }
}

#[test]
fn a_skipped_sync_is_found() {
    is_found(sync_with(Mistake::SkipSync));
}

#[test]
fn a_skipped_directory_sync_is_found() {
    is_found(sync_with(Mistake::SkipDirectorySync));
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    is_found(sync_with(Mistake::AcknowledgeBeforeSync));
}

#[test]
fn publishing_before_the_sync_is_found_by_what_readers_see_alone() {
    is_found(Plan { believes_answers: false, ..sync_with(Mistake::HideFailedSync).with_failures() });
    is_found(Plan { believes_answers: false, ..sync_with(Mistake::AcknowledgeBeforeSync) });
}

#[test]
fn a_failed_sync_that_is_taken_for_a_success_is_found() {
    is_found(sync_with(Mistake::HideFailedSync).with_failures());
}

#[test]
fn publishing_a_recovered_tail_without_writing_it_again_is_found() {
    let mistake = Some(Mistake::PublishWithoutRewriting);
    assert!((0..SEEDS).any(|seed| !what_is_published_after_a_failed_sync_survives(seed, mistake)));
    is_found(sync_with(Mistake::PublishWithoutRewriting).with_failures());
}

#[test]
fn a_manifest_that_counts_before_the_generation_it_names_is_found() {
    is_found(sync_with(Mistake::ManifestBeforeGeneration).compressing());
}

#[test]
fn a_manifest_that_counts_before_the_segment_it_names_is_found() {
    is_found(sync_with(Mistake::ManifestBeforeSegment));
}
