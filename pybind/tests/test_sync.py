"""The synchronous store: the same API, without await."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eventuali
import eventuali.sync
from eventuali import (
    NO_STREAM,
    AggregateNotFoundError,
    ConfigurationError,
    ConflictError,
    EventMetadata,
    StoreClosedError,
    StoredEvent,
    StreamAppend,
)
from eventuali.store import Opening
from eventuali.sync import EventStore
from tests.conftest import Place
from tests.counting import Counted, Counter, counted, report_of


@pytest.fixture
def stores(place: Place) -> Iterator[EventStore]:
    with EventStore.create(place) as store:
        yield store


SPECIAL = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}


def public(cls: type) -> dict[str, Any]:
    own = {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_") or name in SPECIAL or name in SPECIAL.values()
    }
    return {SPECIAL.get(name, name): value for name, value in own.items()}


def signature_of(function: Any) -> inspect.Signature:
    return inspect.signature(getattr(function, "__func__", function))


def test_both_stores_have_the_same_methods_with_the_same_signatures() -> None:
    one, other = public(eventuali.EventStore), public(EventStore)
    assert one.keys() == other.keys()
    for name, member in one.items():
        if isinstance(member, property):
            assert isinstance(other[name], property)
            member, twin = member.fget, other[name].fget  # noqa: PLW2901
        else:
            twin = other[name]
        here, there = signature_of(member), signature_of(twin)
        assert list(map(str, here.parameters.values())) == list(map(str, there.parameters.values())), name
        if name in ("read", "read_all"):
            assert (here.return_annotation, there.return_annotation) == (
                eventuali.EventStream,
                eventuali.sync.EventStream,
            )
        elif name == "create":
            assert here.return_annotation is Opening
        else:
            assert str(here.return_annotation) == str(there.return_annotation), name
        assert member.__doc__ or name.startswith("__"), name
        assert twin.__doc__ or name.startswith("__"), name


def test_both_streams_have_the_same_methods() -> None:
    pairs: list[tuple[type, type]] = [
        (eventuali.EventStream, eventuali.sync.EventStream),
        (eventuali.EventBatches, eventuali.sync.EventBatches),
    ]
    for one, other in pairs:
        assert public(one).keys() == public(other).keys()


def test_the_core_serves_both_with_the_same_arguments() -> None:
    core = eventuali._eventuali.EventStoreCore
    for name in ("save", "save_all", "append", "append_all", "load", "read", "read_all"):
        assert inspect.signature(getattr(core, name)).parameters


def test_saving_and_loading(stores: EventStore) -> None:
    counter = counted(2, "counter")
    receipt = stores.save(counter, metadata=EventMetadata(user_id="ada"))
    assert (receipt.position, receipt.version, receipt.events) == (2, 2, 2)
    assert stores.load(Counter, "counter").total == 2
    assert stores.get(Counter, "nobody") is None
    with pytest.raises(AggregateNotFoundError):
        stores.load(Counter, "nobody")
    assert stores.save(counter).events == 0
    assert [event.metadata.user_id for event in stores.read("counter")] == ["ada", "ada"]
    assert [receipt.version for receipt in stores.save_all([counted(1), counted(2)])] == [1, 2]


def test_update_tries_again_after_a_conflict(stores: EventStore) -> None:
    stores.save(counted(1, "counter"))
    totals: list[int] = []

    def act(counter: Counter) -> None:
        totals.append(counter.total)
        if len(totals) == 1:
            stores.append("counter", [Counted(by=5)], aggregate_type=Counter)
        counter.count()

    assert stores.update(Counter, "counter", act).total == 7
    assert totals == [1, 6]
    totals.clear()
    with pytest.raises(ConflictError):
        stores.update(Counter, "counter", act, attempts=1)


def test_update_refuses_an_asynchronous_act(stores: EventStore) -> None:
    stores.save(counted(1, "counter"))

    async def act(counter: Counter) -> None:
        counter.count()

    with (
        pytest.warns(RuntimeWarning, match="never awaited"),
        pytest.raises(TypeError, match="nobody would await"),
    ):
        stores.update(Counter, "counter", act)


def test_reading_with_for(stores: EventStore) -> None:
    stores.append_all(
        [StreamAppend(f"c-{part}", [Counted(by=1) for _ in range(100)], aggregate_type=Counter) for part in range(30)]
    )
    assert [event.position for event in stores.read_all(after=10, limit=3)] == [11, 12, 13]
    assert [event.position for event in stores.read("c-1", backwards=True, limit=2)] == [200, 199]
    batches = list(stores.read_all().batches())
    assert [event.position for batch in batches for event in batch] == list(range(1, 3001))
    assert all(type(event) is StoredEvent for batch in batches for event in batch)
    with stores.read_all() as stream:
        assert next(stream).position == 1
    assert list(stream) == []


def test_time_travel(stores: EventStore) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    for day in range(3):
        stores.append("counter", [Counted(by=1)], aggregate_type=Counter, timestamp=start + timedelta(days=day))
    assert stores.load(Counter, "counter", version=2).total == 2
    assert stores.load(Counter, "counter", position=1).total == 1
    assert stores.load(Counter, "counter", at=start + timedelta(days=1)).total == 2


def test_positions_and_closing(stores: EventStore) -> None:
    stores.save(counted(3))
    assert stores.head() == 3
    assert stores.sync() == 3
    assert stores.durable_position() == (3 if stores.capabilities().persistent else 0)
    assert stores.capabilities().writable
    if stores.capabilities().backend == "embedded":
        assert report_of(stores).head == 0
    else:
        assert stores.open_report is None
    assert repr(stores).startswith("<sync.EventStore ")
    stores.close()
    stores.close()
    with pytest.raises(StoreClosedError):
        stores.save(counted(1))
    assert repr(stores).endswith("closed>")


def test_create_refuses_as_the_other_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\./orders"):
        EventStore.create("orders")
    constructor: Any = EventStore
    with pytest.raises(TypeError, match=r"EventStore\.create"):
        constructor("memory://")
    with EventStore.create(tmp_path / "store") as store:
        assert report_of(store).outcome == "created"


def test_many_threads_share_a_store(stores: EventStore) -> None:
    def work(number: int) -> None:
        for _ in range(20):
            stores.save(counted(1, f"counter-{number}-{_}"))
            assert stores.load(Counter, f"counter-{number}-{_}").total == 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert stores.head() == 320
    assert [event.position for event in stores.read_all()] == list(range(1, 321))


def test_a_stream_shared_by_threads_gives_each_event_to_one_of_them(stores: EventStore) -> None:
    stores.append("counter", [Counted(by=1) for _ in range(5000)], aggregate_type=Counter)
    stream = stores.read_all()
    seen: list[int] = []
    lock = threading.Lock()

    def take(_: int) -> None:
        mine = [event.position for event in stream]
        with lock:
            seen.extend(mine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, range(8)))
    assert sorted(seen) == list(range(1, 5001))


def test_the_two_stores_see_the_same_directory(tmp_path: Path) -> None:
    async def save() -> None:
        async with eventuali.EventStore.create(tmp_path / "store") as store:
            await store.append("counter", [Counted(by=1)], aggregate_type=Counter, expected_version=NO_STREAM)

    with EventStore.create(tmp_path / "store") as store:
        asyncio.run(save())
        assert store.load(Counter, "counter").total == 1
