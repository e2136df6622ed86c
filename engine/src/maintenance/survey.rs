//! All segments in the order of the log: what continues what, and what is missing in between.

use std::sync::Arc;

use uuid::Uuid;

use super::Damage;
use super::files::{Files, Held, Place, WITHOUT_WATERMARK};
use super::rescue::Rescued;
use super::seed::{find_seed, salt_in};
use super::source::{Source, Unreadable, damage, is_error_of_the_system, is_of_the_system};
use crate::error::{Error, Result};
use crate::index::sealed::Identity;
use crate::log::format::{FrameHeader, SegmentHeader, segment_seed};
use crate::log::manifest::{Manifest, ManifestProblem, ManifestSegment};
use crate::log::recovery::Chain;
use crate::log::segment::{AttachProblem, Segment, file_name};
use crate::log::storage::{Access, Storage};
use crate::log::watermark::{Mark, WATERMARK};

/// Further than any log reaches.
const FURTHEST: u64 = 1 << 62;
/// A block with more than this is not kept beside others.
pub(super) const LARGE_BYTES: usize = 4 << 20;

/// A block of a segment's bytes, and what was found in it and behind the block before.
#[derive(Default)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// Where in the file the bytes begin.
    pub(super) base: u64,
    pub(super) source: Option<Arc<Source>>,
    pub(super) items: Vec<Item>,
}

impl Block {
    /// How much memory it takes, about.
    pub(super) fn weight(&self) -> usize {
        let rescued = |item: &Item| if let Item::Records(rescued) = item { rescued.bytes.len() } else { 0 };
        self.bytes.len() + self.items.iter().map(rescued).sum::<usize>()
    }
}

/// What was found, in the order of the log.
pub(super) enum Item {
    /// A whole, verified frame, which begins here in the block's bytes.
    Frame { start: usize, header: FrameHeader },
    /// What is left of a damaged frame.
    Records(Rescued),
    /// A damaged place.
    Damage(Damage),
}

/// Gives a block away for another that may be overwritten.
pub(super) type Deliver<'a> = dyn FnMut(Block) -> Result<Block> + 'a;

/// How far a log was read: what its next segment must continue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// How many places lie before it.
    pub(super) places: usize,
    pub(super) chain: Chain,
    /// The anchor that the next segment must have, where the one before has a sound seal.
    pub(super) anchor: Option<u32>,
    pub(super) surveyed: Surveyed,
}

impl Reached {
    /// Nothing was read yet.
    pub(super) fn nothing(files: &Files) -> Self {
        let first = files.places.first().and_then(|place| place.named).filter(|_| files.has_manifest);
        let (lsn, position) = first.map_or((0, 1), |first| (first.base_lsn, first.base_position));
        let chain = Chain { lsn, position, checksum: 0, epoch: 0, commit_time: i64::MIN, durable_upto: 0 };
        Self { places: 0, chain, anchor: Some(0), surveyed: Surveyed::default() }
    }
}

/// What was read in all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Surveyed {
    pub(super) segments: u64,
    pub(super) bytes: u64,
    /// Bytes at the end that nobody was promised.
    pub(super) unpromised_bytes: u64,
    /// The position behind the last event that was promised, as far as anything tells.
    pub(super) end_position: u64,
    /// Whether the log may have gone on there: its end is damaged, and nothing tells where that was.
    pub(super) is_end_unknown: bool,
}

/// What is known of where a segment ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    pub(super) lsn: Option<u64>,
    pub(super) position: Option<u64>,
    /// Whether no segment follows.
    pub(super) is_last: bool,
    /// The LSN that the manifest says it ends at.
    pub(super) named_end: Option<u64>,
}

/// Reads a log from end to end, and goes on behind damage.
pub(super) struct Surveyor<'a> {
    storage: &'a dyn Storage,
    origin: Uuid,
    pub(super) mark: Mark,
    pub(super) chain: Chain,
    /// The anchor that the next segment must have, where the one before has a sound seal.
    pub(super) anchor: Option<u32>,
    pub(super) block: Block,
    /// How many bytes of the block are the file's, and whether the file ends with them.
    pub(super) filled: usize,
    pub(super) file_ended: bool,
    pub(super) unreadable: Option<Unreadable>,
    /// Whether what the last segment ends with could be read.
    pub(super) is_end_lost: bool,
    pub(super) surveyed: Surveyed,
    pub(super) deliver: &'a mut Deliver<'a>,
}

/// Reads everything that the files hold behind what was reached.
pub(super) fn survey<'a>(storage: &'a dyn Storage, files: &'a Files, reached: &Reached, deliver: &'a mut Deliver<'a>) -> Result<Surveyed> {
    let mut surveyor = Surveyor::new(storage, files, reached, deliver);
    surveyor.block.items = files.damage.iter().cloned().map(Item::Damage).collect();
    for (number, place) in files.places.iter().enumerate().skip(reached.places) {
        surveyor.place(place, files.places.get(number + 1))?;
    }
    surveyor.check_end(files.has_watermark, files.places.last());
    surveyor.flush()?;
    let end_position = surveyor.chain.position;
    let is_told = files.has_watermark && surveyor.mark.visible_position < end_position;
    Ok(Surveyed { end_position, is_end_unknown: surveyor.is_end_lost && !is_told, ..surveyor.surveyed })
}

