"""Event loops: nobody starves them, any number may share a store, and closing one harms nobody."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVarTuple

import pytest
import trio
from typing_extensions import override

from eventuali import EventStore, EventStoreConfig, StreamAppend, UnsupportedError
from tests.conftest import Place
from tests.counting import Counted, Counter, counted


@pytest.mark.anyio
async def test_an_await_that_need_not_wait_does_not_suspend(place: Place) -> None:
    async with EventStore.create("memory://") as store:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        await asyncio.sleep(0.005)
        asyncio.get_running_loop().call_soon(turn)
        for _ in range(20):
            await store.head()
        assert turns <= 3


@pytest.mark.anyio
async def test_the_loop_has_a_turn_every_128_operations(store: EventStore) -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    asyncio.get_running_loop().call_soon(turn)
    for _ in range(1280):
        await store.head()
    assert turns >= 9


@pytest.mark.anyio
async def test_timeouts_go_on_during_saves_in_memory() -> None:
    async with EventStore.create("memory://") as store:
        began = time.perf_counter()
        saved = 0

        async def save_for_ever() -> None:
            nonlocal saved
            while True:
                await store.save(counted(1))
                saved += 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(save_for_ever(), 0.2)
        assert time.perf_counter() - began < 1
        assert saved > 100
        assert await store.head() in (saved, saved + 1)


async def longest_stall(work: Callable[[], Any]) -> float:
    """The longest stretch of the loop's own processor time for which a task that only yields did not get its turn."""
    longest, running = 0.0, True

    async def watch() -> None:
        nonlocal longest
        last = time.thread_time()  # what other processes take of this machine is no stall of ours
        while running:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await work()
    running = False
    await watching
    return longest


@pytest.mark.anyio
async def test_reading_everything_never_stalls_the_loop(tmp_path: Path) -> None:
    async with EventStore.create(EventStoreConfig.embedded(tmp_path / "store").with_durability("os")) as store:
        for part in range(10):
            events = [Counted(by=1) for _ in range(2000)]
            await store.append_all([StreamAppend(f"counter-{part}", events, aggregate_type=Counter)])

        async def typed() -> None:
            assert len([event async for event in store.read_all()]) == 20_000

        async def batches() -> None:
            assert sum([len(batch) async for batch in store.read_all().batches()]) == 20_000

        async def load() -> None:
            assert (await store.load(Counter, "counter-3")).total == 2000

        gc.collect()
        gc.disable()
        try:
            for work in (typed, batches, load):
                # A page fault or a cold cache is no stall either: the best of a few runs tells what is ours.
                assert min([await longest_stall(work) for _ in range(5)]) < 0.01
        finally:
            gc.enable()


async def turns_during(work: Callable[[], Any], seen: Callable[[], Any]) -> int:
    """How often another task got its turn meanwhile, and a third one looked at what is stored."""
    turns, running = 0, True

    async def watch() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    async def look() -> None:
        while running:
            await seen()
            await asyncio.sleep(0)

    # Apart from each other: a look may have to wait for the work, where a store has a single connection.
    watching = asyncio.gather(watch(), look())
    await asyncio.sleep(0)
    before = turns
    await work()
    running, during = False, turns - before
    await watching
    return during


@pytest.mark.anyio
async def test_ten_thousand_events_at_once_leave_the_loop_its_turns_and_stay_atomic(
    place: Place,
) -> None:
    async with EventStore.create(place) as store:
        heads: set[int] = set()

        async def look() -> None:
            heads.add(await store.head())

        def counters() -> list[Counted]:
            return [Counted(by=1) for _ in range(10_000)]

        parts = [StreamAppend(f"part-{part}", counters()[:1000], aggregate_type=Counter) for part in range(10)]
        whole = counters()
        # Of a millisecond each at most; the work takes tens of them, and the more on a machine that does other things.
        assert await turns_during(lambda: store.append_all(parts), look) >= 4
        assert await turns_during(lambda: store.append("whole", whole, aggregate_type=Counter), look) >= 4
        assert await turns_during(lambda: store.load(Counter, "whole"), look) >= 4
        assert heads <= {0, 10_000, 20_000}
        assert [event.position for event in whole] == list(range(10_001, 20_001))
        assert [event.position for event in parts[3].events] == list(range(3001, 4001))


@pytest.mark.anyio
async def test_a_list_that_grows_while_it_is_appended_is_appended_as_it_was() -> None:
    async with EventStore.create("memory://") as store:
        events = [Counted(by=1) for _ in range(10_000)]

        async def grow() -> None:
            events.append(Counted(by=1))

        async def append() -> None:
            size = len(events)
            receipt = await store.append("counter", events, aggregate_type=Counter)
            assert receipt.events == size < len(events)

        assert await turns_during(append, grow) > 0


