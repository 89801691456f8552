"""Keeps the tracebacks of a failed save out of the log, where one error of a disk causes hundreds of them.

The error itself is raised once, as `SaveFailed`. The tracebacks have two sources:

- Orbax and asyncio log what they raise as well;
- Orbax writes all arrays in one event loop, which ends with the first error. TensorStore then finishes the other writes,
  and calls a loop that is closed. Python reports the exception of such a callback to `sys.unraisablehook`.
"""

import logging
import sys


def drop_tracebacks() -> None:
    """Drops the tracebacks of both sources; everything else is reported as before. May be called again."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _is_not_a_traceback not in logger.filters:
            logger.addFilter(_is_not_a_traceback)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


def _is_not_a_traceback(entry: logging.LogRecord) -> bool:
    library = entry.name == "asyncio" or "/orbax/" in entry.pathname
    return not (library and entry.exc_info and entry.levelno >= logging.ERROR)


class _UnraisableHook:
    """Drops errors of calls to a closed event loop, and passes on everything else to the hook `then`."""

    def __init__(self, then):
        self._then = then

    def __call__(self, unraisable) -> None:
        trace = unraisable.exc_traceback
        loop_is_closed = (
            isinstance(unraisable.exc_value, RuntimeError)
            and str(unraisable.exc_value) == "Event loop is closed"
            and trace is not None
            and trace.tb_frame.f_code.co_name == "call_soon_threadsafe"
        )
        if not loop_is_closed:
            self._then(unraisable)
