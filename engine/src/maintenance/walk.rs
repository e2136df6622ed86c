//! The frames of one segment, one after another, also behind damage.
//!
//! Every byte is looked at a bounded number of times, whatever it is: a frame whose header is whole is passed over as a
//! whole, and the next header is looked for from where the last search has ended.

use std::sync::Arc;

use super::rescue::rescue;
use super::source::{Source, read_tolerantly};
use super::survey::{Ahead, Item, LARGE_BYTES, Surveyor};
use crate::error::{Error, Result};
use crate::log::format::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, FRAME_ALIGN, FrameHeader, Kind, decode_seal, frame_header, is_plausible};
use crate::log::recovery::{Chain, Frame, Step, step};

/// How much is read at once, unless a frame is longer.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// What stands where the next frame should begin.
enum Stood {
    Frame { start: usize, header: FrameHeader, seal: Option<(u32, u64)> },
    Stop { reason: &'static str, newer: bool },
}

/// What lies behind the place where the chain has ended.
#[derive(Debug, Clone, Copy, Default)]
struct Behind {
    /// Where the last byte that is not zero ends.
    end: u64,
    /// The largest `durable_upto` of the headers there.
    durable_upto: u64,
}

impl Surveyor<'_> {
    /// Reads frame by frame up to the end of the segment.
    pub(super) fn frames(&mut self, source: &Arc<Source>, ahead: &Ahead) -> Result<()> {
        let mut behind: Option<Behind> = None;
        loop {
            let (reason, newer) = match self.next(source)? {
                Stood::Frame { header, seal: Some(seal), .. } => return self.seal(source, ahead, &header, seal),
                Stood::Frame { start, header, seal: None } => {
                    self.block.items.push(Item::Frame { start, header });
                    self.chain = self.chain.after(&header);
                    continue;
                }
                Stood::Stop { reason, newer } => (reason, newer),
            };
            if ahead.is_last {
                let Some(known) = behind else {
                    // Whoever writes to it may have completed the frame since it was read, and only then have promised it. What
                    // is read from now on was written before what is known now.
                    behind = Some(self.behind(source)?);
                    self.refresh()?;
                    continue;
                };
                let promised = known.durable_upto.max(self.mark.durable_lsn).max(ahead.lsn.unwrap_or(0));
                if !newer && self.chain.lsn >= promised {
                    self.surveyed.unpromised_bytes += known.end.saturating_sub(source.offset(self.chain.lsn));
                    return Ok(());
                }
            }
            if !self.pass(source, ahead, reason, newer)? {
                return Ok(());
            }
        }
    }

    /// Looks at the next frame.
    fn next(&mut self, source: &Arc<Source>) -> Result<Stood> {
        let mut wanted = frame_header::BYTES;
        loop {
            let start = self.fill(source, source.offset(self.chain.lsn), wanted)?;
            let reason = match step(&self.block.bytes[start..self.filled], self.file_ended, source.seed, &self.chain) {
                Step::Frame(frame) => {
                    let header = frame.header;
                    if header.kind != Kind::Seal as u8 {
                        return Ok(Stood::Frame { start, header, seal: None });
                    }
                    match decode_seal(frame.body()).filter(|(_, end)| *end == self.chain.position) {
                        Some(seal) => return Ok(Stood::Frame { start, header, seal: Some(seal) }),
                        None => "the seal does not fit the frames before it",
                    }
                }
                Step::More(length) => {
                    wanted = length;
                    continue;
                }
                Step::Nothing => "there is nothing where a frame should be",
                Step::Broken(reason) => reason,
                Step::Newer(reason) => return Ok(Stood::Stop { reason, newer: true }),
            };
            return Ok(Stood::Stop { reason, newer: false });
        }
    }

    /// Makes sure that the block holds `wanted` bytes from `offset` on, or all that there are; where they begin in it.
    fn fill(&mut self, source: &Arc<Source>, offset: u64, wanted: usize) -> Result<usize> {
        let held = self.block.base..self.block.base + self.filled as u64;
        if held.contains(&offset) || (offset == held.end && self.filled > 0) {
            let start = usize::try_from(offset - held.start).unwrap_or(usize::MAX);
            if self.filled - start >= wanted || self.file_ended {
                return Ok(start);
            }
        }
        self.refresh()?;
        let length = BLOCK_BYTES.max(wanted);
        if self.block.bytes.len() > LARGE_BYTES.max(length) {
            self.block.bytes = Vec::new();
        }
        if self.block.bytes.len() < length {
            self.block.bytes.resize(length, 0);
        }
        let bytes = &mut self.block.bytes[..length];
        let (read, unreadable) = read_tolerantly(&*source.file, bytes, offset).map_err(|error| Error::io("read", source.name.clone(), &error))?;
        self.block.source = Some(Arc::clone(source));
        self.block.base = offset;
        self.filled = read;
        self.file_ended = read < length;
        if self.unreadable.is_none() {
            self.unreadable = unreadable;
        }
        Ok(0)
    }

