//! What a failed write or sync does to the writer, and a full disk does not.

use std::time::Duration;

use eventuali::storage::{Failure, Fault, FaultyStorage, Mistake, OperationKind};
use eventuali::{Durability, Error, EventStore, ExpectedVersion, LogStore, OpenOutcome, ReadStream};

use crate::arrange::{many, one, open, open_with, options, read_all};
use crate::runs::begin;

fn with_one_event() -> (FaultyStorage, LogStore) {
    let storage = FaultyStorage::new(1);
    let store = open(&storage).expect("created");
    store.append(one("before", 100)).wait().expect("stored");
    (storage, store)
}

/// Nothing is acknowledged any more, what was there can be read, and the next process finds nothing missing.
fn assert_poisoned(storage: &FaultyStorage, store: &LogStore) {
    storage.mend();
    for _ in 0..3 {
        let refused = store.append(one("after", 10)).wait();
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
        let refused = store.sync().wait();
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    }
    assert!(!store.capabilities().writable);
    let read: Result<Vec<_>, _> = store.read(ReadStream::of("before")).collect();
    assert_eq!(read.expect("reads go on").len(), 1);
    let _ = store.close().wait();
    let store = open(&storage.power_cut()).expect("it opens again");
    assert_eq!(read_all(&store).expect("readable")[0].aggregate_id(), "before");
    store.append(one("after", 10)).wait().expect("and takes appends");
}

#[test]
fn a_failed_write_poisons_the_writer() {
    let (storage, store) = with_one_event();
    storage.inject(Fault::on(OperationKind::Write).of(".seg"));
    let unknown = store.append(one("lost", 10)).wait();
    assert!(matches!(unknown, Err(Error::OutcomeUnknown { .. })), "{unknown:?}");
    assert_poisoned(&storage, &store);
}

#[test]
fn a_failed_sync_poisons_the_writer() {
    let (storage, store) = with_one_event();
    storage.inject(Fault::on(OperationKind::Sync).of(".seg"));
    let unknown = store.append(one("lost", 10)).wait();
    assert!(matches!(unknown, Err(Error::OutcomeUnknown { .. })), "{unknown:?}");
    assert_eq!(store.head().wait().expect("known").0, 1, "what was not synced is not published");
    assert_poisoned(&storage, &store);
}

#[test]
fn a_failed_sync_answers_everyone_who_waits() {
    let (storage, store) = with_one_event();
    storage.inject(Fault::on(OperationKind::Sync).of(".seg").for_good());
    let waiting: Vec<_> = (0..5).map(|_| begin(store.append(one("lost", 10)))).collect();
    for begun in waiting {
        let answer = begun.wait();
        assert!(matches!(answer, Err(Error::OutcomeUnknown { .. } | Error::Poisoned { .. })), "{answer:?}");
    }
    assert_poisoned(&storage, &store);
}

#[test]
fn a_failed_directory_sync_poisons_the_writer_that_rolls_over() {
    let (storage, store) = with_one_event();
    storage.inject(Fault::on(OperationKind::SyncDirectory));
    let refused = store.append(one("lost", 70_000)).wait();
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    assert_poisoned(&storage, &store);
}

#[test]
fn a_failed_barrier_poisons_the_writer() {
    let storage = FaultyStorage::new(1);
    let store = open_with(&storage, options(Durability::Os)).expect("created");
    store.append(one("before", 100)).wait().expect("stored");
    store.sync().wait().expect("synced");
    store.append(one("unsynced", 100)).wait().expect("written");
    storage.inject(Fault::on(OperationKind::Sync).of(".seg"));
    let unknown = store.sync().wait();
    assert!(matches!(unknown, Err(Error::OutcomeUnknown { .. })), "{unknown:?}");
    assert_eq!(store.durable_position().wait().expect("known").0, 1);
    assert_poisoned(&storage, &store);
}

