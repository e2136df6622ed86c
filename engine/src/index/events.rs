//! One small entry an event: where it is, what kind it is, and where its stream goes on towards the past.
//!
//! Within a stream every event points to the one before and to one further back, chosen so that any version is found in
//! a logarithmic number of steps (a skew-binary list). 14 bytes an event, whatever the streams look like.

use super::Location;

/// How many events share a base LSN. Their entries lie within 32 GiB, because a frame is at most 64 MiB long and a payload 16 MiB.
const CHUNK: usize = 1024;

/// What is kept of an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) lsn: u64,
    pub(super) kind: u16,
}

struct Chunk {
    base_lsn: u64,
    slots: Vec<Slot>,
    kinds: Vec<u16>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// LSN of the event's entry, as its distance from the base in units of 8 bytes.
    place: u32,
    previous: u32,
    jump: u32,
}

/// The entries of all events, by their position.
pub(super) struct Events {
    first_position: u64,
    chunks: Vec<Chunk>,
    count: u32,
}

/// How far the jump of the event at this depth (version - 1) goes back: the smallest term of its skew-binary form.
fn jump_length(depth: u64) -> u64 {
    let mut rest = depth;
    while rest > 0 {
        let term = (1 << (u64::BITS - 1 - (rest + 1).leading_zeros())) - 1;
        if rest == term {
            return term;
        }
        rest -= term;
    }
    0
}

/// How many events of a stream are before its last one, in the form that tells how far each jumps: the terms 1, 3, 7, … that
/// add up to that number, of which only the smallest may stand twice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Depth(u32);

impl Depth {
    /// The highest bit says that the smallest term stands twice; bit n, that the term 2^(n+1) - 1 is there.
    const TWICE: u32 = 1 << 31;

    /// Goes on to the next event; whether its jump goes back to the one before, because the smallest term is 1.
    fn next(&mut self) -> bool {
        if self.0 & Self::TWICE == 0 {
            self.0 |= if self.0 & 1 == 0 { 1 } else { Self::TWICE };
            return true;
        }
        // Two equal terms and the new event are the next larger term.
        let terms = self.0 & !Self::TWICE;
        let smallest = terms & terms.wrapping_neg();
        let others = terms ^ smallest;
        let larger = smallest << 1;
        self.0 = if others & larger == 0 { others | larger } else { others | Self::TWICE };
        false
    }
}

impl Events {
    pub(super) fn new(first_position: u64) -> Self {
        Self { first_position, chunks: Vec::new(), count: 0 }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let chunk = |chunk: &Chunk| chunk.slots.capacity() * size_of::<Slot>() + chunk.kinds.capacity() * 2;
        self.chunks.capacity() * size_of::<Chunk>() + self.chunks.iter().map(chunk).sum::<usize>()
    }

    pub(super) fn first_position(&self) -> u64 {
        self.first_position
    }

    /// The position of the last event; one less than the first if there is none.
    pub(super) fn last_position(&self) -> u64 {
        self.first_position + u64::from(self.count) - 1
    }

    pub(super) fn position(&self, index: u32) -> u64 {
        self.first_position + u64::from(index)
    }

    pub(super) fn has_room_for(&self, count: usize) -> bool {
        u32::try_from(count).is_ok_and(|count| self.count.checked_add(count).is_some())
    }

    fn chunk(&self, index: u32) -> (&Chunk, usize) {
        (&self.chunks[index as usize / CHUNK], index as usize % CHUNK)
    }

