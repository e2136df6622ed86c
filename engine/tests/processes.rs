//! Locks, forks and killed writers, with real processes: this test binary, run again in another role.
#![cfg(unix)]
#![expect(unsafe_code, reason = "forking and signalling have no safe form; each child does what a forked child of a user's program could do")]

#[path = "processes/packing.rs"]
mod packing;
#[path = "processes/readers.rs"]
mod readers;
#[path = "processes/role.rs"]
mod role;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use eventuali::maintenance::{self, backup, scavenge, verify};
use eventuali::{
    AppendBatch, Durability, Error, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, ReadAll, ReadStream, Result, Retention,
};
use role::{Role, role, say, wait_for_the_test};

fn open(path: &Path) -> Result<LogStore> {
    OpenOptions::new().segment_bytes(64 << 10).open(path)
}

fn one(aggregate_id: &str, text: &str, payload_bytes: usize) -> AppendBatch {
    many(aggregate_id, &[text.to_owned()], payload_bytes)
}

/// One event for each text, which its payload begins with.
fn many(aggregate_id: &str, texts: &[String], payload_bytes: usize) -> AppendBatch {
    let event = |text: &String| NewEvent::new("Happened", EventData::Protobuf(format!("{text};{}", "x".repeat(payload_bytes)).into_bytes()));
    AppendBatch::one(aggregate_id, "Thing", ExpectedVersion::Any, texts.iter().map(event).collect())
}

#[track_caller]
fn holder(result: Result<LogStore>) -> Option<u32> {
    match result {
        Err(Error::StoreLocked { pid, .. }) => pid,
        Err(error) => panic!("expected a locked store, not {error:?}"),
        Ok(_) => panic!("expected a locked store, but it opened"),
    }
}

#[test]
fn a_second_writer_is_refused_with_the_first_ones_pid_until_that_is_killed() {
    if let Some(directory) = role() {
        let store = open(&directory).expect("it opens");
        store.append(one("a", "acknowledged", 10)).wait().expect("stored");
        say("open");
        return wait_for_the_test();
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut first = Role::of("a_second_writer_is_refused_with_the_first_ones_pid_until_that_is_killed", directory.path());
    first.expect("open");
    assert_eq!(holder(open(directory.path())), Some(first.pid()));
    first.kill();
    let store = open(directory.path()).expect("a dead writer locks nobody out");
    assert_eq!(store.head().wait().expect("known").0, 1);
}

#[test]
fn the_holder_of_a_lock_is_named_with_its_host_and_the_time_in_utc() {
    if let Some(directory) = role() {
        let Err(error @ Error::StoreLocked { .. }) = open(&directory) else { return say("it is not locked") };
        return say(&error.to_string());
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _store = open(directory.path()).expect("it opens");
    let said = Role::of("the_holder_of_a_lock_is_named_with_its_host_and_the_time_in_utc", directory.path()).hear().expect("it is refused");
    let (_, since) = said.split_once(", since ").unwrap_or_else(|| panic!("{said}"));
    let (since, _) = since.split_once(')').unwrap_or_else(|| panic!("{said}"));
    let shape: String = since.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00Z", "{said}");
    assert!(said.contains("(host "), "{said}");
}

#[test]
fn a_writer_in_this_process_refuses_others_and_says_who_it_is() {
    if let Some(directory) = role() {
        return say(&format!("held by {:?}", holder(open(&directory))));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path()).expect("it opens");
    let held = format!("held by {:?}", Some(std::process::id()));
    let test = "a_writer_in_this_process_refuses_others_and_says_who_it_is";
    Role::of(test, directory.path()).expect(&held);
    // A second handle here is no second writer, and giving it back frees nothing.
    drop(open(directory.path()).expect("another handle"));
    Role::of(test, directory.path()).expect(&held);
    store.append(one("a", "still open", 10)).wait().expect("stored");
}

/// Forks; what the child does last is to end with this status.
fn fork(child: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the process has no other threads that hold locks the child will need: it plays a role and runs this test alone.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "cannot fork");
    if pid == 0 {
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99);
        // SAFETY: ends the child at once, without the parent's exit handlers.
        unsafe { libc::_exit(status) };
    }
    pid
}

