//! The runs of a log's sealed segments: which there are, and which one covers a segment.

mod merging;
mod plan;

use std::collections::HashSet;
use std::sync::Arc;

pub(crate) use merging::Merging;

use super::{Files, Sealed, SealedSegment};
use crate::index::file::IndexProblem;
use crate::index::run::{Run, RunIdentity, members};
use crate::log::runs::{FOLDER, parse_run_name, run_name};

/// The runs that are used: of segments that no two of them share, in their order.
#[derive(Clone, Default)]
pub(super) struct Runs(Arc<Vec<Arc<Run>>>);

impl Runs {
    /// The run that covers a segment.
    pub(super) fn covering(&self, sequence: u64) -> Option<&Arc<Run>> {
        let next = self.0.partition_point(|run| run.identity().first_segment <= sequence);
        self.0.get(next.checked_sub(1)?).filter(|run| run.identity().covers(sequence))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.0.iter()
    }

    /// How many bytes of memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.iter().map(|run| run.memory_bytes()).sum()
    }

    /// These and one more, in place of those that have segments of it.
    fn and(&self, run: Arc<Run>, filter_bytes: u64) -> Self {
        let mine = run.identity();
        let is_beside = |other: &&Arc<Run>| other.identity().last_segment < mine.first_segment || other.identity().first_segment > mine.last_segment;
        let mut runs: Vec<Arc<Run>> = self.0.iter().filter(is_beside).cloned().collect();
        let at = runs.partition_point(|other| other.identity().first_segment < run.identity().first_segment);
        runs.insert(at, run);
        share_room(&runs, filter_bytes);
        Self(Arc::new(runs))
    }

    fn without(&self, run: &Arc<Run>) -> Self {
        Self(Arc::new(self.0.iter().filter(|other| !Arc::ptr_eq(other, run)).cloned().collect()))
    }

    fn names(&self) -> HashSet<String> {
        self.0.iter().map(|run| run_name(run.identity().first_segment, run.identity().last_segment)).collect()
    }
}

/// Gives room in memory to the smallest filters first: each that is there spares every look-up a page. What is left is the largest one's.
fn share_room(runs: &[Arc<Run>], bytes: u64) {
    let mut by_size: Vec<&Arc<Run>> = runs.iter().collect();
    by_size.sort_by_key(|run| run.filter_bytes());
    let mut left = bytes;
    for run in by_size {
        let room = run.filter_bytes().min(left);
        run.give_filter_room(room);
        left -= room;
    }
}

impl Sealed {
    /// The runs there are. The first to ask lists the folder, and opens them.
    pub(super) fn runs(&self, files: &Files) -> Runs {
        let mut runs = self.shared.runs.lock();
        runs.get_or_insert_with(|| self.open_runs(files)).clone()
    }

    fn open_runs(&self, files: &Files) -> Runs {
        let names = files.storage.list(FOLDER).unwrap_or_else(|error| {
            tracing::warn!(%error, "the folder of runs cannot be listed; every index file is asked");
            Vec::new()
        });
        let mut found: Vec<(u64, u64)> = names.iter().filter_map(|name| parse_run_name(name)).collect();
        // Of those that cover each other the larger one.
        found.sort_unstable_by_key(|(first, last)| (last - first, *first));
        let opened = found.into_iter().filter_map(|(first, last)| self.open_run(first, last, files));
        opened.fold(Runs::default(), |runs, run| runs.and(run, self.shared.filter_bytes))
    }

    fn open_run(&self, first: u64, last: u64, files: &Files) -> Option<Arc<Run>> {
        let identity = self.run_identity(first, last, files)?;
        let name = format!("{FOLDER}/{}", run_name(first, last));
        Run::open(&*files.storage, &name, &identity).map_or_else(
            |problem| {
                tracing::warn!(name, ?problem, "the run cannot be used; it is merged again from the index files");
                None
            },
            |run| Some(Arc::new(run)),
        )
    }

    /// What a run must say of itself; nothing if there are not all of its segments.
    fn run_identity(&self, first: u64, last: u64, files: &Files) -> Option<RunIdentity> {
        let segments = self.between(first, last)?;
        let members = members(segments.iter().map(|segment| (segment.named.sequence, segment.named.end_lsn.unwrap_or(0))));
        // Whose the last one is, and its number, tells which the others are: in a fork those of its ancestors.
        let store_id = files.segments.maker_of(segments.last()?.named.base_lsn);
        Some(RunIdentity { store_id, first_segment: first, last_segment: last, members })
    }

    fn between(&self, first: u64, last: u64) -> Option<&[Arc<SealedSegment>]> {
        let start = self.segments.binary_search_by_key(&first, |segment| segment.named.sequence).ok()?;
        let end = start.checked_add(usize::try_from(last.checked_sub(first)?.checked_add(1)?).ok()?)?;
        self.segments.get(start..end).filter(|segments| segments.last().is_some_and(|segment| segment.named.sequence == last))
    }

