//! Pages of small and large payloads, groups of every size, and facts of every kind, held against what was appended.

use std::thread;

use eventuali::{
    AggregateVersion, AppendBatch, Event, EventData, EventMetadata, ExpectedVersion, Json, NewEvent, Position, ReadAll, ReadStream, Tag,
};
use eventuali_sql::Config;

use crate::arrange::{Opened, Random, open, postgres};
use crate::support::new_table;

/// Payloads that are larger are read in other pages on SQLite.
const BORDER_BYTES: usize = 16 << 10;

/// What is compared of an event.
type Facts = (u64, String, u64, EventData, EventMetadata, Vec<Tag>);

fn facts(event: &Event) -> Facts {
    let payload = event.payload().to_vec();
    let data = match event.format() {
        eventuali::DataFormat::Json => EventData::Json(Json::from_serializer(payload)),
        eventuali::DataFormat::Protobuf => EventData::Protobuf(payload),
    };
    let (metadata, tags) = (event.metadata().expect("readable"), event.tags().expect("readable"));
    (event.position().0, event.aggregate_id().to_owned(), event.version().0, data, metadata, tags)
}

fn payload(random: &mut Random) -> EventData {
    let bytes = match random.below(13) {
        12 => 0,
        0..6 => usize::try_from(random.below(300)).expect("small"),
        6 => usize::try_from(random.below(20)).expect("small") + 300_000,
        7 => (2 << 20) + 1,
        // Around the border, with and without what stands in the other column.
        _ => BORDER_BYTES + usize::try_from(random.below(12)).expect("small") - 6,
    };
    if random.below(2) == 0 {
        // Every byte, zero too, and what is no text.
        EventData::Protobuf((0..=u8::MAX).rev().cycle().skip(bytes % 7).take(bytes).collect())
    } else {
        EventData::Json(Json::from_serializer(format!("\"{}\"", "j".repeat(bytes.max(2) - 2)).into_bytes()))
    }
}

/// Text that is more than text to somebody.
fn odd(random: &mut Random) -> String {
    const ODD: [&str; 12] = ["\0", "\"", "\\", "\\u0000", "\u{1f}", "\u{7f}", "\u{2028}", "🦀", "\u{ffff}", "'", "{}", "ß"];
    (0..=random.below(4)).map(|_| ODD[usize::try_from(random.below(12)).expect("small")]).collect()
}

fn event(random: &mut Random) -> NewEvent {
    let mut event = NewEvent::new("Happened", payload(random));
    if random.below(3) == 0 {
        event.metadata = EventMetadata { causation_id: Some(odd(random)), user_id: Some(odd(random)), ..EventMetadata::default() };
        event.metadata.headers.insert(odd(random), odd(random));
        event.tags = (0..random.below(4)).map(|number| Tag(format!("{number}{}", odd(random).replace('\0', "")))).collect();
    }
    event
}

fn assert_read_as(store: &Opened, all: &[Facts], random: &mut Random) {
    let head = all.len() as u64;
    for _ in 0..60 {
        let (after, before, limit) = (random.below(head + 2), random.below(head + 2), random.below(head + 10));
        let backwards = random.below(2) == 0;
        let wanted = |place: fn(&Facts) -> u64, of: &dyn Fn(&Facts) -> bool| {
            let mut wanted: Vec<&Facts> = all.iter().filter(|facts| of(facts) && place(facts) > after && place(facts) < before).collect();
            if backwards {
                wanted.reverse();
            }
            wanted.into_iter().take(usize::try_from(limit).expect("small")).cloned().collect::<Vec<_>>()
        };
        let mut query = ReadAll::new().after(Position(after)).before(Position(before)).limit(limit);
        query.backwards = backwards;
        let read: Vec<Facts> = store.read_all(query).map(|read| facts(&read.expect("readable"))).collect();
        assert!(read == wanted(|facts| facts.0, &|_| true), "all after {after} before {before} limit {limit} backwards {backwards}");
        let stream = format!("s-{}", random.below(3));
        let mut query = ReadStream::of(&stream);
        (query.after, query.before, query.limit, query.backwards) =
            (Some(AggregateVersion(after)), Some(AggregateVersion(before)), Some(limit), backwards);
        let read: Vec<Facts> = store.read(query).map(|read| facts(&read.expect("readable"))).collect();
        assert!(
            read == wanted(|facts| facts.2, &|facts| facts.1 == stream),
            "{stream} after {after} before {before} limit {limit} backwards {backwards}"
        );
    }
}

fn mixed_payloads_are_read_as_they_were_appended(store: &Opened) {
    let mut random = Random::new();
    let mut all: Vec<Facts> = Vec::new();
    let mut versions = [0; 3];
    while all.len() < 400 {
        let stream = usize::try_from(random.below(3)).expect("small");
        let events: Vec<NewEvent> = (0..=random.below(40)).map(|_| event(&mut random)).collect();
        for event in &events {
            versions[stream] += 1;
            let (position, version) = (all.len() as u64 + 1, versions[stream]);
            all.push((position, format!("s-{stream}"), version, event.data.clone(), event.metadata.clone(), event.tags.clone()));
        }
        let receipts = store.append(AppendBatch::one(format!("s-{stream}"), "Thing", ExpectedVersion::Any, events)).wait().expect("stored");
        assert_eq!(receipts[0].position.0, all.len() as u64);
    }
    assert_read_as(store, &all, &mut random);
}

#[test]
fn mixed_payloads_are_read_from_sqlite_as_they_were_appended() {
    let folder = tempfile::tempdir().expect("a folder");
    mixed_payloads_are_read_as_they_were_appended(&open(Config::sqlite(folder.path().join("events.db"))));
    mixed_payloads_are_read_as_they_were_appended(&open(Config::sqlite_in_memory()));
}

#[test]
fn mixed_payloads_are_read_from_postgres_as_they_were_appended() {
    mixed_payloads_are_read_as_they_were_appended(&open(postgres(&new_table())));
}

/// Statements for a few numbers of rows serve all numbers.
fn groups_of_every_size_are_stored_whole(store: &Opened) {
    let mut head = 0;
    for size in (1..=200).rev().chain(1..=200) {
        let batch = |stream: &str, events: u64| {
            let events = (0..events).map(|number| NewEvent::json("Happened", &number).expect("an event")).collect();
            AppendBatch::one(stream, "Thing", ExpectedVersion::Any, events)
        };
        // Half of them in one append, the others in appends that wait together.
        let answers: Vec<_> = thread::scope(|scope| {
            let mut appends = vec![batch("large", size)];
            appends.extend((0..size % 7).map(|number| batch(&format!("small-{number}"), 1)));
            let appends: Vec<_> = appends.into_iter().map(|batch| scope.spawn(|| store.append(batch).wait())).collect();
            appends.into_iter().map(|append| append.join().expect("it ended")).collect()
        });
        assert!(answers.iter().all(Result::is_ok), "{size}: {answers:?}");
        head += size + size % 7;
        assert_eq!(store.head().wait().expect("known").0, head, "{size}");
    }
    let positions: Vec<u64> = store.read_all(ReadAll::new()).map(|read| read.expect("readable").position().0).collect();
    assert_eq!(positions, (1..=head).collect::<Vec<_>>());
}

#[test]
fn groups_of_every_size_are_stored_whole_in_sqlite() {
    groups_of_every_size_are_stored_whole(&open(Config::sqlite_in_memory()));
}