fn status_of(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer, and the child is this process's own.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    libc::WEXITSTATUS(status)
}

#[test]
fn a_killed_writers_lock_is_free_although_children_that_it_forked_live_on() {
    if let Some(directory) = role() {
        let store = open(&directory).expect("it opens");
        store.append(one("a", "acknowledged", 10)).wait().expect("stored");
        fork(|| {
            // Said by the child: it has given up its copy of the lock before it runs.
            say(&format!("forked {}", std::process::id()));
            wait_for_the_test();
            0
        });
        return wait_for_the_test();
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut writer = Role::of("a_killed_writers_lock_is_free_although_children_that_it_forked_live_on", directory.path());
    let said = writer.hear().expect("it has forked");
    let child: libc::pid_t = said.strip_prefix("forked ").and_then(|pid| pid.parse().ok()).expect("a pid");
    assert_eq!(holder(open(directory.path())), Some(writer.pid()));
    // The child reads the same pipe, so it must not end with its parent.
    let stdin = writer.child.stdin.take();
    writer.kill();
    // SAFETY: signal 0 only asks whether the process is there.
    assert_eq!(unsafe { libc::kill(child, 0) }, 0, "the forked child lives on");
    let store = open(directory.path()).expect("the lock is free");
    store.append(one("a", "next", 10)).wait().expect("stored");
    drop(stdin);
}

/// What a forked child finds when it uses its parent's store; the number of the first thing that is wrong.
fn misuse(store: &LogStore, directory: &Path, parent: u32) -> i32 {
    let forked = |result: Result<()>| matches!(result, Err(Error::ForkedProcess));
    let findings = [
        forked(store.append(one("a", "from the child", 10)).wait().map(drop)),
        forked(store.sync().wait().map(drop)),
        forked(store.head().wait().map(drop)),
        forked(store.stream("a".into()).wait().map(drop)),
        forked(store.read(ReadStream::of("a")).collect::<Result<Vec<_>>>().map(drop)),
        forked(store.read_all(ReadAll::new()).collect::<Result<Vec<_>>>().map(drop)),
        holder(open(directory)) == Some(parent),
        store.close().wait().is_ok(),
    ];
    findings.iter().position(|as_it_should_be| !as_it_should_be).map_or(0, |number| i32::try_from(number).unwrap_or(98) + 1)
}

#[test]
fn a_forked_child_can_neither_use_its_parents_store_nor_free_its_lock() {
    if let Some(directory) = role() {
        let store = open(&directory).expect("it opens");
        store.append(one("a", "before", 10)).wait().expect("stored");
        let parent = std::process::id();
        let reader = store.read_all(ReadAll::new());
        // What was begun before the fork knew nothing of it: the child wrote to the log beside its parent, was told that its
        // event was stored, and the parent gave the same position to another.
        let (begun, barrier) = (store.append(one("a", "begun in the parent", 10)), store.sync());
        let child = fork(|| {
            let answers = (begun.wait(), barrier.wait());
            if !matches!(answers, (Err(Error::ForkedProcess), Err(Error::ForkedProcess))) || store.capabilities().writable {
                return 96;
            }
            let read: Result<Vec<_>> = reader.collect();
            if !matches!(read, Err(Error::ForkedProcess)) {
                return 97;
            }
            let found = misuse(&store, &directory, parent);
            drop(store.clone());
            found
        });
        say(&format!("the child found {}", status_of(child)));
        // A child that ends in the usual way, with its exit handlers.
        let child = fork(|| std::process::exit(7));
        say(&format!("the child ended with {}", status_of(child)));
        let mut go_on = [0];
        std::io::stdin().read_exact(&mut go_on).expect("told to go on");
        store.append(one("a", "after", 10)).wait().expect("stored");
        store.close().wait().expect("closed");
        return say("closed");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut parent = Role::of("a_forked_child_can_neither_use_its_parents_store_nor_free_its_lock", directory.path());
    parent.expect("the child found 0");
    parent.expect("the child ended with 7");
    assert_eq!(holder(open(directory.path())), Some(parent.pid()), "the children are gone, and the lock is not");
    parent.child.stdin.as_mut().expect("piped").write_all(b"!").expect("told");
    parent.expect("closed");
    let store = open(directory.path()).expect("it opens");
    assert_eq!(store.head().wait().expect("known").0, 2);
}

#[test]
fn a_program_that_a_writer_starts_holds_nothing() {
    if let Some(directory) = role() {
        let _store = open(&directory).expect("it opens");
        let mut sleeper = Command::new("cat").stdin(Stdio::inherit()).stdout(Stdio::null()).spawn().expect("it starts");
        say("started");
        sleeper.wait().expect("it ends");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut writer = Role::of("a_program_that_a_writer_starts_holds_nothing", directory.path());
    writer.expect("started");
    let stdin = writer.child.stdin.take();
    writer.kill();
    open(directory.path()).expect("the lock is free");
    drop(stdin);
}

/// Appends on two threads until it is killed, and says what was acknowledged.
fn write_until_killed(store: &LogStore) {
    say("open");
    let run = std::process::id();
    thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || {
                for number in 0.. {
                    let texts: Vec<_> = (0..=number % 3).map(|part| format!("{run}-{thread}-{number}-{part}")).collect();
                    store.append(many(&format!("stream-{thread}"), &texts, number * 997 % 6000)).wait().expect("stored");
                    say(&texts.join(" "));
                }
            });
        }
    });
}

