//! Readers beside a writer see what it has made visible, at every step of its life.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eventuali::maintenance::{backup, verify};
use eventuali::storage::{Access, MemoryStorage, Storage};
use eventuali::{
    AppendBatch, Compress, Durability, Error, Event, EventData, EventReader, EventStore, ExpectedVersion, Follow, LogStore, NewEvent, OpenOptions,
    OpenOutcome, Position, ReadAll, ReadStream, Result, compress_storage,
};
use proptest::prelude::*;

const SEGMENT_BYTES: u64 = 64 << 10;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// So many events of one stream, of so many bytes.
    Append(u8, u8, u16),
    Sync,
    /// Closed in order, and perhaps compressed, and opened again.
    Reopen(bool),
    /// This reader looks at everything that is new to it.
    Look(usize),
    /// This reader looks at one stream.
    Stream(usize, u8),
    /// This reader is opened anew.
    Renew(usize),
    /// This reader goes on with a read of everything that it began before.
    GoOn(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..6_u8, 1..4_u8, 0..20_000_u16).prop_map(|(stream, count, bytes)| Step::Append(stream, count, bytes)),
        1 => Just(Step::Sync),
        1 => any::<bool>().prop_map(Step::Reopen),
        4 => (0..READERS).prop_map(Step::Look),
        3 => (0..READERS, 0..6_u8).prop_map(|(reader, stream)| Step::Stream(reader, stream)),
        1 => (0..READERS).prop_map(Step::Renew),
        2 => (0..READERS).prop_map(Step::GoOn),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Two see what is visible and two what is durable.
const READERS: usize = 4;

fn follow(number: usize) -> Follow {
    if number.is_multiple_of(2) { Follow::Visible } else { Follow::Durable }
}

struct Reader {
    store: LogStore,
    follow: Follow,
    seen: u64,
    /// A read that was begun, the position that it stands at and the one it goes to.
    begun: Option<(EventReader, u64, u64)>,
}

struct Run {
    storage: Arc<MemoryStorage>,
    durability: Durability,
    writer: Option<LogStore>,
    /// What the writer has stored, in order.
    stored: Vec<(uuid::Uuid, String)>,
    readers: Vec<Reader>,
}

fn open(storage: &Arc<MemoryStorage>, durability: Durability) -> LogStore {
    let options = OpenOptions::new().durability(durability).segment_bytes(SEGMENT_BYTES).index_when_sealing().merge_indexes_of(2);
    // Whatever is sealed is soon another file.
    let options = options.compression(Compress::OlderThan(1));
    options.open_storage(Arc::clone(storage) as Arc<dyn Storage>).expect("opened")
}

fn reader(storage: &Arc<MemoryStorage>, follow: Follow) -> Reader {
    let store = OpenOptions::new().read_only(follow).open_storage(Arc::clone(storage) as Arc<dyn Storage>).expect("opened");
    Reader { store, follow, seen: 0, begun: None }
}

fn stream(number: u8) -> String {
    format!("stream-{number}")
}

impl Run {
    fn new(durability: Durability) -> Self {
        let storage = Arc::new(MemoryStorage::new());
        let writer = Some(open(&storage, durability));
        let readers = (0..READERS).map(|number| reader(&storage, follow(number))).collect();
        Self { storage, durability, writer, stored: Vec::new(), readers }
    }

    fn writer(&self) -> &LogStore {
        self.writer.as_ref().expect("open")
    }

    /// How far a reader must see now: as far as the writer's own readers, or as far as the writer says that it is durable.
    fn head(&self, follow: Follow) -> u64 {
        let position = match follow {
            Follow::Visible => self.writer().head().wait(),
            Follow::Durable => self.writer().durable_position().wait(),
        };
        position.expect("told").0
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append(to, count, bytes) => {
                let events: Vec<NewEvent> =
                    (0..count).map(|_| NewEvent::new("Happened", EventData::Protobuf(vec![to; usize::from(bytes)]))).collect();
                self.stored.extend(events.iter().map(|event| (event.id, stream(to))));
                self.writer().append(AppendBatch::one(stream(to), "Thing", ExpectedVersion::Any, events)).wait().expect("stored");
            }
            Step::Sync => drop(self.writer().sync().wait().expect("synced")),
            Step::Reopen(compressed) => {
                self.writer.take().expect("open").close().wait().expect("closed");
                if compressed {
                    compress_storage(&*self.storage).expect("compressed");
                }
                self.writer = Some(open(&self.storage, self.durability));
            }
            Step::Look(number) => {
                let head = self.head(self.readers[number].follow);
                self.readers[number].look(head, &self.stored);
            }
            Step::Stream(number, of) => {
                let reader = &self.readers[number];
                reader.look_at(&stream(of), self.head(reader.follow), &self.stored);
            }
            Step::Renew(number) => self.readers[number] = reader(&self.storage, follow(number)),
            Step::GoOn(number) => self.readers[number].go_on(&self.stored),
        }
    }
}

