"""The demo as a user runs it, on the excerpt that comes with it."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo.checking import MismatchError, facts_of, rebuild, replay
from demo.events import event_of
from demo.importing import OtherDataError, import_rows
from demo.screen import bar
from demo.source import EXCERPT, VARIABLE, Row, find_data, read_rows
from eventuali import EventStore
from eventuali.event import UserRegistered

PYBIND = Path(__file__).resolve().parents[2]
ROWS = read_rows(EXCERPT)
# Imports in small appends and says after each how many lines are acknowledged, until it is done or killed.
IMPORTER = """
import asyncio, sys
from demo.importing import import_rows
from demo.source import EXCERPT, read_rows
from eventuali import EventStore

async def main():
    async with EventStore.create(sys.argv[1]) as store:
        await import_rows(store, read_rows(EXCERPT), acknowledged=lambda n: print(n, flush=True), events_per_append=50)

asyncio.run(main())
"""


def run_demo(store: Path, data: Path = EXCERPT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", "--store", store, "--data", data],
        cwd=PYBIND,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def report_in(output: str) -> str:
    """The part that must not depend on the run: from the counts to the last day of the busiest week."""
    return output[output.index(f"{len(ROWS):,} events of") : output.index("in this run")]


async def check_everything(store: EventStore, rows: list[Row]) -> tuple[int, int]:
    """How many events and applications were compared with the data and found equal."""
    events = [event async for event in replay(store, rows)]
    applications = [application async for application in rebuild(store, facts_of(rows))]
    return len(events), len(applications)


@pytest.fixture
async def memory() -> AsyncIterator[EventStore]:
    async with EventStore.create("memory://") as store:
        yield store


def silent(_: int) -> None:
    """An importer's progress that nobody looks at."""


def test_the_demo_imports_checks_and_reports_and_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    first = run_demo(tmp_path / "store")
    assert (first.returncode, first.stderr) == (0, "")
    assert "an excerpt" in first.stdout
    facts = facts_of(ROWS)
    for outcome in ("approved", "declined", "cancelled", "still open"):
        count = sum(of_one.outcome == outcome for of_one in facts.values())
        (line,) = [line for line in report_in(first.stdout).splitlines() if line.strip().startswith(outcome)]
        assert f" {count:,} " in line

    second = run_demo(tmp_path / "store")
    assert (second.returncode, second.stderr) == (0, "")
    assert f"{len(ROWS):,} events were stored by an earlier run" in second.stdout
    assert report_in(second.stdout) == report_in(first.stdout)


@pytest.mark.anyio
async def test_a_store_of_other_data_is_left_alone_with_commands_that_go_on_from_there(tmp_path: Path) -> None:
    directory = tmp_path / "other store"
    async with EventStore.create(directory) as store:
        await store.append("user-1", [UserRegistered(user_id="u", email="u@example.org")], aggregate_type="User")
    refused = run_demo(directory, EXCERPT)
    assert (refused.returncode, refused.stderr) == (1, "")
    assert f"  rm -r '{directory}'\n" in refused.stdout
    assert f"  cd {PYBIND} && {sys.executable} -m demo --store DIRECTORY\n" in refused.stdout


@pytest.mark.anyio
@pytest.mark.parametrize(
    "moments", [(0,), (1, 50, 51), (2_000, 7_350, 7_400), (4_000, 8_000, 12_000, 16_000), (16_250,)]
)
async def test_killed_at_any_moment_and_run_again_nothing_is_missing_and_nothing_doubled(
    tmp_path: Path, moments: tuple[int, ...]
) -> None:
    store = tmp_path / "store"
    for moment in moments:
        acknowledged = kill_importer_once_it_has_acknowledged(moment, store)
        async with EventStore.create(store) as opened:
            head = await opened.head()
            assert acknowledged <= head <= len(ROWS)
            assert (await check_everything(opened, ROWS[:head]))[0] == head
    finished = run_demo(store)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert f"{len(ROWS):,} events of {len(facts_of(ROWS)):,} applications" in finished.stdout


