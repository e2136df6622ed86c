import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from eventuali import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AggregateNotFoundError,
    AggregateTypeError,
    ConfigurationError,
    ConflictError,
    EventIdConflictError,
    EventMetadata,
    EventStore,
    InvalidNameError,
    LimitExceededError,
    OptimisticConcurrencyError,
    StreamAppend,
)
from tests.counting import Counted, Counter, Lamp, Renamed, counted

pytestmark = pytest.mark.anyio


async def test_a_save_is_acknowledged_with_a_receipt(store: EventStore) -> None:
    await store.save(counted(2, "first"))
    receipt = await store.save(counted(3, "second"))
    assert (receipt.aggregate_id, receipt.position, receipt.version, receipt.events) == ("second", 5, 3, 3)
    assert receipt.durability == store.capabilities().durability
    assert repr(receipt).startswith('<Receipt "second": 3 event(s), version 3, position 5')


async def test_saved_events_have_a_position_and_metadata(store: EventStore) -> None:
    counter = counted(2)
    events = counter.pending_events
    metadata = EventMetadata(correlation_id="request-7", headers={"tenant": "blue"})
    await store.save(counter, metadata=metadata)
    assert [event.position for event in events] == [1, 2]
    assert events[0].metadata.correlation_id == "request-7"
    assert counter.pending_events == ()
    stored = [event async for event in store.read(counter.id)]
    assert [event.metadata.headers for event in stored] == [{"tenant": "blue"}] * 2
    assert [event.event_id for event in stored] == [event.event_id for event in events]
    assert [event.timestamp for event in stored] == [event.timestamp for event in events]


async def test_a_save_with_nothing_pending_writes_nothing(store: EventStore) -> None:
    counter = counted(2)
    await store.save(counter)
    receipt = await store.save(counter)
    assert (receipt.events, receipt.version, receipt.position) == (0, 2, 2)
    assert await store.head() == 2


async def test_a_conflict_names_the_true_numbers_and_keeps_the_pending_events(store: EventStore) -> None:
    counter = counted(1)
    await store.save(counter)
    other = await store.load(Counter, counter.id)
    other.count()
    counter.count()
    counter.count()
    await store.save(other)
    with pytest.raises(ConflictError) as conflict:
        await store.save(counter)
    assert conflict.value.aggregate_id == counter.id
    assert (conflict.value.expected_version, conflict.value.actual_version) == (1, 2)
    assert isinstance(conflict.value, OptimisticConcurrencyError)
    assert len(counter.pending_events) == 2
    assert await store.head() == 2


async def test_two_aggregates_cannot_be_created_under_one_id(store: EventStore) -> None:
    await store.save(counted(1, "same"))
    with pytest.raises(ConflictError) as conflict:
        await store.save(counted(1, "same"))
    assert (conflict.value.expected_version, conflict.value.actual_version) == (0, 1)


async def test_an_id_belongs_to_one_type(store: EventStore) -> None:
    await store.save(counted(1, "thing"))
    with pytest.raises(AggregateTypeError) as refused:
        await store.load(Lamp, "thing")
    assert (refused.value.stored_type, refused.value.requested_type) == ("Counter", "Lamp")
    lamp = Lamp(id="thing")
    lamp.apply(Renamed(name="other"))
    with pytest.raises(AggregateTypeError):
        await store.save(lamp)


async def test_save_all_is_one_atomic_append(store: EventStore) -> None:
    one, two = counted(2, "one"), counted(1, "two")
    receipts = await store.save_all([one, two])
    assert [(receipt.aggregate_id, receipt.position, receipt.version) for receipt in receipts] == [
        ("one", 2, 2),
        ("two", 3, 1),
    ]
    one.count()
    two.count()
    behind = await store.load(Counter, "two")
    behind.count()
    await store.save(behind)
    with pytest.raises(ConflictError) as conflict:
        await store.save_all([one, two])
    assert conflict.value.aggregate_id == "two"
    assert await store.head() == 4
    assert [len(counter.pending_events) for counter in (one, two)] == [1, 1]


