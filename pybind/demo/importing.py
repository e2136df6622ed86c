"""Stores the data's events, and goes on where an earlier run ended, however it ended."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

from demo.events import event_of
from demo.source import Row
from eventuali import EventStore, StreamAppend

EVENTS_PER_APPEND = 1000


class OtherDataError(Exception):
    """The store holds something else than the beginning of the data."""


async def import_rows(
    store: EventStore,
    rows: Sequence[Row],
    *,
    acknowledged: Callable[[int], None],
    events_per_append: int = EVENTS_PER_APPEND,
) -> int:
    """Store every row that is not stored yet, in order, and return how many that were.

    Line n of the data becomes the event at position n. Positions have no gaps and an append is stored whole or not at
    all, so the head of the log says where to go on: nothing before it is missing, and nothing is stored twice. The
    expected versions would turn a second importer down. `acknowledged` hears how many lines are stored so far.

    Raises:
        OtherDataError: the store holds something else.

    """
    stored = await store.head()
    await _check_last(store, rows, stored)
    versions = Counter(row.case for row in rows[:stored])
    acknowledged(stored)
    for start in range(stored, len(rows), events_per_append):
        batch = rows[start : start + events_per_append]
        await store.append_all(_stream_appends(batch, versions))
        acknowledged(start + len(batch))
    return len(rows) - stored


def _stream_appends(batch: Sequence[Row], versions: Counter[str]) -> list[StreamAppend]:
    """Neighbouring lines of one application go together; `versions` counts what each application has got."""
    appends: list[StreamAppend] = []
    for case, run in groupby(batch, key=lambda row: row.case):
        lines = list(run)
        appends.append(
            StreamAppend(
                case,
                [event_of(row) for row in lines],
                aggregate_type="LoanApplication",
                expected_version=versions[case],
                timestamps=[row.at for row in lines],
            )
        )
        versions[case] += len(lines)
    return appends


async def _check_last(store: EventStore, rows: Sequence[Row], stored: int) -> None:
    """One look at the last event tells other data apart; the check after the import reads every one."""
    if stored == 0:
        return
    if stored > len(rows):
        raise OtherDataError(f"it holds {stored:,} events, but the data has {len(rows):,}")
    row = rows[stored - 1]
    async for event in store.read_all(after=stored - 1):
        if (event.aggregate_id, event.timestamp) != (row.case, row.at):
            raise OtherDataError(
                f"its event {stored:,} belongs to {event.aggregate_id} at {event.timestamp}, "
                f"but line {stored:,} of the data to {row.case} at {row.at}"
            )
