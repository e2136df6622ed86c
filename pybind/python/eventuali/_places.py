"""What may be shown of the place of a store, and what is no path of a directory."""

import os
import re
from pathlib import Path

from typing_extensions import TypeIs

from eventuali.errors import ConfigurationError

_KNOWN = r"postgres\w*|postgre|pgsql|psql|pg|sqlite3?|mysql|mariadb|mssql|redis|mongodb|eventuali|memory|https?"

# A Windows drive is a single letter, so a scheme has more.
_URL_IN_PATH = re.compile(
    r"://"
    r"|(?:^|[/\\])\s*[a-z][a-z0-9+._-]+:[/\\\s]"  # a scheme, of whose slashes pathlib may have left one
    rf"|(?:^|[/\\])\s*(?:{_KNOWN})(?:\+\w+)?:"  # a scheme that forgot its slashes
    r"|(?:^|[/\\])[^/\\]*:[^/\\]*@",  # user:password@host
    re.IGNORECASE,
)
_BITS_WRITTEN_MAX = 1024
_WITHOUT_SECRETS = re.compile(r"memory://|(?:eventuali|sqlite)://[\w./%~-]*", re.ASCII | re.IGNORECASE)
_BEGINS_AS_URL = re.compile(rf"[a-z][a-z0-9+.-]+://|(?:{_KNOWN})(?:\+\w+)?:", re.ASCII | re.IGNORECASE)
_MAY_BE_SECRET = re.compile(r"[:@=?&;#\s]")


def is_spelled_as_path(place: str) -> bool:
    """Whether a connection string names a directory by its path, not by a URL or a bare word."""
    return place.startswith(("/", ".", "~", "\\"))


def shown(place: str, *, is_path: bool) -> str:
    """A place without what may hold a password: a path or a bare word is shown, and of a URL its scheme."""
    if is_path or is_spelled_as_path(place) or _WITHOUT_SECRETS.fullmatch(place):
        return place
    if begins := _BEGINS_AS_URL.match(place):
        return f"{begins[0]}…"
    return "…" if _MAY_BE_SECRET.search(place) else place


def names_database(place: str) -> bool:
    """Whether it begins as the URL of something else than a directory."""
    begins = _BEGINS_AS_URL.match(place)
    return begins is not None and not begins[0].lower().startswith("eventuali:")


def require_path(path: object) -> None:
    """A path that the system can have, and that is no connection string: it may hold a password, and is not shown."""
    if not isinstance(path, str):
        raise TypeError(f"the path of a store is a str or an os.PathLike of str, not {type(path).__name__}")
    if _URL_IN_PATH.search(path):
        raise ConfigurationError(
            "the path of a store was expected, and this one looks like a connection string (not shown, because it "
            "may hold a password): pass a connection string to EventStore.create as a string, beginning with its scheme"
        )
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{path!r} is no path that a store can have: it has a surrogate character that stands for nothing; "
            "a name that is not UTF-8 is decoded with os.fsdecode"
        ) from None


def expanded(path: str) -> str:
    """A path with a home directory in place of `~` or `~user`, if it begins so."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise ConfigurationError(
            f"{path!r} begins with a home directory that cannot be told: there is no such user here; "
            "for a directory of that name write it as ./~…"
        ) from None


def require_url(url: object) -> str:
    """What may be the URL of a database. It may hold a password, and is not shown."""
    if not isinstance(url, str):
        raise TypeError(f"the URL of a database is a str, not {type(url).__name__}")
    try:
        url.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            "the URL of a database has characters that are not UTF-8 (not shown, because it may hold a password); "
            "write them as %XX"
        ) from None
    return url


def is_number(value: object) -> TypeIs[int]:
    """Whether it is a whole number: `True` is none, although Python counts with it."""
    return isinstance(value, int) and not isinstance(value, bool)


def written(value: object) -> str:
    """A value for a message: Python does not write out numbers of thousands of digits."""
    return (
        f"one of {value.bit_length()} bits"
        if is_number(value) and value.bit_length() > _BITS_WRITTEN_MAX
        else repr(value)
    )
