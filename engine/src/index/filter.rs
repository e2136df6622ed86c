//! Whether a hash may be in a set: a Bloom filter in blocks of 512 bits, so that one page of its file answers.
//!
//! "No" is certain. "Yes" is wrong for fewer than one in five hundred hashes that are not in it.

use std::ops::Range;

use super::file::{IndexProblem, Page, Pages, Section, Writer};
use crate::log::format::get;

/// Length of a block.
pub(crate) const BLOCK_BYTES: usize = 64;
/// How many bits there are for each key.
pub(crate) const BITS_PER_KEY: u64 = 16;
/// How many bits of its block a key sets.
pub(crate) const PROBES: usize = 7;
/// What a hash is multiplied with, to get the bits in the block from it.
pub(crate) const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

type Block = [u64; BLOCK_BYTES / 8];

/// A filter, of which the first blocks are in memory: all of them, or as many as there is room for.
pub(crate) struct Filter {
    section: Section,
    blocks: Vec<Block>,
}

/// How many blocks a filter of so many keys has.
pub(crate) fn blocks_for(keys: u64) -> u64 {
    keys.saturating_mul(BITS_PER_KEY).div_ceil(BLOCK_BYTES as u64 * 8)
}

/// The block of a hash. It grows with the hash, so that sorted hashes fill one block after the other.
fn block_of(hash: u64, blocks: u64) -> u64 {
    u64::try_from((u128::from(hash) * u128::from(blocks)) >> 64).unwrap_or(0)
}

/// The bits that a hash sets in its block.
fn bits_of(hash: u64) -> Block {
    let mut block = Block::default();
    let mut rest = hash.wrapping_mul(MULTIPLIER);
    for _ in 0..PROBES {
        block[usize::try_from((rest >> 6) % 8).unwrap_or(0)] |= 1 << (rest % 64);
        rest >>= 9;
    }
    block
}

fn holds(block: &Block, bits: &Block) -> bool {
    block.iter().zip(bits).all(|(word, bits)| word & bits == *bits)
}

fn decode(entry: &[u8]) -> Block {
    std::array::from_fn(|word| u64::from_le_bytes(get(entry, word * 8)))
}

fn push(writer: &mut Writer, block: &Block) -> std::io::Result<()> {
    let mut bytes = [0; BLOCK_BYTES];
    for (part, word) in bytes.chunks_exact_mut(8).zip(block) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    writer.push(&bytes)
}

/// How a part of a filter in a file compares with one that was made anew.
pub(crate) struct Compared {
    /// Whether it has every bit of that,
    pub(crate) has_all: bool,
    /// and whether it has no others.
    pub(crate) has_nothing_else: bool,
}

/// A filter that is being made, or a part of it: blocks next to each other.
pub(crate) struct Making {
    of: u64,
    from: u64,
    blocks: Vec<Block>,
}

impl Making {
    /// Begins with at most `blocks_max` blocks from number `from` on, of a filter that has `of`.
    pub(crate) fn new(of: u64, from: u64, blocks_max: usize) -> Self {
        let count = usize::try_from(of.saturating_sub(from)).unwrap_or(usize::MAX).min(blocks_max);
        Self { of, from, blocks: vec![Block::default(); count] }
    }

    /// The first block behind this part.
    pub(crate) fn end(&self) -> u64 {
        self.from + self.blocks.len() as u64
    }

    /// The smallest hash that belongs to this part.
    pub(crate) fn smallest_hash(&self) -> u64 {
        u64::try_from((u128::from(self.from) << 64).div_ceil(u128::from(self.of.max(1)))).unwrap_or(u64::MAX)
    }

    /// Adds a hash, which belongs to this part or to one before it; says whether it lies behind this part.
    pub(crate) fn add(&mut self, hash: u64) -> bool {
        let at = block_of(hash, self.of);
        let block = at.checked_sub(self.from).and_then(|at| self.blocks.get_mut(usize::try_from(at).ok()?));
        if let Some(block) = block {
            for (word, bits) in block.iter_mut().zip(bits_of(hash)) {
                *word |= bits;
            }
        }
        at >= self.end()
    }

    /// Compares the blocks of this part with those of a filter that begins at a block of a section.
    pub(crate) fn compare(&self, pages: &Pages, section: &Section, first_block: u64) -> Result<Compared, IndexProblem> {
        let (mut compared, mut blocks) = (Compared { has_all: true, has_nothing_else: true }, self.blocks.iter());
        pages.each(section, first_block + self.from..first_block + self.end(), &mut Page::new(), |entry| {
            let (mine, written) = (blocks.next().copied().unwrap_or_default(), decode(entry));
            compared.has_all &= holds(&written, &mine);
            compared.has_nothing_else &= holds(&mine, &written);
            Ok(())
        })?;
        Ok(compared)
    }

