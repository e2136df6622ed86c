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

#[derive(Default)]
struct Chunk {
    base_lsn: u64,
    /// LSN of the event's entry, as its distance from the base in units of 8 bytes.
    places: Vec<u32>,
    previous: Vec<u32>,
    jumps: Vec<u32>,
    kinds: Vec<u16>,
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

impl Events {
    pub(super) fn new(first_position: u64) -> Self {
        Self { first_position, chunks: Vec::new(), count: 0 }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let chunk =
            |chunk: &Chunk| chunk.places.capacity() * 4 + chunk.previous.capacity() * 4 + chunk.jumps.capacity() * 4 + chunk.kinds.capacity() * 2;
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

    /// Takes in the next event: the one after `previous` in a stream that had `version` events.
    pub(super) fn push(&mut self, entry: Entry, previous: Option<u32>, version: u64) -> u32 {
        let index = self.count;
        let (previous, jump) = match previous {
            None => (index, index),
            Some(previous) if jump_length(version) == 1 => (previous, previous),
            Some(previous) => (previous, self.jump(self.jump(previous))),
        };
        if (index as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Chunk { base_lsn: entry.lsn, ..Chunk::default() });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.places.push(u32::try_from((entry.lsn - chunk.base_lsn) / 8).unwrap_or(u32::MAX));
            chunk.previous.push(previous);
            chunk.jumps.push(jump);
            chunk.kinds.push(entry.kind);
        }
        self.count += 1;
        index
    }

    pub(super) fn previous(&self, index: u32) -> u32 {
        let (chunk, at) = self.chunk(index);
        chunk.previous[at]
    }

    fn jump(&self, index: u32) -> u32 {
        let (chunk, at) = self.chunk(index);
        chunk.jumps[at]
    }

    pub(super) fn location(&self, index: u32) -> Location {
        let (chunk, at) = self.chunk(index);
        Location { position: self.position(index), lsn: chunk.base_lsn + u64::from(chunk.places[at]) * 8 }
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
                out.push(Location { position: at, lsn: chunk.base_lsn + u64::from(chunk.places[within]) * 8 });
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
        let mut streams: Vec<Vec<u32>> = vec![Vec::new(); 3];
        for number in 0..5000_u64 {
            let stream = if number % 7 == 0 {
                0
            } else if number % 3 == 0 {
                1
            } else {
                2
            };
            let versions: &mut Vec<u32> = &mut streams[stream];
            let index = events.push(Entry { lsn: number * 64, kind: 0 }, versions.last().copied(), versions.len() as u64);
            versions.push(index);
        }
        for versions in &streams {
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
    }
}
