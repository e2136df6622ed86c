"""What every test of the package may use."""

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventuali import EventStore, EventStoreConfig
from eventuali.config import PostgresConfig


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def postgres_url() -> str:
    """The address of the Postgres server for tests."""
    url = os.environ.get("EVENTUALI_TEST_POSTGRES_URL")
    if not url:
        pytest.fail(
            "EVENTUALI_TEST_POSTGRES_URL names no server to test against: `make test-python` starts one, "
            "and so does `pybind/tools/with_postgres.py pytest …`",
            pytrace=False,
        )
    return url


@pytest.fixture
def postgres(postgres_url: str) -> PostgresConfig:
    """Names a new store on the Postgres server for tests: tables that no other test has."""
    return EventStoreConfig.postgres(postgres_url).with_table_name(f"t_{uuid.uuid4().hex}").with_max_connections(4)


DATABASES = ("sqlite", "sqlite-memory", "postgres")

Place = str | EventStoreConfig


def named(kind: str, request: pytest.FixtureRequest) -> Place:
    """Names a new store."""
    folder: Path = request.getfixturevalue("tmp_path")
    match kind:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite://{folder}/events.db"
        case "sqlite-memory":
            return EventStoreConfig.sqlite(":memory:")
        case "postgres":
            config: PostgresConfig = request.getfixturevalue("postgres")
            return config
        case "sync" | "interval" | "os":
            return EventStoreConfig.embedded(folder / "store").with_durability(kind)
        case _:
            raise ValueError(kind)


@pytest.fixture(params=["memory", "sync", "interval", "os", *DATABASES])
def place(request: pytest.FixtureRequest) -> Place:
    """Names a new store, of each kind and durability in turn."""
    return named(request.param, request)


@pytest.fixture(params=["sync", *DATABASES])
def waiting_place(request: pytest.FixtureRequest) -> Place:
    """Names a new store whose saves wait, for the disk or for a database."""
    return named(request.param, request)


@pytest.fixture(params=["sync", "sqlite", "postgres"])
def lasting_place(request: pytest.FixtureRequest) -> Place:
    """Names a new store that outlives the process, and that loses nothing acknowledged."""
    return named(request.param, request)


@pytest.fixture
async def store(place: Place, anyio_backend: Any) -> AsyncIterator[EventStore]:
    """A new store, of each kind and durability in turn."""
    async with EventStore.create(place) as store:
        yield store