/// Event id and stream.
fn told(event: &Event) -> (uuid::Uuid, String) {
    (event.id(), event.aggregate_id().to_owned())
}

impl Reader {
    fn look(&mut self, head: u64, stored: &[(uuid::Uuid, String)]) {
        assert_eq!(self.store.head().wait().expect("told").0, head, "{:?}", self.follow);
        let durable = self.store.durable_position().wait().expect("told").0;
        assert!(durable <= head && (self.follow == Follow::Visible || durable == head));
        for event in self.store.read_all(ReadAll::new().after(Position(self.seen))) {
            let event = event.expect("readable");
            self.seen += 1;
            assert_eq!((event.position().0, told(&event)), (self.seen, stored[usize::try_from(self.seen - 1).expect("few")].clone()));
        }
        assert_eq!(self.seen, head);
        let newest: Vec<Event> = self.store.read_all(ReadAll::new().backwards().limit(3)).collect::<Result<_>>().expect("readable");
        assert!(newest.iter().map(|event| event.position().0).eq((1..=head).rev().take(3)));
    }

    fn look_at(&self, aggregate_id: &str, head: u64, stored: &[(uuid::Uuid, String)]) {
        let visible = &stored[..usize::try_from(head).expect("few")];
        let expected: Vec<_> = visible.iter().filter(|(_, stream)| stream == aggregate_id).cloned().collect();
        let info = self.store.stream(aggregate_id.into()).wait().expect("told");
        assert_eq!(info.map_or(0, |info| info.version.0), expected.len() as u64);
        let read: Vec<Event> = self.store.read(ReadStream::of(aggregate_id)).collect::<Result<_>>().expect("readable");
        assert!(read.iter().map(told).eq(expected));
        assert!(read.iter().zip(1..).all(|(event, version)| event.version().0 == version));
    }

    /// Reads one event more of a read that goes on while everything around it changes.
    fn go_on(&mut self, stored: &[(uuid::Uuid, String)]) {
        let (events, at, end) = self.begun.get_or_insert_with(|| {
            let end = self.store.head().wait().expect("told").0;
            (self.store.read_all(ReadAll::new()), 0, end)
        });
        if let Some(event) = events.next() {
            let event = event.expect("readable");
            *at += 1;
            assert_eq!((event.position().0, told(&event)), (*at, stored[usize::try_from(*at - 1).expect("few")].clone()));
        } else {
            assert_eq!(at, end, "it ended where the log ended when it was begun");
            self.begun = None;
        }
    }
}

fn run(durability: Durability, steps: &[Step]) {
    let mut run = Run::new(durability);
    for step in steps {
        run.step(step);
    }
    // However far behind a reader is, in the end all have seen everything.
    for number in 0..READERS {
        run.step(&Step::Look(number));
        for of in 0..6 {
            run.step(&Step::Stream(number, of));
        }
    }
}

