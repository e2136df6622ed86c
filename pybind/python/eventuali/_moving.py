"""What both shells of moving share: results, arguments, files."""

import io
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, final
from uuid import UUID

from typing_extensions import override

from eventuali import _eventuali
from eventuali._eventuali import EventStoreCore
from eventuali._opening import OpenRequest, Place
from eventuali.errors import EventualiError

if TYPE_CHECKING:
    from eventuali.store import EventStore
    from eventuali.sync import EventStore as SyncEventStore

AnyStore: TypeAlias = "EventStore | SyncEventStore | Place"
"""An open store of either shell, or what names one: then it is opened, and closed in the end."""

LinesFile: TypeAlias = str | os.PathLike[str] | BinaryIO
"""The path of a file, or a binary file that is open."""


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far moving or verifying has come.

    Example:
        >>> from datetime import timedelta
        >>> print(Progress(50_000, 50_000, 200_000, timedelta(seconds=2), 25_000.0, timedelta(seconds=6)))
        50,000 of 200,000 events, 25,000 events/s, 0:00:06 left
    """

    events: int
    """How many events were done in this run."""

    position: int
    """The last position that is done."""

    last_position: int | None
    """The last position that there is to do; `None` where only reading to the end tells."""

    elapsed: timedelta
    """For how long it has run."""

    rate: float
    """How many events are done in a second."""

    time_left: timedelta | None
    """How long the rest takes at this rate; `None` while that cannot be told."""

    @override
    def __str__(self) -> str:
        share = f" of {self.last_position:,}" if self.last_position is not None else ""
        seconds = None if self.time_left is None else timedelta(seconds=round(self.time_left.total_seconds()))
        left = f", {seconds} left" if seconds is not None else ""
        return f"{self.position:,}{share} events, {self.rate:,.0f} events/s{left}"


@final
@dataclass(frozen=True, slots=True)
class Moved:
    """What moving has done."""

    events: int
    """How many events were stored in this run."""

    position: int
    """The last position of the target."""

    complete: bool
    """Whether everything was moved; `False` if `progress` has stopped it."""


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """The first event in which two stores differ."""

    position: int
    """Where it is."""

    kind: Literal["missing in target", "missing in source", "differs"]
    """What is different."""

    source_event: UUID | None
    """The id of the source's event there."""

    target_event: UUID | None
    """The id of the target's event there."""

    parts: tuple[str, ...]
    """The names of the parts that differ, where both have an event."""

    message: str
    """The same in words."""

    @override
    def __str__(self) -> str:
        return self.message


@final
@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying found."""

    events: int
    """How many events of the source were compared and are equal."""

    digest: str | None
    """A digest of everything compared, the same wherever that history is stored; `None` if the stores differ."""

    difference: Difference | None
    """The first event in which they differ."""

    complete: bool
    """Whether everything was compared; `False` if `progress` has stopped it."""

    left_out: int
    """At how many positions neither has an event, because it was deleted or limits leave it out."""

    @property
    def equal(self) -> bool:
        """Whether everything was compared and is equal."""
        return self.digest is not None


@final
@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """How far a mirror has come."""

    position: int
    """The last position of the target."""

    events: int
    """How many events this mirror has moved."""

    waiting: EventualiError | None
    """Why it waits, if one of the stores is not available."""

    running: bool
    """Whether it goes on; if not, and it was not stopped, `stop` tells why."""


Report: TypeAlias = Callable[[Progress], object]
"""Is told how far it is; `False` stops it, and so does an exception."""

AwaitableReport: TypeAlias = Callable[[Progress], object | Awaitable[object]]
"""The same; what it returns is awaited if it can be."""


def moved(parts: tuple[Any, ...]) -> Moved:
    """What the core says that moving has done."""
    return Moved(*parts)


def verified(parts: tuple[Any, ...]) -> Verified:
    """What the core says that verifying has found."""
    events, digest, difference, complete, left_out = parts
    if difference is not None:
        position, kind, source_event, target_event, names, message = difference
        difference = Difference(position, kind, source_event, target_event, tuple(names), message)
    return Verified(events, digest, difference, complete, left_out)


def require_report(progress: object) -> None:
    """What is told how far it is."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress is a function that takes a Progress, not {type(progress).__name__}")


def open_core(store: AnyStore) -> EventStoreCore | None:
    """The core of a store that is open."""
    core = getattr(store, "_core", None)
    return core if isinstance(core, EventStoreCore) else None


def request_for(store: AnyStore, *, is_source: bool) -> OpenRequest:
    """How to open a store that is named; one to move from must be there."""
    request = OpenRequest.of(store)  # type: ignore[arg-type]  # refused there, by its name
    _eventuali.check_moved(request.place, request.kind, request.options)
    return replace(request, existing=is_source)


@contextmanager
def lines_written_to(file: LinesFile) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """The file to write to, and what makes it stay: one that is named appears whole under its name, or not at all."""
    if not isinstance(file, str | os.PathLike):
        require_binary(file, "write", "wb")
        yield file, lambda: None
        return
    path = Path(file)
    if path.exists() and not path.is_file():
        with path.open("wb") as device:
            yield device, lambda: None
        return
    part = path.with_name(f"{path.name}.part")

    def keep() -> None:
        os.fsync(written.fileno())
        part.replace(path)

    try:
        with part.open("wb") as written:
            yield written, keep
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def lines_read_from(file: LinesFile) -> Iterator[BinaryIO]:
    """The file to read from; one that is named is opened, and closed in the end."""
    if isinstance(file, str | os.PathLike):
        with Path(file).open("rb") as opened:
            yield opened
    else:
        require_binary(file, "read", "rb")
        yield file


def require_binary(file: object, method: str, mode: str) -> None:
    """A file that has bytes."""
    if isinstance(file, io.TextIOBase) or not callable(getattr(file, method, None)):
        raise TypeError(f"a path or a binary file is wanted, opened with mode {mode!r}, not {type(file).__name__}")
