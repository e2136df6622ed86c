//! Mistakes that a store could make, and a store that makes them: the proof that the suite finds them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::event::{DataFormat, Event, EventData, Json, NewEvent, StreamKey};
use crate::store::{AppendBatch, Capabilities, Completion, EventReader, EventStore, ReadAll, ReadStream, Receipt, StoreIdentity, StreamInfo};
use crate::testing::Home;
use crate::testing::model::{later, reader};
use crate::version::{AggregateVersion, ExpectedVersion, Position};

/// A mistake that a store could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// Event ids are not looked up: a repeated append is stored twice.
    EventIdsNotChecked,
    /// Only the ids of the last thousand events are looked up.
    OldEventIdsForgotten,
    /// The expected version is checked before the event ids.
    VersionCheckedBeforeIds,
    /// A known id with another payload passes for a repetition.
    PayloadsNotCompared,
    /// A repeated append is answered with the present version.
    RetryAnsweredWithThePresent,
    /// An id that stands twice in a batch is stored twice.
    IdsWithinBatchNotCompared,
    /// Every append leaves a position out.
    GapInPositions,
    /// The expected version is not checked.
    ExpectedVersionIgnored,
    /// `Exists` is accepted by every stream.
    ExistsIgnored,
    /// Later entries of a batch do not see the versions of earlier ones.
    BatchBlindToItself,
    /// What comes before the failing stream of a batch stays stored.
    BatchNotAtomic,
    /// A stream takes events under another aggregate type.
    AggregateTypeIgnored,
    /// Streams of the same id in different tenants are one.
    TenantIgnored,
    /// An append to several streams answers with the receipt of the first for all.
    ReceiptsMixedUp,
    /// `limit` gives one event more.
    LimitOffByOne,
    /// `limit` is counted before the filters.
    LimitBeforeFilters,
    /// `after` includes.
    AfterIncludes,
    /// `before` includes.
    BeforeIncludes,
    /// Backwards, `after` and `before` trade places.
    BoundsTurnBackwards,
    /// The filter by aggregate type is forgotten.
    AggregateTypeFilterIgnored,
    /// A reader goes on to events appended after its beginning.
    ReadersFollow,
    /// `head` is one behind.
    HeadLags,
    /// Descriptions of streams tell the last position of the store.
    LastPositionOfStore,
    /// Aggregate ids are compared without regard to case.
    IdsFoldCase,
    /// Names that begin with `$` are taken.
    DollarTaken,
    /// JSON is written anew.
    JsonRewritten,
    /// Tags are sorted.
    TagsSorted,
    /// Every event gets the time of its commit.
    TimestampsOverwritten,
    /// A payload that is too large is cut.
    PayloadCut,
    /// An append begins when it is called, not when it is polled.
    AppendsEagerly,
    /// A closed store goes on.
    CloseForgotten,
    /// The check of the version and the append are two steps.
    CheckedOutsideTheLock,
    /// The events of a batch become visible one by one.
    BatchVisibleInParts,
    /// The last event is lost when the store is opened again.
    LastEventLostOnReopening,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::EventIdsNotChecked,
        Self::OldEventIdsForgotten,
        Self::VersionCheckedBeforeIds,
        Self::PayloadsNotCompared,
        Self::RetryAnsweredWithThePresent,
        Self::IdsWithinBatchNotCompared,
        Self::GapInPositions,
        Self::ExpectedVersionIgnored,
        Self::ExistsIgnored,
        Self::BatchBlindToItself,
        Self::BatchNotAtomic,
        Self::AggregateTypeIgnored,
        Self::TenantIgnored,
        Self::ReceiptsMixedUp,
        Self::LimitOffByOne,
        Self::LimitBeforeFilters,
        Self::AfterIncludes,
        Self::BeforeIncludes,
        Self::BoundsTurnBackwards,
        Self::AggregateTypeFilterIgnored,
        Self::ReadersFollow,
        Self::HeadLags,
        Self::LastPositionOfStore,
        Self::IdsFoldCase,
        Self::DollarTaken,
        Self::JsonRewritten,
        Self::TagsSorted,
        Self::TimestampsOverwritten,
        Self::PayloadCut,
        Self::AppendsEagerly,
        Self::CloseForgotten,
        Self::CheckedOutsideTheLock,
        Self::BatchVisibleInParts,
        Self::LastEventLostOnReopening,
    ];

    /// The case of the suite that must find it.
    #[must_use]
    pub fn found_by(self) -> &'static str {
        match self {
            Self::EventIdsNotChecked => "a_repeated_append_returns_the_first_receipts_and_stores_nothing",
            Self::OldEventIdsForgotten => "a_repeated_append_is_recognised_thousands_of_events_later",
            Self::VersionCheckedBeforeIds => "a_repeated_append_is_recognised_before_its_version_is_checked",
            Self::PayloadsNotCompared => "an_event_id_with_another_payload_is_refused",
            Self::RetryAnsweredWithThePresent => "a_repeated_append_to_several_streams_returns_the_first_receipts",
            Self::IdsWithinBatchNotCompared => "an_event_id_twice_in_a_batch_is_refused",
            Self::GapInPositions => "positions_are_gapless_and_versions_count_within_each_stream",
            Self::ExpectedVersionIgnored => "append_with_a_stale_version_conflicts",
            Self::ExistsIgnored => "an_existing_stream_is_required_by_exists",
            Self::BatchBlindToItself => "a_stream_that_stands_twice_in_a_batch_sees_its_own_earlier_events",
            Self::BatchNotAtomic => "append_to_several_streams_stores_nothing_if_one_of_them_conflicts",
            Self::AggregateTypeIgnored => "the_aggregate_type_is_settled_by_the_first_event",
            Self::TenantIgnored => "the_same_aggregate_id_in_two_tenants_is_two_streams",
            Self::ReceiptsMixedUp => "append_to_several_streams_is_one_atomic_step",
            Self::LimitOffByOne => "limit_counts_events_from_the_end_where_reading_begins",
            Self::LimitBeforeFilters => "filters_combine_with_each_other_and_with_bounds_and_limit",
            Self::AfterIncludes | Self::BeforeIncludes | Self::BoundsTurnBackwards => "after_and_before_exclude_in_both_directions",
            Self::AggregateTypeFilterIgnored => "aggregate_types_filter_what_is_read",
            Self::ReadersFollow => "a_reader_ends_at_the_head_of_its_beginning",
            Self::HeadLags => "the_head_is_the_last_position",
            Self::LastPositionOfStore => "a_stream_is_described_without_reading_it",
            Self::IdsFoldCase => "names_that_look_alike_are_different_streams",
            Self::DollarTaken => "names_that_begin_with_a_dollar_are_refused",
            Self::JsonRewritten => "json_payloads_keep_every_byte",
            Self::TagsSorted => "metadata_tags_and_schema_version_are_kept",
            Self::TimestampsOverwritten => "a_given_timestamp_is_kept",
            Self::PayloadCut => "a_payload_of_16_mib_is_kept_and_one_byte_more_refused",
            Self::AppendsEagerly => "an_append_that_is_dropped_before_its_first_poll_stores_nothing",
            Self::CloseForgotten => "a_closed_store_refuses_everything",
            Self::CheckedOutsideTheLock => "one_of_64_threads_wins_each_version",
            Self::BatchVisibleInParts => "readers_see_whole_batches_while_writers_go_on",
            Self::LastEventLostOnReopening => "everything_is_there_after_reopening",
        }
    }
}

