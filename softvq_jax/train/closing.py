"""Closes what a run has open, without an error that replaces the run's own."""

import contextlib
from collections.abc import Callable, Iterator

from absl import logging


@contextlib.contextmanager
def at_end(close: Callable[[], None]) -> Iterator[None]:
    """Context that calls `close` at its end.

    After an error inside, an OSError of `close` is only logged: both may come from the same full disk, and the message of
    the first one says how to go on.
    """
    try:
        yield
    except Exception:
        try:
            close()
        except OSError as error:
            logging.error("%s", error)
        raise
    except BaseException:  # preempted
        close()
        raise
    close()
