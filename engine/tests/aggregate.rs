//! Aggregates: loading, saving, time travel, and saves whose outcome is unknown.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use eventuali::{
    Aggregate, AggregateVersion, AppendBatch, AsOf, Capabilities, Completion, Error, EventMetadata, EventReader, EventStore, ExpectedVersion,
    LogStore, NewEvent, Operation, Position, ReadAll, ReadStream, Receipt, Result, Root, StoreIdentity, StreamInfo, StreamKey, Timestamp,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    Opened {
        owner: String,
    },
    #[serde(rename = "account.deposited")]
    Deposited(u64),
    Closed,
}

use AccountEvent::{Closed, Deposited, Opened};

#[derive(Debug, Default, Clone, PartialEq)]
struct Account {
    owner: String,
    cents: u64,
    is_closed: bool,
}

impl Aggregate for Account {
    const TYPE: &'static str = "Account";
    type Event = AccountEvent;

    fn apply(&mut self, event: AccountEvent) {
        match event {
            Opened { owner } => self.owner = owner,
            Deposited(cents) => self.cents += cents,
            Closed => self.is_closed = true,
        }
    }
}

fn memory() -> LogStore {
    LogStore::memory().expect("a store in memory")
}

/// An account with the deposits 1, 2, 4, 8, not saved.
fn account(id: &str) -> Root<Account> {
    let mut account = Root::<Account>::with_id(id);
    account.apply(Opened { owner: "ann".to_owned() }).expect("applied");
    for cents in [1, 2, 4, 8] {
        account.apply(Deposited(cents)).expect("applied");
    }
    account
}

fn load(store: &dyn EventStore, id: &str, as_of: AsOf) -> Result<Root<Account>> {
    Root::load_as_of(store, id, as_of).wait()
}

/// Awaits what a store that needs no waiting completes at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a store in memory need not wait"),
    }
}

#[test]
fn a_saved_aggregate_loads_as_it_was() {
    let store = memory();
    account("other").save(&store).wait().expect("saved");
    let mut account = account("a");
    assert_eq!((account.version(), account.position(), account.pending().len()), (AggregateVersion(5), Position(0), 5));
    let receipt = account.save(&store).wait().expect("saved");
    assert_eq!((receipt.position, receipt.version, receipt.events), (Position(10), AggregateVersion(5), 5));
    let loaded = load(&store, "a", AsOf::Latest).expect("loaded");
    for root in [&account, &loaded] {
        assert_eq!((root.id(), root.version(), root.position(), root.pending().len()), ("a", AggregateVersion(5), Position(10), 0));
    }
    assert_eq!(loaded.into_state(), Account { owner: "ann".to_owned(), cents: 15, is_closed: false });
}

