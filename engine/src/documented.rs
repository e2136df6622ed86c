//! Whether `docs/file-format.md` says what the code says.

use std::collections::BTreeMap;

use crate::index::{file, filter, run, sealed};
use crate::log::compressed::{BLOCK_BYTES_RANGE, BLOCK_EXTRA_BYTES_MAX, DICTIONARY_BYTES_MAX, block_entry, footer, table_page};
use crate::log::format::{self, body, frame_header, record_entry, seal_body, segment_header};
use crate::log::{lineage, manifest, watermark};
use crate::retention::{DELETED, RETENTION, SYSTEM};

const DOCUMENT: &str = include_str!("../../docs/file-format.md");

/// The rows of the tables under a heading: the cells of each.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, section) = DOCUMENT.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n#").next().unwrap_or_default();
    section.lines().filter(|line| line.starts_with('|')).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Offset and length of each field in the table under a heading.
fn layout(heading: &str) -> BTreeMap<&'static str, (usize, usize)> {
    let field = |row: Vec<&'static str>| Some((row[2], (row[0].parse().ok()?, row[1].parse().ok()?)));
    rows(heading).into_iter().filter(|row| row.len() == 4).filter_map(field).collect()
}

macro_rules! fields {
    ($module:path: $($name:ident $bytes:literal),+) => {{
        use $module as at;
        BTreeMap::from([$((stringify!($name), (at::$name, $bytes))),+])
    }};
}

#[test]
fn every_layout_is_documented_as_it_is() {
    let of_segment = fields!(segment_header: MAGIC 8, FORMAT_VERSION 4, READABLE_FROM 4, STORE_ID 16, SALT 8, SEQUENCE 8, GENERATION 4, EPOCH 4, BASE_LSN 8, BASE_POSITION 8, ANCHOR 4, ENCODING 4, CHECKSUM 4);
    assert_eq!(layout("## Segment header"), of_segment);
    let of_frame = fields!(frame_header: MAGIC 4, KIND 1, FLAGS 1, RESERVED 2, LSN 8, EPOCH 4, COUNT 4, BASE_POSITION 8, COMMIT_TIME 8, DURABLE_UPTO 8, PREVIOUS 4, BODY_BYTES 4, TABLE_CHECKSUM 4, CHECKSUM 4);
    assert_eq!(layout("### Frame header"), of_frame);
    let of_entry = fields!(record_entry: BODY_OFFSET 4, BODY_BYTES 4, BODY_CHECKSUM 4, POSITION_DELTA 4, VERSION 8, TIMESTAMP 8, FLAGS 4, CHECKSUM 4);
    assert_eq!(layout("### Record entry"), of_entry);
    let of_body = fields!(body: FORMAT 1, FLAGS 1, TENANT_BYTES 2, AGGREGATE_ID_BYTES 2, AGGREGATE_TYPE_BYTES 2, EVENT_TYPE_BYTES 2, RESERVED 2, SCHEMA_VERSION 4, ID 16, EXTRAS_BYTES 4);
    assert_eq!(layout("### Record body"), of_body);
    let of_seal = fields!(seal_body: ANCHOR 4, RESERVED 4, END_POSITION 8);
    assert_eq!(layout("### Seal body"), of_seal);
    let of_block_entry = fields!(block_entry: OFFSET 8, BYTES 4, CHECKSUM 4);
    assert_eq!(layout("### Block entry"), of_block_entry);
    assert_eq!(layout("### Table page"), fields!(table_page: PAGE 4, RESERVED 8, CHECKSUM 4));
    let of_footer =
        fields!(footer: MAGIC 8, PLAIN_BYTES 8, TABLE_OFFSET 8, BLOCK_BYTES 4, DICTIONARY_BYTES 4, DICTIONARY_CHECKSUM 4, RESERVED 24, CHECKSUM 4);
    assert_eq!(layout("### Blocks footer"), of_footer);
    let of_manifest =
        fields!(manifest::layout: MAGIC 8, FORMAT_VERSION 4, READABLE_FROM 4, STORE_ID 16, EPOCH 4, SEGMENTS 4, LINEAGE_BYTES 4, SCAVENGED_BYTES 4);
    assert_eq!(layout("## Manifest"), of_manifest);
    let of_manifest_entry = fields!(manifest::layout: SEQUENCE 8, GENERATION 4, SEALED 4, BASE_LSN 8, BASE_POSITION 8, END_LSN 8, DIGEST 32);
    assert_eq!(layout("### Manifest entry"), of_manifest_entry);
    assert_eq!(layout("### Manifest ancestor"), fields!(lineage::layout: STORE_ID 16, END_LSN 8, POSITION 8));
    let of_watermark = fields!(watermark::layout: MAGIC 4, EPOCH 4, SEQUENCE 8, STORE_ID 16, SEGMENT 8, DURABLE_LSN 8, VISIBLE_LSN 8, DURABLE_POSITION 8, VISIBLE_POSITION 8, RESERVED 4, CHECKSUM 4);
    assert_eq!(layout("## Watermark"), of_watermark);
}

