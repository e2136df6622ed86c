//! Carrying out the verdict: quarantine, cut, write again, forget.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Found, OnDamage, Opening, Outcome, Settled, named};
use crate::error::{Error, Result};
use crate::log::compressed::unpack;
use crate::log::format::encoding;
use crate::log::manifest::{MANIFEST, Manifest, ManifestSegment};
use crate::log::recovery::Verdict;
use crate::log::runs;
use crate::log::segment::{FIRST_FRAME, Segment, file_name, new_segment, parse_index_name};
use crate::log::storage::{Access, Space, StorageFile};
use crate::log::watermark::{Mark, WATERMARK, Watermark};
use crate::version::Position;

/// Where bytes go that are cut off.
const QUARANTINE: &str = "quarantine";
/// How much of a torn tail is kept.
const QUARANTINE_BYTES_MAX: u64 = 16 << 20;
/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

impl Settled {
    /// All of it is on disk and can be read.
    pub(super) fn mark(&self) -> Mark {
        let (lsn, position) = (self.chain.lsn, self.chain.position - 1);
        Mark {
            epoch: self.epoch_floor,
            segment: self.segments.last().map_or(0, |segment| segment.header.sequence),
            durable_lsn: lsn,
            visible_lsn: lsn,
            durable_position: position,
            visible_position: position,
        }
    }
}

