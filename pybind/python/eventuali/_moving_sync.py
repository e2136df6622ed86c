"""Moving history, for plain synchronous code: the functions of `eventuali.moving` without `await`."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, final

from eventuali import _eventuali
from eventuali._eventuali import EventStoreCore, MirrorCore, Move
from eventuali._moving import (
    AnyStore,
    LinesFile,
    MirrorStatus,
    Moved,
    Progress,
    Report,
    Verified,
    lines_read_from,
    lines_written_to,
    moved,
    open_core,
    request_for,
    require_report,
    verified,
)
from eventuali._opening import core_of


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
    require_report(progress)
    with _opened(source, is_source=True) as here, _opened(target, is_source=False) as there:
        return moved(_carried_out(_eventuali.start_export(here, there, True), progress))


def verify(source: AnyStore, target: AnyStore, *, progress: Report | None = None) -> Verified:
    """Compares everything that two stores hold, as it is stored. Finding a difference is no error."""
    require_report(progress)
    with _opened(source, is_source=True) as here, _opened(target, is_source=True) as there:
        return verified(_carried_out(_eventuali.start_verify(here, there, True), progress))


def export_json_lines(source: AnyStore, file: LinesFile, *, progress: Report | None = None) -> Moved:
    """Writes every durable event as JSON lines: one with the store's id and epoch, then one for each event, in order."""
    require_report(progress)
    with _opened(source, is_source=True) as here:
        with lines_written_to(file) as (written, keep):
            done = moved(_carried_out(_eventuali.start_export_lines(here, written.write, True), progress))
            if done.complete:
                keep()
        return done


def import_json_lines(file: LinesFile, target: AnyStore, *, progress: Report | None = None) -> Moved:
    """Moves the events of JSON lines into a store; what it has already is passed over."""
    require_report(progress)
    with lines_read_from(file) as read, _opened(target, is_source=False) as there:
        return moved(_carried_out(_eventuali.start_import_lines(read.read, there, True), progress))


def import_eventsourcing(
    address: str, target: AnyStore, *, table: str | None = None, progress: Report | None = None
) -> Moved:
    """Moves the events of an application of the `eventsourcing` library into a store; what it has already is passed over."""
    require_report(progress)
    with _opened(target, is_source=False) as there:
        return moved(_carried_out(_eventuali.start_import_eventsourcing(address, table, there, True), progress))


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
    opened: list[EventStoreCore] = []
    cores: list[EventStoreCore] = []
    try:
        for number, store in enumerate((source, target)):
            core = open_core(store)
            if core is None:
                core = _core(store, is_source=number == 0)
                opened.append(core)
            cores.append(core)
        return Mirror(_eventuali.start_mirror(cores[0], cores[1], True), tuple(opened))
    except BaseException:
        for core in opened:
            core.close()
        raise


@final
class Mirror:
    """A mirror that runs until it is stopped. Both stores stay open until then."""

    __slots__ = ("__weakref__", "_core", "_opened")

    def __init__(self, core: MirrorCore, opened: tuple[EventStoreCore, ...], /) -> None:
        self._core = core
        self._opened = opened

    def status(self) -> MirrorStatus:
        """How far it has come."""
        return MirrorStatus(*self._core.status())

    def stop(self) -> MirrorStatus:
        """Ends it when the transaction under way is through. Stopping it again only tells how far it has come."""
        try:
            return MirrorStatus(*self._core.stop())
        finally:
            for core in self._opened:
                core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()


def _core(store: AnyStore, *, is_source: bool) -> EventStoreCore:
    return core_of(request_for(store, is_source=is_source).open(blocking=True), "EventStore.create(...)")


@contextmanager
def _opened(store: AnyStore, *, is_source: bool) -> Iterator[EventStoreCore]:
    """The core of an open store, or of one that is opened for a while."""
    core = open_core(store)
    if core is not None:
        yield core
        return
    core = _core(store, is_source=is_source)
    try:
        yield core
    finally:
        core.close()


def _carried_out(move: Move, progress: Report | None) -> tuple[Any, ...]:
    try:
        while (told := move.next()) is not None:
            if progress is None:
                continue
            if _told(progress, Progress(*told)) is False:
                move.stop()
                progress = None
    except BaseException:
        # What is under way is finished: whoever goes on from here finds the stores at rest.
        move.stop()
        while move.next() is not None:
            pass
        raise
    return move.outcome()


def _told(progress: Report, how_far: Progress) -> object:
    if inspect.isawaitable(answer := progress(how_far)):
        raise TypeError(f"progress returned {answer!r}, which nobody would await: eventuali.moving does")
    return answer
