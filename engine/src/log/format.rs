//! Every magic number, offset and limit of the file format, once; pure encoding and decoding.
//!
//! `docs/file-format.md` says the same in words; a test compares the two. Integers are little-endian.

use uuid::Uuid;

/// The version of the format that this release writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// The oldest version of the format whose readers can read what this release writes.
pub(crate) const READABLE_FROM: u32 = 1;

/// The largest payload, in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// The largest metadata of an event, in bytes of text (each header counts 16 more).
pub(crate) const METADATA_BYTES_MAX: usize = 64 << 10;
/// The longest aggregate id, type or tenant, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 512;
/// The longest tag, in bytes.
pub(crate) const TAG_BYTES_MAX: usize = 256;
/// How many tags an event may have.
pub(crate) const TAGS_MAX: usize = 32;
/// How many events an append may have.
pub(crate) const BATCH_EVENTS_MAX: usize = 65_536;
/// The largest append: all its record bodies together, in bytes.
pub(crate) const BATCH_BYTES_MAX: usize = 64 << 20;

/// Frames begin at multiples of this, so that the next one can be found after damage in linear time.
pub(crate) const FRAME_ALIGN: usize = 8;

/// The seed of the checksums of record bodies, which are made before the segment is known.
pub(crate) const BODY_SEED: u32 = 0x4556_424F;
/// The seed of the checksums of tables and of other frames' bodies.
pub(crate) const TABLE_SEED: u32 = 0x4556_5442;
/// The seed of the checksums of segment headers, manifest and watermark.
pub(crate) const FILE_SEED: u32 = 0x4556_464C;
/// The seed of the checksums of the first pages of index files, and of the seed of their other pages.
pub(crate) const INDEX_SEED: u32 = 0x4556_4958;

/// The file at the head of every segment.
pub(crate) mod segment_header {
    /// The first bytes of a segment (8 bytes).
    pub(crate) const MAGIC_BYTES: [u8; 8] = *b"EVTLISEG";
    /// Magic (8 bytes).
    pub(crate) const MAGIC: usize = 0;
    /// Format version (u32).
    pub(crate) const FORMAT_VERSION: usize = MAGIC + 8;
    /// Oldest format version that can read it (u32).
    pub(crate) const READABLE_FROM: usize = FORMAT_VERSION + 4;
    /// Store id (16 bytes).
    pub(crate) const STORE_ID: usize = READABLE_FROM + 4;
    /// Salt of this segment's header checksums (u64).
    pub(crate) const SALT: usize = STORE_ID + 16;
    /// Sequence number: 1, 2, 3, … (u64).
    pub(crate) const SEQUENCE: usize = SALT + 8;
    /// Generation: 0 as written, more when rewritten (u32).
    pub(crate) const GENERATION: usize = SEQUENCE + 8;
    /// Epoch of the writer that began it (u32).
    pub(crate) const EPOCH: usize = GENERATION + 4;
    /// LSN of its first frame (u64).
    pub(crate) const BASE_LSN: usize = EPOCH + 4;
    /// Position of its first event (u64).
    pub(crate) const BASE_POSITION: usize = BASE_LSN + 8;
    /// Header checksum of the last frame before the predecessor's seal; 0 in the first segment (u32).
    pub(crate) const ANCHOR: usize = BASE_POSITION + 8;
    /// How the rest of the file holds the frames (u32).
    pub(crate) const ENCODING: usize = ANCHOR + 4;
    /// Checksum of all bytes before it (u32).
    pub(crate) const CHECKSUM: usize = BYTES - 4;
    /// Length of the header; the first frame follows.
    pub(crate) const BYTES: usize = 4096;
}

/// How a segment file holds its frames.
pub(crate) mod encoding {
    /// One after the other, as they were written.
    pub(crate) const PLAIN: u32 = 0;
    /// In compressed blocks: a dictionary, blocks, a table of them and a footer.
    pub(crate) const BLOCKS: u32 = 1;
}