#[test]
fn everything_acknowledged_survives_kill_9_once_and_in_order() {
    if let Some(directory) = role() {
        return write_until_killed(&open(&directory).expect("it opens"));
    }
    let rounds = if std::env::var_os("EVENTUALI_SOAK").is_some() { 1000 } else { 40 };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut acknowledged: Vec<Vec<String>> = Vec::new();
    for round in 0..rounds {
        let mut writer = Role::of("everything_acknowledged_survives_kill_9_once_and_in_order", directory.path());
        // Some die while they open, most while they append; how long they live differs from round to round.
        if round % 5 > 0 {
            writer.expect("open");
        }
        thread::sleep(Duration::from_micros(round * 7919 % 61_000));
        writer.kill();
        while let Some(words) = writer.hear() {
            if words != "open" {
                acknowledged.push(words.split(' ').map(str::to_owned).collect());
            }
        }
        check(directory.path(), &acknowledged, round);
    }
    let is_segment = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|end| end == "seg");
    let segments = fs::read_dir(directory.path()).expect("readable").filter(|entry| entry.as_ref().is_ok_and(is_segment));
    assert!(segments.count() > 3, "the log has rolled over");
}

fn back_up_until_killed(directory: &Path) {
    let store = open(&directory.join("store")).expect("opened");
    let writer = store.clone();
    thread::spawn(move || {
        loop {
            writer.append(one("a", "written meanwhile", 500)).wait().expect("stored");
        }
    });
    say("open");
    loop {
        let target = directory.join("copy");
        let report = backup(&store, &target, |_| ControlFlow::Continue(())).expect("backed up");
        fs::rename(&target, directory.join(format!("copy-of-{}", report.events))).expect("renamed");
        say("copied");
    }
}