#[test]
fn every_layout_of_an_index_is_documented_as_it_is() {
    let of_head = fields!(file::layout: MAGIC 8, VERSION 4, KIND 4, PAGES 8, SECTIONS 4, RESERVED 4, IDENTITY 128, SUMMARY 96);
    assert_eq!(layout("## Index files"), of_head);
    assert_eq!(layout("### Section entry"), fields!(file::layout: ID 4, ENTRY_BYTES 4, FIRST_PAGE 8, COUNT 8));
    let of_identity = fields!(sealed::identity: STORE_ID 16, SEQUENCE 8, SALT 8, BASE_LSN 8, END_LSN 8, BASE_POSITION 8, END_POSITION 8);
    assert_eq!(layout("### Segment index: identity"), of_identity);
    assert_eq!(layout("### Segment index: summary"), fields!(sealed::summary: SMALLEST_ID 16, LARGEST_ID 16));
    assert_eq!(layout("### Segment index: event"), fields!(sealed::event: PLACE 4, KIND 2));
    let of_stream = fields!(sealed::stream: HASH 8, FIRST_VERSION 8, PREVIOUS_SEGMENT 8, AGGREGATE_TYPE 4, COUNT 4, SLOTS_AT 4, RESERVED 4);
    assert_eq!(layout("### Segment index: stream"), of_stream);
    assert_eq!(layout("### Segment index: id"), fields!(sealed::id: HASH 8, SLOT 4));
    assert_eq!(layout("### Segment index: aggregate type"), fields!(sealed::aggregate_type: TEXT 4, TEXT_BYTES 4));
    assert_eq!(layout("### Run: identity"), fields!(run::identity: STORE_ID 16, FIRST_SEGMENT 8, LAST_SEGMENT 8, MEMBERS 8));
    assert_eq!(layout("### Run: summary"), fields!(run::summary: SMALLEST_ID 16, LARGEST_ID 16));
    assert_eq!(layout("### Run: stream"), fields!(run::stream: HASH 8, NEWEST_SEGMENT 4));
    assert_eq!(layout("### Run: part"), fields!(run::id_part: FIRST_SEGMENT 8, LAST_SEGMENT 8, BLOCKS 8, SMALLEST_ID 16, LARGEST_ID 16));
    assert_eq!(layout("### Segment index: kind"), fields!(sealed::kind: AGGREGATE_TYPE 4, COUNT 4, TEXT 4, TEXT_BYTES 4));
}

/// Number and name of each section in the table under a heading.
fn sections(heading: &str) -> Vec<(u32, &'static str)> {
    rows(heading).into_iter().filter_map(|row| Some((row[0].parse().ok()?, row[1]))).collect()
}

macro_rules! sections {
    ($module:path: $($name:ident),+) => {{
        use $module as at;
        vec![$((at::$name, stringify!($name))),+]
    }};
}

#[test]
fn every_section_and_number_of_an_index_is_documented_as_it_is() {
    let of_segment = sections!(sealed::section: EVENTS, STREAMS, SLOTS, IDS, STREAM_FILTER, ID_FILTER, AGGREGATE_TYPES, KINDS, TEXT, TAGS);
    assert_eq!(sections("### Segment index: sections"), of_segment);
    assert_eq!(sections("### Run: sections"), sections!(run::section: STREAMS, STREAM_FILTER, ID_FILTERS, ID_PARTS));
    let stated = [
        format!("`{}`", String::from_utf8_lossy(&file::layout::MAGIC_BYTES)),
        format!("version of index files: {};", file::layout::VERSION_NUMBER),
        format!("pages of {} bytes", file::layout::PAGE_BYTES),
        format!("its first {} bytes", file::layout::CHECKSUM),
        format!("{}: of a segment", file::FileKind::Segment as u32),
        format!("{}: of a run", file::FileKind::Run as u32),
        format!("blocks of {} bytes", filter::BLOCK_BYTES),
        format!("{} bits for each key", filter::BITS_PER_KEY),
        format!("sets {} bits", filter::PROBES),
        format!("0x{:X}", filter::MULTIPLIER),
        format!("{} if that has none", sealed::kind::OVERFLOW),
        format!("{} if its record was taken out", sealed::kind::REMOVED),
    ];
    for statement in stated {
        assert!(DOCUMENT.contains(&statement), "{statement}");
    }
}

