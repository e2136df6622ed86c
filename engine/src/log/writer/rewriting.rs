//! Other generations of sealed segments: made while the log is open, named in the manifest, and the files removed that they replace.
//!
//! All of this goes on beside the leader: groups are written meanwhile. Only whoever else writes a manifest waits, for as long as
//! that takes.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Decider, State, Writer};
use crate::error::{Error, Result};
use crate::log::manifest::{MANIFEST, Manifest, ManifestSegment, swap};
use crate::log::open::named;
use crate::log::segment::{Segment, file_name, parse_name, temporary_name};

/// What is known of the manifest on disk. Held by whoever writes one, so that each is made from what the one before says.
pub(super) struct Named {
    /// Whether it is certain, also after a power failure, that it says what the writer believes.
    pub(super) is_certain: bool,
    /// Up to which position deletions were carried out.
    pub(super) scavenged: u64,
}

/// Files that stay where they are, whatever replaces them, until this is dropped.
pub(crate) struct KeptFiles<D: Decider>(Arc<Writer<D>>);

impl<D: Decider> Drop for KeptFiles<D> {
    fn drop(&mut self) {
        if self.0.is_of_parent() {
            return;
        }
        *self.0.kept.lock() -= 1;
        D::files_released(&self.0);
    }
}

impl<D: Decider> Writer<D> {
    /// Has every file stay that the manifest names from now on, until the guard is dropped: to be taken before the manifest is read.
    pub(crate) fn keep_files(self: &Arc<Self>) -> KeptFiles<D> {
        *self.kept.lock() += 1;
        KeptFiles(Arc::clone(self))
    }

    /// The sealed segments that can have another generation, in their order: all but the one that was written to last.
    pub(crate) fn rewritable(&self) -> Vec<ManifestSegment> {
        let core = self.core.lock();
        if !matches!(core.state, State::Open) {
            return Vec::new();
        }
        let last = core.segment.header.sequence;
        core.sealed.iter().filter(|named| named.sequence != last).copied().collect()
    }

    /// Has another generation of a sealed segment take its place, or something else said of the one that counts; one at a time.
    ///
    /// `make` gets the segment and what the manifest says of it, and gives what the manifest is to say. A new generation is then there
    /// under its temporary name, synced; it may take its time to make, and should end soon when the store is closed. Its frames have the
    /// LSNs that they had. The generation before it is removed by [`remove_superseded`](Self::remove_superseded).
    ///
    /// # Errors
    /// Those of `make`; what keeps the writer from writing; [`Io`](Error::Io). Then the generation before counts, in this process and,
    /// unless renaming the manifest failed, on disk; the writer goes on in any case.
    pub(crate) fn rewrite(&self, sequence: u64, make: impl FnOnce(&ManifestSegment, &Segment) -> Result<ManifestSegment>) -> Result<()> {
        if self.is_of_parent() {
            return Err(Error::ForkedProcess);
        }
        let _alone = self.rewriting.lock();
        let before = self.rewritable_numbered(sequence)?;
        self.is_at_home()?;
        let segment = self.segments().numbered(sequence)?;
        let after = make(&before, &segment)?;
        let same = |named: &ManifestSegment| (named.sequence, named.base_lsn, named.base_position, named.end_lsn);
        if same(&after) != same(&before) || after.generation < before.generation {
            return Err(Error::configuration(format!("another generation of segment {sequence} must have the same place in the log")));
        }
        if after.generation == before.generation {
            return if after == before { Ok(()) } else { self.name(&after) };
        }
        let published = self.publish_generation(&after).and_then(|()| self.name(&after));
        if published.is_err() && self.manifest.lock().is_certain && self.is_at_home().is_ok() {
            // Nothing names it. Should removing it fail too, the next open or the next look for superseded files does it.
            let name = file_name(after.sequence, after.generation);
            let _ = self.storage.remove(&temporary_name(&name));
            let _ = self.storage.remove(&name);
        }
        published
    }

    /// Fails if names may lead to another store, or another writer may be at work.
    fn is_at_home(&self) -> Result<()> {
        self.check_lock().and_then(|()| self.check_place()).map_err(|error| Error::io("rewrite a segment in", self.storage.path(), &error))
    }

    fn rewritable_numbered(&self, sequence: u64) -> Result<ManifestSegment> {
        let core = self.core.lock();
        if let Some(error) = core.refusal() {
            return Err(error);
        }
        let found = core.sealed.iter().find(|named| named.sequence == sequence && sequence != core.segment.header.sequence);
        found.copied().ok_or_else(|| Error::configuration(format!("segment {sequence} is not one that can be rewritten")))
    }

