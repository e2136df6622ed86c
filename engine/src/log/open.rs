//! Opening a log: lock, manifest, segments, verdict, and what the verdict asks for.

mod create;
mod rebuild;
mod settle;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

pub(crate) use create::is_untouched;
pub(crate) use rebuild::rebuild_manifest;
use uuid::Uuid;

use super::format::SegmentHeader;
use super::lineage::Lineage;
use super::manifest::{MANIFEST, Manifest, ManifestProblem, ManifestSegment};
use super::names::Names;
use super::recovery::{Chain, Evidence, Verdict, judge};
use super::runs;
use super::scan::{Scan, Visit};
use super::segment::{AttachProblem, Rest, Segment, file_name};
use super::storage::{Access, Lock, Storage};
use super::watermark::{Mark, WATERMARK, Watermark};
use crate::error::{Corruption, Error, Remedy, Result};
use crate::version::Position;

/// What to do with a damaged log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDamage {
    /// Refuse, and change nothing.
    Refuse,
    /// Open for reading up to the damage, and change nothing.
    ReadUpTo,
    /// Give up what follows this position.
    AcceptLossAfter(Position),
}

/// An open log, ready for its writer.
pub(crate) struct Log {
    pub(crate) storage: Arc<dyn Storage>,
    /// `None` where others may write.
    pub(crate) lock: Option<Box<dyn Lock>>,
    pub(crate) store_id: Uuid,
    pub(crate) lineage: Lineage,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) sealed: Vec<ManifestSegment>,
    pub(crate) chain: Chain,
    /// No frame may have this epoch or a lower one from now on.
    pub(crate) epoch_floor: u32,
    /// `None` where nothing may be written.
    pub(crate) watermark: Option<Watermark>,
    pub(crate) outcome: Outcome,
    pub(crate) rewritten_bytes: u64,
    /// Up to which position deletions were carried out in all segments.
    pub(crate) scavenged: u64,
    /// The files that there are.
    pub(crate) names: Names,
}

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Clean,
    Recovered {
        bytes: u64,
        frames: u64,
    },
    LossAccepted,
    /// Reading must not cross this.
    Damaged(Corruption),
    /// Others may write to it: the log goes on behind what is read here.
    Followed,
}

/// Opens the log in `storage`, or creates one.
pub(crate) fn open(storage: Arc<dyn Storage>, on_damage: OnDamage, visit: &mut Visit<'_>) -> Result<Log> {
    let (opened, lock) = with_lock(&*storage, || open_locked(&storage, on_damage, visit))?;
    let (settled, watermark, names) = opened;
    Ok(Log {
        lock: Some(lock),
        store_id: settled.store_id,
        lineage: settled.lineage,
        segments: settled.segments,
        sealed: settled.sealed,
        chain: settled.chain,
        epoch_floor: settled.epoch_floor,
        watermark,
        outcome: settled.outcome,
        rewritten_bytes: settled.rewritten_bytes,
        scavenged: settled.scavenged,
        names,
        storage,
    })
}

/// Does something under the writer's lock. A refusal leaves no lock file where there was none.
pub(super) fn with_lock<T>(storage: &dyn Storage, work: impl FnOnce() -> Result<T>) -> Result<(T, Box<dyn Lock>)> {
    let mut lock = storage.lock()?;
    match work() {
        Ok(done) => Ok((done, lock)),
        Err(error) => {
            lock.retract();
            Err(error)
        }
    }
}

fn open_locked(storage: &Arc<dyn Storage>, on_damage: OnDamage, visit: &mut Visit<'_>) -> Result<(Settled, Option<Watermark>, Names)> {
    let opening = Opening { storage: &**storage, on_damage, names: OnceCell::new() };
    let manifest = match Manifest::read(&**storage) {
        Ok(manifest) => Some(manifest),
        Err(ManifestProblem::Missing) => opening.manifest_of_unfinished_creation()?,
        Err(ManifestProblem::Damaged(reason)) => return Err(opening.manifest_corruption(reason).into()),
        Err(ManifestProblem::Error(error)) => return Err(error),
    };
    let (manifest, created) = match manifest {
        Some(manifest) => (manifest, false),
        None => (opening.create()?, true),
    };
    if !created {
        // The process before may have been killed between a rename and its sync: what is read here could still be lost.
        storage.sync_directory("").map_err(|error| opening.io("sync", "", &error))?;
    }
    if manifest.segments.is_empty() {
        return Err(opening.manifest_corruption("it names no segments").into());
    }
    let found = opening.read(manifest, visit)?;
    let settled = opening.settle(found, created)?;
    if matches!(settled.outcome, Outcome::Damaged(_)) {
        // It is read, and nothing else.
        return Ok((settled, None, opening.into_names(false)?));
    }
    opening.remove_unfinished_files()?;
    let mut watermark = Watermark::open(&**storage, settled.store_id).map_err(|error| opening.io("open", WATERMARK, &error))?;
    let mark = settled.mark();
    if watermark.differs_from(&mark) {
        // What the writer before has not told any more can be read from now on, also in other processes. Where a power failure has torn a
        // slot, they could not be certain of the other one alone.
        watermark.raise(&**storage, &mark, Watermark::write_both);
    }
    let changed = matches!(settled.outcome, Outcome::Created | Outcome::LossAccepted);
    Ok((settled, Some(watermark), opening.into_names(changed)?))
}

