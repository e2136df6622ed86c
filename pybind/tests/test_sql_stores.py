"""What is particular to SQLite and Postgres. All else of the store's tests runs over them too: see `conftest.py`."""

import asyncio
import contextlib
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from typing_extensions import override

from eventuali import (
    Aggregate,
    ConfigurationError,
    DatabaseError,
    DomainEvent,
    EventMetadata,
    EventStore,
    EventStoreConfig,
    FormatVersionError,
    StoreUnavailableError,
    Value,
    sync,
)
from eventuali.config import PostgresConfig
from tests.conftest import Place
from tests.counting import Counted, Counter, counted

pytestmark = pytest.mark.anyio

SECRET = "s3cret"  # noqa: S105
PYBIND = Path(__file__).resolve().parents[1]


class Line(Value):
    price: Decimal
    weight: float


class Everything(DomainEvent):
    text: str
    exact: Decimal
    huge: int
    ratio: float
    at: datetime
    day: date
    empty: dict[str, dict[str, int]]
    nothing: list[None]
    lines: list[Line]
    raw: bytes


class Keeper(Aggregate):
    kept: list[Everything] = []

    def apply_everything(self, event: Everything) -> None:
        self.kept = [*self.kept, event]


def everything(text: str) -> Everything:
    return Everything(
        text=text,
        exact=Decimal("0.12345678901234567890123456789012345678901234567890"),
        huge=10**400 + 1,
        ratio=-0.0,
        at=datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        day=date(1, 1, 1),
        empty={"": {}},
        nothing=[None, None],
        lines=[Line(price=Decimal("1E+300"), weight=math.inf), Line(price=Decimal("-0.00"), weight=5e-324)],
        raw=bytes(range(256)),
    )


@pytest.mark.parametrize(
    "text", ["plain", "\u0000", 'a\u0000b\\u0000"', "\U0001f642\u2028\ufffe", "\\\\u0000"], ids=ascii
)
async def test_every_payload_comes_back_equal(store: EventStore, text: str) -> None:
    keeper = Keeper(id="keeper")
    event = everything(text)
    keeper.apply(event)
    metadata = EventMetadata(user_id="ada\u0000", headers={"": "\u0000"})
    await store.save(keeper, metadata=metadata)
    loaded = (await store.load(Keeper, "keeper")).kept[0]
    assert loaded == event
    # Equal is not enough: -0.0 == 0.0, and Decimal("1.0") == Decimal("1.00").
    assert loaded.model_dump_json() == event.model_dump_json()
    assert loaded.metadata == metadata
    # A repetition is compared with what is stored, and is the same although a database may have changed its spelling.
    assert (await store.append("keeper", [event], aggregate_type=Keeper)).version == 1
    assert await store.head() == 1


async def test_capabilities_tell_the_databases_apart(store: EventStore) -> None:
    capabilities = store.capabilities()
    assert capabilities.exact_json == (capabilities.backend != "postgres")
    if capabilities.backend == "embedded":
        assert store.open_report is not None
        assert "opened" in store._repr_html_()
    else:
        assert store.open_report is None
        assert "opened" not in store._repr_html_()
        assert capabilities.persistent == (capabilities.durability != "memory")
        assert capabilities.writable


async def test_no_python_runs_in_a_thread_that_python_did_not_start(store: EventStore) -> None:
    threads: set[int] = set()

    class Told(Counter, aggregate_type="Told"):
        @override
        def apply_counted(self, event: Counted) -> None:
            threads.add(threading.get_ident())
            super().apply_counted(event)

    async def work(number: int) -> None:
        told = Told(id=f"told-{number}")
        told.count()
        await store.save(told)
        assert (await store.load(Told, told.id)).total == 1
        async for event in store.read(told.id):
            assert isinstance(event, Counted)

    await asyncio.gather(*map(work, range(50)))
    assert threads == {threading.get_ident()}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Dummy")]


async def test_every_spelling_of_a_sqlite_file_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings: list[str | EventStoreConfig] = [
        "sqlite://events.db",
        f"sqlite://{tmp_path}/events.db",
        f"sqlite://{tmp_path}/%65vents.db",
        EventStoreConfig.sqlite("events.db"),
        EventStoreConfig.sqlite(tmp_path / "events.db"),
        EventStoreConfig.sqlite(Path("~/events.db")),
        EventStoreConfig.sqlite("~/events.db"),
    ]
    for number, spelling in enumerate(spellings):
        async with EventStore.create(spelling) as store:
            assert await store.head() == number
            await store.save(counted(1))
            assert repr(store).startswith("<EventStore sqlite://")
    assert [found.name for found in tmp_path.iterdir()] == ["events.db"]


