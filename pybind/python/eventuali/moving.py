"""Moving history from one store to another: positions, ids, versions, times and payloads stay what they were.

Every function takes open stores of either shell, or what names them. Without asyncio: the same names in `eventuali.sync`.

Example:
    >>> import asyncio
    >>> from eventuali import EventStore, EventStoreConfig
    >>> from eventuali.event import UserRegistered
    >>> from eventuali.moving import export, verify
    >>> async def main() -> None:
    ...     source = await EventStore.create("memory://")
    ...     target = await EventStore.create(EventStoreConfig.sqlite(":memory:"))
    ...     ada = UserRegistered(user_id="u-1", email="ada@example.org")
    ...     await source.append("user-1", [ada], aggregate_type="User")
    ...     print(await export(source, target, progress=print))
    ...     print((await verify(source, target)).equal)
    ...     await source.close()
    ...     await target.close()
    >>> asyncio.run(main())  # doctest: +ELLIPSIS
    1 of 1 events, ... events/s, 0:00:00 left
    Moved(events=1, position=1, complete=True)
    True
"""

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, final

from eventuali import _moves
from eventuali._moves import MirrorParts
from eventuali._moving import (
    AnyStore,
    AwaitableReport,
    Difference,
    LinesFile,
    MirrorStatus,
    Moved,
    Progress,
    Verified,
)

__all__ = [
    "Difference",
    "Mirror",
    "MirrorStatus",
    "Mirroring",
    "Moved",
    "Progress",
    "Verified",
    "export",
    "export_json_lines",
    "import_eventsourcing",
    "import_json_lines",
    "mirror",
    "verify",
]


async def export(source: AnyStore, target: AnyStore, *, progress: AwaitableReport | None = None) -> Moved:
    """Moves every event that is durable in `source` and not in `target` yet.

    The target keeps whose events it has, in the same transaction as the events: an export that was interrupted, even by
    the end of the process or the server, goes on where it ended when it is called again, and calling it once more
    changes nothing. Where `progress` raises, or the task is cancelled, it ends after the transaction under way.

    Args:
        source: an open store, or what names one that is there.
        target: an open store, or what names one; it may be empty, or have the beginning of the source's history.
        progress: told after every transaction how far it is; `False` stops it.

    Raises:
        ConfigurationError: there is no store where `source` says, and none was made; or both are the same store.
        DivergedError: the target holds events that are not the source's. Nothing was written.
        StoreUnavailableError: one of the stores was not available for 30 s.
    """
    return await _moves.export(source, target, progress, blocking=False)


async def verify(source: AnyStore, target: AnyStore, *, progress: AwaitableReport | None = None) -> Verified:
    """Compares everything that two stores hold, as it is stored: positions, ids, names, versions, times, payloads
    (JSON as values, to the last digit and character), metadata and tags. Finding a difference is no error.

    Args:
        source: an open store, or what names one that is there.
        target: the store to compare it with, named or open like the source.
        progress: told after every few thousand positions how far it is; `False` stops it.

    Example:
        >>> import asyncio
        >>> from eventuali import EventStore
        >>> from eventuali.event import UserRegistered
        >>> async def main() -> None:
        ...     async with EventStore.create("memory://") as source, EventStore.create("memory://") as target:
        ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...         await source.append("user-1", [ada], aggregate_type="User")
        ...         found = await verify(source, target)
        ...         print(found.equal, found.difference)
        >>> asyncio.run(main())  # doctest: +ELLIPSIS
        False the target lacks the event at position 1 (...)
    """  # noqa: D205
    return await _moves.verify(source, target, progress, blocking=False)


async def export_json_lines(source: AnyStore, file: LinesFile, *, progress: AwaitableReport | None = None) -> Moved:
    """Writes every durable event as JSON lines: one with the store's id and epoch, then one for each event, in order.

    JSON payloads keep every byte. A file that is named appears under its name when it is whole and on disk, and replaces
    what was there.

    Args:
        source: an open store, or what names one that is there.
        file: the path of a file, or a binary file that is open for writing.
        progress: told from time to time how far it is; `False` stops it.

    Example:
        >>> import asyncio, io
        >>> from eventuali import EventStore
        >>> from eventuali.event import UserRegistered
        >>> async def main() -> None:
        ...     lines = io.BytesIO()
        ...     async with EventStore.create("memory://") as source, EventStore.create("memory://") as copy:
        ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...         await source.append("user-1", [ada], aggregate_type="User")
        ...         await export_json_lines(source, lines)
        ...         lines.seek(0)
        ...         print(await import_json_lines(lines, copy))
        >>> asyncio.run(main())
        Moved(events=1, position=1, complete=True)
    """
    return await _moves.export_json_lines(source, file, progress, blocking=False)


