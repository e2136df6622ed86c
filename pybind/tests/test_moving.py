"""Moving history between stores, from Python: both shells, every kind of target, interrupted in every way."""

import asyncio
import inspect
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

import eventuali.moving
import eventuali.sync
from eventuali import (
    DivergedError,
    EventStore,
    EventStoreConfig,
    SerializationError,
    StoreUnavailableError,
    StreamAppend,
)
from eventuali.config import PostgresConfig
from eventuali.moving import (
    Difference,
    Moved,
    Progress,
    Verified,
    export,
    export_json_lines,
    import_json_lines,
    mirror,
    verify,
)
from eventuali.sync import EventStore as SyncEventStore
from tests.counting import Counted, Counter, counted

FUNCTIONS = ("export", "export_json_lines", "import_eventsourcing", "import_json_lines", "mirror", "verify")
MANY = 40_000  # more than two transactions


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SyncEventStore]:
    """A directory with three streams."""
    with SyncEventStore.create(EventStoreConfig.embedded(tmp_path / "source")) as store:
        for name in ("a", "b", "c"):
            store.save(counted(3, name))
        yield store


@pytest.fixture
def large(tmp_path: Path) -> Iterator[SyncEventStore]:
    """A directory with more events than one transaction takes."""
    with SyncEventStore.create(EventStoreConfig.embedded(tmp_path / "large").with_durability("os")) as store:
        for part in range(10):
            events = [Counted(by=1) for _ in range(MANY // 10)]
            store.append_all([StreamAppend(f"c-{part}", events, aggregate_type=Counter)])
        store.sync()
        yield store


@pytest.fixture(params=["directory", "sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str | EventStoreConfig:
    """Names a store that is not there yet."""
    match request.param:
        case "directory":
            return f"{tmp_path}/target"
        case "sqlite":
            return f"sqlite://{tmp_path}/target.db"
        case _:
            config: PostgresConfig = request.getfixturevalue("postgres")
            return config


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_both_shells_have_the_same_functions_with_the_same_parameters() -> None:
    for name in FUNCTIONS:
        one, other = getattr(eventuali.moving, name), getattr(eventuali.sync, name)
        here, there = inspect.signature(one), inspect.signature(other)
        for mine, theirs in zip(here.parameters.values(), there.parameters.values(), strict=True):
            assert (mine.name, mine.kind, mine.default) == (theirs.name, theirs.kind, theirs.default)
        if name != "mirror":
            assert inspect.iscoroutinefunction(one)
            assert str(here.return_annotation) == str(there.return_annotation)
        assert one.__doc__
        assert other.__doc__
    members = {name for name in dir(eventuali.moving.Mirror) if not name.startswith("_")}
    assert members == {name for name in dir(eventuali.sync.Mirror) if not name.startswith("_")}


@pytest.mark.anyio
async def test_export_moves_everything_and_again_nothing(
    source: SyncEventStore, target: str | EventStoreConfig
) -> None:
    told: list[Progress] = []
    assert await export(source, target, progress=told.append) == Moved(events=9, position=9, complete=True)
    assert [(progress.events, progress.position, progress.last_position) for progress in told] == [(9, 9, 9)]
    assert told[0].rate > 0
    assert told[0].time_left == timedelta(0)
    assert await export(source, target) == Moved(events=0, position=9, complete=True)

    source.save(counted(2, "d"))
    assert await export(source, target) == Moved(events=2, position=11, complete=True)
    found = await verify(source, target)
    assert found.equal
    assert (found.events, found.difference, found.complete) == (11, None, True)
    async with EventStore.create(target) as moved:
        assert (await moved.load(Counter, "a")).total == 3
        there = [(event.event_id, event.timestamp, event.position) async for event in moved.read_all()]
        assert there == [(event.event_id, event.timestamp, event.position) for event in source.read_all()]


def test_the_synchronous_functions_do_the_same(source: SyncEventStore, target: str | EventStoreConfig) -> None:
    told: list[Progress] = []
    moved = eventuali.sync.export(source, target, progress=told.append)
    assert moved == Moved(events=9, position=9, complete=True)
    assert len(told) == 1
    assert eventuali.sync.verify(source, target).equal
    lines = io.BytesIO()
    assert eventuali.sync.export_json_lines(target, lines).events == 9
    lines.seek(0)
    with SyncEventStore.create("memory://") as copy:
        assert eventuali.sync.import_json_lines(lines, copy).events == 9
        assert eventuali.sync.verify(source, copy).digest == eventuali.sync.verify(source, target).digest


@pytest.mark.anyio
async def test_a_progress_that_raises_ends_it_and_the_next_call_goes_on(
    large: SyncEventStore, target: str | EventStoreConfig
) -> None:
    def give_up(_: Progress) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await export(large, target, progress=give_up)
    async with EventStore.create(target) as partly:
        head = await partly.head()
    assert 0 < head < MANY
    rest = await export(large, target)
    assert rest == Moved(events=MANY - head, position=MANY, complete=True)
    assert (await verify(large, target)).equal


@pytest.mark.anyio
async def test_a_progress_that_returns_false_stops_it(large: SyncEventStore, postgres: PostgresConfig) -> None:
    stopped = await export(large, postgres, progress=lambda _: False)
    assert not stopped.complete
    assert 0 < stopped.position < MANY
    found = await verify(large, postgres, progress=lambda _: False)
    assert found == Verified(found.events, None, None, complete=False, left_out=found.left_out)
    assert not found.equal


@pytest.mark.anyio
async def test_a_progress_may_be_awaited(large: SyncEventStore, tmp_path: Path) -> None:
    told: list[int] = []

    async def progress(how_far: Progress) -> None:
        await asyncio.sleep(0)
        told.append(how_far.position)

    await export(large, f"sqlite://{tmp_path}/target.db", progress=progress)
    assert told == sorted(told)
    assert told[-1] == MANY


def test_without_asyncio_a_progress_is_not_awaited(source: SyncEventStore, tmp_path: Path) -> None:
    async def progress(_: Progress) -> None: ...

    with (
        pytest.warns(RuntimeWarning, match="never awaited"),
        pytest.raises(TypeError, match="nobody would await"),
    ):
        eventuali.sync.export(source, f"{tmp_path}/target", progress=progress)


@pytest.mark.anyio
async def test_cancelling_ends_it_and_the_next_call_goes_on(
    large: SyncEventStore, target: str | EventStoreConfig
) -> None:
    begun = asyncio.Event()
    moving = asyncio.create_task(export(large, target, progress=lambda _: begun.set()))
    await begun.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert (await export(large, target)).position == MANY
    assert (await verify(large, target)).equal


def test_ctrl_c_ends_it_and_the_next_call_goes_on(large: SyncEventStore, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/target.db"

    def interrupt(_: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        eventuali.sync.export(large, target, progress=interrupt)
    with SyncEventStore.create(target) as partly:
        assert 0 < partly.head() < MANY
    assert eventuali.sync.export(large, target).position == MANY
    assert eventuali.sync.verify(large, target).equal


@pytest.mark.anyio
async def test_the_loop_goes_on_meanwhile(large: SyncEventStore, postgres: PostgresConfig) -> None:
    longest, running = 0.0, True

    async def watch() -> None:
        nonlocal longest
        while running:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    watching = asyncio.create_task(watch())
    begun = time.perf_counter()
    await export(large, postgres)
    await verify(large, postgres)
    taken = time.perf_counter() - begun
    running = False
    await watching
    assert longest < taken / 3


def test_other_threads_go_on_meanwhile(large: SyncEventStore, tmp_path: Path) -> None:
    turns, running = 0, True

    def count() -> None:
        nonlocal turns
        while running:
            turns += 1
            time.sleep(0.001)

    counting = threading.Thread(target=count)
    counting.start()
    eventuali.sync.export(large, f"sqlite://{tmp_path}/target.db")
    running = False
    counting.join()
    assert turns > 10


@pytest.mark.anyio
async def test_a_target_with_other_events_is_refused(source: SyncEventStore, target: str | EventStoreConfig) -> None:
    async with EventStore.create(target) as other:
        await other.save(counted(1, "mine"))
        with pytest.raises(DivergedError) as refused:
            await export(source, other)
        assert await other.head() == 1
        error = refused.value
        assert error.position == 1
        assert error.target
        assert error.reason
        assert pickle.loads(pickle.dumps(error)).reason == error.reason  # noqa: S301
        with pytest.raises(DivergedError):
            await mirror(source, other)
        found = await verify(source, other)
    assert not found.equal
    assert found.difference is not None
    assert found.difference.position == 1
    assert found.difference.kind == "differs"
    assert "event id" in found.difference.parts
    assert found.difference.source_event == next(source.read_all()).event_id
    assert "position 1" in str(found.difference)


@pytest.mark.anyio
async def test_verify_names_what_is_missing(source: SyncEventStore, tmp_path: Path) -> None:
    target = f"{tmp_path}/target"
    await export(source, target)
    last = source.save(counted(1, "d")).position
    missing = (await verify(source, target)).difference
    assert isinstance(missing, Difference)
    assert (missing.position, missing.kind, missing.target_event) == (last, "missing in target", None)
    other_way = (await verify(target, source)).difference
    assert isinstance(other_way, Difference)
    assert (other_way.kind, other_way.source_event) == ("missing in source", None)


@pytest.mark.anyio
async def test_json_lines_there_and_back(
    source: SyncEventStore, target: str | EventStoreConfig, tmp_path: Path
) -> None:
    file = tmp_path / "history.jsonl"
    told: list[Progress] = []
    assert await export_json_lines(source, file, progress=told.append) == Moved(events=9, position=9, complete=True)
    assert told[-1].events == 9
    assert len(file.read_bytes().splitlines()) == 10
    assert await import_json_lines(file, target) == Moved(events=9, position=9, complete=True)
    assert await import_json_lines(str(file), target) == Moved(events=0, position=9, complete=True)
    assert (await verify(source, target)).equal
    assert [entry.name for entry in tmp_path.iterdir() if "part" in entry.name] == []


@pytest.mark.anyio
async def test_a_file_is_whole_or_as_it_was(large: SyncEventStore, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("before")
    stopped = await export_json_lines(large, file, progress=lambda _: False)
    assert not stopped.complete
    assert file.read_text() == "before"

    def give_up(_: Progress) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await export_json_lines(large, file, progress=give_up)
    assert file.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir() if "part" in entry.name] == []


class Full(io.BytesIO):
    @override
    def write(self, _: Any, /) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.anyio
async def test_what_a_file_raises_is_raised(source: SyncEventStore, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        await export_json_lines(source, Full())
    with pytest.raises(FileNotFoundError):
        await import_json_lines(tmp_path / "nowhere.jsonl", "memory://")
    text: Any = io.StringIO()
    with pytest.raises(TypeError, match="mode 'wb'"):
        await export_json_lines(source, text)
    with pytest.raises(TypeError, match="mode 'rb'"):
        await import_json_lines(text, source)


# Of another process: two copies of SQLite in one do not see each other's locks.
LOCKER = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN IMMEDIATE")
print(flush=True)
input()
"""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as locker:
        assert locker.stdout is not None
        locker.stdout.readline()
        yield
        locker.communicate(b"\n")


def test_a_target_that_is_locked_can_be_given_up_and_lines_are_read_again_later(
    source: SyncEventStore, tmp_path: Path
) -> None:
    lines = tmp_path / "history.jsonl"
    eventuali.sync.export_json_lines(source, lines)
    file = tmp_path / "target.db"
    with SyncEventStore.create(EventStoreConfig.sqlite(file).with_lock_timeout(ms=50)) as target:
        with locked(file):
            # It has nothing to tell of but that it waits.
            stopped = eventuali.sync.export(source, target, progress=lambda waiting: waiting.events > 0)
            assert stopped == Moved(events=0, position=0, complete=False)
            with pytest.raises(StoreUnavailableError):
                eventuali.sync.import_json_lines(lines, target)
        assert eventuali.sync.import_json_lines(lines, target) == Moved(events=9, position=9, complete=True)
        assert eventuali.sync.verify(source, target).equal


@pytest.mark.anyio
async def test_a_line_that_is_no_event_is_refused_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(SerializationError, match="line 2"):
        await import_json_lines(io.BytesIO(b'\n{"position": 1}\n'), f"{tmp_path}/target")


@pytest.mark.anyio
async def test_a_mirror_follows_until_it_is_stopped_and_goes_on_later(
    source: SyncEventStore, target: str | EventStoreConfig
) -> None:
    async with mirror(source, target) as following:
        position = source.save(counted(4, "d")).position
        await asyncio.to_thread(wait_until, lambda: following.status().position == position)
        assert following.status().running
        assert following.status().waiting is None
    assert not following.status().running
    assert (await following.stop()).position == position
    later = source.save(counted(1, "e")).position
    again = await mirror(source, target)
    await asyncio.to_thread(wait_until, lambda: again.status().position == later)
    assert (await again.stop()).events == 1
    assert (await verify(source, target)).equal


def test_a_mirror_without_asyncio(source: SyncEventStore, target: str | EventStoreConfig) -> None:
    with eventuali.sync.mirror(source, target) as following:
        position = source.save(counted(4, "d")).position
        wait_until(lambda: following.status().position == position)
    assert following.stop().position == position
    assert eventuali.sync.verify(source, target).equal


def test_what_ends_a_mirror_is_told_when_it_is_stopped(source: SyncEventStore, postgres: PostgresConfig) -> None:
    following = eventuali.sync.mirror(source, postgres)
    wait_until(lambda: following.status().position == 9)
    with SyncEventStore.create(postgres) as target:
        target.save(counted(1, "mine"))
    source.save(counted(1, "d"))
    wait_until(lambda: not following.status().running)
    with pytest.raises(DivergedError):
        following.stop()
    assert following.stop().position == 9


FORKER = """
import os, sys
from eventuali import ForkedProcessError
from eventuali.sync import EventStore, mirror

with EventStore.create("memory://") as source, EventStore.create("memory://") as target, mirror(source, target) as following:
    child = os.fork()
    if child == 0:
        try:
            following.stop()
        except ForkedProcessError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert following.status().running
"""


def test_a_forked_child_cannot_stop_its_parents_mirror() -> None:
    ran = subprocess.run([sys.executable, "-c", FORKER], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