fn cases() -> u32 {
    if std::env::var_os("EVENTUALI_SOAK").is_some() { 5000 } else { 40 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn readers_see_what_the_writer_sees_whatever_it_does_and_whenever_they_look(
        steps in steps(), durability in prop_oneof![Just(Durability::Sync), Just(Durability::Os)],
    ) {
        run(durability, &steps);
    }
}

fn one(aggregate_id: &str, payload_bytes: usize) -> AppendBatch {
    let event = NewEvent::new("Happened", EventData::Protobuf(vec![7; payload_bytes]));
    AppendBatch::one(aggregate_id, "Thing", ExpectedVersion::Any, vec![event])
}

/// When it fails because files are gone, it looks at the watermark, and may pass over segments: those had new generations by then, and the
/// read was not repeated.
#[test]
fn a_read_goes_on_when_its_segments_are_replaced_and_the_writer_is_far_ahead() {
    let storage = Arc::new(MemoryStorage::new());
    let options = OpenOptions::new().segment_bytes(SEGMENT_BYTES).index_when_sealing().compression(Compress::OlderThan(8));
    let writer = options.open_storage(Arc::clone(&storage) as Arc<dyn Storage>).expect("created");
    let append = |events: u64| (0..events).for_each(|_| drop(writer.append(one("a", 15_000)).wait().expect("stored")));
    append(20);
    let Reader { store, .. } = reader(&storage, Follow::Visible);
    let (all, stream) = (store.read_all(ReadAll::new()), store.read(ReadStream::of("a")));
    append(80);
    assert!(storage.open("000000001.g0.seg", Access::Read).is_err(), "it was compressed");
    for events in [all, stream] {
        assert!(events.map(|event| event.expect("readable").position().0).eq(1..=20));
    }
}

fn read_only(path: &Path) -> Result<LogStore> {
    OpenOptions::new().read_only(Follow::Visible).open(path)
}

/// Names and contents of the files in a directory, without those that the writer's threads make: indexes.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let is_made_by_a_thread = path.is_dir() || path.to_string_lossy().contains(".idx");
        if !is_made_by_a_thread {
            found.insert(path.clone(), fs::read(&path).expect("readable"));
        }
    }
    found
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let refused = |path: &Path, words: &str| match read_only(path) {
        Err(Error::Configuration { message }) => assert!(message.contains(words), "{message}"),
        other => panic!("{other:?}"),
    };
    refused(&folder.path().join("nowhere"), "does not exist");
    refused(folder.path(), "there is no store");
    fs::write(folder.path().join("LOCK"), "pid 1").expect("written");
    refused(folder.path(), "there is no store");
    assert_eq!(files(folder.path()).len(), 1, "nothing was made");

    // A store that is just being made has its first segment before its manifest.
    let made = folder.path().join("made");
    drop(LogStore::open(&made).expect("created"));
    fs::remove_file(made.join("MANIFEST")).expect("removed");
    assert!(matches!(read_only(&made), Err(Error::Corruption(_))), "there is a watermark");
    fs::remove_file(made.join("WATERMARK")).expect("removed");
    refused(&made, "there is no store");
    fs::copy(made.join("000000001.g0.seg"), made.join("000000002.g0.seg")).expect("copied");
    assert!(matches!(read_only(&made), Err(Error::Corruption(_))), "more than the first segment");
}

#[test]
fn options_of_the_writer_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    drop(LogStore::open(folder.path()).expect("created"));
    let options = OpenOptions::new().read_only(Follow::Visible);
    for (name, options) in [
        ("durability", options.clone().durability(Durability::Os)),
        ("segment_bytes", options.clone().segment_bytes(1 << 20)),
        ("compression", options.clone().compression(Compress::OlderThan(1))),
        ("accept_loss_after", options.clone().accept_loss_after(Position(1))),
        ("read_up_to_damage", options.clone().read_up_to_damage()),
    ] {
        let Err(Error::Configuration { message }) = options.open(folder.path()) else { panic!("{name} was accepted") };
        assert!(message.starts_with(name), "{message}");
    }
}

