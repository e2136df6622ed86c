"""Readers in processes of their own, beside the one that writes."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from eventuali import ConfigurationError, EventStore, EventStoreConfig, UnsupportedError
from eventuali.config import EmbeddedConfig
from eventuali.sync import EventStore as BlockingStore
from tests.counting import Counter, counted, report_of
from tests.test_command import eventuali as command

pytestmark = pytest.mark.anyio

WRITER = """
    import sys
    from eventuali.sync import EventStore
    from tests.counting import Counter

    with EventStore.create(sys.argv[1]) as store:
        counters = [Counter(id=name) for name in "abc"]
        print("open", flush=True)
        for number in range(1, int(sys.argv[2]) + 1):
            counter = counters[number % 3]
            counter.count(number)
            store.save(counter)
        print("written", flush=True)
        sys.stdin.read()
"""

READER = """
    import json, sys, time
    from eventuali.sync import EventStore

    with EventStore.create(sys.argv[1], read_only=True) as store:
        print("open", flush=True)
        seen, deadline = 0, time.monotonic() + 60
        while seen < int(sys.argv[2]) and time.monotonic() < deadline:
            for event in store.read_all(after=seen):
                assert event.position == seen + 1 == json.loads(event.payload)["by"], event
                seen = event.position
            assert store.durable_position() >= seen
        print(f"saw {seen}", flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ends(process: "subprocess.Popen[str]") -> str:
    """Lets it go on to its end; what it said."""
    said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    return said.strip()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A closed store of one event."""
    path = tmp_path / "orders"
    with BlockingStore.create(path) as store:
        store.save(counted(1, "first"))
    return path


async def test_readers_in_other_processes_see_what_a_writer_saves_once_and_in_order(tmp_path: Path) -> None:
    path, events = tmp_path / "orders", 300
    BlockingStore.create(path).close()
    readers = [start(READER, path, events) for _ in range(2)]
    assert [hear(reader) for reader in readers] == ["open", "open"]
    writer = start(WRITER, path, events)
    assert hear(writer) == "open"
    async with EventStore.create(path, read_only=True) as here:
        while await here.head() < events:
            assert writer.poll() is None, writer.stderr
        totals = [(await here.load(Counter, name)).total for name in "abc"]
    assert sum(totals) == events * (events + 1) // 2
    assert hear(writer) == "written"
    assert [ends(reader) for reader in readers] == [f"saw {events}"] * 2
    ends(writer)


async def test_a_reader_goes_on_when_one_writer_is_killed_and_the_next_one_comes(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    first = start(WRITER, path, 10)
    assert [hear(first), hear(first)] == ["open", "written"]
    async with EventStore.create(path, read_only=True) as store:
        assert await store.head() == 10
        first.kill()
        first.communicate()
        assert [event.position async for event in store.read_all(after=8)] == [9, 10]
        with BlockingStore.create(path) as writer:
            writer.save(counted(2))
            assert await store.head() == 12
        assert [event.position async for event in store.read_all(after=10)] == [11, 12]


async def test_nothing_can_be_saved_and_nothing_is_changed(store: Path) -> None:
    before = {file.name: file.read_bytes() for file in store.iterdir()}
    async with EventStore.create(store, read_only=True) as reader:
        assert (report_of(reader).outcome, report_of(reader).head) == ("read_only", 1)
        assert not reader.capabilities().writable
        assert reader.capabilities().durability is None, "nothing is acknowledged here"
        assert ", only read, open>" in repr(reader)
        with pytest.raises(UnsupportedError, match="for reading only"):
            await reader.save(counted(1))
        assert (await reader.sync(), await reader.durable_position()) == (1, 1), "its writer has synced it"
        assert (await reader.load(Counter, "first")).total == 1
    with BlockingStore.create(store, read_only=True) as blocking:
        with pytest.raises(UnsupportedError, match="for reading only"):
            blocking.save(counted(1))
        assert blocking.load(Counter, "first").total == 1
    assert {file.name: file.read_bytes() for file in store.iterdir()} == before


async def test_a_config_says_what_is_seen(store: Path) -> None:
    config = EventStoreConfig.embedded(store)
    assert config.read_only is None
    with BlockingStore.create(config.with_durability("os")) as writer:
        writer.save(counted(1))
        writer.sync()
        writer.save(counted(1))
        for durable in (config.with_read_only("durable"), EmbeddedConfig(str(store), read_only="durable")):
            async with EventStore.create(durable) as reader:
                assert (await reader.head(), reader.capabilities().durability) == (2, None)
            with BlockingStore.create(durable, read_only=True) as blocking:
                assert blocking.head() == 2, "the config says more"
        async with EventStore.create(config.with_read_only()) as reader:
            assert (await reader.head(), await reader.durable_position()) == (3, 2)
            with pytest.raises(UnsupportedError, match="leave that to the process that writes"):
                await reader.sync()


async def test_what_cannot_be_read_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        await EventStore.create(tmp_path / "missing", read_only=True)
    with pytest.raises(ConfigurationError, match="there is no store"):
        await EventStore.create(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    for place in ("memory://", "sqlite://:memory:"):
        with pytest.raises(ConfigurationError):
            await EventStore.create(place, read_only=True)
    with pytest.raises(ConfigurationError, match="read_up_to_damage is for the process that writes"):
        await EventStore.create(tmp_path, read_only=True, read_up_to_damage=True)
    config = EventStoreConfig.embedded(tmp_path)
    with pytest.raises(ConfigurationError, match="sees is 'visible' or 'durable'"):
        config.with_read_only("all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="durability is for the process that writes"):
        config.with_durability("os").with_read_only()


def test_commands_that_only_read_work_beside_a_writer(store: Path, tmp_path: Path) -> None:
    with BlockingStore.create(store) as writer:
        exported = command("export", store, tmp_path / "copy")
        assert exported.returncode == 0, exported.stderr
        assert "verified 1 event: equal" in exported.stdout
        writer.save(counted(1))
        lines = command("export-json-lines", store, "-")
        assert (lines.returncode, "wrote 2 events" in lines.stderr) == (0, True), lines.stderr
        assert command("verify", store, tmp_path / "copy").returncode == 3
        assert command("export", tmp_path / "copy", store).returncode == 1, "a target is written to"
