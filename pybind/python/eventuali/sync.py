"""The event store for plain synchronous code: the same API as `eventuali.EventStore`, `.moving` and `.maintenance`, without `await`."""

import inspect
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

from typing_extensions import override

from eventuali import _maintenance_sync as maintenance
from eventuali._eventuali import Capabilities, EventMetadata, EventStoreCore, OpenReport, Receipt, Retention
from eventuali._eventuali import SyncEventBatches as EventBatches
from eventuali._eventuali import SyncEventStream as EventStream
from eventuali._maintenance import Extent, ScavengeReport
from eventuali._moving import Report
from eventuali._moving_sync import (
    Mirror,
    export,
    export_json_lines,
    import_eventsourcing,
    import_json_lines,
    mirror,
    verify,
)
from eventuali._opening import OpenRequest, Place, core_of, html_summary, require_act, require_attempts, summary
from eventuali.aggregate import Aggregate
from eventuali.errors import ConflictError
from eventuali.event import DomainEvent
from eventuali.expected import ANY, ExpectedVersion
from eventuali.store import StreamAppend

__all__ = [
    "EventBatches",
    "EventStore",
    "EventStream",
    "Mirror",
    "export",
    "export_json_lines",
    "import_eventsourcing",
    "import_json_lines",
    "maintenance",
    "mirror",
    "verify",
]

A = TypeVar("A", bound=Aggregate)