#[test]
fn the_fields_fill_their_layouts() {
    let ends = |heading: &str| layout(heading).values().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
    let lengths = [
        ("## Segment header", segment_header::BYTES),
        ("### Frame header", frame_header::BYTES),
        ("### Record entry", record_entry::BYTES),
        ("### Record body", body::NAMES),
        ("### Seal body", seal_body::BYTES),
        ("### Block entry", block_entry::ENTRY_BYTES),
        ("### Table page", table_page::PAGE_BYTES),
        ("### Blocks footer", footer::FOOTER_BYTES),
        ("## Manifest", manifest::layout::HEAD_BYTES),
        ("### Manifest entry", manifest::layout::ENTRY_BYTES),
        ("### Manifest ancestor", lineage::layout::ENTRY_BYTES),
        ("## Watermark", watermark::layout::BYTES),
        ("## Index files", file::layout::HEAD_BYTES),
        ("### Section entry", file::layout::SECTION_BYTES),
        ("### Segment index: identity", sealed::identity::BYTES),
        ("### Segment index: summary", sealed::summary::BYTES),
        ("### Segment index: event", sealed::event::BYTES),
        ("### Segment index: stream", sealed::stream::BYTES),
        ("### Segment index: id", sealed::id::BYTES),
        ("### Segment index: aggregate type", sealed::aggregate_type::BYTES),
        ("### Segment index: kind", sealed::kind::BYTES),
        ("### Run: identity", run::identity::BYTES),
        ("### Run: summary", run::summary::BYTES),
        ("### Run: stream", run::stream::BYTES),
        ("### Run: part", run::id_part::BYTES),
    ];
    for (heading, length) in lengths {
        assert_eq!(ends(heading), length, "{heading}");
    }
}

#[test]
fn every_number_is_documented_as_it_is() {
    let values = |heading: &str| -> BTreeMap<&str, &str> { rows(heading).into_iter().map(|row| (row[0], row[1])).collect() };
    let limits = values("## Limits");
    for (name, limit) in [
        ("PAYLOAD_BYTES_MAX", format::PAYLOAD_BYTES_MAX),
        ("METADATA_BYTES_MAX", format::METADATA_BYTES_MAX),
        ("NAME_BYTES_MAX", format::NAME_BYTES_MAX),
        ("TAG_BYTES_MAX", format::TAG_BYTES_MAX),
        ("TAGS_MAX", format::TAGS_MAX),
        ("BATCH_EVENTS_MAX", format::BATCH_EVENTS_MAX),
        ("BATCH_BYTES_MAX", format::BATCH_BYTES_MAX),
        ("DICTIONARY_BYTES_MAX", DICTIONARY_BYTES_MAX as usize),
        ("BLOCK_EXTRA_BYTES_MAX", BLOCK_EXTRA_BYTES_MAX as usize),
    ] {
        assert_eq!(limits.get(name), Some(&&*limit.to_string()), "{name}");
    }
    let seeds = values("## Checksums");
    for (name, seed) in
        [("FILE_SEED", format::FILE_SEED), ("TABLE_SEED", format::TABLE_SEED), ("BODY_SEED", format::BODY_SEED), ("INDEX_SEED", format::INDEX_SEED)]
    {
        assert_eq!(seeds.get(name), Some(&&*format!("0x{seed:08X}")), "{name}");
    }
    let stated = [
        format!("Version {}.", format::FORMAT_VERSION),
        format!("0x{:08X}: the bytes `EVRF`", frame_header::MAGIC_NUMBER),
        format!("0x{:08X}: the bytes `EVWM`", watermark::layout::MAGIC_NUMBER),
        format!("`{}`", String::from_utf8_lossy(&segment_header::MAGIC_BYTES)),
        format!("`{}`", String::from_utf8_lossy(&footer::MAGIC_BYTES)),
        format!("a multiple of 8, from {} to {}", BLOCK_BYTES_RANGE.0, BLOCK_BYTES_RANGE.1),
        format!("A page of the table has {} of them", table_page::ENTRIES),
        format!("`{}`", String::from_utf8_lossy(&manifest::layout::MAGIC_BYTES)),
        format!("{} for each ancestor, of which there are at most {}", lineage::layout::ENTRY_BYTES, lineage::ANCESTORS_MAX),
        format!("at bytes 0 and {}", watermark::layout::SLOT_DISTANCE),
        format!("bit {}: the record was taken out", record_entry::REMOVED.trailing_zeros()),
        format!("| `{DELETED}` |"),
        format!("| `{RETENTION}` |"),
        format!("whose aggregate id is `{SYSTEM}`"),
    ];
    for statement in stated {
        assert!(DOCUMENT.contains(&statement), "{statement}");
    }
    assert_eq!((frame_header::MAGIC_NUMBER.to_le_bytes(), watermark::layout::MAGIC_NUMBER.to_le_bytes()), (*b"EVRF", *b"EVWM"));
    for (kind, number) in
        [("events", format::Kind::Events), ("seal", format::Kind::Seal), ("epoch", format::Kind::Epoch), ("close", format::Kind::Close)]
    {
        let documented =
            rows("### Frame header").into_iter().any(|row| row.len() == 3 && row[0] == (number as u8).to_string() && row[1].starts_with(kind));
        assert!(documented, "{kind}");
    }
}

#[test]
fn a_checksum_continues_from_its_seed_as_zlib_does() {
    // zlib.crc32(b"123456789", 0x4556464C), computed with Python's standard library.
    assert_eq!(format::checksum(0, b"123456789"), 0xCBF4_3926);
    assert_eq!(format::checksum(format::FILE_SEED, b"123456789"), 0x0330_450D);
}
