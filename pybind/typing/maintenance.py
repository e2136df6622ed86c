"""What type checkers say of maintenance: both shells give the same results."""

from pathlib import Path
from typing import assert_type

from eventuali import maintenance
from eventuali.maintenance import (
    BackupReport,
    CompressReport,
    ForkReport,
    Progress,
    SalvageReport,
    ScavengeReport,
    VerifyReport,
)
from eventuali.sync import maintenance as blocking


async def tell_later(progress: Progress) -> bool:
    """What is awaited, with asyncio."""
    return progress.last_position is not None


async def with_asyncio() -> None:
    """Results are what they say."""
    assert_type(await maintenance.backup("orders", Path("copy"), progress=tell_later), BackupReport)
    assert_type(await maintenance.compress("orders"), CompressReport)
    assert_type(await maintenance.fork("orders", Path("fork"), at=7), ForkReport)
    assert_type(await maintenance.scavenge("orders", extent="worthwhile", progress=tell_later), ScavengeReport)
    assert_type(await maintenance.verify("orders", progress=tell_later), VerifyReport)
    assert_type(await maintenance.salvage(Path("orders"), "saved"), SalvageReport)


def without() -> None:
    """The same without `await`."""
    assert_type(blocking.backup(Path("orders"), "copy", progress=print), BackupReport)
    assert_type(blocking.compress(Path("orders")), CompressReport)
    assert_type(blocking.fork(Path("orders"), "fork"), ForkReport)
    assert_type(blocking.scavenge(Path("orders"), progress=print), ScavengeReport)
    assert_type(blocking.verify(Path("orders"), progress=print), VerifyReport)
    assert_type(blocking.salvage("orders", "saved"), SalvageReport)