async def test_save_all_answers_for_those_without_events_too(store: EventStore) -> None:
    one, two = counted(1, "one"), counted(1, "two")
    await store.save(one)
    receipts = await store.save_all([one, two])
    assert [(receipt.aggregate_id, receipt.events, receipt.version) for receipt in receipts] == [
        ("one", 0, 1),
        ("two", 1, 1),
    ]
    assert await store.save_all([]) == []


async def test_save_all_refuses_the_same_aggregate_twice(store: EventStore) -> None:
    counter = counted(1)
    with pytest.raises(ConfigurationError, match="twice"):
        await store.save_all([counter, counter])
    await store.save(counter)


async def test_save_all_saves_thousands_at_once(store: EventStore) -> None:
    counters = [counted(1, f"counter-{number}") for number in range(3000)]
    receipts = await store.save_all(counters)
    assert [receipt.position for receipt in receipts] == list(range(1, 3001))
    assert all(counter.pending_events == () for counter in counters)


async def test_two_saves_of_one_aggregate_at_once_store_its_events_once(store: EventStore) -> None:
    counter = counted(2)
    receipts = await asyncio.gather(store.save(counter), store.save(counter), store.save(counter))
    assert {receipt.version for receipt in receipts} == {2}
    counter.count()
    assert (await store.save(counter)).version == 3
    assert await store.head() == 3


async def test_what_is_no_aggregate_cannot_be_saved(store: EventStore) -> None:
    nothing: Any = "counter"
    with pytest.raises(TypeError):
        await store.save(nothing)


async def test_update_loads_acts_and_saves(store: EventStore) -> None:
    await store.save(counted(1, "counter"))
    updated = await store.update(Counter, "counter", lambda counter: counter.count(by=4))
    assert updated.total == 5
    assert (await store.load(Counter, "counter")).total == 5


async def test_update_awaits_an_asynchronous_act(store: EventStore) -> None:
    await store.save(counted(1, "counter"))

    async def act(counter: Counter) -> None:
        counter.count(by=await store.head())

    assert (await store.update(Counter, "counter", act)).total == 2


async def test_update_tries_again_after_a_conflict(store: EventStore) -> None:
    await store.save(counted(1, "counter"))
    totals: list[int] = []

    async def act(counter: Counter) -> None:
        totals.append(counter.total)
        if len(totals) < 3:
            await store.append("counter", [Counted(by=1)], aggregate_type=Counter)
        counter.count(by=10)

    assert (await store.update(Counter, "counter", act)).total == 13
    assert totals == [1, 2, 3]


async def test_update_gives_up_after_the_last_attempt(store: EventStore) -> None:
    await store.save(counted(1, "counter"))

    async def act(counter: Counter) -> None:
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter)
        counter.count()

    with pytest.raises(ConflictError):
        await store.update(Counter, "counter", act, attempts=2)
    assert (await store.load(Counter, "counter")).total == 3
    with pytest.raises(ConfigurationError, match="attempts"):
        await store.update(Counter, "counter", act, attempts=0)
    with pytest.raises(AggregateNotFoundError):
        await store.update(Counter, "nobody", act)


async def test_append_stores_events_without_an_aggregate(store: EventStore) -> None:
    event = Counted(by=3)
    receipt = await store.append("counter", [event, Counted(by=4)], aggregate_type="Counter")
    assert (receipt.position, receipt.version, receipt.events) == (2, 2, 2)
    assert (event.aggregate_id, event.aggregate_type, event.aggregate_version, event.position) == (
        "counter",
        "Counter",
        1,
        1,
    )
    assert (await store.load(Counter, "counter")).total == 7


