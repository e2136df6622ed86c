"""Runs a command with a Postgres server to test against: `with_postgres.py COMMAND...`.

The command finds the server's address in `EVENTUALI_TEST_POSTGRES_URL`. Where that is set already the server it names is used
and left as it is. Else a throwaway server is started from installed binaries and removed when the command has ended, and
`EVENTUALI_TEST_POSTGRES_CONTROL` names a program for faults on purpose, which takes one word: see `ACTIONS`.
"""

import argparse
import base64
import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import pwd
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

URL = "EVENTUALI_TEST_POSTGRES_URL"
CONTROL = "EVENTUALI_TEST_POSTGRES_CONTROL"

# Where `make` unpacks the wheel that brings Postgres along, if the system has none.
UNPACKED_WHEEL = Path(sys.prefix) / "postgres"
# The places where Linux distributions keep the programs of a server, which need not be in the PATH.
USUAL_FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
NEEDED_PROGRAMS = ("initdb", "pg_ctl", "postgres")

DEADLINE_S = 60
# How long a command that was told to end may take to do so.
GRACE_S = 20
# Below the ports that systems hand to clients: one of those could be taken while the server is down.
PORTS = range(10_000, 30_000)
LOG_LINES = 30

SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 200
shared_buffers = '128MB'
dynamic_shared_memory_type = mmap
fsync = on
"""


class PostgresError(Exception):
    """There is no server to test against; the message says why, and what to do."""


def binaries() -> Path:
    """The folder of the Postgres programs to use: installed ones, the newest first, else those of the wheel."""
    candidates: list[Path] = []
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        candidates += [Path(asked.stdout.strip())] if asked.returncode == 0 else []
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).parent)
    usual = [folder for pattern in USUAL_FOLDERS for folder in Path("/").glob(pattern)]
    candidates += sorted(usual, key=_major_version, reverse=True)
    candidates.append(UNPACKED_WHEEL / "pgserver" / "pginstall" / "bin")
    for folder in candidates:
        if all(os.access(folder / name, os.X_OK) for name in NEEDED_PROGRAMS):
            return folder
    raise PostgresError(
        f"no Postgres server is installed: none of {[str(folder) for folder in candidates]} has {', '.join(NEEDED_PROGRAMS)}. "
        f"Install Postgres, or set {URL} to the address of a server that tests may write to"
    )


def _major_version(folder: Path) -> int:
    digits = "".join(character for character in folder.parent.name if character.isdecimal() or character == ".")
    return int(digits.split(".")[0] or 0)


def account() -> pwd.struct_passwd | None:
    """Who runs the server: nobody but the caller, unless that is root, as whom it refuses to run."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresError(
        "Postgres does not run as root, and there is neither a user postgres nor nobody: run as another user"
    )