/// The home of a sound store, whose handles make one mistake.
pub struct PlantedHome<H> {
    home: H,
    bug: PlantedBug,
    opened_before: AtomicBool,
}

impl<H: Home> PlantedHome<H> {
    /// Plants a bug in the stores of `home`.
    pub fn new(home: H, bug: PlantedBug) -> Self {
        Self { home, bug, opened_before: AtomicBool::new(false) }
    }
}

impl<H: Home> Home for PlantedHome<H> {
    fn open(&self) -> Arc<dyn EventStore> {
        let opened_before = self.opened_before.swap(true, Ordering::SeqCst);
        Arc::new(Planted { store: self.home.open(), bug: self.bug, opened_before, appended: Arc::default() })
    }
}

/// A store that alters what is asked of a sound one, or what that answers.
#[derive(Clone)]
struct Planted {
    store: Arc<dyn EventStore>,
    bug: PlantedBug,
    opened_before: bool,
    appended: Arc<Mutex<Vec<NewEvent>>>,
}

impl EventStore for Planted {
    fn append(&self, batch: AppendBatch) -> Completion<Vec<Receipt>> {
        let planted = self.clone();
        if self.bug == PlantedBug::AppendsEagerly {
            return Completion::ready(planted.append_now(batch));
        }
        later(move || planted.append_now(batch))
    }