@pytest.mark.parametrize(
    ("expected", "on_new", "on_existing"),
    [
        (ANY, True, True),
        (NO_STREAM, True, False),
        (STREAM_EXISTS, False, True),
        (0, True, False),
        (1, False, True),
        (2, False, False),
    ],
)
async def test_append_checks_what_is_expected(
    store: EventStore, expected: Any, on_new: bool, on_existing: bool
) -> None:
    await store.append("existing", [Counted(by=1)], aggregate_type=Counter)
    for aggregate_id, version, accepted in (("new", 0, on_new), ("existing", 1, on_existing)):
        if accepted:
            receipt = await store.append(
                aggregate_id, [Counted(by=1)], aggregate_type=Counter, expected_version=expected
            )
            assert receipt.version == version + 1
        else:
            with pytest.raises(ConflictError) as conflict:
                await store.append(aggregate_id, [Counted(by=1)], aggregate_type=Counter, expected_version=expected)
            assert (conflict.value.expected_version, conflict.value.actual_version) == (expected, version)


@pytest.mark.parametrize("nonsense", [True, "latest", 1.5, None])
async def test_what_cannot_be_expected_is_refused(store: EventStore, nonsense: Any) -> None:
    with pytest.raises(TypeError, match="NO_STREAM"):
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter, expected_version=nonsense)
    with pytest.raises(ConfigurationError):
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter, expected_version=-1)


async def test_a_repeated_append_stores_nothing_and_gives_the_same_answer(store: EventStore) -> None:
    events = [Counted(by=1), Counted(by=2)]
    first = await store.append("counter", events, aggregate_type=Counter, expected_version=NO_STREAM)
    again = await store.append("counter", events, aggregate_type=Counter, expected_version=NO_STREAM)
    assert again == first
    assert await store.head() == 2


async def test_an_event_cannot_be_stored_twice(store: EventStore) -> None:
    event = Counted(by=1)
    await store.append("counter", [event], aggregate_type=Counter)
    with pytest.raises(EventIdConflictError) as conflict:
        await store.append("counter", [event, Counted(by=2)], aggregate_type=Counter)
    assert conflict.value.event_id == event.event_id
    assert await store.head() == 1


async def test_events_that_were_applied_can_be_appended_to_their_aggregate(store: EventStore) -> None:
    counter = counted(2)
    receipt = await store.append(counter.id, counter.pending_events, aggregate_type=Counter)
    assert receipt.version == 2
    assert (await store.load(Counter, counter.id)).total == 2


async def test_append_takes_a_list_not_an_event(store: EventStore) -> None:
    event: Any = Counted(by=1)
    with pytest.raises(TypeError, match=r"list of events: \[Counted\(by=1\)\]"):
        await store.append("counter", event, aggregate_type=Counter)
    with pytest.raises(TypeError):
        await store.append("counter", ["Counted"], aggregate_type=Counter)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def test_an_import_brings_its_own_time(store: EventStore) -> None:
    then = datetime(2019, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)
    await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=then)
    assert [event.timestamp async for event in store.read_all()] == [then]
    with pytest.raises(ConfigurationError, match="time zone"):
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=datetime(2019, 5, 17))  # noqa: DTZ001


async def test_moments_that_no_datetime_in_utc_can_hold_are_refused(store: EventStore) -> None:
    far_west, far_east = timezone(timedelta(hours=-14)), timezone(timedelta(hours=14))
    held = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    for then in held:
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=then)
    for then in (datetime.min.replace(tzinfo=far_east), datetime.max.replace(tzinfo=far_west)):
        with pytest.raises(ConfigurationError, match="years 1 to 9999"):
            await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=then)
        with pytest.raises(ConfigurationError, match="years 1 to 9999"):
            await store.load(Counter, "counter", at=then)
    assert [event.timestamp async for event in store.read_all()] == held


