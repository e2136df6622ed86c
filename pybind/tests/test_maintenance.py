"""Backup, fork, verify and salvage: what is stored is copied or shared, what is damaged is found, what is whole is saved."""

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import eventuali.maintenance
import eventuali.sync
from eventuali import (
    ConfigurationError,
    CorruptionError,
    EventStoreConfig,
    ForkPositionError,
    StoreClosedError,
    rebuild_manifest,
)
from eventuali import EventStore as AsyncEventStore
from eventuali.maintenance import (
    BackupReport,
    CompressReport,
    Damage,
    ForkReport,
    KeptRange,
    LostRange,
    Progress,
    SalvageReport,
    VerifyReport,
    backup,
    compress,
    fork,
    salvage,
    verify,
)
from eventuali.sync import EventStore
from eventuali.sync import maintenance as blocking
from tests.counting import Counted, Counter, Renamed
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


@pytest.mark.parametrize("name", ["backup", "fork", "verify", "salvage"])
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


def test_an_open_store_is_backed_up_while_it_is_written_to(tmp_path: Path) -> None:
    async def main() -> tuple[list[BackupReport], int]:
        async with await AsyncEventStore.create(tmp_path / "orders") as store:
            stop = asyncio.Event()

            async def write(name: str) -> None:
                while not stop.is_set():
                    await store.append(name, [Counted(by=1)], aggregate_type=Counter)

            writers = [asyncio.create_task(write(name)) for name in "abcd"]
            await store.append("first", [Counted(by=1)], aggregate_type=Counter)
            copied = [await backup(store, tmp_path / f"copy-{number}") for number in range(4)]
            stop.set()
            await asyncio.gather(*writers)
            return copied, await store.head()

    copied, head = asyncio.run(main())
    assert head >= copied[-1].position
    assert [report.position for report in copied] == sorted(report.position for report in copied)
    for number, report in enumerate(copied):
        assert report.complete
        found = blocking.verify(tmp_path / f"copy-{number}")
        assert (found.sound, found.events, found.last_position) == (True, report.events, report.position)
        with EventStore.create(tmp_path / f"copy-{number}") as copy:
            assert copy.head() == report.position
            assert copy.load(Counter, "first").total == 1


def test_a_backup_is_the_store_at_that_moment(orders: Path, tmp_path: Path) -> None:
    with EventStore.create(orders) as store:
        one = blocking.backup(store, tmp_path / "one")
        store.append("a", [Counted(by=1)], aggregate_type=Counter)
        with EventStore.create(tmp_path / "one") as copy:
            assert (one.events, one.position, copy.head(), store.head()) == (10, 10, 10, 11)
            assert [event.event_id for event in copy.read_all()] == [event.event_id for event in store.read_all()][:10]
    named = blocking.backup(orders, tmp_path / "two")
    assert (named.events, named.store_id, len(named.digest)) == (11, one.store_id, 64)


def test_a_store_in_memory_is_backed_up(tmp_path: Path) -> None:
    with EventStore.create("memory://") as store:
        store.append("a", [Counted(by=7)], aggregate_type=Counter)
        blocking.backup(store, tmp_path / "copy")
    with EventStore.create(tmp_path / "copy") as copy:
        assert copy.load(Counter, "a").total == 7


def test_what_cannot_be_backed_up_is_refused_and_leaves_nothing(orders: Path, tmp_path: Path) -> None:
    with EventStore.create(orders) as store:
        with pytest.raises(ConfigurationError, match="exists already"):
            blocking.backup(store, orders)
        with pytest.raises(ConfigurationError, match="within"):
            blocking.backup(store, orders / "copy")
        with pytest.raises(TypeError, match="progress"):
            blocking.backup(store, tmp_path / "copy", progress=3)  # type: ignore[arg-type]
        stopped = blocking.backup(store, tmp_path / "copy", progress=lambda _: False)
        assert stopped.complete == (tmp_path / "copy").exists()
    with pytest.raises(StoreClosedError):
        blocking.backup(store, tmp_path / "late")
    with pytest.raises(ConfigurationError, match="there is no store"):
        blocking.backup(tmp_path / "missing", tmp_path / "late")
    with EventStore.create("sqlite://:memory:") as database, pytest.raises(ConfigurationError, match="its own tools"):
        blocking.backup(database, tmp_path / "late")
    assert not (tmp_path / "late").exists()


