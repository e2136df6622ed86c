"""The demo's second part as a user runs it, on a few times the excerpt: more than one transaction."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.source import EXCERPT, described
from eventuali.config import PostgresConfig
from eventuali.sync import EventStore

PYBIND = Path(__file__).resolve().parents[2]
COPIES = 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The excerpt, each application several times under other names."""
    file = tmp_path / "data.jsonl.gz"
    with gzip.open(EXCERPT, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with gzip.open(file, "wt", encoding="utf-8", compresslevel=1) as copied:
        for copy in range(COPIES):
            copied.writelines(json.dumps({**row, "case": f"{copy}-{row['case']}"}) + "\n" for row in rows)
    return file


def run_demo(data: Path, tmp_path: Path, target: PostgresConfig) -> subprocess.CompletedProcess[str]:
    arguments = ["--data", str(data), "--store", str(tmp_path / "store"), "--table", str(target.table_name)]
    return subprocess.run(
        [sys.executable, "-m", "demo.postgres", *arguments],
        cwd=PYBIND,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "EVENTUALI_DEMO_POSTGRES_URL": target.url},
    )


def test_an_excerpt_is_called_one() -> None:
    assert "(an excerpt: " in described(EXCERPT)


def test_the_demo_moves_to_postgres_is_killed_goes_on_and_works_there(
    data: Path, tmp_path: Path, postgres: PostgresConfig
) -> None:
    first = run_demo(data, tmp_path, postgres)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"  data   {data}\n  from   {tmp_path / 'store'}\n" in first.stdout
    assert "killed (kill -9) when it had told of" in first.stdout
    assert "none twice and none missing" in first.stdout
    assert "equal, digest " in first.stdout
    assert "500 of 500 are the same on both sides" in first.stdout
    with EventStore.create(tmp_path / "store") as here, EventStore.create(postgres) as there:
        total = here.head()
        assert there.head() == total + 1
        approved = next(there.read_all(after=total))
        assert approved.event_type == "ApplicationApproved"
        assert f"approved application {approved.aggregate_id} on Postgres" in first.stdout
    assert f"{total + 1:,} events of" in first.stdout

    second = run_demo(data, tmp_path, postgres)
    assert (second.returncode, second.stderr) == (0, "")
    assert "not moved to it again" in second.stdout
    assert f"{total + 2:,} events of" in second.stdout


def test_a_server_that_does_not_answer_is_an_error_without_a_password(tmp_path: Path, data: Path) -> None:
    nobody, store = "postgresql://ada:s3cret@127.0.0.1:1/events", str(tmp_path / "store")
    refused = subprocess.run(
        [sys.executable, "-m", "demo.postgres", nobody, "--data", str(data), "--store", store],
        cwd=PYBIND,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode == 1
    assert "127.0.0.1" in refused.stdout
    assert "s3cret" not in refused.stdout + refused.stderr
