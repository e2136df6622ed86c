import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

import eventuali
from eventuali import (
    ConfigurationError,
    CorruptionError,
    EventStore,
    EventStoreConfig,
    StoreClosedError,
    UnsupportedError,
    rebuild_manifest,
)
from eventuali.config import EmbeddedConfig
from tests.counting import Counter, counted, report_of

pytestmark = pytest.mark.anyio


async def test_create_can_be_awaited(tmp_path: Path) -> None:
    store = await EventStore.create(str(tmp_path / "orders"))
    await store.save(counted(1))
    await store.close()


async def test_create_can_be_entered_and_closes_in_the_end(tmp_path: Path) -> None:
    async with EventStore.create(tmp_path / "orders") as store:
        await store.save(counted(1))
    with pytest.raises(StoreClosedError):
        await store.head()


async def test_the_store_is_closed_on_every_way_out(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with EventStore.create(tmp_path / "orders") as store:
            raise ZeroDivisionError
    with pytest.raises(StoreClosedError):
        await store.head()


async def test_a_store_can_be_entered_itself() -> None:
    store = await EventStore.create("memory://")
    async with store as same:
        assert same is store
    with pytest.raises(StoreClosedError):
        await store.head()


async def test_create_without_await_says_so() -> None:
    opening: Any = EventStore.create("memory://")
    with pytest.raises(AttributeError, match=r"store = await EventStore\.create"):
        opening.save(counted(1))
    with pytest.raises(TypeError, match=r"async with EventStore\.create"), opening:
        pass
    assert "to be awaited" in repr(opening)
    await (await opening).close()


async def test_create_that_nobody_awaits_is_warned_about() -> None:
    with pytest.warns(RuntimeWarning, match="not open yet"):
        EventStore.create("memory://")


async def test_the_constructor_points_to_create() -> None:
    constructor: Any = EventStore
    with pytest.raises(TypeError, match=r"await EventStore\.create"):
        constructor("memory://")


@pytest.mark.parametrize("spelling", ["string", "path", "url", "config"])
async def test_every_spelling_of_a_directory_opens_it(tmp_path: Path, spelling: str) -> None:
    directory = tmp_path / "orders"
    places: dict[str, str | Path | EventStoreConfig] = {
        "string": str(directory),
        "path": directory,
        "url": f"eventuali://{directory}",
        "config": EventStoreConfig.embedded(directory),
    }
    async with EventStore.create(places[spelling]) as store:
        await store.save(counted(3, "counter-1"))
    assert (directory / "MANIFEST").exists()
    async with EventStore.create(directory) as store:
        assert (await store.load(Counter, "counter-1")).total == 3


async def test_a_path_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("./first", Path("second"), EventStoreConfig.embedded("third")):
        async with EventStore.create(place):
            pass
    assert sorted(found.name for found in tmp_path.iterdir()) == ["first", "second", "third"]


async def test_a_tilde_means_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    async with EventStore.create("~/orders"):
        pass
    assert (tmp_path / "orders" / "MANIFEST").exists()


@pytest.mark.parametrize("spelling", [str, Path, EventStoreConfig.embedded])
async def test_a_surrogate_that_stands_for_no_byte_is_refused_with_the_path(tmp_path: Path, spelling: Any) -> None:
    path = f"{tmp_path}/a\ud800"
    with pytest.raises(ConfigurationError, match=r"a\\ud800'"):
        await EventStore.create(spelling(path))
    with pytest.raises(ConfigurationError, match=r"a\\ud800'"):
        rebuild_manifest(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spelling", [str, Path])
async def test_names_that_are_not_utf_8_are_different_directories(tmp_path: Path, spelling: Any) -> None:
    names = [b"a\xfe", b"a\xff"]
    for name in names:
        async with EventStore.create(spelling(f"{tmp_path}/{os.fsdecode(name)}")) as store:
            await store.save(counted(1))
    assert sorted(os.fsencode(found.name) for found in tmp_path.iterdir()) == names


async def test_a_connection_string_that_is_not_utf_8_can_only_be_a_path() -> None:
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        await EventStore.create("postgresql://app:\udcff@host/db")


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("orders", "./orders"),
        ("memory", "memory://"),
        (":memory:", "memory://"),
        ("events.db", "sqlite://events.db"),
        ("", "memory://"),
        ("redis://localhost", "redis"),
        ("postgresql+asyncpg://localhost/events", "postgresql://"),
    ],
)
async def test_a_probable_slip_is_refused_with_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slip: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        await EventStore.create(slip)
    assert meant in str(refused.value)
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_parent_is_refused_with_the_resolved_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(eventuali.EventualiError) as refused:
        await EventStore.create("./missing/orders")
    assert str(tmp_path / "missing") in str(refused.value)
    assert list(tmp_path.iterdir()) == []


