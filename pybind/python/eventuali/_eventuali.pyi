from collections.abc import Callable, Generator, Iterable, Mapping
from datetime import datetime, timedelta
from os import PathLike
from types import GenericAlias, MappingProxyType
from typing import Any, Generic, Literal, Protocol, Self, TypeAlias, TypeVar, final
from uuid import UUID

from typing_extensions import override

from eventuali.aggregate import Aggregate
from eventuali.event import DomainEvent
from eventuali.expected import ExpectedVersion
from eventuali.store import StreamAppend

__all__ = [
    "AggregateCore",
    "Capabilities",
    "EventBatches",
    "EventMetadata",
    "EventStoreCore",
    "EventStream",
    "MirrorCore",
    "Move",
    "OpenReport",
    "Pending",
    "Receipt",
    "Retention",
    "StoredEvent",
    "SyncEventBatches",
    "SyncEventStream",
    "check_config",
    "check_moved",
    "classes_changed",
    "close_all",
    "open",
    "rebuild_manifest",
    "replayed_envelope",
    "start_backup",
    "start_check",
    "start_check_eventsourcing",
    "start_compress",
    "start_export",
    "start_export_lines",
    "start_fork",
    "start_import_eventsourcing",
    "start_import_lines",
    "start_mirror",
    "start_salvage",
    "start_scavenge",
    "start_verify",
]

_T_co = TypeVar("_T_co", covariant=True)

class _Awaitable(Protocol[_T_co]):
    def __await__(self) -> Generator[Any, Any, _T_co]: ...

_Durability: TypeAlias = Literal["sync", "interval", "os", "memory"]

