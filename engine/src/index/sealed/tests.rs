use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::index::file::{layout, write as write_file};
use crate::log::storage::{Access, MemoryStorage};

const NAME: &str = "000000007.idx";

pub(crate) fn identity(sequence: u64) -> Identity {
    Identity {
        store_id: Uuid::from_u128(0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321),
        sequence,
        salt: 99,
        base_lsn: 4096,
        end_lsn: 1 << 20,
        base_position: 1001,
        end_position: 2001,
    }
}

/// The contents of a segment whose events belong to these streams, told by their hashes, one after the other.
pub(crate) fn contents_of(sequence: u64, streams: &[u64]) -> Contents {
    let mut postings: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut events = Vec::new();
    for (slot, hash) in (0..).zip(streams) {
        postings.entry(*hash).or_default().push(slot);
        let id = Uuid::from_u128(u128::from(sequence) << 64 | u128::from(slot).wrapping_mul(0x1F2E_3D4C_5B6A));
        events.push(EventEntry {
            place: slot * 20,
            kind: if slot % 5 == 4 { kind::OVERFLOW } else { (slot % 3).try_into().expect("small") },
            id: Some(id),
        });
    }
    let mut contents = Contents {
        identity: identity(sequence),
        aggregate_types: vec!["Order".to_owned(), "Käufer".to_owned()],
        kinds: vec![(0, "Placed".to_owned()), (0, "Shipped".to_owned()), (1, "Placed".to_owned())],
        events,
        streams: Vec::new(),
        slots: Vec::new(),
    };
    for (hash, slots) in postings.into_iter().rev() {
        contents.streams.push(StreamEntry {
            hash,
            aggregate_type: u32::from(hash % 2 == 1),
            first_version: hash % 7 + 1,
            count: slots.len().try_into().expect("few"),
            slots_at: contents.slots.len().try_into().expect("few"),
            previous_segment: hash % sequence,
        });
        contents.slots.extend(slots);
    }
    contents
}

fn written(contents: &Contents) -> (MemoryStorage, SealedIndex) {
    let storage = MemoryStorage::new();
    SealedIndex::write(&storage, NAME, contents).expect("memory");
    let index = SealedIndex::open(&storage, NAME, &contents.identity).expect("an index");
    (storage, index)
}

fn damage(result: Result<impl Sized, IndexProblem>) -> &'static str {
    match result {
        Ok(_) => "",
        Err(IndexProblem::Damaged(reason)) => reason,
        Err(problem) => panic!("{problem:?}"),
    }
}

/// What it has of the streams with a hash, however its filter is asked.
fn streams(index: &SealedIndex, hash: u64) -> Result<Vec<StreamEntry>, IndexProblem> {
    let found = index.streams(hash, AskFilter::InMemory)?;
    assert_eq!(index.streams(hash, AskFilter::InFile)?, found);
    assert_eq!(index.streams(hash, AskFilter::Not)?, found);
    Ok(found)
}

/// The hashes of all ids, sorted.
pub(crate) fn id_hashes(index: &SealedIndex) -> Result<Vec<u64>, IndexProblem> {
    let mut hashes = Vec::new();
    index.id_hashes_from(0, |hash| {
        hashes.push(hash);
        true
    })?;
    Ok(hashes)
}

