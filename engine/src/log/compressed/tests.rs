//! Any bytes come back, and no numbers that a file claims are believed.

use proptest::prelude::*;
use uuid::Uuid;

use super::cache::Cache;
use super::*;
use crate::log::storage::{MemoryStorage, Space};

/// A segment that holds these bytes behind its header.
fn segment(storage: &MemoryStorage, contents: &[u8]) -> Segment {
    let header = SegmentHeader {
        store_id: Uuid::from_u128(7),
        salt: 42,
        sequence: 1,
        generation: 0,
        epoch: 1,
        base_lsn: 0,
        base_position: 1,
        anchor: 0,
        encoding: encoding::PLAIN,
    };
    let segment = Segment::prepare(storage, header, START, Space::Written).expect("memory");
    segment.publish(storage).expect("memory");
    segment.file.write_at(contents, START).expect("memory");
    segment
}

/// Words of a small vocabulary, as events have them, with something random in between.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let word = (0..40_u32, any::<u16>()).prop_map(|(word, number)| format!("{{\"word-{word}\": {number}, \"{}\"", "same ".repeat(word as usize)));
    (proptest::collection::vec(word, 200..1500), 0..8_usize).prop_map(|(words, cut)| {
        let mut bytes = words.concat().into_bytes();
        bytes.truncate(bytes.len() - cut);
        bytes
    })
}

/// Compresses a segment; the header and the file of what it became.
fn compressed(storage: &MemoryStorage, contents: &[u8]) -> (SegmentHeader, Arc<dyn StorageFile>) {
    let Compressed::Prepared(prepared) = compress(storage, &segment(storage, contents), &|| false).expect("compressed") else {
        panic!("it is worth it")
    };
    prepared.publish(storage).expect("memory");
    (prepared.header, storage.open(&prepared.name, Access::Read).expect("it is there"))
}

fn bytes_of(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.length().expect("memory")).expect("small")];
    read_exact_at(file, &mut bytes, 0).expect("memory");
    bytes
}

fn is_damage<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| Damage::of(&error).is_some())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_range_reads_as_it_was(contents in contents(), ranges in proptest::collection::vec((0..400_000_u64, 0..70_000_usize), 1..30)) {
        let storage = MemoryStorage::new();
        let (header, file) = compressed(&storage, &contents);
        let whole = [&header.encode()[..], &contents].concat();
        // So small that blocks are thrown out again.
        let file = CompressedFile::open_with(file, &header, Arc::new(Cache::new(100_000))).expect("opened");
        prop_assert_eq!(file.length().expect("memory"), whole.len() as u64);
        prop_assert!(bytes_of(&file) == whole);
        for (at, count) in ranges {
            let at = at % (whole.len() as u64 + 100);
            let mut bytes = vec![0; count];
            let read = file.read_at(&mut bytes, at).expect("memory");
            let from = usize::try_from(at).expect("small").min(whole.len());
            prop_assert!(bytes[..read] == whole[from..(from + count).min(whole.len())]);
        }
    }

    #[test]
    fn numbers_with_valid_checksums_are_not_believed(
        (plain_bytes, table_offset) in (any::<u64>(), any::<u64>()),
        (block_bytes, dictionary_bytes) in (any::<u32>(), any::<u32>()),
        which in 0..16_u8,
        entry in (any::<u64>(), any::<u32>()),
    ) {
        let storage = MemoryStorage::new();
        let (header, file) = compressed(&storage, &b"the same again and again; ".repeat(4000));
        let mut bytes = bytes_of(&*file);
        let seed = layout::blocks_seed(&header);
        let footer_at = bytes.len() - footer::FOOTER_BYTES;
        let honest = Footer::decode(&bytes[footer_at..], seed, bytes.len() as u64).expect("honest");
        let table = usize::try_from(honest.table_offset).expect("small");
        let mut lying = honest;
        lying.plain_bytes = if which & 1 > 0 { plain_bytes } else { honest.plain_bytes };
        lying.table_offset = if which & 2 > 0 { table_offset } else { honest.table_offset };
        lying.block_bytes = if which & 4 > 0 { block_bytes } else { honest.block_bytes };
        lying.dictionary_bytes = if which & 8 > 0 { dictionary_bytes } else { honest.dictionary_bytes };
        if which == 0 {
            let lie = BlockEntry { offset: entry.0, bytes: entry.1, checksum: 0 };
            bytes[table..table + table_page::PAGE_BYTES].copy_from_slice(&layout::encode_table(seed, &[lie]));
        }
        bytes[footer_at..].copy_from_slice(&lying.encode(seed));
        let file = storage.create("lying").expect("memory");
        file.write_at(&bytes, 0).expect("memory");
        match CompressedFile::open_with(file, &header, Arc::new(Cache::new(100_000))) {
            Err(error) => prop_assert!(Damage::of(&error).is_some()),
            Ok(file) => prop_assert!(is_damage(file.read_at(&mut [0; 100], START))),
        }
    }
}