#[test]
fn a_backup_that_is_killed_is_whole_or_no_store_and_is_cleared_away_by_the_next() {
    if let Some(directory) = role() {
        return back_up_until_killed(&directory);
    }
    let rounds = if std::env::var_os("EVENTUALI_SOAK").is_some() { 200 } else { 25 };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, remains) = (directory.path().join("store"), directory.path().join("copy.backup.tmp"));
    open(&source).expect("created").append(many("b", &vec!["before".to_owned(); 500], 400)).wait().expect("stored");
    let (mut whole, mut unfinished) = (0, 0);
    for round in 0..rounds {
        let mut role = Role::of("a_backup_that_is_killed_is_whole_or_no_store_and_is_cleared_away_by_the_next", directory.path());
        role.expect("open");
        if round % 5 == 0 {
            role.expect("copied");
        }
        // How far it comes differs from round to round.
        thread::sleep(Duration::from_micros(round * 7919 % 61_000));
        role.kill();
        if remains.join("MANIFEST").exists() {
            // It comes last: all is there but the name.
            assert!(verify(&remains, |_| ControlFlow::Continue(())).expect("read").is_sound(), "round {round}");
        } else if remains.exists() {
            unfinished += 1;
        }
        for entry in fs::read_dir(directory.path()).expect("readable") {
            let path = entry.expect("readable").path();
            if path != source && path != remains {
                assert!(verify(&path, |_| ControlFlow::Continue(())).expect("read").is_sound(), "round {round}");
                fs::remove_dir_all(&path).expect("removed");
                whole += 1;
            }
        }
        let store = open(&source).expect("it opens");
        let report = backup(&store, directory.path().join("copy"), |_| ControlFlow::Continue(())).expect("backed up");
        assert!(!remains.exists(), "round {round}");
        assert_eq!(report.position, store.head().wait().expect("told"));
        fs::remove_dir_all(directory.path().join("copy")).expect("removed");
    }
    assert!(whole > 0 && unfinished > 0, "{whole} were whole, {unfinished} unfinished");
}

/// Forks, writes to the fork, and goes on from it, while the first store is written to.
fn fork_until_killed(directory: &Path) {
    let store = open(&directory.join("store")).expect("opened");
    let writer = store.clone();
    thread::spawn(move || {
        loop {
            writer.append(one("a", "written meanwhile", 500)).wait().expect("stored");
        }
    });
    say("open");
    loop {
        let target = directory.join("fork");
        let report = maintenance::fork(&store, &target, None).expect("forked");
        let copy = open(&target).expect("opened");
        copy.append(one("c", "written to the fork", 40_000)).wait().expect("stored");
        drop(copy);
        fs::rename(&target, directory.join(format!("fork-at-{}", report.position))).expect("renamed");
        say("forked");
    }
}

#[test]
fn a_fork_that_is_killed_is_whole_or_no_store_and_is_cleared_away_by_the_next() {
    if let Some(directory) = role() {
        return fork_until_killed(&directory);
    }
    let on = |_: &eventuali::Progress| ControlFlow::Continue(());
    let rounds = if std::env::var_os("EVENTUALI_SOAK").is_some() { 200 } else { 40 };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, target, remains) = (directory.path().join("store"), directory.path().join("fork"), directory.path().join("fork.fork.tmp"));
    open(&source).expect("created").append(many("b", &vec!["before".to_owned(); 500], 400)).wait().expect("stored");
    let (mut whole, mut unfinished, mut head) = (0, 0, 0);
    for round in 0..rounds {
        let mut role = Role::of("a_fork_that_is_killed_is_whole_or_no_store_and_is_cleared_away_by_the_next", directory.path());
        role.expect("open");
        if round % 5 == 0 {
            role.expect("forked");
        }
        // How far it comes differs from round to round.
        thread::sleep(Duration::from_micros(round * 7919 % 31_000));
        role.kill();
        if remains.join("MANIFEST").exists() {
            // It comes last: all is there but the name.
            assert!(verify(&remains, on).expect("read").is_sound(), "round {round}");
        }
        unfinished += u64::from(remains.exists());
        for entry in fs::read_dir(directory.path()).expect("readable") {
            let path = entry.expect("readable").path();
            if path != source && path != remains {
                let store = open(&path).expect("a fork with its name opens");
                store.append(one("c", "appended", 10)).wait().expect("it takes appends");
                store.close().wait().expect("closed");
                assert!(verify(&path, on).expect("read").is_sound(), "round {round}");
                fs::remove_dir_all(&path).expect("removed");
                whole += 1;
            }
        }
        assert!(verify(&source, on).expect("read").is_sound(), "round {round}: the parent is untouched");
        let store = open(&source).expect("it opens");
        let now = store.head().wait().expect("told").0;
        assert!(now >= head, "round {round}");
        head = now;
        let report = maintenance::fork(&store, &target, None).expect("forked");
        assert!(!remains.exists(), "round {round}");
        assert_eq!(report.position.0, now);
        fs::remove_dir_all(&target).expect("removed");
    }
    assert!(whole > 0 && unfinished > 0, "{whole} were whole, {unfinished} unfinished");
}

