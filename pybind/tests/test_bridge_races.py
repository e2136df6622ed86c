"""One winner for each expected version, whoever races for it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import eventuali.sync
from eventuali import ConflictError, EventStore
from tests.conftest import Place
from tests.counting import Counter, counted

ROUNDS = 20


def winners(outcomes: list[object], before: int) -> int:
    """How many won; every loser must have been told the true numbers."""
    for outcome in outcomes:
        if isinstance(outcome, ConflictError):
            assert (outcome.aggregate_id, outcome.expected_version, outcome.actual_version) == (
                "counter",
                before,
                before + 1,
            )
        elif isinstance(outcome, BaseException):
            raise outcome
    return sum(not isinstance(outcome, BaseException) for outcome in outcomes)


@pytest.mark.anyio
async def test_one_of_64_tasks_wins(store: EventStore) -> None:
    await store.save(counted(1, "counter"))
    for round_ in range(1, ROUNDS):
        counters = [await store.load(Counter, "counter") for _ in range(64)]
        for counter in counters:
            counter.count()
        outcomes = await asyncio.gather(*(store.save(counter) for counter in counters), return_exceptions=True)
        assert winners(list(outcomes), round_) == 1
    assert (await store.load(Counter, "counter")).total == ROUNDS


def save_quietly(store: eventuali.sync.EventStore, counter: Counter) -> object:
    try:
        return store.save(counter)
    except ConflictError as conflict:
        return conflict


def test_one_of_16_threads_wins(place: Place) -> None:
    with eventuali.sync.EventStore.create(place) as store, ThreadPoolExecutor(16) as pool:
        store.save(counted(1, "counter"))
        for round_ in range(1, ROUNDS):
            counters = [store.load(Counter, "counter") for _ in range(16)]
            for counter in counters:
                counter.count()
            start = threading.Barrier(16)

            def race(counter: Counter, start: threading.Barrier = start) -> object:
                start.wait()
                return save_quietly(store, counter)

            assert winners(list(pool.map(race, counters)), round_) == 1
        assert store.load(Counter, "counter").total == ROUNDS


def test_one_of_the_tasks_of_2_loops_wins(place: Place) -> None:
    store = asyncio.run(_open(place))
    asyncio.run(_save(store, counted(1, "counter")))
    for round_ in range(1, ROUNDS):
        start = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda _, start=start: asyncio.run(_race(store, start)), range(2)))
        assert winners([outcome for outcomes_of_one in outcomes for outcome in outcomes_of_one], round_) == 1
    asyncio.run(store.close())


async def _open(place: Place) -> EventStore:
    return await EventStore.create(place)


async def _save(store: EventStore, counter: Counter) -> None:
    await store.save(counter)


async def _race(store: EventStore, start: threading.Barrier) -> list[object]:
    counters = [await store.load(Counter, "counter") for _ in range(8)]
    for counter in counters:
        counter.count()
    start.wait()
    return list(await asyncio.gather(*(store.save(counter) for counter in counters), return_exceptions=True))