/// In the process of the writer too: another handle, which changes no file, takes nothing from the writer, and outlives it.
#[test]
fn a_reader_in_the_writers_process_is_a_handle_of_its_own_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let options = OpenOptions::new().segment_bytes(SEGMENT_BYTES).durability(Durability::Os).compression(Compress::Never);
    let writer = options.open(folder.path()).expect("created");
    for _ in 0..12 {
        writer.append(one("a", 9_000)).wait().expect("stored");
    }
    let before = files(folder.path());
    let [reader, other] = [(); 2].map(|()| read_only(folder.path()).expect("opened"));
    let durable = OpenOptions::new().read_only(Follow::Durable).open(folder.path()).expect("opened");
    assert_eq!(reader.open_report().outcome, OpenOutcome::ReadOnly);
    assert_eq!(reader.open_report().head, Position(12));
    assert_eq!(reader.identity().wait().expect("told"), writer.identity().wait().expect("told"));
    assert_eq!((reader.head().wait().expect("told"), other.head().wait().expect("told")), (Position(12), Position(12)));
    assert_eq!(durable.head().wait().expect("told"), writer.durable_position().wait().expect("told"));
    let capabilities = reader.capabilities();
    assert_eq!((capabilities.writable, capabilities.persistent, capabilities.durability), (false, true, Durability::Os));
    assert_eq!(durable.capabilities().durability, Durability::Sync);
    assert!(matches!(reader.append(one("a", 1)).wait(), Err(Error::ReadOnly)));
    assert!(matches!(reader.compress(), Err(Error::ReadOnly)));
    assert!(matches!(reader.sync().wait(), Err(Error::ReadOnly)), "not all of it is on disk, and a reader does not sync");
    assert_eq!(durable.sync().wait().expect("it is on disk"), durable.head().wait().expect("told"));
    assert!(before == files(folder.path()), "a reader changed something");

    writer.sync().wait().expect("synced");
    assert_eq!(reader.sync().wait().expect("it is on disk"), Position(12));
    assert_eq!(durable.head().wait().expect("told"), Position(12));
    writer.close().wait().expect("closed");
    let before = files(folder.path());
    drop(other);
    assert_eq!(reader.read_all(ReadAll::new()).count(), 12);
    reader.close().wait().expect("closed");
    assert!(matches!(reader.head().wait(), Err(Error::Closed)));
    assert!(before == files(folder.path()), "a reader changed something");
    // The lock was the writer's alone.
    drop(OpenOptions::new().segment_bytes(SEGMENT_BYTES).open(folder.path()).expect("opened"));
}

/// Removed and made anew by the next writer, as by somebody who cleans up too much.
#[test]
fn a_watermark_that_was_removed_and_made_again_is_followed() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = LogStore::open(folder.path()).expect("created");
    store.append(one("a", 10)).wait().expect("stored");
    let reader = read_only(folder.path()).expect("opened");
    store.close().wait().expect("closed");
    fs::remove_file(folder.path().join("WATERMARK")).expect("removed");
    let fresh = read_only(folder.path()).expect("opened");
    assert_eq!(
        (reader.head().wait().expect("told"), fresh.head().wait().expect("told")),
        (Position(1), Position(1)),
        "its close says that all is durable"
    );
    let store = LogStore::open(folder.path()).expect("opened");
    store.append(one("a", 10)).wait().expect("stored");
    for reader in [reader, fresh] {
        assert_eq!(reader.read_all(ReadAll::new()).map(|event| event.expect("readable").position().0).collect::<Vec<_>>(), [1, 2]);
    }
}

#[test]
fn another_store_in_the_same_place_ends_a_reader() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let place = folder.path().join("store");
    let store = LogStore::open(&place).expect("created");
    store.append(one("a", 10)).wait().expect("stored");
    let reader = read_only(&place).expect("opened");
    store.close().wait().expect("closed");
    fs::rename(&place, folder.path().join("moved")).expect("moved");
    assert_eq!(reader.head().wait().expect("what it has is still true"), Position(1));
    let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).open(&place).expect("created");
    for _ in 0..20 {
        store.append(one("b", 9_000)).wait().expect("stored");
    }
    assert_eq!(reader.head().wait().expect("no watermark of its own store says more"), Position(1));
    assert!(reader.read_all(ReadAll::new()).all(|event| event.expect("its file is open").aggregate_id() == "a"));
}

#[test]
fn a_backup_of_a_reader_is_a_backup_of_what_is_durable() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let store = OpenOptions::new().segment_bytes(SEGMENT_BYTES).durability(Durability::Os).open(folder.path().join("store")).expect("created");
    for _ in 0..20 {
        store.append(one("a", 9_000)).wait().expect("stored");
    }
    let reader = read_only(&folder.path().join("store")).expect("opened");
    let durable = store.durable_position().wait().expect("told");
    assert!(durable.0 > 0 && durable < store.head().wait().expect("told"));
    let report = backup(&reader, folder.path().join("copy"), |_| ControlFlow::Continue(())).expect("backed up");
    assert_eq!(report.position, durable);
    assert_eq!(LogStore::open(folder.path().join("copy")).expect("opened").head().wait().expect("told"), durable);
    assert!(verify(folder.path().join("store"), |_| ControlFlow::Continue(())).expect("read").is_sound());
}