    /// Forgets what was read, so that it is read again.
    fn refresh(&mut self) -> Result<()> {
        if !self.block.items.is_empty() {
            self.flush()?;
        }
        (self.filled, self.file_ended) = (0, false);
        Ok(())
    }

    /// Looks for the next frame from `offset` on. Nothing that contradicts its own address is one.
    fn next_header(&mut self, source: &Arc<Source>, mut offset: u64, ahead: &Ahead) -> Result<Option<(u64, FrameHeader)>> {
        loop {
            let start = self.fill(source, offset, frame_header::BYTES)?;
            let bytes = &self.block.bytes[start..self.filled];
            let last = bytes.len().saturating_sub(frame_header::BYTES - 1);
            for at in (0..last).step_by(FRAME_ALIGN) {
                let place = offset + at as u64;
                if let Some(header) = header_in(&bytes[at..], source, place)
                    && header.base_position >= self.chain.position
                    && ahead.position.is_none_or(|end| header.base_position <= end)
                {
                    return Ok(Some((place, header)));
                }
            }
            if self.file_ended {
                return Ok(None);
            }
            offset += last.next_multiple_of(FRAME_ALIGN) as u64;
        }
    }

    /// Tells of the damage where the chain has ended, saves what can be saved of it, and finds where the log goes on; whether it does.
    fn pass(&mut self, source: &Arc<Source>, ahead: &Ahead, reason: &'static str, newer: bool) -> Result<bool> {
        let offset = source.offset(self.chain.lsn);
        let start = self.fill(source, offset, frame_header::BYTES)?;
        if let Some(header) = header_in(&self.block.bytes[start..self.filled], source, offset) {
            return self.pass_frame(source, &header, reason, newer).map(|()| true);
        }
        let found = self.next_header(source, offset + FRAME_ALIGN as u64, ahead)?;
        let first = self.chain.position;
        if let Some((next, header)) = found {
            let length = next - offset;
            self.tell_region(source, offset, Some(length), (first, header.base_position), reason);
            self.rescue_from(source, offset, length, header.base_position - first)?;
            self.chain = before(&header, &self.chain);
            return Ok(true);
        }
        self.is_end_lost = ahead.is_last;
        let promised = if ahead.is_last { self.promised_position() } else { first };
        let end_position = ahead.position.unwrap_or(promised).max(first);
        let file_end = source.file.length().map_err(|error| Error::io("look up", source.name.clone(), &error))?;
        let end_lsn = ahead.lsn.or_else(|| ahead.is_last.then_some(self.mark.durable_lsn)).filter(|lsn| *lsn > self.chain.lsn);
        let reason = if ahead.is_last { reason.to_owned() } else { format!("{reason}; the segment does not end in a seal") };
        let length = end_lsn.map(|lsn| source.offset(lsn) - offset);
        self.tell_region(source, offset.min(file_end), length, (first, end_position), reason);
        self.rescue_from(source, offset, file_end.saturating_sub(offset), end_position - first)?;
        self.chain.position = end_position;
        self.chain.lsn = end_lsn.unwrap_or(self.chain.lsn);
        Ok(false)
    }

    /// The same where the frame's own header is whole: it tells where the frame ends.
    fn pass_frame(&mut self, source: &Arc<Source>, header: &FrameHeader, reason: &'static str, newer: bool) -> Result<()> {
        let offset = source.offset(header.lsn);
        let length = header.frame_bytes();
        let after = |chain: Chain| before(header, &chain).after(header);
        if header.base_position < self.chain.position {
            self.tell_region(source, offset, Some(length), (0, 0), format!("{reason}; its positions are those of earlier events"));
            self.chain = Chain { position: self.chain.position, ..after(self.chain) };
            return Ok(());
        }
        let end_position = header.base_position + u64::from(header.count);
        if newer {
            self.tell_region(source, offset, Some(length), (self.chain.position, end_position), reason);
            self.chain = after(self.chain);
            return Ok(());
        }
        let first = self.chain.position;
        let continued = self.chain;
        self.chain = before(header, &self.chain);
        if self.chain != continued {
            // It may be whole and only not continue what is before it.
            let whole = matches!(self.next(source)?, Stood::Frame { .. });
            if whole {
                self.tell_region(source, offset, Some(0), (first, header.base_position), reason);
                return Ok(());
            }
        }
        let file_end = source.file.length().map_err(|error| Error::io("look up", source.name.clone(), &error))?;
        let within = length.min(file_end.saturating_sub(offset));
        let rescued = rescue(source, offset, within, header.base_position, u64::from(header.count), header.commit_time);
        let damaged = if first == header.base_position { rescued.damaged_runs(header.count) } else { Vec::new() };
        if damaged.is_empty() || self.unreadable.is_some() {
            self.tell_region(source, offset, Some(length), (first, end_position), reason);
        } else {
            for (offset, length, positions) in damaged {
                self.tell(source.damage(offset, Some(length), positions, reason));
            }
        }
        self.chain = self.chain.after(header);
        self.save(rescued)
    }

