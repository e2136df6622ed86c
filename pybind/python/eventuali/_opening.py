"""What both `EventStore` classes share around the core."""

import html
import os
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from eventuali import _eventuali
from eventuali._eventuali import EventStoreCore, Pending
from eventuali._places import expanded, is_number, is_spelled_as_path, require_path, shown, written
from eventuali.config import EventStoreConfig
from eventuali.errors import ConfigurationError

Place: TypeAlias = str | os.PathLike[str] | EventStoreConfig
"""What names a store: a connection string, a path, or a config."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Where a store is, and how it is to be opened."""

    place: str = field(repr=False)
    kind: str | None
    """The kind of a config; `None` for a connection string."""
    options: dict[str, object]
    accept_loss_after: int | None
    read_up_to_damage: bool
    read_only: bool = False
    existing: bool = False
    """Whether none is made where there is none."""

    @classmethod
    def of(
        cls,
        store: Place,
        accept_loss_after: int | None = None,
        *,
        read_up_to_damage: bool = False,
        read_only: bool = False,
    ) -> "OpenRequest":
        """The request for a connection string, a path or a config."""
        kind: str | None
        if isinstance(store, EventStoreConfig):
            place, kind, options = store._place, store._kind, store._options  # noqa: SLF001
        elif isinstance(store, str | os.PathLike):
            place, options = os.fsdecode(store), {}
            kind = None if isinstance(store, str) else "embedded"
            if kind or is_spelled_as_path(place):
                require_path(place)
        else:
            raise TypeError(
                "a store is named by a connection string, a path or an EventStoreConfig, "
                f"such as 'memory://' or './orders', not by {type(store).__name__}"
            )
        if kind and place.startswith("~"):
            place = expanded(place)
        return cls(place, kind, options, accept_loss_after, read_up_to_damage, read_only)

    def beside_its_writer(self) -> "OpenRequest":
        """The same, for reading only, where another process writes."""
        return replace(self, read_only=True)

    @property
    def shown(self) -> str:
        """The place without what may hold a password."""
        return shown(self.place, is_path=self.kind in ("embedded", "sqlite"))

    def open(self, *, blocking: bool) -> EventStoreCore | Pending[EventStoreCore]:
        """The core of the store; without `blocking` perhaps what is to be awaited for it."""
        core: EventStoreCore | Pending[EventStoreCore] = _eventuali.open(
            self.place,
            self.kind,
            self.options,
            accept_loss_after=self.accept_loss_after,
            read_up_to_damage=self.read_up_to_damage,
            read_only=self.read_only,
            existing=self.existing,
            blocking=blocking,
        )
        return core


def core_of(core: EventStoreCore | Pending[EventStoreCore], instead: str) -> EventStoreCore:
    """The core, for a class that is not to be called with anything else."""
    if not isinstance(core, EventStoreCore):
        raise TypeError(f"open a store with `{instead}`")
    return core


def require_attempts(attempts: object) -> int:
    """How often an update is tried."""
    if not is_number(attempts):
        raise TypeError(f"attempts is a number, not {type(attempts).__name__}")
    if attempts < 1:
        raise ConfigurationError(f"attempts is a number from 1 on, not {written(attempts)}")
    return attempts


def require_act(act: object) -> None:
    """What an update does with the aggregate."""
    if not callable(act):
        raise TypeError(f"act is a function that takes the aggregate, not {type(act).__name__}")


def summary(name: str, core: EventStoreCore) -> str:
    """A store in one line."""
    if core.closed:
        return f"<{name} {core.place}, closed>"
    return f"<{name} {core.place}, {core.capabilities().durability or 'only read'}, open>"


def html_summary(name: str, core: EventStoreCore) -> str:
    """A store as a small table, for notebooks."""
    capabilities, report = core.capabilities(), core.open_report
    rows = {
        "store": core.place,
        "state": "closed" if core.closed else "open",
        "backend": capabilities.backend,
        "durability": "" if core.closed else capabilities.durability or "only read",
        "writable": capabilities.writable,
    }
    if report is not None:
        rows["opened"] = f"{report.outcome}, at position {report.head}"
    cells = "".join(f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in rows.items())
    return f"<table><caption>{name}</caption>{cells}</table>"
