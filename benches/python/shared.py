"""What `figures.py` and `rivals.py` share: what is measured with, and how it is shown."""

from eventuali import Aggregate, DomainEvent

LOADED = 1000
"""How many events an aggregate has that is loaded."""


class Counted(DomainEvent):
    """A small event."""

    by: int
    label: str


class Counter(Aggregate):
    """A small aggregate."""

    total: int = 0

    def apply_counted(self, event: Counted) -> None:
        """Counts."""
        self.total += event.by


def show(what: str, value: str, goal: str = "", beside: str = "") -> None:
    """One line of the table."""
    print(f"{what:<52} {value:>14}   {goal:<23} {beside}", flush=True)
