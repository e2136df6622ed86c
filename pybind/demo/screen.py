"""Progress on one line of a terminal, or on a few lines of a log; and bars."""

import sys
import time

BAR_WIDTH = 24
SECONDS_BETWEEN_FRAMES = 0.1


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A bar of eighths of a block: `bar(0.5, 4)` is two of four blocks long."""
    eighths = round(share * width * 8)
    return ("█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")).ljust(width)


class Progress:
    """One step of the demo: shows how far it is while it runs, and keeps what it took."""

    def __init__(self, what: str, total: int) -> None:
        self.total = total
        self.seconds = 0.0
        self._what = what
        self._terminal = sys.stdout.isatty()
        self._start = "\r" if self._terminal else ""
        self._started = self._drawn = time.perf_counter()

    def show(self, done: int) -> None:
        """Draw the step's line again, if it is time for it."""
        if self._terminal and (now := time.perf_counter()) - self._drawn >= SECONDS_BETWEEN_FRAMES:
            self._drawn = now
            print(f"{self._start}{self._line(done)}", end="", flush=True)

    def finish(self, done: int) -> None:
        """Stop the clock, and leave the finished line standing."""
        self.seconds = time.perf_counter() - self._started
        print(f"{self._start}{self._line(done)}  {self.seconds:5.1f} s", flush=True)

    def _line(self, done: int) -> str:
        share = done / self.total if self.total else 1.0
        return f"  {self._what:<34} {bar(share)} {done:>9,}"