#[test]
fn events_are_stored_under_their_variant_with_its_fields_and_metadata() {
    let store = memory();
    let mut account = Root::<Account>::with_id("a");
    let metadata = EventMetadata { user_id: Some("ann".to_owned()), ..EventMetadata::default() };
    account.apply_with(Opened { owner: "ann".to_owned() }, metadata.clone()).expect("applied");
    account.apply(Deposited(7)).expect("applied");
    account.apply(Closed).expect("applied");
    let pending: Vec<NewEvent> = account.pending().to_vec();
    account.save(&store).wait().expect("saved");
    let stored: Vec<_> = store.read(ReadStream::of("a")).collect::<Result<_>>().expect("readable");
    let shapes: Vec<_> = stored.iter().map(|event| (event.event_type(), std::str::from_utf8(event.payload()).expect("JSON"))).collect();
    assert_eq!(shapes, [("Opened", r#"{"owner":"ann"}"#), ("account.deposited", "7"), ("Closed", "{}")]);
    assert_eq!(stored[0].metadata().expect("readable"), metadata);
    assert!(stored.iter().zip(&pending).all(|(stored, new)| stored.id() == new.id && Some(stored.timestamp()) == new.timestamp));
    assert!(stored.iter().all(|event| event.aggregate_type() == "Account"));
}

#[test]
fn new_aggregates_get_ids_of_their_own() {
    let (one, other) = (Root::<Account>::new(), Root::<Account>::default());
    assert_ne!(one.id(), other.id());
    assert_eq!((one.id().len(), one.version()), (36, AggregateVersion::NONE));
}

#[test]
fn saving_nothing_stores_nothing() {
    let store = memory();
    let mut account = account("a");
    account.save(&store).wait().expect("saved");
    let mut stale = account.clone();
    account.apply(Closed).expect("applied");
    account.save(&store).wait().expect("saved");
    assert_eq!(stale.save(&store).wait().expect("nothing to save").events, 0);
    assert_eq!((stale.version(), store.head().wait().expect("a head")), (AggregateVersion(5), Position(6)));
}

#[test]
fn a_stale_aggregate_conflicts_and_keeps_its_events() {
    let store = memory();
    account("a").save(&store).wait().expect("saved");
    let mut one = load(&store, "a", AsOf::Latest).expect("loaded");
    let mut other = load(&store, "a", AsOf::Latest).expect("loaded");
    one.apply(Deposited(1)).expect("applied");
    other.apply(Closed).expect("applied");
    one.save(&store).wait().expect("saved");
    for _ in 0..2 {
        match other.save(&store).wait() {
            Err(Error::Conflict { aggregate_id, expected, actual, deleted: false }) => {
                assert_eq!((&*aggregate_id, expected), ("a", ExpectedVersion::Exact(AggregateVersion(5))));
                assert_eq!(actual, AggregateVersion(6));
            }
            answer => panic!("expected a conflict, not {answer:?}"),
        }
    }
    assert_eq!((other.pending().len(), other.version()), (1, AggregateVersion(6)));
}

#[test]
fn an_aggregate_that_is_there_already_is_not_created_again() {
    let store = memory();
    account("a").save(&store).wait().expect("saved");
    assert!(matches!(account("a").save(&store).wait(), Err(Error::Conflict { actual: AggregateVersion(5), .. })));
    let key = StreamKey { tenant: "acme", aggregate_id: "a" };
    let mut in_tenant = Root::<Account>::with_id(key);
    in_tenant.apply(Deposited(3)).expect("applied");
    in_tenant.save(&store).wait().expect("another stream");
    let loaded = Root::<Account>::load(&store, key).wait().expect("loaded");
    assert_eq!((loaded.tenant(), loaded.cents), ("acme", 3));
}

#[test]
fn what_is_not_there_or_is_something_else_is_not_loaded() {
    let store = memory();
    assert!(matches!(load(&store, "a", AsOf::Latest), Err(Error::AggregateNotFound { aggregate_id }) if aggregate_id == "a"));
    let event = NewEvent::json("Opened", &serde_json::json!({"owner": "ann"})).expect("an event");
    store.append(AppendBatch::one("a", "Basket", ExpectedVersion::Any, vec![event])).wait().expect("stored");
    match load(&store, "a", AsOf::Latest) {
        Err(Error::AggregateType { aggregate_id, stored, requested }) => {
            assert_eq!((&*aggregate_id, &*stored, &*requested), ("a", "Basket", "Account"));
        }
        answer => panic!("expected a refusal of the type, not {answer:?}"),
    }
}

#[test]
fn an_event_that_the_aggregate_does_not_know_is_not_skipped() {
    let store = memory();
    account("a").save(&store).wait().expect("saved");
    for (event_type, payload) in [("Renamed", "{}"), ("Opened", "{\"owner\": 7}"), ("account.deposited", "-1")] {
        let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
        let batch = AppendBatch::one(event_type, "Account", ExpectedVersion::Any, vec![NewEvent::json(event_type, &payload).expect("an event")]);
        let position = store.append(batch).wait().expect("stored")[0].position;
        match load(&store, event_type, AsOf::Latest) {
            Err(Error::Deserialization { position: at, event_type: found, .. }) => assert_eq!((at, &*found), (position, event_type)),
            answer => panic!("expected a refusal of the event, not {answer:?}"),
        }
    }
}

#[test]
fn an_aggregate_loads_as_of_a_version_or_position() {
    let store = memory();
    let (mut a, mut b) = (account("a"), account("b"));
    a.save(&store).wait().expect("saved");
    b.save(&store).wait().expect("saved");
    a.apply(Deposited(16)).expect("applied");
    a.save(&store).wait().expect("saved");
    let cents_at = |as_of| load(&store, "a", as_of).map(|account| (account.cents, account.version().0)).ok();
    let by_version = [(0, None), (1, Some((0, 1))), (3, Some((3, 3))), (6, Some((31, 6))), (7, Some((31, 6))), (u64::MAX, Some((31, 6)))];
    for (version, expected) in by_version {
        assert_eq!(cents_at(AsOf::Version(AggregateVersion(version))), expected, "version {version}");
    }
    for (position, expected) in [(0, None), (1, Some((0, 1))), (5, Some((15, 5))), (10, Some((15, 5))), (11, Some((31, 6))), (99, Some((31, 6)))] {
        assert_eq!(cents_at(AsOf::Position(Position(position))), expected, "position {position}");
    }
    assert!(matches!(load(&store, "b", AsOf::Position(Position(5))), Err(Error::AggregateNotFound { .. })));
}

#[test]
fn an_aggregate_loads_as_of_a_time_up_to_the_first_later_event() {
    let store = memory();
    // The third event was told late: it happened before the second, but the store learned of it after.
    let deposit = |cents: u64, at: i64| NewEvent { timestamp: Some(Timestamp(at)), ..NewEvent::json("account.deposited", &cents).expect("an event") };
    let deposits = vec![deposit(1, 100), deposit(2, 300), deposit(4, 200), deposit(8, 400)];
    store.append(AppendBatch::one("a", "Account", ExpectedVersion::NoStream, deposits)).wait().expect("stored");
    for (time, expected) in [(99, None), (100, Some(1)), (250, Some(1)), (299, Some(1)), (300, Some(7)), (399, Some(7)), (400, Some(15))] {
        let cents = load(&store, "a", AsOf::Time(Timestamp(time))).map(|account| account.cents).ok();
        assert_eq!(cents, expected, "at {time}");
    }
}

#[test]
fn long_streams_load_whole_and_as_they_were() {
    let store = memory();
    let mut account = Root::<Account>::with_id("a");
    for _ in 0..5000 {
        account.apply(Deposited(1)).expect("applied");
    }
    account.save(&store).wait().expect("saved");
    assert_eq!(load(&store, "a", AsOf::Latest).expect("loaded").cents, 5000);
    assert_eq!(load(&store, "a", AsOf::Position(Position(4321))).expect("loaded").cents, 4321);
}

#[test]
fn awaiting_does_the_same_as_waiting() {
    let store: Arc<dyn EventStore> = Arc::new(memory());
    let mut account = account("a");
    assert_eq!(now(account.save(&store)).expect("saved").events, 5);
    assert_eq!(now(Root::<Account>::load(&store, "a")).expect("loaded").cents, 15);
    assert!(matches!(now(Root::<Account>::load(&*store, "b")), Err(Error::AggregateNotFound { .. })));
}

#[test]
fn an_event_that_cannot_be_written_changes_nothing() {
    #[derive(Default)]
    struct Odd;
    impl Aggregate for Odd {
        const TYPE: &'static str = "Odd";
        type Event = String;

        fn apply(&mut self, _event: String) {
            panic!("an event that cannot be written is not applied");
        }
    }
    let mut odd = Root::<Odd>::new();
    assert!(matches!(odd.apply("no enum".to_owned()), Err(Error::Serialization { .. })));
    assert_eq!((odd.version(), odd.pending().len()), (AggregateVersion::NONE, 0));
}

/// What goes wrong with an append.
enum Fault {
    /// It is stored, but its answer is lost.
    AnswerLost,
    /// It is stored, and whoever waits for its answer waits for ever.
    AnswerNeverComes,
    /// It never arrives, and nobody can tell.
    RequestLost,
    /// The store says that nothing was stored.
    Refused(Error),
}

/// A store whose appends fail as planned; it keeps what it was sent.
struct Unreliable {
    store: LogStore,
    faults: Mutex<VecDeque<Fault>>,
    sent: Mutex<Vec<AppendBatch>>,
}

impl Unreliable {
    fn new(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { store: memory(), faults: Mutex::new(faults.into_iter().collect()), sent: Mutex::default() }
    }

    /// How many events each append had.
    fn sent(&self) -> Vec<usize> {
        self.sent.lock().expect("no test panicked").iter().map(|batch| batch.streams[0].events.len()).collect()
    }
}

/// An operation that nobody completes.
struct Never;

impl<T> Operation<T> for Never {
    fn poll(&mut self, _context: &mut Context<'_>) -> Poll<Result<T>> {
        Poll::Pending
    }

    fn wait(&mut self, _deadline: Option<Instant>) -> Option<Result<T>> {
        None
    }
}

fn unknown() -> Error {
    Error::OutcomeUnknown { cause: "planned".to_owned() }
}

impl EventStore for Unreliable {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        self.sent.lock().expect("no test panicked").push(batch.clone());
        match self.faults.lock().expect("no test panicked").pop_front() {
            None => self.store.append(batch),
            Some(Fault::AnswerLost) => Completion::ready(self.store.append(batch).wait().and(Err(unknown()))),
            Some(Fault::AnswerNeverComes) => {
                self.store.append(batch).wait().expect("stored");
                Completion::running(Never)
            }
            Some(Fault::RequestLost) => Completion::ready(Err(unknown())),
            Some(Fault::Refused(error)) => Completion::ready(Err(error)),
        }
    }

    fn read(&self, query: ReadStream) -> EventReader {
        self.store.read(query)
    }

    fn read_all(&self, query: ReadAll) -> EventReader {
        self.store.read_all(query)
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        self.store.stream(key)
    }

    fn head(&self) -> Completion<Position> {
        self.store.head()
    }

    fn durable_position(&self) -> Completion<Position> {
        self.store.durable_position()
    }

    fn sync(&self) -> Completion<Position> {
        self.store.sync()
    }

    fn close(&self) -> Completion<()> {
        self.store.close()
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        self.store.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

#[test]
fn a_save_in_doubt_is_sent_again_as_it_was_and_then_the_rest() {
    for faults in [
        vec![Fault::AnswerLost],
        vec![Fault::RequestLost],
        vec![Fault::RequestLost, Fault::AnswerLost, Fault::RequestLost],
        vec![Fault::AnswerLost, Fault::Refused(Error::Poisoned { cause: "planned".to_owned() })],
    ] {
        let failures = faults.len();
        let store = Unreliable::new(faults);
        let mut account = account("a");
        for _ in 0..failures {
            account.save(&store).wait().expect_err("planned");
            account.apply(Deposited(100)).expect("applied");
        }
        let receipt = account.save(&store).wait().expect("saved at last");
        let events = 5 + failures as u64;
        assert_eq!((receipt.version.0, u64::from(receipt.events), account.pending().len()), (events, events, 0));
        assert_eq!(store.sent(), [vec![5; failures + 1], vec![failures]].concat());
        let loaded = load(&store, "a", AsOf::Latest).expect("loaded");
        assert_eq!((loaded.version().0, loaded.cents), (events, 15 + 100 * failures as u64));
        assert_eq!((account.version(), account.position()), (loaded.version(), loaded.position()));
        assert_eq!(store.head().wait().expect("a head").0, events);
    }
}

#[test]
fn a_save_in_doubt_that_was_never_stored_can_lose_to_another() {
    let store = Unreliable::new([Fault::RequestLost]);
    let mut slow = account("a");
    slow.save(&store).wait().expect_err("planned");
    account("a").save(&store).wait().expect("saved");
    assert!(matches!(slow.save(&store).wait(), Err(Error::Conflict { .. })));
    slow.apply(Closed).expect("applied");
    assert!(matches!(slow.save(&store).wait(), Err(Error::Conflict { .. })));
    assert_eq!(store.sent(), [5, 5, 5, 6], "after a conflict nothing is in doubt any more");
}

#[test]
fn a_save_that_was_refused_is_not_in_doubt() {
    let full = Error::StorageFull { path: "store".into(), needed_bytes: Some(1) };
    let store = Unreliable::new([Fault::Refused(full)]);
    let mut account = account("a");
    assert!(matches!(account.save(&store).wait(), Err(Error::StorageFull { .. })));
    account.apply(Closed).expect("applied");
    account.save(&store).wait().expect("saved");
    assert_eq!(store.sent(), [5, 6]);
}

#[test]
fn an_abandoned_save_is_sent_again_unless_it_never_began() {
    let store = Unreliable::new([Fault::AnswerNeverComes]);
    let mut account = account("a");
    let _never_begun = account.save(&store);
    assert_eq!(store.sent(), [] as [usize; 0]);
    assert!(pin!(account.save(&store)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    account.apply(Closed).expect("applied");
    assert_eq!(account.save(&store).wait().expect("saved").events, 6);
    assert_eq!(store.sent(), [5, 5, 1]);
    assert_eq!(store.head().wait().expect("a head"), Position(6));
}
