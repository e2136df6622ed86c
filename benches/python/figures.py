"""The figures of the Python package, each beside the bare limit of the same run.

Usage: python benches/python/figures.py [memory] [synced] [loading] [reading]

A release build of the package must be installed. Machines are shared and noisy: every figure is the median of
interleaved runs, and what counts is the ratio to what was measured beside it. EVENTUALI_BENCH_DIR names the directory
for stores on disk; without it they are made in the system's temporary one.
"""

import asyncio
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import eventuali.sync
from eventuali import EventStore, EventStoreConfig, StreamAppend
from shared import LOADED, Counted, Counter, show

ROUNDS = 7
SAVES = 20_000
EVENTS_PER_AGGREGATE = 100
SYNCED_SAVES_PER_TASK = 60
READ = 200_000


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keeps the garbage collector's pauses out of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    with collector_paused():
        began = time.perf_counter()
        work()
        return time.perf_counter() - began


async def seconds_of(work: Awaitable[object]) -> float:
    """How long awaiting takes."""
    with collector_paused():
        began = time.perf_counter()
        await work
        return time.perf_counter() - began


class Runs(float):
    """The median of a few runs, which also knows the best of them: on a busy machine that tells what is ours."""

    best: float

    def __new__(cls, values: list[float]) -> Self:
        """The median of `values`."""
        runs = super().__new__(cls, statistics.median(values))
        runs.best = min(values)
        return runs


def interleaved(measures: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, Runs]:
    """What each takes, measured in turn."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return {name: Runs(taken) for name, taken in values.items()}


def check(holds: bool) -> None:
    """Stops where a measurement did not do its work."""
    if not holds:
        raise SystemExit("a measurement did not do its work")


def rate(count: float, span: float) -> str:
    """So many a second."""
    return f"{count / span:,.0f}/s"


def micros(span: float) -> str:
    """Microseconds."""
    return f"{span * 1e6:,.2f} µs"


def applied(count: int) -> list[Counter]:
    """Counters with one pending event each."""
    counters = [Counter() for _ in range(count)]
    for counter in counters:
        counter.apply(Counted(by=1, label="some text"))
    return counters


async def construct_apply_save(store: EventStore) -> None:
    """What a command does, `SAVES` times: a new event, applied to an aggregate and saved."""
    for start in range(0, SAVES, EVENTS_PER_AGGREGATE):
        counter = Counter()
        for number in range(start, start + EVENTS_PER_AGGREGATE):
            counter.apply(Counted(by=number, label="some text"))
            await store.save(counter)


def construct_apply() -> None:
    """The same without the store."""
    for start in range(0, SAVES, EVENTS_PER_AGGREGATE):
        counter = Counter()
        for number in range(start, start + EVENTS_PER_AGGREGATE):
            counter.apply(Counted(by=number, label="some text"))


def construct() -> None:
    """The events alone."""
    for number in range(SAVES):
        Counted(by=number, label="some text")


async def save_each(store: EventStore, counters: list[Counter]) -> None:
    """Saves alone."""
    for counter in counters:
        await store.save(counter)


def save_each_now(store: eventuali.sync.EventStore, counters: list[Counter]) -> None:
    """Saves without asyncio."""
    for counter in counters:
        store.save(counter)


async def heads(store: EventStore) -> None:
    """The cheapest question."""
    for _ in range(SAVES):
        await store.head()


def heads_now(store: eventuali.sync.EventStore) -> None:
    """The cheapest question, without asyncio."""
    for _ in range(SAVES):
        store.head()


def in_memory(work: Callable[[EventStore], Awaitable[object]]) -> float:
    """How long `work` takes on a new store in memory."""

    async def main() -> float:
        async with EventStore.create("memory://") as store:
            return await seconds_of(work(store))

    return asyncio.run(main())


def in_memory_now(work: Callable[[eventuali.sync.EventStore], object]) -> float:
    """The same without asyncio."""
    with eventuali.sync.EventStore.create("memory://") as store:
        return seconds(lambda: work(store))


def saving() -> float:
    """How long saving alone takes."""
    counters = applied(SAVES)
    return in_memory(lambda store: save_each(store, counters))


def saving_now() -> float:
    """The same without asyncio."""
    counters = applied(SAVES)
    return in_memory_now(lambda store: save_each_now(store, counters))


def beside_a_busy_thread(measure: Callable[[], float]) -> float:
    """Measures while another thread computes."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(100))

    busy = threading.Thread(target=spin)
    busy.start()
    try:
        return measure()
    finally:
        stop.set()
        busy.join()