/// Every acknowledged batch is there, whole, once and in order; what else is there is whole too.
fn check(directory: &Path, acknowledged: &[Vec<String>], round: u64) {
    let store = OpenOptions::new().segment_bytes(64 << 10).durability(Durability::Sync).open(directory).expect("it opens");
    let mut stored: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (event, position) in store.read_all(ReadAll::new()).zip(1..) {
        let event = event.expect("readable");
        assert_eq!(event.position().0, position);
        let text = String::from_utf8_lossy(event.payload()).split(';').next().expect("a text").to_owned();
        stored.entry(event.aggregate_id().to_owned()).or_default().push(text);
    }
    let all: Vec<&String> = stored.values().flatten().collect();
    let distinct: HashSet<&&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "round {round}: something is there twice");
    for (stream, texts) in &stored {
        // Run by run, number by number, part by part, without a gap: so every batch is whole and in order.
        let mut expected = (0, 0);
        for text in texts {
            let mut places = text.rsplit('-').map_while(|place| place.parse::<u32>().ok());
            let (part, number) = (places.next().expect("a part"), places.next().expect("a number"));
            let begins_a_run = (number, part) == (0, 0) && expected.1 == 0;
            assert!((number, part) == expected || begins_a_run, "round {round}: {text} of {stream} stands where {expected:?} should be");
            expected = if part < number % 3 { (number, part + 1) } else { (number + 1, 0) };
        }
        assert_eq!(expected.1, 0, "round {round}: the last batch of {stream} is there in part");
    }
    for batch in acknowledged {
        assert!(batch.iter().all(|text| distinct.contains(&text)), "round {round}: {batch:?} was acknowledged and is not there");
    }
    store.close().wait().expect("closed");
}

/// Appends to aggregates, deletes some of them, limits others, and scavenges all the while; says what was acknowledged.
fn scavenge_until_killed(directory: &Path) {
    let store = open(directory).expect("opened");
    let run = store.head().wait().expect("told").0;
    say("open");
    let scavenging = store.clone();
    thread::spawn(move || {
        loop {
            scavenge(&scavenging, |_| ControlFlow::Continue(())).expect("scavenged");
        }
    });
    for number in 0_u64.. {
        let id = format!("{}-{run}-{number}", if number % 2 == 0 { "gone" } else { "left" });
        for text in ["first", "second", "third"] {
            store.append(one(&id, &format!("{id}:{text}"), 2000)).wait().expect("stored");
        }
        say(&format!("stored {id}"));
        if number % 2 == 0 {
            store.delete(id.as_str().into(), ExpectedVersion::Any).wait().expect("deleted");
            say(&format!("deleted {id}"));
        } else if number % 5 == 0 {
            store.set_retention(id.as_str().into(), Retention::new().max_count(1)).wait().expect("limited");
            say(&format!("limited {id}"));
        }
    }
}

