"""The demo's second part: the loan applications move to Postgres, and the application follows."""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit, urlunsplit

from demo.application import LoanApplication, Outcome
from demo.importing import OtherDataError, import_rows
from demo.report import Report
from demo.screen import Progress
from demo.source import REPOSITORY, described, find_data, read_rows, shown
from eventuali import DomainEvent, EventStore, EventStoreConfig, EventualiError
from eventuali.config import PostgresConfig
from eventuali.moving import Verified, export, verify

VARIABLE = "EVENTUALI_DEMO_POSTGRES_URL"
THROWAWAY = "EVENTUALI_TEST_POSTGRES_URL"
PYBIND = REPOSITORY / "pybind"
TOGETHER = 64
LOADED = 500
# Moves everything and says how far it is, until it is done or killed.
EXPORTER = """
import sys
from eventuali import EventStoreConfig
from eventuali.sync import export

source, target, table = sys.argv[1:]
config = EventStoreConfig.postgres(target).with_table_name(table)
export(EventStoreConfig.embedded(source), config, progress=lambda moving: print(moving.position, flush=True))
"""


@dataclass(frozen=True)
class Move:
    """From where to where, and what came of it."""

    directory: Path
    target: PostgresConfig
    killed_at: int | None
    before: int
    events: int
    seconds: float
    verified: Verified


async def run(data: Path, directory: Path, target: PostgresConfig) -> None:
    """Move what is missing, prove that it arrived, and go on there."""
    print("Eventuali: the history of a bank's loan applications moves to Postgres\n")
    print(f"  data   {described(data)}\n  from   {shown(directory)}\n  to     {target!r}\n")
    total = await _loans(data, directory)
    async with EventStore.create(target) as there:
        known = await there.head()
    if known > total:
        print("  An earlier run has moved everything and gone on there: this store is not moved to it again.")
    else:
        _tell(await _move(directory, target, known, total), total)
    print("\n  The same application on either side: only what EventStore.create is given differs")
    cases = await _load_some(directory, target)
    await _decide(target, cases)
    print()
    await _report(target)


async def _loans(data: Path, directory: Path) -> int:
    """How many events the loan store has; made if it is not there."""
    rows = read_rows(data)
    async with EventStore.create(directory) as store:
        if await store.head() < len(rows):
            progress = Progress("import into the directory", len(rows))
            await import_rows(store, rows, acknowledged=progress.show)
            progress.finish(len(rows))
        return await store.head()


async def _move(directory: Path, target: PostgresConfig, known: int, total: int) -> Move:
    killed_at = _export_and_kill(directory, target, known, total)
    async with EventStore.create(target) as there:
        before = await there.head()
    progress = Progress("export, where it ended before", total)
    moved = await export(directory, target, progress=lambda moving: progress.show(moving.position))
    progress.finish(moved.position)
    checking = Progress("verify, every event on both sides", total)
    verified = await verify(directory, target, progress=lambda moving: checking.show(moving.position))
    checking.finish(verified.events)
    return Move(directory, target, killed_at, before, moved.events, progress.seconds, verified)


def _export_and_kill(directory: Path, target: PostgresConfig, known: int, total: int) -> int | None:
    """Export in a process of its own and kill it half-way: where it was; `None` if it was through before."""
    progress = Progress("export, in a process to be killed", total)
    address, password = _without_password(target.url)
    last, half = known, (known + total) // 2
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", EXPORTER, directory, address, target.table_name or "events"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGPASSWORD": password},
    ) as exporter:
        assert exporter.stdout is not None  # noqa: S101 (it is a pipe)
        for line in exporter.stdout:
            progress.show(last := int(line))
            if last >= half:
                break
        exporter.kill()
    progress.finish(last)
    return last if exporter.returncode else None


