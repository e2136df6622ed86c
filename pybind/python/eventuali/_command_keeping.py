"""The commands that change what a store keeps: deleting, limiting, and the ways out of damage that change the store itself."""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from eventuali._moving import request_for
from eventuali._opening import OpenRequest, core_of
from eventuali.errors import ConfigurationError
from eventuali.store import Retention, rebuild_manifest
from eventuali.sync import EventStore

_NOT_CARRIED_OUT = 2
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(\d{1,15})([smhdw])", re.ASCII)

HELP = {
    "AGGREGATE_ID": "the id of an aggregate",
    "delete PATH": "the directory of a store; it is opened for as long as that takes",
    "set-retention PATH": "the directory of a store; it is opened for as long as that takes",
    "rebuild-manifest PATH": "the directory of a store that nobody has open",
    "accept-loss PATH": "the directory of a store that nobody has open",
}
"""What arguments of these commands are."""


class _Says(Protocol):
    """Where messages go that are not what was asked for."""

    def say(self, line: str) -> None:
        """Say something in a line of its own."""


_CarryOut = Callable[[argparse.Namespace, _Says], int]


class _Files(Protocol):
    """Adds a command."""

    def __call__(self, name: str, does: str, carry_out: _CarryOut, /, *names: str) -> argparse.ArgumentParser: ...


def add_commands(files: _Files) -> None:
    """Adds them, by what adds a command."""
    deleting = files("delete", "delete an aggregate: from now on it has no events", _delete, "PATH", "AGGREGATE_ID")
    deleting.description = (
        "Deletes an aggregate: from now on it has no events. `scavenge` takes their bytes out of the files."
    )
    deleting.add_argument(
        "--expected-version",
        type=int,
        metavar="VERSION",
        help="delete it only if it has this version; whatever it has unless it is given",
    )
    limiting = files("set-retention", "set how many events of an aggregate are kept", _limit, "PATH", "AGGREGATE_ID")
    limiting.description = (
        "Sets how many events of an aggregate are kept, in place of what was set before. What is left out is always the beginning, its last "
        "event is kept in any case, and what was left out once stays so. `scavenge` takes the bytes out of the files."
    )
    limiting.add_argument(
        "--max-age", type=_age, metavar="AGE", help="leave out leading events that are older: 90s, 45m, 12h, 30d or 8w"
    )
    limiting.add_argument(
        "--max-count", type=int, metavar="COUNT", help="leave out all but so many of the newest events"
    )
    limiting.add_argument(
        "--truncate-before", type=int, metavar="VERSION", help="leave out the events before this version"
    )
    limiting.add_argument("--no-limits", action="store_true", help="lift the limits that were set")
    rebuilding = files(
        "rebuild-manifest",
        "write a new MANIFEST from the segment files, where it is damaged or missing",
        _rebuild,
        "PATH",
    )
    rebuilding.description = (
        "Writes a new MANIFEST from what the segment files say of themselves, where it is damaged or missing. Nothing is lost with it: "
        "one that is there is moved to quarantine/."
    )
    losing = files(
        "accept-loss", "give up the events behind damage, so that a store can be written to again", _lose, "PATH"
    )
    losing.description = (
        "Gives up every event behind the first damaged place, whole ones too, so that the store can be written to again: what is behind it is "
        "moved to quarantine/. `check` shows the damage, and `salvage` saves what is whole behind it: do that first. Without --after it says "
        "which position that is, and changes nothing."
    )
    losing.add_argument("--after", type=int, metavar="POSITION", help="the last position before the damage")
    losing.add_argument(
        "--give-up-what-follows",
        action="store_true",
        help="confirms that the events behind that position are to be given up",
    )


@contextmanager
def _opened(path: str, **how: object) -> Iterator[EventStore]:
    """A store that is there."""
    request: OpenRequest = replace(request_for(path, is_source=True), **how)  # type: ignore[arg-type]  # the callers are below
    with EventStore(core_of(request.open(blocking=True), "EventStore.create(...)")) as store:
        yield store


def _delete(options: argparse.Namespace, _: _Says) -> int:
    expected: int | None = options.expected_version
    with _opened(options.path) as store:
        how = {} if expected is None else {"expected_version": expected}
        deleted = store.delete(options.aggregate_id, **how)
    print(
        f"deleted {options.aggregate_id!r} at version {deleted.version:,}; position {deleted.position:,}. "
        "Its bytes are in the files until the store is scavenged"
    )
    return 0


def _age(text: str) -> timedelta:
    found = _AGE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError("an age is a whole number and a unit: 90s, 45m, 12h, 30d or 8w")
    try:
        return timedelta(seconds=int(found[1]) * _UNIT_S[found[2]])
    except OverflowError:
        raise argparse.ArgumentTypeError("an age is less than 2,700,000 years") from None


def _limit(options: argparse.Namespace, _: _Says) -> int:
    limits = {"max_age": options.max_age, "max_count": options.max_count, "truncate_before": options.truncate_before}
    is_limited = any(limit is not None for limit in limits.values())
    if is_limited == options.no_limits:
        raise ConfigurationError("give at least one of --max-age, --max-count and --truncate-before, or --no-limits")
    with _opened(options.path) as store:
        limited = store.set_retention(options.aggregate_id, **limits)
        kept = store.retention(options.aggregate_id)
    print(f"of {options.aggregate_id!r}, which is at version {limited.version:,}, {_told(kept)}")
    return 0


def _told(kept: Retention) -> str:
    told = [
        f"events that are not older than {kept.max_age}" if kept.max_age is not None else "",
        f"the newest {kept.max_count:,}" if kept.max_count is not None else "",
        f"version {kept.truncate_before:,} and later" if kept.truncate_before is not None else "",
    ]
    limits = ", ".join(limit for limit in told if limit)
    return (
        f"from now on is kept: {limits}; and the last event in any case" if limits else "everything is kept from now on"
    )


def _rebuild(options: argparse.Namespace, _: _Says) -> int:
    rebuild_manifest(options.path)
    print(f"wrote a new MANIFEST for {options.path}; `eventuali check` shows whether everything fits together")
    return 0


def _lose(options: argparse.Namespace, screen: _Says) -> int:
    path: str = options.path
    after: int | None = options.after
    if after is None or not options.give_up_what_follows:
        return _say_what_would_be_lost(path, after, screen)
    with _opened(path, accept_loss_after=after) as store:
        print(
            f"gave up what followed position {after:,}: it is in quarantine/ of {path}. The store goes on at {store.head():,}"
        )
    return 0


def _say_what_would_be_lost(path: str, after: int | None, screen: _Says) -> int:
    with _opened(path, read_up_to_damage=True) as store:
        report = store.open_report
    last = None if report is None or report.outcome != "damaged" else report.last_good_position
    if report is None or last is None:
        raise ConfigurationError(
            f"nothing is damaged of {path!r} that would keep it from being opened: there is no loss to accept"
        )
    screen.say(f"damaged: {report.damage}")
    if after is not None and after != last:
        screen.say(f"eventuali: --after {after} does not fit: the events up to position {last:,} are intact")
    screen.say(
        f"nothing was changed. To give up everything behind position {last:,}, whole events too: "
        f"eventuali accept-loss {path} --after {last} --give-up-what-follows"
    )
    return _NOT_CARRIED_OUT