def memory() -> None:
    """Construct, apply and save events in memory; save new aggregates alone; beside a busy thread; what the await adds."""
    took = interleaved(
        {
            "whole": lambda: in_memory(construct_apply_save),
            "without save": lambda: seconds(construct_apply),
            "event alone": lambda: seconds(construct),
            "save": saving,
            "save now": saving_now,
            "whole, busy": lambda: beside_a_busy_thread(lambda: in_memory(construct_apply_save)),
            "save, busy": lambda: beside_a_busy_thread(saving),
            "head": lambda: in_memory(heads),
            "head now": lambda: in_memory_now(heads_now),
        }
    )
    beside = f"without save {rate(SAVES, took['without save'])}, event alone {rate(SAVES, took['event alone'])}"
    best = f"best run {rate(SAVES, took['whole'].best)}"
    show("memory: construct, apply, save an event", rate(SAVES, took["whole"]), "≥ 250,000/s", f"{best}; {beside}")
    busy = took["whole"].best / took["whole, busy"].best
    show("memory: the same beside a busy thread", f"{busy:.0%}", "≥ 30 %", "best runs")
    best = f"best run {rate(SAVES, took['save'].best)}"
    show("memory: save a new aggregate", rate(SAVES, took["save"]), "≥ 400,000/s", best)
    busy = took["save"].best / took["save, busy"].best
    show("memory: the same beside a busy thread", f"{busy:.0%}", "≥ 30 %", "best runs")
    for name in ("save", "head"):
        added, without = took[name].best - took[f"{name} now"].best, took[f"{name} now"].best
        beside = f"best runs; without await {micros(without / SAVES)}"
        show(f"memory: awaiting a {name} adds", micros(added / SAVES), "≤ 0.3 µs", beside)


def bare_syncs(directory: Path) -> float:
    """One write and fdatasync of about 64 events, in space that is prepared."""
    with (directory / "bare").open("wb", buffering=0) as file:
        file.write(bytes(8 << 20))
        os.fdatasync(file)
        file.seek(0)

        def work() -> None:
            for _ in range(300):
                file.write(bytes(64 * 200))
                os.fdatasync(file)

        return seconds(work) / 300


def tasks(directory: Path, width: int) -> float:
    """How long so many tasks take for their saves."""

    async def task(store: EventStore) -> None:
        counter = Counter()
        for number in range(SYNCED_SAVES_PER_TASK):
            counter.apply(Counted(by=number, label="some text"))
            await store.save(counter)

    async def main() -> float:
        async with EventStore.create(directory / f"store-{time.monotonic_ns()}") as store:
            return await seconds_of(asyncio.gather(*(task(store) for _ in range(width))))

    return asyncio.run(main())


def one_writer(directory: Path) -> float:
    """The median of blocking saves, one after the other."""
    with eventuali.sync.EventStore.create(directory / f"store-{time.monotonic_ns()}") as store:
        counter, spans = Counter(), []
        for number in range(500):
            counter.apply(Counted(by=number, label="some text"))
            began = time.perf_counter()
            store.save(counter)
            spans.append(time.perf_counter() - began)
        return statistics.median(spans)


