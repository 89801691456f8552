"""Progress of long work, as a bar on a terminal or as occasional lines in a log. The only user of tqdm."""

import logging as stdlib_logging
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import logging
from tqdm import tqdm

LINE = "{desc}: {n:,} of {total:,}{unit}, {rate_noinv_fmt}, {remaining} left"
SECONDS = 2.0  # least time between two lines that are not on a terminal


class Progress:
    """Shows progress, rate and time left.

    Args:
      description: description of the work, such as `measuring samples`.
      total: total number of items.
      done: number of items finished earlier, which do not count for the rate.
      unit: name of the items.
      log: function that prints a line, such as `logging.info`; None updates a line on a terminal, or prints lines to
        standard error if it is not a terminal.
      seconds: least time between two lines.
    """

    def __init__(
        self,
        description: str,
        total: int,
        done: int = 0,
        unit: str = "images",
        *,
        log: Callable[[str], None] | None = None,
        seconds: float = SECONDS,
    ):
        self._format: dict[str, Any] = dict(
            total=total, prefix=description, unit=f" {unit}", initial=done, bar_format=LINE
        )
        self._total, self._seconds, self._log, self._bar = total, seconds, log or _print, None
        self._began = self._last = time.monotonic()
        if log is None and sys.stderr.isatty():
            bar_format = LINE.replace("{desc}: ", "{desc}: {percentage:3.0f}%|{bar:20}| ")
            options: dict[str, Any] = dict(total=total, desc=description, unit=f" {unit}", initial=done, smoothing=0)
            self._bar = tqdm(**options, bar_format=bar_format, dynamic_ncols=True)

    def __call__(self, done: int) -> None:
        """Shows that `done` items are finished; the last item is always shown."""
        finished = done >= self._total
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if finished:
                self._bar.close()
        elif finished or time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            self._log(tqdm.format_meter(done, elapsed=max(self._last - self._began, 1e-9), **self._format))


class StagedProgress:
    """Shows the progress of work in stages, each with its own total; a stage with one item is a line without numbers.

    Args:
      log, seconds: as in `Progress`.
    """

    def __init__(self, *, log: Callable[[str], None] | None = None, seconds: float = SECONDS):
        self._log, self._seconds, self._stage, self._progress = log, seconds, None, None

    def __call__(self, stage: str, done: int, total: int, unit: str = "parts") -> None:
        """Shows that `done` of the `total` items of a stage are finished; a new name of a stage starts a new stage."""
        if stage != self._stage:
            self._stage = stage
            if total <= 1:
                (self._log or _print)(stage)
            self._progress = Progress(stage, total, done, unit, log=self._log, seconds=self._seconds)
        elif total > 1 and self._progress is not None:
            self._progress(done)


def duration(seconds: float) -> str:
    """Returns a time as `04:05` or `1:02:03`."""
    return tqdm.format_interval(seconds)


def set_up_log() -> None:
    """Makes the log of a command readable: messages of this package and warnings of others, each with the time."""
    handler = logging.get_absl_handler()
    handler.setFormatter(stdlib_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.levelno >= stdlib_logging.WARNING or "softvq_jax" in record.pathname)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