class EventStore:
    """A durable, ordered log of events. Many threads may share one; Ctrl-C interrupts a wait and leaves it usable.

    Opened by `create`. Every method does what the one of the same name of `eventuali.EventStore` does.

    Example:
        >>> from eventuali import Aggregate, DomainEvent
        >>> from eventuali.sync import EventStore
        >>> class Deposited(DomainEvent):
        ...     amount: int
        >>> class Account(Aggregate):
        ...     balance: int = 0
        ...
        ...     def apply_deposited(self, event: Deposited) -> None:
        ...         self.balance += event.amount
        >>> with EventStore.create("memory://") as store:
        ...     account = Account(id="account-1")
        ...     account.apply(Deposited(amount=30))
        ...     print(store.save(account))
        ...     print(store.load(Account, "account-1").balance)
        <Receipt "account-1": 1 event(s), version 1, position 1, memory>
        30
    """

    __slots__ = ("__weakref__", "_core")

    def __init__(self, core: EventStoreCore, /) -> None:
        self._core = core_of(core, "EventStore.create(...)")

    @classmethod
    def create(
        cls,
        store: Place,
        *,
        accept_loss_after: int | None = None,
        read_up_to_damage: bool = False,
        read_only: bool = False,
    ) -> Self:
        """Opens a store, or creates it; `with` closes it in the end."""
        request = OpenRequest.of(store, accept_loss_after, read_up_to_damage=read_up_to_damage, read_only=read_only)
        core = request.open(blocking=True)
        return cls(core_of(core, "EventStore.create(...)"))

    def save(self, aggregate: Aggregate, *, metadata: EventMetadata | None = None) -> Receipt:
        """Stores the aggregate's pending events, all or none, if nobody else has written to it since it was loaded."""
        receipt: Receipt = self._core.save(aggregate, metadata)
        return receipt

    def save_all(self, aggregates: Iterable[Aggregate], *, metadata: EventMetadata | None = None) -> list[Receipt]:
        """Stores the pending events of several aggregates in one atomic append; one receipt for each, in order."""
        receipts: list[Receipt] = self._core.save_all(aggregates, metadata)
        return receipts

    def update(
        self,
        aggregate_class: type[A],
        aggregate_id: str | UUID,
        act: Callable[[A], object],
        *,
        attempts: int = 5,
        metadata: EventMetadata | None = None,
    ) -> A:
        """Loads an aggregate, lets `act` change it, saves it; again from the start after a conflict."""
        require_act(act)
        for left in reversed(range(require_attempts(attempts))):
            aggregate = self.load(aggregate_class, aggregate_id)
            if inspect.isawaitable(acted := act(aggregate)):
                raise TypeError(f"act returned {acted!r}, which nobody would await: eventuali.EventStore does")
            try:
                self.save(aggregate, metadata=metadata)
            except ConflictError:
                if left == 0:
                    raise
            else:
                return aggregate
        raise AssertionError

    def load(
        self,
        aggregate_class: type[A],
        aggregate_id: str | UUID,
        *,
        version: int | None = None,
        at: datetime | None = None,
        position: int | None = None,
    ) -> A:
        """The aggregate as its events made it; or as it was, with one of `version`, `at` and `position`."""
        aggregate: A = self._core.load(aggregate_class, aggregate_id, version, at, position, True)
        return aggregate

    def get(
        self,
        aggregate_class: type[A],
        aggregate_id: str | UUID,
        *,
        version: int | None = None,
        at: datetime | None = None,
        position: int | None = None,
    ) -> A | None:
        """The same as `load`, but `None` where there is no such aggregate."""
        aggregate: A | None = self._core.load(aggregate_class, aggregate_id, version, at, position, False)
        return aggregate

    def append(
        self,
        aggregate_id: str | UUID,
        events: Iterable[DomainEvent],
        *,
        aggregate_type: str | type[Aggregate],
        expected_version: int | ExpectedVersion = ANY,
        metadata: EventMetadata | None = None,
        timestamp: datetime | None = None,
    ) -> Receipt:
        """Stores events without an aggregate, all or none."""
        receipt: Receipt = self._core.append(
            aggregate_id, events, aggregate_type, expected_version, metadata, timestamp
        )
        return receipt

    def append_all(self, streams: Iterable[StreamAppend], *, metadata: EventMetadata | None = None) -> list[Receipt]:
        """Stores events of several streams in one atomic append, in the order given; one receipt for each part."""
        receipts: list[Receipt] = self._core.append_all(streams, metadata)
        return receipts

    def delete(self, aggregate_id: str | UUID, *, expected_version: int | ExpectedVersion = ANY) -> Receipt:
        """Deletes an aggregate: from now on it has no events. `scavenge` takes its bytes out of the files."""
        receipt: Receipt = self._core.delete(aggregate_id, expected_version)
        return receipt

    def set_retention(
        self,
        aggregate_id: str | UUID,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        truncate_before: int | None = None,
    ) -> Receipt:
        """Sets how many of an aggregate's events are kept, in place of what was set before: reads leave out the others at once."""
        receipt: Receipt = self._core.set_retention(aggregate_id, max_age, max_count, truncate_before)
        return receipt

    def retention(self, aggregate_id: str | UUID) -> Retention:
        """How many of an aggregate's events are kept: no limits if none were set."""
        retention: Retention = self._core.retention(aggregate_id)
        return retention

    def scavenge(self, *, extent: Extent = "everything", progress: Report | None = None) -> ScavengeReport:
        """Takes out of the store's files what was deleted or has passed its limits: see `eventuali.maintenance.scavenge`."""
        return maintenance.scavenge(self, extent=extent, progress=progress)

    def read(
        self,
        aggregate_id: str | UUID,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> EventStream:
        """The events of one stream, in the order of their versions or against it; both bounds exclude."""
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
        """The events of all streams, in the order of their positions or against it; both bounds exclude."""
        stream: EventStream = self._core.read_all(after, before, event_types, aggregate_types, limit, backwards)
        return stream

    def head(self) -> int:
        """The position of the last event that reads can see; 0 if there is none."""
        position: int = self._core.head()
        return position

    def sync(self) -> int:
        """Waits until everything that was visible at the time of the call is on disk; that position."""
        position: int = self._core.sync()
        return position

    def durable_position(self) -> int:
        """The position up to which nothing can be lost any more, also when the power fails."""
        position: int = self._core.durable_position()
        return position

    def capabilities(self) -> Capabilities:
        """What this store does and promises."""
        return self._core.capabilities()

    @property
    def open_report(self) -> OpenReport | None:
        """What opening found and did: created, closed in order, or recovered. `None` for SQL stores, which have no report."""
        return self._core.open_report

    def close(self) -> None:
        """Finishes what is under way and releases the store. Closing it again does nothing."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    @override
    def __repr__(self) -> str:
        return summary("sync.EventStore", self._core)

    def _repr_html_(self) -> str:
        return html_summary("sync.EventStore", self._core)