impl Opening<'_> {
    /// Carries out the verdict.
    pub(super) fn settle(&self, mut found: Found, created: bool) -> Result<Settled> {
        let epoch_floor = found.chain.epoch.max(found.manifest.epoch).max(found.mark.epoch).max(found.rest.epoch);
        let mut settled = Settled {
            store_id: found.manifest.store_id,
            lineage: found.manifest.lineage.clone(),
            sealed: Vec::new(),
            segments: found.segments.clone(),
            chain: found.chain,
            epoch_floor,
            outcome: if created { Outcome::Created } else { Outcome::Clean },
            rewritten_bytes: 0,
            scavenged: found.manifest.scavenged.min(found.chain.position - 1),
        };
        let last_good = Position(found.chain.position - 1);
        match (found.damage.clone(), self.on_damage) {
            (Some(damage), OnDamage::Refuse) => return Err(damage.into()),
            // Without a segment there is nothing to read.
            (Some(damage), OnDamage::ReadUpTo) if found.segments.is_empty() => return Err(damage.into()),
            (Some(damage), OnDamage::ReadUpTo) => {
                settled.outcome = Outcome::Damaged(damage);
                settled.sealed = sealed_of(&found, epoch_floor);
                return Ok(settled);
            }
            (Some(damage), OnDamage::AcceptLossAfter(position)) if position != last_good => {
                return Err(Error::configuration(format!(
                    "accept_loss_after={position} does not fit: the events up to position {last_good} are intact ({damage})"
                )));
            }
            (None, OnDamage::AcceptLossAfter(_)) => {
                return Err(Error::configuration(format!(
                    "the store {:?} is not damaged (its last event is {last_good}); open it without accept_loss_after",
                    self.storage.path()
                )));
            }
            (Some(_), OnDamage::AcceptLossAfter(_)) => {
                self.accept_loss(&mut found, epoch_floor)?;
                settled.segments.clone_from(&found.segments);
                settled.lineage.clone_from(&found.manifest.lineage);
                settled.outcome = Outcome::LossAccepted;
            }
            (None, OnDamage::Refuse | OnDamage::ReadUpTo) => {
                self.take_back_visible(&found, epoch_floor)?;
                if let (Verdict::Torn, Some(last)) = (&found.verdict, found.segments.last()) {
                    self.quarantine_rest(last, found.chain.lsn, found.rest.bytes.min(QUARANTINE_BYTES_MAX))?;
                    cut(last, found.chain.lsn)?;
                    settled.outcome = Outcome::Recovered { bytes: found.rest.bytes, frames: found.rest.frames };
                }
                if found.adopted || found.manifest.scavenged >= found.chain.position {
                    let manifest = manifest_of(&found, epoch_floor);
                    manifest.replace(self.storage).map_err(|error| self.io("write", MANIFEST, &error))?;
                }
            }
        }
        settled.sealed = sealed_of(&found, epoch_floor);
        settled.rewritten_bytes = rewrite_unproven(&found)?;
        Ok(settled)
    }

    /// Readers in other processes may have seen events that a power failure took. The watermark says so before their bytes are given to
    /// others: whoever has read any of them finds that before or right after it reads those.
    fn take_back_visible(&self, found: &Found, epoch: u32) -> Result<()> {
        if found.mark.visible_lsn <= found.chain.lsn {
            return Ok(());
        }
        let segment = found.segments.last().map_or(0, |segment| segment.header.sequence);
        let (visible_lsn, visible_position) = (found.chain.lsn, found.chain.position - 1);
        let mark = Mark { epoch, segment, visible_lsn, visible_position, ..found.mark };
        let mut watermark = Watermark::open(self.storage, found.manifest.store_id).map_err(|error| self.io("open", WATERMARK, &error))?;
        watermark.write_durably(&mark).map_err(|error| self.io("write", WATERMARK, &error))
    }

    /// Moves everything behind the last good frame to quarantine, and forgets it in an order that can be repeated after a crash at any point.
    fn accept_loss(&self, found: &mut Found, epoch_floor: u32) -> Result<()> {
        self.remove_indexes(found.segments.last().map_or(0, |last| last.header.sequence))?;
        let replaced = replaced(found).map(|last| last.name.clone());
        match found.segments.last() {
            // Its rest cannot be told from what is good of it.
            Some(last) if replaced.is_some() && last.header.encoding != encoding::PLAIN => self.quarantine_copy(&last.name)?,
            Some(last) => self.quarantine_rest(last, found.chain.lsn, found.rest.bytes)?,
            None => {}
        }
        for (sequence, generation) in &found.lost {
            self.quarantine_file(&file_name(*sequence, *generation))?;
        }
        let mark = Mark {
            epoch: epoch_floor,
            segment: found.segments.last().map_or(0, |segment| segment.header.sequence),
            durable_lsn: found.mark.durable_lsn.min(found.chain.lsn),
            visible_lsn: found.chain.lsn,
            durable_position: found.mark.durable_position.min(found.chain.position - 1),
            visible_position: found.chain.position - 1,
        };
        let mut watermark = Watermark::open(self.storage, found.manifest.store_id).map_err(|error| self.io("open", WATERMARK, &error))?;
        watermark.write_durably(&mark).map_err(|error| self.io("write", WATERMARK, &error))?;
        // From here on everything is the store's own, whoever has made it.
        let own_lsn = self.cut_last(found, replaced.is_some(), epoch_floor)?;
        found.manifest.lineage = found.manifest.lineage.up_to(own_lsn, found.chain.position - 1);
        manifest_of(found, epoch_floor).replace(self.storage).map_err(|error| self.io("write", MANIFEST, &error))?;
        match replaced {
            Some(name) => self.storage.remove(&name).map_err(|error| self.io("remove", &name, &error)),
            None => Ok(()),
        }
    }

    /// Removes the indexes of a segment and of all behind it. What is appended now may end where they did, and they would be taken for its own.
    fn remove_indexes(&self, first: u64) -> Result<()> {
        let remove = |name: String| match self.storage.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io("remove", &name, &error)),
            _ => Ok(()),
        };
        let in_folder = |folder: &str, name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        for folder in ["", runs::FOLDER] {
            let names = self.storage.list(folder).map_err(|error| self.io("list", folder, &error))?;
            let is_of_lost = |name: &&String| {
                let last = if folder.is_empty() { parse_index_name(name) } else { runs::parse_run_name(name).map(|(_, last)| last) };
                last.is_some_and(|last| last >= first)
            };
            let lost: Vec<_> = names.iter().filter(is_of_lost).collect();
            lost.iter().try_for_each(|name| remove(in_folder(folder, name)))?;
            if !lost.is_empty() {
                // They must not come back when the power fails after the log was cut.
                self.storage.sync_directory(folder).map_err(|error| self.io("sync", folder, &error))?;
            }
        }
        Ok(())
    }

    /// Has the last segment end where the chain does, or makes one where none is left; the LSN from which on it is the store's own.
    fn cut_last(&self, found: &mut Found, is_replaced: bool, epoch: u32) -> Result<u64> {
        let is_whole = is_whole(found);
        let Some(last) = found.segments.last_mut() else {
            let first = self.first_segment(found, epoch).map_err(|error| self.io("create a segment in", "", &error))?;
            found.segments.push(Arc::new(first));
            return Ok(found.chain.lsn);
        };
        if is_whole {
            return Ok(found.chain.lsn);
        }
        let mut name = last.name.clone();
        if is_replaced {
            // What is good of it goes on as a plain generation, once the manifest names that.
            let plain = unpack(self.storage, last, last.offset(found.chain.lsn), found.manifest.store_id)?;
            plain.publish(self.storage).map_err(|error| self.io("name", &plain.name, &error))?;
            name.clone_from(&plain.name);
        }
        let writable =
            Segment::attach(self.storage, &name, Access::Write).map_err(|problem| self.unattachable(&name, last.header.sequence, 0, problem))?;
        cut(&writable, found.chain.lsn)?;
        *last = Arc::new(writable);
        Ok(if is_replaced { last.header.base_lsn } else { found.chain.lsn })
    }

    /// A segment to go on with where none is left. No file has its name.
    fn first_segment(&self, found: &Found, epoch: u32) -> io::Result<Segment> {
        let sequence = found.manifest.segments.last().map_or(1, |last| last.sequence + 1);
        let header = new_segment(found.manifest.store_id, sequence, epoch, &found.chain, 0);
        let segment = Segment::prepare(self.storage, header, FIRST_FRAME, Space::Written)?;
        segment.publish(self.storage)?;
        Ok(segment)
    }

    fn quarantine_rest(&self, segment: &Segment, end_lsn: u64, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let offset = segment.offset(end_lsn);
        let name = format!("{QUARANTINE}/{}-at-{offset}-{}", segment.name, unix_micros());
        let copy = || {
            self.storage.create_folder(QUARANTINE)?;
            let target = self.storage.create(&name)?;
            copy_range(&*segment.file, offset, bytes, |block, at| target.write_at(block, at - offset))?;
            target.sync()?;
            self.storage.sync_directory(QUARANTINE)
        };
        copy().map_err(|error| self.io("write", &name, &error))
    }

    /// Copies a whole file to quarantine as it is.
    fn quarantine_copy(&self, name: &str) -> Result<()> {
        let target = format!("{QUARANTINE}/{name}-{}", unix_micros());
        let copy = || {
            self.storage.create_folder(QUARANTINE)?;
            let source = self.storage.open(name, Access::Read)?;
            let copied = self.storage.create(&target)?;
            copy_range(&*source, 0, source.length()?, |block, at| copied.write_at(block, at))?;
            copied.sync()?;
            self.storage.sync_directory(QUARANTINE)
        };
        copy().map_err(|error| self.io("write", &target, &error))
    }

    /// Moves a whole file to quarantine, if it is there.
    pub(super) fn quarantine_file(&self, name: &str) -> Result<()> {
        let target = format!("{QUARANTINE}/{name}-{}", unix_micros());
        let moved = || {
            self.storage.create_folder(QUARANTINE)?;
            match self.storage.rename(name, &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => {
                    self.storage.sync_directory(QUARANTINE)?;
                    self.storage.sync_directory("")
                }
            }
        };
        moved().map_err(|error| self.io("move to quarantine", name, &error))
    }
}

