"""How a store is opened, where a connection string does not say enough."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal, Self

from typing_extensions import override

from eventuali import _eventuali
from eventuali._places import is_number, require_path, require_url, written
from eventuali.errors import ConfigurationError

__all__ = ["EmbeddedConfig", "EventStoreConfig", "PostgresConfig", "SqlConfig", "SqliteConfig"]

_DEFAULT_INTERVAL_MS = 5
_INTERVAL_MS_MAX = 2**64 - 1
_DURABILITIES = ("sync", "interval", "os")
_SEALED_READS = ("read", "mapped")
_SEGMENTS_MAX = 2**64 - 1
_SEES = ("visible", "durable")


class EventStoreConfig(ABC):
    """Where a store is and how it is to be opened. Every method returns a new config.

    Example:
        >>> EventStoreConfig.embedded("./orders").with_durability("interval", ms=20)
        EmbeddedConfig(path='./orders', durability='interval', interval_ms=20, sealed_reads='read', compress_older_than=None, read_only=None)
        >>> EventStoreConfig.sqlite("events.db").with_table_name("custom_events").with_lock_timeout(ms=500)
        SqliteConfig(path='events.db', table_name='custom_events', lock_timeout_ms=500)
        >>> EventStoreConfig.postgres("postgresql://app:s3cret@host:5432/events").with_max_connections(20)
        PostgresConfig('postgresql://***@host:5432/events', max_connections=20)
    """

    __slots__ = ()

    _kind: ClassVar[str]

    @property
    @abstractmethod
    def _place(self) -> str: ...

    @property
    @abstractmethod
    def _options(self) -> dict[str, object]: ...

    @staticmethod
    def embedded(path: str | os.PathLike[str]) -> "EmbeddedConfig":
        """The embedded engine in a directory; any path is taken as it is, also one that is no connection string.

        Raises:
            ConfigurationError: `path` is a URL.

        Example:
            >>> EventStoreConfig.embedded("orders").path
            'orders'
        """
        return EmbeddedConfig(os.fspath(path) if isinstance(path, os.PathLike) else path)

    @staticmethod
    def sqlite(path: str | os.PathLike[str]) -> "SqliteConfig":
        """A SQLite file, made if it is not there; or `":memory:"`, which is a new store each time it is opened.

        While it is open, look into the file from other processes only: a second SQLite library in this one, such as the
        module `sqlite3`, does not see this one's locks, and loosens them when it closes the file.

        Raises:
            ConfigurationError: `path` is a URL.

        Example:
            >>> from eventuali.sync import EventStore
            >>> with EventStore.create(EventStoreConfig.sqlite(":memory:").with_table_name("audit")) as store:
            ...     store.capabilities()
            <Capabilities sqlite, durability=memory, persistent=False, writable=True>
        """
        return SqliteConfig(os.fspath(path) if isinstance(path, os.PathLike) else path)

    @staticmethod
    def postgres(url: str) -> "PostgresConfig":
        """A Postgres database by its URL: `postgresql://user:password@host:5432/database?sslmode=verify-full`.

        Raises:
            ConfigurationError: it is no such URL; the message shows no password.

        Example:
            >>> EventStoreConfig.postgres("postgresql://app:s3cret@host/events").with_statement_timeout(ms=5000)
            PostgresConfig('postgresql://***@host/events', statement_timeout_ms=5000)
        """
        return PostgresConfig(url)


@dataclass(frozen=True, slots=True)
class EmbeddedConfig(EventStoreConfig):
    """The embedded engine in a directory: made by `EventStoreConfig.embedded`."""

    _kind: ClassVar[str] = "embedded"

    path: str
    """The directory of the embedded store."""

    durability: Literal["sync", "interval", "os"] = "sync"
    """What an acknowledged save has survived."""

    interval_ms: int | None = None
    """With `"interval"`: after how many milliseconds at the latest everything is synced."""

    sealed_reads: Literal["read", "mapped"] = "read"
    """How finished segment files are read."""

    compress_older_than: int | None = None
    """Finished segment files are compressed, but for so many of the newest; `None`: none is."""

    read_only: Literal["visible", "durable"] | None = None
    """What is seen where the store is opened for reading only; `None` where it is opened for writing."""

    def __post_init__(self) -> None:
        require_path(self.path)
        if self.durability not in _DURABILITIES:
            raise ConfigurationError(
                f"there is no durability {self.durability!r}: choose one of {', '.join(map(repr, _DURABILITIES))}"
            )
        if self.sealed_reads not in _SEALED_READS:
            raise ConfigurationError(f"sealed_reads is 'read' or 'mapped', not {self.sealed_reads!r}")
        newest: object = self.compress_older_than
        if newest is not None and (not is_number(newest) or not 0 <= newest <= _SEGMENTS_MAX):
            raise ConfigurationError(
                f"older_than= is None or a whole number of segments from 0 on, up to {_SEGMENTS_MAX}, not {written(newest)}"
            )
        if self.read_only not in (None, *_SEES):
            raise ConfigurationError(f"read_only is 'visible', 'durable' or None, not {self.read_only!r}")
        if self.read_only and self.durability != "sync":
            raise ConfigurationError(
                "durability is for the process that writes; leave it out where a store is opened read_only"
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

    @property
    @override
    def _place(self) -> str:
        return self.path

    @property
    @override
    def _options(self) -> dict[str, object]:
        durability = (self.interval_ms or _DEFAULT_INTERVAL_MS) if self.durability == "interval" else self.durability
        options: dict[str, object] = {
            "durability": durability,
            "sealed_reads": self.sealed_reads,
            "compress_older_than": self.compress_older_than,
        }
        return options | ({"read_only": self.read_only} if self.read_only else {})

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

    def with_sealed_reads(self, sealed_reads: Literal["read", "mapped"]) -> Self:
        """How finished segment files are read. Every event is verified by its checksum either way.

        - `"read"` (the default): by calls of the system. A file that another program cuts, and a disk that fails, raise an error.
        - `"mapped"`: through memory maps, which makes reading everything somewhat faster. Where another program cuts a file,
          or the disk cannot read a page, the system ends the interpreter: no `except` sees it.

        Raises:
            ConfigurationError: there is no such way.

        Example:
            >>> EventStoreConfig.embedded("./orders").with_sealed_reads("mapped").sealed_reads
            'mapped'
        """
        return replace(self, sealed_reads=sealed_reads)

    def with_compression(self, *, older_than: int | None) -> Self:
        """Which finished segment files are compressed while the store is open: all but so many of the newest, or with `None` none.

        A file holds about 64 MiB of events, and a store takes a fraction of that once they are compressed. It is done by a thread that
        gives way to others. Decoding costs time: reading everything is slower where the disk is fast or the files are in memory.
        What does not become smaller stays as it is too.

        Raises:
            ConfigurationError: it is no number of files.

        Example:
            >>> EventStoreConfig.embedded("./orders").with_compression(older_than=4).compress_older_than
            4
        """
        return replace(self, compress_older_than=older_than)

    def with_read_only(self, sees: Literal["visible", "durable"] = "visible") -> Self:
        """Opened for reading only, beside the process that writes to the store, if one does: without a lock, and nothing is changed.

        - `"visible"` (the default): sees what the writer's own readers see. If its durability is `"interval"` or `"os"`, a power failure can
          take back the last of it.
        - `"durable"`: sees only what no power failure can take back.

        Raises:
            ConfigurationError: there is no such choice, or a durability was chosen, which is for the writer.

        Example:
            >>> from eventuali.sync import EventStore
            >>> EventStore.create("./orders").close()
            >>> with EventStore.create(EventStoreConfig.embedded("./orders").with_read_only("durable")) as store:
            ...     store.head(), store.capabilities().writable
            (0, False)
        """
        if sees not in _SEES:
            raise ConfigurationError(f"sees is 'visible' or 'durable', not {sees!r}")
        return replace(self, read_only=sees)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlConfig(EventStoreConfig):
    """What SQL stores have in common. `None` is what fits most programs."""

    table_name: str | None = None
    """The name of the events table."""

    max_connections: int | None = None
    """How many connections there are at most."""

    acquire_timeout_ms: int | None = None
    """How long a read or save waits for a connection, in milliseconds."""

    lock_timeout_ms: int | None = None
    """How long a statement waits for a lock of another process, in milliseconds."""

    def __post_init__(self) -> None:
        _eventuali.check_config(self._place, self._kind, self._options)

    @property
    @override
    def _options(self) -> dict[str, object]:
        return {name.removesuffix("_ms"): value for name, value in self._chosen.items()}

    @property
    def _chosen(self) -> dict[str, object]:
        values = {option.name: getattr(self, option.name) for option in fields(self) if option.kw_only}
        return {name: value for name, value in values.items() if value is not None}

    @override
    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self._chosen.items()]
        return f"{type(self).__name__}({', '.join([self._shown, *options])})"

    @property
    @abstractmethod
    def _shown(self) -> str: ...

    def with_table_name(self, name: str) -> Self:
        """The name of the events table, `events` unless chosen; other tables of the store are named after it.

        Raises:
            ConfigurationError: it is no name of lower-case letters, digits and underscores.

        Example:
            >>> EventStoreConfig.sqlite("events.db").with_table_name("custom_events").table_name
            'custom_events'
        """
        return replace(self, table_name=name)

    def with_max_connections(self, connections: int) -> Self:
        """How many connections there are at most, 10 unless chosen: one writes, the others read.

        Raises:
            ConfigurationError: there must be 2 or more.
        """
        return replace(self, max_connections=connections)

    def with_acquire_timeout(self, *, ms: int) -> Self:
        """How long a read or save waits for a connection, and opening for the server: 30,000 ms unless chosen.

        Raises:
            ConfigurationError: it is not from 1 ms to 24 hours.
        """
        return replace(self, acquire_timeout_ms=ms)

    def with_lock_timeout(self, *, ms: int) -> Self:
        """How long a statement waits for a lock that another process holds, 10,000 ms unless chosen.

        Raises:
            ConfigurationError: it is not from 1 ms to 24 hours.
        """
        return replace(self, lock_timeout_ms=ms)


@dataclass(frozen=True, slots=True, repr=False)
class SqliteConfig(SqlConfig):
    """A SQLite file, or SQLite in memory: made by `EventStoreConfig.sqlite`."""

    _kind: ClassVar[str] = "sqlite"

    path: str
    """The file, or `":memory:"`."""

    synchronous: Literal["full", "normal"] | None = field(default=None, kw_only=True)
    """When SQLite syncs."""

    @property
    @override
    def _place(self) -> str:
        require_path(self.path)
        return self.path

    @property
    @override
    def _shown(self) -> str:
        return f"path={self.path!r}"

    def with_synchronous(self, synchronous: Literal["full", "normal"]) -> Self:
        """When SQLite syncs.

        - `"full"` (the default): at every commit. Nothing acknowledged is lost, also when the power fails.
        - `"normal"`: at checkpoints. A power failure may lose a recent suffix.

        Raises:
            ConfigurationError: there is no such setting, or the store is in memory.

        Example:
            >>> EventStoreConfig.sqlite("events.db").with_synchronous("normal").synchronous
            'normal'
        """
        return replace(self, synchronous=synchronous)


@dataclass(frozen=True, slots=True, repr=False)
class PostgresConfig(SqlConfig):
    """A Postgres database: made by `EventStoreConfig.postgres`."""

    _kind: ClassVar[str] = "postgres"

    url: str
    """Its address. It may hold a password, so no repr and no error shows it as it is."""

    statement_timeout_ms: int | None = field(default=None, kw_only=True)
    """How long a statement may take, in milliseconds."""

    @property
    @override
    def _place(self) -> str:
        return require_url(self.url)

    @property
    @override
    def _shown(self) -> str:
        return repr(_eventuali.check_config(self.url, self._kind, {}))

    def with_statement_timeout(self, *, ms: int) -> Self:
        """How long a statement may take on the server, 60,000 ms unless chosen.

        Raises:
            ConfigurationError: it is not from 1 ms to 24 hours.
        """
        return replace(self, statement_timeout_ms=ms)
