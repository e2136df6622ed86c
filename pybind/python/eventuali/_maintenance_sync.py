"""Looking after the files of a store, for plain synchronous code: the functions of `eventuali.maintenance` without `await`."""

from eventuali import _maintenance
from eventuali._maintenance import Directory, SalvageReport, VerifyReport
from eventuali._moves import finished
from eventuali._moving import Report

__all__ = ["salvage", "verify"]


def verify(path: Directory, *, progress: Report | None = None) -> VerifyReport:
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


def salvage(path: Directory, target: Directory, *, progress: Report | None = None) -> SalvageReport:
    """Writes every event that can be verified, in order, to a new store, and lists what could not be saved."""
    return finished(_maintenance.salvage(path, target, progress, blocking=True))