def test_many_loops_in_many_threads_share_a_store(waiting_place: Place) -> None:
    async def work(store: EventStore) -> None:
        await asyncio.gather(*(store.save(counted(1)) for _ in range(50)))

    store = asyncio.run(_open(waiting_place))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asyncio.run(work(store)), range(24)))
    assert asyncio.run(_head(store)) == 24 * 50
    asyncio.run(store.close())


async def _head(store: EventStore) -> int:
    return await store.head()


def test_a_loop_closed_while_saves_are_under_way_harms_nobody(waiting_place: Place) -> None:
    store = asyncio.run(_open(waiting_place))
    counters = []
    for _ in range(30):
        loop = asyncio.new_event_loop()
        counter = counted(1)
        counters.append(counter)
        task = loop.create_task(store.save(counter))
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert not task.done()
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        del task
    gc.collect()

    async def again() -> None:
        for counter in counters:
            await store.save(counter)
            assert (await store.load(Counter, counter.id)).total == 1
        await store.close()

    asyncio.run(again())


async def _open(place: Place) -> EventStore:
    return await EventStore.create(place)


def test_closed_loops_are_freed_with_their_descriptors(tmp_path: Path) -> None:
    store = asyncio.run(_open(str(tmp_path / "store")))

    async def work() -> None:
        await asyncio.gather(*(store.save(counted(1)) for _ in range(3)))

    def run() -> "weakref.ref[asyncio.AbstractEventLoop]":
        loop = asyncio.new_event_loop()
        loop.run_until_complete(work())
        loop.close()
        return weakref.ref(loop)

    run()
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    loops = [run() for _ in range(20)]
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    asyncio.run(store.close())


Ts = TypeVarTuple("Ts")


class WithoutReaders(asyncio.SelectorEventLoop):
    """A loop that cannot watch descriptors, as the one that Windows uses."""

    @override
    def add_reader(self, fd: object, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        raise NotImplementedError


def test_a_loop_that_cannot_watch_descriptors_works_as_well(waiting_place: Place) -> None:
    async def main() -> None:
        async with EventStore.create(waiting_place) as store:
            before = await store.head()
            for _ in range(20):
                await asyncio.gather(*(store.save(counted(1)) for _ in range(20)))
            assert await store.head() == before + 400

    for _ in range(3):
        loop = WithoutReaders()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "eventuali-listener" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a listener outlived its loop"
        time.sleep(0.05)


def test_trio_is_refused_in_words_before_anything_is_created(tmp_path: Path) -> None:
    async def open_under_trio() -> None:
        await EventStore.create(tmp_path / "never")

    with pytest.raises(UnsupportedError, match="asyncio"):
        trio.run(open_under_trio)
    assert not (tmp_path / "never").exists()

    store = asyncio.run(_in_memory())

    async def save_under_trio() -> None:
        while True:
            await store.save(counted(1))

    with pytest.raises(UnsupportedError, match=r"eventuali\.sync"):
        trio.run(save_under_trio)


async def _in_memory() -> EventStore:
    return await EventStore.create("memory://")


@pytest.mark.anyio
async def test_a_save_awaited_by_hand_needs_no_loop_where_it_need_not_wait() -> None:
    store = await EventStore.create("memory://")
    with pytest.raises(StopIteration) as done:
        store.save(counted(1)).send(None)
    assert done.value.value.version == 1


def test_saves_keep_going_beside_a_busy_thread() -> None:
    async def rate(store: EventStore) -> float:
        counters = [counted(1) for _ in range(3000)]
        began = time.perf_counter()
        for counter in counters:
            await store.save(counter)
        return len(counters) / (time.perf_counter() - began)

    async def main() -> tuple[float, float]:
        async with EventStore.create("memory://") as store:
            alone = await rate(store)
            stop = threading.Event()

            def spin() -> None:
                while not stop.is_set():
                    sum(range(100))

            busy = threading.Thread(target=spin)
            busy.start()
            try:
                return alone, await rate(store)
            finally:
                stop.set()
                busy.join()

    ratios = [beside / alone for alone, beside in (asyncio.run(main()) for _ in range(4))]
    assert max(ratios) > 0.2, ratios


def test_loops_that_begin_in_many_threads_at_once_are_all_known(waiting_place: Place) -> None:
    async def work(store: EventStore) -> None:
        await store.save(counted(1))

    store = asyncio.run(_open(waiting_place))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asyncio.run(work(store)), range(100)))
    assert asyncio.run(_head(store)) == 100
    asyncio.run(store.close())