def synced() -> None:
    """Tasks that save, synced, and the bare syncs of the same minute."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVENTUALI_BENCH_DIR")) as name:
        directory = Path(name)
        took = interleaved(
            {
                "bare": lambda: bare_syncs(directory),
                "64": lambda: tasks(directory, 64),
                "512": lambda: tasks(directory, 512),
                "one": lambda: one_writer(directory),
            }
        )
    beside = f"bare write + fdatasync {micros(took['bare'])}"
    show(
        "disk: 64 tasks, synced",
        rate(64 * SYNCED_SAVES_PER_TASK, took["64"]),
        "≥ 60,000/s (100,000)",
        beside,
    )
    show(
        "disk: 512 tasks, synced",
        rate(512 * SYNCED_SAVES_PER_TASK, took["512"]),
        "",
        beside,
    )
    show("disk: one blocking writer, p50", micros(took["one"]), "", beside)


async def measure_loading() -> None:
    """Loading an aggregate, and the bare loop that validates and dispatches the same bytes."""
    async with EventStore.create("memory://") as store:
        events = [Counted(by=1, label="some text") for _ in range(LOADED)]
        await store.append("counter", events, aggregate_type=Counter)
        payloads = [event.payload async for batch in store.read("counter").batches() for event in batch]
        validate = Counted.__pydantic_validator__.validate_json

        def bare() -> None:
            handler = Counter().apply_counted
            for payload in payloads:
                handler(validate(payload))

        loads: list[float] = []
        limits: list[float] = []
        for _ in range(100):
            loads.append(await seconds_of(store.load(Counter, "counter")))
            limits.append(seconds(bare))
    load, limit = statistics.median(loads), statistics.median(limits)
    show(
        f"memory: load of {LOADED} events",
        f"{load / limit:.2f} times",
        "≤ 1.5 times bare",
        f"{micros(load)}, bare loop {micros(limit)}",
    )


def loading() -> None:
    """See `measure_loading`."""
    asyncio.run(measure_loading())


async def stall_during(work: Awaitable[object]) -> tuple[float, float]:
    """The longest time for which a task that only yields did not get its turn: by the clock, and of processor time."""
    longest, longest_work, running = 0.0, 0.0, True

    async def watch() -> None:
        nonlocal longest, longest_work
        last, last_work = time.perf_counter(), time.thread_time()
        while running:
            await asyncio.sleep(0)
            now, now_work = time.perf_counter(), time.thread_time()
            longest, longest_work = max(longest, now - last), max(longest_work, now_work - last_work)
            last, last_work = now, now_work

    with collector_paused():
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        await work
        running = False
        await watching
    return longest, longest_work


async def measure_reading(directory: Path) -> None:
    """Reading everything: batches of stored events, typed events one by one, and the loop's longest stall meanwhile."""
    config = EventStoreConfig.embedded(directory / "store").with_durability("os")
    async with EventStore.create(config) as store:

        async def batches() -> None:
            check(sum([len(batch) async for batch in store.read_all().batches()]) == READ)

        async def typed() -> None:
            seen = 0
            async for _ in store.read_all():
                seen += 1
            check(seen == READ)

        writing: list[float] = []
        for start in range(0, READ, 10_000):
            events = [Counted(by=number, label="some text") for number in range(10_000)]
            parts = [
                StreamAppend(
                    f"counter-{start + at}",
                    events[at : at + 100],
                    aggregate_type=Counter,
                )
                for at in range(0, 10_000, 100)
            ]
            writing.append(await seconds_of(store.append_all(parts)))
        show(
            "os: append_all of 10,000 new typed events",
            rate(10_000, statistics.median(writing)),
        )
        payloads = [event.payload async for batch in store.read_all().batches() for event in batch]
        validate = Counted.__pydantic_validator__.validate_json

        def bare() -> None:
            for payload in payloads:
                validate(payload)

        spans: dict[str, list[float]] = {"batches": [], "typed": [], "bare": []}
        stalls: dict[str, list[tuple[float, float]]] = {"typed": [], "batches": []}
        for _ in range(ROUNDS):
            spans["batches"].append(await seconds_of(batches()))
            spans["typed"].append(await seconds_of(typed()))
            spans["bare"].append(seconds(bare))
            stalls["typed"].append(await stall_during(typed()))
            stalls["batches"].append(await stall_during(batches()))
    took = {name: Runs(values) for name, values in spans.items()}
    best = f"best run {rate(READ, took['batches'].best)}"
    show("os: read_all, stored events in batches", rate(READ, took["batches"]), "≥ 1,000,000/s", best)
    best = f"best run {rate(READ, took['typed'].best)}; bare validation {rate(READ, took['bare'])}"
    show("os: read_all, typed events one by one", rate(READ, took["typed"]), "≥ 600,000/s", best)
    for name, taken in stalls.items():
        clock, work = (Runs(list(values)) for values in zip(*taken, strict=True))
        beside = f"best run {clock.best * 1e3:.2f} ms; of the loop's own processor time {work * 1e3:.2f} ms"
        show(f"longest stall of the loop, read_all {name}", f"{clock * 1e3:.2f} ms", "≤ 5 ms", beside)


def reading() -> None:
    """See `measure_reading`."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EVENTUALI_BENCH_DIR")) as name:
        asyncio.run(measure_reading(Path(name)))


FIGURES = {"memory": memory, "synced": synced, "loading": loading, "reading": reading}


def main() -> None:
    """Prints the figures that were asked for, or all."""
    show("figure", "measured", "goal", "beside it, in the same run")
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
