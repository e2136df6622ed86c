"""Moving history, for plain synchronous code: the functions of `eventuali.moving` without `await`."""

from types import TracebackType
from typing import Self, final

from eventuali import _moves
from eventuali._moves import MirrorParts, finished
from eventuali._moving import AnyStore, LinesFile, MirrorStatus, Moved, Report, Verified


def export(source: AnyStore, target: AnyStore, *, progress: Report | None = None) -> Moved:
    """Moves every event that is durable in `source` and not in `target` yet; one that was interrupted goes on.

    Example:
        >>> from eventuali.event import UserRegistered
        >>> from eventuali.sync import EventStore, export, verify
        >>> with EventStore.create("memory://") as source, EventStore.create("sqlite://:memory:") as target:
        ...     ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...     receipt = source.append("user-1", [ada], aggregate_type="User")
        ...     print(export(source, target))
        ...     print(verify(source, target).equal)
        Moved(events=1, position=1, complete=True)
        True
    """
    return finished(_moves.export(source, target, progress, blocking=True))


def verify(source: AnyStore, target: AnyStore, *, progress: Report | None = None) -> Verified:
    """Compares everything that two stores hold, as it is stored. Finding a difference is no error."""
    return finished(_moves.verify(source, target, progress, blocking=True))


def export_json_lines(source: AnyStore, file: LinesFile, *, progress: Report | None = None) -> Moved:
    """Writes every durable event as JSON lines: one with the store's id and epoch, then one for each event, in order."""
    return finished(_moves.export_json_lines(source, file, progress, blocking=True))


def import_json_lines(file: LinesFile, target: AnyStore, *, progress: Report | None = None) -> Moved:
    """Moves the events of JSON lines into a store; what it has already is passed over."""
    return finished(_moves.import_json_lines(file, target, progress, blocking=True))


def import_eventsourcing(
    address: str, target: AnyStore, *, table: str | None = None, progress: Report | None = None
) -> Moved:
    """Moves the events of an application of the `eventsourcing` library into a store; what it has already is passed over."""
    return finished(_moves.import_eventsourcing(address, target, table, progress, blocking=True))


def mirror(source: AnyStore, target: AnyStore) -> "Mirror":
    """Follows a store: what becomes durable in the source is moved to the target soon after; `with` stops it in the end.

    Example:
        >>> import time
        >>> from eventuali.event import UserRegistered
        >>> from eventuali.sync import EventStore, mirror
        >>> with EventStore.create("memory://") as source, EventStore.create("memory://") as target:
        ...     with mirror(source, target) as following:
        ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
        ...         receipt = source.append("user-1", [ada], aggregate_type="User")
        ...         while following.status().position < receipt.position:
        ...             time.sleep(0.01)
        ...     target.head()
        1
    """
    return Mirror(finished(_moves.start_mirror(source, target, blocking=True)))


@final
class Mirror:
    """A mirror that runs until it is stopped. Both stores stay open until then."""

    __slots__ = ("__weakref__", "_parts")

    def __init__(self, parts: MirrorParts, /) -> None:
        self._parts = parts

    def status(self) -> MirrorStatus:
        """How far it has come."""
        return self._parts.status()

    def stop(self) -> MirrorStatus:
        """Ends it when the transaction under way is through. Stopping it again only tells how far it has come."""
        return finished(self._parts.stop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()