#[test]
fn a_failed_sync_of_the_interval_poisons_the_writer() {
    let storage = FaultyStorage::new(1);
    let store = open_with(&storage, options(Durability::Interval(Duration::from_millis(1)))).expect("created");
    store.append(one("before", 100)).wait().expect("stored");
    store.sync().wait().expect("synced");
    storage.inject(Fault::on(OperationKind::Sync).of(".seg"));
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while store.append(one("later", 10)).wait().is_ok() {
        assert!(std::time::Instant::now() < deadline, "in vain waited for the interval's sync");
    }
    assert_poisoned(&storage, &store);
}

/// The watermark is a lower bound, and one that cannot be raised is still one. Rolling over and closing took its failure for
/// their own, and stopped the writer.
#[test]
fn a_watermark_that_cannot_be_written_stops_nothing() {
    for durability in [Durability::Sync, Durability::Os] {
        for kind in [OperationKind::Write, OperationKind::Sync] {
            for failure in [Failure::Device, Failure::NoSpace] {
                let storage = FaultyStorage::new(1);
                let store = open_with(&storage, options(durability)).expect("created");
                storage.inject(Fault::on(kind).of("WATERMARK").with(failure).for_good());
                for batch in [one("small", 10), one("rolls over", 70_000), one("rolls over", 70_000), many("small", 3, 10)] {
                    store.append(batch).wait().expect("stored");
                }
                store.sync().wait().expect("synced");
                let events = read_all(&store).expect("readable");
                store.close().wait().expect("closed");
                let store = open(&storage.power_cut()).expect("it opens again");
                assert_eq!(store.open_report().outcome, OpenOutcome::Clean);
                assert_eq!(read_all(&store).expect("readable"), events, "{durability:?}, {kind:?}, {failure:?}");
                assert_eq!(events.len(), 6);
                store.append(one("small", 10)).wait().expect("it goes on");
            }
        }
    }
}

