use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::index::file::layout;
use crate::index::sealed::tests::{contents_of, id_hashes, identity as segment_identity};
use crate::index::sealed::{SealedIndex, id_hash};
use crate::log::storage::{Access, MemoryStorage};

const NAME: &str = "index/1-4.run";

fn identity_of(first_segment: u64, last_segment: u64) -> RunIdentity {
    let store_id = segment_identity(1).store_id;
    let members = members((first_segment..=last_segment).map(|sequence| (sequence, sequence * 3)));
    RunIdentity { store_id, first_segment, last_segment, members }
}

/// The indexes of segments 1, 2, … whose events belong to these streams.
fn segments(storage: &MemoryStorage, streams: &[Vec<u64>]) -> Vec<SealedIndex> {
    let index = |(sequence, streams): (u64, &Vec<u64>)| {
        let (name, contents) = (format!("{sequence}.idx"), contents_of(sequence, streams));
        SealedIndex::write(storage, &name, &contents).expect("memory");
        SealedIndex::open(storage, &name, &contents.identity).expect("an index")
    };
    (1..).zip(streams).map(index).collect()
}

/// Merges a run of segments and runs, with the filters of ids from the given places; all indexes are at hand, the first one of segment 1.
fn write(storage: &MemoryStorage, name: &str, range: (u64, u64), streams: &[Input<'_>], ids: &[IdSource<'_>]) -> Result<(), IndexProblem> {
    let index = |sequence: u64| SealedIndex::open(storage, &format!("{sequence}.idx"), &segment_identity(sequence));
    Run::write(storage, name, &identity_of(range.0, range.1), &Sources { streams, ids, index: &index, stop: &|| false, damaged: &Cell::default() })
}

fn merged(storage: &MemoryStorage, name: &str, range: (u64, u64), streams: &[Input<'_>], ids: &[IdSource<'_>]) -> Run {
    write(storage, name, range, streams, ids).expect("memory");
    Run::open(storage, name, &identity_of(range.0, range.1)).expect("a run")
}

/// Whether any part of a run may have an event whose id has this hash.
fn may_hold_id(run: &Run, hash: u64) -> Result<bool, IndexProblem> {
    run.parts()?.iter().try_fold(false, |held, part| Ok(held || run.may_hold_id(part, hash)?))
}

fn reason<T>(result: Result<T, IndexProblem>) -> &'static str {
    match result {
        Err(IndexProblem::Damaged(reason)) => reason,
        Err(problem) => panic!("{problem:?}"),
        Ok(_) => "",
    }
}

fn contents(storage: &MemoryStorage, name: &str) -> Vec<u8> {
    let file = storage.open(name, Access::Read).expect("memory");
    let mut bytes = vec![0; usize::try_from(file.length().expect("memory")).expect("small")];
    file.read_at(&mut bytes, 0).expect("memory");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_run_names_the_newest_segment_of_every_stream_and_misses_no_id(
        streams in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![0..60_u64, any::<u64>(), (0..300_u64).prop_map(|n| n << 55), Just(u64::MAX)], 0..500),
            1..6,
        ),
    ) {
        let storage = MemoryStorage::new();
        let indexes = segments(&storage, &streams);
        let inputs: Vec<Input<'_>> = indexes.iter().map(Input::Segment).collect();
        let last = streams.len() as u64;
        let run = merged(&storage, NAME, (1, last), &inputs, &[IdSource::Segments(1, last)]);
        run.check().expect("whole");
        let newest: BTreeMap<u64, u64> = (1..).zip(&streams).flat_map(|(sequence, streams)| streams.iter().map(move |hash| (*hash, sequence))).collect();
        prop_assert_eq!(run.stream_count(), newest.len() as u64);
        for room in [u64::MAX, 128, 0] {
            run.give_filter_room(room);
            for hash in newest.keys().flat_map(|hash| [*hash, hash.wrapping_add(1)]) {
                prop_assert_eq!(run.find(hash).expect("an answer"), newest.get(&hash).copied());
            }
            prop_assert!(run.memory_bytes() as u64 <= room.min(run.filter_bytes()));
        }
        // Merged in two steps, in any order, it is the same to the last byte where its ids are in the same parts.
        let half = inputs.len() / 2;
        let middle = half.max(1) as u64;
        let parts: Vec<IdSource<'_>> = [(1, middle), (middle + 1, last)].iter().filter(|(first, last)| first <= last).map(|(first, last)| IdSource::Segments(*first, *last)).collect();
        let once = merged(&storage, "index/once.run", (1, last), &inputs, &parts);
        let first = merged(&storage, "index/half.run", (1, middle), &inputs[..usize::try_from(middle).expect("few")], &parts[..1]);
        let mut steps = inputs[usize::try_from(middle).expect("few")..].to_vec();
        steps.push(Input::Run(&first));
        let mut copied = parts.clone();
        copied[0] = IdSource::Run(&first, first.parts().expect("parts")[0]);
        merged(&storage, "index/steps.run", (1, last), &steps, &copied).check().expect("whole");
        prop_assert!(contents(&storage, "index/once.run") == contents(&storage, "index/steps.run"));
        for index in &indexes {
            for hash in id_hashes(index).expect("hashes") {
                prop_assert!(may_hold_id(&run, hash).expect("an answer") && may_hold_id(&once, hash).expect("an answer"));
            }
        }
        let ranges: Vec<_> = indexes.iter().filter_map(SealedIndex::id_range).collect();
        for part in run.parts().expect("parts").iter().filter(|_| !ranges.is_empty()) {
            prop_assert_eq!(Some(part.smallest_id), ranges.iter().map(|range| range.0).min());
            prop_assert_eq!((part.largest_id, run.largest_id()), (ranges.iter().map(|range| range.1).max().expect("ids"), part.largest_id));
            prop_assert!(!part.is_outside(part.smallest_id) && part.is_outside(Uuid::nil()) && part.is_outside(Uuid::max()));
        }
    }
}

