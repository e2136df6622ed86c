use std::io;

use proptest::prelude::*;

use super::*;
use crate::log::format::put;
use crate::log::storage::{Access, MemoryStorage, Space, Storage, StorageFile};

const NAME: &str = "index/1-2.run";
const IDENTITY: [u8; layout::IDENTITY_BYTES] = [7; layout::IDENTITY_BYTES];
const SUMMARY: [u8; layout::SUMMARY_BYTES] = [8; layout::SUMMARY_BYTES];

/// Writes a file with these sections: length of the entries, and the bytes of all of them.
fn write_sections(storage: &dyn Storage, sections: &[(usize, Vec<u8>)]) {
    write(storage, NAME, (FileKind::Run, &IDENTITY, &SUMMARY), |writer| {
        (1..).zip(sections).try_for_each(|(id, (entry_bytes, bytes))| {
            writer.section(id, *entry_bytes)?;
            bytes.chunks_exact(*entry_bytes).try_for_each(|entry| writer.push(entry))?;
            let (pages, section) = writer.read_back()?;
            assert!(pages.iter(&section, <[u8]>::to_vec).map(|entry| entry.expect("an entry")).eq(bytes.chunks_exact(*entry_bytes)));
            Ok::<_, io::Error>(())
        })
    })
    .expect("memory");
}

fn open(storage: &dyn Storage) -> Result<PagedFile, IndexProblem> {
    PagedFile::open(storage, NAME, FileKind::Run, &IDENTITY)
}

fn reason<T>(result: Result<T, IndexProblem>) -> &'static str {
    match result {
        Err(IndexProblem::Damaged(reason)) => reason,
        Err(problem) => panic!("{problem:?}"),
        Ok(_) => "",
    }
}