/// The segments that were found to be sealed.
fn sealed_of(found: &Found, epoch: u32) -> Vec<ManifestSegment> {
    manifest_of(found, epoch).segments.into_iter().filter(|segment| segment.end_lsn.is_some()).collect()
}

/// The manifest of what was found to be whole.
fn manifest_of(found: &Found, epoch: u32) -> Manifest {
    let count = found.segments.len();
    let end = |index: usize| match (index + 1 < count, found.last_is_sealed) {
        (true, _) => found.segments.get(index + 1).map(|next| next.header.base_lsn),
        (false, true) => Some(found.chain.lsn),
        (false, false) => None,
    };
    // What is said of the frames up to a seal holds as long as that is where it was.
    let known = |now: &ManifestSegment| {
        let same = |before: &&ManifestSegment| (before.sequence, before.generation, before.end_lsn) == (now.sequence, now.generation, now.end_lsn);
        found.manifest.segments.iter().find(same).map_or((None, false), |before| (before.digest, before.is_packed))
    };
    let read = found.segments.iter().enumerate().map(|(index, segment)| {
        let now = named(&segment.header, end(index));
        let (digest, is_packed) = known(&now);
        ManifestSegment { digest, is_packed, ..now }
    });
    let segments = found.passed_over.iter().copied().chain(read).collect();
    // What is appended after a loss has positions that were given before.
    let scavenged = found.manifest.scavenged.min(found.chain.position - 1);
    Manifest { store_id: found.manifest.store_id, lineage: found.manifest.lineage.clone(), epoch, segments, scavenged }
}

