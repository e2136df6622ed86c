"""How a store is opened, where a connection string does not say enough."""

import os
from dataclasses import dataclass, replace
from typing import Literal, Self

from eventuali.errors import ConfigurationError

__all__ = ["EventStoreConfig"]

_DEFAULT_INTERVAL_MS = 5
_DURABILITIES = ("sync", "interval", "os")


@dataclass(frozen=True, slots=True)
class EventStoreConfig:
    """Where a store is and what it promises. Every method returns a new config.

    Example:
        >>> config = EventStoreConfig.embedded("./orders").with_durability("interval", ms=20)
        >>> config.durability, config.interval_ms
        ('interval', 20)
    """

    path: str
    """The directory of the embedded store."""

    durability: Literal["sync", "interval", "os"] = "sync"
    """What an acknowledged save has survived."""

    interval_ms: int | None = None
    """With `"interval"`: after how many milliseconds at the latest everything is synced."""

    @classmethod
    def embedded(cls, path: str | os.PathLike[str]) -> Self:
        """The embedded engine in a directory; any path is taken as it is, also one that is no connection string.

        Example:
            >>> EventStoreConfig.embedded("orders").path
            'orders'
        """
        return cls(os.fspath(path))

    def with_durability(self, durability: Literal["sync", "interval", "os"], *, ms: int | None = None) -> Self:
        """What an acknowledged save has survived.

        - `"sync"` (the default): it is on disk. Nothing acknowledged is lost, also when the power fails.
        - `"interval"`: the operating system has it, and syncs it within `ms` milliseconds (5 unless given). A power failure loses at most that.
        - `"os"`: the operating system has it. A power failure may lose a recent suffix.

        Raises:
            ConfigurationError: there is no such durability, or `ms` does not go with it.

        Example:
            >>> EventStoreConfig.embedded("./orders").with_durability("os").durability
            'os'
        """
        if durability not in _DURABILITIES:
            raise ConfigurationError(
                f"there is no durability {durability!r}: choose one of {', '.join(map(repr, _DURABILITIES))}"
            )
        if durability != "interval":
            if ms is not None:
                raise ConfigurationError(f"ms= goes with durability 'interval', not with {durability!r}")
            return replace(self, durability=durability, interval_ms=None)
        interval = _DEFAULT_INTERVAL_MS if ms is None else ms
        if interval < 1:
            raise ConfigurationError(f"ms= is a number of milliseconds from 1 on, not {ms!r}")
        return replace(self, durability=durability, interval_ms=interval)
