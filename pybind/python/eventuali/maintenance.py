"""Looking after a store: backups, forks, scavenging, verifying, salvage.

`backup` copies a store, `fork` goes on from a position of it, `scavenge` gives back the space of what was deleted, `compress` some of what
the rest takes; these work on an open store while others go on appending. `verify` finds every damaged place, `salvage` saves what can
be saved; they take no lock, and work on a closed store, on one that is damaged beyond opening, and on one that a process is writing to.
All but `scavenge` and `compress` leave the store as it is, byte for byte.
Without asyncio: `from eventuali.sync import maintenance`.

Example:
    >>> import asyncio, tempfile
    >>> from eventuali import EventStore, maintenance
    >>> from eventuali.event import UserRegistered
    >>> async def main(folder: str) -> None:
    ...     async with EventStore.create(f"{folder}/users") as store:
    ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
    ...         await store.append("user-1", [ada], aggregate_type="User")
    ...         found = await maintenance.verify(f"{folder}/users")
    ...         print(found.sound, found.events)
    ...         copied = await maintenance.backup(store, f"{folder}/copy")
    ...         print(copied.events, copied.position)
    ...     saved = await maintenance.salvage(f"{folder}/users", f"{folder}/saved")
    ...     print(saved.events, saved.lost)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(main(folder))
    True 1
    1 1
    1 ()
"""

from eventuali import _maintenance
from eventuali._maintenance import (
    BackupReport,
    CompressReport,
    Damage,
    Directory,
    Extent,
    ForkReport,
    KeptRange,
    LostRange,
    SalvageReport,
    ScavengeReport,
    StreamLoss,
    VerifyReport,
)
from eventuali._moving import AnyStore, AwaitableReport, Progress
from eventuali.config import EmbeddedConfig

__all__ = [
    "BackupReport",
    "CompressReport",
    "Damage",
    "ForkReport",
    "KeptRange",
    "LostRange",
    "Progress",
    "SalvageReport",
    "ScavengeReport",
    "StreamLoss",
    "VerifyReport",
    "backup",
    "compress",
    "fork",
    "salvage",
    "scavenge",
    "verify",
]


async def backup(store: AnyStore, target: Directory, *, progress: AwaitableReport | None = None) -> BackupReport:
    """Copies a store that is open to a directory, up to a position that is on disk, while others go on appending.

    The copy is a whole store with the same store id, every frame of which was read again and verified; `verify` compares its sealed
    segments with their digests. It has its name when it is complete and on disk; until then it is beside it, and a later backup
    removes what one that was killed has left. A store in memory can be copied to a directory too.

    Args:
        store: an open store, or the directory of one, which is then opened for as long as it takes: for reading only, where another
            process writes to it, and then what that has synced is copied.
        target: the directory of the copy, which must not exist yet.
        progress: told from time to time how far it is; `False` stops it, and leaves nothing.

    Raises:
        ConfigurationError: the store is a database, or there is none, or the target exists, or it lies within the store.
        StoreLockedError: the same target is being written.
        CorruptionError: the store is damaged.
        StorageFullError: there is no room for the copy.

    Example:
        >>> import asyncio, tempfile
        >>> from eventuali import EventStore, maintenance
        >>> from eventuali.event import UserRegistered
        >>> async def main(folder: str) -> None:
        ...     async with EventStore.create(f"{folder}/users") as store:
        ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...         await store.append("user-1", [ada], aggregate_type="User")
        ...         copied = await maintenance.backup(store, f"{folder}/copy")
        ...     print(copied.events, (await maintenance.verify(f"{folder}/copy")).damage)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     asyncio.run(main(folder))
        1 ()
    """
    return await _maintenance.backup(store, target, progress, blocking=False)


