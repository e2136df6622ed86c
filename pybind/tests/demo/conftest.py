"""The demo runs on one event loop: the tests of the store try the others."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