    /// Stops using a run that is damaged.
    pub(super) fn discard(&self, run: &Arc<Run>, problem: &IndexProblem) {
        let name = run_name(run.identity().first_segment, run.identity().last_segment);
        tracing::warn!(name, ?problem, "the run is damaged; it is merged again from the index files");
        let mut runs = self.shared.runs.lock();
        if let Some(runs) = &mut *runs {
            *runs = runs.without(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::event::{EventData, NewEvent, StreamKey};
    use crate::index::sealed::{Contents, EventEntry, SealedIndex, StreamEntry, stream_hash};
    use crate::log::manifest::Manifest;
    use crate::log::segment::{Segment, index_name};
    use crate::log::segments::Segments;
    use crate::log::storage::{Access, MemoryStorage, Storage};
    use crate::log_store::{OpenOptions, ends};
    use crate::store::{AppendBatch, Durability, EventStore};
    use crate::version::ExpectedVersion;

    /// Index and run say of segment 2 that it has events of the stream "first", since the hash of "second" is the same: what "first" has in
    /// segment 1 is found all the same, and "second" is not taken for it.
    #[test]
    fn two_streams_of_one_hash_are_both_found_whole() {
        let storage = Arc::new(MemoryStorage::new());
        let open = || OpenOptions::new().durability(Durability::Os).segment_bytes(64 << 10).open_storage(storage.clone()).expect("open");
        let store = open();
        for name in ["first", "large", "large", "second", "large"] {
            let event = NewEvent::new("Happened", EventData::Protobuf(vec![1; if name == "large" { 60_000 } else { 10 }]));
            store.append(AppendBatch::one(name, "Thing", ExpectedVersion::Any, vec![event])).wait().expect("stored");
        }
        store.close().wait().expect("closed");
        let manifest = Manifest::read(&*storage).unwrap_or_else(|_| panic!("a manifest"));
        let named: Vec<_> = manifest.segments.iter().filter(|named| named.end_lsn.is_some()).copied().collect();
        let end = manifest.segments.last().expect("segments").base_position;
        assert!(named.len() == 2 && manifest.segments.len() == 3);
        let last = Segment::attach(&*storage, "000000003.g0.seg", Access::Read).unwrap_or_else(|_| panic!("a segment"));
        let files = Files {
            storage: storage.clone(),
            segments: Arc::new(Segments::new(storage.clone(), (manifest.store_id, &manifest.lineage), &named, Arc::new(last))),
        };
        let sealed = || Sealed::new(ends(&named, end), 1 << 20);
        let key = |aggregate_id| StreamKey { tenant: "", aggregate_id };
        let hash = |name| stream_hash(manifest.store_id, "", name);

        // The index of segment 2 anew, in which the stream of "second" has both hashes.
        let true_one = sealed();
        let index = true_one.segments[1].open_file(&files).unwrap_or_else(|_| panic!("an index"));
        let mut places = Vec::new();
        index.places(0, 1, &mut places).unwrap_or_else(|_| panic!("two events"));
        let events: Vec<EventEntry> =
            (0_u128..).zip(&places).map(|(id, (place, _))| EventEntry { place: *place, kind: 0, id: Some(Uuid::from_u128(id)) }).collect();
        let stream =
            |hash, slots_at, version| StreamEntry { hash, aggregate_type: 0, first_version: version, count: 1, slots_at, previous_segment: 0 };
        let contents = Contents {
            identity: *index.identity(),
            aggregate_types: vec!["Thing".to_owned()],
            kinds: vec![(0, "Happened".to_owned())],
            events,
            streams: vec![stream(hash("second"), 1, 1), stream(hash("first"), 1, 1), stream(hash("large"), 0, 2)],
            slots: vec![0, 1],
        };
        SealedIndex::write(&*storage, &index_name(2), &contents).expect("memory");
        let merged = sealed();
        merged.merge_runs(Merging { fan_out: 2, files: &files, stop: &|| false });
        assert_eq!(storage.list(FOLDER).expect("memory"), [run_name(1, 2)]);
        let run = merged.runs(&files).covering(1).cloned().expect("a run");
        assert_eq!(run.find(hash("first")).unwrap_or_else(|_| panic!("an answer")), Some(2));
        for (name, segment, versions) in [("first", 1, (1, 1)), ("second", 2, (1, 1)), ("large", 2, (2, 2))] {
            let span = merged.find(&key(name), &files).expect("an answer").expect("it is there");
            assert_eq!((span.segment.named.sequence, (span.first_version, span.last_version)), (segment, versions), "{name}");
        }
        let before = merged.find_before(&key("large"), 2, &files).expect("an answer").expect("it is there");
        assert_eq!((before.segment.named.sequence, before.last_version), (1, 1));
        assert!(merged.find(&key("third"), &files).expect("an answer").is_none());
    }
}
