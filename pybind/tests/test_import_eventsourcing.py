"""Importing an application that the eventsourcing library itself has written, from SQLite and from Postgres."""

import uuid
import zlib
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

import eventuali.sync
from eventuali import ConfigurationError, DatabaseError, DivergedError, EventualiError, StoredEvent
from eventuali.moving import Moved
from eventuali.sync import EventStore, import_eventsourcing


class Dog(Aggregate):
    """An aggregate of the other library."""

    @event("Registered")
    def __init__(self, name: str, fee: Decimal) -> None:
        self.name = name
        self.fee = fee
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


class Dogs(Application[uuid.UUID]):
    """An application of the other library."""


def written(environment: dict[str, str], dogs: range, name: str = "Dogs") -> list[uuid.UUID]:
    """Has the library write aggregates with these numbers; their ids. Its tables are called after the application."""
    application = type(name, (Dogs,), {})(env=environment)
    ids = []
    for number in dogs:
        dog = Dog(f"Fidö {number}", Decimal("1.50"))
        dog.add_trick("roll over")
        dog.add_trick('"quoted"')
        application.save(dog)
        ids.append(dog.id)
    application.close()
    return ids


def sqlite(tmp_path: Path, **more: str) -> tuple[dict[str, str], str]:
    file = tmp_path / "dogs.db"
    return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(file), **more}, f"sqlite://{file}"


def postgres(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path.lstrip("/"),
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": unquote(parts.username or ""),
        "POSTGRES_PASSWORD": unquote(parts.password or ""),
    }


def assert_imported(store: EventStore, ids: list[uuid.UUID]) -> None:
    """Asserts that the events of these aggregates are there, in order."""
    events = [found for found in store.read_all() if isinstance(found, StoredEvent)]
    assert [found.position for found in events] == list(range(1, 3 * len(ids) + 1))
    for number, (dog, begin) in enumerate(zip(ids, range(0, len(events), 3), strict=True)):
        registered, *tricks = events[begin : begin + 3]
        assert [found.aggregate_id for found in (registered, *tricks)] == [str(dog)] * 3
        assert [found.aggregate_version for found in (registered, *tricks)] == [1, 2, 3]
        assert (registered.aggregate_type, registered.event_type) == ("Dog", "Registered")
        assert registered.data["name"] == f"Fidö {number}"
        assert registered.data["fee"] == {"_type_": "decimal_str", "_data_": "1.50"}
        assert [found.data["trick"] for found in tricks] == ["roll over", '"quoted"']
        assert (
            registered.timestamp.isoformat()
            == datetime.fromisoformat(registered.data["timestamp"]["_data_"]).isoformat()
        )
        assert registered.metadata.headers["eventsourcing.topic"].endswith(":Dog.Registered")
        assert registered.metadata.headers["eventsourcing.notification_id"] == str(begin + 1)


def test_a_sqlite_application_is_imported_and_goes_on(tmp_path: Path) -> None:
    environment, address = sqlite(tmp_path)
    ids = written(environment, range(40))
    target = f"{tmp_path}/target"
    assert import_eventsourcing(address, target) == Moved(events=120, position=120, complete=True)
    assert import_eventsourcing(address, target) == Moved(events=0, position=120, complete=True)
    ids += written(environment, range(40, 42))
    assert import_eventsourcing(address, target) == Moved(events=6, position=126, complete=True)
    with EventStore.create(target) as store:
        assert_imported(store, ids)
        store.append("own", [eventuali.event.UserRegistered(user_id="u", email="e")], aggregate_type="User")
        with pytest.raises(DivergedError):
            import_eventsourcing(address, store)


def test_a_postgres_application_is_imported(postgres_url: str) -> None:
    name = f"dogs{uuid.uuid4().hex[:12]}"
    ids = written(postgres(postgres_url), range(5), name)
    with EventStore.create("memory://") as store:
        assert import_eventsourcing(postgres_url, store, table=f"public.{name}_events").events == 15
        assert_imported(store, ids)


def test_what_is_compressed_is_kept_as_its_bytes(tmp_path: Path) -> None:
    environment, address = sqlite(tmp_path, COMPRESSOR_TOPIC="zlib")
    (dog,) = written(environment, range(1))
    with EventStore.create("memory://") as store:
        assert import_eventsourcing(address, store).events == 3
        found = next(store.read(str(dog)))
        assert isinstance(found, StoredEvent)
        assert (found.aggregate_type, found.event_type) == ("Dog", "Registered")
        assert b"Fid" in zlib.decompress(found.payload)


def test_what_is_no_such_table_is_refused(tmp_path: Path) -> None:
    environment, address = sqlite(tmp_path)
    written(environment, range(1))
    with EventStore.create("memory://") as store:
        with pytest.raises(DatabaseError, match=r"refused a statement \(1\): no such table"):
            import_eventsourcing(address, store, table="others")
        for table in ('stored_events"; DROP TABLE stored_events; --', "", "a.b.c"):
            with pytest.raises(ConfigurationError, match="name of a table"):
                import_eventsourcing(address, store, table=table)
        for wrong in ("memory://", f"{tmp_path}/directory", "dogs.db"):
            with pytest.raises(ConfigurationError):
                import_eventsourcing(wrong, store)
        assert store.head() == 0


@pytest.mark.parametrize(
    "address",
    ["sqlite://{}/nothing.db", "sqlite:///nowhere/at/all.db", "postgresql://user@127.0.0.1:1/none", "redis://here"],
)
def test_an_address_that_leads_to_nothing_leaves_no_target(tmp_path: Path, address: str) -> None:
    with pytest.raises(EventualiError):
        import_eventsourcing(address.format(tmp_path), tmp_path / "target")
    assert not list(tmp_path.iterdir())