#[test]
fn a_run_of_segments_without_events_knows_nothing() {
    let storage = MemoryStorage::new();
    let indexes = segments(&storage, &[vec![], vec![]]);
    let run = merged(&storage, NAME, (1, 2), &[Input::Segment(&indexes[0]), Input::Segment(&indexes[1])], &[IdSource::Segments(1, 2)]);
    run.check().expect("whole");
    assert!(run.find(0).expect("an answer").is_none() && !may_hold_id(&run, 0).expect("an answer"));
    assert!(run.parts().expect("parts").iter().all(|part| part.is_outside(Uuid::nil())));
}

#[test]
fn a_run_of_other_segments_is_damaged_and_a_lost_one_missing() {
    let storage = MemoryStorage::new();
    let indexes = segments(&storage, &[vec![1]]);
    merged(&storage, NAME, (1, 4), &[Input::Segment(&indexes[0])], &[IdSource::Segments(1, 1)]);
    let mine = identity_of(1, 4);
    let rewritten = members([(1, 3), (2, 7), (3, 9), (4, 12)]);
    let others = [
        RunIdentity { store_id: Uuid::nil(), ..mine },
        RunIdentity { first_segment: 2, ..mine },
        RunIdentity { last_segment: 5, ..mine },
        RunIdentity { members: rewritten, ..mine },
    ];
    for other in others {
        assert_eq!(reason(Run::open(&storage, NAME, &other)), "it was made from another log");
    }
    assert!(matches!(Run::open(&storage, "index/none.run", &mine), Err(IndexProblem::Missing)));
    assert!(matches!(SealedIndex::open(&storage, NAME, &segment_identity(1)), Err(IndexProblem::Damaged("it is an index of another kind"))));
}

#[test]
fn no_changed_byte_of_a_run_ever_gives_a_wrong_answer() {
    let storage = MemoryStorage::new();
    let indexes = segments(&storage, &[vec![1, 2], vec![2, 3]]);
    let inputs = [Input::Segment(&indexes[0]), Input::Segment(&indexes[1])];
    merged(&storage, NAME, (1, 2), &inputs, &[IdSource::Segments(1, 1), IdSource::Segments(2, 2)]);
    let id = id_hash(segment_identity(1).store_id, Uuid::from_u128(1 << 64));
    let file = storage.open(NAME, Access::Write).expect("memory");
    for at in 0..file.length().expect("memory") {
        let mut byte = [0];
        file.read_at(&mut byte, at).expect("memory");
        file.write_at(&[byte[0] ^ 1 << (at % 8)], at).expect("memory");
        match Run::open(&storage, NAME, &identity_of(1, 2)) {
            Ok(run) => {
                assert!(at >= layout::PAGE_BYTES as u64 && !reason(run.check()).is_empty(), "byte {at}");
                for (hash, newest) in [(1, Some(1)), (2, Some(2)), (3, Some(2)), (4, None)] {
                    let answer = run.find(hash);
                    assert!(matches!(answer, Err(IndexProblem::Damaged(_))) || answer.is_ok_and(|answer| answer == newest), "byte {at}");
                }
                let answer = may_hold_id(&run, id);
                assert!(matches!(answer, Err(IndexProblem::Damaged(_)) | Ok(true)), "byte {at}");
            }
            Err(problem) => assert!(at < layout::PAGE_BYTES as u64 && !reason(Err::<(), _>(problem)).is_empty()),
        }
        file.write_at(&byte, at).expect("memory");
    }
}

