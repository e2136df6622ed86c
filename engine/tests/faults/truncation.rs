//! The newest segment ends early.

use eventuali::storage::{FaultyStorage, Mistake};
use eventuali::{Durability, EventStore, OpenOutcome};

use crate::arrange::{one, open, read_all};
use crate::files::{FIRST, Files, FramePlace, WATERMARK, damage_of, frames, holding, small_store};

/// Every length that cuts into the last three frames, with the frames that are whole then and the first that is not.
fn cuts(files: &Files) -> Vec<(usize, Vec<FramePlace>, FramePlace)> {
    let places = frames(&files[FIRST]);
    let start = places[places.len() - 3].bytes.start;
    let end = places[places.len() - 1].bytes.end;
    let at = |length: usize| {
        let (whole, broken): (Vec<_>, Vec<_>) = places.iter().cloned().partition(|place| place.bytes.end <= length);
        (length, whole, broken[0].clone())
    };
    (start..end).map(at).collect()
}

fn cut(files: &Files, length: usize) -> Files {
    let mut files = files.clone();
    files.get_mut(FIRST).expect("it is there").truncate(length);
    files
}

/// Whether a store that was cut is refused at every byte, each time with the right place.
fn every_cut_is_refused(files: &Files, prepare: impl Fn(&FaultyStorage)) -> Result<(), String> {
    for (length, whole, broken) in cuts(files) {
        let storage = holding(&cut(files, length));
        prepare(&storage);
        let opened = open(&storage);
        if opened.is_ok() {
            return Err(format!("cut at {length}, it opens"));
        }
        let damage = damage_of(opened);
        let last_good = whole.last().map_or(0, |place| place.last_position);
        assert_eq!((damage.segment, damage.offset, damage.last_good_position.0), (1, broken.bytes.start as u64, last_good), "cut at {length}");
    }
    Ok(())
}

#[test]
fn a_closed_store_whose_end_is_missing_is_refused_at_every_byte() {
    let (files, _) = small_store(Durability::Sync, true);
    every_cut_is_refused(&files, |_| {}).expect("the watermark knows better");
}

#[test]
fn a_killed_store_whose_acknowledged_end_is_missing_is_refused_at_every_byte() {
    let (files, _) = small_store(Durability::Sync, false);
    every_cut_is_refused(&files, |_| {}).expect("the watermark knows better");
}

#[test]
fn ignoring_the_watermark_is_found() {
    let (files, _) = small_store(Durability::Sync, true);
    every_cut_is_refused(&files, |storage| storage.make(Mistake::IgnoreWatermark)).expect_err("nothing else knows of the end");
}

/// Opens at the last whole frame, takes appends there, and opens again.
#[track_caller]
fn reopens_at_the_last_whole_frame(files: &Files, events: &[eventuali::Event]) {
    for (length, whole, _) in cuts(files) {
        let storage = holding(&cut(files, length));
        let store = open(&storage).unwrap_or_else(|error| panic!("cut at {length}: {error}"));
        let last = whole.last().expect("some are whole");
        let last_good = usize::try_from(last.last_position).expect("small");
        let torn = (length - last.bytes.end) as u64;
        // What was cut within a header may end in zeros, which are nothing.
        match &store.open_report().outcome {
            OpenOutcome::Clean => assert!(torn == 0, "cut at {length}"),
            OpenOutcome::Recovered { bytes, .. } => assert!((1..=torn).contains(bytes), "cut at {length}"),
            other => panic!("cut at {length}: {other:?}"),
        }
        assert_eq!(read_all(&store).expect("readable"), events[..last_good], "cut at {length}");
        let receipts = store.append(one("new", 10)).wait().expect("it takes appends");
        assert_eq!(receipts[0].position.0, last.last_position + 1);
        store.close().wait().expect("closed");
        let quarantined = storage.files().keys().filter(|name| name.starts_with("quarantine/")).count();
        assert_eq!(quarantined, usize::from(torn > 0), "cut at {length}");
        let store = open(&storage).expect("it opens again");
        assert_eq!((&store.open_report().outcome, read_all(&store).expect("readable").len()), (&OpenOutcome::Clean, last_good + 1));
    }
}

#[test]
fn without_a_watermark_a_store_reopens_at_the_last_whole_frame() {
    for closed in [true, false] {
        let (mut files, events) = small_store(Durability::Sync, closed);
        files.remove(WATERMARK);
        reopens_at_the_last_whole_frame(&files, &events);
    }
}

#[test]
fn with_a_zeroed_watermark_a_store_reopens_at_the_last_whole_frame() {
    for closed in [true, false] {
        let (mut files, events) = small_store(Durability::Sync, closed);
        files.get_mut(WATERMARK).expect("it is there").fill(0);
        reopens_at_the_last_whole_frame(&files, &events);
    }
}

#[test]
fn what_nobody_promised_to_be_durable_may_be_missing() {
    let (files, events) = small_store(Durability::Os, false);
    reopens_at_the_last_whole_frame(&files, &events);
}
