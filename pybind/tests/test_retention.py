"""Deletion, retention and scavenging: what is left out at once, what goes on, and when the bytes are gone."""

import asyncio
import copy
import pickle
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from eventuali import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AggregateNotFoundError,
    AggregateTypeError,
    ConfigurationError,
    ConflictError,
    DivergedError,
    Receipt,
    Retention,
    UnsupportedError,
)
from eventuali import EventStore as AsyncEventStore
from eventuali import maintenance as asynchronous
from eventuali.maintenance import Progress, ScavengeReport
from eventuali.moving import Moved
from eventuali.sync import EventStore, export, export_json_lines, import_json_lines, maintenance, verify
from tests.counting import Counted, Counter
from tests.test_command import eventuali as command


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    """A store with five events of a and three of b."""
    store = EventStore.create(tmp_path / "counters")
    for number in range(5):
        store.append("a", [Counted(by=number)], aggregate_type=Counter)
    for number in range(3):
        store.append("b", [Counted(by=100 + number)], aggregate_type=Counter)
    return store


def versions(store: EventStore, aggregate_id: str) -> list[int | None]:
    return [event.aggregate_version for event in store.read(aggregate_id)]


def holds(path: Path, wanted: bytes) -> list[str]:
    return [file.name for file in path.rglob("*") if file.is_file() and wanted in file.read_bytes()]


def test_a_deleted_aggregate_has_no_events_and_goes_on_with_its_versions(store: EventStore) -> None:
    deleted = store.delete("a")
    assert isinstance(deleted, Receipt)
    assert (deleted.aggregate_id, deleted.version, deleted.position, deleted.events) == ("a", 5, 9, 0)
    assert versions(store, "a") == []
    assert [event.position for event in store.read_all()] == [6, 7, 8]
    assert store.get(Counter, "a") is None
    with pytest.raises(AggregateNotFoundError):
        store.load(Counter, "a")
    assert store.delete("a") == deleted
    assert store.append("a", [Counted(by=7)], aggregate_type=Counter, expected_version=NO_STREAM).version == 6
    again = store.load(Counter, "a")
    assert (again.version, again.total) == (6, 7)
    again.count(1)
    assert store.save(again).version == 7


def test_a_conflict_says_that_the_aggregate_was_deleted(store: EventStore) -> None:
    loaded = store.load(Counter, "a")
    store.delete("a", expected_version=5)
    loaded.count(1)
    new = Counter(id="a")
    new.count(1)
    for aggregate, expected in ((loaded, 5), (new, 0)):
        with pytest.raises(ConflictError, match="was deleted") as caught:
            store.save(aggregate)
        error = caught.value
        assert (error.deleted, error.expected_version, error.actual_version) == (True, expected, 5)
        assert copy.copy(error).deleted
        assert pickle.loads(pickle.dumps(error)).deleted  # noqa: S301
        assert aggregate.pending_events
    with pytest.raises(ConflictError) as other:
        store.append("b", [Counted(by=1)], aggregate_type=Counter, expected_version=9)
    assert not other.value.deleted
    with pytest.raises(AggregateTypeError):
        store.append("a", [Counted(by=1)], aggregate_type="Other", expected_version=ANY)


