"""The commands that `docs/postgres.md` shows, run as they stand there, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

from eventuali.config import PostgresConfig
from eventuali.sync import EventStore
from tests.counting import counted

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs/postgres.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def in_this_table(command: str, table: str) -> str:
    """The command for tables that no other test has."""
    side = "source" if command.split()[2] == '"$DATABASE_URL"' else "target"
    return command.replace('"$DATABASE_URL"', f'"$DATABASE_URL" --{side}-table {table}')


def test_the_commands_run_in_order(postgres: PostgresConfig, tmp_path: Path) -> None:
    with EventStore.create(tmp_path / "orders") as store:
        store.save_all([counted(3, "a"), counted(2, "b")])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands():
        ran = subprocess.run(
            ["/bin/sh", "-c", in_this_table(command, str(postgres.table_name))],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": path, "DATABASE_URL": postgres.url},
        )
        assert ran.returncode == 0, (command, ran.stderr)
    assert len(commands()) > 5
    with EventStore.create(tmp_path / "copy") as copy:
        assert copy.head() == 5
