"""What the writer of an append believes about the stream it writes to."""

from enum import StrEnum
from typing import Final

__all__ = ["ANY", "NO_STREAM", "STREAM_EXISTS", "ExpectedVersion"]


class ExpectedVersion(StrEnum):
    """What can be expected of a stream beside an exact version, which is given as a number."""

    ANY = "any version"
    """No belief: the append never conflicts, and two writers may interleave."""

    NO_STREAM = "no stream"
    """The stream has no events yet: exactly one of several creators wins."""

    STREAM_EXISTS = "an existing stream"
    """The stream has at least one event, whatever its version."""


ANY: Final = ExpectedVersion.ANY
NO_STREAM: Final = ExpectedVersion.NO_STREAM
STREAM_EXISTS: Final = ExpectedVersion.STREAM_EXISTS
