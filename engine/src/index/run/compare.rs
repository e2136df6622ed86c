//! A run compared with the indexes of its segments, in bounded memory: a range of hashes after the other.

use uuid::Uuid;

use super::{IdPart, OUTSIDE, Place, Run, summary};
use crate::index::file::IndexProblem;
use crate::index::filter::Making;
use crate::index::sealed::SealedIndex;
use crate::log::format::get;

/// How many streams are held at once: 24 MB.
const STREAMS_AT_ONCE: usize = 1 << 20;
/// How many blocks of a filter are held at once: 16 MiB.
const BLOCKS_AT_ONCE: usize = 1 << 18;

/// Opens the index of a segment of the run.
pub(crate) type IndexOf<'a> = dyn Fn(u64) -> Result<SealedIndex, IndexProblem> + 'a;

/// A run and what it was merged from.
struct Comparing<'a> {
    run: &'a Run,
    index: &'a IndexOf<'a>,
    /// Records were taken out of some of its segments: the run may have been merged before, and say more than their indexes do now.
    may_say_more: bool,
}

impl Run {
    /// Reads every page, and whether it says of its streams and ids what the indexes of its segments say.
    ///
    /// # Errors
    /// What is wrong with the run; [`Stopped`](IndexProblem::Stopped) if an index cannot be used, so that nothing can be told.
    pub(crate) fn compare(&self, index: &IndexOf<'_>) -> Result<(), IndexProblem> {
        self.file.check()?;
        let index = |sequence: u64| index(sequence).map_err(untold);
        let mut comparing = Comparing { run: self, index: &index, may_say_more: false };
        for sequence in self.segments() {
            comparing.may_say_more |= index(sequence)?.has_removed();
        }
        comparing.streams()?;
        comparing.parts()
    }

    fn segments(&self) -> std::ops::RangeInclusive<u64> {
        self.identity.first_segment..=self.identity.last_segment
    }
}

impl Comparing<'_> {
    fn streams(&self) -> Result<(), IndexProblem> {
        let (mut places, mut from) = (self.run.places(), 0);
        loop {
            let mut some: Vec<Place> = Vec::new();
            for place in places.by_ref().take(STREAMS_AT_ONCE) {
                let (hash, newest) = place?;
                if hash < from || some.last().is_some_and(|(before, _)| *before >= hash) {
                    return Err(IndexProblem::Damaged("its streams are not sorted"));
                }
                if !self.run.identity.covers(newest) {
                    return Err(OUTSIDE);
                }
                if !self.run.filter()?.may_hold(&self.run.file.pages, hash)? {
                    return Err(IndexProblem::Damaged("a stream cannot be found by its hash"));
                }
                some.push((hash, newest));
            }
            let to = if some.len() < STREAMS_AT_ONCE { u64::MAX } else { some.last().map_or(u64::MAX, |(hash, _)| *hash) };
            self.streams_between(from, to, &some)?;
            match to.checked_add(1) {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Compares what the run says of the hashes in this range, both ends included.
    fn streams_between(&self, from: u64, to: u64, said: &[Place]) -> Result<(), IndexProblem> {
        let mut found = vec![0; said.len()];
        for sequence in self.run.segments() {
            let (mut at, mut lacks) = (0, false);
            (self.index)(sequence)?
                .stream_hashes_from(from, |hash| {
                    while said.get(at).is_some_and(|(other, _)| *other < hash) {
                        at += 1;
                    }
                    match said.get(at).filter(|(other, _)| *other == hash && hash <= to) {
                        Some(_) => found[at] = sequence,
                        None => lacks = hash <= to,
                    }
                    hash <= to && !lacks
                })
                .map_err(untold)?;
            if lacks {
                return Err(IndexProblem::Damaged("a stream of its segments is not in it"));
            }
        }
        for ((_, newest), found) in said.iter().zip(found) {
            if found > *newest {
                return Err(IndexProblem::Damaged("a later segment has events of a stream than it says"));
            }
            if found < *newest && !self.may_say_more {
                return Err(IndexProblem::Damaged("it says that a segment has events of a stream that has none of it"));
            }
        }
        Ok(())
    }

    fn parts(&self) -> Result<(), IndexProblem> {
        let mut range = None;
        for part in self.run.parts()? {
            let found = self.ids_of(part)?;
            let told = (part.blocks > 0).then_some((part.smallest_id, part.largest_id));
            self.is_range(told, found)?;
            range = wider(range, told);
        }
        let id_at = |at: usize| Uuid::from_bytes(get(&self.run.file.summary, at));
        let told = (id_at(summary::SMALLEST_ID), id_at(summary::LARGEST_ID));
        if told == range.unwrap_or((Uuid::nil(), Uuid::nil())) {
            Ok(())
        } else {
            Err(IndexProblem::Damaged("its smallest or largest id is another one"))
        }
    }

    fn is_range(&self, told: Option<(Uuid, Uuid)>, found: Option<(Uuid, Uuid)>) -> Result<(), IndexProblem> {
        let holds = match (told, found) {
            (Some(told), Some(found)) => told.0 <= found.0 && found.1 <= told.1,
            (None, Some(_)) => false,
            (_, None) => true,
        };
        if holds && (told == found || self.may_say_more) { Ok(()) } else { Err(IndexProblem::Damaged("the ids of a part are others than it says")) }
    }

    /// Compares a part's filter with the ids in the indexes; which are the smallest and the largest.
    fn ids_of(&self, part: &IdPart) -> Result<Option<(Uuid, Uuid)>, IndexProblem> {
        let (mut from, mut range) = (0, None);
        while from < part.blocks {
            let mut making = Making::new(part.blocks, from, BLOCKS_AT_ONCE);
            for sequence in part.first_segment..=part.last_segment {
                (self.index)(sequence)?.id_hashes_from(making.smallest_hash(), |hash| !making.add(hash)).map_err(untold)?;
            }
            let compared = making.compare(&self.run.file.pages, &self.run.id_filters, part.first_block)?;
            if !compared.has_all || !(compared.has_nothing_else || self.may_say_more) {
                return Err(IndexProblem::Damaged("the filter of its ids is not theirs"));
            }
            from = making.end();
        }
        for sequence in part.first_segment..=part.last_segment {
            range = wider(range, (self.index)(sequence)?.id_range());
        }
        Ok(range)
    }
}

/// Of an index that is missing or damaged it is told elsewhere; of the run nothing can be told then.
fn untold(_: IndexProblem) -> IndexProblem {
    IndexProblem::Stopped
}

fn wider(one: Option<(Uuid, Uuid)>, other: Option<(Uuid, Uuid)>) -> Option<(Uuid, Uuid)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.min(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}