#[test]
fn damaged_inputs_give_no_run() {
    let storage = MemoryStorage::new();
    let indexes = segments(&storage, &[vec![1, 2, 3], vec![7]]);
    let outside = write(&storage, NAME, (1, 1), &[Input::Segment(&indexes[1])], &[]);
    assert_eq!(reason(outside), "it names a segment that is not in the run");

    let file = storage.open("1.idx", Access::Write).expect("memory");
    let mut damaged = 0;
    for at in 1..file.length().expect("memory") / layout::PAGE_BYTES as u64 {
        let at = at * layout::PAGE_BYTES as u64;
        let mut byte = [0];
        file.read_at(&mut byte, at).expect("memory");
        file.write_at(&[!byte[0]], at).expect("memory");
        let result = write(&storage, NAME, (1, 2), &[Input::Segment(&indexes[0])], &[IdSource::Segments(1, 1)]);
        damaged += u32::from(reason(result) == "the checksum of a page does not match");
        file.write_at(&byte, at).expect("memory");
    }
    assert_eq!((damaged, storage.list("index").expect("memory")), (2, vec!["1-4.run".to_owned()]), "the pages of streams and of ids");
}

#[test]
fn parts_that_do_not_cover_the_segments_one_by_one_are_damaged() {
    use IdSource::Segments;
    let storage = MemoryStorage::new();
    segments(&storage, &[vec![1], vec![2], vec![3]]);
    let made = |parts: &[IdSource<'_>]| {
        let run = merged(&storage, NAME, (1, 3), &[], parts);
        reason(run.parts().map(|_| ()))
    };
    assert_eq!(made(&[Segments(1, 3)]), "");
    assert_eq!(made(&[Segments(1, 1), Segments(2, 3)]), "");
    for wrong in [&[][..], &[Segments(1, 2)], &[Segments(2, 3)], &[Segments(1, 1), Segments(3, 3)], &[Segments(1, 2), Segments(2, 3)]] {
        assert_eq!(made(wrong), "the parts of its ids do not fit together");
    }
}

#[test]
fn a_merge_that_is_told_to_stop_leaves_nothing() {
    let storage = MemoryStorage::new();
    let many: Vec<u64> = (0..20_000).map(|number| number << 40).collect();
    let indexes = segments(&storage, &[many]);
    let index = |sequence: u64| SealedIndex::open(&storage, &format!("{sequence}.idx"), &segment_identity(sequence));
    let (mut asked, mut went_on) = (0, 0_u32);
    loop {
        let left = Cell::new(went_on);
        let stop = || left.replace(left.get().saturating_sub(1)) == 0;
        let damaged = Cell::default();
        let (streams, ids) = ([Input::Segment(&indexes[0])], [IdSource::Segments(1, 1)]);
        let sources = Sources { streams: &streams, ids: &ids, index: &index, stop: &stop, damaged: &damaged };
        match Run::write(&storage, NAME, &identity_of(1, 1), &sources) {
            Err(IndexProblem::Stopped) => asked += 1,
            other => break other.expect("it was not told to stop"),
        }
        assert_eq!(storage.list("index").expect("memory"), Vec::<String>::new());
        went_on += 1;
    }
    // While streams are merged, while their filter is made, and before each index whose ids are taken.
    assert_eq!(asked, 2 * (20_000 / 4096) + 2);
}

#[test]
fn lists_that_are_not_sorted_and_lists_that_fail_end_a_merge() {
    let list = |items: &[Option<u64>]| {
        let items: Vec<_> = items.iter().map(|item| item.ok_or(IndexProblem::Missing)).collect();
        items.into_iter()
    };
    let sorted = |lists: Vec<_>| merge::sorted(lists.into_iter()).map(Iterator::collect::<Vec<_>>);
    let unsorted = sorted(vec![list(&[Some(3), Some(1), Some(9)]), list(&[Some(2)])]).expect("heads");
    assert!(matches!(&unsorted[..], [Ok(2), Err(IndexProblem::Damaged(_))]), "{unsorted:?}");
    let failed = sorted(vec![list(&[Some(1), None, Some(9)])]).expect("heads");
    assert!(matches!(&failed[..], [Err(IndexProblem::Missing)]), "{failed:?}");
    assert!(sorted(vec![list(&[None])]).is_err());
}

#[test]
fn digests_of_segments_never_change() {
    // Computed with the reference implementation, through Python's xxhash.
    assert_eq!(members([(1, 3), (2, 6)]), 0xFDEA_F784_CAA9_7879);
    assert_ne!(members([(1, 3)]), members([(1, 4)]));
}
