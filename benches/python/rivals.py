"""SQL stores beside the Python library `eventsourcing`, on the same server and in the same run.

Usage: python pybind/tools/with_postgres.py python benches/python/rivals.py

A release build of the package and `eventsourcing[postgres]` must be installed (dependency group `test`), and
EVENTUALI_TEST_POSTGRES_URL must name a Postgres server. Every figure is the median of interleaved runs. Both sides
commit with the server's own settings, which are printed; the library appends through its application recorder, with as
many threads as serves it best.
"""

import asyncio
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

import eventuali.sync
from eventuali import NO_STREAM, EventStore, EventStoreConfig
from shared import LOADED, Counted, Counter, show

ROUNDS = 5
TASKS = 64
APPENDS_PER_TASK = 30
THREADS = (1, 8, 64)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table() -> str:
    """A name for tables of its own."""
    return f"bench_{uuid.uuid4().hex[:16]}"


async def appending(url: str) -> float:
    """How long 64 tasks take to append their events one by one."""
    config = EventStoreConfig.postgres(url).with_table_name(table())
    async with EventStore.create(config) as store:
        await store.append("warm", [Counted(by=0, label="warm")], aggregate_type="Counter")

        async def task() -> None:
            for number in range(APPENDS_PER_TASK):
                event = Counted(by=number, label="some text")
                await store.append(str(uuid.uuid4()), [event], aggregate_type="Counter", expected_version=NO_STREAM)

        began = time.perf_counter()
        await asyncio.gather(*(task() for _ in range(TASKS)))
        return time.perf_counter() - began


def recorder(url: str) -> tuple[PostgresDatastore, PostgresApplicationRecorder]:
    """The library's recorder, with a connection for each thread."""
    parts = urlsplit(url)
    datastore = PostgresDatastore(
        dbname=parts.path.lstrip("/"),
        host=parts.hostname or "127.0.0.1",
        port=str(parts.port or 5432),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        pool_size=max(THREADS),
        max_overflow=0,
    )
    made = PostgresApplicationRecorder(datastore, events_table_name=table())
    made.create_table()
    return datastore, made


def recording(made: PostgresApplicationRecorder, threads: int) -> float:
    """How long the library takes for as many events, appended one by one by so many threads."""
    each = TASKS * APPENDS_PER_TASK // threads
    state = b'{"by":1,"label":"some text"}'

    def thread() -> None:
        for _ in range(each):
            made.insert_events([StoredEvent(uuid.uuid4(), 1, "bench:Counter.Counted", state)])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(thread) for _ in range(threads)]:
                future.result()

    return seconds(run)


def loading(config: EventStoreConfig) -> float:
    """How long loading an aggregate of 1000 small events takes: the median."""
    with eventuali.sync.EventStore.create(config) as store:
        counter = Counter()
        for number in range(LOADED):
            counter.apply(Counted(by=number, label="some text"))
        store.save(counter)
        runs = [seconds(lambda: store.load(Counter, counter.id)) for _ in range(30)]
        return statistics.median(runs)


def main() -> None:
    """Prints the table."""
    url = os.environ["EVENTUALI_TEST_POSTGRES_URL"]
    print(f"{'figure':<52} {'measured':>14}   {'goal':<23} beside it, in the same run")
    datastore, made = recorder(url)
    with datastore.get_connection() as connection, connection.cursor() as cursor:
        settings = {
            name: cursor.execute(f"SHOW {name}").fetchone()
            for name in ("synchronous_commit", "fsync", "server_version")
        }
    print(", ".join(f"{name} {next(iter(value.values())) if value else '?'}" for name, value in settings.items()))
    ours: list[float] = []
    theirs: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for _ in range(ROUNDS):
        ours.append(asyncio.run(appending(url)))
        for threads in THREADS:
            theirs[threads].append(recording(made, threads))
    datastore.close()
    count = TASKS * APPENDS_PER_TASK
    threads, best = min(
        ((threads, statistics.median(runs)) for threads, runs in theirs.items()), key=lambda found: found[1]
    )
    beside = ", ".join(
        f"{threads} threads {count / statistics.median(runs):,.0f}/s" for threads, runs in theirs.items()
    )
    show(
        "postgres: 64 tasks append one event each",
        f"{count / statistics.median(ours):,.0f}/s",
        "≥ 5 times eventsourcing",
        f"{best / statistics.median(ours):.1f} times its best, with {threads} threads; {beside}",
    )
    with tempfile.TemporaryDirectory() as folder:
        sqlite = loading(EventStoreConfig.sqlite(Path(folder) / "events.db"))
    show("sqlite: load of 1000 events", f"{sqlite * 1e3:.2f} ms", "≤ 4 ms")
    postgres = loading(EventStoreConfig.postgres(url).with_table_name(table()))
    show("postgres: load of 1000 events", f"{postgres * 1e3:.2f} ms", "≤ 6 ms")


if __name__ == "__main__":
    main()
