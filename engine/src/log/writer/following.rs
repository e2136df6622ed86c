//! Following the process that writes to the log: what its watermark lets be seen is read, verified and taken in, whenever somebody asks.
//!
//! What was read once must stay as it was. That is checked where it could be otherwise: when the watermark says less than before, and
//! when another writer has begun. Before a writer gives bytes to other events that may have been seen, it lowers the watermark; so whoever
//! looks at the watermark right after reading knows that what was read is still the history that it belongs to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Decider, Point, Writer};
use crate::error::{Corruption, Error, Result};
use crate::log::follow::{Following, Unusable, attach, attach_next, attach_sealed, look, with_manifest};
use crate::log::format::{FrameHeader, frame_header};
use crate::log::manifest::{Manifest, ManifestSegment};
use crate::log::open::named;
use crate::log::recovery::{Chain, Frame};
use crate::log::scan::Seal;
use crate::log::segment::Segment;
use crate::log::segments::Segments;
use crate::log::watermark::Mark;
use crate::version::Position;

/// How often the watermark is read again because the log does not reach as far as it says.
const LOOKS: usize = 16;

/// How far the log could be read.
enum Reach {
    /// As far as the mark says.
    All,
    /// Less far.
    Short(Box<Corruption>),
}

impl<D: Decider> Writer<D> {
    /// Sees what has become visible since, where another process writes to the log. Costs a look at the watermark if nothing has.
    pub(crate) fn refresh(&self) -> Result<()> {
        self.following.as_ref().map_or(Ok(()), |following| self.under(following, Self::follow).map(drop))
    }

    /// Sees everything that the files prove to be durable, beside what the watermark says: a power failure may have taken its last word.
    pub(crate) fn refresh_first(&self) -> Result<()> {
        self.following.as_ref().map_or(Ok(()), |following| {
            self.under(following, |writer, following| writer.follow(following).and_then(|()| writer.see_what_is_proven(following)))
        })
    }

    /// How often it was seen that another process has replaced files.
    pub(crate) fn replaced_files(&self) -> u64 {
        self.replaced.load(Ordering::Acquire)
    }

    /// Whether files were replaced since then: what has failed may succeed now.
    pub(crate) fn have_files_been_replaced(&self, since: u64) -> Result<bool> {
        let Some(following) = &self.following else { return Ok(false) };
        self.under(following, |writer, _| {
            writer.see_generations()?;
            Ok(writer.replaced_files() != since)
        })
    }

    /// Does something while nobody else follows. What ends the following is remembered.
    fn under<T>(&self, following: &Mutex<Following>, work: impl FnOnce(&Self, &mut Following) -> Result<T>) -> Result<T> {
        let mut following = following.lock();
        if let Some(error) = &following.ended {
            return Err(error.clone());
        }
        work(self, &mut following).inspect_err(|error| {
            if matches!(error, Error::HistoryReplaced { .. } | Error::Corruption(_)) {
                following.ended = Some(error.clone());
            }
        })
    }

