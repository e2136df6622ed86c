//! What a log's bytes prove: bytes in, verdict out. Performs nothing.

use super::format::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BODY_SEED, FRAME_ALIGN, FrameHeader, Kind, RecordEntry, TABLE_SEED, checksum, frame_header, record_entry,
    segment_seed,
};

/// What the next frame of an unbroken chain must continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The LSN of the next frame.
    pub(crate) lsn: u64,
    /// The position of the next event.
    pub(crate) position: u64,
    /// The header checksum of the last frame.
    pub(crate) checksum: u32,
    /// The epoch of the last frame.
    pub(crate) epoch: u32,
    /// The commit time of the last frame.
    pub(crate) commit_time: i64,
    /// The largest `durable_upto` that a frame has stated.
    pub(crate) durable_upto: u64,
}

/// A whole, verified frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The table's entries with their records' bodies, and the distance of each entry from the frame's start.
    pub(crate) fn records(self) -> impl Iterator<Item = (usize, RecordEntry, &'a [u8])> {
        (0..self.header.count as usize).map(move |index| {
            let at = frame_header::BYTES + index * record_entry::BYTES;
            let entry = RecordEntry::decode_trusted(&self.bytes[at..at + record_entry::BYTES]);
            let start = at + entry.body_offset as usize;
            (at, entry, &self.bytes[start..start + entry.body_bytes as usize])
        })
    }

    /// What a frame without records carries.
    pub(crate) fn body(self) -> &'a [u8] {
        let start = frame_header::BYTES + self.header.count as usize * record_entry::BYTES;
        &self.bytes[start..start + self.header.body_bytes as usize]
    }
}

/// What stands where the next frame should begin.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// The next frame of the chain.
    Frame(Frame<'a>),
    /// It takes so many bytes to tell, more than were given.
    More(usize),
    /// Nothing but zeros where a header should be, or no bytes at all.
    Nothing,
    /// Something that is not the next frame.
    Broken(&'static str),
    /// The next frame, but of a kind or with flags that this release must not pass over.
    Newer(&'static str),
}

/// Looks at the bytes where the chain goes on. `complete` says that no bytes follow them in the file.
pub(crate) fn step<'a>(bytes: &'a [u8], complete: bool, seed: u32, chain: &Chain) -> Step<'a> {
    if bytes.len() < frame_header::BYTES {
        return match (complete, bytes.iter().all(|byte| *byte == 0)) {
            (false, _) => Step::More(frame_header::BYTES),
            (true, true) => Step::Nothing,
            (true, false) => Step::Broken("the file ends within a frame's header"),
        };
    }
    let Some(header) = FrameHeader::decode(bytes, seed) else {
        return if bytes[..frame_header::BYTES].iter().all(|byte| *byte == 0) {
            Step::Nothing
        } else {
            Step::Broken("the frame's header does not match its checksum")
        };
    };
    if let Some(problem) = check_chain(&header, chain) {
        return Step::Broken(problem);
    }
    let Ok(length) = usize::try_from(header.frame_bytes()) else {
        return Step::Broken("the frame is longer than memory");
    };
    if bytes.len() < length {
        return if complete { Step::Broken("the file ends within a frame") } else { Step::More(length) };
    }
    let frame = Frame { header, bytes: &bytes[..length] };
    if let Some(problem) = check_contents(&frame) {
        return Step::Broken(problem);
    }
    let known = [Kind::Events as u8, Kind::Seal as u8, Kind::Epoch as u8, Kind::Close as u8].contains(&header.kind);
    if !known && header.flags & frame_header::IGNORABLE == 0 {
        return Step::Newer("the frame is of a kind that only a newer release knows; open the store with that release");
    }
    if frame.records().any(|(_, entry, _)| entry.is_unknown()) {
        return Step::Newer("a record is stored in a way that only a newer release knows; open the store with that release");
    }
    Step::Frame(frame)
}

