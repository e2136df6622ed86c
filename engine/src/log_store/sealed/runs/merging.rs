//! Merging the runs that are to be there, and removing those that are not used any more.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Runs, plan};
use crate::index::file::IndexProblem;
use crate::index::run::{Culprit, IdSource, Input, Run, Sources};
use crate::index::sealed::SealedIndex;
use crate::log::runs::{FOLDER, parse_run_name, run_name};
use crate::log::segment::index_name;
use crate::log_store::sealed::{Files, Sealed, SealedSegment};

/// How runs are merged.
#[derive(Clone, Copy)]
pub(crate) struct Merging<'a> {
    /// How many segments or runs are merged to one.
    pub(crate) fan_out: u64,
    pub(crate) files: &'a Files,
    /// Whether to give up.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Sealed {
    /// Merges the runs that are missing, and removes those that are not used any more.
    ///
    /// It holds little in memory, whatever there is to be merged. What it was at when it is told to stop is begun again the next time.
    pub(crate) fn merge_runs(&self, merging: Merging<'_>) {
        let (Some(first), Some(last)) = (self.segments.first(), self.segments.last()) else { return };
        let segments = (first.named.sequence, last.named.sequence);
        let mut merged = false;
        for length in plan::lengths(merging.fan_out, segments.1) {
            for block in plan::blocks(segments, length) {
                if (merging.stop)() {
                    return;
                }
                if self.is_to_be_merged(block, length == merging.fan_out, merging.files) {
                    merged |= self.merge(block, merging);
                }
            }
        }
        let runs: Vec<_> = self.runs(merging.files).0.iter().map(|run| (range_of(run), run.filter_bytes())).collect();
        // A part of the room is left to the first run.
        if let Some(range) = plan::grown(&runs, self.shared.filter_bytes / 4 * 3) {
            merged |= self.merge(range, merging);
        }
        if merged || !self.shared.swept.swap(true, Ordering::Relaxed) {
            self.remove_unused(merging.files);
        }
    }

    /// Whether a run of this block is missing, and all is there that it is merged from.
    fn is_to_be_merged(&self, (from, to): plan::Range, of_segments: bool, files: &Files) -> bool {
        let runs = self.runs(files);
        let Some(first) = runs.covering(from) else { return of_segments };
        if first.identity().covers(to) || first.identity().first_segment < from {
            // The first run has grown into this block.
            return false;
        }
        of_segments || runs.cover((from, to))
    }

    /// Merges a run; says whether it is there now.
    fn merge(&self, (from, to): plan::Range, merging: Merging<'_>) -> bool {
        let merged = self.merge_run((from, to), merging);
        // An index file that is missing is made again first.
        if let Err(problem @ (IndexProblem::Damaged(_) | IndexProblem::Io(_))) = &merged {
            tracing::warn!(from, to, ?problem, "the index files of these segments cannot be merged");
        }
        merged.is_ok()
    }

    fn merge_run(&self, (first, last): plan::Range, Merging { fan_out, files, stop }: Merging<'_>) -> Result<(), IndexProblem> {
        let (Some(segments), Some(identity)) = (self.between(first, last), self.run_identity(first, last, files)) else {
            return Ok(());
        };
        let runs = self.runs(files);
        let (mut indexes, mut merged): (Vec<SealedIndex>, Vec<&Arc<Run>>) = (Vec::new(), Vec::new());
        for segment in segments {
            match runs.covering(segment.named.sequence) {
                Some(run) if merged.last().is_some_and(|last| Arc::ptr_eq(last, run)) => {}
                Some(run) => merged.push(run),
                None => indexes.push(segment.open_file(files).inspect_err(|problem| self.shared.found_damaged(segment.named.sequence, problem))?),
            }
        }
        let streams: Vec<Input<'_>> = merged.iter().map(|run| Input::Run(run)).chain(indexes.iter().map(Input::Segment)).collect();
        let (name, damaged) = (format!("{FOLDER}/{}", run_name(first, last)), Cell::new(None));
        files.storage.create_folder(FOLDER)?;
        let index = |sequence| self.numbered(sequence).ok_or(IndexProblem::Missing)?.open_file(files);
        let written = id_sources(&merged, (first, last), fan_out, &damaged).and_then(|ids| {
            let sources = Sources { streams: &streams, ids: &ids, index: &index, stop, damaged: &damaged };
            Run::write(&*files.storage, &name, &identity, &sources)
        });
        if let Err(problem) = &written {
            self.give_up(damaged.get(), problem, files);
        }
        written?;
        let run = Arc::new(Run::open(&*files.storage, &name, &identity)?);
        let mut used = self.shared.runs.lock();
        *used = Some(used.take().unwrap_or_default().and(run, self.shared.filter_bytes));
        drop(used);
        for segment in segments {
            segment.let_go_of_filter();
        }
        Ok(())
    }

    /// Does not use what is damaged any more: it is made again.
    fn give_up(&self, damaged: Option<Culprit>, problem: &IndexProblem, files: &Files) {
        match damaged {
            Some(Culprit::Segment(sequence)) => self.shared.found_damaged(sequence, problem),
            Some(Culprit::Run(first)) => {
                if let Some(run) = self.runs(files).covering(first) {
                    self.discard(run, problem);
                }
            }
            None => {}
        }
    }

    /// Removes runs that others cover, and those of segments that are not there.
    fn remove_unused(&self, files: &Files) {
        let used = self.runs(files).names();
        let Ok(names) = files.storage.list(FOLDER) else { return };
        for name in names.iter().filter(|name| parse_run_name(name).is_some() && !used.contains(*name)) {
            if let Err(error) = files.storage.remove(&format!("{FOLDER}/{name}")) {
                tracing::warn!(%error, name, "a run that is not used any more cannot be removed");
            }
        }
    }
}

fn range_of(run: &Run) -> plan::Range {
    (run.identity().first_segment, run.identity().last_segment)
}

impl Runs {
    /// Whether they cover all of these segments.
    fn cover(&self, (mut from, to): plan::Range) -> bool {
        while let Some(run) = self.covering(from) {
            if run.identity().last_segment >= to {
                return true;
            }
            from = run.identity().last_segment + 1;
        }
        false
    }
}

/// Where the filters of ids come from: those that are there already are copied.
fn id_sources<'a>(
    runs: &[&'a Arc<Run>],
    range: plan::Range,
    fan_out: u64,
    damaged: &Cell<Option<Culprit>>,
) -> Result<Vec<IdSource<'a>>, IndexProblem> {
    let source = |(first, last): plan::Range| {
        let Some(run) = runs.iter().find(|run| run.identity().covers(first)) else { return Ok(IdSource::Segments(first, last)) };
        let parts = run.parts().inspect_err(|_| damaged.set(Some(Culprit::Run(run.identity().first_segment))))?;
        let part = parts.iter().find(|part| (part.first_segment, part.last_segment) == (first, last));
        Ok(part.map_or(IdSource::Segments(first, last), |part| IdSource::Run(run, *part)))
    };
    plan::parts(range, fan_out).into_iter().map(source).collect()
}

impl SealedSegment {
    /// Its index file, as it is on disk.
    pub(super) fn open_file(&self, files: &Files) -> Result<SealedIndex, IndexProblem> {
        let segment = files.segments.numbered(self.named.sequence).map_err(|_| IndexProblem::Missing)?;
        SealedIndex::open(&*files.storage, &index_name(self.named.sequence), &self.identity(&segment, files))
    }
}
