//! Filters over more events than one statement looks through.

mod support;

use eventuali::testing::Home;
use eventuali::{AppendBatch, EventData, EventStore, ExpectedVersion, NewEvent, Position, ReadAll};
use eventuali_sql::Config;
use support::PostgresHome;

/// Every so many events one is rare.
const APART: u64 = 50_000;

#[test]
fn rare_events_are_found_wherever_they_are() {
    let stores = [Config::sqlite_in_memory().open().expect("the store opens").into_dyn(), PostgresHome::new().open()];
    for store in stores {
        let event = |number: u64| NewEvent::new(if number % APART == 1 { "Rare" } else { "Common" }, EventData::Protobuf(Vec::new()));
        for batch in 0..20 {
            let events = (1..=10_000).map(|number| event(batch * 10_000 + number)).collect();
            store.append(AppendBatch::one("a", "Thing", ExpectedVersion::Any, events)).wait().expect("stored");
        }
        let rare = || ReadAll::new().event_types(["Rare"]);
        let positions = |query: ReadAll| store.read_all(query).map(|event| event.expect("readable").position().0).collect::<Vec<_>>();
        assert_eq!(positions(rare()), [1, 50_001, 100_001, 150_001]);
        assert_eq!(positions(rare().backwards()), [150_001, 100_001, 50_001, 1]);
        assert_eq!(positions(rare().limit(2)), [1, 50_001]);
        assert_eq!(positions(rare().backwards().limit(3)), [150_001, 100_001, 50_001]);
        assert_eq!(positions(rare().after(Position(50_001)).before(Position(150_001))), [100_001]);
        assert!(positions(ReadAll::new().event_types(["Unknown"])).is_empty());
        assert_eq!(positions(ReadAll::new().event_types(["Common"])).len(), 199_996);
        assert_eq!(positions(ReadAll::new().aggregate_types(["Thing"]).backwards().limit(3)), [200_000, 199_999, 199_998]);
    }
}
