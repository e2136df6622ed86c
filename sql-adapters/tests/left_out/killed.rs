//! Exports that are killed, of a source in which more is deleted, limited and scavenged between one and the next.

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::Duration;

use eventuali::maintenance::Extent;
use eventuali::{Durability, EventData, EventStore, ExpectedVersion, LogStore, NewEvent, OpenOptions, Retention};
use eventuali_sql::{Progress, export};

use super::compared::{assert_alike, batch, key};
use super::roles::{Role, role, say};
use super::targets::opened;

fn open(path: &Path) -> LogStore {
    OpenOptions::new().durability(Durability::Os).segment_bytes(1 << 20).open(path).expect("the source opens")
}

/// So many rounds of three aggregates, each event of 48 KiB.
fn fill(source: &LogStore, rounds: usize) {
    for round in 0..rounds {
        for stream in 0..3 {
            let events = (0..3).map(|_| NewEvent::new("Happened", EventData::Protobuf(vec![7; 48 << 10]))).collect();
            source.append(batch(stream, ExpectedVersion::Any, events)).wait().expect("stored");
        }
        if round % 20 == 19 {
            source.delete(key(round % 40 / 20 * 2), ExpectedVersion::Any).wait().expect("deleted");
        }
        if round % 20 == 9 {
            let version = source.stream(key(0)).wait().expect("known").expect("events").version;
            source.set_retention(key(0), Retention::new().truncate_before(version)).wait().expect("limited");
        }
    }
}

/// A mover in another process: from the directory to the target that its part names.
fn play(part: &str) {
    let (source, target) = part.split_once('\n').expect("a source and a target");
    let (source, target) = (open(Path::new(source)), opened(target));
    say("begun");
    let stored = |_: &Progress| {
        say("stored");
        ControlFlow::Continue(())
    };
    assert!(export(&source, &target, stored).expect("moved").complete);
    say("complete");
}

pub(super) fn killed_movers_resume(test: &str, kind: &str) {
    if let Some(part) = role() {
        return play(&part);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("source");
    fill(&open(&path), 70);
    let target = |number: u32| format!("{kind} {}", super::targets::place(kind, folder.path(), number));
    let mover = |target: &str| {
        let mut mover = Role::of(test, &format!("{}\n{target}", path.display()));
        assert_eq!(mover.hear().as_deref(), Some("begun"));
        mover
    };
    let kills = if std::env::var_os("EVENTUALI_SOAK").is_some() { 100 } else { 3 };
    let (mut number, mut killed, mut resumed, mut round) = (1, 0, 0, 0_u32);
    while killed < kills {
        round += 1;
        let place = target(number);
        let mut mover = mover(&place);
        // Behind so many transactions, and at some moment of the one that follows.
        let told: Vec<String> = (0..round % 3).map_while(|_| mover.hear()).collect();
        thread::sleep(Duration::from_millis(u64::from(round * 7 % 40)));
        mover.kill();
        let rest = std::iter::from_fn(|| mover.hear());
        let ended = told.into_iter().chain(rest).any(|word| word == "complete");
        killed += u32::from(!ended);
        let (source, reached) = (open(&path), opened(&place));
        let head = reached.as_dyn().head().wait().expect("a head").0;
        resumed += u32::from(head > 0 && !ended);
        if ended {
            assert_alike(&source, reached.as_dyn());
            number += 1;
        }
        // More is left out before the next one goes on, also what the target has.
        fill(&source, 21);
        if killed % 3 == 0 {
            source.scavenge(Extent::Everything, |_| ControlFlow::Continue(())).expect("scavenged");
        }
        source.close().wait().expect("closed");
        reached.as_dyn().close().wait().expect("closed");
    }
    let (source, last) = (open(&path), opened(&target(number)));
    export(&source, &last, |_| ControlFlow::Continue(())).expect("moved");
    assert_eq!(export(&source, &last, |_| ControlFlow::Continue(())).expect("moved").events, 0);
    assert_alike(&source, last.as_dyn());
    println!("{kind}: {killed} killed, {resumed} of them with something stored, {number} targets");
    assert!(resumed > 0, "some left something to resume from");
}

#[test]
fn a_killed_export_of_what_is_deleted_meanwhile_resumes_in_the_embedded_engine() {
    killed_movers_resume("killed::a_killed_export_of_what_is_deleted_meanwhile_resumes_in_the_embedded_engine", "embedded");
}

#[test]
fn a_killed_export_of_what_is_deleted_meanwhile_resumes_in_sqlite() {
    killed_movers_resume("killed::a_killed_export_of_what_is_deleted_meanwhile_resumes_in_sqlite", "sqlite");
}

#[test]
fn a_killed_export_of_what_is_deleted_meanwhile_resumes_in_postgres() {
    killed_movers_resume("killed::a_killed_export_of_what_is_deleted_meanwhile_resumes_in_postgres", "postgres");
}