async def test_a_file_in_the_way_is_refused_with_the_resolved_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders").write_text("not a store")
    with pytest.raises(eventuali.EventualiError) as refused:
        await EventStore.create("./orders")
    assert str(tmp_path / "orders") in str(refused.value)
    assert (tmp_path / "orders").read_text() == "not a store"


async def test_what_is_no_place_at_all_is_a_type_error() -> None:
    place: Any = 7
    with pytest.raises(TypeError, match=r"connection string, a path or an EventStoreConfig"):
        EventStore.create(place)


async def test_opening_a_directory_again_gives_another_handle(tmp_path: Path) -> None:
    first = await EventStore.create(tmp_path / "orders")
    second = await EventStore.create(tmp_path / "orders")
    await first.save(counted(2, "counter-1"))
    await first.close()
    await first.close()
    assert (await second.load(Counter, "counter-1")).total == 2
    with pytest.raises(StoreClosedError):
        await first.save(counted(1))
    await second.close()


async def test_a_store_in_memory_is_always_a_new_one() -> None:
    async with EventStore.create("memory://") as one, EventStore.create("memory://") as other:
        await one.save(counted(1))
        assert (await one.head(), await other.head()) == (1, 0)


async def test_a_second_process_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    script = f"""
import eventuali.sync, eventuali
try:
    eventuali.sync.EventStore.create({str(tmp_path / "orders")!r})
except eventuali.StoreLockedError as error:
    print(error.pid)
"""
    async with EventStore.create(tmp_path / "orders"):
        answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(os.getpid()), answer.stderr


async def test_the_open_report_says_what_was_found(tmp_path: Path) -> None:
    async with EventStore.create(tmp_path / "orders") as store:
        assert report_of(store).outcome == "created"
        await store.save(counted(2))
    async with EventStore.create(tmp_path / "orders") as store:
        assert (report_of(store).outcome, report_of(store).head) == ("clean", 2)
        assert "clean" in repr(report_of(store))


@pytest.mark.parametrize("durability", ["sync", "interval", "os"])
async def test_capabilities_say_what_is_promised(tmp_path: Path, durability: Any) -> None:
    async with EventStore.create(EventStoreConfig.embedded(tmp_path / "s").with_durability(durability)) as store:
        capabilities = store.capabilities()
        assert (capabilities.backend, capabilities.durability) == ("embedded", durability)
        assert capabilities.persistent
        assert capabilities.writable
        assert (await store.save(counted(1))).durability == durability