/// The head of every frame.
pub(crate) mod frame_header {
    /// The first bytes of a frame, as a number.
    pub(crate) const MAGIC_NUMBER: u32 = 0x4652_5645;
    /// Magic (u32).
    pub(crate) const MAGIC: usize = 0;
    /// Kind (u8).
    pub(crate) const KIND: usize = MAGIC + 4;
    /// Flags (u8).
    pub(crate) const FLAGS: usize = KIND + 1;
    /// Reserved, 0 (u16).
    pub(crate) const RESERVED: usize = FLAGS + 1;
    /// LSN of this frame (u64).
    pub(crate) const LSN: usize = RESERVED + 2;
    /// Epoch (u32).
    pub(crate) const EPOCH: usize = LSN + 8;
    /// Number of records (u32).
    pub(crate) const COUNT: usize = EPOCH + 4;
    /// Position of the first event; without events, that of the next (u64).
    pub(crate) const BASE_POSITION: usize = COUNT + 4;
    /// Commit time in microseconds since 1970-01-01 UTC (i64).
    pub(crate) const COMMIT_TIME: usize = BASE_POSITION + 8;
    /// The LSN below which everything was known to be on disk when this frame was built (u64).
    pub(crate) const DURABLE_UPTO: usize = COMMIT_TIME + 8;
    /// Header checksum of the frame before (u32).
    pub(crate) const PREVIOUS: usize = DURABLE_UPTO + 8;
    /// Length of what follows the table, without padding (u32).
    pub(crate) const BODY_BYTES: usize = PREVIOUS + 4;
    /// Checksum of the table; in a frame without records, of its body (u32).
    pub(crate) const TABLE_CHECKSUM: usize = BODY_BYTES + 4;
    /// Checksum of the header up to here, seeded with the segment's salt (u32).
    pub(crate) const CHECKSUM: usize = TABLE_CHECKSUM + 4;
    /// Length of the header.
    pub(crate) const BYTES: usize = CHECKSUM + 4;
    /// The flag of kinds that a reader who does not know them may skip.
    pub(crate) const IGNORABLE: u8 = 1;
}

/// An entry of a frame's table of records.
pub(crate) mod record_entry {
    /// Distance from the start of this entry to the record's body (u32).
    pub(crate) const BODY_OFFSET: usize = 0;
    /// Length of the body (u32).
    pub(crate) const BODY_BYTES: usize = BODY_OFFSET + 4;
    /// Checksum of the body, with a fixed seed (u32).
    pub(crate) const BODY_CHECKSUM: usize = BODY_BYTES + 4;
    /// Position, as its distance from the frame's base position (u32).
    pub(crate) const POSITION_DELTA: usize = BODY_CHECKSUM + 4;
    /// Aggregate version (u64).
    pub(crate) const VERSION: usize = POSITION_DELTA + 4;
    /// Timestamp in microseconds since 1970-01-01 UTC (i64).
    pub(crate) const TIMESTAMP: usize = VERSION + 8;
    /// What became of the body; a set bit that is not known makes the record unreadable (u32).
    pub(crate) const FLAGS: usize = TIMESTAMP + 8;
    /// Checksum of the entry up to here, seeded with the segment's salt (u32).
    pub(crate) const CHECKSUM: usize = FLAGS + 4;
    /// Length of an entry.
    pub(crate) const BYTES: usize = CHECKSUM + 4;
    /// The flag of records that were taken out: the body is zeros.
    pub(crate) const REMOVED: u32 = 1;
}

/// The fixed part of a record body.
pub(crate) mod body {
    /// How the payload is to be read (u8).
    pub(crate) const FORMAT: usize = 0;
    /// The value of `FORMAT` for JSON.
    pub(crate) const FORMAT_JSON: u8 = 0;
    /// The value of `FORMAT` for Protobuf.
    pub(crate) const FORMAT_PROTOBUF: u8 = 1;
    /// Reserved flags, 0 (u8).
    pub(crate) const FLAGS: usize = FORMAT + 1;
    /// Length of the tenant (u16).
    pub(crate) const TENANT_BYTES: usize = FLAGS + 1;
    /// Length of the aggregate id (u16).
    pub(crate) const AGGREGATE_ID_BYTES: usize = TENANT_BYTES + 2;
    /// Length of the aggregate type (u16).
    pub(crate) const AGGREGATE_TYPE_BYTES: usize = AGGREGATE_ID_BYTES + 2;
    /// Length of the event type (u16).
    pub(crate) const EVENT_TYPE_BYTES: usize = AGGREGATE_TYPE_BYTES + 2;
    /// Reserved, 0 (u16).
    pub(crate) const RESERVED: usize = EVENT_TYPE_BYTES + 2;
    /// The version of the payload's schema (u32).
    pub(crate) const SCHEMA_VERSION: usize = RESERVED + 2;
    /// The event's id (16 bytes).
    pub(crate) const ID: usize = SCHEMA_VERSION + 4;
    /// Length of metadata and tags (u32).
    pub(crate) const EXTRAS_BYTES: usize = ID + 16;
    /// Where the names begin: tenant, aggregate id, aggregate type, event type, then metadata and tags, then the payload.
    pub(crate) const NAMES: usize = EXTRAS_BYTES + 4;
    /// The largest metadata and tags, encoded.
    pub(crate) const EXTRAS_BYTES_MAX: usize = 96 << 10;
}

