"""Every error of this package. Facts are attributes; each error pickles and copies.

```
EventualiError
├── ConflictError                 another writer was first (also named OptimisticConcurrencyError)
├── AggregateNotFoundError        (LookupError) there are no events under this id
├── AggregateTypeError            the id belongs to an aggregate of another type
├── AggregateUsageError           an aggregate was used in a way that cannot work
│   ├── MissingHandlerError       no method of the aggregate takes this event
│   ├── ReentrantApplyError       a handler called apply
│   ├── FieldNotSetError          (AttributeError) a field was read before an event set it
│   └── UndeclaredFieldError      (AttributeError) a handler set something that is not a field
├── EventUsageError               an event was used in a way that cannot work
│   ├── EnvelopeError             (AttributeError) the event does not have this part of its envelope yet
│   └── EventOwnedError           the event already belongs to an aggregate
├── DefinitionError               (TypeError) an event class, aggregate class or handler cannot be defined like this
├── SerializationError            an event cannot be turned into bytes that read back equal
├── DeserializationError          a stored event cannot be turned into its class
│   ├── AmbiguousEventError       several classes claim this stored event
│   └── ReplayError               a handler raised while an aggregate was loaded
├── EventIdConflictError          the event id is known with other content
├── LimitExceededError            something is larger than the store accepts
├── InvalidNameError              (ValueError) an id, type, tenant or tag cannot be used
├── ConfigurationError            (ValueError) a connection string, path or option cannot be used
├── ForkPositionError             (ValueError) the store cannot be forked at this position
├── DivergedError                 the target of a move holds events that its source does not have
├── UnsupportedError              this store or build cannot do that
├── StoreClosedError              the store was closed
├── StoreUnavailableError         a database cannot be reached, is held by another process or did not answer in time
├── DatabaseError                 a database refused a statement
├── StoreLockedError              another process writes to the store
├── ForkedProcessError            the store was opened before this process was forked off
├── OutcomeUnknownError           the append may be stored or not; repeat it
├── StorePoisonedError            the writer stopped after a failed write or sync
├── StorageFullError              there is no room for this append
├── StorageError                  (OSError) the operating system refused an operation
├── CorruptionError               what is on disk is damaged
├── HistoryReplacedError          a store read beside its writer lost events that were read
└── FormatVersionError            the files or tables were made by a release with another format
```
"""

import inspect
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from typing_extensions import override

__all__ = [
    "AggregateNotFoundError",
    "AggregateTypeError",
    "AggregateUsageError",
    "AmbiguousEventError",
    "ConfigurationError",
    "ConflictError",
    "CorruptionError",
    "DatabaseError",
    "DefinitionError",
    "DeserializationError",
    "DivergedError",
    "EnvelopeError",
    "EventIdConflictError",
    "EventOwnedError",
    "EventUsageError",
    "EventualiError",
    "FieldNotSetError",
    "ForkPositionError",
    "ForkedProcessError",
    "FormatVersionError",
    "HistoryReplacedError",
    "InvalidNameError",
    "LimitExceededError",
    "MissingHandlerError",
    "OptimisticConcurrencyError",
    "OutcomeUnknownError",
    "ReentrantApplyError",
    "ReplayError",
    "SerializationError",
    "StorageError",
    "StorageFullError",
    "StoreClosedError",
    "StoreLockedError",
    "StorePoisonedError",
    "StoreUnavailableError",
    "UndeclaredFieldError",
    "UnsupportedError",
]


def _rebuild(cls: type["EventualiError"], message: str, attributes: dict[str, object]) -> "EventualiError":
    error = cls.__new__(cls)
    error.args = (message,)
    error.__dict__.update(attributes)
    return error


class EventualiError(Exception):
    """Something that this package was asked to do and did not do.

    Every fact that a subclass declares is an attribute, `None` where it is not known.

    Example:
        >>> error = ConflictError("too late", aggregate_id="order-1", expected_version=3, actual_version=4)
        >>> error.actual_version, str(error)
        (4, 'too late')
    """

    _facts: ClassVar[frozenset[str]] = frozenset()

    @override
    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls._facts = cls._facts | inspect.get_annotations(cls).keys()

    def __init__(self, message: str = "", /, **facts: object) -> None:
        super().__init__(message)
        unknown = facts.keys() - self._facts
        if unknown:
            raise TypeError(f"{type(self).__name__} has no fact named {', '.join(sorted(unknown))}")
        self.__dict__.update(dict.fromkeys(self._facts) | facts)

    @property
    def message(self) -> str:
        """What happened, where, and what to do next."""
        return str(self.args[0]) if self.args else ""

    @override
    def __str__(self) -> str:
        return self.message

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, dict(self.__dict__))


class ConflictError(EventualiError):
    """Another writer was first: the aggregate is not at the expected version.

    Nothing was stored: load it again, decide again, save again. Where it was `deleted`, its id can be used again by an append that expects
    `NO_STREAM` or `ANY`.
    """

    aggregate_id: str
    """The aggregate whose version differs."""

    expected_version: int | str
    """The version the writer expected, or `"no stream"`, `"an existing stream"`."""

    actual_version: int
    """The version it has; 0 if it never had events."""

    deleted: bool = False
    """Whether it was deleted, at that version, and nothing was appended to it since."""


OptimisticConcurrencyError = ConflictError
"""The other name of `ConflictError`."""


class AggregateNotFoundError(EventualiError, LookupError):
    """The aggregate has no events in this store, or was deleted (or had none up to the version, position or time that was asked for)."""

    aggregate_id: str
    """The aggregate that was asked for."""

    first_position: int | None
    """With `version=`, `at=` or `position=`, where it exists, but nothing of it is kept that is as old: the position of its first event."""

    first_timestamp: datetime | None
    """The time of that event."""


class AggregateTypeError(EventualiError):
    """The id belongs to an aggregate of another type. An id is unique in its tenant, whatever the type."""

    aggregate_id: str
    """The aggregate whose type differs."""

    stored_type: str
    """The type its first event was stored with."""

    requested_type: str
    """The type of this request."""


class AggregateUsageError(EventualiError):
    """An aggregate was used in a way that cannot work."""

    aggregate_id: str | None
    """The aggregate."""

    aggregate_type: str | None
    """Its type."""


class MissingHandlerError(AggregateUsageError):
    """No method of the aggregate takes this event. The message names the method to write."""

    event_type: str
    """The type of the event."""

    method: str
    """The name of the method to write."""

    position: int | None
    """Where the event is stored; `None` while it is being applied."""


class ReentrantApplyError(AggregateUsageError):
    """A handler called `apply`. Handlers only record what an event says; command methods apply events."""


class FieldNotSetError(AggregateUsageError, AttributeError):
    """A field without a default was read before an event has set it."""

    field: str
    """The field."""


class UndeclaredFieldError(AggregateUsageError, AttributeError):
    """A handler set something that is not a field of the aggregate. The state is as before."""

    field: str
    """What it set."""


class EventUsageError(EventualiError):
    """An event was used in a way that cannot work."""

    event_type: str | None
    """The type of the event."""


class EnvelopeError(EventUsageError, AttributeError):
    """The event does not have this part of its envelope yet: it was not applied, or not stored."""

    attribute: str
    """The part that was asked for, such as `position`."""


class EventOwnedError(EventUsageError):
    """The event already belongs to an aggregate. `event.model_copy()` gives a new event with the same payload."""

    aggregate_id: str
    """The aggregate it belongs to."""


class DefinitionError(EventualiError, TypeError):
    """A class of events, an aggregate class or a handler cannot be defined like this."""

    field: str | None
    """The field or method that is in the way, if one is."""


class SerializationError(EventualiError):
    """An event cannot be turned into bytes that read back equal. Nothing was applied or stored."""

    event_type: str | None
    """The type of the event."""

    field: str | None
    """The field in question, if one could be found."""


class DeserializationError(EventualiError):
    """A stored event cannot be turned back into its class."""

    position: int | None
    """Where it is stored."""

    event_type: str | None
    """Its type."""


class AmbiguousEventError(DeserializationError):
    """Several classes claim this stored event; the message names them and the cure."""

    classes: tuple[str, ...]
    """The classes, by module and name."""


class ReplayError(DeserializationError):
    """A handler raised while an aggregate was loaded; its exception is the `__cause__`."""

    aggregate_id: str
    """The aggregate that was being loaded."""


