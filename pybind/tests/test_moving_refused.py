"""Stores and arguments that history cannot be moved from, to or with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventuali.sync
from eventuali import ConfigurationError, EventStoreConfig, StoreClosedError
from eventuali.config import PostgresConfig
from eventuali.moving import export, mirror, verify
from eventuali.sync import EventStore as SyncEventStore
from tests.counting import counted


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SyncEventStore]:
    with SyncEventStore.create(tmp_path / "source") as store:
        store.save(counted(3, "a"))
        yield store


@pytest.mark.anyio
async def test_a_source_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    for place in (
        f"{tmp_path}/ordres",
        f"sqlite://{tmp_path}/ordres.db",
        EventStoreConfig.embedded(tmp_path / "ordres"),
    ):
        with pytest.raises(ConfigurationError, match=r"there is no store in .*ordres"):
            await export(place, f"{tmp_path}/target")
        with pytest.raises(ConfigurationError, match=r"there is no store in .*ordres"):
            await verify(place, place)
        with pytest.raises(ConfigurationError, match=r"there is no store in .*ordres"):
            await mirror(place, f"{tmp_path}/target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_a_source_is_a_place_that_has_a_store(
    source: SyncEventStore, tmp_path: Path, postgres: PostgresConfig
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "ada.jpg").write_bytes(b"a picture")
    (tmp_path / "empty.db").touch()
    mistyped = postgres.with_table_name(f"{postgres.table_name}_")
    for place in (tmp_path / "photos", EventStoreConfig.sqlite(tmp_path / "empty.db"), mistyped):
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"there is no store in .*none was made"):
                await export(place, f"{tmp_path}/target")
            with pytest.raises(ConfigurationError, match=r"there is no store in .*none was made"):
                await verify(source, place)
            with pytest.raises(ConfigurationError, match=r"there is no store in .*none was made"):
                eventuali.sync.export_json_lines(place, tmp_path / "lines")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "photos", "source"]
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["ada.jpg"]


@pytest.mark.anyio
async def test_a_store_in_memory_must_be_open(source: SyncEventStore) -> None:
    for place in ("memory://", "sqlite://:memory:", EventStoreConfig.sqlite(":memory:")):
        with pytest.raises(ConfigurationError, match="pass the open store"):
            await export(source, place)
        with pytest.raises(ConfigurationError, match="pass the open store"):
            await export(place, source)


@pytest.mark.anyio
async def test_wrong_arguments_are_refused_by_name(source: SyncEventStore) -> None:
    nothing: Any = None
    number: Any = 7
    with pytest.raises(TypeError, match="not by NoneType"):
        await export(nothing, source)
    with pytest.raises(TypeError, match="progress is a function that takes a Progress, not int"):
        await export(source, source, progress=number)


@pytest.mark.anyio
async def test_a_closed_store_is_refused(source: SyncEventStore, tmp_path: Path) -> None:
    source.close()
    with pytest.raises(StoreClosedError):
        await export(source, f"{tmp_path}/target")