async def test_append_all_keeps_the_given_order(store: EventStore) -> None:
    then = datetime(2019, 5, 17, tzinfo=UTC)
    receipts = await store.append_all(
        [
            StreamAppend("one", [Counted(by=1), Counted(by=2)], aggregate_type=Counter, expected_version=NO_STREAM),
            StreamAppend("two", [Renamed(name="x")], aggregate_type="Lamp", timestamps=[then]),
            StreamAppend("one", [Counted(by=3)], aggregate_type=Counter, expected_version=2),
        ]
    )
    assert [(receipt.aggregate_id, receipt.position, receipt.version, receipt.events) for receipt in receipts] == [
        ("one", 2, 2, 2),
        ("two", 3, 1, 1),
        ("one", 4, 3, 1),
    ]
    assert [event.aggregate_id async for event in store.read_all()] == ["one", "one", "two", "one"]
    assert [event.timestamp async for event in store.read("two")] == [then]


async def test_append_all_stores_all_or_nothing(store: EventStore) -> None:
    with pytest.raises(ConflictError):
        await store.append_all(
            [
                StreamAppend("one", [Counted(by=1)], aggregate_type=Counter),
                StreamAppend("two", [Counted(by=1)], aggregate_type=Counter, expected_version=STREAM_EXISTS),
            ]
        )
    assert await store.head() == 0
    assert await store.append_all([]) == []


async def test_a_part_without_events_only_checks_the_expectation(store: EventStore) -> None:
    await store.append("one", [Counted(by=1)], aggregate_type=Counter)
    parts = [
        StreamAppend("one", [], aggregate_type=Counter, expected_version=1),
        StreamAppend("two", [Counted(by=1)], aggregate_type=Counter),
    ]
    assert [receipt.events for receipt in await store.append_all(parts)] == [0, 1]
    parts = [
        StreamAppend("one", [], aggregate_type=Counter, expected_version=7),
        StreamAppend("two", [Counted(by=1)], aggregate_type=Counter),
    ]
    with pytest.raises(ConflictError):
        await store.append_all(parts)
    assert await store.head() == 2


async def test_timestamps_must_be_as_many_as_events(store: EventStore) -> None:
    now = datetime.now(UTC)
    for timestamps in ([], [now, now + timedelta(1)]):
        with pytest.raises(ConfigurationError, match="1 events and"):
            await store.append_all(
                [StreamAppend("one", [Counted(by=1)], aggregate_type=Counter, timestamps=timestamps)]
            )


async def test_append_all_takes_stream_appends(store: EventStore) -> None:
    nonsense: Any = [("one", [Counted(by=1)])]
    with pytest.raises(TypeError, match="StreamAppend"):
        await store.append_all(nonsense)


async def test_ids_are_strings_or_uuids(store: EventStore) -> None:
    identity = uuid.uuid4()
    await store.append(identity, [Counted(by=1)], aggregate_type=Counter)
    assert (await store.load(Counter, identity)).id == str(identity)
    assert (await store.load(Counter, str(identity))).total == 1
    nonsense: Any = 7
    with pytest.raises(TypeError, match="aggregate_id is neither a string nor a UUID"):
        await store.load(Counter, nonsense)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "Ω-🙂", " ", "x" * 512, "'; drop table events; --"])
async def test_hostile_ids_are_just_ids(store: EventStore, name: str) -> None:
    await store.append(name, [Counted(by=1)], aggregate_type=Counter)
    assert (await store.load(Counter, name)).total == 1


@pytest.mark.parametrize("name", ["", "a\0b", "$system"])
async def test_ids_that_no_store_can_hold_are_refused(store: EventStore, name: str) -> None:
    with pytest.raises(InvalidNameError):
        await store.append(name, [Counted(by=1)], aggregate_type=Counter)


async def test_limits_are_named(store: EventStore) -> None:
    with pytest.raises(LimitExceededError) as refused:
        await store.append("x" * 513, [Counted(by=1)], aggregate_type=Counter)
    assert (refused.value.actual, refused.value.limit) == (513, 512)
    with pytest.raises(LimitExceededError) as refused:
        await store.append("big", [Renamed(name="x" * (16 << 20))], aggregate_type=Counter)
    assert refused.value.limit == 16 << 20
    await store.append("big", [Renamed(name="x" * ((16 << 20) - 11))], aggregate_type=Counter)
    assert await store.head() == 1
