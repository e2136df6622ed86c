import asyncio
import gc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventuali import (
    AggregateNotFoundError,
    ConfigurationError,
    ConflictError,
    DeserializationError,
    DomainEvent,
    EventStore,
    StoredEvent,
    StreamAppend,
)
from tests.counting import Counted, Counter, Lamp, Renamed, counted

pytestmark = pytest.mark.anyio


async def five_counters(store: EventStore) -> None:
    """Positions 1 to 15: three events for each of five counters, the last of each a renaming."""
    for number in range(5):
        counter = counted(2, f"counter-{number}")
        counter.rename(f"number {number}")
        await store.save(counter)


async def test_a_stream_is_read_in_order(store: EventStore) -> None:
    await five_counters(store)
    events = [event async for event in store.read("counter-2")]
    assert [type(event).__name__ for event in events] == ["Counted", "Counted", "Renamed"]
    assert [event.aggregate_version for event in events] == [1, 2, 3]
    assert [event.position for event in events] == [7, 8, 9]


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"after_version": 2}, [3, 4, 5]),
        ({"before_version": 4}, [1, 2, 3]),
        ({"after_version": 1, "before_version": 5}, [2, 3, 4]),
        ({"limit": 2}, [1, 2]),
        ({"limit": 0}, []),
        ({"backwards": True}, [5, 4, 3, 2, 1]),
        ({"backwards": True, "after_version": 2, "before_version": 5, "limit": 1}, [4]),
        ({"after_version": 5}, []),
        ({"after_version": 99}, []),
    ],
)
async def test_both_bounds_exclude_whatever_the_direction(
    store: EventStore, options: dict[str, Any], versions: list[int]
) -> None:
    await store.save(counted(5, "counter"))
    assert [event.aggregate_version async for event in store.read("counter", **options)] == versions
    renamed = {"after_version": "after", "before_version": "before"}
    for_all = {renamed.get(name, name): value for name, value in options.items()}
    assert [event.position async for event in store.read_all(**for_all)] == versions


async def test_reading_a_stream_that_does_not_exist_yields_nothing(store: EventStore) -> None:
    assert [event async for event in store.read("nobody")] == []


async def test_read_all_filters_by_names_and_classes(store: EventStore) -> None:
    await five_counters(store)
    lamp = Lamp(id="lamp")
    lamp.apply(Renamed(name="light"))
    await store.save(lamp)
    for renamed in ("Renamed", Renamed):
        assert [event.position async for event in store.read_all(event_types=[renamed])] == [3, 6, 9, 12, 15, 16]
    for lamps in ("Lamp", Lamp):
        assert [event.position async for event in store.read_all(aggregate_types=[lamps])] == [16]
    both = store.read_all(event_types=[Renamed], aggregate_types=[Counter], after=6, limit=2)
    assert [event.position async for event in both] == [9, 12]
    assert [event async for event in store.read_all(event_types=["Unknown"])] == []


async def test_an_empty_filter_is_refused_rather_than_guessed(store: EventStore) -> None:
    with pytest.raises(ConfigurationError, match="leave it out to read all"):
        store.read_all(event_types=[])
    nonsense: Any = "Renamed"
    with pytest.raises(TypeError, match=r"event_types=\['Renamed'\]"):
        store.read_all(event_types=nonsense)