/// The body of a seal.
pub(crate) mod seal_body {
    /// Header checksum of the last frame before the seal, as first written: the next segment's anchor (u32).
    pub(crate) const ANCHOR: usize = 0;
    /// Reserved, 0 (u32).
    pub(crate) const RESERVED: usize = ANCHOR + 4;
    /// Position of the first event after this segment (u64).
    pub(crate) const END_POSITION: usize = RESERVED + 4;
    /// Length.
    pub(crate) const BYTES: usize = END_POSITION + 8;
}

/// What a frame is. 5, 6 and 7 are reserved for index checkpoints (ignorable), hash chains (ignorable) and compressed blocks (required).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// One append request's events.
    Events = 1,
    /// The end of a segment.
    Seal = 2,
    /// A writer begins: its epoch is in the header.
    Epoch = 3,
    /// The writer closed the store in order.
    Close = 4,
}

/// Room kept at the end of every segment for an epoch, a clean close and a seal.
pub(crate) const TAIL_RESERVE: u64 = 3 * (frame_header::BYTES as u64) + seal_body::BYTES as u64;

/// Sets the bytes at an offset.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// The bytes at an offset.
pub(crate) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}

/// The checksum of `bytes` from a seed.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The seed that a segment's salt gives to the checksums of its frames.
pub(crate) fn segment_seed(salt: u64) -> u32 {
    checksum(FILE_SEED, &salt.to_le_bytes())
}

/// The next multiple of the frame alignment.
pub(crate) fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(FRAME_ALIGN as u64)
}

/// How much room a frame of events has before its bodies.
pub(crate) fn events_frame_room(count: usize) -> usize {
    frame_header::BYTES + count * record_entry::BYTES
}

/// How long a frame of events is.
pub(crate) fn events_frame_bytes(count: usize, body_bytes: usize) -> u64 {
    aligned((events_frame_room(count) + body_bytes) as u64)
}

/// The head of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store_id: Uuid,
    pub(crate) salt: u64,
    pub(crate) sequence: u64,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
    pub(crate) base_lsn: u64,
    pub(crate) base_position: u64,
    pub(crate) anchor: u32,
    /// One of [`encoding`], or one that only a newer release knows.
    pub(crate) encoding: u32,
}

