"""The command line, as a process."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from eventuali.config import PostgresConfig
from eventuali.moving import Moved
from eventuali.sync import EventStore, export
from tests.counting import Counted, Counter, counted

MANY = 60_000


def eventuali(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventuali", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def source(tmp_path: Path) -> str:
    with EventStore.create(tmp_path / "source") as store:
        store.save(counted(3, "a"))
        store.save(counted(2, "b"))
    return f"{tmp_path}/source"


def add(store: str, events: int) -> None:
    with EventStore.create(store) as opened:
        for part in range(0, events, 5_000):
            batch = [Counted(by=1) for _ in range(min(5_000, events - part))]
            opened.append(f"more-{part}", batch, aggregate_type=Counter)


def test_export_moves_verifies_and_says_so(source: str, postgres: PostgresConfig) -> None:
    table = ("--target-table", postgres.table_name)
    first = eventuali("export", source, postgres.url, *table)
    assert first.returncode == 0, first.stderr
    assert "moved 5 events" in first.stdout
    assert "verified 5 events: equal, digest " in first.stdout
    assert "export: 5 of 5 events" in first.stderr
    assert "\r" not in first.stderr
    again = eventuali("export", source, postgres.url, *table)
    assert again.returncode == 0
    assert "moved 0 events" in again.stdout
    assert again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    without = eventuali("export", source, postgres.url, *table, "--no-verify")
    assert (without.returncode, "verified" in without.stdout) == (0, False)
    with EventStore.create(postgres) as moved:
        assert moved.load(Counter, "a").total == 3


def test_verify_tells_equal_from_different(source: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/target.db"
    assert eventuali("export", source, target).returncode == 0
    equal = eventuali("verify", source, target)
    assert (equal.returncode, equal.stderr.count("\n")) == (0, 1)
    add(source, 1)
    different = eventuali("verify", source, target)
    assert different.returncode == 3
    assert "the target lacks the event at position 6" in different.stderr
    assert different.stdout == ""


def test_tables_to_read_are_not_made(source: str, postgres: PostgresConfig, tmp_path: Path) -> None:
    for arguments in (
        ("export", "--source-table", "evnets", postgres.url, f"{tmp_path}/target"),
        ("verify", "--target-table", "evnets", source, postgres.url),
    ):
        for _ in range(2):
            refused = eventuali(*arguments)
            assert refused.returncode == 2
            assert 'there is no store in the table "evnets" of postgresql://' in refused.stderr
    assert not (tmp_path / "target").exists()


def test_lines_that_are_not_there_make_no_target(tmp_path: Path) -> None:
    refused = eventuali("import-json-lines", tmp_path / "lines.jsonl", tmp_path / "target")
    assert (refused.returncode, "No such file" in refused.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_target_with_other_events_is_refused(source: str, tmp_path: Path) -> None:
    with EventStore.create(tmp_path / "other") as other:
        other.save(counted(1, "mine"))
    refused = eventuali("export", source, f"{tmp_path}/other")
    assert refused.returncode == 3
    assert "position 1" in refused.stderr


def test_json_lines_there_and_back(source: str, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    written = eventuali("export-json-lines", source, file)
    assert (written.returncode, written.stdout) == (0, "")
    assert "wrote 5 events" in written.stderr
    printed = eventuali("export-json-lines", source, "-")
    assert printed.stdout == file.read_text(encoding="utf-8")
    assert eventuali("import-json-lines", file, f"{tmp_path}/copy").returncode == 0
    piped = subprocess.run(
        [sys.executable, "-m", "eventuali", "import-json-lines", "-", f"{tmp_path}/piped"],
        input=file.read_bytes(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert piped.returncode == 0
    for copy in ("copy", "piped"):
        assert eventuali("verify", source, tmp_path / copy).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("export",),
        ("export", "./nowhere", "memory://"),
        ("export", "orders", "./target"),
        ("export", "postgresql+asyncpg://ada:s3cret@host/events", "./target"),
        ("export", "./a", "./b", "postgresql://ada:s3cret@host/events"),
        ("postgresql://ada:s3cret@host/events", "./a"),
        ("export", "./a", "postgresql://ada:s3cret@host/events", "--target-table", "Robert'); DROP"),
    ],
)
def test_what_cannot_be_used_is_status_2_and_shows_no_password(arguments: tuple[str, ...], tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "eventuali", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr
    assert "s3cret" not in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_status_1_and_shows_no_password(source: str) -> None:
    refused = eventuali("export", source, "postgresql://ada:s3cret@127.0.0.1:1/events")
    assert refused.returncode == 1
    assert "127.0.0.1" in refused.stderr
    assert "s3cret" not in refused.stderr + refused.stdout


def without_password(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    place = f"{parts.username}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=place)), parts.password or ""


def test_the_password_may_come_from_the_environment_or_from_a_file(
    source: str, postgres: PostgresConfig, tmp_path: Path
) -> None:
    url, password = without_password(postgres.url)
    table = ("--target-table", postgres.table_name)
    assert eventuali("export", source, url, *table, PGPASSWORD=password).returncode == 0
    assert "password authentication failed" in eventuali("verify", source, url, *table).stderr
    file = tmp_path / "pgpass"
    parts = urlsplit(url)
    file.write_text(f"{parts.hostname}:{parts.port}:*:{parts.username}:{password}\n")
    file.chmod(0o600)
    from_file = eventuali("verify", source, url, *table, PGPASSFILE=str(file))
    assert from_file.returncode == 0, from_file.stderr
    assert password not in from_file.stdout + from_file.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_export_goes_on(source: str, postgres: PostgresConfig, number: signal.Signals, status: int) -> None:
    add(source, MANY)
    arguments = ["export", source, postgres.url, "--target-table", str(postgres.table_name)]
    with subprocess.Popen([sys.executable, "-m", "eventuali", *arguments], stderr=subprocess.PIPE, text=True) as moving:
        assert moving.stderr is not None
        assert moving.stderr.readline().startswith("export: ")
        moving.send_signal(number)
        rest = moving.stderr.read()
    assert moving.returncode == status, rest
    assert "run it again" in rest
    with EventStore.create(postgres) as partly:
        head = partly.head()
    assert 0 < head < MANY + 5
    resumed = eventuali(*arguments)
    assert resumed.returncode == 0
    assert f"moved {MANY + 5 - head:,} events" in resumed.stdout


def test_a_mirror_follows_until_it_is_told_to_stop(postgres: PostgresConfig, tmp_path: Path) -> None:
    source = f"sqlite://{tmp_path}/source.db"
    with EventStore.create(source) as store:
        store.save(counted(3, "a"))
        arguments = ["mirror", source, postgres.url, "--target-table", str(postgres.table_name)]
        with subprocess.Popen(
            [sys.executable, "-m", "eventuali", *arguments], stderr=subprocess.PIPE, text=True
        ) as following:
            assert following.stderr is not None
            assert "position 3," in following.stderr.readline()
            store.save(counted(2, "b"))
            assert "position 5," in following.stderr.readline()
            following.terminate()
            assert "stopped" in following.stderr.read()
        assert following.returncode == 143
        assert export(store, postgres) == Moved(events=0, position=5, complete=True)


def test_on_a_terminal_there_is_one_line_that_changes(source: str, tmp_path: Path) -> None:
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "eventuali", "export", source, f"sqlite://{tmp_path}/target.db"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as moving:
        os.close(theirs)
        shown = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                part = os.read(mine, 4096)
            except OSError:  # the other side is closed
                break
            shown += part
        assert moving.wait(60) == 0
    os.close(mine)
    assert b"\rexport: 5 of 5 events" in shown
    assert b"left\x1b[K" in shown


def test_help_says_what_becomes_of_the_target() -> None:
    assert "made if it is not there" in eventuali("export", "--help").stdout
    verifying = eventuali("verify", "--help").stdout
    assert "made if it is not there" not in verifying
    assert "the store that is compared with it" in verifying


def test_help_says_what_a_status_means() -> None:
    for command in ((), ("export",), ("verify",), ("mirror",), ("export-json-lines",), ("import-json-lines",)):
        shown = eventuali(*command, "--help")
        assert shown.returncode == 0
        assert "exit status:" in shown.stdout
        assert "PGPASSWORD" in shown.stdout
