"""The demo's steps: import, replay, rebuild, report."""

import argparse
import asyncio
import io
import shlex
import sys
from pathlib import Path
from typing import cast

from demo.checking import MismatchError, facts_of, rebuild, replay
from demo.importing import EVENTS_PER_APPEND, OtherDataError, import_rows
from demo.report import Report
from demo.screen import Progress
from demo.source import REPOSITORY, VARIABLE, Row, described, find_data, read_rows, shown
from eventuali import EventStore, EventualiError


async def run(data: Path, directory: Path) -> None:
    """Import what is missing, check everything, and print the report."""
    print("Eventuali: the history of a bank's loan applications\n")
    print(f"  data   {described(data)}")
    print(f"  store  {shown(directory)}\n")
    rows = read_rows(data)
    report = Report()
    async with EventStore.create(directory) as store:
        mode = store.capabilities().durability or "none"
        written, importing = await _import(store, rows)
        replaying = await _replay(store, rows, report)
        rebuilding = await _rebuild(store, rows, report)
    print()
    print("\n".join(report.lines()))
    print("\n  in this run, on this machine")
    if written:
        print(_speed(f"build and write, {EVENTS_PER_APPEND:,} an append", written, importing, mode))
    print(_speed("read in order and compare", len(rows), replaying, mode))
    print(_speed("load each application and compare", len(rows), rebuilding, mode))
    print(_size(directory, len(rows)))


async def _import(store: EventStore, rows: list[Row]) -> tuple[int, Progress]:
    progress = Progress("import", len(rows))
    written = await import_rows(store, rows, acknowledged=progress.show)
    progress.finish(len(rows))
    if written < len(rows):
        print(f"  {len(rows) - written:,} events were stored by an earlier run; `rm -r` the store to begin anew")
    return written, progress


async def _replay(store: EventStore, rows: list[Row], report: Report) -> Progress:
    progress = Progress("replay, each against its line", len(rows))
    async for event in replay(store, rows):
        report.add_event(event)
        progress.show(report.events)
    progress.finish(report.events)
    return progress


async def _rebuild(store: EventStore, rows: list[Row], report: Report) -> Progress:
    facts = facts_of(rows)
    progress = Progress("rebuild, each against the raw data", len(facts))
    rebuilt = 0
    async for application in rebuild(store, facts):
        report.add_application(application)
        progress.show(rebuilt := rebuilt + 1)
    progress.finish(rebuilt)
    return progress


def _speed(what: str, events: int, progress: Progress, mode: str) -> str:
    return f"  {what:<38} {events / progress.seconds:>11,.0f} events/s  durability: {mode}"


def _size(directory: Path, events: int) -> str:
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return f"  {'size on disk':<38} {size / 2**20:>11.1f} MiB       {size / events:.0f} bytes an event"


def main() -> int:
    """Run the demo from the command line; 1 if it could not do its work."""
    parser = argparse.ArgumentParser(
        prog="demo", description="Imports loan applications and rebuilds them from their events."
    )
    parser.add_argument(
        "--data", type=Path, default=find_data(), help=f"a .jsonl.gz file (default: %(default)s; or set {VARIABLE})"
    )
    parser.add_argument(
        "--store", type=Path, default=REPOSITORY / "demo-store", help="a directory (default: %(default)s)"
    )
    arguments = parser.parse_args()
    cast("io.TextIOWrapper", sys.stdout).reconfigure(encoding="utf-8")  # for the bars, where a terminal has another
    try:
        asyncio.run(run(arguments.data.resolve(), arguments.store.resolve()))
    except OtherDataError as error:
        print(f"\n{arguments.store} does not hold the beginning of {arguments.data}: {error}.")
        store, folder, python = (
            shlex.quote(str(path)) for path in (arguments.store.resolve(), REPOSITORY / "pybind", sys.executable)
        )
        print("Remove that directory and run the demo again, or keep it and have the demo use another one:")
        print(f"  rm -r {store}\n  cd {folder} && {python} -m demo --store DIRECTORY")
        return 1
    except MismatchError as error:
        print(f"\nNot what the data says: {error}")
        return 1
    except (EventualiError, OSError) as error:
        print(f"\n{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
