"""Verify and salvage: what is damaged is found, what is whole is saved."""

import asyncio
import inspect
from pathlib import Path

import pytest

import eventuali.maintenance
import eventuali.sync
from eventuali import ConfigurationError, CorruptionError
from eventuali.maintenance import Damage, KeptRange, LostRange, Progress, SalvageReport, VerifyReport, salvage, verify
from eventuali.sync import EventStore
from eventuali.sync import maintenance as blocking
from tests.counting import Counted, Counter
from tests.test_command import eventuali as command

SEGMENT = "000000001.g0.seg"


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A closed store of ten events, each appended by itself, alternately to two counters."""
    path = tmp_path / "orders"
    with EventStore.create(path) as store:
        for number in range(10):
            store.append("ab"[number % 2], [Counted(by=number)], aggregate_type=Counter)
    return path


@pytest.fixture
def damaged(orders: Path) -> Path:
    """The same with the payload of position 5 damaged, which is the third of a."""
    segment = bytearray((orders / SEGMENT).read_bytes())
    at = segment.index(b'{"by":4}')
    segment[at + 6] ^= 1
    (orders / SEGMENT).write_bytes(segment)
    with pytest.raises(CorruptionError):
        EventStore.create(orders)
    return orders


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("name", ["verify", "salvage"])
def test_both_shells_have_the_same_signatures(name: str) -> None:
    one, other = getattr(eventuali.maintenance, name), getattr(eventuali.sync.maintenance, name)
    assert inspect.iscoroutinefunction(one)
    here, there = inspect.signature(one).parameters, inspect.signature(other).parameters
    assert [(each.name, each.kind, each.default) for each in here.values()] == [
        (each.name, each.kind, each.default) for each in there.values()
    ]


def test_a_sound_store_is_sound(orders: Path) -> None:
    before = contents(orders)
    found = asyncio.run(verify(orders))
    assert isinstance(found, VerifyReport)
    assert found == blocking.verify(orders)
    assert found.sound
    assert (found.events, found.last_position, found.segments, found.damage) == (10, 10, 1, ())
    assert found.bytes == (orders / SEGMENT).stat().st_size
    assert contents(orders) == before


def test_it_works_beside_a_writer(orders: Path) -> None:
    with EventStore.create(orders) as store:
        store.append("a", [Counted(by=1)], aggregate_type=Counter)
        found = blocking.verify(orders)
        assert (found.sound, found.events) == (True, 11)


def test_damage_is_found(damaged: Path) -> None:
    found = asyncio.run(verify(damaged))
    assert not found.sound
    assert (found.events, found.damaged_places) == (9, 1)
    (place,) = found.damage
    assert isinstance(place, Damage)
    assert (place.file, place.segment, place.first_position, place.last_position) == (SEGMENT, 1, 5, 5)
    assert place.length is not None
    start = (damaged / SEGMENT).read_bytes().index(b'{"by":')
    assert place.offset > start
    assert str(place).startswith(f"{SEGMENT} at byte {place.offset} ({place.length} bytes), position 5: ")


def test_what_is_whole_is_saved(damaged: Path, tmp_path: Path) -> None:
    before = contents(damaged)
    saved = asyncio.run(salvage(damaged, tmp_path / "saved"))
    assert isinstance(saved, SalvageReport)
    assert saved.complete
    assert saved.events == 9
    assert saved.lost == (LostRange(5, 5),)
    assert saved.kept == (KeptRange(1, 4, 1), KeptRange(6, 10, 5))
    (stream,) = saved.streams
    assert (stream.tenant, stream.aggregate_id, stream.lost) == ("", "a", (LostRange(3, 3),))
    assert stream.kept == (KeptRange(1, 2, 1), KeptRange(4, 5, 3))
    assert contents(damaged) == before
    with EventStore.create(tmp_path / "saved") as store:
        assert store.load(Counter, "a").total == 0 + 2 + 6 + 8
        assert store.load(Counter, "b").total == 1 + 3 + 5 + 7 + 9
    assert blocking.verify(tmp_path / "saved").sound


def test_progress_is_told_and_stops_it(orders: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    blocking.verify(orders, progress=told.append)
    assert told[-1].position == 10

    async def stop(_progress: Progress) -> bool:
        await asyncio.sleep(0)
        return False

    assert asyncio.run(verify(orders, progress=stop)).events <= 10
    with pytest.raises(TypeError, match="progress"):
        blocking.verify(orders, progress=3)  # type: ignore[arg-type]
    stopped = blocking.salvage(orders, tmp_path / "saved", progress=lambda _: False)
    assert stopped.complete == (tmp_path / "saved").exists()


@pytest.mark.parametrize("path", ["missing", ".", "sqlite://events.db"])
def test_what_is_no_store_is_refused(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        blocking.verify(path)
    with pytest.raises(ConfigurationError):
        blocking.salvage(path, "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_exists_is_refused(orders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="exists already"):
        asyncio.run(salvage(orders, tmp_path))


def test_the_command_checks(orders: Path) -> None:
    ran = command("check", orders)
    assert (ran.returncode, ran.stdout.startswith("read 10 events in 1")) == (0, True), ran.stderr


def test_the_command_finds_damage_and_salvages(damaged: Path, tmp_path: Path) -> None:
    checked = command("check", damaged)
    assert checked.returncode == 1
    assert f"damaged: {SEGMENT} at byte" in checked.stdout
    saved = command("salvage", damaged, tmp_path / "saved")
    assert saved.returncode == 1
    assert saved.stdout.splitlines()[-2:] == [
        "lost: position 5",
        "lost of 'a': version 3; versions 1 to 2 are now from 1 on, versions 4 to 5 are now from 3 on",
    ]
    assert command("check", tmp_path / "saved").returncode == 0
    assert command("salvage", damaged, tmp_path / "saved").returncode == 2
    assert command("check", tmp_path / "missing").returncode == 2