#[test]
fn a_scavenge_that_is_killed_loses_nothing_and_leaves_nothing_that_the_next_does_not_remove() {
    const TEST: &str = "a_scavenge_that_is_killed_loses_nothing_and_leaves_nothing_that_the_next_does_not_remove";
    if let Some(directory) = role() {
        return scavenge_until_killed(&directory);
    }
    let rounds = if std::env::var_os("EVENTUALI_SOAK").is_some() { 200 } else { 40 };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("store");
    let (mut stored, mut deleted, mut limited) = (HashSet::new(), HashSet::new(), HashSet::new());
    for round in 0..rounds {
        let mut role = Role::of(TEST, &path);
        role.expect("open");
        thread::sleep(Duration::from_micros(20_000 + round * 7919 % 90_000));
        role.kill();
        while let Some(said) = role.hear() {
            let (what, id) = said.split_once(' ').expect("two words");
            let among = match what {
                "stored" => &mut stored,
                "deleted" => &mut deleted,
                _ => &mut limited,
            };
            among.insert(id.to_owned());
        }
        let store = open(&path).expect("it opens");
        let versions = |id: &str| -> Vec<u64> { store.read(ReadStream::of(id)).map(|event| event.expect("readable").version().0).collect() };
        for id in &stored {
            let read = versions(id);
            // What was under way when it was killed may have been done.
            let expected = if deleted.contains(id) {
                read.is_empty()
            } else if limited.contains(id) {
                read == [3]
            } else {
                read == [1, 2, 3] || read == [3] || (read.is_empty() && id.starts_with("gone"))
            };
            assert!(expected, "round {round}: {id} has {read:?}");
        }
        if round % 4 == 3 {
            assert!(scavenge(&store, |_| ControlFlow::Continue(())).expect("scavenged").complete);
            let again = scavenge(&store, |_| ControlFlow::Continue(())).expect("scavenged");
            assert_eq!((again.events, again.segments), (0, 0), "round {round}");
            store.close().wait().expect("closed");
            let found = verify(&path, |_| ControlFlow::Continue(())).expect("read");
            assert!(found.is_sound(), "round {round}: {:?}", found.damage);
            let names = || fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
            let segments: Vec<String> = names().filter(|name| name.contains(".g")).collect();
            let sequences: HashSet<&str> = segments.iter().map(|name| &name[..9]).collect();
            assert!(sequences.len() == segments.len() && !names().any(|name| name.contains(".tmp")), "round {round}: {segments:?}");
            for entry in fs::read_dir(&path).expect("readable") {
                let file = entry.expect("readable").path();
                let Ok(bytes) = fs::read(&file) else { continue };
                let text = String::from_utf8_lossy(&bytes);
                assert!(!deleted.iter().any(|id| text.contains(&format!("{id}:first"))), "round {round}: {file:?} has what was deleted");
            }
        }
    }
    assert!(deleted.len() > 40 && !limited.is_empty(), "{} were deleted, {} limited", deleted.len(), limited.len());
}

/// Opening takes as long as reading the log, and the list of open stores was held meanwhile. A child forked off by another
/// thread at that time found it held for ever, and hung as soon as it opened any store at all.
#[test]
fn a_child_that_is_forked_while_another_thread_opens_a_store_can_open_its_own() {
    const TEST: &str = "a_child_that_is_forked_while_another_thread_opens_a_store_can_open_its_own";
    if let Some(directory) = role() {
        let slow = directory.join("slow");
        fs::create_dir(&slow).expect("created");
        // Opening waits here until somebody opens it for writing.
        let manifest = slow.join("MANIFEST");
        assert!(Command::new("mkfifo").arg(&manifest).status().expect("it runs").success());
        let opening = thread::spawn({
            let slow = slow.clone();
            move || open(&slow).is_err()
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while !slow.join("LOCK").exists() {
            assert!(Instant::now() < deadline, "the opening has taken the lock");
            thread::sleep(Duration::from_millis(1));
        }
        let child = fork(|| {
            // SAFETY: ends the child, should it hang.
            unsafe { libc::alarm(10) };
            let store = open(&directory.join("childs")).expect("it opens");
            store.append(one("a", "from the child", 10)).wait().expect("stored");
            store.close().wait().map_or(1, |()| 5)
        });
        say(&format!("the child ended with {}", status_of(child)));
        // Opening it is enough: a pipe cannot be read at an offset, and who waits there may be gone before anything is written.
        drop(fs::OpenOptions::new().write(true).open(&manifest).expect("somebody reads it"));
        say(&format!("refused: {}", opening.join().expect("it ends")));
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut parent = Role::of(TEST, directory.path());
    parent.expect("the child ended with 5");
    parent.expect("refused: true");
}
