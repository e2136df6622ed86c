"""What type checkers say of moving: both shells give the same results, and take open stores and names."""

from pathlib import Path
from typing import BinaryIO, assert_type

from eventuali import EventStore, EventStoreConfig, sync
from eventuali.moving import (
    Mirror,
    MirrorStatus,
    Moved,
    Progress,
    Verified,
    export,
    export_json_lines,
    import_json_lines,
    mirror,
    verify,
)


def tell(progress: Progress) -> None:
    """What a caller passes."""
    assert_type(progress.rate, float)


async def tell_later(progress: Progress) -> bool:
    """What is awaited, with asyncio."""
    return progress.last_position is not None


async def with_asyncio(store: EventStore, file: BinaryIO) -> None:
    """Results are what they say."""
    assert_type(await export(store, "postgresql://host/events", progress=tell), Moved)
    assert_type(await export(store, EventStoreConfig.sqlite("events.db"), progress=tell_later), Moved)
    assert_type(await verify(Path("orders"), store), Verified)
    assert_type(await export_json_lines(store, file), Moved)
    assert_type(await import_json_lines("history.jsonl", store), Moved)
    async with mirror(store, "./copy") as following:
        assert_type(following, Mirror)
        assert_type(following.status(), MirrorStatus)
    assert_type(await following.stop(), MirrorStatus)


def without_asyncio(store: sync.EventStore, file: BinaryIO) -> None:
    """The same without await."""
    assert_type(sync.export(store, "postgresql://host/events", progress=tell), Moved)
    assert_type(sync.verify(store, Path("orders")), Verified)
    assert_type(sync.export_json_lines(store, file), Moved)
    assert_type(sync.import_json_lines(file, store), Moved)
    with sync.mirror(store, "./copy") as following:
        assert_type(following, sync.Mirror)
