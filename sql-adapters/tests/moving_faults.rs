//! Moving under faults: movers that are killed, servers that stop, quit and crash, sources that are put back to an older state.
#![cfg(target_os = "linux")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

#[path = "faults/roles.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod roles;

#[path = "faults/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::{AppendBatch, Durability, Error, EventData, EventStore, ExpectedVersion, NewEvent, Position, ReadAll};
use eventuali_sql::{Config, Mirror, Progress, Store, Synchronous, export, verify};
use roles::{OwnServer, Role, role, say, with_own_server};
use support::{new_table, postgres_url};

const DEADLINE: Duration = Duration::from_mins(1);

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn batch(stream: u64, events: u64, payload_bytes: usize) -> AppendBatch {
    let event = |number: u64| match number % 4 {
        0 => NewEvent::new("Happened", EventData::Protobuf(vec![7; payload_bytes])),
        _ => NewEvent::json("Happened", &serde_json::json!({"number": number, "amount": 1.5})).expect("an event"),
    };
    AppendBatch::one(format!("s-{}", stream % 5), "Thing", ExpectedVersion::Any, (0..events).map(event).collect())
}

/// So many megabytes, of which an export stores 8 in a transaction.
fn fill(store: &dyn EventStore, megabytes: u64) {
    for number in 0..megabytes {
        store.append(batch(number, 16, 256 << 10)).wait().expect("stored");
    }
}

fn head(store: &dyn EventStore) -> u64 {
    store.head().wait().expect("a head").0
}

/// Whatever the target has is the beginning of the source, each event once.
#[track_caller]
fn assert_begins_like(source: &dyn EventStore, target: &dyn EventStore) {
    let mut ids = HashSet::new();
    let mut sources = source.read_all(ReadAll::new());
    for event in target.read_all(ReadAll::new()) {
        let (stored, event) = (event.expect("readable"), sources.next().expect("the source has it too").expect("readable"));
        assert_eq!((stored.position(), stored.id(), stored.version()), (event.position(), event.id(), event.version()));
        assert!(ids.insert(stored.id()), "{} is there twice", stored.id());
    }
    assert_eq!(ids.len() as u64, head(target), "what is there is what the head tells");
}

#[track_caller]
fn assert_equal(source: &dyn EventStore, target: &dyn EventStore) {
    assert_begins_like(source, target);
    let verified = verify(source, target, on).expect("compared");
    assert_eq!((verified.events, verified.difference), (head(source), None));
}

/// How many kills a test makes: so many, or those of a soak.
fn kills(at_least: u64) -> u64 {
    if std::env::var_os("EVENTUALI_SOAK").is_some() { at_least.max(100) } else { at_least }
}

/// A mover in another process: it moves from the SQLite file to the target that its part names.
fn play(part: &str) {
    let (source, target) = part.split_once('\n').expect("a source and a target");
    let (source, target) = (Config::sqlite(source).open().expect("the source opens"), opened(target));
    say("begun");
    let moved = export(source.as_dyn(), &target, on).expect("moved");
    assert!(moved.complete);
    say("complete");
}

/// The target of a name: a kind and a place of that kind.
fn opened(target: &str) -> Store {
    let (kind, place) = target.split_once(' ').expect("a kind and a place");
    let config = match kind {
        "embedded" => Config::embedded(place),
        "sqlite" => Config::sqlite(place),
        _ => Config::postgres(&postgres_url()).and_then(|config| config.table_name(place)).expect("a config").max_connections(5),
    };
    config.open().expect("the target opens")
}

