"""A save that was cancelled is never lost and never doubled, wherever it was cancelled."""

import asyncio
import gc
import random
import weakref
from pathlib import Path

import pytest

from eventuali import ConflictError, EventMetadata, EventStore
from tests.conftest import Place
from tests.counting import Counted, Counter, counted

pytestmark = pytest.mark.anyio


async def cancelled_after(turns: int, seconds: float, task: "asyncio.Task[object]") -> bool:
    """Cancels `task` after so many turns of the loop and so much time; whether it was cancelled."""
    for _ in range(turns):
        await asyncio.sleep(0)
    if seconds:
        await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


async def test_a_save_cancelled_at_any_point_can_be_followed_by_another(store: EventStore) -> None:
    chance = random.Random(7)
    cancelled = 0
    for round_ in range(150):
        counter = counted(2, f"counter-{round_}")
        save = asyncio.create_task(store.save(counter))
        cancelled += await cancelled_after(chance.randrange(4), chance.choice([0, 0, chance.random() / 500]), save)
        counter.count(by=10)
        receipt = await store.save(counter)
        assert receipt.version == 3
        assert counter.pending_events == ()
        events = [event async for event in store.read(counter.id)]
        assert [event.by for event in events if isinstance(event, Counted)] == [1, 1, 10]
        assert [event.aggregate_version for event in events] == [1, 2, 3]
    assert await store.head() == 450
    if store.capabilities().durability == "sync":
        assert cancelled > 20


async def test_a_timeout_leaves_the_aggregate_usable(waiting_place: Place) -> None:
    async with EventStore.create(waiting_place) as store:
        timeouts = 0
        for round_ in range(50):
            counter = counted(1, f"counter-{round_}")
            try:
                async with asyncio.timeout(0):
                    await store.save(counter)
            except TimeoutError:
                timeouts += 1
            await store.save(counter)
        assert timeouts > 0
        assert await store.head() == 50


async def test_aggregates_left_in_doubt_together_are_freed_once_nobody_has_one_of_them(tmp_path: Path) -> None:
    async with EventStore.create(tmp_path / "store") as store:
        counters = [counted(1, f"counter-{number}") for number in range(3)]
        watched = [weakref.ref(counter.pending_events[0]) for counter in counters]
        save = asyncio.create_task(store.save_all(counters))
        assert await cancelled_after(1, 0, save)
        kept = counters[1]
        del counters, save
        gc.collect()
        assert all(event() is not None for event in watched)
        kept.count(by=10)
        await store.save(kept)
        assert await store.head() == 4
        del kept
        assert not any(event() is not None for event in watched)


async def test_an_aggregate_left_in_doubt_for_ever_leaks_none_of_its_companions(tmp_path: Path) -> None:
    async with EventStore.create(tmp_path / "store") as store:
        counters = [counted(1, f"counter-{number}") for number in range(3)]
        watched = [weakref.ref(counter.pending_events[0]) for counter in counters]
        save = asyncio.create_task(store.save_all(counters))
        assert await cancelled_after(1, 0, save)
        del counters, save
        await store.sync()
        gc.collect()
        assert not any(event() is not None for event in watched)


async def test_metadata_of_the_batch_in_doubt_stays_with_it(waiting_place: Place) -> None:
    async with EventStore.create(waiting_place) as store:
        counter = counted(1, "counter")
        save = asyncio.create_task(store.save(counter, metadata=EventMetadata(user_id="first")))
        assert await cancelled_after(1, 0, save)
        counter.count()
        receipt = await store.save(counter, metadata=EventMetadata(user_id="second"))
        assert receipt.events == 2
        assert [event.metadata.user_id async for event in store.read("counter")] == ["first", "second"]


async def test_a_cancelled_save_all_is_repeated_whole(waiting_place: Place) -> None:
    async with EventStore.create(waiting_place) as store:
        for round_ in range(60):
            one, two = counted(1, f"one-{round_}"), counted(2, f"two-{round_}")
            save = asyncio.create_task(store.save_all([one, two]))
            await cancelled_after(1 + round_ % 3, (round_ % 7) / 10_000, save)
            one.count()
            # Saving one of them resolves what both sent, as one append.
            receipt = await store.save(one)
            assert receipt.version == 2
            assert two.pending_events == ()
            assert (await store.load(Counter, two.id)).version == 2
            assert (await store.save(two)).events == 0


async def test_a_cancelled_save_all_that_conflicts_stores_nothing(waiting_place: Place) -> None:
    async with EventStore.create(waiting_place) as store:
        one, two = counted(1, "one"), counted(2, "two")
        # The conflict rests on an event that is still on its way to the disk, so its answer takes as long.
        first = asyncio.create_task(store.append("two", [Counted(by=1)], aggregate_type=Counter))
        save = asyncio.create_task(store.save_all([one, two]))
        assert await cancelled_after(1, 0, save)
        await first
        with pytest.raises(ConflictError):
            await store.save(one)
        assert await store.get(Counter, "one") is None
        assert len(one.pending_events) == 1
        await store.save(one)
        assert (await store.load(Counter, "one")).version == 1


async def test_a_cancelled_append_can_be_repeated(store: EventStore) -> None:
    chance = random.Random(11)
    for round_ in range(60):
        events = [Counted(by=1), Counted(by=2)]
        append = asyncio.create_task(store.append(f"counter-{round_}", events, aggregate_type=Counter))
        await cancelled_after(chance.randrange(3), chance.random() / 1000, append)
        receipt = await store.append(f"counter-{round_}", events, aggregate_type=Counter)
        assert receipt.version == 2
    assert await store.head() == 120


async def test_cancelling_an_opening_frees_the_directory(tmp_path: Path) -> None:
    for round_ in range(20):
        opening = asyncio.create_task(_opened(tmp_path / "store"))
        await cancelled_after(round_ % 4, (round_ % 5) / 5000, opening)
        if opening.done() and not opening.cancelled():
            await opening.result().close()
    async with EventStore.create(tmp_path / "store") as store:
        await store.save(counted(1))


async def _opened(place: Path) -> EventStore:
    return await EventStore.create(place)


async def test_closing_while_saves_are_under_way_answers_all_of_them(lasting_place: Place) -> None:
    store = await EventStore.create(lasting_place)
    saves = [asyncio.create_task(store.save(counted(1))) for _ in range(64)]
    await asyncio.sleep(0)
    await store.close()
    receipts = await asyncio.gather(*saves, return_exceptions=True)
    stored = [receipt for receipt in receipts if not isinstance(receipt, BaseException)]
    async with EventStore.create(lasting_place) as store:
        assert await store.head() >= len(stored)
