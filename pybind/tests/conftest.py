"""What every test of the package may use."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventuali import EventStore, EventStoreConfig


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["memory", "sync", "interval", "os"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | EventStoreConfig:
    """Names a new store, of each durability in turn."""
    if request.param == "memory":
        return "memory://"
    return EventStoreConfig.embedded(tmp_path / "store").with_durability(request.param)


@pytest.fixture
async def store(place: str | EventStoreConfig, anyio_backend: Any) -> AsyncIterator[EventStore]:
    """A new store, of each durability in turn."""
    async with EventStore.create(place) as store:
        yield store