def _without_password(url: str) -> tuple[str, str]:
    """A command line can be seen by everybody on a machine; the environment of a process cannot."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, _, _ = user.partition(":")
    address = urlunsplit(parts._replace(netloc=f"{name}@{host}" if name else host))
    return address, os.environ.get("PGPASSWORD", "") if parts.password is None else unquote(parts.password)


def _tell(move: Move, total: int) -> None:
    killed = (
        f"killed (kill -9) when it had told of {move.killed_at:,}" if move.killed_at else "through before it was killed"
    )
    print(f"\n  {total:,} events; the first process was {killed}")
    print(f"  Postgres had {move.before:,} of them; the second run moved {move.events:,}, none twice and none missing")
    if move.events:
        print(f"  {move.events / move.seconds:,.0f} events/s in the second run")
    difference = move.verified.difference
    print(f"  {'equal' if move.verified.equal else f'NOT EQUAL: {difference}'}, digest {move.verified.digest}")


async def _load_some(directory: Path, target: PostgresConfig) -> list[str]:
    """Load the same applications from both; those that are still open."""
    found: list[dict[str, LoanApplication]] = []
    cases: list[str] = []
    for place in (directory, target):
        async with EventStore.create(place) as store:
            cases = cases or await _cases(store)
            begun = time.perf_counter()
            found.append(await _load(store, cases[:LOADED]))
            seconds = time.perf_counter() - begun
            name = store.capabilities().backend
            print(f"  {f'load {len(found[-1]):,} applications':<34} {name:<10} {seconds:8.2f} s")
    here, there = found
    different = [case for case, loan in here.items() if loan != there[case]]
    print(f"  {len(here) - len(different):,} of {len(here):,} are the same on both sides")
    return cases[::-1]


async def _cases(store: EventStore) -> list[str]:
    cases: dict[str, None] = {}
    async for events in store.read_all().batches():
        cases.update(dict.fromkeys(event.aggregate_id for event in events))
    return list(cases)


async def _load(store: EventStore, cases: list[str]) -> dict[str, LoanApplication]:
    loans: dict[str, LoanApplication] = {}
    for start in range(0, len(cases), TOGETHER):
        some = cases[start : start + TOGETHER]
        loaded = await asyncio.gather(*(store.load(LoanApplication, case) for case in some))
        loans.update(zip(some, loaded, strict=True))
    return loans


async def _decide(target: PostgresConfig, cases: list[str]) -> None:
    async with EventStore.create(target) as store:
        for case in cases:
            loan = await store.load(LoanApplication, case)
            if loan.outcome is Outcome.OPEN:
                loan.approve(by="the demo")
                receipt = await store.save(loan)
                print(
                    f"  approved application {case} on Postgres: version {receipt.version}, position {receipt.position:,}"
                )
                return


async def _report(target: PostgresConfig) -> None:
    report = Report()
    async with EventStore.create(target) as store:
        replaying = Progress("the report, from Postgres", await store.head())
        cases: dict[str, None] = {}
        async for event in store.read_all():
            if isinstance(event, DomainEvent):
                report.add_event(event)
                cases[event.aggregate_id] = None
                replaying.show(report.events)
        replaying.finish(report.events)
        for loan in (await _load(store, list(cases))).values():
            report.add_application(loan)
    print("\n".join(["", *report.lines()]))


def _with_a_throwaway_server() -> int:
    print("No Postgres is named, so one is started for this run and removed after it.\n", flush=True)
    tool = PYBIND / "tools" / "with_postgres.py"
    again = [sys.executable, "-m", "demo.postgres", *sys.argv[1:]]
    return subprocess.run([sys.executable, tool, *again], cwd=PYBIND, check=False).returncode  # noqa: S603


def main() -> int:
    """Run this part from the command line; 1 if it could not do its work."""
    parser = argparse.ArgumentParser(
        prog="demo.postgres", description="Moves the demo's loan applications to Postgres and goes on there."
    )
    parser.add_argument("url", nargs="?", help=f"postgresql://… (default: {VARIABLE}, else a throwaway server)")
    parser.add_argument("--data", type=Path, default=find_data(), help="a .jsonl.gz file (default: %(default)s)")
    parser.add_argument(
        "--store",
        type=Path,
        default=REPOSITORY / "demo-store",
        help="the directory of the loans (default: %(default)s)",
    )
    parser.add_argument("--table", default="loan_events", help="the events table (default: %(default)s)")
    options = parser.parse_args()
    cast("io.TextIOWrapper", sys.stdout).reconfigure(encoding="utf-8")
    url: str | None = options.url or os.environ.get(VARIABLE) or os.environ.get(THROWAWAY)
    if url is None:
        return _with_a_throwaway_server()
    try:
        target = EventStoreConfig.postgres(url).with_table_name(options.table)
        asyncio.run(run(options.data.resolve(), options.store.resolve(), target))
    except (EventualiError, OtherDataError, OSError) as error:
        print(f"\n{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