/// The chain that the first frame of a segment continues, as far as the segment says.
pub(crate) fn first_chain(header: &SegmentHeader) -> Chain {
    Chain {
        lsn: header.base_lsn,
        position: header.base_position,
        checksum: header.anchor,
        epoch: header.epoch,
        commit_time: i64::MIN,
        durable_upto: 0,
    }
}

/// What the files were found to hold.
struct Found {
    manifest: Manifest,
    /// Sealed segments that were not read: their successor continues the last one's seal.
    passed_over: Vec<ManifestSegment>,
    segments: Vec<Arc<Segment>>,
    chain: Chain,
    mark: Mark,
    /// What lies behind the chain in its last segment.
    rest: Rest,
    verdict: Verdict,
    damage: Option<Corruption>,
    /// Sequence numbers of segments behind the damage.
    lost: Vec<(u64, u32)>,
    last_is_sealed: bool,
    adopted: bool,
}

/// What is left when the verdict has been carried out.
struct Settled {
    store_id: Uuid,
    lineage: Lineage,
    segments: Vec<Arc<Segment>>,
    sealed: Vec<ManifestSegment>,
    chain: Chain,
    epoch_floor: u32,
    outcome: Outcome,
    rewritten_bytes: u64,
    scavenged: u64,
}

struct Opening<'a> {
    storage: &'a dyn Storage,
    on_damage: OnDamage,
    /// The files that there were when they were first asked for.
    names: OnceCell<Names>,
}

