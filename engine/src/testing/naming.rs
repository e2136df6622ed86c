//! Names: what is kept to the byte, what is refused.

use super::Backend;
use super::arrange::{Subject, THING, assert_limit, event, events, in_tenant, one};
use crate::error::Error;
use crate::event::{NewEvent, Tag};
use crate::store::{AppendBatch, ReadAll, ReadStream};
use crate::version::ExpectedVersion::{Any, NoStream};

const HOSTILE: &[&str] = &[
    "a/b",
    "/etc/passwd",
    "../../etc/passwd",
    "..",
    ".",
    "/",
    "C:\\orders",
    "CON",
    "~",
    " ",
    "two\nlines\r\n",
    "\u{1b}[31m",
    "%00%2e%2e",
    "'; DROP TABLE events; --",
    "${HOME}",
    "\u{feff}marked",
    "\u{202e}turned",
    "🦀",
    "👩‍👩‍👧‍👦",
    "ﷺ",
    "日本語",
    "null",
    "\u{10ffff}",
    "\u{1}",
];

const WITH_NUL: [&str; 4] = ["a\0b", "\0", "\0a", "a\0"];

/// Appends that carry a name in each place in turn: aggregate id, aggregate type, event type, tag.
fn with_name(name: &str) -> [AppendBatch; 4] {
    let tagged = NewEvent { tags: vec![Tag(name.to_owned())], ..event("Happened") };
    [
        AppendBatch::one(name, THING, Any, events(1)),
        AppendBatch::one("a", name, Any, events(1)),
        AppendBatch::one("a", THING, Any, vec![event(name)]),
        one("a", tagged),
    ]
}

pub(super) fn hostile_names_are_kept_as_they_are(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for name in HOSTILE.iter().filter(|name| !name.starts_with('$')) {
        let named = NewEvent { tags: vec![Tag((*name).to_owned())], ..event(name) };
        subject.append(&AppendBatch::one(*name, *name, NoStream, vec![named.clone()]).for_tenant(*name));
        let stored = subject.read(ReadStream { tenant: (*name).to_owned(), ..ReadStream::of(*name) });
        subject.assert_all_same(&stored, [&named]);
        assert_eq!((stored[0].tenant(), stored[0].aggregate_id(), stored[0].aggregate_type()), (*name, *name, *name));
        assert_eq!(subject.read_all(ReadAll::new().event_types([*name])), stored);
        assert_eq!(subject.read_all(ReadAll::new().aggregate_types([*name])), stored);
        assert_eq!(subject.info(in_tenant(name, name)).map(|info| info.aggregate_type), Some((*name).to_owned()));
    }
}

pub(super) fn names_that_look_alike_are_different_streams(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    let alike = ["order", "Order", "ORDER", "order ", " order", "order/", "order\u{200b}", "caf\u{e9}", "cafe\u{301}", "1", "01", "1.0"];
    for name in alike {
        subject.append(&AppendBatch::one(name, THING, NoStream, events(1)));
    }
    for name in alike {
        let stream = subject.stream(name);
        assert_eq!((stream.len(), stream[0].aggregate_id()), (1, name));
    }
    // The border between tenant and id is part of the name.
    subject.append(&AppendBatch::one("bc", THING, NoStream, events(1)).for_tenant("a"));
    subject.append(&AppendBatch::one("c", THING, NoStream, events(1)).for_tenant("ab"));
}

pub(super) fn names_of_512_bytes_are_kept_and_of_513_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for longest in ["n".repeat(512), "🦀".repeat(128)] {
        let batch = AppendBatch::one(&*longest, &*longest, NoStream, vec![event(&longest)]).for_tenant(&*longest);
        subject.append(&batch);
        let stored = subject.read(ReadStream { tenant: longest.clone(), ..ReadStream::of(&*longest) });
        subject.assert_all_same(&stored, &batch.streams[0].events);
        assert_eq!((stored[0].aggregate_id(), stored[0].aggregate_type(), stored[0].tenant()), (&*longest, &*longest, &*longest));
    }
    let too_long = "n".repeat(513);
    let [id, aggregate_type, event_type, _] = with_name(&too_long);
    for batch in [id, aggregate_type, event_type, one("a", event("Happened")).for_tenant(&*too_long)] {
        assert_limit(&subject.refusal(&batch), 512, 513);
    }
    assert_limit(&subject.refusal(&AppendBatch::one(too_long, THING, Any, vec![])), 512, 513);
}

#[track_caller]
fn assert_invalid(subject: &Subject, batch: &AppendBatch) {
    let error = subject.refusal(batch);
    assert!(matches!(error, Error::InvalidName { .. }), "{batch:?} is refused for its name, not as {error:?}");
}

pub(super) fn a_nul_in_any_name_is_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for name in WITH_NUL {
        for batch in with_name(name) {
            assert_invalid(&subject, &batch);
        }
        assert_invalid(&subject, &one("a", event("Happened")).for_tenant(name));
    }
}

pub(super) fn empty_names_are_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for batch in with_name("") {
        assert_invalid(&subject, &batch);
    }
    assert_invalid(&subject, &AppendBatch::one("", THING, Any, vec![]));
}

pub(super) fn names_that_begin_with_a_dollar_are_refused(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    for name in ["$", "$deleted", "$$"] {
        for batch in with_name(name) {
            assert_invalid(&subject, &batch);
        }
        assert_invalid(&subject, &one("a", event("Opened")).for_tenant(name));
    }
    for batch in with_name("cost in $") {
        subject.append(&AppendBatch { tenant: batch.streams[0].events[0].id.to_string(), ..batch });
    }
}

pub(super) fn reading_a_name_that_cannot_exist_finds_nothing(backend: &dyn Backend) {
    let subject = Subject::new(backend);
    subject.grow("a", 1);
    let too_long = "n".repeat(100_000);
    for name in WITH_NUL.iter().copied().chain(["", "$", &too_long]) {
        // A backend may refuse such a name instead, but it neither panics nor finds anything.
        for read in [subject.store.read(ReadStream::of(name)), subject.store.read_all(ReadAll::new().event_types([name]))] {
            assert_eq!(read.filter_map(Result::ok).count(), 0, "{name:.20?}");
        }
        assert!(matches!(subject.store.stream(name.into()).wait(), Ok(None) | Err(_)), "{name:.20?}");
    }
}