/// Compares every answer with what the contents say.
fn compare(index: &SealedIndex, contents: &Contents) {
    index.check().expect("whole");
    let Some(last) = u32::try_from(contents.events.len()).expect("few").checked_sub(1) else {
        assert_eq!((index.event_count(), index.id_range()), (0, None));
        return;
    };
    for (from, to) in [(0, last), (last / 3, last / 2), (last, last)] {
        let mut places = Vec::new();
        index.places(from, to, &mut places).expect("places");
        let expected: Vec<(u32, u16)> = contents.events[from as usize..=to as usize].iter().map(|event| (event.place, event.kind)).collect();
        assert_eq!(places, expected);
    }
    for stream in &contents.streams {
        let expected: Vec<StreamEntry> = contents.streams.iter().filter(|other| other.hash == stream.hash).copied().collect();
        let found = streams(index, stream.hash).expect("streams");
        assert!(found.len() == expected.len() && expected.iter().all(|stream| found.contains(stream)));
        let all = &contents.slots[stream.slots_at as usize..][..stream.count as usize];
        let end = stream.first_version + u64::from(stream.count);
        for (from, to) in [(0, u64::MAX), (1, end), (stream.first_version, stream.first_version), (end - 1, end), (end, end + 1), (0, 0), (5, 2)] {
            let mut slots = Vec::new();
            index.stream_slots(stream, from, to, &mut slots).expect("slots");
            let wanted = (stream.first_version..end).zip(all).filter(|(version, _)| (from..=to).contains(version)).map(|(_, slot)| *slot);
            assert_eq!(slots, wanted.collect::<Vec<u32>>());
        }
    }
    for hash in contents.streams.iter().map(|stream| stream.hash.wrapping_add(1)) {
        let is_there = contents.streams.iter().any(|stream| stream.hash == hash);
        assert_eq!(!streams(index, hash).expect("streams").is_empty(), is_there);
    }
    let mut hashes = Vec::new();
    for (slot, event) in (0..).zip(&contents.events) {
        let hash = id_hash(contents.identity.store_id, event.id.expect("there"));
        assert!(index.ids(hash).expect("ids").contains(&slot));
        hashes.push(hash);
    }
    hashes.sort_unstable();
    assert_eq!(id_hashes(index).expect("hashes"), hashes);
    assert!(index.ids(id_hash(contents.identity.store_id, Uuid::from_u128(1))).expect("ids").is_empty());
    for from in [1, u64::MAX / 3, u64::MAX - 1] {
        let (mut found, expected) = (Vec::new(), &hashes[hashes.partition_point(|hash| *hash < from)..]);
        index
            .id_hashes_from(from, |hash| {
                found.push(hash);
                found.len() < 10
            })
            .expect("hashes");
        assert_eq!(found, expected[..expected.len().min(10)]);
    }
    let ids = || contents.events.iter().filter_map(|event| event.id);
    assert_eq!(index.id_range(), ids().min().zip(ids().max()));
    let streams: Vec<u64> = index.stream_entries().map(|stream| stream.expect("a stream").hash).collect();
    assert!(streams.is_sorted() && streams.len() == contents.streams.len());
    compare_names(index, contents);
}