    fn follow(&self, following: &mut Following) -> Result<()> {
        let mut short_of = None;
        for look in 1..=LOOKS {
            let Some(mark) = self.next_mark(following)? else { return Ok(()) };
            match self.go_on(following, &mark)? {
                Reach::Short(_) if short_of != Some(mark) && look < LOOKS => short_of = Some(mark),
                Reach::Short(damage) if mark.durable_lsn > self.chain().lsn => return Err((*damage).into()),
                // What is missing was visible and not durable: a power failure has taken it.
                Reach::All | Reach::Short(_) => {
                    let shown = following.follow.limit(&mark).min(self.show(&mark));
                    following.shown = following.shown.max(shown);
                    following.last = Some(mark);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What the watermark says, if it is something new.
    fn next_mark(&self, following: &Following) -> Result<Option<Mark>> {
        let Some((mark, is_certain)) = look(&*self.storage, self.store_id)? else { return Ok(None) };
        let says_less = following.follow.limit(&mark) < following.shown;
        Ok((following.last != Some(mark) && (is_certain || !says_less)).then_some(mark))
    }

    /// Reads on up to where a mark says that it may.
    fn go_on(&self, following: &mut Following, mark: &Mark) -> Result<Reach> {
        let limit = following.follow.limit(mark);
        if limit < following.shown {
            return Err(self.replaced("the watermark says less than before"));
        }
        if following.last.is_some_and(|last| last.epoch != mark.epoch) {
            self.check_history(following)?;
        }
        loop {
            let (chain, segment, is_sealed) = self.end();
            if chain.lsn >= limit {
                return Ok(Reach::All);
            }
            let short = |lsn: u64, position: u64, reason: &str| {
                let reason = format!("{reason}; the watermark says that the log can be read up to LSN {limit}, but it ends at {lsn}");
                Reach::Short(Box::new(segment.corruption(segment.offset(lsn), position - 1, reason)))
            };
            if is_sealed {
                if self.begin_next(following)? {
                    continue;
                }
                return Ok(short(chain.lsn, chain.position, "there is no segment behind this one"));
            }
            let scan = segment.scan_up_to(&chain, limit, &mut |segment, frame| self.take_in(following, segment, frame))?;
            match scan.seal {
                Some(seal) => self.end_segment(following, &segment, Chain { checksum: seal.anchor, ..scan.chain }, seal),
                None if scan.newer => {
                    let reason = scan.stopped.unwrap_or_default();
                    return Err(segment.corruption(segment.offset(scan.chain.lsn), scan.chain.position - 1, reason).into());
                }
                None if scan.chain.lsn < limit => {
                    let reason = scan.stopped.unwrap_or("there is nothing where a frame should be");
                    return Ok(short(scan.chain.lsn, scan.chain.position, reason));
                }
                None => {}
            }
        }
    }

    /// Sees up to where frames behind the watermark state that the log is durable.
    fn see_what_is_proven(&self, following: &mut Following) -> Result<()> {
        let (chain, segment, is_sealed) = self.end();
        if is_sealed {
            return Ok(());
        }
        let durable_lsn = segment.scan_up_to(&chain, u64::MAX, &mut |_, _| Ok(()))?.chain.durable_upto;
        if durable_lsn <= chain.lsn {
            return Ok(());
        }
        let last = following.last.unwrap_or_default();
        let mark = Mark { epoch: last.epoch, durable_lsn, visible_lsn: durable_lsn, ..last };
        self.go_on(following, &mark)?;
        self.show(&mark);
        Ok(())
    }

    fn take_in(&self, following: &mut Following, segment: &Segment, frame: &Frame<'_>) -> Result<()> {
        let mut core = self.core.lock();
        core.decider.take_in(segment, frame)?;
        core.chain = core.chain.after(&frame.header);
        following.last_frame = Some(frame.header.lsn);
        Ok(())
    }

    /// The segment that is read ends in a seal.
    fn end_segment(&self, following: &mut Following, segment: &Segment, chain: Chain, seal: Seal) {
        let sealed = named(&segment.header, Some(chain.lsn));
        let mut core = self.core.lock();
        core.chain = chain;
        core.sealed.push(sealed);
        core.decider.rolled(sealed, sealed.sequence + 1, seal.end_position);
        drop(core);
        following.last_frame = None;
        D::after_rolling(self);
    }

    /// Goes on behind a sealed segment; whether the manifest names anything there.
    fn begin_next(&self, following: &mut Following) -> Result<bool> {
        with_manifest(&*self.storage, |manifest| {
            self.check_known(manifest)?;
            let (chain, last, _) = self.end();
            let later = &manifest.segments[manifest.segments.partition_point(|named| named.sequence <= last.header.sequence)..];
            let Some(next) = later.first() else { return Ok(false) };
            let segment = attach_next(&*self.storage, manifest, next, &chain)?;
            // What is sealed is read from here only if nothing was taken out of it, and little follows it.
            let is_read = next.end_lsn.is_none() || (later.len() <= 2 && next.generation == 0);
            if is_read {
                self.enter(segment);
            } else {
                self.pass_over(manifest)?;
            }
            following.last_frame = None;
            Ok(true)
        })
    }

    fn enter(&self, segment: Segment) {
        let segment = Arc::new(segment);
        let mut core = self.core.lock();
        let core = &mut *core;
        if let Some(last) = core.sealed.last().copied() {
            let segments = self.segments.read().and(Arc::clone(&segment), last);
            *self.segments.write() = Arc::new(segments);
            if segment.header.sequence != last.sequence + 1 {
                core.decider.passed_over(&core.sealed, segment.header.sequence, core.chain.position);
            }
        }
        core.segment = segment;
    }

    /// Goes to the end of the sealed segments without reading them.
    fn pass_over(&self, manifest: &Manifest) -> Result<(), Unusable> {
        let sealed: Vec<ManifestSegment> = manifest.segments.iter().copied().filter(|named| named.end_lsn.is_some()).collect();
        let Some(last) = sealed.last() else { return Ok(()) };
        let (segment, chain) = attach_sealed(&*self.storage, manifest, last)?;
        let segment = Arc::new(segment);
        let segments = Segments::new(Arc::clone(&self.storage), (self.store_id, &self.lineage), &sealed, Arc::clone(&segment));
        let mut core = self.core.lock();
        let end = Point { lsn: chain.lsn, position: chain.position - 1 };
        core.decider.passed_over(&sealed, last.sequence + 1, chain.position);
        core.sealed = sealed;
        core.chain = chain;
        core.segment = segment;
        core.durable = end;
        *self.segments.write() = Arc::new(segments);
        // The manifest may name other generations than before: what has failed because a file is gone may succeed now.
        self.replaced.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Lets readers see what was taken in; where that ends.
    fn show(&self, mark: &Mark) -> u64 {
        let mut core = self.core.lock();
        let end = Point { lsn: core.chain.lsn, position: core.chain.position - 1 };
        let durable =
            if mark.durable_lsn >= end.lsn { end } else { Point { lsn: mark.durable_lsn, position: mark.durable_position.min(end.position) } };
        if durable.lsn > core.durable.lsn {
            core.durable = durable;
        }
        core.visible = end;
        self.publish(&mut core);
        end.lsn
    }

    /// Whether what was read is still what the log holds: another writer has begun, which may have found less than was read here.
    fn check_history(&self, following: &Following) -> Result<()> {
        let (chain, segment, is_sealed) = self.end();
        if let Some(lsn) = following.last_frame {
            let mut bytes = [0; frame_header::BYTES];
            let read = segment.read_at(&mut bytes, segment.offset(lsn))?.read;
            let header = FrameHeader::decode(&bytes[..read], segment.seed);
            if header.is_none_or(|header| (header.lsn, header.checksum) != (lsn, chain.checksum)) {
                return Err(self.replaced("the last of them is not there any more"));
            }
        }
        with_manifest(&*self.storage, |manifest| {
            self.check_known(manifest)?;
            let sequence = segment.header.sequence;
            let named = manifest.segments.iter().find(|named| named.sequence == sequence);
            let Some(named) = named else {
                return if is_sealed { Ok(()) } else { Err(self.replaced("the manifest does not name their segment any more").into()) };
            };
            let now = attach(&*self.storage, manifest, named)?;
            if now.header.salt == segment.header.salt { Ok(()) } else { Err(self.replaced("their segment is another one now").into()) }
        })
    }

    /// Whether the manifest names the sealed segments that are known here.
    fn check_known(&self, manifest: &Manifest) -> Result<()> {
        if manifest.store_id != self.store_id {
            return Err(self.replaced("the directory holds another store now"));
        }
        let core = self.core.lock();
        let place = |named: &ManifestSegment| (named.sequence, named.base_lsn, named.base_position);
        let is_same = |(number, known): (usize, &ManifestSegment)| {
            manifest
                .segments
                .get(number)
                .is_some_and(|named| place(named) == place(known) && named.end_lsn.is_none_or(|end| known.end_lsn == Some(end)))
        };
        let all = core.sealed.iter().enumerate().all(is_same);
        drop(core);
        if all { Ok(()) } else { Err(self.replaced("the manifest names other segments now")) }
    }

    /// Uses the generations of sealed segments that the manifest names now.
    fn see_generations(&self) -> Result<()> {
        with_manifest(&*self.storage, |manifest| {
            self.check_known(manifest)?;
            let mut core = self.core.lock();
            let segments = self.segments();
            for (known, now) in core.sealed.iter_mut().zip(&manifest.segments) {
                if known.generation != now.generation {
                    known.generation = now.generation;
                    segments.replace(known);
                    self.replaced.fetch_add(1, Ordering::AcqRel);
                }
            }
            Ok(())
        })
    }

    /// Where reading goes on, in which segment, and whether that has ended.
    fn end(&self) -> (Chain, Arc<Segment>, bool) {
        let core = self.core.lock();
        let is_sealed = core.sealed.last().is_some_and(|last| last.sequence == core.segment.header.sequence);
        (core.chain, Arc::clone(&core.segment), is_sealed)
    }

    fn chain(&self) -> Chain {
        self.core.lock().chain
    }

    fn replaced(&self, reason: &'static str) -> Error {
        Error::HistoryReplaced { path: self.storage.path(), position: Position(self.visible()), reason }
    }
}
