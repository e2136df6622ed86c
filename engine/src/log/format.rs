//! Every magic number, offset and limit of the file format, once.

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