fn killed_movers_resume(test: &str, kind: &str) {
    if let Some(part) = role() {
        return play(&part);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, path) = source_in(folder.path(), 24);
    let mut targets = 0;
    let mut next = || {
        targets += 1;
        let place = if kind == "postgres" { new_table() } else { folder.path().join(format!("target-{targets}")).display().to_string() };
        format!("{kind} {place}")
    };
    let mover = |target: &str| {
        let mut mover = Role::of(test, &format!("{}\n{target}", path.display()));
        assert_eq!(mover.hear().as_deref(), Some("begun"));
        (mover, Instant::now())
    };
    let check = |target: &str, complete: bool| {
        let target = opened(target);
        if complete {
            assert_equal(&*source, target.as_dyn());
        } else {
            assert_begins_like(&*source, target.as_dyn());
        }
        head(target.as_dyn())
    };
    // How long an export takes that nobody kills.
    let (mut unharmed, start) = mover(&next());
    assert_eq!(unharmed.hear().as_deref(), Some("complete"));
    let whole = start.elapsed();
    unharmed.kill();
    let (mut random, kills) = (Random::new(), kills(20));
    let (mut target, mut killed, mut resumed) = (next(), 0, 0);
    while killed < kills {
        let (mut mover, _) = mover(&target);
        // Any moment of the export, which is over sooner when much of it was done before.
        thread::sleep(whole.mul_f64(random.share()) / 2);
        mover.kill();
        let ended = mover.hear().is_some();
        killed += u64::from(!ended);
        let reached = check(&target, ended);
        resumed += u64::from(reached > 0 && !ended);
        if ended {
            target = next();
        }
    }
    // What the last one left is brought to its end, and doing that twice changes nothing.
    let last = opened(&target);
    export(&*source, &last, on).expect("moved");
    assert_eq!(export(&*source, &last, on).expect("moved").events, 0);
    assert_equal(&*source, last.as_dyn());
    println!("{kind}: an export takes {whole:?}; {killed} killed, {resumed} of them with something stored, {targets} targets");
    assert!(resumed > kills / 10, "{resumed} kills left something to resume from");
}

#[test]
fn a_killed_export_to_postgres_resumes() {
    killed_movers_resume("a_killed_export_to_postgres_resumes", "postgres");
}

#[test]
fn a_killed_export_to_sqlite_resumes() {
    killed_movers_resume("a_killed_export_to_sqlite_resumes", "sqlite");
}

#[test]
fn a_killed_export_to_the_embedded_engine_resumes() {
    killed_movers_resume("a_killed_export_to_the_embedded_engine_resumes", "embedded");
}

/// A store in a file, and where it is.
fn source_in(folder: &Path, megabytes: u64) -> (Arc<dyn EventStore>, PathBuf) {
    let path = folder.join("source.db");
    let source = Config::sqlite(&path).open().expect("it opens").into_dyn();
    fill(&*source, megabytes);
    (source, path)
}

fn in_tables(url: &str, table: &str) -> Store {
    Config::postgres(url).and_then(|config| config.table_name(table)).and_then(Config::open).expect("it opens")
}

/// What became of an export whose server went away.
struct Interrupted {
    /// Before the export had ended.
    in_time: bool,
    /// How many transactions were told of before that.
    told: u64,
}

/// An export begins so much later than what ends its server, which is a program that has to start first.
const HEAD_START: Duration = Duration::from_millis(50);