@pytest.mark.parametrize("options", [{"after": -1}, {"before": 0}, {"limit": -1}])
async def test_numbers_out_of_range_are_refused(store: EventStore, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is a number from"):
        store.read_all(**options)
    with pytest.raises(TypeError, match="after is a number"):
        store.read_all(after="7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_read_ends_at_the_head_of_its_call(store: EventStore) -> None:
    await store.save(counted(2))
    stream = store.read_all()
    await store.save(counted(2))
    assert [event.position async for event in stream] == [1, 2]


async def test_batches_are_lists_of_stored_events(store: EventStore) -> None:
    await store.append_all(
        [
            StreamAppend(f"counter-{part}", [Counted(by=1) for _ in range(500)], aggregate_type=Counter)
            for part in range(5)
        ]
    )
    batches = [batch async for batch in store.read_all().batches()]
    assert all(type(event) is StoredEvent for batch in batches for event in batch)
    assert [event.position for batch in batches for event in batch] == list(range(1, 2501))
    assert batches[0][0].data == {"by": 1}
    assert len(batches) < 100


async def test_batches_go_on_where_the_stream_is(store: EventStore) -> None:
    await store.save(counted(5))
    stream = store.read_all()
    assert (await anext(stream)).position == 1
    assert [[event.position for event in batch] async for batch in stream.batches()] == [[2, 3, 4, 5]]


async def test_unknown_classes_come_as_stored_events(store: EventStore) -> None:
    def append_of_a_forgotten_class() -> DomainEvent:
        class Forgotten(DomainEvent):
            what: str

        return Forgotten(what="everything")

    await store.append("memory", [append_of_a_forgotten_class()], aggregate_type="Memory")
    gc.collect()
    (event,) = [event async for event in store.read_all()]
    if isinstance(event, StoredEvent):
        assert event.data == {"what": "everything"}
    assert event.event_type == "Forgotten"


def changed(kind: type) -> type[DomainEvent]:
    """The same class in two versions of a program."""

    class Changed(DomainEvent):
        value: kind  # type: ignore[valid-type]  # pyright: ignore[reportInvalidTypeForm]

    return Changed


async def test_iteration_goes_on_after_an_event_that_cannot_be_read(store: EventStore) -> None:
    before = changed(str)
    words = [before.model_validate({"value": word}) for word in ("1", "two", "3", "four")]
    await store.append("thing", words, aggregate_type="Thing")
    changed(int)
    stream = store.read_all()
    seen: list[int] = []
    failed: list[int | None] = []
    while len(seen) + len(failed) < 4:
        try:
            seen.append((await anext(stream)).position)
        except DeserializationError as error:
            failed.append(error.position)
    assert (seen, failed) == ([1, 3], [2, 4])
    assert [event async for event in stream] == []


async def test_a_stream_can_be_left_early_and_closed(store: EventStore) -> None:
    await store.save(counted(300))
    async with store.read_all() as stream:
        async for event in stream:
            if event.position == 3:
                break
    assert [event async for event in stream] == []
    other = store.read_all()
    assert repr(other) == "<EventStream, open>"
    assert (await anext(other)).position == 1
    await other.aclose()
    assert repr(other) == "<EventStream, ended>"
    await other.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(other)
    batches = store.read_all().batches()
    async with batches:
        assert len(await anext(batches)) > 0
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_a_stream_that_was_left_early_keeps_nothing(tmp_path: Path) -> None:
    store = await EventStore.create(tmp_path / "store")
    await store.append("counter", [Counted(by=1) for _ in range(5000)], aggregate_type=Counter)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        async for event in store.read_all():
            if event.position == 3:
                break
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    await store.close()
    async with EventStore.create(tmp_path / "store") as store:
        assert await store.head() == 5000


async def test_cancelling_the_next_event_loses_none(store: EventStore) -> None:
    await store.append_all([StreamAppend("counter", [Counted(by=1) for _ in range(3000)], aggregate_type=Counter)])
    stream = store.read_all()
    seen: list[int] = []

    async def take() -> None:
        while True:
            seen.append((await anext(stream)).position)

    cancelled = 0
    while len(seen) < 3000:
        task = asyncio.create_task(take())
        await asyncio.sleep(0)
        cancelled += task.cancel()
        await asyncio.wait([task])
    assert seen == list(range(1, 3001))
    assert cancelled > 3


async def test_load_and_get(store: EventStore) -> None:
    await store.save(counted(3, "counter"))
    assert (await store.load(Counter, "counter")).total == 3
    got = await store.get(Counter, "counter")
    assert got is not None
    assert (got.total, got.version, got.pending_events) == (3, 3, ())
    assert await store.get(Counter, "nobody") is None
    with pytest.raises(AggregateNotFoundError) as missing:
        await store.load(Counter, "nobody")
    assert missing.value.aggregate_id == "nobody"
    assert isinstance(missing.value, LookupError)


async def test_an_aggregate_as_it_was(store: EventStore) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    for day in range(5):
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=start + timedelta(days=day))
        await store.append("other", [Counted(by=1)], aggregate_type=Counter, timestamp=start)
    assert [(await store.load(Counter, "counter", version=version)).total for version in (1, 3, 5, 9)] == [1, 3, 5, 5]
    assert [(await store.load(Counter, "counter", position=position)).total for position in (1, 2, 3, 99)] == [
        1,
        1,
        2,
        5,
    ]
    for hours, total in ((0, 1), (23, 1), (24, 2), (1000, 5)):
        assert (await store.load(Counter, "counter", at=start + timedelta(hours=hours))).total == total
    early = start - timedelta(microseconds=1)
    assert await store.get(Counter, "counter", at=early) is None
    with pytest.raises(AggregateNotFoundError):
        await store.load(Counter, "counter", at=early)


async def test_at_is_the_prefix_before_the_first_later_event(store: EventStore) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    for days in (0, 5, 1):
        await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=start + timedelta(days=days))
    assert (await store.load(Counter, "counter", at=start + timedelta(days=2))).version == 1


