//! Expected versions: what each accepts, and what a conflict tells.

use super::Backend;
use super::arrange::{Subject, THING, assert_conflict, events, exact, places};
use crate::store::AppendBatch;
use crate::version::ExpectedVersion::{self, Any, Exists, NoStream};

fn to_a(expected: ExpectedVersion) -> AppendBatch {
    AppendBatch::one("a", THING, expected, events(1))
}

pub(super) fn any_version_is_accepted_by_every_stream(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for version in 1..=3 {
        assert_eq!(places(&subject.append(&to_a(Any))), [(version, version, 1)]);
    }
}

pub(super) fn no_stream_is_accepted_only_by_a_stream_without_events(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("b", 2);
    subject.append(&to_a(NoStream));
    assert_conflict(&subject.refusal(&to_a(NoStream)), "a", NoStream, 1);
}

pub(super) fn an_existing_stream_is_required_by_exists(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("b", 2);
    assert_conflict(&subject.refusal(&to_a(Exists)), "a", Exists, 0);
    subject.append(&to_a(Any));
    for version in 2..=3 {
        assert_eq!(subject.append(&to_a(Exists))[0].version.0, version);
    }
}

pub(super) fn append_with_the_exact_version_is_stored(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("b", 5);
    for version in 0..10 {
        assert_eq!(subject.append(&to_a(exact(version)))[0].version.0, version + 1);
    }
}

pub(super) fn append_with_a_stale_version_conflicts(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 4);
    for stale in 0..4 {
        assert_conflict(&subject.refusal(&to_a(exact(stale))), "a", exact(stale), 4);
    }
}

pub(super) fn append_with_a_version_ahead_of_the_stream_conflicts(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    assert_conflict(&subject.refusal(&to_a(exact(1))), "a", exact(1), 0);
    subject.grow("a", 4);
    for ahead in [5, 6, u64::from(u32::MAX), u64::MAX] {
        assert_conflict(&subject.refusal(&to_a(exact(ahead))), "a", exact(ahead), 4);
    }
}

pub(super) fn exact_version_zero_means_no_stream(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.append(&to_a(exact(0)));
    assert_conflict(&subject.refusal(&to_a(exact(0))), "a", exact(0), 1);
}

pub(super) fn a_conflict_names_the_stream_and_both_versions(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 3);
    let error = subject.refusal(&to_a(exact(1)));
    assert_conflict(&error, "a", exact(1), 3);
    let message = error.to_string();
    assert!(message.contains("\"a\"") && message.contains("version 3") && message.contains("version 1"), "{message}");
}

pub(super) fn a_conflict_in_the_middle_of_a_batch_names_that_stream(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("b", 3);
    let batch = to_a(NoStream).and("b", THING, exact(2), events(1)).and("c", THING, NoStream, events(1));
    assert_conflict(&subject.refusal(&batch), "b", exact(2), 3);
}
