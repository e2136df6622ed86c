//! The conformance suite that every [`EventStore`] must pass, and the naive model it is judged by.
//!
//! A backend says how its stores are opened ([`Backend`], [`Home`]) and calls
//! [`conformance_suite!`](crate::conformance_suite): every case becomes a `#[test]` of its own.
//!
//! ```
//! use eventuali::testing::{Home, ModelHome};
//!
//! // In a crate's `tests/`, in a module for each backend:
//! eventuali::conformance_suite!(|| Box::new(ModelHome::default()) as Box<dyn Home>);
//! # fn main() {}
//! ```

mod appending;
mod arrange;
mod deleting;
mod expecting;
mod finishing;
mod frames;
mod keeping;
mod limiting;
mod model;
mod naming;
mod planted;
mod racing;
mod random;
mod reading;
mod reopening;
mod retrying;

use std::sync::Arc;

pub use frames::{decode_frames, frame_seed};
pub use model::{Model, ModelHome, ModelStore};
pub use planted::{PlantedBug, PlantedHome};

use crate::store::EventStore;

/// Makes every case of the conformance suite a `#[test]` for one [`Backend`](crate::testing::Backend).
#[macro_export]
macro_rules! conformance_suite {
    (@cases $then:ident $($argument:tt)*) => {
        $crate::conformance_suite! { @$then [$($argument)*]
            appending:
                append_one_event_returns_its_place
                append_many_events_numbers_them_in_order
                append_to_several_streams_is_one_atomic_step
                append_to_several_streams_stores_nothing_if_one_of_them_conflicts
                a_stream_that_stands_twice_in_a_batch_sees_its_own_earlier_events
                a_stream_that_stands_twice_in_a_batch_conflicts_with_its_own_earlier_events
                an_empty_event_list_only_checks_the_expectation
                an_empty_event_list_does_not_create_the_stream
                a_batch_without_streams_stores_nothing
                positions_are_gapless_and_versions_count_within_each_stream
                a_refused_append_uses_up_no_position
                an_acknowledged_append_is_seen_by_every_later_read
                the_aggregate_type_is_settled_by_the_first_event
                the_aggregate_type_is_settled_within_a_batch
                the_same_aggregate_id_in_two_tenants_is_two_streams
                receipts_name_the_durability_of_the_store;
            expecting:
                any_version_is_accepted_by_every_stream
                no_stream_is_accepted_only_by_a_stream_without_events
                an_existing_stream_is_required_by_exists
                append_with_the_exact_version_is_stored
                append_with_a_stale_version_conflicts
                append_with_a_version_ahead_of_the_stream_conflicts
                exact_version_zero_means_no_stream
                a_conflict_names_the_stream_and_both_versions
                a_conflict_in_the_middle_of_a_batch_names_that_stream;
            retrying:
                a_repeated_append_returns_the_first_receipts_and_stores_nothing
                a_repeated_append_is_recognised_before_its_version_is_checked
                a_repeated_append_to_several_streams_returns_the_first_receipts
                a_repeated_append_of_random_ids_is_recognised
                a_repeated_append_is_recognised_thousands_of_events_later
                a_repeated_append_is_recognised_among_random_ids_of_any_order
                an_append_whose_ids_are_stored_in_part_is_refused
                an_append_in_another_order_is_refused
                an_event_id_that_is_stored_in_another_stream_is_refused
                an_event_id_that_is_stored_in_another_tenant_is_refused
                an_event_id_with_another_payload_is_refused
                a_repeated_append_with_one_other_payload_names_that_event
                an_event_id_with_another_type_is_refused
                an_event_id_twice_in_a_batch_is_refused
                an_event_id_of_a_refused_append_can_be_used_again;
            reading:
                an_empty_store_reads_as_nothing
                an_unknown_stream_reads_as_nothing
                a_stream_reads_in_the_order_of_its_versions
                a_stream_reads_backwards
                everything_reads_in_the_order_of_positions
                everything_reads_backwards
                after_and_before_exclude_in_both_directions
                bounds_beyond_the_ends_read_as_nothing_more
                limit_counts_events_from_the_end_where_reading_begins
                event_types_filter_what_is_read
                aggregate_types_filter_what_is_read
                filters_combine_with_each_other_and_with_bounds_and_limit
                a_filter_of_unknown_names_reads_as_nothing
                thousands_of_events_read_in_bounded_batches
                awaiting_reads_the_same_as_blocking
                a_reader_ends_at_the_head_of_its_beginning
                a_stream_is_described_without_reading_it
                the_head_is_the_last_position
                including_system_events_keeps_all_others;
            naming:
                hostile_names_are_kept_as_they_are
                names_that_look_alike_are_different_streams
                names_of_512_bytes_are_kept_and_of_513_refused
                a_nul_in_any_name_is_refused
                empty_names_are_refused
                names_that_begin_with_a_dollar_are_refused
                reading_a_name_that_cannot_exist_finds_nothing;
            limiting:
                a_payload_of_no_bytes_is_kept
                a_payload_of_16_mib_is_kept_and_one_byte_more_refused
                metadata_of_64_kib_is_kept_and_one_byte_more_refused
                an_event_with_32_tags_is_kept_and_with_33_refused
                a_tag_of_256_bytes_is_kept_and_of_257_refused
                a_batch_of_65536_events_is_kept_and_of_65537_refused
                a_batch_of_more_than_64_mib_is_refused
                an_event_with_everything_at_its_limit_is_kept;
            keeping:
                json_payloads_keep_every_byte
                protobuf_payloads_keep_every_byte
                metadata_tags_and_schema_version_are_kept
                a_given_timestamp_is_kept
                timestamps_that_were_not_given_are_commit_times_and_never_decrease
                a_detached_event_is_equal_to_its_original;
            racing:
                one_of_64_threads_wins_each_version
                one_of_64_tasks_wins_each_version
                one_of_64_creators_wins
                who_lost_a_race_can_read_what_won_it
                concurrent_appenders_get_gapless_positions_in_the_order_of_their_streams
                concurrent_repetitions_of_one_append_store_it_once
                readers_see_whole_batches_while_writers_go_on;
            finishing:
                an_append_that_is_dropped_before_its_first_poll_stores_nothing
                an_append_that_is_dropped_after_its_first_poll_goes_on
                a_forgotten_append_blocks_nobody
                polling_and_waiting_can_be_mixed
                a_wait_that_timed_out_can_go_on
                one_thread_drives_many_appends
                sync_covers_everything_that_was_visible
                closing_again_does_nothing
                a_closed_store_refuses_everything
                a_reader_of_a_closed_store_never_ends_early;
            deleting:
                a_deleted_aggregate_has_no_events
                all_others_are_read_as_before
                an_aggregate_that_was_never_there_cannot_be_deleted
                deleting_expects_a_version
                deleting_again_returns_the_first_answer
                a_deleted_id_goes_on_with_its_versions
                a_deleted_id_conflicts_with_whoever_has_a_version_in_mind
                a_deleted_id_keeps_its_type
                a_deleted_id_is_free_within_a_batch_once
                an_append_that_was_deleted_is_not_stored_again
                deletions_take_positions_and_are_read_when_asked_for
                limits_and_filters_count_what_is_left
                the_newest_events_are_kept_by_count
                events_are_kept_from_a_version_on
                events_are_kept_up_to_an_age
                the_last_event_is_kept_whatever_the_limits
                limits_replace_each_other_and_bring_nothing_back
                setting_the_same_limits_again_stores_nothing
                limits_of_what_has_no_events_are_refused
                deleting_ends_limits
                one_of_64_deletions_and_appends_at_a_version_wins
                deletions_and_limits_hold_after_reopening
                a_store_without_retention_refuses_it;
            reopening:
                everything_is_there_after_reopening
                a_store_that_was_dropped_reopens_as_if_closed
                expectations_and_types_hold_after_reopening
                a_store_keeps_its_identity
                a_repeated_append_is_recognised_after_reopening
                positions_and_times_go_on_after_reopening
                large_events_and_batches_are_there_after_reopening;
            random:
                random_operations_agree_with_the_model;
        }
    };
    (@list [] $($module:ident: $($case:ident)*;)*) => { &[$($((stringify!($case), $module::$case),)*)*] };
    (@tests [$backend:expr] $($module:ident: $($case:ident)*;)*) => {
        $($(
            #[test]
            fn $case() {
                $crate::testing::run_case(stringify!($case), &$backend);
            }
        )*)*
    };
    ($backend:expr) => { $crate::conformance_suite! { @cases tests $backend } };
}

