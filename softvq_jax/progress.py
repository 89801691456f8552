"""A line that says how far long work is, how fast it goes and how long it will take."""

import sys
import time

QUIET_SECONDS = 2.0  # at least, between two lines


class Progress:
    """Prints `what: done of total, rate, time left`; rewrites its line on a terminal.

    Args:
      what: what is being done, as `measuring samples`.
      total: how many there are.
      done: how many were done before, which does not count for the rate.
      unit: what is counted.
    """

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "images"):
        self._what, self._total, self._first, self._unit = what, total, done, unit
        self._begin = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Tells that `done` of them are done."""
        now = time.monotonic()
        if now - self._last < QUIET_SECONDS and done < self._total:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._begin, 1e-9)
        left = duration((self._total - done) / rate) if rate else "unknown"
        line = f"{self._what}: {done:,} of {self._total:,} {self._unit}, {rate:.3g} {self._unit}/s, {left} left"
        finished = done >= self._total
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`42 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
