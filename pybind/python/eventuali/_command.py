"""Moving history and looking after stores from the command line."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import NoReturn, TextIO

from typing_extensions import override

from eventuali import _command_keeping
from eventuali._maintenance import Damage, KeptRange, LostRange
from eventuali._moving import MirrorStatus, Moved, Progress, Verified, lines_read_from, request_for
from eventuali._opening import OpenRequest, core_of
from eventuali._places import names_database
from eventuali.errors import ConfigurationError, DivergedError, EventualiError, ForkPositionError, StoreLockedError
from eventuali.sync import (
    EventStore,
    export,
    export_json_lines,
    import_eventsourcing,
    import_json_lines,
    maintenance,
    mirror,
    verify,
)

_FAILED, _UNUSABLE, _DIFFERENT = 1, 2, 3
_EPILOG = """
SOURCE and TARGET name stores: ./orders (a directory), sqlite://events.db, postgresql://user@host:5432/database.
A password need not stand on the command line: Postgres takes it from PGPASSWORD or from ~/.pgpass too.

exit status:
  0    everything was moved, and is equal (verify: is equal)
  1    it could not be finished, and the message says why; run it again to go on from there
  2    the arguments cannot be used, or not with this server; nothing was done
  3    the stores differ: the target holds other events, or verifying found a difference
  130  stopped by Ctrl-C after a whole transaction; run it again to go on from there
  143  the same, by SIGTERM
"""
_FILES_EPILOG = """
These are directories of stores: ./orders.

exit status:
  0    it was done (check: nothing is damaged; salvage: nothing is lost)
  1    it could not be done, or not to the end, and the message says why (check: there is damage; salvage: events are lost)
  2    the arguments cannot be used; nothing was done (accept-loss: it was not confirmed)
  130  stopped by Ctrl-C; run it again
  143  the same, by SIGTERM
