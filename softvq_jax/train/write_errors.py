"""The error of a file of a run that cannot be written. It stops the run, which then saves its state in the fallback."""

import contextlib
import os
from collections.abc import Iterator


class WriteFailed(OSError):
    """A file of the run could not be written; the message names it."""


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError inside into a `WriteFailed` that names `path`; a `WriteFailed` keeps the name that it has."""
    try:
        yield
    except WriteFailed:
        raise
    except OSError as error:
        raise WriteFailed(f"{path} could not be written: {error.strerror or error}") from error
