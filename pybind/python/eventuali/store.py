"""The event store for asyncio."""

import inspect
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, final
from uuid import UUID

from typing_extensions import override

from eventuali import _eventuali, _maintenance
from eventuali._eventuali import (
    Capabilities,
    EventBatches,
    EventMetadata,
    EventStoreCore,
    EventStream,
    OpenReport,
    Pending,
    Receipt,
    Retention,
)
from eventuali._maintenance import Extent, ScavengeReport
from eventuali._moving import Report
from eventuali._opening import OpenRequest, Place, core_of, html_summary, require_act, require_attempts, summary
from eventuali._places import expanded, require_path
from eventuali.aggregate import Aggregate
from eventuali.errors import ConflictError
from eventuali.event import DomainEvent
from eventuali.expected import ANY, ExpectedVersion

__all__ = [
    "Capabilities",
    "EventBatches",
    "EventStore",
    "EventStream",
    "OpenReport",
    "Opening",
    "Receipt",
    "Retention",
    "StreamAppend",
    "rebuild_manifest",
]

A = TypeVar("A", bound=Aggregate)


@final
@dataclass(frozen=True, slots=True)
class StreamAppend:
    """The events that an `append_all` brings to one stream.

    Example:
        >>> from eventuali import NO_STREAM, StreamAppend
        >>> from eventuali.event import UserRegistered
        >>> ada = UserRegistered(user_id="u-1", email="ada@example.org")
        >>> part = StreamAppend("user-1", [ada], aggregate_type="User", expected_version=NO_STREAM)
        >>> part.aggregate_id
        'user-1'
    """

    aggregate_id: str | UUID
    """The aggregate."""

    events: Iterable[DomainEvent]
    """The events, oldest first. None is allowed: then only the expectation is checked."""

    aggregate_type: str | type[Aggregate] = field(kw_only=True)
    """Its type: given by its first event, the same ever after."""

    expected_version: int | ExpectedVersion = field(default=ANY, kw_only=True)
    """What the writer believes about the stream: `ANY`, `NO_STREAM`, `STREAM_EXISTS` or its version."""

    timestamps: Sequence[datetime] | None = field(default=None, kw_only=True)
    """When each event happened (aware), for imports; the time of the append unless given."""


def rebuild_manifest(path: str | os.PathLike[str]) -> None:
    """Writes a new `MANIFEST` from the segment files of the store in `path`, where the old one is damaged or missing.

    Raises:
        ConfigurationError: `path` is none that a directory can have.
        StoreLockedError: a process has the store open.
        CorruptionError: the segment files do not fit together.
    """
    directory = os.fspath(path) if isinstance(path, os.PathLike) else path
    require_path(directory)
    _eventuali.rebuild_manifest(Path(expanded(directory)))


@final
class Opening:
    """What `EventStore.create` returns: a store that is opened when this is awaited or entered."""

    __slots__ = ("_request", "_store", "_used")

    def __init__(self, request: OpenRequest) -> None:
        self._request = request
        self._store: EventStore | None = None
        self._used = False

    async def _open(self) -> "EventStore":
        core = self._request.open(blocking=False)
        if isinstance(core, Pending):
            core = await core
        return EventStore(core)

    def __await__(self) -> Generator[Any, Any, "EventStore"]:
        self._used = True
        return self._open().__await__()

    async def __aenter__(self) -> "EventStore":
        self._used = True
        self._store = await self._open()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._store is not None:
            await self._store.close()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name!r}: {_NOT_AWAITED}")

    def __enter__(self) -> NoReturn:
        raise TypeError(_NOT_AWAITED)

    def __exit__(self, *exception: object) -> None:
        pass

    def __del__(self) -> None:
        if not self._used:
            warnings.warn(_NOT_AWAITED, RuntimeWarning, stacklevel=2, source=self)

    @override
    def __repr__(self) -> str:
        return f"<EventStore.create({self._request.shown!r}), to be awaited>"


_NOT_AWAITED = (
    "the store is not open yet: write `store = await EventStore.create(...)` "
    "or `async with EventStore.create(...) as store:` (without asyncio: eventuali.sync.EventStore)"
)