#[test]
fn a_block_in_the_place_of_another_is_damage() {
    let storage = MemoryStorage::new();
    let contents: Vec<u8> = (0..20_000).flat_map(|number: u32| format!("{number:>8} ").into_bytes()).collect();
    let (header, file) = compressed(&storage, &contents);
    let mut bytes = bytes_of(&*file);
    let footer_at = bytes.len() - footer::FOOTER_BYTES;
    let seed = layout::blocks_seed(&header);
    let table = usize::try_from(Footer::decode(&bytes[footer_at..], seed, bytes.len() as u64).expect("honest").table_offset).expect("small");
    let entries: Vec<BlockEntry> =
        (0..contents.len().div_ceil(BLOCK_BYTES as usize)).map(|index| BlockEntry::in_page(&bytes[table..], index)).collect();
    let mut swapped = entries.clone();
    swapped.swap(0, 1);
    bytes[table..table + table_page::PAGE_BYTES].copy_from_slice(&layout::encode_table(seed, &swapped));
    file.write_at(&bytes, 0).expect("memory");
    let file = CompressedFile::open(file, &header).expect("the footer is as it was");
    assert!(is_damage(file.read_at(&mut [0; 10], START)));
    assert!(file.read_at(&mut [0; 10], START + 2 * u64::from(BLOCK_BYTES)).is_ok());
}

#[test]
fn who_reads_on_reads_what_was_decoded_ahead() {
    let storage = MemoryStorage::new();
    let contents: Vec<u8> = (0..300_000).flat_map(|number: u32| format!("{number:>8} ").into_bytes()).collect();
    let (header, file) = compressed(&storage, &contents);
    let whole = [&header.encode()[..], &contents].concat();
    let footer_at = usize::try_from(file.length().expect("memory")).expect("small") - footer::FOOTER_BYTES;
    let footer = Footer::decode(&bytes_of(&*file)[footer_at..], layout::blocks_seed(&header), (footer_at + footer::FOOTER_BYTES) as u64);
    let table = footer.expect("honest").table_offset;
    for damaged in [None, Some(table / 2)] {
        if let Some(at) = damaged {
            let mut byte = [0];
            read_exact_at(&*file, &mut byte, at).expect("memory");
            file.write_at(&[byte[0] ^ 1], at).expect("memory");
        }
        for cache_bytes in [100_000, 16 << 20] {
            let file = CompressedFile::open_with(Arc::clone(&file), &header, Arc::new(Cache::new(cache_bytes))).expect("opened");
            let (mut at, mut damages, piece) = (0, 0, 70_000);
            while at < whole.len() {
                let mut bytes = vec![0; piece.min(whole.len() - at)];
                match read_exact_at(&file, &mut bytes, at as u64) {
                    Ok(()) => assert!(bytes == whole[at..at + bytes.len()], "from {at} on"),
                    Err(error) => {
                        assert!(Damage::of(&error).is_some(), "{error}");
                        damages += 1;
                    }
                }
                // As readers do, which come back to what did not fit a batch.
                at += piece - 3000;
            }
            // A piece may begin in the damaged block that the one before has ended in.
            assert_eq!((1..=2).contains(&damages), damaged.is_some(), "{damages}");
        }
    }
}

#[test]
fn a_compressed_segment_is_never_changed() {
    let storage = MemoryStorage::new();
    let (header, file) = compressed(&storage, &b"the same again and again; ".repeat(4000));
    let file = CompressedFile::open(file, &header).expect("opened");
    assert!(file.write_at(b"x", START).is_err());
    assert!(file.set_length(START).is_err());
    assert!(file.secure_space(0, 1 << 20, Space::Written).is_err());
}

#[test]
fn what_was_compressed_can_be_made_plain_again() {
    let storage = MemoryStorage::new();
    let contents = b"the same again and again; ".repeat(4000);
    let (header, _) = compressed(&storage, &contents);
    let Ok(segment) = Segment::attach(&storage, &file_name(1, 1), Access::Read) else { panic!("it attaches") };
    let plain = unpack(&storage, &segment, START + 1000, uuid::Uuid::from_u128(9)).expect("unpacked");
    plain.publish(&storage).expect("memory");
    assert_eq!((plain.header.generation, plain.header.encoding), (header.generation + 1, encoding::PLAIN));
    assert_eq!(plain.header.store_id.as_u128(), 9, "whoever rewrites it to go on owns it");
    let file = storage.open(&plain.name, Access::Read).expect("there");
    assert_eq!(bytes_of(&*file)[segment_header_bytes()..], contents[..1000]);
}

fn segment_header_bytes() -> usize {
    usize::try_from(START).expect("small")
}