/// Makes empty stores of one kind, as many as a test asks for.
pub trait Backend {
    /// The home of a store that does not exist yet.
    fn create(&self) -> Box<dyn Home>;
}

/// Where one store lives.
pub trait Home: Send + Sync {
    /// Opens the store. It is called again, after the store was closed, only where
    /// [`persistent`](crate::Capabilities::persistent) is true.
    fn open(&self) -> Arc<dyn EventStore>;

    /// Does with the files of the open store whatever the backend does while it is open, such as giving space back: nothing that
    /// anybody may notice.
    fn tidy(&self) {}

    /// Whether the backend gives back the space of events that are left out. Then their ids are unknown sooner or later, and who appends
    /// them again is answered as if they were new.
    fn forgets(&self) -> bool {
        false
    }

    /// A form of a JSON payload in which what was appended and what is read back are compared: the bytes themselves, but where
    /// [`exact_json`](crate::Capabilities::exact_json) is false.
    fn comparable_json(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

impl<F: Fn() -> Box<dyn Home>> Backend for F {
    fn create(&self) -> Box<dyn Home> {
        self()
    }
}

impl<F: Fn() -> Arc<dyn EventStore> + Send + Sync> Home for F {
    fn open(&self) -> Arc<dyn EventStore> {
        self()
    }
}

/// One case of the suite: a sentence that must hold, and the function that panics where it does not.
pub type Case = (&'static str, fn(&dyn Backend));

/// Every case of the suite.
pub const CASES: &[Case] = conformance_suite!(@cases list);

/// Runs one case of [`CASES`].
///
/// # Panics
/// If the sentence does not hold for the backend, or if there is no such case.
pub fn run_case(name: &str, backend: &dyn Backend) {
    match CASES.iter().find(|(case, _)| *case == name) {
        Some((_, run)) => run(backend),
        None => panic!("the conformance suite has no case {name:?}"),
    }
}