impl Opening<'_> {
    fn io(&self, operation: &'static str, name: &str, error: &io::Error) -> Error {
        Error::io(operation, self.storage.path().join(name), error)
    }

    fn look(&self) -> Result<Names> {
        Names::look(self.storage).map_err(|error| self.io("list", "", &error))
    }

    fn names(&self) -> Result<&Names> {
        match self.names.get() {
            Some(names) => Ok(names),
            None => self.look().map(|names| self.names.get_or_init(|| names)),
        }
    }

    /// The files that there are, where others than unfinished ones were made or removed meanwhile.
    fn into_names(mut self, changed: bool) -> Result<Names> {
        match self.names.take() {
            Some(names) if !changed => Ok(names),
            _ => self.look(),
        }
    }

    fn manifest_corruption(&self, reason: &str) -> Corruption {
        Corruption {
            path: self.storage.path().join(MANIFEST),
            segment: 0,
            offset: 0,
            last_good_position: Position::START,
            next_good_position: None,
            reason: reason.to_owned(),
            remedy: match self.names() {
                Ok(names) if names.segments().is_empty() => Remedy::Backup,
                _ => Remedy::RebuildManifest,
            },
        }
    }

    fn remove_unfinished_files(&self) -> Result<()> {
        for name in &self.names()?.unfinished {
            match self.storage.remove(name) {
                // What was to be settled may have finished it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.io("remove", name, &error)),
                _ => {}
            }
        }
        for name in self.storage.list(runs::FOLDER).map_err(|error| self.io("list", runs::FOLDER, &error))? {
            if runs::is_unfinished_run(&name) {
                let name = format!("{}/{name}", runs::FOLDER);
                self.storage.remove(&name).map_err(|error| self.io("remove", &name, &error))?;
            }
        }
        Ok(())
    }

    fn unattachable(&self, name: &str, sequence: u64, last_good: u64, problem: AttachProblem) -> Error {
        match problem {
            AttachProblem::Error(error) => error,
            AttachProblem::Missing => {
                self.segment_corruption(name, sequence, last_good, "the manifest names this segment, but there is no such file").into()
            }
            AttachProblem::Damaged(reason) => self.segment_corruption(name, sequence, last_good, reason).into(),
        }
    }

    fn segment_corruption(&self, name: &str, sequence: u64, last_good: u64, reason: &str) -> Corruption {
        Corruption {
            path: self.storage.path().join(name),
            segment: sequence,
            offset: 0,
            last_good_position: Position(last_good),
            next_good_position: None,
            reason: reason.to_owned(),
            // With a manifest, what is lost in front of all events can only be given up.
            remedy: if last_good == 0 { Remedy::AcceptLoss } else { Remedy::ReadOrAcceptLoss },
        }
    }

    /// Reads all segments in order and judges where the log ends.
    fn read(&self, manifest: Manifest, visit: &mut Visit<'_>) -> Result<Found> {
        let mark = Watermark::read(self.storage, manifest.store_id).map_err(|error| self.io("read", WATERMARK, &error))?;
        let start =
            manifest.segments.first().map_or(Chain { lsn: 0, position: 1, checksum: 0, epoch: 0, commit_time: i64::MIN, durable_upto: 0 }, |first| {
                Chain { lsn: first.base_lsn, position: first.base_position, checksum: 0, epoch: 0, commit_time: i64::MIN, durable_upto: 0 }
            });
        let (unnamed, all_there) = self.names()?.unnamed(&manifest.segments);
        let mut unnamed: BTreeSet<(u64, u32)> = unnamed.into_iter().collect();
        let mut found = Found {
            passed_over: Vec::new(),
            segments: Vec::new(),
            chain: start,
            mark,
            rest: Rest::default(),
            verdict: Verdict::Clean,
            damage: None,
            lost: Vec::new(),
            last_is_sealed: false,
            adopted: false,
            manifest,
        };
        let mut anchor = 0;
        let mut index = 0;
        // Damage of sealed segments is found when they are read, or by going through all of them.
        if all_there && self.on_damage == OnDamage::Refuse {
            index = self.pass_over_sealed(&mut found, &mut anchor)?;
        }
        loop {
            let Some(entry) = found.manifest.segments.get(index).copied() else {
                // Everything named has been read. What a crash left between the rename and the manifest goes on from the seal.
                let next = found.segments.last().map_or(1, |last: &Arc<Segment>| last.header.sequence + 1);
                let candidate = unnamed.iter().copied().find(|(sequence, _)| *sequence >= next);
                match candidate {
                    Some((sequence, generation))
                        if found.last_is_sealed && sequence == next && self.continues(sequence, generation, &found, anchor)? =>
                    {
                        unnamed.remove(&(sequence, generation));
                        let name = file_name(sequence, generation);
                        let segment =
                            Segment::attach(self.storage, &name, Access::Read).map_err(|problem| self.unattachable(&name, sequence, 0, problem))?;
                        found.manifest.segments.push(named(&segment.header, None));
                        found.adopted = true;
                        continue;
                    }
                    Some((sequence, generation)) => {
                        let name = file_name(sequence, generation);
                        return Err(Error::configuration(format!(
                            "{:?} is not a part of this store: it does not continue the last segment, and its name is one that the store would use; move it out of the directory",
                            self.storage.path().join(name)
                        )));
                    }
                    None => {
                        Self::check_end(&mut found);
                        return Ok(found);
                    }
                }
            };
            let last = index + 1 == found.manifest.segments.len();
            if !self.read_segment(entry, last, &mut anchor, &mut found, visit)? {
                found.lost = found.manifest.segments[index..].iter().map(|segment| (segment.sequence, segment.generation)).collect();
                if found.segments.last().is_some_and(|segment| segment.header.sequence == entry.sequence) {
                    found.lost.remove(0);
                }
                // What a crash left unnamed lies behind the damage as well, and another generation of what is damaged may be whole.
                found.lost.extend(unnamed.iter().filter(|(sequence, _)| *sequence >= entry.sequence));
                if let Some(damage) = &mut found.damage
                    && damage.next_good_position.is_none()
                {
                    damage.next_good_position = found.manifest.segments.get(index + 1).map(|segment| Position(segment.base_position));
                }
                return Ok(found);
            }
            index += 1;
        }
    }

    /// Goes to the end of the log without reading sealed segments, as far as the last one's seal is as it should be; how many are passed
    /// over.
    fn pass_over_sealed(&self, found: &mut Found, anchor: &mut u32) -> Result<usize> {
        let named = &found.manifest.segments;
        let sealed = named.iter().take_while(|segment| segment.end_lsn.is_some()).count();
        if sealed == 0 || sealed + 1 < named.len() {
            return Ok(0);
        }
        let last = named[sealed - 1];
        // What is sealed may be shared with forks: it is never written to again.
        let name = file_name(last.sequence, last.generation);
        let Ok(segment) = Segment::attach(self.storage, &name, Access::Read) else { return Ok(0) };
        let header = &segment.header;
        let told = (header.store_id, header.sequence, header.generation, header.base_lsn, header.base_position);
        if told != (found.manifest.maker_of(last.base_lsn), last.sequence, last.generation, last.base_lsn, last.base_position) {
            return Ok(0);
        }
        let Some((chain, seal)) = segment.seal(last.end_lsn.unwrap_or(0)).map_err(|error| segment.io("read", &error))? else { return Ok(0) };
        found.chain = chain;
        *anchor = seal.anchor;
        found.passed_over = named[..sealed].to_vec();
        if sealed == named.len() {
            found.passed_over.pop();
            found.last_is_sealed = true;
            found.segments.push(Arc::new(segment));
        }
        Ok(sealed)
    }

    /// The end of all segments, which a seal alone does not prove.
    fn check_end(found: &mut Found) {
        let evidence = Evidence { end: found.chain.lsn, watermark: found.mark.durable_lsn, ..Evidence::default() };
        let verdict = judge(&evidence);
        if let (Verdict::Corrupt(reason), Some(last)) = (&verdict, found.segments.last()) {
            found.damage = Some(last.corruption(last.offset(found.chain.lsn), found.chain.position - 1, reason.clone()));
            found.verdict = verdict;
        }
    }

    fn continues(&self, sequence: u64, generation: u32, found: &Found, anchor: u32) -> Result<bool> {
        match Segment::attach(self.storage, &file_name(sequence, generation), Access::Read) {
            Ok(segment) => {
                let header = segment.header;
                Ok((header.store_id, header.base_lsn, header.base_position, header.anchor)
                    == (found.manifest.store_id, found.chain.lsn, found.chain.position, anchor))
            }
            Err(AttachProblem::Error(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Reads one segment; whether the log goes on behind it.
    fn read_segment(&self, named: ManifestSegment, last: bool, anchor: &mut u32, found: &mut Found, visit: &mut Visit<'_>) -> Result<bool> {
        let name = file_name(named.sequence, named.generation);
        let last_good = found.chain.position - 1;
        let access = if last && named.end_lsn.is_none() { Access::Write } else { Access::Read };
        let attached = Segment::attach(self.storage, &name, access);
        let problem = match &attached {
            Err(AttachProblem::Missing) => Some("the manifest names this segment, but there is no such file"),
            Err(AttachProblem::Damaged(reason)) => Some(*reason),
            Err(AttachProblem::Error(_)) => None,
            Ok(segment) if segment.header.store_id != found.manifest.maker_of(segment.header.base_lsn) => {
                Some("the segment belongs to another store")
            }
            // It may be shared, so nothing may be appended to it.
            Ok(segment) if named.end_lsn.is_none() && segment.header.store_id != found.manifest.store_id => {
                Some("the segment is one of an ancestor's, yet the manifest does not say that it is sealed")
            }
            Ok(segment) => {
                let header = &segment.header;
                let told = (header.sequence, header.generation, header.base_lsn, header.base_position, header.anchor);
                (told != (named.sequence, named.generation, found.chain.lsn, found.chain.position, *anchor))
                    .then_some("the segment does not continue the one before it")
            }
        };
        if let Some(problem) = problem {
            found.damage = Some(self.segment_corruption(&name, named.sequence, last_good, problem));
            found.verdict = Verdict::Corrupt(problem.to_owned());
            return Ok(false);
        }
        let segment = Arc::new(attached.map_err(|problem| self.unattachable(&name, named.sequence, last_good, problem))?);
        if found.segments.is_empty() && found.passed_over.is_empty() {
            found.chain.epoch = segment.header.epoch;
        }
        let Scan { chain, seal, stopped, newer } = segment.scan(&found.chain, visit)?;
        found.chain = chain;
        found.last_is_sealed = seal.is_some();
        found.segments.push(Arc::clone(&segment));
        if let Some(seal) = seal {
            *anchor = seal.anchor;
        }
        found.rest = segment.rest(chain.lsn)?;
        let evidence = Evidence {
            end: chain.lsn,
            watermark: if seal.is_none() { found.mark.durable_lsn } else { 0 },
            manifest_end: named.end_lsn.unwrap_or(0),
            seal_missing: !last && seal.is_none(),
            newer,
            later_durable_upto: found.rest.durable_upto,
            rest_bytes: found.rest.bytes,
        };
        found.verdict = judge(&evidence);
        if let (Verdict::Torn, true) = (&found.verdict, !last || seal.is_some()) {
            // Nothing is ever written behind a seal.
            found.verdict = Verdict::Corrupt("there are bytes behind the segment's seal".to_owned());
        }
        if let Verdict::Corrupt(reason) = &found.verdict {
            let reason = stopped.map_or_else(|| reason.clone(), |stopped| format!("{stopped}; {reason}"));
            let mut damage = segment.corruption(segment.offset(chain.lsn), chain.position - 1, reason);
            damage.next_good_position = found.rest.next_good_position.map(Position);
            found.damage = Some(damage);
            return Ok(false);
        }
        Ok(true)
    }
}

/// How the manifest names a segment.
pub(crate) fn named(header: &SegmentHeader, end_lsn: Option<u64>) -> ManifestSegment {
    ManifestSegment {
        sequence: header.sequence,
        generation: header.generation,
        base_lsn: header.base_lsn,
        base_position: header.base_position,
        end_lsn,
        digest: None,
        is_packed: false,
    }
}
