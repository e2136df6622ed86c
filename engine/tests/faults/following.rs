//! Readers beside a writer that is killed, loses power or meets damage: what they have shown stays true, or they say that it does not.

use std::sync::Arc;

use eventuali::storage::{FaultyStorage, Storage};
use eventuali::{Durability, Error, Event, EventStore, Follow, LogStore, OpenOptions, Position, ReadAll, ReadStream, Result};

use crate::arrange::{Chance, many, one, open, open_with, options, read_all, rounds};

fn follow(storage: &FaultyStorage, follow: Follow) -> Result<LogStore> {
    OpenOptions::new().read_only(follow).open_storage(Arc::new(storage.beside()) as Arc<dyn Storage>)
}

/// A reader in a process that outlives every writer, and what it has shown.
struct Reader {
    store: LogStore,
    shown: Vec<Event>,
}

impl Reader {
    fn new(storage: &FaultyStorage, what: Follow) -> Self {
        Self { store: follow(storage, what).expect("opened"), shown: Vec::new() }
    }

    fn look(&mut self) -> Result<()> {
        for event in self.store.read_all(ReadAll::new().after(Position(self.shown.len() as u64))) {
            let event = event?;
            assert_eq!(event.position().0, self.shown.len() as u64 + 1);
            self.shown.push(event);
        }
        Ok(())
    }

    /// Whether all that it has shown is where it was.
    fn has_shown_only(&self, stored: &[Event]) -> bool {
        let place = |event: &Event| (event.id(), event.position(), event.version());
        self.shown.len() <= stored.len() && self.shown.iter().map(place).eq(stored.iter().take(self.shown.len()).map(place))
    }
}

/// Appends until the storage stops; enough to roll over twice.
fn append_until_it_stops(storage: &FaultyStorage, durability: Durability) {
    let Ok(store) = open_with(storage, options(durability)) else { return };
    for number in 0..12 {
        if store.append(one(["a", "b", "c"][number % 3], 11_000)).wait().is_err() {
            return;
        }
    }
    let _ = store.close().wait();
}

/// The writer stops between any two of its operations, readers look, and then the power fails.
#[test]
fn what_readers_have_seen_of_a_synced_store_is_there_after_a_power_cut_at_every_operation() {
    let whole = FaultyStorage::new(0);
    append_until_it_stops(&whole, Durability::Sync);
    let mut seen = 0;
    for stop in (0..whole.operations()).step_by(usize::try_from(if rounds(1) > 1 { 1 } else { 3_u64 }).expect("small")) {
        let storage = FaultyStorage::new(stop);
        drop(open(&storage).expect("created"));
        let mut readers = [Reader::new(&storage, Follow::Visible), Reader::new(&storage, Follow::Durable)];
        storage.stop_at(storage.operations() + stop);
        append_until_it_stops(&storage, Durability::Sync);
        for reader in &mut readers {
            reader.look().expect("read");
        }
        let mut fresh = Reader::new(&storage, Follow::Visible);
        fresh.look().expect("read");
        assert_eq!(fresh.shown.len(), readers[0].shown.len(), "stopped at {stop}");
        let after = open(&storage.power_cut()).expect("it opens");
        let stored = read_all(&after).expect("readable");
        for reader in readers.iter_mut().chain([&mut fresh]) {
            assert!(reader.has_shown_only(&stored), "stopped at {stop}");
            seen += reader.shown.len();
        }
        // They follow the next writer.
        after.append(one("a", 10)).wait().expect("stored");
        let stored = read_all(&after).expect("readable");
        for reader in readers.iter_mut().chain([&mut fresh]) {
            reader.look().expect("read");
            assert!(reader.has_shown_only(&stored) && reader.shown.len() == stored.len(), "stopped at {stop}");
        }
    }
    assert!(seen > 100, "{seen}");
}

