"""How a store is opened, where a connection string does not say enough."""

import os
from dataclasses import dataclass, replace
from typing import Literal, Self

from eventuali._places import is_number, require_path, written
from eventuali.errors import ConfigurationError

__all__ = ["EventStoreConfig"]

_DEFAULT_INTERVAL_MS = 5
_INTERVAL_MS_MAX = 2**64 - 1
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

    def __post_init__(self) -> None:
        require_path(self.path)
        if self.durability not in _DURABILITIES:
            raise ConfigurationError(
                f"there is no durability {self.durability!r}: choose one of {', '.join(map(repr, _DURABILITIES))}"
            )
        interval: object = self.interval_ms
        if interval is None:
            return
        if self.durability != "interval":
            raise ConfigurationError(f"ms= goes with durability 'interval', not with {self.durability!r}")
        if not is_number(interval) or not 1 <= interval <= _INTERVAL_MS_MAX:
            raise ConfigurationError(
                f"ms= is a whole number of milliseconds from 1 on, up to {_INTERVAL_MS_MAX}, not {written(interval)}"
            )

    @classmethod
    def embedded(cls, path: str | os.PathLike[str]) -> Self:
        """The embedded engine in a directory; any path is taken as it is, also one that is no connection string.

        Raises:
            ConfigurationError: `path` is a URL.

        Example:
            >>> EventStoreConfig.embedded("orders").path
            'orders'
        """
        return cls(os.fspath(path) if isinstance(path, os.PathLike) else path)

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
        if durability == "interval" and ms is None:
            ms = _DEFAULT_INTERVAL_MS
        return replace(self, durability=durability, interval_ms=ms)
