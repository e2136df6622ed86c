"""The commands that change what a store keeps, as processes."""

from datetime import timedelta
from pathlib import Path

import pytest

from eventuali import CorruptionError
from eventuali.sync import EventStore, maintenance
from tests.counting import Counted, Counter
from tests.test_command import eventuali as command

SEGMENT = "000000001.g0.seg"


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A closed store of ten events, each appended by itself, alternately to two counters."""
    path = tmp_path / "orders"
    with EventStore.create(path) as store:
        for number in range(10):
            store.append("ab"[number % 2], [Counted(by=number)], aggregate_type=Counter)
    return path


@pytest.fixture
def damaged(orders: Path) -> Path:
    """The same with the payload of position 5 damaged."""
    segment = bytearray((orders / SEGMENT).read_bytes())
    segment[segment.index(b'{"by":4}') + 6] ^= 1
    (orders / SEGMENT).write_bytes(segment)
    return orders


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name != "LOCK"}


def test_an_aggregate_is_deleted_once(orders: Path) -> None:
    conflict = command("delete", orders, "a", "--expected-version", 4)
    assert (conflict.returncode, conflict.stdout) == (1, "")
    assert "version 5" in conflict.stderr
    for _ in range(2):
        deleted = command("delete", orders, "a")
        assert deleted.returncode == 0, deleted.stderr
        assert deleted.stdout.startswith("deleted 'a' at version 5; position 11.")
    with EventStore.create(orders) as store:
        assert (list(store.read("a")), len(list(store.read("b")))) == ([], 5)
    assert command("scavenge", orders).stdout.startswith("took out 5 events of 1 segment")


@pytest.mark.parametrize("arguments", [("delete",), ("set-retention", "--max-count", 1)])
def test_what_is_not_there_is_neither_deleted_nor_limited_nor_made(
    orders: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    name, *how = arguments
    unknown = command(name, orders, "nobody", *how)
    assert (unknown.returncode, "nobody" in unknown.stderr) == (1, True)
    assert command(name, tmp_path / "nothing", "a", *how).returncode == 2
    assert not (tmp_path / "nothing").exists()
    with EventStore.create(orders):
        locked = command(name, orders, "a", *how)
    assert (locked.returncode, "open for writing in process" in locked.stderr) == (1, True)


def test_limits_are_set_and_lifted(orders: Path) -> None:
    limited = command("set-retention", orders, "a", "--max-count", 2, "--max-age", "30d")
    assert limited.returncode == 0, limited.stderr
    assert limited.stdout == (
        "of 'a', which is at version 5, from now on is kept: events that are not older than 30 days, 0:00:00, "
        "the newest 2; and the last event in any case\n"
    )
    with EventStore.create(orders) as store:
        kept = store.retention("a")
        assert (kept.max_age, kept.max_count, len(list(store.read("a")))) == (timedelta(days=30), 2, 2)
    lifted = command("set-retention", orders, "a", "--no-limits")
    assert (lifted.returncode, "everything is kept" in lifted.stdout) == (0, True)
    with EventStore.create(orders) as store:
        assert (store.retention("a").max_count, len(list(store.read("a")))) == (None, 2)


@pytest.mark.parametrize(
    "limits",
    [
        (),
        ("--no-limits", "--max-count", 3),
        ("--max-count", 0),
        ("--max-count", "many"),
        ("--max-age", "30"),
        ("--max-age", "-1d"),
        ("--max-age", "99999999999999w"),
    ],
)
def test_limits_that_cannot_be_used_are_refused(orders: Path, limits: tuple[str, ...]) -> None:
    before = files(orders)
    refused = command("set-retention", orders, "a", *limits)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr
    assert files(orders)[SEGMENT] == before[SEGMENT]


def test_a_manifest_is_rebuilt(orders: Path, tmp_path: Path) -> None:
    (orders / "MANIFEST").write_bytes(b"damaged")
    assert command("check", orders).returncode == 1
    rebuilt = command("rebuild-manifest", orders)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert rebuilt.stdout.startswith("wrote a new MANIFEST for ")
    assert command("check", orders).returncode == 0
    assert [file.read_bytes() for file in (orders / "quarantine").iterdir()] == [b"damaged"]
    assert command("rebuild-manifest", tmp_path / "nothing").returncode == 2
    assert command("rebuild-manifest", "~nobody-of-this-name/orders").returncode == 2
    with EventStore.create(orders):
        assert command("rebuild-manifest", orders).returncode == 1


def test_a_loss_is_accepted_only_by_whoever_names_it_and_confirms_it(damaged: Path) -> None:
    before = files(damaged)
    for arguments in ((), ("--after", 4), ("--give-up-what-follows",), ("--after", 7), ("--after", 0)):
        refused = command("accept-loss", damaged, *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"accept-loss {damaged} --after 4 --give-up-what-follows" in refused.stderr
        assert ("does not fit" in refused.stderr) == (arguments[1:] in {(7,), (0,)})
    wrong = command("accept-loss", damaged, "--after", 5, "--give-up-what-follows")
    assert wrong.returncode == 2
    assert "position 4 are intact" in wrong.stderr
    assert files(damaged) == before
    with pytest.raises(CorruptionError):
        EventStore.create(damaged)
    accepted = command("accept-loss", damaged, "--after", 4, "--give-up-what-follows")
    assert accepted.returncode == 0, accepted.stderr
    assert accepted.stdout.startswith("gave up what followed position 4: ")
    assert list((damaged / "quarantine").iterdir())
    with EventStore.create(damaged) as store:
        assert (store.head(), len(list(store.read("a")))) == (4, 2)
    assert maintenance.verify(damaged).sound


def test_no_loss_is_accepted_of_a_store_that_is_whole(orders: Path, tmp_path: Path) -> None:
    for arguments in ((), ("--after", 4), ("--after", 4, "--give-up-what-follows")):
        refused = command("accept-loss", orders, *arguments)
        assert (refused.returncode, "damaged" in refused.stderr) == (2, True)
    assert command("accept-loss", tmp_path / "nothing", "--after", 4, "--give-up-what-follows").returncode == 2
    assert not (tmp_path / "nothing").exists()
    with EventStore.create(orders) as store:
        assert store.head() == 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("delete", "ADDRESS", "a"),
        ("set-retention", "ADDRESS", "a", "--max-count", 1),
        ("rebuild-manifest", "ADDRESS"),
        ("accept-loss", "ADDRESS"),
        ("scavenge", "ADDRESS"),
        ("compress", "ADDRESS"),
        ("check", "ADDRESS"),
        ("salvage", "ADDRESS", "saved"),
    ],
)
def test_what_is_done_to_files_is_refused_for_databases_by_name(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    for address in (f"sqlite://{tmp_path}/a.db", "postgresql://me:secret@localhost/a", "memory://"):
        refused = command(*[address if argument == "ADDRESS" else argument for argument in arguments])
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "the directory of a store is expected" in refused.stderr
        assert "secret" not in refused.stderr
    assert not list(tmp_path.iterdir())