fn compare_names(index: &SealedIndex, contents: &Contents) {
    for (number, name) in (0..).zip(&contents.aggregate_types) {
        assert_eq!(index.aggregate_type(number).expect("a name"), *name);
    }
    let kinds = index.kinds().expect("kinds");
    let count = |number: usize| contents.events.iter().filter(|event| usize::from(event.kind) == number).count();
    let expected = contents.kinds.iter().enumerate().map(|(number, (aggregate_type, event_type))| Kind {
        aggregate_type: contents.aggregate_types[*aggregate_type as usize].clone(),
        event_type: event_type.clone(),
        count: count(number).try_into().expect("few"),
    });
    assert_eq!(kinds, Kinds { numbered: expected.collect(), overflowed: count(usize::from(kind::OVERFLOW)) as u64 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_index_answers_as_a_list_of_events_would(
        streams in proptest::collection::vec(prop_oneof![any::<u64>(), 0..40_u64, Just(u64::MAX), (0..400_u64).prop_map(|n| n << 55)], 0..1500),
    ) {
        let contents = contents_of(7, &streams);
        compare(&written(&contents).1, &contents);
    }
}

#[test]
fn a_segment_without_events_has_an_index() {
    let (_, index) = written(&contents_of(1, &[]));
    index.check().expect("whole");
    assert_eq!((index.event_count(), index.stream_count(), index.id_range()), (0, 0, None));
    assert!(streams(&index, 5).expect("streams").is_empty() && index.ids(5).expect("ids").is_empty());
    assert!(!damage(index.places(0, 0, &mut Vec::new())).is_empty());
    assert_eq!(index.stream_entries().count() + id_hashes(&index).expect("hashes").len(), 0);
}

#[test]
fn streams_of_one_hash_are_all_found_however_many_there_are() {
    let mut contents = contents_of(7, &(0..900_u64).collect::<Vec<_>>());
    for stream in &mut contents.streams {
        stream.hash = if stream.hash < 300 { 4 } else { u64::MAX / 2 + u64::from(stream.hash < 600) };
    }
    let (_, index) = written(&contents);
    index.check().expect("whole");
    for hash in [4, u64::MAX / 2, u64::MAX / 2 + 1] {
        let mut numbers: Vec<u32> = streams(&index, hash).expect("streams").iter().map(|stream| stream.slots_at).collect();
        numbers.sort_unstable();
        let mut expected: Vec<u32> = contents.streams.iter().filter(|stream| stream.hash == hash).map(|stream| stream.slots_at).collect();
        expected.sort_unstable();
        assert_eq!(numbers, expected);
    }
    assert!(streams(&index, 5).expect("streams").is_empty());
}

#[test]
fn events_of_one_id_are_all_found() {
    let mut contents = contents_of(7, &[1, 2, 3, 4]);
    contents.events[3].id = contents.events[1].id;
    let (_, index) = written(&contents);
    assert_eq!(index.ids(id_hash(contents.identity.store_id, contents.events[1].id.expect("there"))).expect("ids"), [1, 3]);
}

#[test]
fn as_many_kinds_as_have_numbers_are_kept_and_one_more_is_refused() {
    let mut contents = contents_of(7, &[1, 2]);
    contents.kinds = (0..u32::from(u16::MAX)).map(|number| (number % 2, format!("Kind{number}"))).collect();
    contents.events[0].kind = u16::MAX - 1;
    contents.events[1].kind = u16::MAX;
    let (_, index) = written(&contents);
    compare_names(&index, &contents);
    index.check().expect("whole");
    contents.kinds.push((0, "OneMore".to_owned()));
    let refused = SealedIndex::write(&MemoryStorage::new(), NAME, &contents).expect_err("too many");
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn contents_that_do_not_fit_together_are_refused_and_leave_no_file() {
    let spoilers: [fn(&mut Contents); 8] = [
        |contents| contents.events[1].kind = 3,
        |contents| contents.kinds[0].0 = 2,
        |contents| contents.streams[0].aggregate_type = 2,
        |contents| contents.streams[0].count += 3,
        |contents| contents.streams[0].slots_at = u32::MAX,
        |contents| contents.slots[0] = 3,
        |contents| contents.slots.push(0),
        |contents| contents.kinds[0].1 = "x".repeat(NAME_BYTES_MAX + 1),
    ];
    for (number, spoil) in spoilers.iter().enumerate() {
        let mut contents = contents_of(7, &[1, 2, 2]);
        spoil(&mut contents);
        let storage = MemoryStorage::new();
        let refused = SealedIndex::write(&storage, NAME, &contents).map_err(|error| error.kind());
        assert_eq!(refused, Err(std::io::ErrorKind::InvalidInput), "{number}");
        assert_eq!(storage.list("").expect("memory"), Vec::<String>::new());
    }
}

#[test]
fn an_index_of_anything_else_is_damaged_and_a_lost_one_missing() {
    let (storage, _) = written(&contents_of(7, &[1, 2, 3]));
    let mine = identity(7);
    let others = [
        Identity { store_id: Uuid::nil(), ..mine },
        Identity { sequence: 8, ..mine },
        Identity { salt: 98, ..mine },
        Identity { base_lsn: 0, ..mine },
        Identity { end_lsn: 0, ..mine },
        Identity { base_position: 0, ..mine },
        Identity { end_position: 0, ..mine },
    ];
    for other in others {
        assert_eq!(damage(SealedIndex::open(&storage, NAME, &other)), "it was made from another log");
    }
    assert!(matches!(SealedIndex::open(&storage, "000000008.idx", &mine), Err(IndexProblem::Missing)));
}

/// Everything that can be asked of an index, each question by itself.
fn answers(index: &SealedIndex) -> Vec<Result<String, IndexProblem>> {
    fn said<T: std::fmt::Debug>(answer: Result<T, IndexProblem>) -> Result<String, IndexProblem> {
        answer.map(|answer| format!("{answer:?}"))
    }
    let (mut places, mut slots) = (Vec::new(), Vec::new());
    let stream = streams(index, 3).and_then(|found| found.first().copied().ok_or(IndexProblem::Damaged("")));
    vec![
        said(index.places(0, 3, &mut places)).map(|_| format!("{places:?}")),
        said(stream.and_then(|stream| index.stream_slots(&stream, 0, 100, &mut slots))).map(|_| format!("{slots:?}")),
        said(streams(index, 1)),
        said(streams(index, 77)),
        said(index.ids(id_hash(index.identity().store_id, Uuid::from_u128(7 << 64)))),
        said(index.ids(77)),
        said(index.kinds()),
        said(index.aggregate_type(1)),
        said(Ok(index.id_range())),
        said(id_hashes(index)),
    ]
}

#[test]
fn no_changed_byte_ever_gives_a_wrong_answer() {
    let contents = contents_of(7, &[1, 2, 3, 3, 1 << 60]);
    let (storage, index) = written(&contents);
    let truth: Vec<String> = answers(&index).into_iter().map(|answer| answer.expect("whole")).collect();
    let file = storage.open(NAME, Access::Write).expect("memory");
    for at in 0..file.length().expect("memory") {
        let mut byte = [0];
        file.read_at(&mut byte, at).expect("memory");
        file.write_at(&[byte[0] ^ 1 << (at % 8)], at).expect("memory");
        match SealedIndex::open(&storage, NAME, &contents.identity) {
            Ok(index) => {
                assert!(at >= layout::PAGE_BYTES as u64 && !damage(index.check()).is_empty(), "byte {at}");
                for (answer, truth) in answers(&index).into_iter().zip(&truth) {
                    assert!(matches!(&answer, Err(IndexProblem::Damaged(_))) || answer.is_ok_and(|answer| answer == *truth), "byte {at}");
                }
            }
            Err(problem) => assert!(at < layout::PAGE_BYTES as u64 && !damage(Err::<(), _>(problem)).is_empty()),
        }
        file.write_at(&byte, at).expect("memory");
    }
    index.check().expect("whole again");
}

#[test]
fn a_file_cut_short_is_damaged_before_and_after_it_was_opened() {
    let contents = contents_of(7, &[1, 2, 3, 3, 1 << 60]);
    let (storage, index) = written(&contents);
    let file = storage.open(NAME, Access::Write).expect("memory");
    for length in (0..file.length().expect("memory")).rev().step_by(333) {
        file.set_length(length).expect("memory");
        assert!(!damage(SealedIndex::open(&storage, NAME, &contents.identity)).is_empty());
        assert!(!damage(index.check()).is_empty());
    }
}

#[test]
fn hashes_on_disk_never_change() {
    // Computed with the reference implementation, through Python's xxhash: xxh3_64_intdigest(bytes, seed=0x0807060504030201).
    let store_id = Uuid::from_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(stream_hash(store_id, "", "order-1"), 0x706F_242A_2994_2F9A);
    assert_eq!(stream_hash(store_id, "tenant", &"x".repeat(300)), 0xE1D9_EE59_DF21_BCED);
    assert_eq!(id_hash(store_id, store_id), 0xAB76_823C_ED73_8EB1);
    assert_ne!(stream_hash(store_id, "a", "b"), stream_hash(store_id, "", "ab"));
}

/// An index with valid checksums whose sections hold these entries; those not named have none.
fn planted(entries: &[(u32, &[u8])]) -> SealedIndex {
    let storage = MemoryStorage::new();
    let lengths = [
        (section::EVENTS, event::BYTES),
        (section::STREAMS, stream::BYTES),
        (section::SLOTS, 4),
        (section::IDS, id::BYTES),
        (section::STREAM_FILTER, filter::BLOCK_BYTES),
        (section::ID_FILTER, filter::BLOCK_BYTES),
        (section::AGGREGATE_TYPES, aggregate_type::BYTES),
        (section::KINDS, kind::BYTES),
        (section::TEXT, 1),
    ];
    let head = (FileKind::Segment, &identity(7).encode(), &[0; layout::SUMMARY_BYTES]);
    write_file(&storage, NAME, head, |writer| {
        lengths.iter().try_for_each(|(id, bytes)| {
            writer.section(*id, *bytes)?;
            let of_section = entries.iter().filter(|(section, _)| section == id);
            of_section.flat_map(|(_, entries)| entries.chunks_exact(*bytes)).try_for_each(|entry| writer.push(entry))
        })
    })
    .map_err(|error: std::io::Error| error)
    .expect("memory");
    SealedIndex::open(&storage, NAME, &identity(7)).expect("an index")
}

#[test]
fn entries_that_refer_to_what_is_not_there_are_damage_whatever_their_checksums_say() {
    let beyond = StreamEntry { hash: 5, aggregate_type: 9, first_version: 1, count: u32::MAX, slots_at: u32::MAX, previous_segment: 0 };
    let index = planted(&[
        (section::EVENTS, &[0; event::BYTES]),
        (section::STREAMS, &beyond.encode()),
        (section::SLOTS, &[0xFF; 4]),
        (section::IDS, &[0xFF; id::BYTES]),
        (section::STREAM_FILTER, &[0xFF; filter::BLOCK_BYTES]),
        (section::ID_FILTER, &[0xFF; filter::BLOCK_BYTES]),
        (section::AGGREGATE_TYPES, &[0xFF; aggregate_type::BYTES]),
        (section::KINDS, &[0xFF; kind::BYTES]),
        (section::TEXT, &[0xFF; 4]),
    ]);
    assert_eq!(streams(&index, 5).expect("streams"), [beyond]);
    assert_eq!(damage(index.stream_slots(&beyond, 0, u64::MAX, &mut Vec::new())), "it has fewer entries than are asked for");
    let first = StreamEntry { count: 1, slots_at: 0, ..beyond };
    assert_eq!(damage(index.stream_slots(&first, 1, 1, &mut Vec::new())), "a stream has an event that the segment does not have");
    assert_eq!(damage(index.ids(u64::MAX)), "an id belongs to an event that the segment does not have");
    assert_eq!(damage(index.aggregate_type(0)), "a name in it is longer than names can be");
    assert_eq!(damage(index.aggregate_type(1)), "it has fewer entries than are asked for");
    assert!(!damage(index.kinds()).is_empty() && !damage(index.check()).is_empty());

    let name =
        |at: u32, bytes: u32| planted(&[(section::AGGREGATE_TYPES, &[at.to_le_bytes(), bytes.to_le_bytes()].concat()), (section::TEXT, &[0xFF; 4])]);
    assert_eq!(damage(name(0, 4).aggregate_type(0)), "a name in it is not UTF-8");
    assert_eq!(damage(name(u32::MAX, 4).aggregate_type(0)), "it has fewer entries than are asked for");
    let kinds = planted(&[(section::KINDS, &vec![0; kind::BYTES << 16])]);
    assert_eq!(damage(kinds.kinds()), "it has more kinds than can be numbered");
}

#[test]
fn a_check_finds_what_does_not_fit_together() {
    let spoilers: [fn(&mut Contents); 3] = [
        |contents| contents.slots[0] = contents.slots[1],
        |contents| contents.streams[0].count = 1,
        |contents| contents.streams[0] = contents.streams[1],
    ];
    for (number, spoil) in spoilers.iter().enumerate() {
        let mut contents = contents_of(7, &[1, 2, 2, 1]);
        spoil(&mut contents);
        assert!(!damage(written(&contents).1.check()).is_empty(), "{number}");
    }
    let event = [0, 0, 0, 0, 0xFF, 0xFF];
    let index = planted(&[(section::EVENTS, &event), (section::SLOTS, &[0; 4]), (section::IDS, &[0; id::BYTES])]);
    assert_eq!(damage(index.check()), "an event stands in no stream");
    let alone = planted(&[(section::EVENTS, &event)]);
    assert_eq!(damage(alone.check()), "it does not have one id and one stream for each event");
}