    /// Writes the blocks of this part.
    pub(crate) fn write(&self, writer: &mut Writer) -> std::io::Result<()> {
        self.blocks.iter().try_for_each(|block| push(writer, block))
    }
}

/// Writes a filter as the next section. The hashes come sorted; there are at most `keys` of them.
pub(crate) fn write<E: From<std::io::Error>>(
    writer: &mut Writer,
    section: u32,
    keys: u64,
    hashes: impl IntoIterator<Item = Result<u64, E>>,
) -> Result<(), E> {
    writer.section(section, BLOCK_BYTES)?;
    let blocks = blocks_for(keys);
    let (mut present, mut block) = (0, Block::default());
    for hash in hashes {
        let hash = hash?;
        let at = block_of(hash, blocks);
        if at < present {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the hashes of a filter are not sorted").into());
        }
        while present < at {
            push(writer, &block)?;
            (present, block) = (present + 1, Block::default());
        }
        for (word, bits) in block.iter_mut().zip(bits_of(hash)) {
            *word |= bits;
        }
    }
    while present < blocks {
        push(writer, &block)?;
        (present, block) = (present + 1, Block::default());
    }
    Ok(())
}

/// Asks a filter in its file. Reads one page.
pub(crate) fn may_hold(pages: &Pages, section: &Section, hash: u64) -> Result<bool, IndexProblem> {
    may_hold_among(pages, section, 0..section.count, hash)
}

/// Asks a filter that is made of some of a section's blocks. Reads one page.
pub(crate) fn may_hold_among(pages: &Pages, section: &Section, blocks: Range<u64>, hash: u64) -> Result<bool, IndexProblem> {
    if blocks.is_empty() {
        return Ok(false);
    }
    let at = blocks.start + block_of(hash, blocks.end - blocks.start);
    let mut answer = false;
    pages.each(section, at..at + 1, &mut Page::new(), |entry| {
        answer = holds(&decode(entry), &bits_of(hash));
        Ok(())
    })?;
    Ok(answer)
}

impl Filter {
    /// Reads a filter into memory, as far as it fits into so many bytes.
    pub(crate) fn load(pages: &Pages, section: &Section, bytes_max: u64) -> Result<Self, IndexProblem> {
        let count = section.count.min(bytes_max / BLOCK_BYTES as u64);
        let mut blocks = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        pages.each(section, 0..count, &mut Page::new(), |entry| {
            blocks.push(decode(entry));
            Ok(())
        })?;
        Ok(Self { section: *section, blocks })
    }

    /// The same, with less of it in memory.
    pub(crate) fn shortened(&self, bytes_max: u64) -> Self {
        let count = usize::try_from(bytes_max).unwrap_or(usize::MAX) / BLOCK_BYTES;
        Self { section: self.section, blocks: self.blocks[..count.min(self.blocks.len())].to_vec() }
    }