    /// Takes in the next event: the one after `previous` in a stream, whose depth is that of `previous` and becomes its own.
    pub(super) fn push(&mut self, entry: Entry, previous: Option<u32>, depth: &mut Depth) -> u32 {
        let index = self.count;
        let (previous, jump) = match previous {
            None => (index, index),
            Some(previous) if depth.next() => (previous, previous),
            Some(previous) => (previous, self.jump(self.jump(previous))),
        };
        if (index as usize).is_multiple_of(CHUNK) {
            // The first chunk grows with a small store; the later ones are taken whole.
            let capacity = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Chunk { base_lsn: entry.lsn, slots: Vec::with_capacity(capacity), kinds: Vec::with_capacity(capacity) });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            let place = u32::try_from((entry.lsn - chunk.base_lsn) / 8).unwrap_or(u32::MAX);
            chunk.slots.push(Slot { place, previous, jump });
            chunk.kinds.push(entry.kind);
        }
        self.count += 1;
        index
    }

    /// The LSN and kind of every event, by position.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u16)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.slots.iter().zip(&chunk.kinds).map(|(slot, kind)| (chunk.base_lsn + u64::from(slot.place) * 8, *kind)))
    }

    pub(super) fn previous(&self, index: u32) -> u32 {
        let (chunk, at) = self.chunk(index);
        chunk.slots[at].previous
    }

    fn jump(&self, index: u32) -> u32 {
        let (chunk, at) = self.chunk(index);
        chunk.slots[at].jump
    }

    pub(super) fn location(&self, index: u32) -> Location {
        let (chunk, at) = self.chunk(index);
        Location { position: self.position(index), lsn: chunk.base_lsn + u64::from(chunk.slots[at].place) * 8 }
    }

    /// The event at version `wanted` of the stream whose event at `version` is `index`.
    pub(super) fn ancestor(&self, mut index: u32, mut version: u64, wanted: u64) -> u32 {
        while version > wanted {
            let jump = jump_length(version - 1);
            if version - jump >= wanted {
                index = self.jump(index);
                version -= jump;
            } else {
                index = self.previous(index);
                version -= 1;
            }
        }
        index
    }

    /// Collects at most `limit` locations between two positions whose kind is wanted; gives the last position looked at.
    pub(super) fn collect(&self, from: u64, to: u64, backwards: bool, wanted: impl Fn(u16) -> bool, limit: usize, out: &mut Vec<Location>) -> u64 {
        out.clear();
        let index = |position: u64| u32::try_from(position - self.first_position).unwrap_or(u32::MAX);
        let (mut at, end) = if backwards { (to, from) } else { (from, to) };
        loop {
            let (chunk, within) = self.chunk(index(at));
            if wanted(chunk.kinds[within]) {
                out.push(Location { position: at, lsn: chunk.base_lsn + u64::from(chunk.slots[within].place) * 8 });
            }
            if at == end || out.len() == limit {
                return at;
            }
            at = if backwards { at - 1 } else { at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_of_any_stream_is_found_in_few_steps() {
        let mut events = Events::new(1);
        let mut streams: Vec<(Vec<u32>, Depth)> = vec![(Vec::new(), Depth::default()); 3];
        for number in 0..5000_u64 {
            let stream = if number % 7 == 0 {
                0
            } else if number % 3 == 0 {
                1
            } else {
                2
            };
            let (versions, depth) = &mut streams[stream];
            let index = events.push(Entry { lsn: number * 64, kind: 0 }, versions.last().copied(), depth);
            versions.push(index);
        }
        for (versions, _) in &streams {
            let (tip, version) = (*versions.last().expect("events"), versions.len() as u64);
            for wanted in 1..=version {
                assert_eq!(events.ancestor(tip, version, wanted), versions[usize::try_from(wanted).expect("small") - 1]);
            }
        }
    }

    #[test]
    fn jumps_grow_with_the_depth() {
        let lengths: Vec<u64> = (0..16).map(jump_length).collect();
        assert_eq!(lengths, [0, 1, 1, 3, 1, 1, 3, 7, 1, 1, 3, 1, 1, 3, 7, 15]);
        let mut depth = Depth::default();
        for number in 1..100_000 {
            assert_eq!(depth.next(), jump_length(number) == 1, "{number}");
        }
    }
}