fn check_chain(header: &FrameHeader, chain: &Chain) -> Option<&'static str> {
    if header.lsn != chain.lsn || header.previous != chain.checksum || header.base_position != chain.position {
        return Some("the frame does not continue the one before it");
    }
    let epoch_frame = header.kind == Kind::Epoch as u8;
    if if epoch_frame { header.epoch <= chain.epoch } else { header.epoch != chain.epoch } {
        return Some("the frame's epoch does not follow from the one before it");
    }
    if header.commit_time < chain.commit_time || header.durable_upto > header.lsn {
        return Some("the frame's commit time or durable mark contradicts the frames before it");
    }
    if (header.kind == Kind::Events as u8) != (header.count > 0)
        || header.count as usize > BATCH_EVENTS_MAX
        || header.body_bytes as usize > BATCH_BYTES_MAX
    {
        return Some("the frame's counts are beyond the limits");
    }
    None
}

fn check_contents(frame: &Frame<'_>) -> Option<&'static str> {
    let table_end = frame_header::BYTES + frame.header.count as usize * record_entry::BYTES;
    let body_end = table_end + frame.header.body_bytes as usize;
    if frame.bytes[body_end..].iter().any(|byte| *byte != 0) {
        return Some("the frame's padding is not zero");
    }
    if frame.header.count == 0 {
        return (checksum(TABLE_SEED, frame.body()) != frame.header.table_checksum).then_some("the frame's body does not match its checksum");
    }
    if checksum(TABLE_SEED, &frame.bytes[frame_header::BYTES..table_end]) != frame.header.table_checksum {
        return Some("the frame's table does not match its checksum");
    }
    let mut body_at = table_end;
    for index in 0..frame.header.count as usize {
        let at = frame_header::BYTES + index * record_entry::BYTES;
        let entry = RecordEntry::decode_trusted(&frame.bytes[at..at + record_entry::BYTES]);
        let end = body_at + entry.body_bytes as usize;
        if at + entry.body_offset as usize != body_at || end > body_end || entry.position_delta as usize != index {
            return Some("the frame's table does not describe its records");
        }
        if checksum(BODY_SEED, &frame.bytes[body_at..end]) != entry.body_checksum {
            return Some("a record does not match its checksum");
        }
        if entry.is_removed() && frame.bytes[body_at..end].iter().any(|byte| *byte != 0) {
            return Some("a record that was taken out has a body");
        }
        body_at = end;
    }
    (body_at != body_end).then_some("the frame's table does not describe its records")
}

impl Chain {
    /// The chain with `header`'s frame at its end.
    pub(crate) fn after(&self, header: &FrameHeader) -> Self {
        Self {
            lsn: header.lsn + header.frame_bytes(),
            position: header.base_position + u64::from(header.count),
            checksum: header.checksum,
            epoch: header.epoch,
            commit_time: header.commit_time,
            durable_upto: self.durable_upto.max(header.durable_upto),
        }
    }
}

/// The frame headers that can still be recognized in `bytes`, which begin at a multiple of the frame alignment: what is
/// looked for behind a damaged place. Costs one pass, whatever the bytes are.
pub(crate) fn later_headers(bytes: &[u8], salt: u64) -> impl Iterator<Item = (usize, FrameHeader)> {
    let seed = segment_seed(salt);
    let last = bytes.len().saturating_sub(frame_header::BYTES - 1);
    (0..last).step_by(FRAME_ALIGN).filter_map(move |at| FrameHeader::decode(&bytes[at..], seed).map(|header| (at, header)))
}

/// What is known about the log beside the unbroken chain of its frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The end of the chain (X).
    pub(crate) end: u64,
    /// Below this LSN all was on disk, as the watermark says.
    pub(crate) watermark: u64,
    /// Where the manifest says that the log's sealed part ends; 0 if it says nothing.
    pub(crate) manifest_end: u64,
    /// Whether this segment must end in a seal, and does not.
    pub(crate) seal_missing: bool,
    /// Whether the chain goes on with something that only a newer release knows.
    pub(crate) newer: bool,
    /// The largest `durable_upto` of a header found behind the end.
    pub(crate) later_durable_upto: u64,
    /// How many bytes follow the end up to the last that is not zero.
    pub(crate) rest_bytes: u64,
}