    /// Saves the records of a frame without a header whose first event, if it has any, has the position where the chain has ended.
    fn rescue_from(&mut self, source: &Source, offset: u64, length: u64, events_max: u64) -> Result<()> {
        let rescued = rescue(source, offset, length, self.chain.position, events_max, self.chain.commit_time);
        if rescued.records.is_empty() { Ok(()) } else { self.save(rescued) }
    }

    fn tell_region(&mut self, source: &Source, offset: u64, length: Option<u64>, positions: (u64, u64), reason: impl Into<String>) {
        let within = |at: u64| length.is_none_or(|length| at < offset + length);
        let reason = match self.unreadable.take() {
            Some(unreadable) if within(unreadable.offset) => unreadable.reason,
            _ => reason.into(),
        };
        self.tell(source.damage(offset, length, positions, reason));
    }

    /// The end of a segment.
    fn seal(&mut self, source: &Arc<Source>, ahead: &Ahead, header: &FrameHeader, (anchor, _): (u32, u64)) -> Result<()> {
        self.chain = self.chain.after(header);
        self.anchor = Some(anchor);
        let offset = source.offset(self.chain.lsn);
        let behind = self.behind(source)?;
        if behind.end > offset {
            self.tell(source.damage(offset, Some(behind.end - offset), (0, 0), "there are bytes behind the segment's seal"));
        }
        if let Some(end) = ahead.named_end.filter(|end| *end != self.chain.lsn) {
            let reason = format!("the manifest says that the segment ends at LSN {end}, its seal at {}", self.chain.lsn);
            self.tell(source.damage(offset, None, (0, 0), reason));
        }
        Ok(())
    }

    /// Reads what lies behind the end of the chain, up to the end of the file.
    fn behind(&self, source: &Source) -> Result<Behind> {
        let mut at = source.offset(self.chain.lsn);
        let mut behind = Behind { end: at, durable_upto: 0 };
        let mut bytes = vec![0; BLOCK_BYTES];
        loop {
            let (read, _) = read_tolerantly(&*source.file, &mut bytes, at).map_err(|error| Error::io("read", source.name.clone(), &error))?;
            if let Some(last) = bytes[..read].iter().rposition(|byte| *byte != 0) {
                behind.end = at + last as u64 + 1;
            }
            for start in (0..read.saturating_sub(frame_header::BYTES - 1)).step_by(FRAME_ALIGN) {
                if let Some(header) = FrameHeader::decode(&bytes[start..read], source.seed) {
                    behind.durable_upto = behind.durable_upto.max(header.durable_upto);
                }
            }
            if read < bytes.len() {
                return Ok(behind);
            }
            // The next block repeats what a header across the border needs.
            at += (bytes.len() - (frame_header::BYTES - FRAME_ALIGN)) as u64;
        }
    }
}

/// The header at the start of `bytes`, if it is one of a frame at this place.
fn header_in(bytes: &[u8], source: &Source, offset: u64) -> Option<FrameHeader> {
    FrameHeader::decode(bytes, source.seed).filter(|header| {
        header.lsn == source.lsn(offset)
            && is_plausible(0, header.lsn, header.base_position)
            && header.count as usize <= BATCH_EVENTS_MAX
            && header.body_bytes as usize <= BATCH_BYTES_MAX
    })
}

/// The chain that a frame continues, as its own header tells.
fn before(header: &FrameHeader, chain: &Chain) -> Chain {
    let begins = header.kind == Kind::Epoch as u8;
    Chain {
        lsn: header.lsn,
        position: header.base_position,
        checksum: header.previous,
        epoch: header.epoch.saturating_sub(u32::from(begins)),
        commit_time: header.commit_time,
        durable_upto: chain.durable_upto,
    }
}

/// The frame that an item of a block is.
pub(super) fn frame_at<'a>(bytes: &'a [u8], start: usize, header: &FrameHeader) -> Frame<'a> {
    let length = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
    Frame { header: *header, bytes: &bytes[start..start + length] }
}