proptest! {
    #[test]
    fn every_range_of_every_section_is_read_as_it_was_written(
        sections in proptest::collection::vec((1..100_usize, proptest::collection::vec(any::<u8>(), 0..20_000)), 0..5),
        from in 0..1000_u64,
        count in 0..1000_u64,
    ) {
        let storage = MemoryStorage::new();
        let sections: Vec<_> = sections.into_iter().map(|(entry_bytes, mut bytes)| {
            bytes.truncate(bytes.len() / entry_bytes * entry_bytes);
            (entry_bytes, bytes)
        }).collect();
        write_sections(&storage, &sections);
        let file = open(&storage).expect("a file");
        file.check().expect("whole");
        prop_assert_eq!(file.summary, SUMMARY);
        for (id, (entry_bytes, bytes)) in (1..).zip(&sections) {
            let section = file.section(id, *entry_bytes).expect("the section");
            let mut read = Vec::new();
            let result = file.pages.each(&section, from..from + count, &mut Page::new(), |entry| {
                read.extend_from_slice(entry);
                Ok(())
            });
            let entries = (bytes.len() / entry_bytes) as u64;
            prop_assert_eq!(section.count, entries);
            if from + count <= entries {
                let at = usize::try_from(from).expect("small") * entry_bytes;
                prop_assert!(result.is_ok() && read == bytes[at..at + usize::try_from(count).expect("small") * entry_bytes]);
            } else {
                prop_assert_eq!(reason(result), "it has fewer entries than are asked for");
            }
        }
    }

    #[test]
    fn a_hash_is_found_wherever_it_stands_and_with_all_its_entries(
        mut hashes in proptest::collection::vec(prop_oneof![any::<u64>(), 0..9_u64, Just(u64::MAX), Just(1 << 40)], 0..3000),
        others in proptest::collection::vec(prop_oneof![any::<u64>(), 0..9_u64], 20),
    ) {
        hashes.sort_unstable();
        let storage = MemoryStorage::new();
        let entries: Vec<u8> = (0_u64..).zip(&hashes).flat_map(|(at, hash)| [hash.to_le_bytes(), at.to_le_bytes()].concat()).collect();
        write_sections(&storage, &[(16, entries)]);
        let file = open(&storage).expect("a file");
        let section = file.section(1, 16).expect("the section");
        for hash in hashes.iter().step_by(hashes.len() / 50 + 1).chain(&others).chain([&1, &u64::MAX, &0, &(1 << 40)]) {
            let mut found = Vec::new();
            file.pages.find(&section, *hash, |entry| found.push(entry[8..].to_vec())).expect("a search");
            let expected: Vec<_> = (0_u64..).zip(&hashes).filter(|(_, other)| *other == hash).map(|(at, _)| at.to_le_bytes().to_vec()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

/// Puts a head in place of the file's own, with a checksum that matches.
fn with_head(change: impl Fn(&mut [u8; layout::PAGE_BYTES])) -> &'static str {
    let storage = MemoryStorage::new();
    write_sections(&storage, &[(16, vec![1; 160])]);
    let file = storage.open(NAME, Access::Write).expect("memory");
    let mut page = [0; layout::PAGE_BYTES];
    file.read_at(&mut page, 0).expect("memory");
    change(&mut page);
    let sum = page_checksum(INDEX_SEED, 0, &page);
    put(&mut page, layout::CHECKSUM, sum.to_le_bytes());
    file.write_at(&page, 0).expect("memory");
    reason(open(&storage).map(|_| ()))
}

#[test]
fn a_head_that_promises_what_is_not_there_is_damaged() {
    const TABLE: usize = layout::HEAD_BYTES;
    assert_eq!(with_head(|_| {}), "");
    let length = "its length does not match its contents";
    for pages in [0, 1, 3, u64::MAX, 1 << 52, (1 << 52) + 2] {
        assert_eq!(with_head(|page| put(page, layout::PAGES, u64::to_le_bytes(pages))), length);
    }
    let table = "its table of sections does not match its length";
    for count in [256, u64::MAX, 1 << 40] {
        assert_eq!(with_head(|page| put(page, TABLE + layout::COUNT, u64::to_le_bytes(count))), table);
    }
    for first in [0, 2, u64::MAX] {
        assert_eq!(with_head(|page| put(page, TABLE + layout::FIRST_PAGE, u64::to_le_bytes(first))), table);
    }
    for bytes in [0, 4093, u32::MAX] {
        assert_eq!(with_head(|page| put(page, TABLE + layout::ENTRY_BYTES, u32::to_le_bytes(bytes))), table);
    }
    for sections in [2, u32::MAX] {
        assert_eq!(with_head(|page| put(page, layout::SECTIONS, u32::to_le_bytes(sections))), table);
    }
    assert_eq!(with_head(|page| put(page, layout::VERSION, u32::to_le_bytes(2))), "it is of another version");
    assert_eq!(with_head(|page| put(page, layout::KIND, u32::to_le_bytes(1))), "it is an index of another kind");
    assert_eq!(with_head(|page| page[layout::IDENTITY + 127] = 0), "it was made from another log");
    assert_eq!(with_head(|page| page[0] = 0), "it does not begin as an index does");
}

#[test]
fn a_page_is_valid_in_its_place_and_its_file_alone() {
    let storage = MemoryStorage::new();
    write_sections(&storage, &[(1, vec![1; layout::CHECKSUM * 2])]);
    let file = storage.open(NAME, Access::Write).expect("memory");
    let mut page = [0; layout::PAGE_BYTES];
    file.read_at(&mut page, layout::PAGE_BYTES as u64).expect("memory");
    let mut other = [0; layout::PAGE_BYTES];
    file.read_at(&mut other, 2 * layout::PAGE_BYTES as u64).expect("memory");
    assert_eq!(page[..layout::CHECKSUM], other[..layout::CHECKSUM]);
    for stale in [page, [0; layout::PAGE_BYTES], [0xFF; layout::PAGE_BYTES]] {
        file.write_at(&stale, 2 * layout::PAGE_BYTES as u64).expect("memory");
        assert_eq!(reason(open(&storage).expect("a file").check()), "the checksum of a page does not match");
    }
    assert_ne!(page_checksum(seed_of(&IDENTITY), 1, &page), page_checksum(seed_of(&[9; layout::IDENTITY_BYTES]), 1, &page));
}

#[test]
fn more_sections_than_fit_are_refused() {
    let storage = MemoryStorage::new();
    let write_some =
        |count: usize| write(&storage, NAME, (FileKind::Run, &IDENTITY, &SUMMARY), |writer| (0..count).try_for_each(|_| writer.section(1, 1)));
    write_some(layout::SECTIONS_MAX).expect("just enough");
    assert_eq!(write_some(layout::SECTIONS_MAX + 1).map_err(|error: io::Error| error.kind()), Err(io::ErrorKind::InvalidInput));
    open(&storage).expect("the file that was there before");
    assert_eq!(storage.list("index").expect("memory"), ["1-2.run"]);
}

/// A file on a disk that answers nothing.
struct Unreadable;

impl StorageFile for Unreadable {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::Error::other("unreadable"))
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::Error::other("unwritable"))
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn length(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn set_length(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn secure_space(&self, _: u64, _: u64, _: Space) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_disk_says_is_told_and_ends_an_iteration() {
    let pages = Pages::new(std::sync::Arc::new(Unreadable), 0);
    let section = Section { id: 1, entry_bytes: 8, first_page: 1, count: 1000 };
    let answers: Vec<_> = pages.iter(&section, <[u8]>::len).collect();
    assert!(matches!(&answers[..], [Err(IndexProblem::Io(error))] if error.to_string() == "unreadable"));
}