#[test]
fn a_watermark_that_cannot_be_raised_when_an_idle_store_is_closed_stops_nothing() {
    let (storage, store) = with_one_event();
    drop(store);
    let mut files = storage.files();
    files.insert("WATERMARK".to_owned(), Vec::new());
    let storage = FaultyStorage::holding(&files, 1);
    let store = open(&storage).expect("it opens");
    storage.inject(Fault::on(OperationKind::Write).of("WATERMARK").for_good());
    store.close().wait().expect("closed");
    assert_eq!(read_all(&open(&storage.power_cut()).expect("it opens again")).expect("readable").len(), 1);
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_space_and_stops_nothing_else() {
    let (storage, store) = with_one_event();
    storage.inject(Fault::on(OperationKind::SecureSpace).with(Failure::NoSpace).for_good());
    for batch in [one("large", 70_000), many("many", 40, 2000)] {
        let refused = store.append(batch).wait();
        assert!(matches!(refused, Err(Error::StorageFull { .. })), "{refused:?}");
        assert_eq!(read_all(&store).expect("reads go on").len(), 1);
    }
    storage.mend();
    let receipts = store.append(one("large", 70_000)).wait().expect("there is space again");
    assert_eq!(receipts[0].position.0, 2, "what was refused has left no trace");
    store.close().wait().expect("it closes in order");
    let store = open(&storage).expect("it opens again");
    assert_eq!(store.open_report().outcome, OpenOutcome::Clean);
    assert_eq!(read_all(&store).expect("readable").len(), 2);
}

/// A repetition asks for as much room as the first time before anybody looks whether it is needed: on a full disk it was
/// answered that nothing is stored, although all of it was.
#[test]
fn a_full_disk_hides_neither_a_repetition_nor_a_conflict() {
    let (storage, store) = with_one_event();
    let stored = one("large", 70_000);
    let receipts = store.append(stored.clone()).wait().expect("stored");
    let mut stale = one("before", 70_000);
    stale.streams[0].expected = ExpectedVersion::NoStream;
    storage.inject(Fault::on(OperationKind::SecureSpace).with(Failure::NoSpace).for_good());
    assert!(matches!(store.append(one("large", 70_000)).wait(), Err(Error::StorageFull { .. })));
    assert_eq!(store.append(stored.clone()).wait().expect("stored already"), receipts);
    assert_eq!(begin(store.append(stored)).wait().expect("stored already"), receipts);
    let refused = store.append(stale).wait();
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
}

#[test]
fn a_poisoned_writer_refuses_a_repetition_until_the_store_is_opened_again() {
    let (storage, store) = with_one_event();
    let stored = one("stored", 10);
    let receipts = store.append(stored.clone()).wait().expect("stored");
    storage.inject(Fault::on(OperationKind::Sync).of(".seg"));
    store.append(one("lost", 10)).wait().expect_err("its sync fails");
    storage.mend();
    let refused = store.append(stored.clone()).wait();
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    store.close().wait().expect("closed");
    let store = open(&storage).expect("it opens again");
    assert_eq!(store.append(stored).wait().expect("stored already"), receipts);
}

#[test]
fn no_space_for_a_new_segments_files_is_a_full_disk_too() {
    for kind in [OperationKind::Create, OperationKind::Write, OperationKind::SecureSpace, OperationKind::Sync] {
        let (storage, store) = with_one_event();
        storage.inject(Fault::on(kind).of(".tmp").with(Failure::NoSpace).for_good());
        let refused = store.append(one("large", 70_000)).wait();
        assert!(matches!(refused, Err(Error::StorageFull { .. })), "{kind:?}: {refused:?}");
        storage.mend();
        store.append(one("large", 70_000)).wait().expect("there is space again");
    }
}

#[test]
fn no_space_for_a_write_into_secured_space_poisons_the_writer() {
    let (storage, store) = with_one_event();
    storage.inject(Fault::on(OperationKind::Write).of(".seg").with(Failure::NoSpace));
    let unknown = store.append(one("lost", 10)).wait();
    assert!(matches!(unknown, Err(Error::OutcomeUnknown { .. })), "{unknown:?}");
    assert_poisoned(&storage, &store);
}

/// After a failed sync the bytes can be read, but are not on disk, and no later sync will put them there. What the next
/// process publishes of them must survive a power cut all the same; `false` if it does not.
pub(crate) fn what_is_published_after_a_failed_sync_survives(seed: u64, mistake: Option<Mistake>) -> bool {
    let storage = FaultyStorage::new(seed);
    let store = open(&storage).expect("created");
    store.append(one("before", 100)).wait().expect("stored");
    if let Some(mistake) = mistake {
        storage.make(mistake);
    }
    storage.inject(Fault::on(OperationKind::Sync).of(".seg"));
    store.append(one("unknown", 100)).wait().expect_err("its sync fails");
    let storage = storage.process_kill();
    let store = open(&storage).expect("it opens");
    let published = read_all(&store).expect("readable");
    assert_eq!(published.len(), 2, "the pages are readable");
    let storage = storage.power_cut();
    let survived = open(&storage).and_then(|store| read_all(&store));
    survived.is_ok_and(|events| events == published)
}

#[test]
fn what_is_published_after_a_failed_sync_is_written_again_and_survives() {
    for seed in 0..200 {
        assert!(what_is_published_after_a_failed_sync_survives(seed, None), "seed {seed}");
    }
}

#[test]
fn an_append_of_unknown_outcome_can_be_repeated_and_is_stored_once() {
    for seed in 0..100 {
        let storage = FaultyStorage::new(seed);
        let store = open(&storage).expect("created");
        let batch = many("a", 3, 100);
        storage.inject(Fault::on(OperationKind::Sync).of(".seg").after(seed % 2));
        if seed % 2 == 1 {
            store.append(one("before", 100)).wait().expect("stored");
        }
        store.append(batch.clone()).wait().expect_err("its sync fails");
        let storage = if seed % 3 == 0 { storage.process_kill() } else { storage.power_cut() };
        let store = open(&storage).expect("it opens");
        let receipts = store.append(batch.clone()).wait().expect("stored now");
        assert_eq!(store.append(batch).wait().expect("known"), receipts);
        let stored: Result<Vec<_>, _> = store.read(ReadStream::of("a")).collect();
        assert_eq!(stored.expect("readable").len(), 3, "seed {seed}");
    }
}
