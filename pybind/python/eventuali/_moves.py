"""What moving does, once for both shells: where the cores block, nothing in here waits, and `finished` runs it to its end."""

import inspect
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar, final

from eventuali import _eventuali
from eventuali._eventuali import EventStoreCore, MirrorCore, Move, Pending
from eventuali._moving import (
    AnyStore,
    AwaitableReport,
    LinesFile,
    MirrorStatus,
    Moved,
    Progress,
    Verified,
    lines_read_from,
    lines_written_to,
    moved,
    open_core,
    request_for,
    require_report,
    verified,
)
from eventuali._opening import OpenRequest
from eventuali.errors import StoreLockedError

T = TypeVar("T")


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that blocks instead of waiting."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("it waited for an event loop that nobody runs")


async def export(source: AnyStore, target: AnyStore, progress: AwaitableReport | None, *, blocking: bool) -> Moved:
    """Moves what is durable in `source` and not in `target` yet."""
    require_report(progress)
    async with (
        Opened(source, is_source=True, blocking=blocking) as here,
        Opened(target, is_source=False, blocking=blocking) as there,
    ):
        return moved(await carried_out(_eventuali.start_export(here, there, blocking), progress, blocking=blocking))


async def verify(source: AnyStore, target: AnyStore, progress: AwaitableReport | None, *, blocking: bool) -> Verified:
    """Compares everything that two stores hold."""
    require_report(progress)
    async with (
        Opened(source, is_source=True, blocking=blocking) as here,
        Opened(target, is_source=True, blocking=blocking) as there,
    ):
        return verified(await carried_out(_eventuali.start_verify(here, there, blocking), progress, blocking=blocking))


async def export_json_lines(
    source: AnyStore, file: LinesFile, progress: AwaitableReport | None, *, blocking: bool
) -> Moved:
    """Writes every durable event as JSON lines."""
    require_report(progress)
    async with Opened(source, is_source=True, blocking=blocking) as here:
        with lines_written_to(file) as (written, keep):
            move = _eventuali.start_export_lines(here, written.write, blocking)
            done = moved(await carried_out(move, progress, blocking=blocking))
            if done.complete:
                keep()
        return done


async def import_json_lines(
    file: LinesFile, target: AnyStore, progress: AwaitableReport | None, *, blocking: bool
) -> Moved:
    """Moves the events of JSON lines into a store."""
    require_report(progress)
    with lines_read_from(file) as read:
        async with Opened(target, is_source=False, blocking=blocking) as there:
            move = _eventuali.start_import_lines(read.read, there, blocking)
            return moved(await carried_out(move, progress, blocking=blocking))


async def import_eventsourcing(
    address: str, target: AnyStore, table: str | None, progress: AwaitableReport | None, *, blocking: bool
) -> Moved:
    """Moves the events of an application of the `eventsourcing` library into a store."""
    require_report(progress)
    # Before a target is made: an address that leads to nothing leaves no trace.
    await carried_out(_eventuali.start_check_eventsourcing(address, table, blocking), None, blocking=blocking)
    async with Opened(target, is_source=False, blocking=blocking) as there:
        move = _eventuali.start_import_eventsourcing(address, table, there, blocking)
        return moved(await carried_out(move, progress, blocking=blocking))


@final
class MirrorParts:
    """A mirror that runs, and the stores that were opened for it."""

    __slots__ = ("_core", "_opened")

    def __init__(self, core: MirrorCore, opened: tuple["Opened", ...], /) -> None:
        self._core = core
        self._opened = opened

    def status(self) -> MirrorStatus:
        """How far it has come."""
        return MirrorStatus(*self._core.status())

    async def stop(self) -> MirrorStatus:
        """Ends it, and closes the stores that were opened for it."""
        try:
            return MirrorStatus(*await _settled(self._core.stop()))
        finally:
            for store in self._opened:
                await store.close()


async def start_mirror(source: AnyStore, target: AnyStore, *, blocking: bool) -> MirrorParts:
    """Begins to follow `source`."""
    here = Opened(source, is_source=True, blocking=blocking)
    there = Opened(target, is_source=False, blocking=blocking)
    try:
        cores = (await here.open(), await there.open())
        return MirrorParts(await _settled(_eventuali.start_mirror(*cores, blocking)), (here, there))
    except BaseException:
        await here.close()
        await there.close()
        raise


@final
class Opened:
    """The core of an open store, or of one that is opened for a while."""

    __slots__ = ("_blocking", "_core", "_is_source", "_only_reads", "_store")

    def __init__(self, store: AnyStore, *, is_source: bool, blocking: bool, only_reads: bool | None = None) -> None:
        self._store = store
        self._is_source = is_source
        # What is moved from is only read, unless something else is said.
        self._only_reads = is_source if only_reads is None else only_reads
        self._blocking = blocking
        # What is to be closed.
        self._core: EventStoreCore | None = None

    async def open(self) -> EventStoreCore:
        core = open_core(self._store)
        if core is None:
            request = request_for(self._store, is_source=self._is_source)
            core = self._core = await self._opened(request)
        return core

    async def _opened(self, request: OpenRequest) -> EventStoreCore:
        try:
            return await _settled(request.open(blocking=self._blocking))
        except StoreLockedError:
            if not self._only_reads:
                raise
        return await _settled(request.beside_its_writer().open(blocking=self._blocking))

    async def close(self) -> None:
        if self._core is not None:
            await _settled(self._core.close())

    async def __aenter__(self) -> EventStoreCore:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.close()


async def _settled(answer: T | Pending[T]) -> T:
    return (await answer) if isinstance(answer, Pending) else answer


async def carried_out(move: Move, progress: AwaitableReport | None, *, blocking: bool) -> tuple[Any, ...]:
    """What became of it, when it has ended; `progress` is told on the way."""
    try:
        while (told := await _settled(move.next())) is not None:
            if progress is not None and await _answer(progress, Progress(*told), blocking=blocking) is False:
                move.stop()
                progress = None
    except BaseException:
        # What is under way is finished: whoever goes on from here finds the stores at rest.
        move.stop()
        while await _settled(move.next()) is not None:
            pass
        raise
    return move.outcome()


async def _answer(progress: AwaitableReport, how_far: Progress, *, blocking: bool) -> object:
    if not inspect.isawaitable(answer := progress(how_far)):
        return answer
    if blocking:
        raise TypeError(f"progress returned {answer!r}, which nobody would await: the functions for asyncio do")
    return await answer
