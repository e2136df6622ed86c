"""Looking after a store: `backup` copies it, `verify` finds every damaged place, `salvage` saves what can be saved.

All leave the store as it is, byte for byte. `backup` copies an open store while others go on appending. `verify` and `salvage` take
no lock: they work on a closed store, on one that is damaged beyond opening, and on one that a process is writing to.
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
    Damage,
    Directory,
    KeptRange,
    LostRange,
    SalvageReport,
    StreamLoss,
    VerifyReport,
)
from eventuali._moving import AnyStore, AwaitableReport, Progress

__all__ = [
    "BackupReport",
    "Damage",
    "KeptRange",
    "LostRange",
    "Progress",
    "SalvageReport",
    "StreamLoss",
    "VerifyReport",
    "backup",
    "salvage",
    "verify",
]


async def backup(store: AnyStore, target: Directory, *, progress: AwaitableReport | None = None) -> BackupReport:
    """Copies a store that is open to a directory, up to a position that is on disk, while others go on appending.

    The copy is a whole store with the same store id, every frame of which was read again and verified; `verify` compares its sealed
    segments with their digests. It has its name when it is complete and on disk; until then it is beside it, and a later backup
    removes what one that was killed has left. A store in memory can be copied to a directory too.

    Args:
        store: an open store, or the directory of one, which is then opened for as long as it takes.
        target: the directory of the copy, which must not exist yet.
        progress: told from time to time how far it is; `False` stops it, and leaves nothing.

    Raises:
        ConfigurationError: the store is a database, or there is none, or the target exists, or it lies within the store.
        StoreLockedError: the store is named, and another process has it open; or the same target is being written.
        CorruptionError: the store is damaged.
        StorageFullError: there is no room for the copy.
    """
    return await _maintenance.backup(store, target, progress, blocking=False)


async def verify(path: Directory, *, progress: AwaitableReport | None = None) -> VerifyReport:
    """Reads every byte of a store's files, verifies every checksum, and reports every damaged place.

    Finding damage is no error, and neither is a sector that cannot be read. What a writer is appending meanwhile is no damage.

    Args:
        path: the directory of a store.
        progress: told from time to time how far it is; `False` stops it.

    Raises:
        ConfigurationError: there is no store.
        FormatVersionError: a newer release has written it.
    """
    return await _maintenance.verify(path, progress, blocking=False)


async def salvage(path: Directory, target: Directory, *, progress: AwaitableReport | None = None) -> SalvageReport:
    """Writes every event that can be verified, in order, to a new store, and lists what could not be saved.

    Ids, types, times, metadata, tags and payloads stay what they were. Positions and versions have no gaps in the new store, so
    that later ones are lower where events are lost: the report maps them. The original is left as it is. The new store has its
    name when it is complete, on disk and verified; until then it is beside it, and a later salvage removes what one that was
    killed has left.

    Args:
        path: the directory of the damaged store.
        target: the directory of the new store, which must not exist yet.
        progress: told from time to time how far it is; `False` stops it, and leaves nothing.

    Raises:
        ConfigurationError: there is no store, or the target exists, or it lies within the store.
        StoreLockedError: the same target is being written.
        StorageFullError: there is no room for the new store.
    """
    return await _maintenance.salvage(path, target, progress, blocking=False)