def test_deleting_expects_a_version_or_anything(store: EventStore) -> None:
    with pytest.raises(ConflictError):
        store.delete("a", expected_version=4)
    with pytest.raises(AggregateNotFoundError):
        store.delete("nobody")
    with pytest.raises(TypeError, match="expected_version"):
        store.delete("a", expected_version="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert store.delete("b", expected_version=STREAM_EXISTS).version == 3
    assert len(versions(store, "a")) == 5


def test_limits_leave_out_the_beginning(store: EventStore) -> None:
    assert store.retention("a") == store.retention("nobody")
    assert store.set_retention("a", max_count=2).version == 5
    assert versions(store, "a") == [4, 5]
    limits = store.retention("a")
    assert isinstance(limits, Retention)
    assert (limits.max_age, limits.max_count, limits.truncate_before) == (None, 2, None)
    store.set_retention("a", max_age=timedelta(days=1), truncate_before=5)
    limits = store.retention("a")
    assert (limits.max_age, limits.max_count, limits.truncate_before) == (timedelta(days=1), None, 5)
    assert "truncate_before=5" in repr(limits)
    assert len({limits, store.retention("a"), store.retention("b")}) == 2
    store.set_retention("a")
    assert versions(store, "a") == [5]
    store.set_retention("b", max_age=timedelta(0))
    assert versions(store, "b") == [3]
    assert store.load(Counter, "b").version == 3


def test_limits_that_cannot_be_meant_are_refused(store: EventStore) -> None:
    with pytest.raises(ConfigurationError, match="max_count"):
        store.set_retention("a", max_count=0)
    with pytest.raises(ConfigurationError, match="max_age"):
        store.set_retention("a", max_age=timedelta(seconds=-1))
    with pytest.raises(TypeError, match="max_age"):
        store.set_retention("a", max_age=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="truncate_before"):
        store.set_retention("a", truncate_before=0)
    with pytest.raises(AggregateNotFoundError):
        store.set_retention("nobody", max_count=1)
    store.set_retention("a", max_age=timedelta.max)
    assert (store.retention("a").max_age or timedelta()) > timedelta(days=200_000_000)
    assert len(versions(store, "a")) == 5


def test_what_was_deleted_is_in_no_file_after_scavenging(store: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "counters"
    assert holds(path, b'{"by":3}')
    store.delete("a")
    told: list[Progress] = []
    report = store.scavenge(progress=told.append)
    assert report == ScavengeReport(5, 1, report.bytes_before, report.bytes_after, 0, complete=True)
    assert told
    assert holds(path, b'{"by":3}') == []
    assert store.scavenge() == ScavengeReport(0, 0, 0, 0, 0, complete=True)
    assert versions(store, "b") == [1, 2, 3]
    store.close()
    found = maintenance.verify(path)
    assert (found.sound, found.events, found.removed) == (True, 4, 5)
    saved = maintenance.salvage(path, tmp_path / "saved")
    assert (saved.events, saved.removed, saved.lost, saved.streams) == (4, 5, (), ())
    with EventStore.create(tmp_path / "saved") as copied:
        assert copied.append("a", [Counted(by=1)], aggregate_type=Counter, expected_version=NO_STREAM).version == 6


def test_scavenging_can_be_stopped(store: EventStore) -> None:
    store.delete("a")
    # It ends before the next segment; there may be none.
    stopped = store.scavenge(progress=lambda _: False)
    assert stopped.events + store.scavenge().events == 5


def test_the_command_line_scavenges_a_store_that_nobody_has_open(store: EventStore, tmp_path: Path) -> None:
    path = str(tmp_path / "counters")
    store.delete("a")
    refused = command("scavenge", path)
    assert refused.returncode == 1
    assert "open for writing in process" in refused.stderr
    store.close()
    done = command("scavenge", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("took out 5 events of 1 segment: ")
    assert command("scavenge", path).stdout.startswith("took out 0 events")
    with EventStore.create(path) as again:
        again.append("b", [Counted(by=1)], aggregate_type=Counter)
        again.delete("b")
    assert "; 1 left in the segment" in command("scavenge", path, "--worthwhile").stdout
    assert "took out 1 event of 1 segment" in command("scavenge", path).stdout
    assert command("scavenge", str(tmp_path / "nothing")).returncode == 2


@pytest.mark.parametrize("scavenged", [False, True])
def test_moving_history_moves_deletions_and_limits(store: EventStore, tmp_path: Path, *, scavenged: bool) -> None:
    store.delete("a")
    store.set_retention("b", max_count=1)
    if scavenged:
        store.scavenge()
    export_json_lines(store, tmp_path / "lines")
    assert '{"left_out":[1,7]}' in (tmp_path / "lines").read_text()
    for name in ("exported", "lined"):
        with EventStore.create(tmp_path / name) as target:
            if name == "exported":
                assert export(store, target) == Moved(events=3, position=10, complete=True)
            else:
                assert import_json_lines(tmp_path / "lines", target).position == 10
            found = verify(store, target)
            assert (found.equal, found.events, found.left_out) == (True, 3, 7)
            assert holds(tmp_path / name, b'{"by":3}') == []
            assert (versions(target, "a"), versions(target, "b")) == ([], [3])
            assert target.retention("b").max_count == 1
            with pytest.raises(ConflictError, match="was deleted"):
                target.append("a", [Counted(by=1)], aggregate_type=Counter, expected_version=5)
            assert target.append("a", [Counted(by=1)], aggregate_type=Counter, expected_version=NO_STREAM).version == 6


def test_a_database_leaves_out_what_its_source_leaves_out(store: EventStore, tmp_path: Path) -> None:
    with EventStore.create("sqlite://:memory:") as target, EventStore.create(tmp_path / "back") as back:
        export(store, target)
        store.delete("a")
        store.set_retention("b", truncate_before=3)
        store.scavenge()
        assert export(store, target) == Moved(events=2, position=10, complete=True)
        assert (versions(target, "a"), versions(target, "b"), target.get(Counter, "a")) == ([], [3], None)
        assert verify(store, target).left_out == 7
        export(target, back)
        assert verify(store, back).equal
        with pytest.raises(ConflictError, match="was deleted"):
            target.append("a", [Counted(by=1)], aggregate_type=Counter, expected_version=5)
        assert target.append("a", [Counted(by=1)], aggregate_type=Counter, expected_version=NO_STREAM).version == 6
        assert versions(target, "a") == [6]


@pytest.mark.parametrize("target", ["copy", "sqlite://:memory:"])
def test_json_lines_go_on_where_all_that_the_target_has_was_deleted(tmp_path: Path, target: str) -> None:
    lines = tmp_path / "lines"
    with EventStore.create("memory://") as source, EventStore.create("memory://") as other:
        source.append("a", [Counted(by=1)], aggregate_type=Counter)
        other.append("c", [Counted(by=1)], aggregate_type=Counter)
        with EventStore.create(tmp_path / target if target == "copy" else target) as copied:
            export_json_lines(source, lines)
            import_json_lines(lines, copied)
            source.append("b", [Counted(by=2)], aggregate_type=Counter)
            source.delete("a")
            lines.unlink()
            export_json_lines(source, lines)
            assert import_json_lines(lines, copied) == Moved(events=2, position=3, complete=True)
            assert verify(source, copied).equal
            assert [event.aggregate_id for event in copied.read_all()] == ["b"]
            assert copied.append("a", [Counted(by=3)], aggregate_type=Counter).version == 2
        with EventStore.create(tmp_path / "others") as copied:
            export(other, copied)
            with pytest.raises(DivergedError, match="has no event there"):
                import_json_lines(lines, copied)


def test_what_is_left_out_is_left_out_from_store_to_store(store: EventStore, tmp_path: Path) -> None:
    places: list[str | Path] = [
        f"sqlite://{tmp_path}/one.db",
        "sqlite://:memory:",
        tmp_path / "copy",
        f"sqlite://{tmp_path}/two.db",
    ]
    chain = [EventStore.create(place) for place in places]

    def move() -> list[tuple[str, int]]:
        for source, target in pairwise([store, *chain]):
            export(source, target)
            assert verify(source, target).equal
        shown = [
            [(event.aggregate_id, event.aggregate_version) for event in place.read_all()] for place in [store, *chain]
        ]
        assert all(events == shown[0] for events in shown)
        return shown[0]

    store.delete("a")
    assert move() == [("b", 1), ("b", 2), ("b", 3)]
    store.append("a", [Counted(by=6)], aggregate_type=Counter)
    store.set_retention("b", truncate_before=3)
    store.scavenge()
    assert move() == [("b", 3), ("a", 6)]
    store.delete("b")
    assert move() == [("a", 6)]
    for place in [store, *chain]:
        assert place.append("b", [Counted(by=1)], aggregate_type=Counter, expected_version=NO_STREAM).version == 4
        place.close()


def test_a_database_refuses_limits_that_leave_out_more_and_more_before_anything_is_written(store: EventStore) -> None:
    store.set_retention("a", max_count=2)
    with EventStore.create("sqlite://:memory:") as target:
        with pytest.raises(UnsupportedError, match="limits that are set at position 9"):
            export(store, target)
        assert target.head() == 0
        store.set_retention("a")
        assert export(store, target).position == 10
        assert versions(target, "a") == [4, 5]


def test_databases_keep_everything() -> None:
    with EventStore.create("sqlite://:memory:") as database:
        database.append("a", [Counted(by=1)], aggregate_type=Counter)
        assert not database.capabilities().retention
        with pytest.raises(UnsupportedError):
            database.delete("a")
        with pytest.raises(UnsupportedError):
            database.set_retention("a", max_count=1)
        with pytest.raises(UnsupportedError):
            database.retention("a")
        with pytest.raises(UnsupportedError):
            database.scavenge()
        assert versions(database, "a") == [1]


def test_the_same_with_asyncio(tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncEventStore.create(tmp_path / "counters") as store:
            assert store.capabilities().retention
            counters = [Counter(id=f"counter-{number}") for number in range(40)]
            for counter in counters:
                counter.count(1)
                counter.count(2)
                await store.save(counter)
            deleted = await asyncio.gather(*(store.delete(counter.id) for counter in counters[:20]))
            assert [receipt.version for receipt in deleted] == [2] * 20
            await store.set_retention("counter-30", max_count=1)
            assert (await store.retention("counter-30")).max_count == 1
            assert [event.aggregate_version async for event in store.read("counter-30")] == [2]

            async def tell(progress: Progress) -> bool:
                return progress.position >= 0

            report = await store.scavenge(progress=tell)
            assert (report.events, report.complete) == (41, True)
            assert (await asynchronous.scavenge(store)).events == 0
            assert len([event async for event in store.read_all()]) == 39
            with pytest.raises(ConflictError) as conflict:
                await touch(store, counters[0])
            assert conflict.value.deleted

    async def touch(store: AsyncEventStore, counter: Counter) -> None:
        counter.count(1)
        await store.save(counter)

    asyncio.run(run())


@pytest.mark.parametrize(
    "limits", [{}, {"max_count": 3}, {"max_age": timedelta(days=2, microseconds=1), "truncate_before": 7}]
)
def test_limits_are_values(store: EventStore, limits: dict[str, Any]) -> None:
    made = Retention(**limits)
    names = ("max_age", "max_count", "truncate_before")
    assert {name: getattr(made, name) for name in names} == {**dict.fromkeys(names), **limits}
    for other in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301  # its own
        assert other == made
        assert hash(other) == hash(made)
    store.set_retention("a", **limits)
    assert store.retention("a") == made
    assert made != Retention(max_count=99)


@pytest.mark.parametrize("limits", [{"max_count": 0}, {"truncate_before": 0}, {"max_age": timedelta(seconds=-1)}])
def test_limits_that_cannot_be_used_cannot_be_made(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Retention(**limits)


def test_loading_a_version_that_limits_leave_out_says_so(store: EventStore) -> None:
    store.set_retention("a", max_count=2)
    assert store.load(Counter, "a", version=4).version == 4
    for version in (1, 3):
        with pytest.raises(
            AggregateNotFoundError, match="events before version 4 were deleted or are left out by its limits"
        ) as missing:
            store.load(Counter, "a", version=version)
        assert f"as it was at version {version}:" in str(missing.value)
        assert missing.value.first_position == 4
    with pytest.raises(AggregateNotFoundError, match="nobody"):
        store.load(Counter, "nobody", version=3)
