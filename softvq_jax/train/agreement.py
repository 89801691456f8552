"""Results that all processes of a run share. All processes must call these functions, equally often."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from softvq_jax.train.write_errors import WriteFailed

TEXT_BYTES = 2000  # of a message of another process


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Context in which process 0 writes files; its `WriteFailed` is raised in all processes, with the same message.

    So the message names the file whichever process prints it and ends the others.
    """
    found = None
    try:
        yield
    except WriteFailed as error:
        found = error
    if sum_over_processes(found is not None):
        said = texts_of_processes("" if found is None else str(found))
        raise found or WriteFailed(next(filter(None, said)))


def sum_over_processes(count: int) -> int:
    """Returns the sum of `count` over all processes."""
    return count if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int64(count)).sum())


def texts_of_processes(text: str) -> list[str]:
    """Returns the texts of all processes, in their order; long ones are cut."""
    if jax.process_count() == 1:
        return [text]
    content = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
    rows = multihost_utils.process_allgather(np.frombuffer(content, np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in np.asarray(rows)]