/// Reads the segment at a place with a sound header by itself, as if it continued what is before it; what was reached with it.
pub(super) fn survey_one<'a>(
    storage: &'a dyn Storage,
    files: &'a Files,
    number: usize,
    header: &SegmentHeader,
    deliver: &'a mut Deliver<'a>,
) -> Result<Reached> {
    let nothing = Reached::nothing(files);
    let chain = Chain { lsn: header.base_lsn, position: header.base_position, ..nothing.chain };
    let mut surveyor = Surveyor::new(storage, files, &Reached { chain, anchor: Some(header.anchor), ..nothing }, deliver);
    surveyor.place(&files.places[number], files.places.get(number + 1))?;
    surveyor.flush()?;
    Ok(Reached { places: number + 1, chain: surveyor.chain, anchor: surveyor.anchor, surveyed: surveyor.surveyed })
}

impl<'a> Surveyor<'a> {
    fn new(storage: &'a dyn Storage, files: &Files, reached: &Reached, deliver: &'a mut Deliver<'a>) -> Self {
        // What no log reaches is not believed further than it could be counted.
        let mark =
            Mark { durable_lsn: files.mark.durable_lsn.min(FURTHEST), durable_position: files.mark.durable_position.min(FURTHEST), ..files.mark };
        Self {
            storage,
            origin: files.origin,
            mark,
            chain: reached.chain,
            anchor: reached.anchor,
            block: Block::default(),
            filled: 0,
            file_ended: false,
            unreadable: None,
            is_end_lost: false,
            surveyed: reached.surveyed,
            deliver,
        }
    }
}