/// Why the head of a file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadProblem {
    /// Not what it should be: magic or checksum do not match.
    Damaged(&'static str),
    /// Written in a format that this release does not know.
    Version { found: u32, readable_from: u32 },
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        use segment_header as at;
        let mut bytes = vec![0; at::BYTES];
        put(&mut bytes, at::MAGIC, at::MAGIC_BYTES);
        put(&mut bytes, at::FORMAT_VERSION, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, at::READABLE_FROM, READABLE_FROM.to_le_bytes());
        put(&mut bytes, at::STORE_ID, *self.store_id.as_bytes());
        put(&mut bytes, at::SALT, self.salt.to_le_bytes());
        put(&mut bytes, at::SEQUENCE, self.sequence.to_le_bytes());
        put(&mut bytes, at::GENERATION, self.generation.to_le_bytes());
        put(&mut bytes, at::EPOCH, self.epoch.to_le_bytes());
        put(&mut bytes, at::BASE_LSN, self.base_lsn.to_le_bytes());
        put(&mut bytes, at::BASE_POSITION, self.base_position.to_le_bytes());
        put(&mut bytes, at::ANCHOR, self.anchor.to_le_bytes());
        put(&mut bytes, at::ENCODING, self.encoding.to_le_bytes());
        let sum = checksum(FILE_SEED, &bytes[..at::CHECKSUM]);
        put(&mut bytes, at::CHECKSUM, sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeadProblem> {
        use segment_header as at;
        if bytes.len() < at::BYTES {
            return Err(HeadProblem::Damaged("the file is shorter than a segment's header"));
        }
        if bytes[at::MAGIC..at::MAGIC + 8] != at::MAGIC_BYTES {
            return Err(HeadProblem::Damaged("it does not begin as a segment does"));
        }
        if checksum(FILE_SEED, &bytes[..at::CHECKSUM]) != u32::from_le_bytes(get(bytes, at::CHECKSUM)) {
            return Err(HeadProblem::Damaged("the checksum of the segment's header does not match"));
        }
        check_version(u32::from_le_bytes(get(bytes, at::FORMAT_VERSION)), u32::from_le_bytes(get(bytes, at::READABLE_FROM)))?;
        let (base_lsn, base_position) = (u64::from_le_bytes(get(bytes, at::BASE_LSN)), u64::from_le_bytes(get(bytes, at::BASE_POSITION)));
        let sequence = u64::from_le_bytes(get(bytes, at::SEQUENCE));
        if !is_plausible(sequence, base_lsn, base_position) {
            return Err(HeadProblem::Damaged("the segment's header holds numbers that no log reaches"));
        }
        Ok(Self {
            store_id: Uuid::from_bytes(get(bytes, at::STORE_ID)),
            salt: u64::from_le_bytes(get(bytes, at::SALT)),
            sequence,
            generation: u32::from_le_bytes(get(bytes, at::GENERATION)),
            epoch: u32::from_le_bytes(get(bytes, at::EPOCH)),
            base_lsn,
            base_position,
            anchor: u32::from_le_bytes(get(bytes, at::ANCHOR)),
            encoding: u32::from_le_bytes(get(bytes, at::ENCODING)),
        })
    }

    /// The seed of this segment's frame checksums.
    pub(crate) fn seed(&self) -> u32 {
        segment_seed(self.salt)
    }
}

/// Whether a log can have got this far: what is larger would overflow sooner or later, and nobody has written that much.
pub(crate) fn is_plausible(sequence: u64, lsn: u64, position: u64) -> bool {
    sequence < 1 << 62 && lsn < 1 << 62 && (1..1 << 62).contains(&position)
}

/// Whether this release can read a file whose version is `found`.
pub(crate) fn check_version(found: u32, readable_from: u32) -> Result<(), HeadProblem> {
    if readable_from > FORMAT_VERSION || found == 0 { Err(HeadProblem::Version { found, readable_from }) } else { Ok(()) }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) lsn: u64,
    pub(crate) epoch: u32,
    pub(crate) count: u32,
    pub(crate) base_position: u64,
    pub(crate) commit_time: i64,
    pub(crate) durable_upto: u64,
    pub(crate) previous: u32,
    pub(crate) body_bytes: u32,
    pub(crate) table_checksum: u32,
    pub(crate) checksum: u32,
}

impl FrameHeader {
    /// Reads a header whose checksum matches; everything else is `None`.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        use frame_header as at;
        if bytes.len() < at::BYTES || u32::from_le_bytes(get(bytes, at::MAGIC)) != at::MAGIC_NUMBER {
            return None;
        }
        let sum = u32::from_le_bytes(get(bytes, at::CHECKSUM));
        if checksum(seed, &bytes[..at::CHECKSUM]) != sum {
            return None;
        }
        Some(Self {
            kind: bytes[at::KIND],
            flags: bytes[at::FLAGS],
            lsn: u64::from_le_bytes(get(bytes, at::LSN)),
            epoch: u32::from_le_bytes(get(bytes, at::EPOCH)),
            count: u32::from_le_bytes(get(bytes, at::COUNT)),
            base_position: u64::from_le_bytes(get(bytes, at::BASE_POSITION)),
            commit_time: i64::from_le_bytes(get(bytes, at::COMMIT_TIME)),
            durable_upto: u64::from_le_bytes(get(bytes, at::DURABLE_UPTO)),
            previous: u32::from_le_bytes(get(bytes, at::PREVIOUS)),
            body_bytes: u32::from_le_bytes(get(bytes, at::BODY_BYTES)),
            table_checksum: u32::from_le_bytes(get(bytes, at::TABLE_CHECKSUM)),
            checksum: sum,
        })
    }

    /// The length of the whole frame, padding included.
    pub(crate) fn frame_bytes(&self) -> u64 {
        aligned(frame_header::BYTES as u64 + u64::from(self.count) * record_entry::BYTES as u64 + u64::from(self.body_bytes))
    }

    pub(super) fn encode(&self, seed: u32, out: &mut [u8]) -> u32 {
        use frame_header as at;
        put(out, at::MAGIC, at::MAGIC_NUMBER.to_le_bytes());
        out[at::KIND] = self.kind;
        out[at::FLAGS] = self.flags;
        put(out, at::RESERVED, [0; 2]);
        put(out, at::LSN, self.lsn.to_le_bytes());
        put(out, at::EPOCH, self.epoch.to_le_bytes());
        put(out, at::COUNT, self.count.to_le_bytes());
        put(out, at::BASE_POSITION, self.base_position.to_le_bytes());
        put(out, at::COMMIT_TIME, self.commit_time.to_le_bytes());
        put(out, at::DURABLE_UPTO, self.durable_upto.to_le_bytes());
        put(out, at::PREVIOUS, self.previous.to_le_bytes());
        put(out, at::BODY_BYTES, self.body_bytes.to_le_bytes());
        put(out, at::TABLE_CHECKSUM, self.table_checksum.to_le_bytes());
        let sum = checksum(seed, &out[..at::CHECKSUM]);
        put(out, at::CHECKSUM, sum.to_le_bytes());
        sum
    }
}

