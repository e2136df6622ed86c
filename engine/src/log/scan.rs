//! Reading a segment from end to end: one thread reads and verifies, the caller's takes in what was verified.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::format::{FrameHeader, Kind, decode_seal};
use super::recovery::{Chain, Frame, Step, step};
use super::segment::{Bytes, Segment};
use crate::error::{Error, Result};

/// How much of a segment is read and verified at once, unless a frame is longer.
const BLOCK_BYTES: usize = 256 << 10;
/// How many verified blocks may wait to be taken in.
const BLOCKS_AHEAD: usize = 4;
/// A segment with less than this is not worth a second thread.
const ALONE_BYTES: u64 = 1 << 20;

/// What reading a segment from end to end has found.
pub(crate) struct Scan {
    /// The chain behind the last good frame.
    pub(crate) chain: Chain,
    /// The seal, if the segment ends in one.
    pub(crate) seal: Option<Seal>,
    /// What stood where the next frame should begin, if it was neither zeros nor the end.
    pub(crate) stopped: Option<&'static str>,
    /// Whether that is something that only a newer release knows.
    pub(crate) newer: bool,
}

/// The end of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) anchor: u32,
    pub(crate) end_position: u64,
}

/// A block of bytes with verified frames.
struct Block {
    bytes: Vec<u8>,
    /// Where each frame begins, and its header.
    frames: Vec<(usize, FrameHeader)>,
}

impl Block {
    fn visit(&self, segment: &Segment, visit: &mut Visit<'_>) -> Result<()> {
        for (start, header) in &self.frames {
            let length = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
            visit(segment, &Frame { header: *header, bytes: &self.bytes[*start..*start + length] })?;
        }
        Ok(())
    }
}

/// Sees every verified frame of the log once, in order.
pub(crate) type Visit<'a> = dyn FnMut(&Segment, &Frame<'_>) -> Result<()> + 'a;

impl Segment {
    /// Verifies every frame that continues `chain` from the segment's first one on, and shows each to `visit`, but for the seal.
    pub(crate) fn scan(&self, chain: &Chain, visit: &mut Visit<'_>) -> Result<Scan> {
        self.scan_up_to(&self.chain_start(chain), u64::MAX, visit)
    }

    /// Verifies every frame below the LSN `end` that continues `chain` where it stands in this segment, and shows each to `visit`, but
    /// for the seal.
    pub(crate) fn scan_up_to(&self, chain: &Chain, end: u64, visit: &mut Visit<'_>) -> Result<Scan> {
        let length = self.file.length().map_err(|error| self.io("look up", &error))?;
        let end = if end == u64::MAX { u64::MAX } else { self.offset(end.max(chain.lsn)) };
        if length.min(end) < self.offset(chain.lsn) + ALONE_BYTES {
            return self.verify(chain, end, &mut |block| block.visit(self, visit).map(|()| block));
        }
        thread::scope(|scope| {
            let (verified, to_visit) = sync_channel::<Block>(BLOCKS_AHEAD);
            let (visited, to_fill) = sync_channel::<Block>(BLOCKS_AHEAD);
            let verifying = scope.spawn(move || self.verify(chain, end, &mut |block| hand_over(block, &verified, &to_fill)));
            let mut taken_in = Ok(());
            while let (Ok(()), Ok(block)) = (&taken_in, to_visit.recv()) {
                taken_in = block.visit(self, visit);
                // Where the other thread has enough of them, or is done, this one is let go.
                let _ = visited.try_send(block);
            }
            drop(to_visit);
            let verified = verifying.join().unwrap_or_else(|_| Err(Error::configuration("the thread that verifies the log has panicked")));
            taken_in.and(verified)
        })
    }

    /// Verifies frame by frame up to this offset, and gives each block of them away for another that may be overwritten.
    fn verify(&self, chain: &Chain, up_to: u64, deliver: &mut dyn FnMut(Block) -> Result<Block>) -> Result<Scan> {
        let mut scan = Scan { chain: *chain, seal: None, stopped: None, newer: false };
        let mut offset = self.offset(scan.chain.lsn);
        let in_all = usize::try_from(up_to - offset).unwrap_or(usize::MAX);
        let mut block = Block { bytes: vec![0; in_all.min(BLOCK_BYTES)], frames: Vec::new() };
        let (mut start, mut end) = (0, 0);
        let mut complete = false;
        let mut damage = None;
        loop {
            let frame = match step(&block.bytes[start..end], complete, self.seed, &scan.chain) {
                Step::Frame(frame) => frame,
                Step::More(length) => {
                    block = next_block(block, start..end, length, deliver)?;
                    (start, end) = (0, end - start);
                    let wanted = usize::try_from(up_to - offset).unwrap_or(usize::MAX).min(block.bytes.len() - end);
                    let Bytes { read, damage: found } = self.read_at(&mut block.bytes[end..end + wanted], offset)?;
                    complete = read < wanted || offset + read as u64 == up_to;
                    damage = found.map(|damage| damage.reason);
                    end += read;
                    offset += read as u64;
                    continue;
                }
                Step::Nothing => {
                    scan.stopped = damage;
                    break;
                }
                Step::Broken(reason) => {
                    scan.stopped = Some(damage.unwrap_or(reason));
                    break;
                }
                Step::Newer(reason) => {
                    scan.stopped = Some(reason);
                    scan.newer = true;
                    break;
                }
            };
            let (header, length) = (frame.header, frame.bytes.len());
            if header.kind == Kind::Seal as u8 {
                let Some((anchor, end_position)) = decode_seal(frame.body()).filter(|(_, end)| *end == scan.chain.position) else {
                    scan.stopped = Some("the seal does not fit the frames before it");
                    break;
                };
                scan.seal = Some(Seal { anchor, end_position });
                scan.chain = scan.chain.after(&header);
                break;
            }
            block.frames.push((start, header));
            scan.chain = scan.chain.after(&header);
            start += length;
        }
        deliver(block)?;
        Ok(scan)
    }
}

/// Gives a verified block to the thread that takes it in, for one that it is done with.
fn hand_over(block: Block, verified: &SyncSender<Block>, to_fill: &Receiver<Block>) -> Result<Block> {
    let length = block.bytes.len();
    if verified.send(block).is_err() {
        return Err(Error::configuration("reading the log was given up"));
    }
    Ok(to_fill
        .try_recv()
        .ok()
        .filter(|block| block.bytes.len() >= length)
        .unwrap_or_else(|| Block { bytes: vec![0; length.max(BLOCK_BYTES)], frames: Vec::new() }))
}

/// A block that begins with the bytes that are left of this one, and has room for `length`.
fn next_block(mut block: Block, left: std::ops::Range<usize>, length: usize, deliver: &mut dyn FnMut(Block) -> Result<Block>) -> Result<Block> {
    if block.frames.is_empty() {
        block.bytes.copy_within(left, 0);
    } else {
        let rest = block.bytes[left].to_vec();
        block = deliver(block)?;
        block.frames.clear();
        block.bytes[..rest.len()].copy_from_slice(&rest);
    }
    if block.bytes.len() < length {
        block.bytes.resize(length, 0);
    }
    Ok(block)
}
