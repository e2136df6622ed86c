//! The merged runs of indexes, compared with the index files of their segments.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::Damage;
use super::source::{damage, is_error_of_the_system, is_of_the_system};
use crate::error::{Error, Result};
use crate::index::file::IndexProblem;
use crate::index::run::{Run, RunIdentity, members};
use crate::index::sealed::{Identity, SealedIndex};
use crate::log::manifest::{Manifest, ManifestProblem, ManifestSegment};
use crate::log::runs::{FOLDER, parse_run_name};
use crate::log::segment::{Segment, file_name, index_name};
use crate::log::storage::{Access, Storage};

/// What it takes to mend a run.
const WAY_OUT: &str = "delete this file: it is merged again from the index files, and nothing is lost with it";

/// How many runs are compared at the same time: each takes up to 40 MB.
const THREADS_MAX: usize = 2;

/// The sealed segments that the manifest names, whose index files runs were merged from.
struct Indexed<'a> {
    storage: &'a dyn Storage,
    manifest: Manifest,
}

/// A run: its first and its last segment, and its file.
type Named = (u64, u64, String);

/// Compares every run that the store may use with the index files that it was merged from, and shows what is wrong. What cannot be told, since
/// segments or index files are missing or damaged, is no damage of a run.
pub(super) fn check_runs(storage: &dyn Storage, show: &mut dyn FnMut(Damage), go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<ControlFlow<()>> {
    let manifest = match Manifest::read(storage) {
        Ok(manifest) => manifest,
        Err(ManifestProblem::Error(error)) if is_error_of_the_system(&error) => return Err(error),
        Err(_) => return Ok(ControlFlow::Continue(())),
    };
    let names = storage.list(FOLDER).map_err(|error| Error::io("list", storage.path().join(FOLDER), &error))?;
    let run_of = |name: String| parse_run_name(&name).map(|(first, last)| (first, last, format!("{FOLDER}/{name}")));
    let mut runs: Vec<Named> = names.into_iter().filter_map(run_of).collect();
    runs.sort_unstable();
    let indexed = Indexed { storage, manifest };
    let (next, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    let compare = |told: Sender<(usize, Result<Option<String>>)>| {
        while !enough.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((first, last, name)) = runs.get(number) else { return };
            if told.send((number, indexed.problem_of(*first, *last, name))).is_err() {
                return;
            }
        }
    };
    let mut problems = BTreeMap::new();
    let flow = thread::scope(|scope| -> Result<ControlFlow<()>> {
        let (told, hear) = channel();
        for _ in 0..runs.len().min(THREADS_MAX) {
            let (told, compare) = (told.clone(), &compare);
            scope.spawn(move || compare(told));
        }
        drop(told);
        while let Ok((number, problem)) = hear.recv() {
            let flow = go_on();
            enough.store(flow.is_break() || problem.is_err(), Ordering::Relaxed);
            problems.extend(problem?.map(|problem| (number, problem)));
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for (number, reason) in problems {
        show(damage(&runs[number].2, None, 0, None, (0, 0), format!("the run of indexes is damaged: {reason}; {WAY_OUT}")));
    }
    Ok(flow)
}

impl Indexed<'_> {
    /// What is wrong with a run; nothing if it is sound, is not used, or cannot be compared.
    fn problem_of(&self, first: u64, last: u64, name: &str) -> Result<Option<String>> {
        let sealed = |named: &&ManifestSegment| (first..=last).contains(&named.sequence) && named.end_lsn.is_some();
        let segments: Vec<ManifestSegment> = self.manifest.segments.iter().filter(sealed).copied().collect();
        let Some(newest) = segments.last().filter(|_| segments.len() as u64 == last - first + 1) else { return Ok(None) };
        let store_id = self.manifest.maker_of(newest.base_lsn);
        let members = members(segments.iter().map(|named| (named.sequence, named.end_lsn.unwrap_or(0))));
        let identities: Option<HashMap<u64, Identity>> = segments.iter().map(|named| Some((named.sequence, self.identity_of(named)?))).collect();
        let Some(identities) = identities else { return Ok(None) };
        let index = |sequence: u64| match identities.get(&sequence) {
            Some(identity) => SealedIndex::open(self.storage, &index_name(sequence), identity),
            None => Err(IndexProblem::Missing),
        };
        let identity = RunIdentity { store_id, first_segment: first, last_segment: last, members };
        match Run::open(self.storage, name, &identity).and_then(|run| run.compare(&index)) {
            Ok(()) | Err(IndexProblem::Missing | IndexProblem::Stopped) => Ok(None),
            Err(IndexProblem::Damaged(reason)) => Ok(Some(reason.to_owned())),
            Err(IndexProblem::Io(error)) if is_of_the_system(error.kind()) => Err(Error::io("read", self.storage.path().join(name), &error)),
            Err(IndexProblem::Io(error)) => Ok(Some(format!("it cannot be read: {error}"))),
        }
    }

    /// What the index file of a sealed segment must say of itself; nothing if the segment is damaged.
    fn identity_of(&self, named: &ManifestSegment) -> Option<Identity> {
        let segment = Segment::attach(self.storage, &file_name(named.sequence, named.generation), Access::Read).ok()?;
        let end_lsn = named.end_lsn?;
        let (_, seal) = segment.seal(end_lsn).ok()??;
        Some(Identity {
            store_id: self.manifest.lineage.origin(self.manifest.store_id),
            sequence: named.sequence,
            salt: segment.header.salt,
            base_lsn: segment.header.base_lsn,
            end_lsn,
            base_position: segment.header.base_position,
            end_position: seal.end_position,
        })
    }
}
