"""What maintenance does, once for both shells, and its results."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, final
from uuid import UUID

from typing_extensions import override

from eventuali import _eventuali
from eventuali._moves import Opened, carried_out
from eventuali._moving import AnyStore, AwaitableReport, require_report
from eventuali._places import expanded, require_path
from eventuali.config import EmbeddedConfig, EventStoreConfig
from eventuali.errors import ConfigurationError

Directory: TypeAlias = str | os.PathLike[str]
"""The path of a store's directory."""

Extent: TypeAlias = Literal["everything", "worthwhile"]
"""How thoroughly a store is scavenged."""


@final
@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup holds."""

    store_id: UUID
    """The id of the store, which the backup keeps."""

    events: int
    """How many events it holds."""

    position: int
    """Its last event."""

    segments: int
    """How many segments it consists of."""

    bytes: int
    """How many bytes of segments were written."""

    digest: str
    """BLAKE3 over the digests of all segments in their order, in hexadecimal digits."""

    complete: bool
    """Whether it was finished; `False` if `progress` has stopped it, and then there is no backup."""


@final
@dataclass(frozen=True, slots=True)
class ForkReport:
    """What a fork consists of."""

    store_id: UUID
    """The id of the fork."""

    parent_id: UUID
    """The id of the store that it was forked from."""

    position: int
    """Its last event; the next one that it takes has the position after it."""

    shared_segments: int
    """How many segments it shares with its parent."""

    copied_segments: int
    """How many segments were copied, in whole or in part."""

    copied_bytes: int
    """How many bytes of segments were written for that."""


@final
@dataclass(frozen=True, slots=True)
class CompressReport:
    """What compressing came to."""

    segments: int
    """How many segments were compressed."""

    left: int
    """How many finished ones would not have become small enough to be worth it."""

    bytes_before: int
    """How long the files of those that were compressed were, in bytes."""

    bytes_after: int
    """How long they are."""


@final
@dataclass(frozen=True, slots=True)
class ScavengeReport:
    """What scavenging has given back."""

    events: int
    """How many events were taken out."""

    segments: int
    """How many segments they were taken out of."""

    bytes_before: int
    """How long the files of these segments were, in bytes."""

    bytes_after: int
    """How long they are."""

    left: int
    """How many events stay in the segment that is written to, because taking them out was not worthwhile."""

    complete: bool
    """Whether everything was done; `False` if `progress` has stopped it before."""


@final
@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged place."""

    file: str
    """The name of the damaged or missing file, in the store's directory."""

    segment: int | None
    """The segment's number; `None` where the damage is not in a segment."""

    offset: int
    """Where in the file it begins, in bytes."""

    length: int | None
    """How many bytes are concerned; `None` if nobody knows."""

    first_position: int | None
    """The first event that is concerned; `None` if none is, or nobody knows."""

    last_position: int | None
    """The last event that is concerned; `None` if none is, or nobody knows."""

    reason: str
    """What was found there."""

    message: str
    """All of it in words."""

    @override
    def __str__(self) -> str:
        return self.message


@final
@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verifying the files of a store found."""

    events: int
    """How many events are whole: with the store's own, and with those that are left out and not taken out."""

    removed: int
    """How many events were taken out after they had been deleted or had passed their limits; they are no loss."""

    frames: int
    """How many frames, which are the appends, are whole."""

    segments: int
    """How many segments were read."""

    bytes: int
    """How many bytes of segments were read."""

    last_position: int
    """The last event that is whole, or was taken out."""

    unpromised_bytes: int
    """How many bytes follow the log that nobody was promised: an append that was interrupted, or is under way."""

    damage: tuple[Damage, ...]
    """Every damaged place in the order of the log, up to 100,000 of them."""

    damaged_places: int
    """How many damaged places there are."""

    complete: bool
    """Whether everything was read; `False` if `progress` has stopped it."""

    @property
    def sound(self) -> bool:
        """Whether everything was read and is whole."""
        return self.complete and self.damaged_places == 0


@final
@dataclass(frozen=True, slots=True)
class LostRange:
    """Positions or versions that are lost, both ends included."""

    first: int
    """The first."""

    last: int
    """The last."""


@final
@dataclass(frozen=True, slots=True)
class KeptRange:
    """Positions or versions that were saved, and what they are now."""

    first: int
    """The first, in the damaged store."""

    last: int
    """The last, in the damaged store."""

    new_first: int
    """What the first is in the new store; the others follow without a gap."""


@final
@dataclass(frozen=True, slots=True)
class StreamLoss:
    """An aggregate that has lost events."""

    tenant: str
    """The tenant; empty if none was given."""

    aggregate_id: str
    """The aggregate."""

    lost: tuple[LostRange, ...]
    """The versions that are lost."""

    kept: tuple[KeptRange, ...]
    """The versions that were saved, and which they are now."""


