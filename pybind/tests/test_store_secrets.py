"""What may be a password is shown nowhere: in no repr, no error, no traceback."""

import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventuali import ConfigurationError, EventStore, EventStoreConfig, EventualiError
from eventuali.sync import EventStore as SyncEventStore

MARKER = "hunter2"

SCHEMES = st.sampled_from(
    ["postgresql", "postgres", "PostgreSQL", "postgresql+asyncpg", "sqlite", "mysql", "redis", "eventuali", "memory"]
)
SEPARATORS = st.sampled_from(["://", ":/", ":", ":///", "://\n", ":\n", ":\\\\"])
USERS = st.sampled_from(
    ["", "app", "app:", "app:x", ":", "app:a/b", "app:a?b", "app:a#b", "app:a@b", "app:a\nb", "app;"]
)
BEHIND = st.sampled_from(
    [
        "@host/db",
        "@host:5432/db",
        "@/db",
        "@",
        "\n@host/db",
        "/@host",
        "@host/db\n",
        "@host/db?sslmode=require",
        "%40@host",
    ]
)
OPTIONS = st.sampled_from(
    [
        "host/db?password=",
        "host/db;password=",
        "host/db?user=app&password=",
        "host/db\npassword=",
        "host/db #password=",
        "?password=",
    ]
)
CREDENTIALS = st.one_of(
    st.builds(lambda user, behind: f"{user}{MARKER}{behind}", USERS, BEHIND),
    st.builds(lambda options, end: f"{options}{MARKER}{end}", OPTIONS, st.sampled_from(["", "@", "&x=1", "\n", "/"])),
    st.builds(lambda user: f"app:{user}{MARKER}", st.sampled_from(["", "x/", "x?", "x;"])),
)
URLS = st.builds(
    lambda before, scheme, separator, rest: f"{before}{scheme}{separator}{rest}",
    st.sampled_from(["", "./", "../", "/nowhere/at/all/", "~/", " "]),
    SCHEMES,
    SEPARATORS,
    CREDENTIALS,
)
BARE = st.sampled_from(
    [
        f"app:{MARKER}@host/db",
        f"{MARKER}@host",
        f"host=h password={MARKER}",
        f"//app:{MARKER}@host/db",
        f"host;{MARKER}",
        f"postgresql//app:{MARKER}@host",
    ]
)


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is not refused, against expectation, is created where it is removed again."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("here")
        patch.chdir(directory)
        patch.setenv("HOME", str(directory))
        yield


@given(st.one_of(BARE, URLS, URLS.map(Path)))
@example(f"postgresql://{MARKER}%40@host")
@example(f"eventuali:///{MARKER}@host/db")
@example(f"eventuali:///host/db;password={MARKER}")
@example(f"eventuali:///app:{MARKER}")
@example(f"postgresql://host/db;password={MARKER}")
@example(f"sqlite://{MARKER}@host/db")
def test_no_repr_and_no_error_shows_what_may_be_a_password(place: str | Path) -> None:
    for shown in everything_shown_of(place):
        assert MARKER not in shown


@given(URLS)
def test_a_config_shows_no_password_either(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EventStoreConfig.embedded(url)
    for shown in all_of(caught.value):
        assert MARKER not in shown


def all_of(error: EventualiError) -> list[str]:
    return [repr(error), str(error), "".join(traceback.format_exception(error))]


def everything_shown_of(place: Any) -> list[str]:
    """What one may see of a place that names no store which could be opened."""
    shown: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            opening = EventStore.create(place)
        except EventualiError as error:
            shown.extend(all_of(error))
        else:
            shown.extend([repr(opening), str(opening)])
            del opening
    shown.extend(str(warning.message) for warning in warned)
    with pytest.raises(EventualiError) as caught:
        SyncEventStore.create(place)
    return shown + all_of(caught.value)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("memory://", "memory://"),
        ("./orders", "./orders"),
        ("orders", "orders"),
        ("/srv/data of 2024/orders", "/srv/data of 2024/orders"),
        (Path("orders/eu"), "orders/eu"),
        ("eventuali:///var/lib/orders", "eventuali:///var/lib/orders"),
        ("sqlite://events.db", "sqlite://events.db"),
        ("postgresql://host/db", "postgresql://…"),
        ("postgresql:/host/db", "postgresql:…"),
    ],
)
@pytest.mark.filterwarnings("ignore:the store is not open yet")
def test_what_is_no_secret_is_shown(place: Any, shown: str) -> None:
    assert repr(EventStore.create(place)) == f"<EventStore.create({shown!r}), to be awaited>"


@pytest.mark.parametrize(
    "place", ["./postgresql://app@host/db", Path("postgresql://app@host/db"), Path("//app:x@host/db")]
)
def test_a_path_that_is_a_url_inside_is_refused_with_what_was_meant(place: Any) -> None:
    with pytest.raises(ConfigurationError, match="as a string"):
        EventStore.create(place)
    with pytest.raises(ConfigurationError, match="connection string"):
        EventStoreConfig.embedded(place)