class EventIdConflictError(EventualiError):
    """The event id is in the store with other content, or stands twice in one append."""

    event_id: UUID
    """The id in question."""


class LimitExceededError(EventualiError):
    """Something is larger than the store accepts. Nothing was stored."""

    what: str
    """What is too large, with its unit."""

    actual: int
    """How large it is."""

    limit: int
    """How large it may be."""


class InvalidNameError(EventualiError, ValueError):
    """An id, type, tenant, tag or text of the metadata cannot be used."""

    what: str
    """Which name."""

    value: str
    """The name, cut to its first 64 characters."""


class ConfigurationError(EventualiError, ValueError):
    """A connection string, path or option cannot be used. Nothing was created."""


class DivergedError(EventualiError):
    """The target of an export, mirror or import holds events that its source does not have. Nothing was written there."""

    target: str
    """The store that events were to be moved to, without secrets."""

    position: int
    """Where the two part."""

    reason: str
    """What the target has there."""


class ForkPositionError(EventualiError, ValueError):
    """The store cannot be forked at this position. Nothing was made."""

    path: str
    """The directory of the store."""

    position: int
    """Where it was to be forked."""

    reason: str
    """What is wrong with it."""

    before: int | None
    """The nearest position before it where it can be forked."""

    after: int | None
    """The nearest position behind it where it can be forked."""


class UnsupportedError(EventualiError):
    """This store or build cannot do what was asked."""


class StoreClosedError(EventualiError):
    """The store was closed; open it again."""


class StoreLockedError(EventualiError):
    """Another process writes to this store."""

    path: str
    """The directory of the store."""

    pid: int | None
    """The process that holds the lock, as it wrote it down."""

    holder: str
    """The holder in words: host and start time."""


class StoreUnavailableError(EventualiError):
    """A database server cannot be reached or did not answer in time. Nothing of this request was stored; try again."""

    store: str
    """The address of the database, without secrets."""

    reason: str
    """What was waited for, and what happened instead."""


class DatabaseError(EventualiError):
    """A database refused a statement. Nothing of this request was stored."""

    store: str
    """The address of the database, without secrets."""

    code: str | None
    """The database's own code: five characters of the SQL standard for Postgres, a number for SQLite."""


class ForkedProcessError(EventualiError):
    """The store was opened before this process was forked off. Open it again in the child."""


class OutcomeUnknownError(EventualiError):
    """A write or sync failed meanwhile: the append may be stored or not. Open the store again and repeat it."""

    cause: str
    """What failed."""


class StorePoisonedError(EventualiError):
    """An earlier write or sync failed and the writer stopped. Nothing of this request was stored; reads go on."""

    cause: str
    """The first failure."""


class StorageFullError(EventualiError):
    """There is no room for this append. Nothing of it was stored; free space and retry."""

    path: str
    """The directory of the store, or its address without secrets."""

    needed_bytes: int | None
    """How much was asked for; `None` where a database does not tell."""


class StorageError(EventualiError, OSError):
    """The operating system refused an operation."""

    path: str
    """On which file or directory."""

    operation: str
    """What was tried, as a verb."""


class CorruptionError(EventualiError):
    """What is on disk is damaged. Nothing was changed; the message names the ways out."""

    path: str
    """The damaged file."""

    segment: int
    """The segment's number; 0 where the damage is not in a segment."""

    offset: int
    """Where in the file the damage begins, in bytes."""

    last_good_position: int
    """The last event before the damage."""

    next_good_position: int | None
    """The first whole event after the damage."""


class HistoryReplacedError(EventualiError):
    """A store that is read beside its writer lost events that were read from it, and their positions are given to others.

    A power failure or the repair of damage took them. What was durable when it was read is not concerned. Open the store again, and forget what
    was read behind the last position that was durable.
    """

    path: str
    """The directory of the store."""

    position: int
    """The last event that could be read; some up to there are lost."""

    reason: str
    """How that showed."""


class FormatVersionError(EventualiError):
    """The files or tables were made by a release with another format."""

    path: str
    """The file that was read, or the address of the database without secrets."""

    found: int
    """The version it was written with."""

    supported: int
    """The newest version that this release knows."""
