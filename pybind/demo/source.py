"""Finds the raw data and reads it."""

import gzip
import json
import os
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

VARIABLE = "EVENTUALI_DEMO_DATA"
REPOSITORY = Path(__file__).resolve().parents[2]
WHOLE = REPOSITORY.parent / "shared" / "data" / "loan_applications.jsonl.gz"
EXCERPT = Path(__file__).with_name("excerpt.jsonl.gz")


class Row(NamedTuple):
    """A line of the data, with its times parsed and nothing else changed."""

    case: str
    activity: str
    lifecycle: str
    at: datetime
    resource: str | None
    amount_requested: int | None
    registered_at: datetime | None


def find_data() -> Path:
    """The file that the environment names, else the whole data set, else the excerpt that comes with the demo."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return WHOLE if WHOLE.exists() else EXCERPT


def shown(path: Path) -> str:
    """`path` relative to the repository where it is in it or beside it."""
    if path.is_relative_to(REPOSITORY):
        return str(path.relative_to(REPOSITORY))
    return f"../{path.relative_to(REPOSITORY.parent)}" if path.is_relative_to(REPOSITORY.parent) else str(path)


def described(data: Path) -> str:
    """Which data it is, where that is not the whole."""
    if data != EXCERPT:
        return shown(data)
    return f"{shown(data)}\n         (an excerpt: there is no {shown(WHOLE)}, and {VARIABLE} names no other file)"


def read_rows(path: Path) -> list[Row]:
    """All lines of `path`, in the order in which they happened."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [_row(json.loads(line)) for line in lines]


def _row(line: dict[str, str | int]) -> Row:
    registered_at = line.get("registered_at")
    return Row(
        case=str(line["case"]),
        activity=str(line["activity"]),
        lifecycle=str(line["lifecycle"]),
        at=datetime.fromisoformat(str(line["at"])),
        resource=None if (resource := line.get("resource")) is None else str(resource),
        amount_requested=None if (amount := line.get("amount_requested")) is None else int(amount),
        registered_at=None if registered_at is None else datetime.fromisoformat(str(registered_at)),
    )
