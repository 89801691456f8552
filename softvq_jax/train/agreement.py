"""Results that all processes of a run share. All processes must call these functions, equally often."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from softvq_jax.train.write_errors import WriteFailed


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Context in which process 0 writes files; its `WriteFailed` is raised in all processes."""
    found = None
    try:
        yield
    except WriteFailed as error:
        found = error
    if sum_over_processes(found is not None):
        raise found or WriteFailed("process 0 could not write a file")


def sum_over_processes(count: int) -> int:
    """Returns the sum of `count` over all processes."""
    return count if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int64(count)).sum())
