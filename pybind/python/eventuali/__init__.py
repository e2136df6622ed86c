"""Eventuali: an event store you import.

A durable, ordered log of events with optimistic concurrency, in your process: no server.

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
    ...         account = Account()
    ...         account.apply(Deposited(amount=30))
    ...         await store.save(account)
    ...         return (await store.load(Account, account.id)).balance
    >>> asyncio.run(main())
    30
"""

from eventuali.aggregate import Aggregate, handles
from eventuali.config import EventStoreConfig
from eventuali.errors import (
    AggregateNotFoundError,
    AggregateTypeError,
    AggregateUsageError,
    AmbiguousEventError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    DatabaseError,
    DefinitionError,
    DeserializationError,
    DivergedError,
    EnvelopeError,
    EventIdConflictError,
    EventOwnedError,
    EventualiError,
    EventUsageError,
    FieldNotSetError,
    ForkedProcessError,
    ForkPositionError,
    FormatVersionError,
    HistoryReplacedError,
    InvalidNameError,
    LimitExceededError,
    MissingHandlerError,
    OptimisticConcurrencyError,
    OutcomeUnknownError,
    ReentrantApplyError,
    ReplayError,
    SerializationError,
    StorageError,
    StorageFullError,
    StoreClosedError,
    StoreLockedError,
    StorePoisonedError,
    StoreUnavailableError,
    UndeclaredFieldError,
    UnsupportedError,
)
from eventuali.event import DomainEvent, Event, EventMetadata, StoredEvent, Value
from eventuali.expected import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion
from eventuali.store import (
    Capabilities,
    EventBatches,
    EventStore,
    EventStream,
    OpenReport,
    Receipt,
    Retention,
    StreamAppend,
    rebuild_manifest,
)

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Aggregate",
    "AggregateNotFoundError",
    "AggregateTypeError",
    "AggregateUsageError",
    "AmbiguousEventError",
    "Capabilities",
    "ConfigurationError",
    "ConflictError",
    "CorruptionError",
    "DatabaseError",
    "DefinitionError",
    "DeserializationError",
    "DivergedError",
    "DomainEvent",
    "EnvelopeError",
    "Event",
    "EventBatches",
    "EventIdConflictError",
    "EventMetadata",
    "EventOwnedError",
    "EventStore",
    "EventStoreConfig",
    "EventStream",
    "EventUsageError",
    "EventualiError",
    "ExpectedVersion",
    "FieldNotSetError",
    "ForkPositionError",
    "ForkedProcessError",
    "FormatVersionError",
    "HistoryReplacedError",
    "InvalidNameError",
    "LimitExceededError",
    "MissingHandlerError",
    "OpenReport",
    "OptimisticConcurrencyError",
    "OutcomeUnknownError",
    "Receipt",
    "ReentrantApplyError",
    "ReplayError",
    "Retention",
    "SerializationError",
    "StorageError",
    "StorageFullError",
    "StoreClosedError",
    "StoreLockedError",
    "StorePoisonedError",
    "StoreUnavailableError",
    "StoredEvent",
    "StreamAppend",
    "UndeclaredFieldError",
    "UnsupportedError",
    "Value",
    "handles",
    "rebuild_manifest",
]
