"""The program that gives the tests a Postgres server starts it, lets it fail on purpose, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tools import with_postgres

PROGRAM = Path(with_postgres.__file__).resolve()
URL = "EVENTUALI_TEST_POSTGRES_URL"
CONTROL = "EVENTUALI_TEST_POSTGRES_CONTROL"
# Says where the server is, then waits until it is told to go on.
TELL = f"import os; print(os.environ['{URL}'], os.environ['{CONTROL}'], flush=True); input()"


def environment(**variables: str) -> dict[str, str]:
    """This process's variables without those of the server that these tests may run under."""
    return {**{name: value for name, value in os.environ.items() if name not in {URL, CONTROL}}, **variables}


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Server:
    """A server in use by a command that waits."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, sys.executable, "-c", TELL],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a signal to the group is what Ctrl-C is in a terminal
        )
        assert self.process.stdout is not None
        self.url, control = self.process.stdout.readline().split()
        self.control = Path(control)

    def ask(self, sql: str) -> str:
        """What psql prints of the answer, or of the refusal."""
        psql = Path(run("--find").stdout.strip()) / "psql"
        ran = subprocess.run(
            [psql, "--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, self.url],
            env=environment(LC_ALL="C"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return (ran.stdout + ran.stderr).strip()

    def do(self, action: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self.control, action], capture_output=True, text=True, timeout=120, check=False)

    def go_on(self) -> int:
        """Let the command end, and with it the server."""
        self.process.communicate("\n", timeout=120)
        return self.process.returncode

    def listens(self) -> bool:
        parts = urlsplit(self.url)
        with socket.socket() as tried:
            return tried.connect_ex((parts.hostname, parts.port)) == 0

    def processes(self) -> list[str]:
        """The processes that were started in the server's folder, by their command lines."""
        lines = (path / "cmdline" for path in Path("/proc").glob("[0-9]*"))
        found = []
        for line in lines:
            try:
                words = line.read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.control.parent) in words:
                found.append(words)
        return found

    def left_behind(self) -> list[str]:
        folder = [str(self.control.parent)] if self.control.parent.exists() else []
        return [*folder, *self.processes(), *(["a listener"] if self.listens() else [])]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        server.process.communicate(timeout=120)


def test_the_server_answers_durable_and_in_utf8_and_is_gone_afterwards(server: Server) -> None:
    settings = ("fsync", "synchronous_commit", "max_connections", "server_encoding")
    asked = ", ".join(f"current_setting('{name}')" for name in settings)
    of_this = "FROM pg_database WHERE datname = current_database()"
    assert server.ask(f"SELECT {asked}, datcollate {of_this}") == "on|on|200|UTF8|C"
    assert server.processes() != []
    assert server.go_on() == 0
    assert server.left_behind() == []


def test_the_server_wants_the_password(server: Server) -> None:
    password = urlsplit(server.url).password
    assert password is not None
    server.url = server.url.replace(password, "another")
    assert "password authentication failed" in server.ask("SELECT 1")


@pytest.mark.parametrize("action", ["stop", "kill", "crash"], ids=["cleanly", "at-once", "by-a-crash"])
def test_a_server_that_went_down_in_any_way_comes_back_at_the_same_port_with_what_it_acknowledged(
    server: Server, action: str
) -> None:
    assert server.ask("CREATE TABLE kept AS SELECT 7 AS number") == "SELECT 1"
    assert server.do(action).returncode == 0
    assert not server.listens()
    assert "Connection refused" in server.ask("SELECT 1")
    assert server.do("start").returncode == 0
    assert server.ask("SELECT number FROM kept") == "7"


def test_a_restarted_server_is_another_process(server: Server) -> None:
    before = server.ask("SELECT pg_postmaster_start_time()")
    assert server.do("restart").returncode == 0
    assert server.ask("SELECT pg_postmaster_start_time()") != before


@pytest.mark.parametrize("action", ["stop", "crash"])
def test_a_server_that_is_down_when_the_command_ends_leaves_nothing_behind(server: Server, action: str) -> None:
    assert server.do(action).returncode == 0
    assert server.go_on() == 0
    assert server.left_behind() == []