impl Surveyor<'_> {
    pub(super) fn tell(&mut self, damage: Damage) {
        self.block.items.push(Item::Damage(damage));
    }

    /// Hands over what was found so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        let source = block.source.clone();
        self.block = (self.deliver)(block)?;
        self.block.items.clear();
        self.block.source = source;
        (self.filled, self.file_ended) = (0, false);
        Ok(())
    }

    /// Notes what is left of a frame.
    pub(super) fn save(&mut self, rescued: Rescued) -> Result<()> {
        self.block.items.push(Item::Records(rescued));
        if self.block.weight() > LARGE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Reads one segment.
    fn place(&mut self, place: &Place, next: Option<&Place>) -> Result<()> {
        let named_end = place.named.and_then(|named| named.end_lsn).map(|end| end.min(FURTHEST));
        let ahead = Ahead {
            lsn: named_end.or_else(|| next.and_then(Place::base_lsn)),
            position: next.and_then(Place::base_position),
            is_last: next.is_none(),
            named_end,
        };
        if place.named.is_none() {
            self.note_those_missing_before(place);
        }
        let Some(source) = self.source_of(place, &ahead)? else {
            self.is_end_lost = ahead.is_last;
            self.pass_over(&ahead);
            return Ok(());
        };
        let source = Arc::new(source);
        self.flush()?;
        self.unreadable = None;
        self.block.source = Some(Arc::clone(&source));
        self.surveyed.segments += 1;
        self.surveyed.bytes += source.file.length().map_err(|error| Error::io("look up", source.name.clone(), &error))?;
        self.frames(&source, &ahead)?;
        self.flush()
    }

    /// Without a manifest nobody names the segments that are missing, but their numbers are.
    fn note_those_missing_before(&mut self, place: &Place) {
        let Some(base_position) = place.base_position() else { return };
        if self.anchor.is_some() && Some(self.chain.lsn) == place.base_lsn() || base_position <= self.chain.position {
            return;
        }
        let missing = place.sequence.saturating_sub(1).max(1);
        let positions = (self.chain.position, base_position);
        let reason = "what lies before the next segment is missing";
        self.tell(damage(&file_name(missing, 0), Some(missing), 0, None, positions, reason));
        self.anchor = None;
        self.chain.position = base_position;
    }

    /// Where the frames of a place are read from; nothing if there are none to be read. The chain is then that of its first frame.
    fn source_of(&mut self, place: &Place, ahead: &Ahead) -> Result<Option<Source>> {
        let mut digest = place.named.and_then(|named| named.digest);
        let found = match &place.held {
            Held::Missing | Held::Segment { .. } => {
                let (attached, missing) = match &place.held {
                    Held::Segment { file, .. } => (attached(self.storage, file)?, "the file was removed, or damaged, while it was looked at"),
                    _ => (None, "the manifest names this segment, but there is no such file"),
                };
                let attached = match attached {
                    None => self.replaced(place)?.map(|(named, segment)| {
                        digest = named.digest;
                        segment
                    }),
                    attached => attached,
                };
                if let Some(header) = attached.as_ref().map(|segment| &segment.header).or_else(|| place.header()) {
                    self.check_start(place, header);
                }
                attached.map(|segment| (segment.file, segment.name, segment.seed, segment.header.base_lsn)).ok_or(missing)
            }
            Held::Headless { file, header } => {
                let base_lsn = place.base_lsn().or_else(|| self.anchor.map(|_| self.chain.lsn));
                self.chain.checksum = self.anchor.unwrap_or(0);
                let opened = match self.storage.open(file, Access::Read) {
                    Err(error) if is_of_the_system(error.kind()) => return Err(Error::io("read", self.storage.path().join(file), &error)),
                    opened => opened.ok(),
                };
                let found = base_lsn.zip(opened).and_then(|(base_lsn, opened)| {
                    let seed = find_seed(&*opened, salt_in(header).map(segment_seed), base_lsn)?;
                    Some((opened, file.clone(), seed, base_lsn))
                });
                found.ok_or("without the segment's header its frames cannot be verified")
            }
        };
        match found {
            Ok((file, name, seed, base_lsn)) => {
                let indexed_as = place.header().zip(place.named).and_then(|(header, named)| indexed_as(self.origin, header, &named, ahead));
                self.chain.lsn = base_lsn;
                self.chain.position = self.chain.position.max(place.base_position().unwrap_or(0));
                self.anchor = None;
                Ok(Some(Source { name, sequence: place.sequence, file, seed, base_lsn, digest, indexed_as }))
            }
            Err(reason) => {
                let positions = (self.chain.position, ahead.position.unwrap_or(self.promised_position()));
                self.tell(damage(&place.name, Some(place.sequence), 0, None, positions, reason));
                Ok(None)
            }
        }
    }

    /// The generation that has taken a segment's place since the manifest was read, as one does in a store that is open.
    fn replaced(&self, place: &Place) -> Result<Option<(ManifestSegment, Segment)>> {
        let Some(before) = place.named else { return Ok(None) };
        let segments = match Manifest::read(self.storage) {
            Ok(manifest) => manifest.segments,
            Err(ManifestProblem::Error(error)) if is_error_of_the_system(&error) => return Err(error),
            Err(_) => return Ok(None),
        };
        let Some(named) = segments.into_iter().find(|named| named.sequence == before.sequence && named.generation > before.generation) else {
            return Ok(None);
        };
        let segment = attached(self.storage, &file_name(named.sequence, named.generation))?;
        Ok(segment.map(|segment| (named, segment)))
    }

    /// Compares where a segment begins with where the one before it has ended.
    fn check_start(&mut self, place: &Place, header: &SegmentHeader) {
        let continues = (header.base_lsn, header.base_position) == (self.chain.lsn, self.chain.position) && self.anchor == Some(header.anchor);
        if self.anchor.is_some() && !continues {
            let positions = (self.chain.position, header.base_position);
            let reason = "the segment does not continue the one before it";
            let file = if let Held::Segment { file, .. } = &place.held { file } else { &place.name };
            self.tell(damage(file, Some(place.sequence), 0, Some(0), positions, reason));
        }
        if self.surveyed.segments == 0 {
            self.chain.epoch = header.epoch;
        }
        self.chain.checksum = header.anchor;
    }

    /// Goes on behind a segment of which nothing can be read.
    fn pass_over(&mut self, ahead: &Ahead) {
        self.anchor = None;
        self.chain.lsn = ahead.lsn.unwrap_or(self.chain.lsn);
        self.chain.position = self.chain.position.max(ahead.position.unwrap_or(self.promised_position()));
    }

    /// The position behind the last one that the watermark says is on disk.
    pub(super) fn promised_position(&self) -> u64 {
        self.mark.durable_position + 1
    }

    /// The end of all segments, which a seal alone does not prove.
    fn check_end(&mut self, has_watermark: bool, last: Option<&Place>) {
        if self.chain.lsn > 0 && !has_watermark {
            self.tell(damage(WATERMARK, None, 0, None, (0, 0), format!("there is no watermark; {WITHOUT_WATERMARK}")));
        }
        let (Some(last), true) = (last, self.anchor.is_some() && self.mark.durable_lsn > self.chain.lsn) else { return };
        let reason = format!(
            "the watermark says that everything up to LSN {} was on disk, but the log can be read only up to LSN {}",
            self.mark.durable_lsn, self.chain.lsn
        );
        let positions = (self.chain.position, self.promised_position());
        self.tell(damage(&last.name, Some(last.sequence), 0, None, positions, reason));
        self.chain.position = self.chain.position.max(positions.1);
    }
}

/// A segment, if its file is there and its header sound.
fn attached(storage: &dyn Storage, file: &str) -> Result<Option<Segment>> {
    match Segment::attach(storage, file, Access::Read) {
        Err(AttachProblem::Error(error)) if is_error_of_the_system(&error) => Err(error),
        attached => Ok(attached.ok()),
    }
}

/// What the index file of a segment must say of itself; nothing if it is not sealed.
fn indexed_as(origin: Uuid, header: &SegmentHeader, named: &ManifestSegment, ahead: &Ahead) -> Option<Identity> {
    Some(Identity {
        store_id: origin,
        sequence: header.sequence,
        salt: header.salt,
        base_lsn: header.base_lsn,
        end_lsn: named.end_lsn?,
        base_position: header.base_position,
        end_position: ahead.position.unwrap_or(0),
    })
}
