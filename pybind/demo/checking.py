"""Compares what is stored with the raw data, line by line and application by application."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from demo.application import LoanApplication
from demo.events import event_of
from demo.source import Row
from eventuali import DomainEvent, EventStore, StoredEvent

DECISIONS = {"A_APPROVED": "approved", "A_DECLINED": "declined", "A_CANCELLED": "cancelled"}


class MismatchError(Exception):
    """What is stored differs from the data: the demo has found a bug."""


@dataclass(slots=True)
class Facts:
    """What the raw data says about one application, found without any event class or store."""

    lines: int
    amount_requested: int | None
    submitted_at: datetime | None
    outcome: str = "still open"
    decided_at: datetime | None = None
    offers_sent: int = 0
    work_done: int = 0
    last_event_at: datetime | None = None


def facts_of(rows: Iterable[Row]) -> dict[str, Facts]:
    """The facts of every application, by its id, in the order of submission."""
    found: dict[str, Facts] = {}
    for row in rows:
        facts = found.get(row.case)
        if facts is None:
            facts = found[row.case] = Facts(0, row.amount_requested, row.at)
        facts.lines += 1
        facts.last_event_at = row.at
        if row.activity in DECISIONS:
            facts.outcome, facts.decided_at = DECISIONS[row.activity], row.at
        facts.offers_sent += row.activity == "O_SENT"
        facts.work_done += row.activity.startswith("W_") and row.lifecycle == "COMPLETE"
    return found


async def replay(store: EventStore, rows: Sequence[Row]) -> AsyncIterator[DomainEvent]:
    """Read all events in order, each compared with its line of the data before it is passed on.

    Raises:
        MismatchError: an event differs from its line, or there are fewer or more.

    """
    position = 0
    async for event in store.read_all():
        position += 1
        yield _equal_to_its_line(event, position, rows)
    if position != len(rows):
        raise MismatchError(f"{position:,} events are stored, but the data has {len(rows):,} lines")


def _equal_to_its_line(event: DomainEvent | StoredEvent, position: int, rows: Sequence[Row]) -> DomainEvent:
    if position > len(rows):
        raise MismatchError(f"there is an event {position:,}, but the data has {len(rows):,} lines")
    row = rows[position - 1]
    if (
        isinstance(event, StoredEvent)
        or event.position != position
        or event.aggregate_id != row.case
        or event.timestamp != row.at
        or event != event_of(row)
    ):
        raise MismatchError(f"event {event.position} is {event!r}, but line {position} of the data is {row}")
    return event


async def rebuild(store: EventStore, facts: dict[str, Facts]) -> AsyncIterator[LoanApplication]:
    """Load every application from its events, each compared with the facts before it is passed on.

    Raises:
        MismatchError: an application's state differs from the facts.

    """
    for case, expected in facts.items():
        application = await store.load(LoanApplication, case)
        actual = Facts(
            lines=application.version,
            amount_requested=application.amount_requested,
            submitted_at=application.submitted_at,
            outcome=application.outcome.value,
            decided_at=application.decided_at,
            offers_sent=application.offers_sent,
            work_done=sum(application.work_done.values()),
            last_event_at=application.last_event_at,
        )
        if actual != expected:
            raise MismatchError(f"application {case} was rebuilt as {actual}, but the data says {expected}")
        yield application