async def import_json_lines(file: LinesFile, target: AnyStore, *, progress: AwaitableReport | None = None) -> Moved:
    """Moves the events of JSON lines, as `export_json_lines` writes them, into a store; what it has already is passed over.

    Args:
        file: the path of a file, or a binary file that is open for reading.
        target: an open store, or what names one.
        progress: told after every transaction how far it is; `False` stops it.

    Raises:
        DivergedError: the target holds other events. Nothing was written.
        SerializationError: a line is not an event; the message has its number. What stands before it may have been stored.
    """
    return await _moves.import_json_lines(file, target, progress, blocking=False)


async def import_eventsourcing(
    address: str, target: AnyStore, *, table: str | None = None, progress: AwaitableReport | None = None
) -> Moved:
    """Moves the events of an application of the `eventsourcing` library into a store, in the order of their notifications.

    The originator becomes the aggregate, the last part of a topic the event type, the class before it the aggregate type;
    the time is taken from the state, whose bytes are the payload as they are: JSON, or opaque bytes if they are compressed,
    encrypted or of another transcoder. Topic and notification id are kept as headers. Importing again goes on where it ended.

    Args:
        address: the database of the application: `sqlite://application.db` or `postgresql://user@host:5432/database`.
        target: an open store, or what names one.
        table: the table of its events; `stored_events` if not given, `schema.table` on Postgres if it is in another schema.
        progress: told after every transaction how far it is; `False` stops it.

    Raises:
        ConfigurationError: the address or the table's name cannot be one.
        DatabaseError: the database has no such table.
        DivergedError: the target holds other events. Nothing was written.
    """
    return await _moves.import_eventsourcing(address, target, table, progress, blocking=False)


def mirror(source: AnyStore, target: AnyStore) -> "Mirroring":
    """Follows a store: what becomes durable in the source is moved to the target soon after, until it is stopped.

    To be awaited, or entered with `async with`, which stops it in the end. It survives restarts of a server on either
    side. One that was stopped, with its process or without, goes on where it was when it is started again.

    Args:
        source: an open store, or what names one that is there. A directory has one writer process: to mirror what this
            process writes, name it again or pass the open store.
        target: an open store, or what names one.

    Raises:
        DivergedError: the target holds events that are not the source's. Nothing was written.

    Example:
        >>> import asyncio
        >>> from eventuali import EventStore
        >>> from eventuali.event import UserRegistered
        >>> async def main() -> None:
        ...     async with EventStore.create("memory://") as source, EventStore.create("memory://") as target:
        ...         async with mirror(source, target) as following:
        ...             ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...             await source.append("user-1", [ada], aggregate_type="User")
        ...             while following.status().position < await source.head():
        ...                 await asyncio.sleep(0.01)
        ...         print(await target.head())
        >>> asyncio.run(main())
        1
    """
    return Mirroring(source, target)


@final
class Mirror:
    """A mirror that runs until it is stopped. Both stores stay open until then."""

    __slots__ = ("__weakref__", "_parts")

    def __init__(self, parts: MirrorParts, /) -> None:
        self._parts = parts

    def status(self) -> MirrorStatus:
        """How far it has come."""
        return self._parts.status()

    async def stop(self) -> MirrorStatus:
        """Ends it when the transaction under way is through. Stopping it again only tells how far it has come.

        Raises:
            EventualiError: what ended it before it was stopped.
        """
        return await self._parts.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.stop()


@final
class Mirroring:
    """What `mirror` returns: a mirror that is started when this is awaited or entered."""

    __slots__ = ("_mirror", "_stores")

    def __init__(self, source: AnyStore, target: AnyStore, /) -> None:
        self._stores = (source, target)
        self._mirror: Mirror | None = None

    async def _start(self) -> Mirror:
        return Mirror(await _moves.start_mirror(*self._stores, blocking=False))

    def __await__(self) -> Generator[Any, Any, Mirror]:
        return self._start().__await__()

    async def __aenter__(self) -> Mirror:
        self._mirror = await self._start()
        return self._mirror

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._mirror is not None:
            await self._mirror.stop()