/// One record of a frame, as its table describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RecordEntry {
    pub(crate) body_offset: u32,
    pub(crate) body_bytes: u32,
    pub(crate) body_checksum: u32,
    pub(crate) position_delta: u32,
    pub(crate) version: u64,
    pub(crate) timestamp: i64,
    pub(crate) flags: u32,
}

impl RecordEntry {
    /// Whether the record was taken out: its position and version are left, its body is zeros.
    pub(crate) fn is_removed(&self) -> bool {
        self.flags & record_entry::REMOVED != 0
    }

    /// Whether it has flags that only a newer release knows.
    pub(crate) fn is_unknown(&self) -> bool {
        self.flags & !record_entry::REMOVED != 0
    }

    /// Reads an entry; the caller has checked the table that holds it.
    pub(crate) fn decode_trusted(bytes: &[u8]) -> Self {
        use record_entry as at;
        Self {
            body_offset: u32::from_le_bytes(get(bytes, at::BODY_OFFSET)),
            body_bytes: u32::from_le_bytes(get(bytes, at::BODY_BYTES)),
            body_checksum: u32::from_le_bytes(get(bytes, at::BODY_CHECKSUM)),
            position_delta: u32::from_le_bytes(get(bytes, at::POSITION_DELTA)),
            version: u64::from_le_bytes(get(bytes, at::VERSION)),
            timestamp: i64::from_le_bytes(get(bytes, at::TIMESTAMP)),
            flags: u32::from_le_bytes(get(bytes, at::FLAGS)),
        }
    }

    /// Reads an entry whose own checksum matches; everything else is `None`.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        use record_entry as at;
        let sum = u32::from_le_bytes(get(bytes, at::CHECKSUM));
        (checksum(seed, &bytes[..at::CHECKSUM]) == sum).then(|| Self::decode_trusted(bytes))
    }

    /// Writes all but the checksum.
    pub(super) fn encode(&self, out: &mut [u8]) {
        use record_entry as at;
        put(out, at::BODY_OFFSET, self.body_offset.to_le_bytes());
        put(out, at::BODY_BYTES, self.body_bytes.to_le_bytes());
        put(out, at::BODY_CHECKSUM, self.body_checksum.to_le_bytes());
        put(out, at::POSITION_DELTA, self.position_delta.to_le_bytes());
        put(out, at::VERSION, self.version.to_le_bytes());
        put(out, at::TIMESTAMP, self.timestamp.to_le_bytes());
        put(out, at::FLAGS, self.flags.to_le_bytes());
    }
}

/// The body of a seal.
pub(crate) fn encode_seal(anchor: u32, end_position: u64) -> [u8; seal_body::BYTES] {
    let mut bytes = [0; seal_body::BYTES];
    put(&mut bytes, seal_body::ANCHOR, anchor.to_le_bytes());
    put(&mut bytes, seal_body::END_POSITION, end_position.to_le_bytes());
    bytes
}

/// A seal's anchor and end position; `None` if it is not a seal's body.
pub(crate) fn decode_seal(bytes: &[u8]) -> Option<(u32, u64)> {
    (bytes.len() == seal_body::BYTES)
        .then(|| (u32::from_le_bytes(get(bytes, seal_body::ANCHOR)), u64::from_le_bytes(get(bytes, seal_body::END_POSITION))))
}
