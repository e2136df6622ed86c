//! A bank account as an aggregate: typed events, commands that may refuse, load and save, and a look into the past.
//!
//! Run it with `cargo run --example bank_account`, or with a directory to keep the account from run to run.

use std::error::Error;
use std::path::PathBuf;

use eventuali::{Aggregate, AggregateVersion, AsOf, EventStore, LogStore, ReadStream, Root};
use serde::{Deserialize, Serialize};

/// What can happen to an account. The names are the stored event types, the fields the stored payloads.
#[derive(Debug, Serialize, Deserialize)]
enum AccountEvent {
    Opened { owner: String },
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

#[derive(Debug, Default)]
struct Account {
    owner: String,
    balance: u64,
}

impl Aggregate for Account {
    const TYPE: &'static str = "Account";
    type Event = AccountEvent;

    fn apply(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => self.owner = owner,
            AccountEvent::Deposited { cents } => self.balance += cents,
            AccountEvent::Withdrawn { cents } => self.balance -= cents,
        }
    }
}

/// Commands look at the state and say what happens, or why nothing does.
impl Account {
    fn withdraw(&self, cents: u64) -> Result<AccountEvent, String> {
        if cents > self.balance {
            return Err(format!("{} has {} cents, not {cents}", self.owner, self.balance));
        }
        Ok(AccountEvent::Withdrawn { cents })
    }
}

/// The account of the last run, or a new one.
fn load_or_open(store: &dyn EventStore, id: &str) -> Result<Root<Account>, eventuali::Error> {
    match Root::load(store, id).wait() {
        Err(eventuali::Error::AggregateNotFound { .. }) => {
            let mut account = Root::<Account>::with_id(id);
            account.apply(AccountEvent::Opened { owner: "Ada".to_owned() })?;
            Ok(account)
        }
        loaded => loaded,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let directory = std::env::args_os().nth(1).map_or_else(|| folder.path().join("bank"), PathBuf::from);
    let store = LogStore::open(directory)?;

    let mut account = load_or_open(&store, "account-1")?;
    let before = account.balance;
    account.apply(AccountEvent::Deposited { cents: 10_000 })?;
    let withdrawn = account.withdraw(2_500)?;
    account.apply(withdrawn)?;
    let receipt = account.save(&store).wait()?;
    println!("{} events stored, up to position {} ({:?})", receipt.events, receipt.position, receipt.durability);

    let refusal = account.withdraw(1_000_000).expect_err("nobody is that rich");
    println!("refused: {refusal}");

    for event in store.read(ReadStream::of(account.id())) {
        let event = event?;
        println!("  version {}: {} {}", event.version(), event.event_type(), String::from_utf8_lossy(event.payload()));
    }

    let now: Root<Account> = Root::load(&store, "account-1").wait()?;
    let deposited = AsOf::Version(AggregateVersion(now.version().0 - 1));
    let earlier: Root<Account> = Root::load_as_of(&store, "account-1", deposited).wait()?;
    println!("balance: {} cents; before the withdrawal: {} cents", now.balance, earlier.balance);
    assert_eq!((now.balance, earlier.balance), (before + 7_500, before + 10_000));
    store.close().wait()?;
    Ok(())
}