def kill_importer_once_it_has_acknowledged(moment: int, store: Path) -> int:
    """Start an importer, kill it in the middle of what follows, and return the last number that it said."""
    last = 0
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTER, store], cwd=PYBIND, stdout=subprocess.PIPE, text=True
    ) as importer:
        assert importer.stdout is not None
        for line in importer.stdout:
            last = int(line)
            if last >= moment:
                break
        importer.kill()
        last = max([last, *(int(line) for line in importer.stdout if line.endswith("\n"))])
    assert importer.returncode in {-signal.SIGKILL, 0} if os.name == "posix" else True
    return last


@pytest.mark.anyio
async def test_the_order_of_the_data_is_the_order_of_the_log(memory: EventStore) -> None:
    assert await import_rows(memory, ROWS[:2_000], acknowledged=silent, events_per_append=77) == 2_000
    stored = [(event.position, event.aggregate_id, event.timestamp) async for event in memory.read_all()]
    assert stored == [(number, row.case, row.at) for number, row in enumerate(ROWS[:2_000], start=1)]


@pytest.mark.anyio
async def test_a_store_of_other_data_is_refused(memory: EventStore) -> None:
    await import_rows(memory, ROWS[:100], acknowledged=silent)
    with pytest.raises(OtherDataError, match="its event 100"):
        await import_rows(memory, ROWS[100:], acknowledged=silent)
    with pytest.raises(OtherDataError, match="it holds 100 events, but the data has 99"):
        await import_rows(memory, ROWS[:99], acknowledged=silent)


def test_a_store_that_is_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    holder = (
        "import sys; from eventuali.sync import EventStore\n"
        "with EventStore.create(sys.argv[1]): print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        refused = run_demo(tmp_path / "store")
        process.communicate(b"\n")
    assert refused.returncode == 1
    assert str(process.pid) in refused.stdout


@pytest.mark.anyio
@pytest.mark.parametrize(
    "change",
    [
        {"at": datetime(2011, 10, 1, tzinfo=UTC)},
        {"activity": "A_CANCELLED"},
        {"resource": "nobody"},
        {"case": "173688"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_the_check_finds_a_line_that_was_stored_differently(memory: EventStore, change: dict[str, Any]) -> None:
    number = next(n for n, row in enumerate(ROWS[:500]) if row.activity == "A_DECLINED" and row.case != "173688")
    stored = [row._replace(**change) if n == number else row for n, row in enumerate(ROWS[:500])]
    await import_rows(memory, stored, acknowledged=silent)
    with pytest.raises(MismatchError, match=f"line {number + 1} "):
        await check_everything(memory, ROWS[:500])


@pytest.mark.anyio
async def test_the_check_finds_events_that_are_missing_or_too_many(memory: EventStore) -> None:
    await import_rows(memory, ROWS[:500], acknowledged=silent)
    with pytest.raises(MismatchError, match="500 events are stored, but the data has 501 lines"):
        await check_everything(memory, ROWS[:501])
    with pytest.raises(MismatchError, match="there is an event 500, but the data has 499 lines"):
        await check_everything(memory, ROWS[:499])


@pytest.mark.anyio
@pytest.mark.parametrize("fact", ["lines", "amount_requested", "offers_sent", "work_done"])
async def test_the_check_finds_an_application_that_was_rebuilt_differently(memory: EventStore, fact: str) -> None:
    await import_rows(memory, ROWS[:500], acknowledged=silent)
    facts = facts_of(ROWS[:500])
    case = ROWS[0].case
    different: dict[str, Any] = {fact: -1}
    facts[case] = replace(facts[case], **different)
    with pytest.raises(MismatchError, match=f"application {case} was rebuilt"):
        assert [application async for application in rebuild(memory, facts)]


def test_an_activity_that_the_demo_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="A_RECONSIDERED"):
        event_of(ROWS[0]._replace(activity="A_RECONSIDERED"))


def test_the_environment_may_name_other_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.jsonl.gz"))
    assert find_data() == tmp_path / "other.jsonl.gz"


@pytest.mark.parametrize(("share", "drawn"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (0.28, "█▏  ")])
def test_bars_are_as_long_as_their_share(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn
