"""Whole processes: forks, signals, sudden ends."""

import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eventuali import EventStoreConfig, ForkedProcessError
from eventuali.config import PostgresConfig
from eventuali.sync import EventStore
from tests.conftest import Place
from tests.counting import Counter, counted, report_of
from tests.crash.writer import Noted, check

PYBIND = Path(__file__).resolve().parents[1]
CRASH_WRITER = PYBIND / "tests" / "crash" / "writer.py"


def start(script: str, *arguments: object, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=PYBIND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(script: str, *arguments: object) -> str:
    process = start(script, *arguments)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (process.returncode, errors)
    assert errors == ""
    return output


def handed_over(place: Place | Path) -> str:
    """A place as an argument of a script, which finds it with `given()`."""
    return pickle.dumps(place).hex()


def test_after_a_fork_the_child_is_told_and_the_parent_goes_on(waiting_place: Place) -> None:
    store = EventStore.create(waiting_place)
    store.save(counted(1, "counter"))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            for operation in (store.head, lambda: store.save(counted(1)), lambda: list(store.read_all()), store.sync):
                try:
                    operation()
                except ForkedProcessError:
                    continue
                break
            else:
                store.close()
                status = 0
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    store.save(counted(1))
    assert store.head() == 2
    store.close()


def test_a_child_that_ends_does_not_close_its_parents_store(tmp_path: Path) -> None:
    output = run(
        """
        import os, subprocess, sys
        from eventuali.sync import EventStore
        from tests.counting import counted
        store = EventStore.create(sys.argv[1])
        store.save(counted(1))
        if os.fork() == 0:
            sys.exit(0)  # with all exit handlers
        assert os.wait()[1] == 0
        other = "import sys, eventuali.sync; eventuali.sync.EventStore.create(sys.argv[1])"
        second = subprocess.run([sys.executable, "-c", other, sys.argv[1]], capture_output=True, text=True)
        assert f"process {os.getpid()}" in second.stderr, second.stderr
        store.save(counted(1))
        print(store.head())
        """,
        tmp_path / "store",
    )
    assert output == "2\n"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_child_that_ends_does_not_harm_its_parents_database(
    tmp_path: Path, postgres: PostgresConfig, kind: str
) -> None:
    output = run(
        """
        import os, sys
        from eventuali.sync import EventStore
        from tests.counting import Counter, counted, given
        store = EventStore.create(given())
        store.save(counted(1, "counter"))
        for _ in range(3):
            if os.fork() == 0:
                sys.exit(0)  # with all exit handlers
            assert os.wait()[1] == 0
            store.update(Counter, "counter", lambda counter: counter.count())
        print(store.head())
        """,
        handed_over(EventStoreConfig.sqlite(tmp_path / "events.db") if kind == "sqlite" else postgres),
    )
    assert output == "4\n"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_child_drops_readers_of_its_parents_database(tmp_path: Path, postgres: PostgresConfig, kind: str) -> None:
    output = run(
        """
        import os, sys, time
        from eventuali.sync import EventStore
        from tests.counting import Counted, given
        store = EventStore.create(given())
        store.append("counter", [Counted(by=1) for _ in range(3000)], aggregate_type="Counter")
        for round in range(30):
            readers = [iter(store.read_all()) for _ in range(3)]
            for reader in readers:
                next(reader)  # the pages behind are on their way, or there
            time.sleep(round % 5 / 1000)
            child = os.fork()
            if child == 0:
                del reader, readers
                sys.exit(0)  # with all exit handlers
            assert os.waitpid(child, 0)[1] == 0
            assert [sum(1 for _ in reader) for reader in readers] == [2999] * 3
        print(store.head())
        """,
        handed_over(EventStoreConfig.sqlite(tmp_path / "events.db") if kind == "sqlite" else postgres),
    )
    assert output == "3000\n"


def test_a_dead_writers_lock_is_gone_although_its_child_lives(tmp_path: Path) -> None:
    writer = start(
        """
        import os, sys, time
        from eventuali.sync import EventStore
        from tests.counting import counted
        store = EventStore.create(sys.argv[1])
        store.save(counted(1))
        here, there = os.pipe()
        if os.fork() == 0:
            os.write(there, b"alive")  # until it has run, the child is the writer's twin, with all its descriptors
            os.close(1)
            os.close(2)
            time.sleep(60)
            os._exit(0)
        os.read(here, 5)
        print("ready", flush=True)
        time.sleep(60)
        """,
        tmp_path / "store",
        start_new_session=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    writer.kill()
    writer.wait()
    try:
        with EventStore.create(tmp_path / "store") as store:
            assert store.head() == 1
    finally:
        os.killpg(writer.pid, signal.SIGKILL)
        writer.stdout.close()
        assert writer.stderr is not None
        writer.stderr.close()


def test_a_child_opens_a_store_of_its_own(tmp_path: Path) -> None:
    with EventStore.create(tmp_path / "parent") as store:
        store.save(counted(1))
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                with EventStore.create(tmp_path / "child") as own:
                    own.save(counted(2, "counter"))
                status = 0
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    with EventStore.create(tmp_path / "child") as store:
        assert store.load(Counter, "counter").total == 2


EXITS = {
    "sync": """
        import sys
        from eventuali.sync import EventStore
        from tests.counting import counted, given
        store = EventStore.create(given())
        for number in range(5):
            print(store.save(counted(1)).position, flush=True)
    """,
    "asyncio": """
        import asyncio, sys
        from eventuali import EventStore
        from tests.counting import counted, given
        async def main():
            global store
            store = await EventStore.create(given())
            for receipt in await asyncio.gather(*(store.save(counted(1)) for _ in range(20))):
                print(receipt.position, flush=True)
        asyncio.run(main())
    """,
    "saves under way": """
        import asyncio, sys
        from eventuali import EventStore
        from tests.counting import counted, given
        async def main():
            store = await EventStore.create(given())
            print((await store.save(counted(1))).position, flush=True)
            for _ in range(20):
                asyncio.ensure_future(store.save(counted(1)))
            await asyncio.sleep(0)
        asyncio.run(main())
    """,
    "threads": """
        import sys, threading
        from eventuali.sync import EventStore
        from tests.counting import counted, given
        store = EventStore.create(given())
        def work():
            try:
                while True:
                    store.save(counted(1))
            except BaseException:
                pass
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        print(store.save(counted(1)).position, flush=True)
    """,
    "other durability": """
        import sys
        from eventuali import EventStoreConfig
        from eventuali.sync import EventStore
        from tests.counting import counted, given
        store = EventStore.create(given().with_durability("os"))
        for _ in range(50):
            position = store.save(counted(1)).position
        print(position, flush=True)
    """,
    "no readers": """
        import asyncio, sys
        from eventuali import EventStore
        from tests.counting import counted, given
        class Loop(asyncio.SelectorEventLoop):
            def add_reader(self, *args):
                raise NotImplementedError
        async def main():
            global store
            store = await EventStore.create(given())
            print((await store.save(counted(1))).position, flush=True)
        loop = Loop()
        loop.run_until_complete(main())
    """,
}


def ends_well(kind: str, place: Place) -> None:
    """Runs a script that does not close its store; it loses nothing acknowledged."""
    acknowledged = int(run(EXITS[kind], handed_over(place)).split()[-1])
    with EventStore.create(place) as store:
        assert store.head() >= acknowledged, kind
        if store.capabilities().backend == "embedded":
            assert report_of(store).outcome in ("clean", "recovered"), kind


def test_200_scripts_that_end_without_closing_lose_nothing(tmp_path: Path) -> None:
    kinds = list(EXITS)

    def one(number: int) -> None:
        ends_well(kinds[number % len(kinds)], EventStoreConfig.embedded(tmp_path / f"store-{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(200)))


def test_20_scripts_that_end_without_closing_a_database_lose_nothing(tmp_path: Path, postgres: PostgresConfig) -> None:
    def one(kind: str, number: int) -> None:
        ends_well(kind, EventStoreConfig.sqlite(tmp_path / f"{number}.db"))
        ends_well(kind, postgres.with_table_name(f"{postgres.table_name}_{number}"))

    kinds = [kind for kind in EXITS if kind != "other durability"] * 2
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, kinds, range(len(kinds))))


WAITS = {
    "saving in memory": """
        store = EventStore.create("memory://")
        print("ready", flush=True)
        while True:
            store.save(counted(1))
    """,
    "saving to disk": """
        store = EventStore.create(given())
        print("ready", flush=True)
        while True:
            store.save(counted(1))
    """,
    "saving to a database": """
        store = EventStore.create(given())
        print("ready", flush=True)
        while True:
            store.save(counted(1))
    """,
    "loading from a database": """
        store = EventStore.create(given())
        store.append("counter", [Counted(by=1) for _ in range(2000)], aggregate_type="Counter")
        print("ready", flush=True)
        while True:
            store.load(Counter, "counter")
    """,
    "reading from a database": """
        store = EventStore.create(given())
        store.append("counter", [Counted(by=1) for _ in range(2000)], aggregate_type="Counter")
        print("ready", flush=True)
        while True:
            for batch in store.read_all().batches():
                pass
    """,
    "reading": """
        store = EventStore.create("memory://")
        store.append("counter", [Counted(by=1) for _ in range(2000)], aggregate_type="Counter")
        print("ready", flush=True)
        while True:
            for batch in store.read_all().batches():
                pass
    """,
}


@pytest.mark.parametrize("kind", WAITS)
def test_ctrl_c_interrupts_and_leaves_a_usable_store(tmp_path: Path, postgres: PostgresConfig, kind: str) -> None:
    place = postgres if "database" in kind else tmp_path / "store"
    body = textwrap.indent(textwrap.dedent(WAITS[kind]), "    ")
    script = f"""
import signal, sys, time
from eventuali.sync import EventStore
from tests.counting import Counted, Counter, counted, given
try:
{body}
except KeyboardInterrupt:
    before = store.sync()  # behind the save that was interrupted, which may still be under way
    store.save(counted(1, "after"))
    assert store.load(Counter, "after").total == 1
    assert store.head() == before + 1
    print("usable", flush=True)
"""
    interrupt_and_expect_usable(script, place)


def test_ctrl_c_interrupts_asyncio_during_saves(place: Place) -> None:
    script = """
import asyncio
from eventuali import EventStore
from tests.counting import Counter, counted, given
async def main():
    store = await EventStore.create(given())
    print("ready", flush=True)
    try:
        while True:
            await store.save(counted(1))
    except asyncio.CancelledError:
        await store.save(counted(1, "after"))
        assert (await store.load(Counter, "after")).total == 1
        print("usable", flush=True)
        raise
try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
"""
    interrupt_and_expect_usable(script, place)


def interrupt_and_expect_usable(script: str, place: Place | Path) -> None:
    # Who starts the tests in the background has them ignore the signal, and children inherit that.
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = start(heed + script, handed_over(place))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.random() / 10)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (output, process.returncode) == ("usable\n", 0), errors
    assert time.monotonic() - began < 5


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    rounds = int(os.environ.get("EVENTUALI_KILL_ROUNDS", "200"))
    finished = subprocess.run(
        [sys.executable, CRASH_WRITER, tmp_path, str(rounds)],
        cwd=PYBIND,
        capture_output=True,
        text=True,
        timeout=max(280, 2 * rounds),
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"{rounds} kills, ")


def noted_store(place: Path, *events: tuple[str, Noted]) -> EventStoreConfig:
    with EventStore.create(place) as store:
        for stream, event in events:
            store.append(stream, [event], aggregate_type="Stream")
    return EventStoreConfig.embedded(place)


def test_the_crash_test_notices_what_it_is_there_for(tmp_path: Path) -> None:
    whole = noted_store(tmp_path / "whole", ("stream-1", Noted(first=1, together=1, filling="")))
    assert check(whole, {1: 1}) == 1
    with pytest.raises(SystemExit, match="2 were acknowledged"):
        check(whole, {1: 2})
    half = noted_store(tmp_path / "half", ("stream-1", Noted(first=1, together=2, filling="")))
    with pytest.raises(SystemExit, match="in part"):
        check(half, {})
    headless = noted_store(tmp_path / "headless", ("stream-1", Noted(first=0, together=1, filling="")))
    with pytest.raises(SystemExit, match="lost its beginning"):
        check(headless, {})