@dataclass(frozen=True)
class Cluster:
    """A throwaway server in a folder of its own. Every process of it inherits the lock on the file `alive`."""

    folder: Path
    binaries: Path

    @property
    def data(self) -> Path:
        """What initdb made."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.folder / "log"

    @property
    def process_file(self) -> Path:
        """The number of the server's first process; it stays behind after a crash."""
        return self.data / "postmaster.pid"

    def create(self, port: int, password: str) -> None:
        """Make an empty cluster, whose one user has this password."""
        password_file = self.folder / "password"
        password_file.write_text(_verifier(password), encoding="utf-8")
        self._hand_over(self.folder, password_file)
        self._run(
            *("initdb", "--pgdata", self.data, "--username", "eventuali", "--pwfile", password_file, "--no-sync"),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
        )
        password_file.unlink()
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as settings:
            settings.write(SETTINGS.format(port=port, folder=str(self.folder).replace("'", "''")))

    def start(self) -> None:
        """Start the server, which takes connections when this returns."""
        if self.runs():
            raise PostgresError(f"the server in {self.folder} runs already: stop it first")
        with self._when_no_process_is_left() as alive:
            # After a crash these name a dead process, whose number is taken until its parent has asked after it.
            for left in (self.process_file, *self.folder.glob(".s.PGSQL.*.lock")):
                left.unlink(missing_ok=True)
            pg_ctl = ("pg_ctl", "start", "--wait", "--pgdata", self.data, "--log", self.log)
            self._run(*pg_ctl, "--timeout", DEADLINE_S, inherited=alive)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` ends it cleanly, `immediate` leaves it to recover when it starts again."""
        self._expect_running()
        pg_ctl = ("pg_ctl", "stop", "--wait", "--pgdata", self.data, "--mode", mode)
        self._run(*pg_ctl, "--timeout", DEADLINE_S)
        with self._when_no_process_is_left():
            return

    def kill(self) -> None:
        """Have every process of the server quit where it is."""
        self.stop("immediate")

    def restart(self) -> None:
        """Stop the server cleanly and start it on the same port."""
        self.stop()
        self.start()

    def crash(self) -> None:
        """Kill the server's first process, which no process can prevent; the others end when they miss it."""
        self._expect_running()
        first_line = self.process_file.read_text(encoding="utf-8").partition("\n")[0]
        os.kill(int(first_line), signal.SIGKILL)
        with self._when_no_process_is_left():
            return

    def end(self) -> None:
        """Leave no process and no shared memory behind."""
        if not self.runs() and self.process_file.exists():
            self.start()  # it crashed: only a server that starts finds what shared memory it left
        if self.runs():
            self.kill()

    def runs(self) -> bool:
        """Whether any process of the server is there."""
        with self._lock_file() as alive:
            return not _locked(alive)

    def _expect_running(self) -> None:
        if not self.runs():
            raise PostgresError(f"the server in {self.folder} does not run: start it first")

    @contextlib.contextmanager
    def _when_no_process_is_left(self) -> Generator[int, None, None]:
        deadline = time.monotonic() + DEADLINE_S
        with self._lock_file() as alive:
            while not _locked(alive):
                if time.monotonic() > deadline:
                    raise PostgresError(
                        f"processes of the server in {self.folder} are still there after {DEADLINE_S} s"
                    )
                time.sleep(0.01)
            yield alive

    @contextlib.contextmanager
    def _lock_file(self) -> Generator[int, None, None]:
        alive = os.open(self.folder / "alive", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield alive
        finally:
            os.close(alive)

    def _hand_over(self, *paths: Path) -> None:
        if owner := account():
            for path in paths:
                os.chown(path, owner.pw_uid, owner.pw_gid)

    def _run(self, program: str, *arguments: object, inherited: int | None = None) -> None:
        owner = account()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        ran = subprocess.run(
            [self.binaries / program, *map(str, arguments)],
            cwd=self.folder,
            env={**environment, "LC_ALL": "C"},
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
            start_new_session=True,  # Ctrl-C is for the command: the server outlives it
            pass_fds=[] if inherited is None else [inherited],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            command = " ".join([program, *map(str, arguments)])
            raise PostgresError(
                f"`{command}` failed with status {ran.returncode}:\n{ran.stdout}{self._end_of_log()}".rstrip()
            )

    def _end_of_log(self) -> str:
        if not self.log.exists():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(["The end of the server's log:", *lines[-LOG_LINES:]])


ACTIONS = {
    "start": Cluster.start,
    "stop": Cluster.stop,
    "restart": Cluster.restart,
    "kill": Cluster.kill,
    "crash": Cluster.crash,
}


def _verifier(password: str) -> str:
    """What the server keeps of a password: hashed once and not 4096 times, which every connection of every test would do.

    Nobody guesses a random password, however fast the guesses are tried.
    """
    salt, iterations = secrets.token_bytes(16), 1
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key, server_key = (hmac.digest(salted, key, "sha256") for key in (b"Client Key", b"Server Key"))
    kept = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client_key).digest(), server_key)]
    return f"SCRAM-SHA-256${iterations}:{kept[0]}${kept[1]}:{kept[2]}"


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


def free_port() -> int:
    """A port that nobody listens at."""
    for port in random.sample(PORTS, k=1000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise PostgresError(f"1000 ports of 127.0.0.1 between {PORTS.start} and {PORTS.stop} are all taken")


def check_listens(url: str) -> None:
    """Raise unless somebody listens where the URL says; no message shows the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port or 5432
    except ValueError:
        scheme, host, port = "", None, 0
    if scheme not in {"postgres", "postgresql"} or host is None:
        raise PostgresError(f"{URL} is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise PostgresError(
            f"nobody answers at {host}:{port}, which {URL} names ({error.strerror or error}). "
            f"Start that server, or unset {URL} to test against a throwaway one"
        ) from None


@contextlib.contextmanager
def throwaway_server() -> Generator[dict[str, str], None, None]:
    """Start a server, give the variables that lead to it, and remove every trace of it in the end."""
    with tempfile.TemporaryDirectory(prefix="eventuali-postgres-") as name:
        folder = Path(name)
        cluster = Cluster(folder, _reachable(binaries(), folder))
        port, password = free_port(), secrets.token_hex(16)
        cluster.create(port, password)
        control = folder / "control"
        program = shlex.join(
            [sys.executable, str(Path(__file__).resolve()), "--control", str(folder), str(cluster.binaries)]
        )
        control.write_text(f'#!/bin/sh\nexec {program} "$@"\n', encoding="utf-8")
        control.chmod(0o700)
        try:
            cluster.start()
            yield {URL: f"postgresql://eventuali:{password}@127.0.0.1:{port}/postgres", CONTROL: str(control)}
        finally:
            cluster.end()


def _reachable(programs: Path, folder: Path) -> Path:
    """The programs where the server's account may reach them: root's virtual environment is not such a place."""
    if account() is None or not programs.is_relative_to(UNPACKED_WHEEL):
        return programs
    copied = folder / "installed"
    shutil.copytree(UNPACKED_WHEEL, copied, symlinks=True)
    return copied / programs.relative_to(UNPACKED_WHEEL)


class Signals:
    """Notes what this program is told, so that it ends in order, and hands it on to the command."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.command: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Not ignored even if whoever started this ignores them: the command would inherit that.
            signal.signal(number, self._receive)
        signal.signal(signal.SIGALRM, self._lose_patience)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        signal.alarm(GRACE_S)
        if self.command is not None and number != signal.SIGINT:  # a terminal sends Ctrl-C to the command too
            self.command.send_signal(number)

    def _lose_patience(self, _number: int, _frame: FrameType | None) -> None:
        if self.command is not None:
            self.command.kill()


def run(command: Sequence[str], variables: Mapping[str, str], signals: Signals) -> int:
    """Run the command to its end and return its status, as a shell counts it."""
    environment = {name: value for name, value in os.environ.items() if name not in {URL, CONTROL}}
    if signals.received is not None:
        return 128 + signals.received
    try:
        signals.command = subprocess.Popen(command, env={**environment, **variables})
    except OSError as error:
        raise PostgresError(f"cannot run {command[0]}: {error.strerror}") from None
    status = signals.command.wait()
    signals.command = None
    return status if status >= 0 else 128 - status


def main() -> int:
    """Run the command with a server; or do what the other options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--find", action="store_true", help="print the folder of the Postgres programs that would be used"
    )
    other.add_argument(
        "--control", nargs=2, metavar=("FOLDER", "BINARIES"), help="let the server in FOLDER start, stop, …"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command and its arguments")
    options = parser.parse_args()
    try:
        if options.find:
            print(binaries())
            return 0
        if options.control:
            folder, programs = map(Path, options.control)
            if len(options.command) != 1 or options.command[0] not in ACTIONS:
                parser.error(f"expected one of {', '.join(ACTIONS)}; found {options.command}")
            ACTIONS[options.command[0]](Cluster(folder, programs))
            return 0
        if not options.command:
            parser.error("expected a command to run")
        signals = Signals()
        if url := os.environ.get(URL):
            check_listens(url)
            return run(options.command, {URL: url}, signals)
        with throwaway_server() as variables:
            return run(options.command, variables, signals)
    except PostgresError as error:
        print(f"with_postgres.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