/// The watermark is not synced with every append: what it says after a power failure may be old, and the frames prove more.
#[test]
fn a_reader_after_a_power_cut_sees_all_that_was_acknowledged_but_for_the_last_group() {
    let mut behind = 0;
    for seed in 0..rounds(60) {
        let storage = FaultyStorage::new(seed);
        let store = open(&storage).expect("created");
        for _ in 0..5 {
            store.append(one("a", 100)).wait().expect("stored");
        }
        let storage = storage.power_cut();
        let mut reader = Reader::new(&storage, Follow::Durable);
        reader.look().expect("read");
        let stored = read_all(&open(&storage).expect("opened")).expect("readable");
        assert!(stored.len() == 5 && reader.shown.len() >= 4 && reader.has_shown_only(&stored), "seed {seed}: {}", reader.shown.len());
        behind += 5 - reader.shown.len();
        reader.look().expect("read");
        assert_eq!(reader.shown.len(), 5, "a writer that opens the store tells of the rest");
    }
    assert!(behind > 0, "the watermark is lost now and then");
}

/// The lives of a store whose readers see events that a power failure can take.
fn lives(durability: Durability, seed: u64) -> Lives {
    let mut chance = Chance::new(seed);
    let mut storage = FaultyStorage::new(seed);
    drop(open_with(&storage, options(durability)).expect("created"));
    let mut readers = [Follow::Visible, Follow::Visible, Follow::Durable].map(|what| (what, Reader::new(&storage, what)));
    let mut told = Lives::default();
    for _ in 0..2 + chance.below(3) {
        let Ok(store) = open_with(&storage, options(durability)) else { panic!("it opens") };
        storage.stop_at(storage.operations() + chance.below(90));
        loop {
            let appended = store.append(many(
                ["a", "b", "c"][usize::try_from(chance.below(3)).expect("small")],
                1,
                usize::try_from(chance.below(20_000)).expect("small"),
            ));
            if appended.wait().is_err() {
                break;
            }
            if chance.once_in(6) && store.sync().wait().is_err() {
                break;
            }
            for (_, reader) in &mut readers {
                if chance.once_in(3) {
                    reader.look().expect("its writer lives");
                }
            }
        }
        // Its writer is dead, and nothing is lost yet.
        for (_, reader) in &mut readers {
            if chance.once_in(2) {
                reader.look().expect("what a dead writer has left");
            }
        }
        drop(store);
        storage = if chance.once_in(3) { storage.process_kill() } else { storage.power_cut() };
        let store = open_with(&storage, options(durability)).expect("it opens");
        for _ in 0..chance.below(4) {
            store.append(one("a", usize::try_from(chance.below(3000)).expect("small"))).wait().expect("stored");
        }
        let stored = read_all(&store).expect("readable");
        for (what, reader) in &mut readers {
            match reader.look() {
                Ok(()) => {
                    assert!(reader.has_shown_only(&stored), "seed {seed}: another history was shown");
                    let wanted = if *what == Follow::Visible { store.head() } else { store.durable_position() };
                    assert_eq!(reader.shown.len() as u64, wanted.wait().expect("told").0, "seed {seed}");
                    told.went_on += 1;
                }
                Err(Error::HistoryReplaced { position, .. }) => {
                    assert!(durability != Durability::Sync && *what == Follow::Visible, "seed {seed}: nothing was lost");
                    assert!(position.0 >= reader.shown.len() as u64, "seed {seed}");
                    for refused in [reader.store.head().wait().map(drop), reader.store.stream("a".into()).wait().map(drop), reader.look()] {
                        assert!(matches!(refused, Err(Error::HistoryReplaced { .. })), "seed {seed}: it is told again and again");
                    }
                    *reader = Reader::new(&storage, *what);
                    told.ended += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        store.close().wait().expect("closed");
    }
    told
}

#[derive(Default)]
struct Lives {
    went_on: u64,
    ended: u64,
}

#[test]
fn readers_go_on_with_the_same_history_or_say_that_it_was_lost() {
    for durability in [Durability::Sync, Durability::Os] {
        let mut told = Lives::default();
        for seed in 0..rounds(50) {
            let Lives { went_on, ended } = lives(durability, seed);
            told.went_on += went_on;
            told.ended += ended;
        }
        assert!(told.went_on > 40 && (told.ended > 0) == (durability == Durability::Os), "{durability:?}: {} and {}", told.went_on, told.ended);
    }
}

/// A reader that was in the middle of a batch when the log was cut and written anew: it delivered the new events as the old ones.
#[test]
fn a_read_that_goes_on_over_lost_events_ends_with_an_error() {
    let mut ended = 0;
    for seed in 0..rounds(12) {
        let storage = FaultyStorage::new(seed);
        let store = open_with(&storage, options(Durability::Os)).expect("created");
        store.append(many("a", 1500, 10)).wait().expect("stored");
        store.sync().wait().expect("synced");
        store.append(many("a", 1500, 10)).wait().expect("stored");
        let reader = follow(&storage, Follow::Visible).expect("opened");
        let (mut all, mut stream) = (reader.read_all(ReadAll::new()), reader.read(ReadStream::of("a")));
        assert!(all.next_batch().expect("read").is_some() && stream.next_batch().expect("read").is_some());
        let after = open_with(&storage.power_cut(), options(Durability::Os)).expect("it opens");
        if after.head().wait().expect("told").0 == 3000 {
            continue;
        }
        after.append(many("a", 1500, 10)).wait().expect("stored");
        for events in [&mut all, &mut stream] {
            let error = events.find_map(Result::err).expect("an error");
            assert!(matches!(error, Error::HistoryReplaced { .. }), "seed {seed}: {error}");
        }
        ended += 1;
    }
    assert!(ended > 0);
}

#[test]
fn a_damaged_store_is_refused_as_it_is_to_its_writer() {
    let storage = FaultyStorage::new(1);
    append_until_it_stops(&storage, Durability::Sync);
    let store = open(&storage).expect("opened");
    store.append(one("a", 500)).wait().expect("stored");
    drop(store);
    let files = storage.files();
    for (name, byte) in [("MANIFEST", 40), ("000000001.g0.seg", 0), ("000000003.g0.seg", 20), ("000000003.g0.seg", 4096 + 80)] {
        let mut damaged = files.clone();
        damaged.get_mut(name).expect("there")[byte] ^= 1;
        let storage = FaultyStorage::holding(&damaged, 1);
        match (open(&storage), follow(&storage, Follow::Visible)) {
            (Err(Error::Corruption(writers)), Err(Error::Corruption(readers))) => {
                assert_eq!((writers.path, writers.segment, writers.offset), (readers.path, readers.segment, readers.offset), "{name}");
            }
            // Damage of sealed segments is met by who reads them.
            (Ok(_), Ok(reader)) => assert!(name == "000000001.g0.seg" && matches!(read_all(&reader), Err(Error::Corruption(_))), "{name}"),
            (writer, reader) => panic!("{name}: {writer:?}, {reader:?}"),
        }
    }
    for name in ["000000001.g0.seg", "000000003.g0.seg"] {
        let mut without = files.clone();
        without.remove(name);
        let refused = follow(&FaultyStorage::holding(&without, 1), Follow::Visible);
        assert!(matches!(refused, Err(Error::Corruption(damage)) if damage.path.ends_with(name)), "{name}");
    }
}

#[test]
fn damage_of_what_is_durable_ends_a_reader_that_comes_to_it() {
    let storage = FaultyStorage::new(1);
    let store = open(&storage).expect("created");
    store.append(one("a", 100)).wait().expect("stored");
    let mut reader = Reader::new(&storage, Follow::Visible);
    reader.look().expect("read");
    store.append(one("a", 100)).wait().expect("stored");
    let end = storage.files()["000000001.g0.seg"].iter().rposition(|byte| *byte != 0).expect("frames");
    storage.rot("000000001.g0.seg", end * 8);
    for _ in 0..2 {
        assert!(matches!(reader.look(), Err(Error::Corruption(damage)) if damage.last_good_position == Position(1)));
    }
    assert_eq!(reader.shown.len(), 1);
}