async def test_sqlite_in_memory_is_always_a_new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("sqlite://:memory:", EventStoreConfig.sqlite(":memory:")):
        async with EventStore.create(place) as one, EventStore.create(place) as other:
            await one.save(counted(1))
            assert (await one.head(), await other.head()) == (1, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_tables_of_another_name_are_another_store(tmp_path: Path, postgres: PostgresConfig, kind: str) -> None:
    config = EventStoreConfig.sqlite(tmp_path / "events.db") if kind == "sqlite" else postgres
    async with EventStore.create(config) as one, EventStore.create(config.with_table_name("other_" + "x" * 9)) as other:
        await one.save(counted(1))
        assert await one.head() == 1
        seen = await other.head()
        await one.save(counted(1))
        assert await other.head() == seen


@pytest.mark.parametrize("name", ['x"; DROP TABLE events; --', "", "Events", "a" * 64, "1st", "ä"])
def test_a_table_name_that_cannot_be_is_refused_when_the_config_is_made(name: str) -> None:
    for config in (EventStoreConfig.sqlite("events.db"), EventStoreConfig.postgres("postgresql://host/db")):
        with pytest.raises(ConfigurationError, match="name"):
            config.with_table_name(name)


@pytest.mark.parametrize("connections", [1, 10_001, 2**63])
def test_connections_have_bounds(connections: int) -> None:
    with pytest.raises(ConfigurationError, match="from 2 to 10000"):
        EventStoreConfig.sqlite("events.db").with_max_connections(connections)


def test_timeouts_and_options_are_checked_when_the_config_is_made() -> None:
    sqlite, memory = EventStoreConfig.sqlite("events.db"), EventStoreConfig.sqlite(":memory:")
    postgres = EventStoreConfig.postgres("postgresql://host/db")
    day_and_more = 24 * 3600 * 1000 + 1
    for change in (sqlite.with_acquire_timeout, sqlite.with_lock_timeout, postgres.with_statement_timeout):
        with pytest.raises(ConfigurationError, match="24 hours"):
            change(ms=day_and_more)
    setting: Any = "off"
    with pytest.raises(ConfigurationError, match="synchronous is 'full' or 'normal', not 'off'"):
        sqlite.with_synchronous(setting)
    with pytest.raises(ConfigurationError, match="nothing to synchronise"):
        memory.with_synchronous("normal")
    with pytest.raises(ConfigurationError, match="looks like a connection string"):
        EventStoreConfig.sqlite("sqlite://events.db")
    for url in ("./orders", "events", "sqlite://events.db", "memory://"):
        with pytest.raises(ConfigurationError):
            EventStoreConfig.postgres(url)


async def test_synchronous_normal_promises_less(tmp_path: Path) -> None:
    config = EventStoreConfig.sqlite(tmp_path / "events.db").with_synchronous("normal")
    async with EventStore.create(config) as store:
        assert store.capabilities().durability == "os"
        await store.save(counted(2))
        assert await store.durable_position() == 0
        assert (await store.sync(), await store.durable_position()) == (2, 2)


@pytest.mark.parametrize("place", ["sqlite://events.db", EventStoreConfig.sqlite("events.db")], ids=["url", "config"])
async def test_options_of_a_directory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in ({"accept_loss_after": 7}, {"read_up_to_damage": True}):
        with pytest.raises(ConfigurationError, match="options of a directory"):
            await EventStore.create(place, **options)
    assert list(tmp_path.iterdir()) == []


def with_password(postgres: PostgresConfig, password: str) -> str:
    """The address of the server for tests, with a password that is none."""
    parts = urlsplit(postgres.url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{parts.hostname}:{parts.port}"))


async def test_a_wrong_password_is_refused_and_shown_nowhere(postgres: PostgresConfig) -> None:
    url = with_password(postgres, SECRET)
    for place in (url, EventStoreConfig.postgres(url)):
        opening = EventStore.create(place)
        assert SECRET not in repr(place if isinstance(place, EventStoreConfig) else opening)
        with pytest.raises(ConfigurationError, match="refused the connection") as refused:
            await opening
        assert SECRET not in f"{refused.value!r}{refused.value}{refused.value.__dict__}"


async def test_no_repr_of_a_store_shows_a_password(postgres: PostgresConfig) -> None:
    password = urlsplit(postgres.url).password
    assert password
    async with EventStore.create(postgres) as store:
        assert password not in f"{store!r}{store._repr_html_()}{postgres!r}{EventStore!r}"
        assert re.match(r"<EventStore postgresql://\*\*\*@[\w.]+:\d+/\w+, sync, open>", repr(store))


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never says anything."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"postgresql://app:{SECRET}@127.0.0.1:{server.getsockname()[1]}/events"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        config = EventStoreConfig.postgres(f"postgresql://app:{SECRET}@127.0.0.1:{port}/events")
        with pytest.raises(StoreUnavailableError) as refused:
            await EventStore.create(config.with_acquire_timeout(ms=500))
        with pytest.raises(StoreUnavailableError):
            sync.EventStore.create(config.with_acquire_timeout(ms=500))
    assert refused.value.store == f"postgresql://127.0.0.1:{port}/events"
    assert refused.value.reason
    assert SECRET not in f"{refused.value!r}{refused.value.__dict__}"


async def test_a_server_that_says_nothing_is_unavailable_and_stalls_no_loop() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.005)

    with silent_server() as url:
        task = asyncio.create_task(others())
        with pytest.raises(StoreUnavailableError, match="in time"):
            await EventStore.create(EventStoreConfig.postgres(url).with_acquire_timeout(ms=300))
        task.cancel()
    assert turns > 10


async def test_an_opening_can_be_cancelled() -> None:
    with silent_server() as url:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await EventStore.create(url)
        assert time.monotonic() - began < 5


def test_ctrl_c_interrupts_an_opening() -> None:
    script = """
import signal, sys, threading, _thread
from eventuali.sync import EventStore
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
try:
    EventStore.create(sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""
    with silent_server() as url:
        run = subprocess.run(
            [sys.executable, "-c", script, url], capture_output=True, text=True, timeout=20, check=False
        )
    assert (run.stdout, run.returncode, run.stderr) == ("interrupted\n", 0, "")


@contextlib.contextmanager
def another_process(file: Path, *statements: str) -> Iterator[None]:
    """Another process runs statements on a SQLite file, and keeps its connection meanwhile.

    It has to be another process: the locks of a file are the process's own, whichever SQLite library takes them.
    """
    script = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("done", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(file), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield
        process.stdin.close()


async def test_a_save_cancelled_while_another_process_writes_is_stored_once(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    async with EventStore.create(f"sqlite://{file}") as store:
        counter = counted(2, "counter")
        with another_process(file, "BEGIN IMMEDIATE"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.save(counter)
            counter.count()
        receipt = await store.save(counter)
        assert (receipt.version, receipt.events) == (3, 3)
        assert await store.head() == 3


async def test_a_file_that_another_process_keeps_locked_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    async with EventStore.create(EventStoreConfig.sqlite(file).with_lock_timeout(ms=50)) as store:
        counter = counted(1, "counter")
        with (
            another_process(file, "BEGIN IMMEDIATE"),
            pytest.raises(StoreUnavailableError, match="another process writes") as refused,
        ):
            await store.save(counter)
        assert refused.value.store == f"sqlite://{file}"
        assert len(counter.pending_events) == 1
        assert (await store.save(counter)).version == 1


async def test_a_refused_statement_names_the_databases_code(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    async with EventStore.create(f"sqlite://{file}") as store:
        with another_process(file, "DROP TABLE events"):
            pass
        with pytest.raises(DatabaseError, match="no such table") as refused:
            await store.load(Counter, "counter")
    assert (refused.value.store, refused.value.code) == (f"sqlite://{file}", "1")


async def test_tables_of_a_newer_release_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    async with EventStore.create(f"sqlite://{file}") as store:
        await store.save(counted(1))
    with another_process(file, "UPDATE events_migrations SET version = 99"):
        pass
    with pytest.raises(FormatVersionError) as refused:
        await EventStore.create(f"sqlite://{file}")
    assert (refused.value.path, refused.value.found) == (f"sqlite://{file}", 99)
    assert 1 <= refused.value.supported < 99


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    file.write_text("not a database, but long enough to be taken for one " * 50)
    with pytest.raises(ConfigurationError, match="no SQLite database"):
        await EventStore.create(f"sqlite://{file}")
    with pytest.raises(ConfigurationError, match="missing"):
        await EventStore.create(f"sqlite://{tmp_path}/missing/events.db")
    assert file.read_text().startswith("not a database")


async def test_several_stores_on_one_database_take_turns(lasting_place: Place) -> None:
    if isinstance(lasting_place, PostgresConfig):
        lasting_place = lasting_place.with_max_connections(2)
    async with (
        EventStore.create(lasting_place) as one,
        EventStore.create(lasting_place) as other,
        EventStore.create(lasting_place) as third,
    ):
        await asyncio.gather(*(store.save(counted(1)) for store in (one, other, third) * 20))
        assert [event.position async for event in other.read_all()] == list(range(1, 61))


async def test_what_was_stored_outlives_the_store(lasting_place: Place) -> None:
    then = datetime(2024, 1, 1, tzinfo=UTC)
    async with EventStore.create(lasting_place) as store:
        await store.append("counter", [Counted(by=2)], aggregate_type=Counter, timestamp=then)
    async with EventStore.create(lasting_place) as store:
        assert (await store.load(Counter, "counter")).total == 2
        assert [event.timestamp async for event in store.read("counter")] == [then]
