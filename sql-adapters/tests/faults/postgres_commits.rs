//! Connections that are lost between a commit and its answer.

use std::collections::HashMap;
use std::thread;

use eventuali::EventStore;

use crate::arrange::{Random, assert_usable, expecting, one, open, postgres, postgres_at};
use crate::ledger::Ledger;
use crate::proxy::{Cut, Proxy};
use crate::support::{new_table, postgres_url};

const ROUNDS: u64 = 200;
const APPENDERS: u64 = 3;

#[test]
fn a_commit_whose_answer_is_lost_is_resolved_or_reported_as_unknown() {
    let proxy = Proxy::before(&postgres_url());
    let table = new_table();
    let store = open(postgres_at(&proxy.url(), &table));
    let mut random = Random::new();
    let mut ledger = Ledger::default();
    let mut cuts: HashMap<Cut, u64> = HashMap::new();
    for round in 0..ROUNDS {
        let cut = Cut::ALL[usize::try_from(random.below(6)).expect("small")];
        *cuts.entry(cut).or_default() += 1;
        proxy.cut_next_commit(cut);
        let told = thread::scope(|scope| {
            let appends: Vec<_> = (0..APPENDERS)
                .map(|appender| {
                    let store = &store;
                    let batch = if random.below(2) == 0 {
                        one(&format!("any-{appender}"))
                    } else {
                        expecting(&format!("{round}-{appender}"), eventuali::ExpectedVersion::NoStream)
                    };
                    scope.spawn(move || {
                        let mut told = Ledger::default();
                        told.append(&**store, &batch);
                        told
                    })
                })
                .collect();
            appends.into_iter().map(|append| append.join().expect("it ended")).collect::<Vec<_>>()
        });
        for told in told {
            ledger.take_in(told);
        }
        assert!(!proxy.waits(), "the commit of round {round} was cut");
    }
    let beside = open(postgres(&table));
    ledger.assert_true_of(&*beside);
    let (stored, unknown, refused) = ledger.counts();
    println!("{ROUNDS} cuts {cuts:?}: {stored} appends stored, {unknown} unknown, {refused} refused");
    assert_eq!((stored as u64, refused), (ROUNDS * APPENDERS, 0), "the server was there all the time, so every append could be resolved");
    assert_eq!(cuts.len(), Cut::ALL.len(), "every cut was made");
    assert_usable(&store);
    store.close().wait().expect("it closes");
}

#[test]
fn an_append_whose_connection_stays_lost_is_unknown_and_its_repetition_is_answered() {
    let proxy = Proxy::before(&postgres_url());
    let table = new_table();
    let store = open(postgres_at(&proxy.url(), &table).acquire_timeout(std::time::Duration::from_secs(4)));
    for cut in [Cut::BeforeTheServer, Cut::BeforeTheAnswer] {
        let batch = one("a");
        let mut ledger = Ledger::default();
        proxy.cut_next_commit_and_stay_down(cut);
        let answer = store.append(batch.clone()).wait();
        let Err(error @ eventuali::Error::OutcomeUnknown { .. }) = &answer else { panic!("expected an unknown outcome, not {answer:?}") };
        println!("{cut:?}: {error}");
        assert!(!error.to_string().contains("nothing was stored"), "{error}");
        ledger.note(&batch, answer);
        proxy.come_up();
        let receipts = store.append(batch.clone()).wait().expect("the repetition is answered");
        let again = store.append(batch).wait().expect("and so is the next");
        assert_eq!(receipts, again);
    }
    assert_eq!(store.head().wait().expect("known").0, 2, "nothing is stored twice");
}