@final
@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What salvaging has saved, and what it could not."""

    store_id: UUID
    """The id of the new store."""

    events: int
    """How many events were saved."""

    removed: int
    """How many events had been taken out after they had been deleted or had passed their limits; they are no loss."""

    kept: tuple[KeptRange, ...]
    """The positions that were saved, and which they are now."""

    lost: tuple[LostRange, ...]
    """The positions that could not be saved."""

    unknown_after: int | None
    """A position where the end of the store is damaged and nothing tells where that was: more events may have followed it, all of which
    are lost. `None` where everything that is lost is known."""

    streams: tuple[StreamLoss, ...]
    """The aggregates that are known to have lost events."""

    damage: tuple[Damage, ...]
    """Every damaged place in the order of the log, up to 100,000 of them."""

    damaged_places: int
    """How many damaged places there are."""

    unpromised_bytes: int
    """How many bytes follow the log that nobody was promised. They are not saved, and are no loss."""

    complete: bool
    """Whether it was finished; `False` if `progress` has stopped it, and then there is no new store."""


def _verify_report(parts: tuple[Any, ...]) -> VerifyReport:
    """What the core says that verifying has found."""
    events, removed, frames, segments, size, last_position, unpromised_bytes, damage, damaged_places, complete = parts
    return VerifyReport(
        events,
        removed,
        frames,
        segments,
        size,
        last_position,
        unpromised_bytes,
        _places(damage),
        damaged_places,
        complete,
    )


def _salvage_report(parts: tuple[Any, ...]) -> SalvageReport:
    """What the core says that salvaging has saved."""
    store_id, events, removed, kept, lost, unknown_after, streams, damage, (damaged_places, unpromised, complete) = (
        parts
    )
    losses = tuple(StreamLoss(tenant, name, _lost(gone), _kept(left)) for tenant, name, gone, left in streams)
    return SalvageReport(
        store_id,
        events,
        removed,
        _kept(kept),
        _lost(lost),
        unknown_after,
        losses,
        _places(damage),
        damaged_places,
        unpromised,
        complete,
    )


def _places(damage: list[tuple[Any, ...]]) -> tuple[Damage, ...]:
    return tuple(Damage(*parts) for parts in damage)


def _lost(ranges: list[tuple[int, int]]) -> tuple[LostRange, ...]:
    return tuple(LostRange(*parts) for parts in ranges)


def _kept(runs: list[tuple[int, int, int]]) -> tuple[KeptRange, ...]:
    return tuple(KeptRange(*parts) for parts in runs)


def _directory(path: Directory) -> Path:
    """The directory that is named; a URL or a config is none."""
    directory = os.fspath(path) if isinstance(path, os.PathLike) else path
    require_path(directory)
    return Path(expanded(directory))


def _directory_of(store: Directory | EmbeddedConfig) -> Path:
    """The directory of a store that is named by its path or config. What else a config says is of no account to who reads its files."""
    if isinstance(store, EventStoreConfig) and not isinstance(store, EmbeddedConfig):
        raise ConfigurationError(
            f"the store of a {type(store).__name__} is no directory: only stores in a directory have files to look after"
        )
    return _directory(store._place if isinstance(store, EmbeddedConfig) else store)  # noqa: SLF001


async def backup(
    store: AnyStore, target: Directory, progress: AwaitableReport | None, *, blocking: bool
) -> BackupReport:
    """Copies an open store."""
    require_report(progress)
    directory = _directory(target)
    async with Opened(store, is_source=True, blocking=blocking) as core:
        move = _eventuali.start_backup(core, directory, blocking)
        return BackupReport(*await carried_out(move, progress, blocking=blocking))


async def fork(store: AnyStore, target: Directory, at: int | None, *, blocking: bool) -> ForkReport:
    """Makes a store that goes on from a position of an open one."""
    directory = _directory(target)
    async with Opened(store, is_source=True, blocking=blocking) as core:
        move = _eventuali.start_fork(core, directory, at, blocking)
        return ForkReport(*await carried_out(move, None, blocking=blocking))


async def compress(store: AnyStore, *, blocking: bool) -> CompressReport:
    """Compresses the finished segments of an open store."""
    async with Opened(store, is_source=True, blocking=blocking, only_reads=False) as core:
        move = _eventuali.start_compress(core, blocking)
        return CompressReport(*await carried_out(move, None, blocking=blocking))


async def scavenge(
    store: AnyStore, extent: Extent, progress: AwaitableReport | None, *, blocking: bool
) -> ScavengeReport:
    """Gives back the space of what was deleted."""
    require_report(progress)
    async with Opened(store, is_source=True, blocking=blocking, only_reads=False) as core:
        move = _eventuali.start_scavenge(core, extent, blocking)
        return ScavengeReport(*await carried_out(move, progress, blocking=blocking))


async def verify(path: Directory | EmbeddedConfig, progress: AwaitableReport | None, *, blocking: bool) -> VerifyReport:
    """Reads every byte of a store's files."""
    require_report(progress)
    move = _eventuali.start_check(_directory_of(path), blocking)
    return _verify_report(await carried_out(move, progress, blocking=blocking))


async def salvage(
    path: Directory | EmbeddedConfig, target: Directory, progress: AwaitableReport | None, *, blocking: bool
) -> SalvageReport:
    """Writes what can be verified to a new store."""
    require_report(progress)
    move = _eventuali.start_salvage(_directory_of(path), _directory(target), blocking)
    return _salvage_report(await carried_out(move, progress, blocking=blocking))