class EventStore:
    """A durable, ordered log of events, for asyncio. Many tasks, threads and loops may share one.

    Opened by `create`. What is awaited does not suspend where it need not wait, yet gives the loop a turn at least
    every 128 operations or millisecond. Without asyncio: `eventuali.sync.EventStore`.

    Example:
        >>> import asyncio
        >>> from eventuali import Aggregate, DomainEvent, EventStore
        >>> class Deposited(DomainEvent):
        ...     amount: int
        >>> class Account(Aggregate):
        ...     balance: int = 0
        ...
        ...     def apply_deposited(self, event: Deposited) -> None:
        ...         self.balance += event.amount
        >>> async def main() -> int:
        ...     async with EventStore.create("memory://") as store:
        ...         account = Account(id="account-1")
        ...         account.apply(Deposited(amount=30))
        ...         await store.save(account)
        ...         return (await store.load(Account, "account-1")).balance
        >>> asyncio.run(main())
        30
    """

    __slots__ = ("__weakref__", "_core")

    def __init__(self, core: EventStoreCore, /) -> None:
        self._core = core_of(core, "await EventStore.create(...)")

    @classmethod
    def create(
        cls,
        store: Place,
        *,
        accept_loss_after: int | None = None,
        read_up_to_damage: bool = False,
        read_only: bool = False,
    ) -> Opening:
        """Opens a store, or creates it: to be awaited, or entered with `async with`, which closes it in the end.

        Args:
            store: a connection string (`"memory://"`, `"./orders"`, `"~/orders"`, `"eventuali:///var/lib/orders"`,
                `"sqlite://events.db"`, `"sqlite:///var/lib/events.db"`, `"sqlite://:memory:"`,
                `"postgresql://user:password@host:5432/database"`), a path, or an `EventStoreConfig`.
            accept_loss_after: opens a damaged store and gives up what follows this position, which is the
                `last_good_position` of the `CorruptionError` that refused it; the rest is moved to `quarantine/` first.
            read_up_to_damage: opens a damaged store for reading up to the damage; appends are refused.
            read_only: opens a directory for reading only, beside the process that writes to it, if one does. No lock is taken, and nothing
                is created, changed or repaired. Each call sees what the writer has made visible by then; saving raises
                `UnsupportedError`. `EventStoreConfig.embedded(path).with_read_only("durable")` sees only what is on disk.

        Raises:
            ConfigurationError: the connection string or path cannot be used; nothing was created.
            StoreLockedError: another process writes to this store.
            StoreUnavailableError: the database server cannot be reached.
            FormatVersionError: a newer release made the files or tables.
            CorruptionError: what is on disk is damaged; nothing was changed.

        Example:
            >>> import asyncio
            >>> from eventuali import EventStore
            >>> async def main() -> str:
            ...     store = await EventStore.create("memory://")
            ...     await store.close()
            ...     return repr(store)
            >>> asyncio.run(main())
            '<EventStore memory://, closed>'

            A reader follows the writer of a directory, in this process or in another one:

            >>> import tempfile
            >>> from eventuali.event import UserRegistered
            >>> async def follow(folder: str) -> None:
            ...     writer = await EventStore.create(folder)
            ...     reader = await EventStore.create(folder, read_only=True)
            ...     async with writer, reader:
            ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
            ...         await writer.append("user-1", [ada], aggregate_type="User")
            ...         print([event.email async for event in reader.read("user-1")])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     asyncio.run(follow(folder))
            ['ada@example.org']
        """
        return Opening(
            OpenRequest.of(store, accept_loss_after, read_up_to_damage=read_up_to_damage, read_only=read_only)
        )

    async def save(self, aggregate: Aggregate, *, metadata: EventMetadata | None = None) -> Receipt:
        """Stores the aggregate's pending events, all or none, if nobody else has written to it since it was loaded.

        Cancelling it leaves its outcome open: the next save sends exactly the same events first, which is safe.

        Raises:
            ConflictError: another writer was first. The events are still pending: load the aggregate again, or `update`.
            AggregateTypeError: the id belongs to an aggregate of another type.
            OutcomeUnknownError: a write failed meanwhile. Open the store again and save again.

        Example:
            >>> import asyncio
            >>> from eventuali import Aggregate, EventStore
            >>> from eventuali.event import UserRegistered
            >>> class User(Aggregate):
            ...     def apply_user_registered(self, event: UserRegistered) -> None: ...
            >>> async def main() -> None:
            ...     async with EventStore.create("memory://") as store:
            ...         user = User(id="user-1")
            ...         user.apply(UserRegistered(user_id="u-1", email="ada@example.org"))
            ...         print(await store.save(user))
            >>> asyncio.run(main())
            <Receipt "user-1": 1 event(s), version 1, position 1, memory>
        """
        receipt: Receipt | Pending[Receipt] = self._core.save(aggregate, metadata)
        return (await receipt) if isinstance(receipt, Pending) else receipt

    async def save_all(
        self, aggregates: Iterable[Aggregate], *, metadata: EventMetadata | None = None
    ) -> list[Receipt]:
        """Stores the pending events of several aggregates in one atomic append; one receipt for each, in order.

        Raises:
            ConflictError: one of them was changed by another writer. Nothing was stored.
        """
        receipts: list[Receipt] | Pending[list[Receipt]] = self._core.save_all(aggregates, metadata)
        return (await receipts) if isinstance(receipts, Pending) else receipts

    async def update(
        self,
        aggregate_class: type[A],
        aggregate_id: str | UUID,
        act: Callable[[A], object],
        *,
        attempts: int = 5,
        metadata: EventMetadata | None = None,
    ) -> A:
        """Loads an aggregate, lets `act` change it, saves it; again from the start after a conflict.

        `act` may be called several times, each time with a fresh aggregate; what it returns is awaited if it can be.

        Raises:
            AggregateNotFoundError: there is no such aggregate.
            ConflictError: another writer was first, `attempts` times.

        Example:
            >>> import asyncio
            >>> from eventuali import Aggregate, DomainEvent, EventStore
            >>> class Deposited(DomainEvent):
            ...     amount: int
            >>> class Account(Aggregate):
            ...     balance: int = 0
            ...
            ...     def deposit(self, amount: int) -> None:
            ...         self.apply(Deposited(amount=amount))
            ...
            ...     def apply_deposited(self, event: Deposited) -> None:
            ...         self.balance += event.amount
            >>> async def main() -> int:
            ...     async with EventStore.create("memory://") as store:
            ...         account = Account(id="account-1")
            ...         account.deposit(30)
            ...         await store.save(account)
            ...         account = await store.update(Account, "account-1", lambda account: account.deposit(12))
            ...         return account.balance
            >>> asyncio.run(main())
            42
        """
        require_act(act)
        for left in reversed(range(require_attempts(attempts))):
            aggregate = await self.load(aggregate_class, aggregate_id)
            acted = act(aggregate)
            if inspect.isawaitable(acted):
                await acted
            try:
                await self.save(aggregate, metadata=metadata)
            except ConflictError:
                if left == 0:
                    raise
            else:
                return aggregate
        raise AssertionError

    async def load(
        self,
        aggregate_class: type[A],
        aggregate_id: str | UUID,
        *,
        version: int | None = None,
        at: datetime | None = None,
        position: int | None = None,
    ) -> A:
        """The aggregate as its events made it; or as it was, with one of `version`, `at` and `position`.

        Args:
            aggregate_class: its class.
            aggregate_id: its id.
            version: up to and with this version.
            at: before the first event later than this (aware) moment.
            position: up to and with this position of the whole store.

        Raises:
            AggregateNotFoundError: it has no events (up to there).
            AggregateTypeError: the id belongs to an aggregate of another type.
            DeserializationError: an event cannot be applied; none is ever skipped.
        """
        aggregate: A | Pending[A] = self._core.load(aggregate_class, aggregate_id, version, at, position, True)
        return (await aggregate) if isinstance(aggregate, Pending) else aggregate

    async def get(
        self,
        aggregate_class: type[A],
        aggregate_id: str | UUID,
        *,
        version: int | None = None,
        at: datetime | None = None,
        position: int | None = None,
    ) -> A | None:
        """The same as `load`, but `None` where there is no such aggregate."""
        aggregate: A | Pending[A | None] | None = self._core.load(
            aggregate_class, aggregate_id, version, at, position, False
        )
        return (await aggregate) if isinstance(aggregate, Pending) else aggregate

    async def append(
        self,
        aggregate_id: str | UUID,
        events: Iterable[DomainEvent],
        *,
        aggregate_type: str | type[Aggregate],
        expected_version: int | ExpectedVersion = ANY,
        metadata: EventMetadata | None = None,
        timestamp: datetime | None = None,
    ) -> Receipt:
        """Stores events without an aggregate, all or none.

        An event gets its id at its first append and keeps it, so that a cancelled append can be repeated.

        Args:
            aggregate_id: the aggregate that they belong to.
            events: the events, oldest first.
            aggregate_type: the type of the aggregate, or its class.
            expected_version: `ANY` (no conflict is possible), `NO_STREAM`, `STREAM_EXISTS`, or the stream's version.
            metadata: who or what caused them.
            timestamp: when they happened (aware), for imports; the time of the append unless given.

        Raises:
            ConflictError: the stream is not as expected. Nothing was stored.
            EventIdConflictError: an event is stored already, and this append is no repetition of that one.
        """
        receipt: Receipt | Pending[Receipt] = self._core.append(
            aggregate_id, events, aggregate_type, expected_version, metadata, timestamp
        )
        return (await receipt) if isinstance(receipt, Pending) else receipt

    async def append_all(
        self, streams: Iterable[StreamAppend], *, metadata: EventMetadata | None = None
    ) -> list[Receipt]:
        """Stores events of several streams in one atomic append, in the order given; one receipt for each part."""
        receipts: list[Receipt] | Pending[list[Receipt]] = self._core.append_all(streams, metadata)
        return (await receipts) if isinstance(receipts, Pending) else receipts

    async def delete(self, aggregate_id: str | UUID, *, expected_version: int | ExpectedVersion = ANY) -> Receipt:
        """Deletes an aggregate: from now on it has no events. `scavenge` takes its bytes out of the files.

        Its id can be used again by an `append` that expects `NO_STREAM` or `ANY`; versions and type go on where they were. Saving a new
        aggregate under it conflicts, and the error says that it was `deleted`. Deleting it again stores nothing.

        Args:
            aggregate_id: the aggregate.
            expected_version: `ANY`, `STREAM_EXISTS`, or the aggregate's version.

        Raises:
            AggregateNotFoundError: there never was such an aggregate.
            ConflictError: it is not at the expected version, or was deleted at another one. Nothing was stored.
            UnsupportedError: the store is a database, which keeps everything.

        Example:
            >>> import asyncio
            >>> from eventuali import EventStore
            >>> from eventuali.event import UserRegistered
            >>> async def main() -> None:
            ...     async with EventStore.create("memory://") as store:
            ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
            ...         await store.append("user-1", [ada], aggregate_type="User")
            ...         deleted = await store.delete("user-1")
            ...         print(deleted.version, [event async for event in store.read("user-1")])
            ...         print((await store.scavenge()).events)
            >>> asyncio.run(main())
            1 []
            1
        """
        receipt: Receipt | Pending[Receipt] = self._core.delete(aggregate_id, expected_version)
        return (await receipt) if isinstance(receipt, Pending) else receipt

    async def set_retention(
        self,
        aggregate_id: str | UUID,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        truncate_before: int | None = None,
    ) -> Receipt:
        """Sets how many of an aggregate's events are kept, in place of what was set before: reads leave out the others at once.

        What is left out is always the beginning of the stream; its last event stays in any case. What was left out once stays so, also when
        the limits are lifted. `scavenge` takes its bytes out of the files.

        Args:
            aggregate_id: the aggregate.
            max_age: leaves out the leading events that are older than this, by their timestamps; with `timedelta(0)` only the last one stays.
            max_count: leaves all but so many of the newest events out; at least 1.
            truncate_before: leaves out the events before this version.

        Raises:
            AggregateNotFoundError: there is no such aggregate.
            ConfigurationError: a limit cannot be used.
            UnsupportedError: the store is a database, which keeps everything.

        Example:
            >>> import asyncio
            >>> from eventuali import EventStore
            >>> from eventuali.event import UserRegistered
            >>> async def main() -> None:
            ...     async with EventStore.create("memory://") as store:
            ...         for number in range(5):
            ...             ada = UserRegistered(user_id="u-1", email=f"ada{number}@example.org")
            ...             await store.append("user-1", [ada], aggregate_type="User")
            ...         await store.set_retention("user-1", max_count=2)
            ...         print([event.aggregate_version async for event in store.read("user-1")])
            >>> asyncio.run(main())
            [4, 5]
        """
        receipt: Receipt | Pending[Receipt] = self._core.set_retention(
            aggregate_id, max_age, max_count, truncate_before
        )
        return (await receipt) if isinstance(receipt, Pending) else receipt

    async def retention(self, aggregate_id: str | UUID) -> Retention:
        """How many of an aggregate's events are kept: no limits if none were set, as for an id that was never used."""
        retention: Retention | Pending[Retention] = self._core.retention(aggregate_id)
        return (await retention) if isinstance(retention, Pending) else retention

    async def scavenge(self, *, extent: Extent = "everything", progress: Report | None = None) -> ScavengeReport:
        """Takes out of the store's files what was deleted or has passed its limits: see `eventuali.maintenance.scavenge`."""
        return await _maintenance.scavenge(self, extent, progress, blocking=False)

    def read(
        self,
        aggregate_id: str | UUID,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> EventStream:
        """The events of one stream, in the order of their versions or against it; both bounds exclude.

        Each comes as its class, or as `StoredEvent` where that is not known.
        """
        stream: EventStream = self._core.read(aggregate_id, after_version, before_version, limit, backwards)
        return stream

    def read_all(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        event_types: Iterable[str | type[DomainEvent]] | None = None,
        aggregate_types: Iterable[str | type[Aggregate]] | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> EventStream:
        """The events of all streams, in the order of their positions or against it; both bounds exclude.

        It ends at the head at the time of the call. Each event comes as its class, or as `StoredEvent` where that is
        not known; `read_all().batches()` gives lists of `StoredEvent`s, which is the fastest way through many events.

        Example:
            >>> import asyncio
            >>> from eventuali import EventStore
            >>> from eventuali.event import UserRegistered
            >>> async def main() -> list[int]:
            ...     async with EventStore.create("memory://") as store:
            ...         ada = UserRegistered(user_id="u-1", email="ada@example.org")
            ...         await store.append("user-1", [ada], aggregate_type="User")
            ...         return [event.position async for event in store.read_all(event_types=[UserRegistered])]
            >>> asyncio.run(main())
            [1]
        """
        stream: EventStream = self._core.read_all(after, before, event_types, aggregate_types, limit, backwards)
        return stream

    async def head(self) -> int:
        """The position of the last event that reads can see; 0 if there is none."""
        position: int | Pending[int] = self._core.head()
        return (await position) if isinstance(position, Pending) else position

    async def sync(self) -> int:
        """Waits until everything that was visible at the time of the call is on disk; that position."""
        position: int | Pending[int] = self._core.sync()
        return (await position) if isinstance(position, Pending) else position

    async def durable_position(self) -> int:
        """The position up to which nothing can be lost any more, also when the power fails."""
        position: int | Pending[int] = self._core.durable_position()
        return (await position) if isinstance(position, Pending) else position

    def capabilities(self) -> Capabilities:
        """What this store does and promises."""
        return self._core.capabilities()

    @property
    def open_report(self) -> OpenReport | None:
        """What opening found and did: created, closed in order, or recovered. `None` for SQL stores, which have no report."""
        return self._core.open_report

    async def close(self) -> None:
        """Finishes what is under way and releases the store. Closing it again does nothing."""
        done: Pending[None] | None = self._core.close()
        if done is not None:
            await done

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.close()

    @override
    def __repr__(self) -> str:
        return summary("EventStore", self._core)

    def _repr_html_(self) -> str:
        return html_summary("EventStore", self._core)