async def test_before_its_first_event_an_aggregate_did_not_exist(store: EventStore) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    await store.save(counted(1))
    await store.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=start)
    for options in ({"at": start - timedelta(days=1)}, {"position": 1}):
        with pytest.raises(
            AggregateNotFoundError, match=r"did not exist at .* of 2024-01-01 00:00:00\+00:00, at pos"
        ) as caught:
            await store.load(Counter, "counter", **options)
        assert (caught.value.first_position, caught.value.first_timestamp) == (2, start)
        assert await store.get(Counter, "counter", **options) is None
    with pytest.raises(AggregateNotFoundError, match="create it first") as never:
        await store.load(Counter, "never", at=start)
    assert never.value.first_timestamp is None


async def test_only_one_way_back_at_a_time(store: EventStore) -> None:
    with pytest.raises(ConfigurationError, match="give one of them"):
        await store.load(Counter, "counter", version=1, position=2)
    for options in ({"version": 0}, {"position": 0}):
        with pytest.raises(ConfigurationError, match="from 1 on"):
            await store.load(Counter, "counter", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="time zone"):
        await store.load(Counter, "counter", at=datetime(2024, 1, 1))  # noqa: DTZ001


async def test_an_old_version_cannot_be_saved_over_a_newer_one(store: EventStore) -> None:
    await store.save(counted(3, "counter"))
    old = await store.load(Counter, "counter", version=2)
    old.count()
    with pytest.raises(ConflictError):
        await store.save(old)


async def test_head_sync_and_durable_position(store: EventStore) -> None:
    assert await store.head() == 0
    await store.save(counted(4))
    assert await store.head() == 4
    if store.capabilities().persistent:
        assert await store.sync() == 4
        assert await store.durable_position() == 4


async def test_many_events_load(store: EventStore) -> None:
    await store.append("counter", [Counted(by=1) for _ in range(5000)], aggregate_type=Counter)
    assert (await store.load(Counter, "counter")).total == 5000


class Sent(DomainEvent):
    carrier: str


class Shipped(DomainEvent, event_type="shipped", formerly=("Sent",)):
    carrier: str


async def test_a_class_as_filter_finds_what_was_stored_under_its_former_names(store: EventStore) -> None:
    await store.append("order", [Sent(carrier="old"), Shipped(carrier="new")], aggregate_type="Order")
    batches = [batch async for batch in store.read_all(event_types=[Shipped]).batches()]
    assert [event.event_type for batch in batches for event in batch] == ["Sent", "shipped"]
    assert [event.position async for event in store.read_all(event_types=["shipped"])] == [2]


async def test_a_class_of_the_other_kind_is_no_filter(store: EventStore) -> None:
    aggregates: Any = [Counter]
    with pytest.raises(TypeError, match="a class of events"):
        store.read_all(event_types=aggregates)
    events: Any = [Counted]
    with pytest.raises(TypeError, match="a class of aggregates"):
        store.read_all(aggregate_types=events)
    with pytest.raises(TypeError, match="a class of aggregates"):
        await store.append("counter", [Counted(by=1)], aggregate_type=events[0])


async def test_save_all_of_a_single_aggregate_says_what_to_do(store: EventStore) -> None:
    single: Any = counted(1)
    with pytest.raises(TypeError, match="save_all takes a list"):
        await store.save_all(single)
