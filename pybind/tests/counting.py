"""A small domain for tests: counters that count."""

import pickle
import sys
from pathlib import Path

from eventuali import Aggregate, DomainEvent, EventStore, EventStoreConfig, OpenReport, sync


class Counted(DomainEvent):
    by: int


class Renamed(DomainEvent):
    name: str


class Counter(Aggregate):
    total: int = 0
    name: str = ""

    def count(self, by: int = 1) -> None:
        self.apply(Counted(by=by))

    def rename(self, name: str) -> None:
        self.apply(Renamed(name=name))

    def apply_counted(self, event: Counted) -> None:
        self.total += event.by

    def apply_renamed(self, event: Renamed) -> None:
        self.name = event.name


class Lamp(Aggregate):
    """Another type, which cannot count."""

    switched: int = 0

    def apply_renamed(self, _event: Renamed) -> None:
        self.switched += 1


def counted(times: int, aggregate_id: str | None = None) -> Counter:
    """A counter that has counted so often, not saved yet."""
    counter = Counter() if aggregate_id is None else Counter(id=aggregate_id)
    for _ in range(times):
        counter.count()
    return counter


def report_of(store: EventStore | sync.EventStore) -> OpenReport:
    """What opening found, which only embedded stores say."""
    assert store.open_report is not None
    return store.open_report


def given() -> str | Path | EventStoreConfig:
    """The place that a test hands over to a script, as its first argument."""
    place: str | Path | EventStoreConfig = pickle.loads(bytes.fromhex(sys.argv[1]))  # noqa: S301
    return place
