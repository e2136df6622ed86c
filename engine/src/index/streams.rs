//! The streams of a log, by tenant and aggregate id.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::Before;
use super::events::Depth;
use crate::event::StreamKey;

/// How much memory for names is taken at once.
const NAMES_BYTES: usize = 64 << 10;
/// How many streams are held in one piece, so that growing copies nothing.
const CHUNK: usize = 1024;

/// The number of a stream in the index of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StreamId(u32);

/// What is kept of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) version: u64,
    /// The index of its last event; means nothing while it has none in this segment.
    pub(super) tip: u32,
    /// How deep in the segment's part of the stream its last event is.
    pub(super) depth: Depth,
    pub(super) aggregate_type: u32,
    pub(super) before: Before,
    name: Name,
}

/// Where a stream's name is: tenant, then aggregate id.
#[derive(Debug, Clone, Copy)]
struct Name {
    block: u32,
    start: u32,
    tenant_bytes: u16,
    id_bytes: u16,
}

/// All streams of a log.
#[derive(Default)]
pub(super) struct Streams {
    hasher: RandomState,
    table: HashTable<u32>,
    chunks: Vec<Vec<Stream>>,
    count: u32,
    names: Vec<Vec<u8>>,
}

fn hash(hasher: &RandomState, tenant: &[u8], id: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(tenant);
    state.write_u8(0);
    state.write(id);
    state.finish()
}

fn name_of(names: &[Vec<u8>], name: Name) -> (&[u8], &[u8]) {
    let start = name.start as usize;
    let end = start + usize::from(name.tenant_bytes) + usize::from(name.id_bytes);
    names[name.block as usize][start..end].split_at(usize::from(name.tenant_bytes))
}

fn slot(chunks: &[Vec<Stream>], number: u32) -> &Stream {
    &chunks[number as usize / CHUNK][number as usize % CHUNK]
}

impl Streams {
    pub(super) fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
            + self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<Stream>()).sum::<usize>()
            + self.names.iter().map(Vec::capacity).sum::<usize>()
    }

    pub(super) fn get(&self, id: StreamId) -> &Stream {
        slot(&self.chunks, id.0)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> &mut Stream {
        &mut self.chunks[id.0 as usize / CHUNK][id.0 as usize % CHUNK]
    }

    pub(super) fn find(&self, key: &StreamKey<'_>) -> Option<StreamId> {
        let (tenant, id) = (key.tenant.as_bytes(), key.aggregate_id.as_bytes());
        let found = self.table.find(hash(&self.hasher, tenant, id), |number| name_of(&self.names, slot(&self.chunks, *number).name) == (tenant, id));
        found.copied().map(StreamId)
    }

    /// All streams, in the order in which they came; one with several runs of versions once for each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamKey<'_>, StreamId, &Stream)> {
        self.chunks.iter().flatten().zip(0..).map(|(stream, number)| {
            let (tenant, id) = name_of(&self.names, stream.name);
            let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
            (StreamKey { tenant: text(tenant), aggregate_id: text(id) }, StreamId(number), stream)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    /// Makes a stream that is not there yet; `None` if there can be no more.
    pub(super) fn add(&mut self, key: &StreamKey<'_>, aggregate_type: u32, before: Before) -> Option<StreamId> {
        let (tenant, id) = (key.tenant.as_bytes(), key.aggregate_id.as_bytes());
        let number = self.count;
        self.count = self.count.checked_add(1)?;
        let name = self.keep_name(tenant, id)?;
        if (number as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::new());
        }
        self.chunks.last_mut()?.push(Stream { version: before.version, tip: 0, depth: Depth::default(), aggregate_type, before, name });
        let Self { hasher, table, chunks, names, .. } = self;
        table.insert_unique(hash(hasher, tenant, id), number, |number| {
            let (tenant, id) = name_of(names, slot(chunks, *number).name);
            hash(hasher, tenant, id)
        });
        Some(StreamId(number))
    }

    /// Makes another entry for a stream that goes on behind versions that are left out: it is found from now on in place of the one that
    /// there was; `None` if there can be no more.
    pub(super) fn add_run(&mut self, earlier: StreamId, before: Before) -> Option<StreamId> {
        let Stream { name, aggregate_type, .. } = *self.get(earlier);
        let number = self.count;
        self.count = self.count.checked_add(1)?;
        if (number as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::new());
        }
        self.chunks.last_mut()?.push(Stream { version: before.version, tip: 0, depth: Depth::default(), aggregate_type, before, name });
        let (tenant, id) = name_of(&self.names, name);
        if let Some(found) = self.table.find_mut(hash(&self.hasher, tenant, id), |number| *number == earlier.0) {
            *found = number;
        }
        Some(StreamId(number))
    }

    fn keep_name(&mut self, tenant: &[u8], id: &[u8]) -> Option<Name> {
        let length = tenant.len() + id.len();
        if self.names.last().is_none_or(|block| block.len() + length > NAMES_BYTES) {
            // The first block grows with a small store; the later ones are taken whole.
            self.names.push(if self.names.is_empty() { Vec::new() } else { Vec::with_capacity(NAMES_BYTES) });
        }
        let block = u32::try_from(self.names.len() - 1).ok()?;
        let bytes = self.names.last_mut()?;
        let start = u32::try_from(bytes.len()).ok()?;
        bytes.extend_from_slice(tenant);
        bytes.extend_from_slice(id);
        Some(Name { block, start, tenant_bytes: u16::try_from(tenant.len()).ok()?, id_bytes: u16::try_from(id.len()).ok()? })
    }
}