/// What to do with what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The log ends where its frames end.
    Clean,
    /// Bytes follow that nobody was promised.
    Torn,
    /// The log went further: acknowledged events are damaged or gone.
    Corrupt(String),
}

/// Judges the evidence, in the order that lets no promise be forgotten.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let Evidence { end, watermark, manifest_end, seal_missing, newer, later_durable_upto, rest_bytes } = *evidence;
    if newer {
        return Verdict::Corrupt("the log goes on behind it".to_owned());
    }
    if seal_missing {
        return Verdict::Corrupt("the segment is not the last one, yet it does not end in a seal".to_owned());
    }
    let witnesses = [(watermark, "the watermark"), (manifest_end, "the manifest"), (later_durable_upto, "a later frame")];
    if let Some((lsn, witness)) = witnesses.into_iter().find(|(lsn, _)| *lsn > end) {
        return Verdict::Corrupt(format!("{witness} says that everything up to LSN {lsn} was on disk, but the log can be read only up to LSN {end}"));
    }
    if rest_bytes > 0 { Verdict::Torn } else { Verdict::Clean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::events_frame_room;
    use crate::log::frame::FrameContext;

    const START: Chain = Chain { lsn: 0, position: 1, checksum: 0, epoch: 1, commit_time: 0, durable_upto: 0 };

    fn frame_with(body: &[u8]) -> Vec<u8> {
        let context = FrameContext { seed: 9, lsn: 0, epoch: 1, base_position: 1, commit_time: 5, durable_upto: 0, previous: 0 };
        let entry = RecordEntry {
            body_bytes: u32::try_from(body.len()).expect("short"),
            body_checksum: checksum(BODY_SEED, body),
            version: 1,
            ..RecordEntry::default()
        };
        let mut bytes = vec![0; events_frame_room(1)];
        bytes.extend_from_slice(body);
        context.events(&mut bytes, &[entry]);
        bytes
    }

    #[test]
    fn a_frame_is_whole_or_not_at_all() {
        let bytes = frame_with(b"thirteen bytes");
        assert!(matches!(step(&bytes, true, 9, &START), Step::Frame(_)));
        for length in 1..bytes.len() {
            assert!(matches!(step(&bytes[..length], true, 9, &START), Step::Broken(_)), "cut at {length}");
            assert!(matches!(step(&bytes[..length], false, 9, &START), Step::More(_)), "cut at {length}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_frame_breaks_it() {
        let bytes = frame_with(b"abc");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let step = step(&flipped, true, 9, &START);
            assert!(matches!(step, Step::Broken(_)), "bit {bit}: {step:?}");
        }
    }

    #[test]
    fn zeros_and_other_salts_are_no_frames() {
        assert!(matches!(step(&[0; 4096], true, 9, &START), Step::Nothing));
        assert!(matches!(step(&[], true, 9, &START), Step::Nothing));
        assert!(matches!(step(&frame_with(b"abc"), true, 8, &START), Step::Broken(_)));
    }

    #[test]
    fn each_witness_of_more_makes_the_verdict_corrupt() {
        let sound = Evidence { end: 100, watermark: 100, manifest_end: 100, later_durable_upto: 100, ..Evidence::default() };
        assert_eq!(judge(&sound), Verdict::Clean);
        assert_eq!(judge(&Evidence { rest_bytes: 1, ..sound }), Verdict::Torn);
        for more in [
            Evidence { watermark: 101, ..sound },
            Evidence { manifest_end: 101, ..sound },
            Evidence { later_durable_upto: 101, ..sound },
            Evidence { seal_missing: true, ..sound },
            Evidence { newer: true, ..sound },
        ] {
            assert!(matches!(judge(&more), Verdict::Corrupt(_)), "{more:?}");
        }
    }
}