    /// How many bytes of memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.blocks.capacity() * BLOCK_BYTES
    }

    /// Whether the set may hold this hash. Reads a page where the hash belongs to a block that is not in memory.
    pub(crate) fn may_hold(&self, pages: &Pages, hash: u64) -> Result<bool, IndexProblem> {
        if self.section.count == 0 {
            return Ok(false);
        }
        let at = usize::try_from(block_of(hash, self.section.count)).unwrap_or(usize::MAX);
        match self.blocks.get(at) {
            Some(block) => Ok(holds(block, &bits_of(hash))),
            None => may_hold(pages, &self.section, hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::file::layout::{IDENTITY_BYTES, SUMMARY_BYTES};
    use super::super::file::{FileKind, PagedFile, write as write_file};
    use super::*;
    use crate::log::storage::MemoryStorage;

    const HEAD: (FileKind, &[u8; IDENTITY_BYTES], &[u8; SUMMARY_BYTES]) = (FileKind::Run, &[1; IDENTITY_BYTES], &[0; SUMMARY_BYTES]);

    fn written(keys: u64, hashes: &[u64]) -> io::Result<(PagedFile, Section)> {
        let storage = MemoryStorage::new();
        write_file(&storage, "filter", HEAD, |writer| write(writer, 1, keys, hashes.iter().map(|hash| Ok::<_, io::Error>(*hash))))?;
        let file = PagedFile::open(&storage, "filter", HEAD.0, HEAD.1).expect("a file");
        let section = file.section(1, BLOCK_BYTES).expect("the section");
        Ok((file, section))
    }

    /// Numbers that look like hashes.
    fn hashes(seed: u64, count: usize) -> Vec<u64> {
        let store_id = uuid::Uuid::from_u64_pair(seed, 0);
        let hash = |number: usize| crate::index::sealed::id_hash(store_id, uuid::Uuid::from_u128(number as u128));
        (0..count).map(hash).collect()
    }

    #[test]
    fn all_keys_are_in_it_and_fewer_than_one_in_five_hundred_others() {
        let mut keys = hashes(1, 50_000);
        keys.sort_unstable();
        let (file, section) = written(50_000, &keys).expect("memory");
        assert_eq!(section.count, (50_000_u64 * BITS_PER_KEY).div_ceil(512));
        let filter = Filter::load(&file.pages, &section, u64::MAX).expect("a filter");
        assert_eq!(filter.memory_bytes() as u64, section.count * BLOCK_BYTES as u64);
        let held = |filter: &Filter, hash: &u64| filter.may_hold(&file.pages, *hash).expect("a page");
        assert!(keys.iter().all(|hash| held(&filter, hash)));
        assert!(keys.iter().step_by(100).all(|hash| may_hold(&file.pages, &section, *hash).expect("a page")));
        let others = hashes(2, 50_000);
        let wrong = others.iter().filter(|hash| held(&filter, hash)).count();
        assert!(wrong < 100, "{wrong}");
        // With half of it in memory, with nothing, and asked in the file, it says the same.
        let half = Filter::load(&file.pages, &section, section.count * 32).expect("a filter");
        let none = filter.shortened(63);
        assert_eq!((half.memory_bytes() as u64, none.memory_bytes()), (section.count / 2 * 64, 0));
        for hash in others.iter().step_by(100) {
            assert_eq!(may_hold(&file.pages, &section, *hash).expect("a page"), held(&filter, hash));
            assert_eq!((held(&half, hash), held(&none, hash)), (held(&filter, hash), held(&filter, hash)));
        }
    }

    #[test]
    fn made_in_parts_from_hashes_in_any_order_it_is_the_same() {
        let (keys, sorted) = (hashes(3, 5000), {
            let mut sorted = hashes(3, 5000);
            sorted.sort_unstable();
            sorted
        });
        let (whole, section) = written(5000, &sorted).expect("memory");
        let storage = MemoryStorage::new();
        write_file(&storage, "parts", HEAD, |writer| {
            writer.section(1, BLOCK_BYTES)?;
            let (of, mut from) = (blocks_for(5000), 0);
            while from < of {
                let mut part = Making::new(of, from, 50);
                let (smallest, mut taken) = (part.smallest_hash(), 0);
                for hash in &keys {
                    let behind = part.add(*hash);
                    assert_eq!((from..part.end()).contains(&block_of(*hash, of)), *hash >= smallest && !behind);
                    taken += usize::from(*hash >= smallest && !behind);
                }
                assert!(taken > 0);
                part.write(writer)?;
                from = part.end();
            }
            Ok::<_, io::Error>(())
        })
        .expect("memory");
        let parts = PagedFile::open(&storage, "parts", HEAD.0, HEAD.1).expect("a file");
        let blocks = |file: &PagedFile| file.pages.iter(&section, decode).map(|block| block.expect("a block")).collect::<Vec<_>>();
        assert_eq!(parts.section(1, BLOCK_BYTES).expect("the section"), section);
        assert!(blocks(&parts) == blocks(&whole));
    }

    #[test]
    fn few_keys_none_and_those_at_the_edges_are_kept() {
        for keys in [&[][..], &[0], &[u64::MAX], &[0, 1, u64::MAX - 1, u64::MAX]] {
            for room in [keys.len() as u64, 1000] {
                let (file, section) = written(room, keys).expect("memory");
                let filter = Filter::load(&file.pages, &section, u64::MAX).expect("a filter");
                let held = |hash| filter.may_hold(&file.pages, hash).expect("a page");
                assert!(keys.iter().all(|hash| held(*hash) && may_hold(&file.pages, &section, *hash).expect("a page")));
                assert!(!held(0x1234_5678) && !may_hold(&file.pages, &section, 0x1234_5678).expect("a page"));
            }
        }
    }

    #[test]
    fn keys_that_are_not_sorted_are_refused() {
        let refused = written(1000, &[1 << 60, 1]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::InvalidData));
    }
}
