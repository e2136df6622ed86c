"""Says at the end of a run which source files have grown long: a remark, not a failure."""

import pytest

from tests.repository import rules
from tests.repository.test_tidy import files


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lengths = ((text.count("\n"), path) for path, text in files(".rs", ".py", ".pyi").items())
    for lines, path in sorted(lengths, reverse=True):
        if lines > rules.LINES_WORTH_A_REMARK:
            terminalreporter.write_line(f"{path} has {lines} lines: one idea?")