    /// Gives a new generation its name, durably: the manifest may name only what is there.
    fn publish_generation(&self, named: &ManifestSegment) -> Result<()> {
        let name = file_name(named.sequence, named.generation);
        self.is_at_home()?;
        let published = self.storage.rename(&temporary_name(&name), &name).and_then(|()| self.storage.sync_directory(""));
        published.map_err(|error| Error::io("name", self.storage.path().join(&name), &error))
    }

    /// Makes a manifest count that says this of a segment.
    fn name(&self, after: &ManifestSegment) -> Result<()> {
        let mut named = self.manifest.lock();
        let manifest = self.manifest_with(Some(after), named.scavenged)?;
        self.replace_manifest(&manifest, &mut named)?;
        let entry = |entry: &&mut ManifestSegment| entry.sequence == after.sequence;
        let before = self.core.lock().sealed.iter_mut().find(entry).map(|entry| std::mem::replace(entry, *after));
        if before.is_some_and(|before| before.generation != after.generation) {
            self.segments().replace(after);
        }
        Ok(())
    }

    /// Up to which position deletions were carried out, as far as that was noted.
    pub(crate) fn scavenged(&self) -> u64 {
        self.manifest.lock().scavenged
    }

    /// Notes that the deletions up to a position, which are on disk, were carried out in all segments.
    ///
    /// # Errors
    /// What keeps the writer from writing; [`Io`](Error::Io). Then they are looked at again.
    pub(crate) fn note_scavenged(&self, position: u64) -> Result<()> {
        let mut named = self.manifest.lock();
        if position <= named.scavenged {
            return Ok(());
        }
        let manifest = self.manifest_with(None, position)?;
        self.replace_manifest(&manifest, &mut named)?;
        named.scavenged = position;
        Ok(())
    }

    /// Makes a manifest the one that counts.
    fn replace_manifest(&self, manifest: &Manifest, named: &mut Named) -> Result<()> {
        let fail = |operation, error: &std::io::Error| Error::io(operation, self.storage.path().join(MANIFEST), error);
        self.is_at_home()?;
        manifest.prepare(&*self.storage).map_err(|error| fail("prepare", &error))?;
        if let Err(error) = swap(&*self.storage) {
            // Which of the two counts after a power failure is unknown, and makes no difference: the files of both generations are
            // there, and read the same. So nobody is to be told that the outcome of an append is unknown, and the writer goes on, with
            // the generation before. It removes no file until a manifest is known to be on disk that does not name it.
            named.is_certain = false;
            return Err(fail("replace", &error));
        }
        named.is_certain = true;
        Ok(())
    }

    /// The manifest that counts, but for what it says of one segment, and of deletions.
    fn manifest_with(&self, after: Option<&ManifestSegment>, scavenged: u64) -> Result<Manifest> {
        let core = self.core.lock();
        if let Some(error) = core.refusal() {
            return Err(error);
        }
        let said = |entry: &ManifestSegment| after.filter(|after| after.sequence == entry.sequence).copied().unwrap_or(*entry);
        let mut segments: Vec<ManifestSegment> = core.sealed.iter().map(said).collect();
        let last = &core.segment.header;
        if segments.last().is_none_or(|sealed| sealed.sequence != last.sequence) {
            segments.push(named(last, None));
        }
        // Before the first append no frame has an epoch as high as the manifest may have said.
        let epoch = core.new_epoch.map_or(core.chain.epoch, |next| next - 1);
        Ok(Manifest { store_id: self.store_id, lineage: self.lineage.clone(), epoch, segments, scavenged })
    }

    /// Removes the files of segments' generations that the manifest does not name: superseded ones, and those that an end of the process
    /// left before they were named. Nothing is removed while [files are kept](Self::keep_files); whether that was done.
    ///
    /// # Errors
    /// [`Io`](Error::Io) of the first that cannot be removed.
    pub(crate) fn remove_superseded(&self) -> Result<bool> {
        let _alone = self.rewriting.lock();
        let kept = self.kept.lock();
        if *kept > 0 || !self.manifest.lock().is_certain {
            return Ok(false);
        }
        let counting: HashMap<u64, u32> = {
            let core = self.core.lock();
            if !matches!(core.state, State::Open) {
                return Ok(false);
            }
            let last = &core.segment.header;
            core.sealed.iter().map(|named| (named.sequence, named.generation)).chain([(last.sequence, last.generation)]).collect()
        };
        let fail = |operation, name: &str, error: &std::io::Error| Error::io(operation, self.storage.path().join(name), error);
        self.is_at_home()?;
        for name in self.storage.list("").map_err(|error| fail("list", "", &error))? {
            let is_superseded = |(sequence, generation)| counting.get(&sequence).is_some_and(|counting| *counting != generation);
            if parse_name(&name).is_some_and(is_superseded) {
                self.storage.remove(&name).map_err(|error| fail("remove", &name, &error))?;
            }
        }
        Ok(true)
    }
}