def test_a_damaged_store_is_not_backed_up(orders: Path, tmp_path: Path) -> None:
    with EventStore.create(orders) as store:
        segment = bytearray((orders / SEGMENT).read_bytes())
        segment[segment.index(b'{"by":4}') + 6] ^= 1
        (orders / SEGMENT).write_bytes(segment)
        with pytest.raises(CorruptionError, match="salvage"):
            blocking.backup(store, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["orders"]


def test_the_command_backs_up(orders: Path, tmp_path: Path) -> None:
    ran = command("backup", orders, tmp_path / "copy")
    assert (ran.returncode, ran.stdout.startswith(f"copied 10 events to {tmp_path / 'copy'}")) == (0, True), ran.stderr
    assert command("check", tmp_path / "copy").returncode == 0
    assert command("backup", orders, tmp_path / "copy").returncode == 2
    with EventStore.create(orders):
        beside = command("backup", orders, tmp_path / "other")
    assert (beside.returncode, beside.stdout.startswith("copied 10 events")) == (0, True), beside.stderr
    assert command("check", tmp_path / "other").returncode == 0


def numbers(store: EventStore) -> list[int]:
    return [event.position for event in store.read_all()]


def test_a_fork_and_its_parent_go_their_own_ways(orders: Path, tmp_path: Path) -> None:
    with EventStore.create(orders) as store:
        report = blocking.fork(store, tmp_path / "fork", at=7)
        assert isinstance(report, ForkReport)
        assert (report.position, report.shared_segments, report.copied_segments) == (7, 0, 1)
        store.append("parent", [Counted(by=1)], aggregate_type=Counter)
        with EventStore.create(tmp_path / "fork") as forked:
            assert numbers(forked) == list(range(1, 8))
            receipt = forked.append("fork", [Counted(by=2)], aggregate_type=Counter)
            assert receipt.position == 8
        assert numbers(store) == list(range(1, 12))
    assert blocking.backup(orders, tmp_path / "of-parent").store_id == report.parent_id
    assert blocking.backup(tmp_path / "fork", tmp_path / "of-fork").store_id == report.store_id != report.parent_id
    for path, events in ((orders, 11), (tmp_path / "fork", 8)):
        found = blocking.verify(path)
        assert found.sound
        assert found.events == events


def test_forks_are_made_while_the_store_is_written_to(tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncEventStore.create(tmp_path / "store") as store:
            done = asyncio.Event()

            async def write() -> None:
                while not done.is_set():
                    await store.append("a", [Counted(by=1)], aggregate_type=Counter)

            writing = asyncio.create_task(write())
            reports = [await fork(store, tmp_path / f"fork-{number}") for number in range(4)]
            done.set()
            await writing
            assert len({report.store_id for report in reports}) == 4
            assert [report.position for report in reports] == sorted(report.position for report in reports)
            for number, report in enumerate(reports):
                async with AsyncEventStore.create(tmp_path / f"fork-{number}") as forked:
                    assert [event.position async for event in forked.read_all()] == list(range(1, report.position + 1))

    asyncio.run(run())


def test_where_a_store_cannot_be_forked_is_told(orders: Path, tmp_path: Path) -> None:
    with EventStore.create(orders) as store:
        store.append("many", [Counted(by=number) for number in range(3)], aggregate_type=Counter)
        with pytest.raises(ForkPositionError, match="within the events of one append") as refused:
            blocking.fork(store, tmp_path / "fork", at=12)
        assert (refused.value.position, refused.value.before, refused.value.after) == (12, 10, 13)
        assert refused.value.path == str(orders)
        with pytest.raises(ForkPositionError, match="ahead of the last event") as refused:
            blocking.fork(store, tmp_path / "fork", at=14)
        assert (refused.value.before, refused.value.after) == (13, None)
        with pytest.raises(ConfigurationError, match="from 0 on"):
            blocking.fork(store, tmp_path / "fork", at=-1)
        with pytest.raises(TypeError, match="at is a number"):
            blocking.fork(store, tmp_path / "fork", at="7")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="exists already"):
            blocking.fork(store, orders)
        assert blocking.fork(store, tmp_path / "empty", at=0).position == 0
    with pytest.raises(StoreClosedError):
        blocking.fork(store, tmp_path / "late")
    with pytest.raises(ConfigurationError, match="there is no store"):
        blocking.fork(tmp_path / "missing", tmp_path / "late")
    with EventStore.create("sqlite://:memory:") as database, pytest.raises(ConfigurationError, match="export"):
        blocking.fork(database, tmp_path / "late")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["empty", "orders"]


def test_the_command_forks(orders: Path, tmp_path: Path) -> None:
    ran = command("fork", orders, tmp_path / "fork", "--at", "4")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"forked {tmp_path / 'fork'} at position 4: shares 0 segments, 1 copied (")
    assert blocking.verify(tmp_path / "fork").events == 4
    assert command("fork", orders, tmp_path / "all").returncode == 0
    assert blocking.verify(tmp_path / "all").events == 10
    ahead = command("fork", orders, tmp_path / "ahead", "--at", "11")
    assert ahead.returncode == 2
    assert "fork it at 10" in ahead.stderr


def with_segments(path: Path, count: int) -> Path:
    """A closed store of so many segments, each of which was finished because it is long."""
    for _ in range(count):
        with EventStore.create(path) as store:
            names = [Renamed(name=f"{number} " * 30_000) for number in range(60)]
            store.append("a", names, aggregate_type=Counter)
    return path


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A closed store whose first segment is finished, because it is long."""
    return with_segments(tmp_path / "long", 2)


def test_finished_segments_are_compressed_while_they_are_read(long: Path) -> None:
    with EventStore.create(long) as store:
        events = store.read_all()
        before = [next(events).event_id for _ in range(10)]
        done = blocking.compress(store)
        assert (done.segments, done.left) == (1, 0)
        assert done.bytes_after < done.bytes_before / 3
        assert before + [event.event_id for event in events] == [event.event_id for event in store.read_all()]
        assert blocking.compress(store) == CompressReport(0, 0, 0, 0)
    assert blocking.verify(long).sound
    assert not (long / SEGMENT).exists()


@pytest.mark.anyio
async def test_a_store_that_is_named_is_compressed(long: Path, tmp_path: Path) -> None:
    async with AsyncEventStore.create(long) as store:
        assert (await compress(store)).segments == 1
    assert (await compress(long)).segments == 0
    with pytest.raises(ConfigurationError, match="there is no store in"):
        await compress(tmp_path / "nothing")
    async with AsyncEventStore.create("sqlite://:memory:") as database:
        with pytest.raises(ConfigurationError, match="is a database: only the files of a store in a directory are"):
            await compress(database)


def test_the_command_line_compresses_a_store_that_nobody_has_open(long: Path, tmp_path: Path) -> None:
    done = command("compress", str(long))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("compressed 1 segment: ")
    assert command("compress", str(tmp_path / "nothing")).returncode == 2


def test_too_many_open_files_are_no_damage(tmp_path: Path) -> None:
    path = with_segments(tmp_path / "many", 12)
    program = f"""
import os, resource
from eventuali import StorageError
from eventuali.sync import maintenance
for spare in range(1, 12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + spare, 4096))
    for number, work in enumerate((maintenance.verify, lambda it: maintenance.salvage(it, {str(tmp_path)!r} + f"/saved-{{spare}}"))):
        try:
            found = work({str(path)!r})
            assert found.complete and found.damaged_places == 0, (spare, number, found.damage)
        except StorageError as error:
            assert "too many files are open" in str(error) or number == 1, error
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_may_have_followed_an_unreadable_end_is_told(orders: Path, tmp_path: Path) -> None:
    (orders / SEGMENT).write_bytes(bytes((orders / SEGMENT).stat().st_size))
    (orders / "WATERMARK").unlink()
    saved = blocking.salvage(orders, tmp_path / "saved")
    assert (saved.events, saved.lost, saved.unknown_after) == (0, (), 0)
    told = command("salvage", orders, tmp_path / "again")
    assert told.returncode == 1
    assert "lost: whatever may have followed position 0" in told.stdout


def test_a_store_may_be_named_by_its_config(damaged: Path, tmp_path: Path) -> None:
    config = EventStoreConfig.embedded(damaged).with_sealed_reads("mapped")
    assert blocking.verify(config) == blocking.verify(damaged)
    assert asyncio.run(verify(config)).damaged_places == 1
    assert blocking.salvage(config, tmp_path / "saved").events == 9
    with pytest.raises(ConfigurationError, match="SqliteConfig is no directory"):
        blocking.verify(EventStoreConfig.sqlite(tmp_path / "events.db"))  # type: ignore[arg-type]  # that is the point


def test_the_home_of_nobody_is_no_place(tmp_path: Path) -> None:
    place = Path("~nobody-of-this-name/orders")
    for act in (blocking.verify, rebuild_manifest, EventStore.create, lambda path: blocking.salvage(tmp_path, path)):
        with pytest.raises(ConfigurationError, match="no such user"):
            act(place)


def test_a_store_is_forked_beside_its_writer(orders: Path, tmp_path: Path) -> None:
    with EventStore.create(orders) as writer:
        writer.append("a", [Counted(by=1)], aggregate_type=Counter)
        assert command("fork", orders, tmp_path / "fork").returncode == 0
    with EventStore.create(tmp_path / "fork") as forked:
        assert forked.head() == 11