    fn read(&self, mut query: ReadStream) -> EventReader {
        match self.bug {
            PlantedBug::AfterIncludes => query.after = query.after.map(|after| AggregateVersion(after.0.saturating_sub(1))),
            PlantedBug::BeforeIncludes => query.before = query.before.map(|before| AggregateVersion(before.0.saturating_add(1))),
            PlantedBug::BoundsTurnBackwards if query.backwards => std::mem::swap(&mut query.after, &mut query.before),
            PlantedBug::LimitOffByOne => query.limit = query.limit.map(|limit| limit.saturating_add(1)),
            PlantedBug::TenantIgnored => query.tenant.clear(),
            PlantedBug::IdsFoldCase => query.aggregate_id.make_ascii_lowercase(),
            PlantedBug::ReadersFollow => {
                let store = Arc::clone(&self.store);
                return reader(move || store.read(query).collect());
            }
            _ => {}
        }
        self.alter_events(self.store.read(query))
    }

    fn read_all(&self, mut query: ReadAll) -> EventReader {
        match self.bug {
            PlantedBug::AfterIncludes => query.after = query.after.map(|after| Position(after.0.saturating_sub(1))),
            PlantedBug::BeforeIncludes => query.before = query.before.map(|before| Position(before.0.saturating_add(1))),
            PlantedBug::BoundsTurnBackwards if query.backwards => std::mem::swap(&mut query.after, &mut query.before),
            PlantedBug::LimitOffByOne => query.limit = query.limit.map(|limit| limit.saturating_add(1)),
            PlantedBug::LimitBeforeFilters => return self.read_limited_before_filtered(query),
            PlantedBug::AggregateTypeFilterIgnored => query.aggregate_types.clear(),
            PlantedBug::ReadersFollow => {
                let store = Arc::clone(&self.store);
                return reader(move || store.read_all(query).collect());
            }
            PlantedBug::LastEventLostOnReopening if self.opened_before => query.before = self.store.head().wait().ok(),
            _ => {}
        }
        self.alter_events(self.store.read_all(query))
    }

    fn stream(&self, key: StreamKey<'_>) -> Completion<Option<StreamInfo>> {
        let (tenant, mut aggregate_id) = (key.tenant.to_owned(), key.aggregate_id.to_owned());
        if self.bug == PlantedBug::IdsFoldCase {
            aggregate_id.make_ascii_lowercase();
        }
        let planted = self.clone();
        later(move || {
            let tenant = if planted.bug == PlantedBug::TenantIgnored { "" } else { &tenant };
            let mut found = planted.store.stream(StreamKey { tenant, aggregate_id: &aggregate_id }).wait()?;
            if let Some(info) = &mut found
                && planted.bug == PlantedBug::LastPositionOfStore
            {
                info.last_position = planted.store.head().wait()?;
            }
            Ok(found)
        })
    }

    fn head(&self) -> Completion<Position> {
        let planted = self.clone();
        later(move || {
            let head = planted.store.head().wait()?;
            Ok(if planted.bug == PlantedBug::HeadLags { Position(head.0.saturating_sub(1)) } else { head })
        })
    }

    fn durable_position(&self) -> Completion<Position> {
        self.store.durable_position()
    }

    fn sync(&self) -> Completion<Position> {
        self.store.sync()
    }

    fn close(&self) -> Completion<()> {
        if self.bug == PlantedBug::CloseForgotten { Completion::ready(Ok(())) } else { self.store.close() }
    }

