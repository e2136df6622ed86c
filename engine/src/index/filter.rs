//! Whether a hash may be in a set: a Bloom filter in blocks of 512 bits, so that one page of its file answers.
//!
//! "No" is certain. "Yes" is wrong for fewer than one in a hundred hashes that are not in it.

use super::file::{IndexProblem, Page, Pages, Section, Writer};
use crate::log::format::get;

/// Length of a block.
pub(crate) const BLOCK_BYTES: usize = 64;
/// How many bits there are for each key.
pub(crate) const BITS_PER_KEY: u64 = 12;
/// How many bits of its block a key sets.
pub(crate) const PROBES: usize = 7;
/// What a hash is multiplied with, to get the bits in the block from it.
pub(crate) const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

type Block = [u64; BLOCK_BYTES / 8];

/// A filter in memory.
pub(crate) struct Filter {
    blocks: Vec<Block>,
}

fn blocks_for(keys: u64) -> u64 {
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
    if section.count == 0 {
        return Ok(false);
    }
    let at = block_of(hash, section.count);
    let mut answer = false;
    pages.each(section, at..at + 1, &mut Page::new(), |entry| {
        answer = holds(&decode(entry), &bits_of(hash));
        Ok(())
    })?;
    Ok(answer)
}

impl Filter {
    /// Reads a filter into memory.
    pub(crate) fn load(pages: &Pages, section: &Section) -> Result<Self, IndexProblem> {
        let blocks = pages.iter(section, decode).collect::<Result<_, _>>()?;
        Ok(Self { blocks })
    }

    /// Whether the set may hold this hash.
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        let at = usize::try_from(block_of(hash, self.blocks.len() as u64)).unwrap_or(0);
        self.blocks.get(at).is_some_and(|block| holds(block, &bits_of(hash)))
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
    fn all_keys_are_in_it_and_fewer_than_one_in_a_hundred_others() {
        let mut keys = hashes(1, 50_000);
        keys.sort_unstable();
        let (file, section) = written(50_000, &keys).expect("memory");
        assert_eq!(section.count, (50_000_u64 * BITS_PER_KEY).div_ceil(512));
        let filter = Filter::load(&file.pages, &section).expect("a filter");
        assert!(keys.iter().all(|hash| filter.may_hold(*hash)));
        assert!(keys.iter().step_by(100).all(|hash| may_hold(&file.pages, &section, *hash).expect("a page")));
        let others = hashes(2, 50_000);
        let wrong = others.iter().filter(|hash| filter.may_hold(**hash)).count();
        assert!(wrong < 500, "{wrong}");
        for hash in others.iter().step_by(100) {
            assert_eq!(may_hold(&file.pages, &section, *hash).expect("a page"), filter.may_hold(*hash));
        }
    }

    #[test]
    fn few_keys_none_and_those_at_the_edges_are_kept() {
        for keys in [&[][..], &[0], &[u64::MAX], &[0, 1, u64::MAX - 1, u64::MAX]] {
            for room in [keys.len() as u64, 1000] {
                let (file, section) = written(room, keys).expect("memory");
                let filter = Filter::load(&file.pages, &section).expect("a filter");
                assert!(keys.iter().all(|hash| filter.may_hold(*hash) && may_hold(&file.pages, &section, *hash).expect("a page")));
                assert!(!filter.may_hold(0x1234_5678) && !may_hold(&file.pages, &section, 0x1234_5678).expect("a page"));
            }
        }
    }

    #[test]
    fn keys_that_are_not_sorted_are_refused() {
        let refused = written(1000, &[1 << 60, 1]).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::InvalidData));
    }
}