/// Where the manifest says that the last segment that was read ends, if it was sealed.
fn sealed_end_of_last(found: &Found) -> Option<u64> {
    let last = found.segments.last()?;
    found.manifest.segments.iter().find(|named| named.sequence == last.header.sequence)?.end_lsn
}

/// Whether the last segment is sealed as it should be: what is damaged or missing follows it.
fn is_whole(found: &Found) -> bool {
    found.last_is_sealed && found.rest.bytes == 0 && sealed_end_of_last(found) == Some(found.chain.lsn)
}

/// The last segment, if what is good of it goes on in another file: one that is compressed cannot be cut, and one that was sealed may be
/// shared with forks.
fn replaced(found: &Found) -> Option<&Arc<Segment>> {
    let is_replaced = |last: &Segment| !is_whole(found) && (last.header.encoding != encoding::PLAIN || sealed_end_of_last(found).is_some());
    found.segments.last().filter(|last| is_replaced(last))
}

fn cut(segment: &Segment, end_lsn: u64) -> Result<()> {
    segment.file.set_length(segment.offset(end_lsn)).and_then(|()| segment.file.sync()).map_err(|error| segment.io("cut", &error))
}

/// Writes every frame again that nothing proves to be on disk, and syncs it.
///
/// After a failed sync the kernel may keep pages readable and clean that never reached the disk; a sync alone would say
/// that all is well.
fn rewrite_unproven(found: &Found) -> Result<u64> {
    let Some(last) = found.segments.last() else { return Ok(0) };
    // The manifest tells of a seal when that is on disk.
    let sealed = sealed_end_of_last(found).unwrap_or(0);
    let proven = found.mark.durable_lsn.max(found.chain.durable_upto).max(last.header.base_lsn).max(sealed);
    let bytes = found.chain.lsn.saturating_sub(proven);
    if bytes > 0 {
        let rewrite = || {
            copy_range(&*last.file, last.offset(proven), bytes, |block, at| last.file.write_at(block, at))?;
            last.file.sync()
        };
        rewrite().map_err(|error| last.io("write again", &error))?;
    }
    Ok(bytes)
}

fn copy_range(source: &dyn StorageFile, start: u64, bytes: u64, mut write: impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<()> {
    let mut block = vec![0; COPY_BYTES];
    let mut at = start;
    let end = start + bytes;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(block.len());
        let read = source.read_at(&mut block[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write(&block[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

fn unix_micros() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros())
}