/// Ends the server as `end` says, about so long after an export to it began, and starts it: the export goes on to its end.
fn interrupted(server: &OwnServer, end: &str, after: Duration, source: &dyn EventStore, target: &Store) -> Interrupted {
    let (told, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let went = thread::scope(|scope| {
        let moving = scope.spawn(|| {
            thread::sleep(HEAD_START);
            let moved = export(source, target, |_| {
                told.fetch_add(1, Ordering::Release);
                ControlFlow::Continue(())
            });
            done.store(true, Ordering::Release);
            moved
        });
        thread::sleep(after);
        server.control(end);
        let went = Interrupted { in_time: end == "restart" || !done.load(Ordering::Acquire), told: told.load(Ordering::Acquire) };
        if end != "restart" {
            server.control("start");
        }
        let moved = moving.join().expect("it ended").expect("moved");
        assert!(moved.complete && moved.position.0 == head(source), "{end} after {after:?}: {moved:?}");
        went
    });
    assert_eq!(export(source, target, on).expect("moved").events, 0, "{end} after {after:?}");
    assert_equal(source, target.as_dyn());
    went
}

#[test]
fn an_export_goes_on_when_its_server_stopped_quit_or_crashed() {
    with_own_server("an_export_goes_on_when_its_server_stopped_quit_or_crashed", |server| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, _) = source_in(folder.path(), 48);
        let mut tables = 0;
        let mut next = || {
            tables += 1;
            format!("round_{tables}")
        };
        let start = Instant::now();
        export(&*source, &in_tables(&server.url, &next()), on).expect("moved");
        let whole = start.elapsed();
        for end in ["stop", "restart"] {
            interrupted(server, end, whole / 3, &*source, &in_tables(&server.url, &next()));
        }
        let (mut random, kills) = (Random::new(), kills(6));
        let (mut killed, mut resumed, mut rounds) = (0, 0, 0);
        while killed < kills {
            let (table, end) = (next(), if rounds % 2 == 0 { "kill" } else { "crash" });
            let went = interrupted(server, end, whole.mul_f64(random.share()), &*source, &in_tables(&server.url, &table));
            rounds += 1;
            killed += u64::from(went.in_time);
            resumed += u64::from(went.in_time && went.told > 0);
        }
        println!("server: an export takes {whole:?}; {killed} times it was ended at once or crashed, {resumed} of them with something stored");
        assert!(resumed > kills / 10, "{resumed} ends left something to resume from");
    });
}

/// Waits until the mirror has everything.
#[track_caller]
fn wait_for(mirror: &Mirror, source: &dyn EventStore) {
    let (start, wanted) = (Instant::now(), head(source));
    while mirror.status().position < Position(wanted) {
        assert!(mirror.is_running() && start.elapsed() < DEADLINE, "{:?}", mirror.status());
        thread::yield_now();
    }
}

#[test]
fn a_mirror_goes_on_when_the_server_of_its_target_was_away() {
    with_own_server("a_mirror_goes_on_when_the_server_of_its_target_was_away", |server| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, _) = source_in(folder.path(), 1);
        let mirror = Mirror::start(Arc::clone(&source), in_tables(&server.url, "mirrored")).expect("it starts");
        for end in ["restart", "stop", "crash"] {
            wait_for(&mirror, &*source);
            server.control(end);
            fill(&*source, 10);
            if end != "restart" {
                server.control("start");
            }
            fill(&*source, 1);
            wait_for(&mirror, &*source);
        }
        mirror.stop().expect("it was in order");
        assert_equal(&*source, in_tables(&server.url, "mirrored").as_dyn());
    });
}

#[test]
fn a_mirror_from_postgres_to_postgres_goes_on_when_both_were_away() {
    with_own_server("a_mirror_from_postgres_to_postgres_goes_on_when_both_were_away", |server| {
        let source = in_tables(&server.url, "source").into_dyn();
        let mirror = Mirror::start(Arc::clone(&source), in_tables(&server.url, "mirrored")).expect("it starts");
        for end in ["restart", "crash", "restart"] {
            fill(&*source, 2);
            server.control(end);
            if end != "restart" {
                server.control("start");
            }
            fill(&*source, 2);
            wait_for(&mirror, &*source);
        }
        mirror.stop().expect("it was in order");
        assert_equal(&*source, in_tables(&server.url, "mirrored").as_dyn());
    });
}