async def fork(store: AnyStore, target: Directory, *, at: int | None = None) -> ForkReport:
    """Makes a store that goes on from a position of an open one, while others go on appending to it.

    The fork has every event up to there, with the same ids, positions, versions and times, and a store id of its own. From there on
    neither sees what the other appends. Sealed segments are shared and not copied, so it takes milliseconds however many events there
    are; of the segment that holds the position the part up to there is copied, unless it ends there and is sealed. A shared file is never
    written to: each of the two can be moved or deleted without the other. In another file system all is copied.

    Args:
        store: an open store, or the directory of one, which is then opened for as long as it takes: for reading only, where another
            process writes to it.
        target: the directory of the fork, which must not exist yet.
        at: the position of its last event; all that there are unless it is given. The events of one append stay together.

    Raises:
        ForkPositionError: there is no such position yet, or it lies within the events of one append.
        ConfigurationError: the store is a database, or there is none, or the target exists, or it lies within the store.
        StoreLockedError: the same target is being written.
        UnsupportedError: another process writes to the store, and has not synced all events that the fork would have: choose an earlier `at`.
        CorruptionError: what has to be copied is damaged.
        StorageFullError: there is no room for the fork.

    Example:
        A store that was prepared once, and each test with one of its own:

        >>> import asyncio, tempfile
        >>> from eventuali import EventStore, maintenance
        >>> from eventuali.event import UserRegistered
        >>> async def main(folder: str) -> None:
        ...     async with EventStore.create(f"{folder}/prepared") as prepared:
        ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...         await prepared.append("user-1", [ada], aggregate_type="User")
        ...         for test in ("one", "other"):
        ...             await maintenance.fork(prepared, f"{folder}/{test}")
        ...             async with EventStore.create(f"{folder}/{test}") as store:
        ...                 await store.append("user-2", [UserRegistered(user_id=test, email="")], aggregate_type="User")
        ...                 print([event.aggregate_id async for event in store.read_all()])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     asyncio.run(main(folder))
        ['user-1', 'user-2']
        ['user-1', 'user-2']
    """
    return await _maintenance.fork(store, target, at, blocking=False)


async def compress(store: AnyStore) -> CompressReport:
    """Compresses the finished segment files of an open store now, where that makes them smaller, while others append and read.

    All but the one that was written to last. Each is decoded and compared with its original before it takes its place; killed at any
    moment, the store is whole, and compressing it again goes on from there. `EventStoreConfig.with_compression` does it as files are
    finished.

    Args:
        store: an open store, or the directory of one, which is then opened for as long as it takes.

    Raises:
        ConfigurationError: the store is a database, or it is named, and there is none.
        StoreLockedError: the store is named, and another process has it open.
        CorruptionError: a segment is damaged; it is left as it is.
        StorageFullError: there is no room for another generation of a segment.
    """
    return await _maintenance.compress(store, blocking=False)


async def scavenge(
    store: AnyStore, *, extent: Extent = "everything", progress: AwaitableReport | None = None
) -> ScavengeReport:
    """Takes out of an open store's files what was deleted or has passed its limits, while others append and read.

    When it returns, the bytes of these events are in none of the store's files, and the space is free; unless a backup has the old files
    open still. Nothing that can be read changes, nor any position or version. Stopped or killed at any moment, it goes on from there when it
    is called again. Copies of the store keep what they have.

    Args:
        store: an open store, or the directory of one, which is then opened for as long as it takes.
        extent: with `"worthwhile"` the segment that is written to is sealed only if it has 4 MiB or more and a quarter of it can be given
            back; what is left out and stays in it is told as `left`. That is for who scavenges often to save space: `"everything"`
            seals it however short it is, and many short segments stay.
        progress: told before each segment how far it is; `False` stops it, and what was done stays done.

    Raises:
        UnsupportedError: the store is a database.
        ConfigurationError: the store is named, and there is none, or the extent is none of these.
        StoreLockedError: the store is named, and another process has it open.
        CorruptionError: a segment that has something to be taken out is damaged; it is left as it is.
        StorageFullError: there is no room for another generation of a segment.
    """
    return await _maintenance.scavenge(store, extent, progress, blocking=False)


async def verify(path: Directory | EmbeddedConfig, *, progress: AwaitableReport | None = None) -> VerifyReport:
    """Reads every byte of a store's files, verifies every checksum, and reports every damaged place.

    Finding damage is no error, and neither is a sector that cannot be read. What a writer is appending meanwhile is no damage.

    Args:
        path: the directory of a store, or the config that names it. Its files are read by calls of the system and never through maps,
            whatever a config says: a place that cannot be read is a damaged one.
        progress: told from time to time how far it is; `False` stops it.

    Raises:
        ConfigurationError: there is no store.
        FormatVersionError: a newer release has written it.
    """
    return await _maintenance.verify(path, progress, blocking=False)


async def salvage(
    path: Directory | EmbeddedConfig, target: Directory, *, progress: AwaitableReport | None = None
) -> SalvageReport:
    """Writes every event that can be verified, in order, to a new store, and lists what could not be saved.

    Ids, types, times, metadata, tags and payloads stay what they were. Positions and versions have no gaps in the new store, so
    that later ones are lower where events are lost: the report maps them. The original is left as it is. The new store has its
    name when it is complete, on disk and verified; until then it is beside it, and a later salvage removes what one that was
    killed has left.

    Args:
        path: the directory of the damaged store, or the config that names it.
        target: the directory of the new store, which must not exist yet.
        progress: told from time to time how far it is; `False` stops it, and leaves nothing.

    Raises:
        ConfigurationError: there is no store, or the target exists, or it lies within the store.
        StoreLockedError: the same target is being written.
        StorageFullError: there is no room for the new store.
    """
    return await _maintenance.salvage(path, target, progress, blocking=False)
