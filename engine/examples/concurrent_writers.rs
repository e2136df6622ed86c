//! Many writers, one stream: each expects the version it has seen, one wins, the others look again. Nothing is sold twice.
//!
//! Run it with `cargo run --example concurrent_writers`.

use std::thread;

use eventuali::{Aggregate, Error, EventStore, LogStore, ReadStream, Result, Root};
use serde::{Deserialize, Serialize};

const SEATS: usize = 50;
const COUNTERS: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
enum ConcertEvent {
    Announced { seats: usize },
    SeatSold { seat: usize, counter: usize },
}

#[derive(Debug, Default)]
struct Concert {
    seats: usize,
    sold: usize,
}

impl Aggregate for Concert {
    const TYPE: &'static str = "Concert";
    type Event = ConcertEvent;

    fn apply(&mut self, event: ConcertEvent) {
        match event {
            ConcertEvent::Announced { seats } => self.seats = seats,
            ConcertEvent::SeatSold { .. } => self.sold += 1,
        }
    }
}

impl Concert {
    fn next_free(&self) -> Option<usize> {
        (self.sold < self.seats).then_some(self.sold + 1)
    }
}

/// Sells seats until there are none; how many it sold, and how often somebody else was faster.
fn sell(store: &LogStore, counter: usize) -> Result<(usize, usize)> {
    let (mut sold, mut lost) = (0, 0);
    loop {
        let mut concert: Root<Concert> = Root::load(store, "concert-1").wait()?;
        let Some(seat) = concert.next_free() else { return Ok((sold, lost)) };
        concert.apply(ConcertEvent::SeatSold { seat, counter })?;
        match concert.save(store).wait() {
            Ok(_) => sold += 1,
            Err(Error::Conflict { .. }) => lost += 1,
            Err(error) => return Err(error),
        }
    }
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::configuration(error.to_string()))?;
    let store = LogStore::open(folder.path().join("tickets"))?;
    let mut concert = Root::<Concert>::with_id("concert-1");
    concert.apply(ConcertEvent::Announced { seats: SEATS })?;
    concert.save(&store).wait()?;

    // Threads share the store by reference here; clones of it are handles that can be sent anywhere.
    let results: Vec<Result<(usize, usize)>> = thread::scope(|scope| {
        let counters: Vec<_> = (1..=COUNTERS)
            .map(|counter| {
                scope.spawn({
                    let store = &store;
                    move || sell(store, counter)
                })
            })
            .collect();
        counters.into_iter().map(|counter| counter.join().expect("no counter panics")).collect()
    });
    let mut total = 0;
    for (counter, result) in (1..).zip(results) {
        let (sold, lost) = result?;
        println!("counter {counter} sold {sold:2} seats, and was too late {lost:2} times");
        total += sold;
    }

    let events = store.read(ReadStream::of("concert-1").after(eventuali::AggregateVersion(1)));
    let seats: Vec<usize> = events.map(|event| event?.json().map(|sold: Sold| sold.seat)).collect::<Result<_>>()?;
    assert_eq!((total, &seats), (SEATS, &(1..=SEATS).collect()));
    println!("{total} seats sold, each of them once");
    store.close().wait()
}

/// What this report needs of a `SeatSold` event: any type that fits its payload can read it.
#[derive(Deserialize)]
struct Sold {
    seat: usize,
}