"""
# How often a terminal's line is written anew, and how often there is a line elsewhere.
_REFRESH_S, _LINE_S = 0.1, 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    screen = Screen(sys.stderr)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        carry_out: Callable[[argparse.Namespace, Screen], int] = options.carry_out
        return carry_out(options, screen)
    except KeyboardInterrupt:
        screen.say("stopped; run it again to go on from here")
        return 128 + signal.SIGINT
    except _TerminatedError:
        screen.say("stopped; run it again to go on from here")
        return 128 + signal.SIGTERM
    except (ConfigurationError, ForkPositionError) as error:
        screen.say(f"eventuali: {error}")
        return _UNUSABLE
    except DivergedError as error:
        screen.say(f"eventuali: {error}")
        return _DIFFERENT
    except (EventualiError, OSError) as error:
        screen.say(f"eventuali: {error}")
        return _FAILED


class _TerminatedError(BaseException):
    """The process was told to end."""


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


class _Parser(argparse.ArgumentParser):
    """An argument that it does not understand may hold a password."""

    @override
    def error(self, message: str) -> NoReturn:
        super().error(re.sub(r"['\"]?[\w+.-]+://.*", "…", message, flags=re.DOTALL))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="eventuali",
        description="Moves the history of an event store, and proves that it arrived; copies stores, deletes and limits aggregates, finds damage, "
        "and saves what can be saved.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, does: str, carry_out: Callable[[argparse.Namespace, Screen], int], *names: str) -> _Parser:
        added = add(name, does, carry_out, _EPILOG, *names)
        for positional in names:
            if positional != "FILE":
                default = "stored_events" if positional == "APPLICATION" else "events"
                added.add_argument(
                    f"--{positional.lower()}-table",
                    metavar="NAME",
                    help=f"the events table of {positional}, where it is a database (default: {default})",
                )
        return added

    def files(name: str, does: str, carry_out: Callable[[argparse.Namespace, Screen], int], *names: str) -> _Parser:
        return add(name, does, carry_out, _FILES_EPILOG, *names)

    def add(
        name: str, does: str, carry_out: Callable[[argparse.Namespace, Screen], int], epilog: str, *names: str
    ) -> _Parser:
        added = commands.add_parser(
            name, help=does, description=does, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(carry_out=carry_out)
        for positional in names:
            told = _HELP.get(f"{name} {positional}", _HELP[positional])
            added.add_argument(
                positional.lower(), metavar=positional, help=told, type=_directory if positional == "PATH" else str
            )
        return added

    moving = command("export", "move what the target does not have yet, and verify", _export, "SOURCE", "TARGET")
    moving.add_argument("--no-verify", action="store_true", help="do not read both stores again to compare them")
    command("verify", "compare everything that two stores hold", _verify, "SOURCE", "TARGET")
    command("mirror", "follow the source until it is stopped", _mirror, "SOURCE", "TARGET")
    command("export-json-lines", "write every event as a line of JSON", _export_lines, "SOURCE", "FILE")
    command("import-json-lines", "move events from lines of JSON", _import_lines, "FILE", "TARGET")
    other = command(
        "import-eventsourcing",
        "move events from an application of that library",
        _import_other,
        "APPLICATION",
        "TARGET",
    )
    other.description = "Moves the events of an application of the Python library eventsourcing, which keeps them in SQLite or Postgres."
    files("backup", "copy a store to a new directory, and verify the copy", _backup, "PATH", "TARGET")
    other = files(
        "fork",
        "make a store that goes on from a position of another, and shares what comes before it",
        _fork,
        "SOURCE",
        "TARGET",
    )
    other.add_argument(
        "--at", type=int, metavar="POSITION", help="the last event that it has; all of them unless it is given"
    )
    files("compress", "compress a store's finished segment files where that makes them smaller", _compress, "PATH")
    other = files(
        "scavenge", "take out of a store's files what was deleted, and give back the space", _scavenge, "PATH"
    )
    other.add_argument(
        "--worthwhile",
        action="store_true",
        help="for whoever scavenges often: leave what is in the segment that is written to, unless that has 4 MiB or more and a quarter of it "
        "can be given back; without this nothing of what was deleted stays",
    )
    _command_keeping.add_commands(files)
    files("check", "read every byte of a store's files, and name every damaged place", _check, "PATH")
    files("salvage", "write what can be saved of a damaged store to a new one", _salvage, "PATH", "TARGET")
    return parser


def _directory(text: str) -> str:
    if names_database(text):
        raise argparse.ArgumentTypeError("the directory of a store is expected, and this names a database or memory")
    return text


_HELP = {
    **_command_keeping.HELP,
    "SOURCE": "the store that has the events; a directory may be in use by another process",
    "TARGET": "the store that they go to; made if it is not there",
    "verify TARGET": "the store that is compared with it",
    "PATH": "the directory of a store; it is left as it is, and may be in use",
    "backup PATH": "the directory of a store; it may be in use by another process",
    "backup TARGET": "the directory of the copy, which must not exist yet",
    "fork SOURCE": "the directory of a store; it is opened for as long as that takes",
    "fork TARGET": "the directory of the fork, which must not exist yet",
    "compress PATH": "the directory of a store; it is opened for as long as that takes",
    "scavenge PATH": "the directory of a store; it is opened for as long as that takes",
    "salvage TARGET": "the directory of the new store, which must not exist yet",
    "FILE": "a file of JSON lines; - is standard output or input",
    "APPLICATION": "the database of the application: sqlite://application.db or postgresql://user@host:5432/database",
}


@contextmanager
def _opened(options: argparse.Namespace, side: str, *, is_source: bool) -> Iterator[EventStore]:
    request: OpenRequest = request_for(getattr(options, side), is_source=is_source)
    table: str | None = getattr(options, f"{side}_table")
    if table is not None:
        request = replace(request, options={"table_name": table})
    try:
        opened = request.open(blocking=True)
    except StoreLockedError:
        if not is_source:
            raise
        opened = request.beside_its_writer().open(blocking=True)
    with EventStore(core_of(opened, "EventStore.create(...)")) as store:
        yield store


def _place(store: EventStore) -> str:
    return store._core.place  # noqa: SLF001


def _export(options: argparse.Namespace, screen: "Screen") -> int:
    with _opened(options, "source", is_source=True) as source, _opened(options, "target", is_source=False) as target:
        begun = time.monotonic()
        moved = export(source, target, progress=screen.progress("export"))
        screen.end()
        print(
            f"moved {_many(moved.events, 'event')} to {_place(target)}{_speed(moved.events, begun)}; position {moved.position:,}"
        )
        return 0 if options.no_verify else _told(verify(source, target, progress=screen.progress("verify")), screen)


def _verify(options: argparse.Namespace, screen: "Screen") -> int:
    with _opened(options, "source", is_source=True) as source, _opened(options, "target", is_source=True) as target:
        return _told(verify(source, target, progress=screen.progress("verify")), screen)


def _told(found: Verified, screen: "Screen") -> int:
    screen.end()
    if found.equal:
        print(f"verified {_many(found.events, 'event')}: equal, digest {found.digest}")
        return 0
    screen.say(f"eventuali: the stores differ: {found.difference or 'they changed while they were compared'}")
    return _DIFFERENT


def _mirror(options: argparse.Namespace, screen: "Screen") -> int:
    with (
        _opened(options, "source", is_source=True) as source,
        _opened(options, "target", is_source=False) as target,
        mirror(source, target) as following,
    ):
        status: MirrorStatus | None = None
        while True:
            now = following.status()
            if status is None or (now.position, str(now.waiting)) != (status.position, str(status.waiting)):
                status = now
                waiting = f", waiting: {now.waiting}" if now.waiting else ""
                screen.show(
                    f"mirror: position {now.position:,}, {_many(now.events, 'event')} moved{waiting}", at_once=True
                )
            if not now.running:
                break
            time.sleep(_REFRESH_S)
        following.stop()
        return _FAILED


def _export_lines(options: argparse.Namespace, screen: "Screen") -> int:
    with _opened(options, "source", is_source=True) as source:
        begun = time.monotonic()
        file = sys.stdout.buffer if options.file == "-" else options.file
        moved = export_json_lines(source, file, progress=screen.progress("export"))
        screen.say(f"wrote {_many(moved.events, 'event')}{_speed(moved.events, begun)}")
        return 0


def _import_lines(options: argparse.Namespace, screen: "Screen") -> int:
    named = sys.stdin.buffer if options.file == "-" else options.file
    with lines_read_from(named) as file, _opened(options, "target", is_source=False) as target:
        begun = time.monotonic()
        moved = import_json_lines(file, target, progress=screen.progress("import"))
        screen.end()
        _tell(moved, target, begun)
        return 0


def _import_other(options: argparse.Namespace, screen: "Screen") -> int:
    with _opened(options, "target", is_source=False) as target:
        begun = time.monotonic()
        table: str | None = options.application_table
        moved = import_eventsourcing(options.application, target, table=table, progress=screen.progress("import"))
        screen.end()
        _tell(moved, target, begun)
        return 0


def _backup(options: argparse.Namespace, screen: "Screen") -> int:
    begun = time.monotonic()
    copied = maintenance.backup(options.path, options.target, progress=screen.progress("backup"))
    screen.end()
    print(
        f"copied {_many(copied.events, 'event')} to {options.target}{_speed(copied.events, begun)}: "
        f"{_many(copied.segments, 'segment')}, {_many(copied.bytes, 'byte')}; position {copied.position:,}, digest {copied.digest}"
    )
    return 0


def _fork(options: argparse.Namespace, screen: "Screen") -> int:
    forked = maintenance.fork(options.source, options.target, at=options.at)
    screen.end()
    print(
        f"forked {options.target} at position {forked.position:,}: shares {_many(forked.shared_segments, 'segment')}, "
        f"{forked.copied_segments:,} copied ({_many(forked.copied_bytes, 'byte')}); store id {forked.store_id}"
    )
    return 0


def _compress(options: argparse.Namespace, screen: "Screen") -> int:
    done = maintenance.compress(options.path)
    screen.end()
    print(
        f"compressed {_many(done.segments, 'segment')}: {_many(done.bytes_before, 'byte')} before, {done.bytes_after:,} now; "
        f"{done.left:,} left as they are"
    )
    return 0


def _scavenge(options: argparse.Namespace, screen: "Screen") -> int:
    done = maintenance.scavenge(
        options.path, extent="worthwhile" if options.worthwhile else "everything", progress=screen.progress("scavenge")
    )
    screen.end()
    print(
        f"took out {_many(done.events, 'event')} of {_many(done.segments, 'segment')}: "
        f"{_many(done.bytes_before, 'byte')} before, {done.bytes_after:,} now"
        + (f"; {done.left:,} left in the segment that is written to" if done.left else "")
    )
    return 0


def _check(options: argparse.Namespace, screen: "Screen") -> int:
    found = maintenance.verify(options.path, progress=screen.progress("check"))
    screen.end()
    print(
        f"read {_many(found.events, 'event')} in {_many(found.frames, 'frame')}, {_many(found.segments, 'segment')}, {_many(found.bytes, 'byte')}; "
        f"last position {found.last_position:,}"
    )
    return _damage_told(found.damage, found.damaged_places)


def _salvage(options: argparse.Namespace, screen: "Screen") -> int:
    saved = maintenance.salvage(options.path, options.target, progress=screen.progress("salvage"))
    screen.end()
    print(f"saved {_many(saved.events, 'event')} to {options.target}")
    _damage_told(saved.damage, saved.damaged_places)
    for positions in saved.lost:
        print(f"lost: {_range('position', positions)}")
    if saved.unknown_after is not None:
        print(f"lost: whatever may have followed position {saved.unknown_after:,}; nothing tells how much that was")
    for stream in saved.streams:
        tenant = f" of tenant {stream.tenant!r}" if stream.tenant else ""
        lost = ", ".join(_range("version", versions) for versions in stream.lost)
        kept = ", ".join(
            f"{_range('version', versions)} {'is' if versions.first == versions.last else 'are'} now from {versions.new_first} on"
            for versions in stream.kept
        )
        print(f"lost of {stream.aggregate_id!r}{tenant}: {lost}; {kept or 'nothing is kept'}")
    return _FAILED if saved.lost or saved.unknown_after is not None else 0


def _damage_told(damage: tuple[Damage, ...], places: int) -> int:
    for place in damage:
        print(f"damaged: {place}")
    if places > len(damage):
        print(f"damaged: {places - len(damage):,} places more")
    return _FAILED if places else 0


def _range(what: str, numbers: LostRange | KeptRange) -> str:
    if numbers.first == numbers.last:
        return f"{what} {numbers.first:,}"
    return f"{what}s {numbers.first:,} to {numbers.last:,}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _tell(moved: Moved, target: EventStore, begun: float) -> None:
    speed = _speed(moved.events, begun)
    print(f"moved {_many(moved.events, 'event')} to {_place(target)}{speed}; position {moved.position:,}")


def _speed(events: int, begun: float) -> str:
    seconds = time.monotonic() - begun
    return f" in {timedelta(seconds=round(seconds, 1))} ({events / seconds:,.0f} events/s)" if events else ""


class Screen:
    """How far it is: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._shown_at = 0.0
        self._open = False

    def progress(self, what: str) -> Callable[[Progress], None]:
        """What tells how far `what` is."""
        return lambda progress: self.show(f"{what}: {progress}", at_once=False)

    def show(self, line: str, *, at_once: bool) -> None:
        """Show the line, unless the last one has hardly been seen."""
        now = time.monotonic()
        if not at_once and now - self._shown_at < (_REFRESH_S if self._is_terminal else _LINE_S):
            return
        self._shown_at = now
        if self._is_terminal:
            self._out.write(f"\r{line}\x1b[K")
            self._open = True
        else:
            self._out.write(f"{line}\n")
        self._out.flush()

    def end(self) -> None:
        """Leave what is shown standing."""
        if self._open:
            self._out.write("\n")
            self._open = False
        self._out.flush()
        self._shown_at = 0.0

    def say(self, line: str) -> None:
        """Say something in a line of its own."""
        self.end()
        self._out.write(f"{line}\n")
        self._out.flush()