@final
class EventMetadata:
    """What is known about an event beside its payload: who caused it, and in which conversation. Ids may be UUIDs.

    Example:
        >>> EventMetadata(user_id="ann", headers={"ip": "::1"})
        EventMetadata(user_id='ann', headers={'ip': '::1'})
    """

    def __new__(
        cls,
        *,
        causation_id: str | UUID | None = None,
        correlation_id: str | UUID | None = None,
        user_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self: ...
    @property
    def causation_id(self) -> str | None:
        """The id of the message that caused the event."""
    @property
    def correlation_id(self) -> str | None:
        """The id of the conversation that the event belongs to."""
    @property
    def user_id(self) -> str | None:
        """Who did it."""
    @property
    def headers(self) -> MappingProxyType[str, str]:
        """Anything else, by name."""
    @override
    def __eq__(self, other: object, /) -> bool: ...
    @override
    def __ne__(self, other: object, /) -> bool: ...
    @override
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...

@final
class StoredEvent:
    """A stored event whose class is not known, or was not asked for: the envelope, and the payload as it is stored.

    Each part is decoded when it is asked for.
    """

    @property
    def event_type(self) -> str:
        """The type under which it is stored."""
    @property
    def event_version(self) -> int:
        """The version of its payload's schema."""
    @property
    def event_id(self) -> UUID:
        """Its id, unique in the store."""
    @property
    def aggregate_id(self) -> str:
        """The aggregate that it belongs to."""
    @property
    def aggregate_type(self) -> str:
        """The type of that aggregate."""
    @property
    def aggregate_version(self) -> int:
        """Its place within its aggregate: 1, 2, 3, and so on."""
    @property
    def timestamp(self) -> datetime:
        """When it happened: aware, in UTC."""
    @property
    def position(self) -> int:
        """Its place in the whole store: 1, 2, 3, and so on."""
    @property
    def metadata(self) -> EventMetadata:
        """Causation, correlation, user and headers."""
    @property
    def tags(self) -> list[str]:
        """The labels by which it can be found."""
    @property
    def payload(self) -> bytes:
        """The payload's bytes, exactly as they were appended."""
    @property
    def data(self) -> Any:
        """The payload as Python values; of an event of a class, a dict.

        Raises:
            TypeError: If it is Protobuf, not JSON.
        """
    @override
    def __eq__(self, other: object, /) -> bool: ...
    @override
    def __ne__(self, other: object, /) -> bool: ...
    @override
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...
    @staticmethod
    def _restore(state: dict[str, Any]) -> StoredEvent: ...

@final
class AggregateCore:
    """What an aggregate is to the store. `Aggregate` shows what of it is for users."""

    def __new__(cls, class_: type[Aggregate], id: str | UUID | None = None) -> Self: ...
    @property
    def id(self) -> str:
        """Its id."""
    @property
    def version(self) -> int:
        """How many events it has, pending ones included."""
    @property
    def pending_events(self) -> tuple[DomainEvent, ...]:
        """The events that were applied and not yet saved."""
    def apply(self, aggregate: Aggregate, event: DomainEvent) -> None:
        """Applies an event to the aggregate whose core this is."""
    def copy(self) -> AggregateCore:
        """A core of its own with the same events."""
    def state(self) -> tuple[str, int, tuple[DomainEvent, ...], int, EventMetadata | None]:
        """What is pickled of it."""
    @staticmethod
    def restore(
        class_: type[Aggregate], state: tuple[str, int, Iterable[DomainEvent], int, EventMetadata | None]
    ) -> AggregateCore:
        """The core of which that is the state."""

def classes_changed() -> None:
    """Forgets what was found out about classes of events and aggregates."""

def replayed_envelope(event: DomainEvent) -> StoredEvent | None:
    """The envelope of an event whose handler runs while its aggregate is loaded."""

@final
class Receipt:
    """What became of a save or append to one stream."""

    @property
    def aggregate_id(self) -> str:
        """The aggregate."""
    @property
    def position(self) -> int:
        """The position of the last of these events; where there were none, the head of the store."""
    @property
    def version(self) -> int:
        """The aggregate's version with these events."""
    @property
    def events(self) -> int:
        """How many events it was."""
    @property
    def durability(self) -> _Durability:
        """What the acknowledgement means."""
    @override
    def __eq__(self, other: object, /) -> bool: ...
    @override
    def __ne__(self, other: object, /) -> bool: ...

@final
class Capabilities:
    """What a store does and promises."""

    @property
    def backend(self) -> str:
        """The backend's name: `"embedded"`, `"sqlite"` or `"postgres"`."""
    @property
    def durability(self) -> _Durability | None:
        """What an acknowledged save has survived.

        `None` where nothing can be saved, as in a store that is opened for reading only: what its writer promises is not known.
        """
    @property
    def persistent(self) -> bool:
        """Whether events outlive the process."""
    @property
    def writable(self) -> bool:
        """Whether appends are accepted."""
    @property
    def exact_json(self) -> bool:
        """Whether a payload comes back byte for byte; if not, with other white space and another order of keys."""
    @property
    def retention(self) -> bool:
        """Whether aggregates can be deleted and their events limited."""
    @override
    def __eq__(self, other: object, /) -> bool: ...
    @override
    def __ne__(self, other: object, /) -> bool: ...

@final
class Retention:
    """How many of an aggregate's events are kept: all that every limit lets stand, and the last one in any case."""

    def __new__(
        cls, *, max_age: timedelta | None = None, max_count: int | None = None, truncate_before: int | None = None
    ) -> Self: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...
    @property
    def max_age(self) -> timedelta | None:
        """How old the leading events may be."""
    @property
    def max_count(self) -> int | None:
        """How many of the newest events are kept at most."""
    @property
    def truncate_before(self) -> int | None:
        """The version from which on events are kept."""
    @override
    def __eq__(self, other: object, /) -> bool: ...
    @override
    def __ne__(self, other: object, /) -> bool: ...
    @override
    def __hash__(self) -> int: ...

@final
class OpenReport:
    """What opening a store found and did."""

    @property
    def outcome(self) -> Literal["created", "clean", "recovered", "loss_accepted", "damaged", "read_only"]:
        """In what state the store was; with `"read_only"` nothing was looked at that its writer has not made visible."""
    @property
    def head(self) -> int:
        """The position of the last event."""
    @property
    def rewritten_bytes(self) -> int:
        """How many bytes were written again and synced, because nothing proved that they were on disk."""
    @property
    def cut_bytes(self) -> int:
        """With `"recovered"`: how many bytes, which nobody was promised, went to `quarantine/`."""
    @property
    def cut_frames(self) -> int:
        """With `"recovered"`: how many whole appends among them were not part of the log any more."""
    @property
    def last_good_position(self) -> int | None:
        """With `"loss_accepted"` and `"damaged"`: the last event before the damage."""
    @property
    def damage(self) -> str | None:
        """With `"damaged"`: what is damaged, and where."""
    @override
    def __eq__(self, other: object, /) -> bool: ...
    @override
    def __ne__(self, other: object, /) -> bool: ...

@final
class EventStream:
    """Events as they come: `async for event in stream`. Leaving it early leaks nothing."""

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> _Awaitable[DomainEvent | StoredEvent]: ...
    def __aenter__(self) -> _Awaitable[Self]: ...
    def __aexit__(self, *_exception: object) -> _Awaitable[None]: ...
    def aclose(self) -> _Awaitable[None]:
        """Ends the stream; what was read ahead is let go."""
    def batches(self) -> EventBatches:
        """The rest of the stream as lists of stored events, undecoded: the fastest way through many events."""

@final
class EventBatches:
    """Lists of stored events: `async for events in stream.batches()`."""

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> _Awaitable[list[StoredEvent]]: ...
    def __aenter__(self) -> _Awaitable[Self]: ...
    def __aexit__(self, *_exception: object) -> _Awaitable[None]: ...
    def aclose(self) -> _Awaitable[None]:
        """Ends the stream; what was read ahead is let go."""

@final
class SyncEventStream:
    """Events as they come: `for event in stream`. Leaving it early leaks nothing."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> DomainEvent | StoredEvent: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...
    def close(self) -> None:
        """Ends the stream; what was read ahead is let go."""
    def batches(self) -> SyncEventBatches:
        """The rest of the stream as lists of stored events, undecoded: the fastest way through many events."""

@final
class SyncEventBatches:
    """Lists of stored events: `for events in stream.batches()`."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> list[StoredEvent]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...
    def close(self) -> None:
        """Ends the stream; what was read ahead is let go."""

@final
class Pending(Generic[_T_co]):
    """An operation that needs the event loop, to be awaited."""

    @classmethod
    def __class_getitem__(cls, answer: Any) -> GenericAlias: ...
    def __await__(self) -> Generator[Any, Any, _T_co]: ...
    def __next__(self) -> Any: ...

@final
class EventStoreCore:
    """The core behind both `EventStore` classes.

    For asyncio its methods answer at once where they need not wait, else with a `Pending`.
    """

    def save(self, aggregate: Aggregate, metadata: EventMetadata | None) -> Any: ...
    def save_all(self, aggregates: Iterable[Aggregate], metadata: EventMetadata | None) -> Any: ...
    def append(
        self,
        aggregate_id: str | UUID,
        events: Iterable[DomainEvent],
        aggregate_type: str | type[Aggregate],
        expected_version: int | ExpectedVersion,
        metadata: EventMetadata | None,
        timestamp: datetime | None,
    ) -> Any: ...
    def append_all(self, streams: Iterable[StreamAppend], metadata: EventMetadata | None) -> Any: ...
    def load(
        self,
        aggregate_class: type[Aggregate],
        aggregate_id: str | UUID,
        version: int | None,
        at: datetime | None,
        position: int | None,
        missing_is_error: bool,
    ) -> Any: ...
    def read(
        self,
        aggregate_id: str | UUID,
        after_version: int,
        before_version: int | None,
        limit: int | None,
        backwards: bool,
    ) -> Any: ...
    def read_all(
        self,
        after: int,
        before: int | None,
        event_types: Iterable[str | type[DomainEvent]] | None,
        aggregate_types: Iterable[str | type[Aggregate]] | None,
        limit: int | None,
        backwards: bool,
    ) -> Any: ...
    def delete(self, aggregate_id: str | UUID, expected_version: int | ExpectedVersion) -> Any: ...
    def set_retention(
        self,
        aggregate_id: str | UUID,
        max_age: timedelta | None,
        max_count: int | None,
        truncate_before: int | None,
    ) -> Any: ...
    def retention(self, aggregate_id: str | UUID) -> Any: ...
    def head(self) -> Any: ...
    def sync(self) -> Any: ...
    def durable_position(self) -> Any: ...
    def capabilities(self) -> Capabilities: ...
    def close(self) -> Any: ...
    @property
    def open_report(self) -> OpenReport | None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def place(self) -> str: ...

def open(
    place: str | PathLike[str],
    kind: str | None,
    options: dict[str, object],
    *,
    accept_loss_after: int | None,
    read_up_to_damage: bool,
    read_only: bool,
    existing: bool,
    blocking: bool,
) -> Any: ...
def check_config(place: str | PathLike[str], kind: str, options: dict[str, object]) -> str: ...
def rebuild_manifest(path: str | PathLike[str]) -> None: ...
def close_all() -> None: ...

@final
class Move:
    """Events under way from one store to another, or being compared or checked, in a thread of its own."""

    def next(self) -> Any:
        """How far it is next; nothing when it has ended. For asyncio perhaps a `Pending`."""
    def outcome(self) -> tuple[Any, ...]:
        """What became of it, once `next` has given nothing; raises what ended it."""
    def stop(self) -> None:
        """Has it end after the transaction under way."""

@final
class MirrorCore:
    """The core behind both `Mirror` classes."""

    def status(self) -> tuple[Any, ...]: ...
    def stop(self) -> Any: ...

def check_moved(place: str | PathLike[str], kind: str | None, options: dict[str, object]) -> None:
    """Refuses the name of a store that cannot be meant."""

def start_export(source: EventStoreCore, target: EventStoreCore, blocking: bool) -> Move: ...
def start_verify(source: EventStoreCore, target: EventStoreCore, blocking: bool) -> Move: ...
def start_export_lines(source: EventStoreCore, write: Callable[[bytes], object], blocking: bool) -> Move: ...
def start_import_lines(read: Callable[[int], bytes], target: EventStoreCore, blocking: bool) -> Move: ...
def start_check_eventsourcing(address: str, table: str | None, blocking: bool) -> Move: ...
def start_import_eventsourcing(address: str, table: str | None, target: EventStoreCore, blocking: bool) -> Move: ...
def start_backup(store: EventStoreCore, target: str | PathLike[str], blocking: bool) -> Move: ...
def start_fork(store: EventStoreCore, target: str | PathLike[str], at: int | None, blocking: bool) -> Move: ...
def start_check(path: str | PathLike[str], blocking: bool) -> Move: ...
def start_salvage(path: str | PathLike[str], target: str | PathLike[str], blocking: bool) -> Move: ...
def start_compress(store: EventStoreCore, blocking: bool) -> Move: ...
def start_scavenge(store: EventStoreCore, extent: str, blocking: bool) -> Move: ...
def start_mirror(source: EventStoreCore, target: EventStoreCore, blocking: bool) -> Any: ...