/// A backup is put back: the source has fewer events than its mirror, and gives their positions to others.
#[test]
fn a_source_that_was_put_back_to_an_older_state_has_diverged() {
    for kind in ["sqlite", "postgres"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, path) = source_in(folder.path(), 1);
        let older = folder.path().join("older.db");
        source.close().wait().expect("closed");
        drop(source);
        std::fs::copy(&path, &older).expect("copied");
        let source = Config::sqlite(&path).open().expect("it opens").into_dyn();
        fill(&*source, 1);
        let place = if kind == "sqlite" { folder.path().join("target").display().to_string() } else { new_table() };
        let target = format!("{kind} {place}");
        export(&*source, &opened(&target), on).expect("moved");
        let events = head(opened(&target).as_dyn());

        let older: Arc<dyn EventStore> = Config::sqlite(&older).open().expect("it opens").into_dyn();
        for appended in [0, 1, 3] {
            fill(&*older, appended);
            let refused = export(&*older, &opened(&target), on);
            assert!(matches!(refused, Err(Error::Diverged { .. })), "{kind}, {appended} appended: {refused:?}");
            let refused = Mirror::start(Arc::clone(&older), opened(&target)).map(drop);
            assert!(matches!(refused, Err(Error::Diverged { .. })), "{kind}, {appended} appended: {refused:?}");
            assert_eq!(head(opened(&target).as_dyn()), events, "nothing was written");
        }
    }
}

/// While a mirror follows it, what it follows is put back to an older state: here, behind its back.
#[test]
fn a_mirror_ends_when_its_source_has_diverged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, path) = source_in(folder.path(), 1);
    let target = folder.path().join("target.db");
    let mirror = Mirror::start(Arc::clone(&source), Config::sqlite(&target).open().expect("it opens")).expect("it starts");
    wait_for(&mirror, &*source);
    let mut by_hand = session::Session::sqlite(&path);
    by_hand.run_sqlite("BEGIN; DELETE FROM events WHERE global_position > 10; UPDATE events_state SET head = 10; COMMIT");
    let start = Instant::now();
    while mirror.is_running() {
        assert!(start.elapsed() < DEADLINE, "{:?}", mirror.status());
        thread::yield_now();
    }
    let ended = mirror.stop();
    // The first event that the source lost; or the target's last one, if the source lost it while that was looked for.
    assert!(matches!(ended, Err(Error::Diverged { position: Position(11 | 16), .. })), "{ended:?}");
}

/// What is not on disk yet is brought there by an export, and passed over by a mirror; and a source that was opened again, and
/// does not know what is on disk, has lost no events.
#[test]
fn a_source_that_syncs_seldom_is_moved_whole_and_has_not_diverged_when_it_is_opened_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = |kind: &str| match kind {
        "sqlite" => Config::sqlite(folder.path().join(kind)).synchronous(Synchronous::Normal).open().expect("it opens"),
        _ => Config::embedded(folder.path().join(kind)).durability(Durability::Os).open().expect("it opens"),
    };
    for kind in ["sqlite", "embedded"] {
        let target = |name: &str| Config::sqlite(folder.path().join(format!("{kind}-{name}"))).open().expect("it opens");
        let source = open(kind);
        fill(source.as_dyn(), 1);
        let moved = export(source.as_dyn(), &target("exported"), on).expect("moved");
        assert_eq!((moved.events, moved.complete), (16, true), "{kind}");
        fill(source.as_dyn(), 1);
        let mirror = Mirror::start(source.into_dyn(), target("exported")).expect("it starts");
        assert_eq!(mirror.status().position, Position(16), "{kind}: the rest is not durable");
        mirror.stop().expect("it was in order");

        let source = open(kind);
        let mirror = Mirror::start(source.into_dyn(), target("exported")).unwrap_or_else(|error| panic!("{kind}: {error}"));
        mirror.stop().unwrap_or_else(|error| panic!("{kind}: {error}"));
        let moved = export(open(kind).as_dyn(), &target("exported"), on).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(moved.position, Position(32), "{kind}");
        assert_equal(open(kind).as_dyn(), target("exported").as_dyn());
    }
}

/// Moments and sizes that no run repeats.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().0 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() % 1_000_000).expect("small")) / 1e6
    }
}