def test_what_the_control_cannot_do_it_says(server: Server) -> None:
    unknown = server.do("explode")
    assert unknown.returncode == 2
    assert "expected one of start, stop, restart, kill, crash" in unknown.stderr
    started_twice = server.do("start")
    assert started_twice.returncode == 1
    assert "runs already: stop it first" in started_twice.stderr
    assert server.do("stop").returncode == 0
    stopped_twice = server.do("stop")
    assert stopped_twice.returncode == 1
    assert "does not run: start it first" in stopped_twice.stderr


def test_ctrl_c_reaches_the_command_and_ends_the_server(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGINT)
    _, errors = server.process.communicate(timeout=120)
    assert "KeyboardInterrupt" in errors
    assert server.process.returncode == 128 + signal.SIGINT
    assert server.left_behind() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_is_handed_on_and_ends_the_server(server: Server, number: signal.Signals) -> None:
    server.process.send_signal(number)
    server.process.communicate(timeout=120)
    assert server.process.returncode == 128 + number
    assert server.left_behind() == []


def test_the_command_heeds_ctrl_c_even_if_the_tests_were_started_to_ignore_it() -> None:
    heeds = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ignore = f"trap '' INT; exec {sys.executable} {PROGRAM} {sys.executable} -c '{heeds}'"
    ran = subprocess.run(
        ["/bin/sh", "-c", ignore], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_the_commands_status_is_passed_on() -> None:
    assert run("sh", "-c", "exit 7").returncode == 7
    assert run("sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_a_command_that_is_not_there_is_named() -> None:
    ran = run("no-such-command")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "with_postgres.py: cannot run no-such-command: No such file or directory\n"


def test_a_server_from_outside_is_used_as_it_is_and_has_no_control() -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        url = f"postgresql://ada:secret@127.0.0.1:{outside.getsockname()[1]}/orders?sslmode=disable"
        say = f"import os; print(os.environ['{URL}'], os.environ.get('{CONTROL}'))"
        ran = run(sys.executable, "-c", say, **{URL: url, CONTROL: "/of/another/server"})
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{url} None\n", "")


def test_a_server_from_outside_that_does_not_answer_is_named_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
    ran = run("sh", "-c", "exit 0", **{URL: f"postgresql://ada:secret@127.0.0.1:{port}/orders"})
    assert ran.returncode == 1
    assert f"nobody answers at 127.0.0.1:{port}, which {URL} names (Connection refused)" in ran.stderr
    assert "secret" not in ran.stderr


@pytest.mark.parametrize("url", ["postgresql://ada:sec:ret", "mysql://ada:secret@127.0.0.1/", "postgresql://[secret"])
def test_an_address_of_another_form_is_refused_without_being_shown(url: str) -> None:
    ran = run("sh", "-c", "exit 0", **{URL: url})
    assert ran.returncode == 1
    assert "is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in ran.stderr
    assert "sec" not in ran.stderr


def test_a_server_that_does_not_start_shows_the_end_of_its_log() -> None:
    with tempfile.TemporaryDirectory() as folder:
        too_long_for_a_socket = Path(folder) / ("x" * 100)
        too_long_for_a_socket.mkdir()
        Path(folder).chmod(0o755)
        ran = run("sh", "-c", "echo started", TMPDIR=str(too_long_for_a_socket))
        assert list(too_long_for_a_socket.iterdir()) == []
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "`pg_ctl start" in ran.stderr
    assert "The end of the server's log:" in ran.stderr
    assert "is too long" in ran.stderr


def install(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True)
        for name in with_postgres.NEEDED_PROGRAMS:
            (folder / name).touch(mode=0o755)


def test_the_newest_installed_server_is_taken_and_the_wheels_only_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(with_postgres, "USUAL_FOLDERS", (f"{tmp_path.relative_to('/')}/installed/*/bin",))
    monkeypatch.setattr(with_postgres, "UNPACKED_WHEEL", tmp_path / "wheel")
    with pytest.raises(
        with_postgres.PostgresError, match=r"no Postgres server is installed: .* Install Postgres, or set"
    ):
        with_postgres.binaries()
    install(of_wheel := tmp_path / "wheel" / "pgserver" / "pginstall" / "bin")
    assert with_postgres.binaries() == of_wheel
    install(tmp_path / "installed" / "9.6" / "bin", newest := tmp_path / "installed" / "17" / "bin")
    assert with_postgres.binaries() == newest
    (newest / "initdb").unlink()  # what a package of the client alone leaves out
    assert with_postgres.binaries() == tmp_path / "installed" / "9.6" / "bin"
    install(on_path := tmp_path / "nothing")
    assert with_postgres.binaries() == on_path