async def test_configs_are_checked_when_they_are_made() -> None:
    config = EventStoreConfig.embedded("./orders")
    with pytest.raises(ConfigurationError, match="'sync', 'interval', 'os'"):
        config.with_durability("always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="goes with durability 'interval'"):
        config.with_durability("os", ms=5)
    with pytest.raises(ConfigurationError, match="from 1 on"):
        config.with_durability("interval", ms=0)
    assert copy.copy(config.with_durability("interval", ms=7)).interval_ms == 7


async def damaged_store(directory: Path) -> tuple[Path, int]:
    """A closed store of ten events with a flipped bit in the sixth; the segment, and the last good position."""
    async with EventStore.create(directory) as store:
        for number in range(10):
            await store.save(counted(1, f"counter-{number}"))
    segment = next(directory.glob("*.seg"))
    content = bytearray(segment.read_bytes())
    content[content.index(b"counter-5")] ^= 1
    segment.write_bytes(content)
    return segment, 5


async def test_damage_is_refused_with_its_place(tmp_path: Path) -> None:
    segment, last_good = await damaged_store(tmp_path / "s")
    with pytest.raises(CorruptionError) as refused:
        await EventStore.create(tmp_path / "s")
    assert refused.value.path == str(segment)
    assert (refused.value.segment, refused.value.last_good_position) == (1, last_good)
    assert refused.value.offset > 0


async def test_a_damaged_store_can_be_read_up_to_the_damage(tmp_path: Path) -> None:
    _, last_good = await damaged_store(tmp_path / "s")
    async with EventStore.create(tmp_path / "s", read_up_to_damage=True) as store:
        assert (report_of(store).outcome, report_of(store).last_good_position) == ("damaged", last_good)
        assert report_of(store).damage is not None
        assert not store.capabilities().writable
        stream = store.read_all()
        assert [(await anext(stream)).position for _ in range(last_good)] == list(range(1, last_good + 1))
        with pytest.raises(CorruptionError):
            await anext(stream)
        with pytest.raises(UnsupportedError):
            await store.save(counted(1))


async def test_the_loss_behind_the_damage_can_be_accepted(tmp_path: Path) -> None:
    _, last_good = await damaged_store(tmp_path / "s")
    async with EventStore.create(tmp_path / "s", accept_loss_after=last_good) as store:
        assert (report_of(store).outcome, report_of(store).last_good_position) == ("loss_accepted", last_good)
        assert (await store.save(counted(1))).position == last_good + 1
    assert any((tmp_path / "s" / "quarantine").iterdir())


async def test_a_damaged_manifest_can_be_rebuilt(tmp_path: Path) -> None:
    async with EventStore.create(tmp_path / "s") as store:
        await store.save(counted(3, "counter-1"))
    (tmp_path / "s" / "MANIFEST").write_bytes(b"garbage")
    with pytest.raises(eventuali.EventualiError, match="rebuild"):
        await EventStore.create(tmp_path / "s")
    rebuild_manifest(tmp_path / "s")
    async with EventStore.create(tmp_path / "s") as store:
        assert (await store.load(Counter, "counter-1")).total == 3


async def test_reprs_are_short_and_notebooks_get_a_table(tmp_path: Path) -> None:
    async with EventStore.create(tmp_path / "s") as store:
        assert repr(store) == f"<EventStore {tmp_path / 's'}, sync, open>"
        assert store._repr_html_().startswith("<table>")
        assert repr(store.capabilities()) == "<Capabilities embedded, durability=sync, persistent=True, writable=True>"
    assert repr(store).endswith("closed>")


async def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    script = """
import atexit, signal, threading
before = atexit._ncallbacks(), signal.getsignal(signal.SIGINT)
import pydantic, typing_extensions
known = atexit._ncallbacks()
import eventuali, eventuali.sync
assert atexit._ncallbacks() == known, "atexit"
assert signal.getsignal(signal.SIGINT) is before[1], "signals"
assert threading.active_count() == 1, "threads"
import os
assert len(os.listdir("/proc/self/task")) == 1, "threads"
assert os.listdir(".") == [], "files"
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


async def test_a_closed_store_refuses_everything(tmp_path: Path) -> None:
    store = await EventStore.create(tmp_path / "s")
    counter = counted(1)
    await store.close()
    for refused in (
        store.save(counter),
        store.load(Counter, "counter"),
        store.head(),
        store.sync(),
        store.durable_position(),
    ):
        with pytest.raises(StoreClosedError):
            await refused
    with pytest.raises(StoreClosedError):
        await anext(store.read_all())
    assert len(counter.pending_events) == 1


@pytest.mark.parametrize("position", [-1, "7", True])
async def test_only_a_position_can_be_accepted_as_the_last(tmp_path: Path, position: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match="accept_loss_after"):
        await EventStore.create(tmp_path / "s", accept_loss_after=position)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["postgresql://ada:secret@host/db", "postgresql://host/db?user=ada&password=secret"])
async def test_what_may_hold_a_password_is_not_shown_before_it_is_awaited(place: str) -> None:
    opening = EventStore.create(place, read_up_to_damage=True)
    assert "secret" not in repr(opening)
    with pytest.raises(ConfigurationError, match="read_up_to_damage") as refused:
        await opening
    assert "secret" not in str(refused.value)


def test_a_config_refuses_a_url_and_does_not_show_it() -> None:
    with pytest.raises(ConfigurationError, match="connection string") as caught:
        EventStoreConfig.embedded("postgresql://ada:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_config_that_is_constructed_directly_is_checked_as_well() -> None:
    durability: Any = "never"
    with pytest.raises(ConfigurationError, match="there is no durability 'never'"):
        EmbeddedConfig("./orders", durability=durability)
    with pytest.raises(ConfigurationError, match="ms= goes with durability 'interval'"):
        EmbeddedConfig("./orders", interval_ms=5)
    interval: Any = 2.5
    with pytest.raises(ConfigurationError, match="whole number"):
        EventStoreConfig.embedded("./orders").with_durability("interval", ms=interval)


@pytest.mark.parametrize("sealed_reads", ["read", "mapped"])
async def test_sealed_segments_are_read_as_the_config_says(
    tmp_path: Path, sealed_reads: Literal["read", "mapped"]
) -> None:
    config = EventStoreConfig.embedded(tmp_path / "store")
    async with EventStore.create(config) as store, EventStore.create(config.with_sealed_reads("read")):
        with pytest.raises(ConfigurationError, match="sealed_reads is read there, mapped was asked for"):
            await EventStore.create(config.with_sealed_reads("mapped"))
        assert await store.head() == 0
    async with EventStore.create(config.with_sealed_reads(sealed_reads)) as store:
        assert await store.head() == 0


async def test_finished_segments_are_compressed_as_the_config_says(tmp_path: Path) -> None:
    config = EventStoreConfig.embedded(tmp_path / "store")
    async with EventStore.create(config.with_compression(older_than=3)) as store:
        with pytest.raises(ConfigurationError, match="compression is older than 3 there, off was asked for"):
            await EventStore.create(config.with_compression(older_than=None))
        with pytest.raises(ConfigurationError, match="compression is older than 3 there, off was asked for"):
            await EventStore.create(config)
        assert await store.head() == 0


def test_another_way_to_read_sealed_segments_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'read' or 'mapped', not 'mmap'"):
        EventStoreConfig.embedded("./orders").with_sealed_reads("mmap")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
