//! Moments in Postgres: microseconds on the wire, as the store counts them.

use eventuali::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// Microseconds since 1970, as a `TIMESTAMPTZ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Micros(pub(crate) i64);

/// From 1970-01-01 to 2000-01-01, where Postgres begins to count.
const EPOCH: i64 = 946_684_800_000_000;

/// What Postgres can say: from 4713 BC on, up to a year beyond the last one of the store.
const SAYABLE: std::ops::Range<i64> = -210_866_803_200_000_000..i64::MAX;

const INFINITY: i64 = i64::MAX;
const MINUS_INFINITY: i64 = i64::MIN;

/// The column's value; what it cannot say is an infinity there, with the number beside it.
pub(crate) fn moment(timestamp: Timestamp) -> (Micros, Option<i64>) {
    if SAYABLE.contains(&timestamp.0) {
        return (Micros(timestamp.0), None);
    }
    (Micros(if timestamp.0 < 0 { MINUS_INFINITY } else { INFINITY }), Some(timestamp.0))
}

impl Micros {
    /// Microseconds since 2000, or an infinity.
    pub(crate) fn on_the_wire(self) -> i64 {
        if self.0 == INFINITY || self.0 == MINUS_INFINITY { self.0 } else { self.0 - EPOCH }
    }
}

impl Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for Micros {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_timestamptz")
    }
}

impl Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'_, Postgres>>::encode(self.on_the_wire(), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Micros {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a moment came as text".into());
        }
        let wire = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Self(if wire == INFINITY || wire == MINUS_INFINITY { wire } else { wire + EPOCH }))
    }
}
