"""Looking after the files of a store, for plain synchronous code: the functions of `eventuali.maintenance` without `await`."""

from eventuali import _maintenance
from eventuali._maintenance import (
    BackupReport,
    CompressReport,
    Directory,
    Extent,
    ForkReport,
    SalvageReport,
    ScavengeReport,
    VerifyReport,
)
from eventuali._moves import finished
from eventuali._moving import AnyStore, Report
from eventuali.config import EmbeddedConfig

__all__ = ["backup", "compress", "fork", "salvage", "scavenge", "verify"]


def backup(store: AnyStore, target: Directory, *, progress: Report | None = None) -> BackupReport:
    """Copies a store that is open to a directory, up to a position that is on disk, while others go on appending.

    Example:
        >>> import tempfile
        >>> from eventuali.event import UserRegistered
        >>> from eventuali.sync import EventStore, maintenance
        >>> with tempfile.TemporaryDirectory() as folder, EventStore.create(f"{folder}/users") as store:
        ...     ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...     receipt = store.append("user-1", [ada], aggregate_type="User")
        ...     print(maintenance.backup(store, f"{folder}/copy").events)
        1
    """
    return finished(_maintenance.backup(store, target, progress, blocking=True))


def fork(store: AnyStore, target: Directory, *, at: int | None = None) -> ForkReport:
    """Makes a store that goes on from a position of an open one, and shares what comes before it.

    Example:
        >>> import tempfile
        >>> from eventuali.event import UserRegistered
        >>> from eventuali.sync import EventStore, maintenance
        >>> with tempfile.TemporaryDirectory() as folder, EventStore.create(f"{folder}/users") as store:
        ...     for name in ("ada", "bob"):
        ...         registered = UserRegistered(user_id=name, email=f"{name}@example.org")
        ...         receipt = store.append(name, [registered], aggregate_type="User")
        ...     print(maintenance.fork(store, f"{folder}/only-ada", at=1).position)
        ...     with EventStore.create(f"{folder}/only-ada") as fork:
        ...         print([event.aggregate_id for event in fork.read_all()])
        1
        ['ada']
    """
    return finished(_maintenance.fork(store, target, at, blocking=True))


def compress(store: AnyStore) -> CompressReport:
    """Compresses the finished segment files of an open store now, where that makes them smaller, while others append and read."""
    return finished(_maintenance.compress(store, blocking=True))


def scavenge(store: AnyStore, *, extent: Extent = "everything", progress: Report | None = None) -> ScavengeReport:
    """Takes out of an open store's files what was deleted or has passed its limits, while others append and read."""
    return finished(_maintenance.scavenge(store, extent, progress, blocking=True))


def verify(path: Directory | EmbeddedConfig, *, progress: Report | None = None) -> VerifyReport:
    """Reads every byte of a store's files, verifies every checksum, and reports every damaged place.

    Example:
        >>> import tempfile
        >>> from eventuali.sync import EventStore, maintenance
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     EventStore.create(f"{folder}/users").close()
        ...     print(maintenance.verify(f"{folder}/users").sound)
        True
    """
    return finished(_maintenance.verify(path, progress, blocking=True))


def salvage(path: Directory | EmbeddedConfig, target: Directory, *, progress: Report | None = None) -> SalvageReport:
    """Writes every event that can be verified, in order, to a new store, and lists what could not be saved."""
    return finished(_maintenance.salvage(path, target, progress, blocking=True))