    fn identity(&self) -> Completion<StoreIdentity> {
        self.store.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

/// Long enough for other threads to come between two steps that should have been one.
const BETWEEN_TWO_STEPS: Duration = Duration::from_millis(2);

impl Planted {
    fn append_now(&self, mut batch: AppendBatch) -> Result<Vec<Receipt>> {
        self.alter_streams(&mut batch)?;
        self.alter_new_events(&mut batch);
        self.appended.lock().extend(batch.streams.iter().flat_map(|stream| stream.events.iter().cloned()));
        let appended = match self.bug {
            PlantedBug::BatchVisibleInParts => self.append_in_parts(&batch),
            PlantedBug::BatchNotAtomic => self.store.append(batch.clone()).wait().or_else(|_| self.append_in_parts(&batch)),
            _ => self.store.append(batch.clone()).wait(),
        };
        let mut receipts = appended?;
        for (receipt, stream) in receipts.iter_mut().zip(&batch.streams) {
            match self.bug {
                PlantedBug::RetryAnsweredWithThePresent => receipt.version = self.version(&batch.tenant, &stream.aggregate_id)?,
                PlantedBug::GapInPositions => receipt.position.0 *= 2,
                _ => {}
            }
        }
        if self.bug == PlantedBug::ReceiptsMixedUp {
            receipts = receipts.iter().map(|_| receipts[0].clone()).collect();
        }
        Ok(receipts)
    }

    fn append_in_parts(&self, batch: &AppendBatch) -> Result<Vec<Receipt>> {
        let mut receipts = Vec::new();
        for stream in &batch.streams {
            let part = AppendBatch { tenant: batch.tenant.clone(), streams: vec![stream.clone()] };
            receipts.extend(self.store.append(part).wait()?);
            std::thread::sleep(BETWEEN_TWO_STEPS);
        }
        Ok(receipts)
    }

    fn version(&self, tenant: &str, aggregate_id: &str) -> Result<AggregateVersion> {
        let found = self.store.stream(StreamKey { tenant, aggregate_id }).wait()?;
        Ok(found.map_or(AggregateVersion::NONE, |info| info.version))
    }

    /// Checks the expectations ahead of the append, which then has none.
    fn check_ahead(&self, batch: &mut AppendBatch) -> Result<()> {
        for stream in &mut batch.streams {
            let actual = self.version(&batch.tenant, &stream.aggregate_id)?;
            if !stream.expected.accepts(actual) {
                return Err(Error::Conflict { aggregate_id: stream.aggregate_id.clone(), expected: stream.expected, actual, deleted: false });
            }
            stream.expected = ExpectedVersion::Any;
        }
        Ok(())
    }

    fn alter_streams(&self, batch: &mut AppendBatch) -> Result<()> {
        match self.bug {
            PlantedBug::VersionCheckedBeforeIds | PlantedBug::BatchBlindToItself => self.check_ahead(batch)?,
            PlantedBug::CheckedOutsideTheLock => {
                self.check_ahead(batch)?;
                std::thread::sleep(BETWEEN_TWO_STEPS);
            }
            PlantedBug::TenantIgnored => batch.tenant.clear(),
            _ => {}
        }
        for stream in &mut batch.streams {
            match (self.bug, stream.expected) {
                (PlantedBug::ExpectedVersionIgnored, _) | (PlantedBug::ExistsIgnored, ExpectedVersion::Exists) => {
                    stream.expected = ExpectedVersion::Any;
                }
                (PlantedBug::AggregateTypeIgnored, _) => "Whatever".clone_into(&mut stream.aggregate_type),
                (PlantedBug::IdsFoldCase, _) => stream.aggregate_id.make_ascii_lowercase(),
                (PlantedBug::DollarTaken, _) => stream.aggregate_id = stream.aggregate_id.replace('$', "_"),
                _ => {}
            }
        }
        Ok(())
    }

    fn alter_new_events(&self, batch: &mut AppendBatch) {
        let appended = self.appended.lock();
        let remembered = if self.bug == PlantedBug::OldEventIdsForgotten { 1000 } else { 0 };
        let mut in_batch = HashSet::new();
        for event in batch.streams.iter_mut().flat_map(|stream| &mut stream.events) {
            let stored_at = appended.iter().position(|stored| stored.id == event.id);
            match (self.bug, stored_at) {
                (PlantedBug::EventIdsNotChecked | PlantedBug::OldEventIdsForgotten, Some(at)) if at + remembered < appended.len() => {
                    event.id = Uuid::now_v7();
                }
                (PlantedBug::PayloadsNotCompared, Some(at)) => event.data = appended[at].data.clone(),
                (PlantedBug::IdsWithinBatchNotCompared, _) if !in_batch.insert(event.id) => event.id = Uuid::now_v7(),
                (PlantedBug::TagsSorted, _) => event.tags.sort(),
                (PlantedBug::TimestampsOverwritten, _) => event.timestamp = None,
                (PlantedBug::JsonRewritten, _) => rewrite_json(&mut event.data),
                (PlantedBug::PayloadCut, _) => cut(&mut event.data),
                _ => {}
            }
        }
    }

    fn alter_events(&self, read: EventReader) -> EventReader {
        if self.bug != PlantedBug::GapInPositions {
            return read;
        }
        reader(move || read.map(|event| event.map(|event| Event { position: Position(event.position.0 * 2), ..event })).collect())
    }

    fn read_limited_before_filtered(&self, query: ReadAll) -> EventReader {
        let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        let unfiltered = ReadAll { event_types: Vec::new(), aggregate_types: Vec::new(), ..query.clone() };
        let read = self.store.read_all(unfiltered);
        reader(move || {
            let mut events = read.collect::<Result<Vec<_>>>()?;
            events.retain(|event| named(&query.event_types, event.event_type()) && named(&query.aggregate_types, event.aggregate_type()));
            Ok(events)
        })
    }
}

fn rewrite_json(data: &mut EventData) {
    if data.format() == DataFormat::Json
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(data.as_bytes())
        && let Ok(json) = Json::from_value(&value)
    {
        *data = EventData::Json(json);
    }
}

/// Cuts a payload to the limit, so that one that is too large is taken.
fn cut(data: &mut EventData) {
    if let EventData::Protobuf(bytes) = data {
        bytes.truncate(16 << 20);
    }
}
