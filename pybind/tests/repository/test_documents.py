"""What the documents show works: every Python block is run as a program of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks() -> list[tuple[str, str]]:
    """Every block as (where it begins, its text)."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            found.append((f"{document.relative_to(ROOT)}:{line}", block[1]))
    return found


@pytest.mark.parametrize(("where", "block"), python_blocks(), ids=[where for where, _ in python_blocks()])
def test_a_python_block_runs(where: str, block: str, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(block, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), where


def test_the_front_page_has_an_example() -> None:
    assert any(where.startswith("README.md") for where, _ in python_blocks())


def test_the_front_page_names_only_targets_that_exist() -> None:
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


def durability_table(document: str) -> list[str]:
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| durability"))
    return [line for line in lines[start : start + 6] if line.startswith("|")]


def test_both_documents_promise_the_same_durability() -> None:
    assert durability_table("README.md") == durability_table("docs/durability.md")
    assert len(durability_table("README.md")) == 6


def test_the_tour_names_only_files_that_exist() -> None:
    named = re.findall(r"`([\w./-]+(?:\.rs|\.py|/))`", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"))
    roots = [
        ROOT / folder
        for folder in (
            ".",
            "engine/src",
            "engine/src/maintenance",
            "sql-adapters/src",
            "sql-adapters/src/sql",
            "sql-adapters/src/moving",
        )
    ]
    assert len(named) > 10
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []
