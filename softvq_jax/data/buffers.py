"""A pool of reusable memory for large arrays of similar size."""

import collections
import mmap
import weakref

import numpy as np


class Buffers:
    """A pool of memory: `take(n)` returns an array of n bytes, which is reused once it and all its views are deleted.

    New memory costs more than copying an image into it, because the system zeroes and maps every page.
    """

    def __init__(self):
        self._free: dict[int, list[mmap.mmap]] = collections.defaultdict(list)

    def take(self, size: int) -> np.ndarray:
        """Returns a uint8 array `[size]` of arbitrary content."""
        kind = max(size, mmap.PAGESIZE - 1).bit_length()
        free = self._free[kind]
        memory = free.pop() if free else mmap.mmap(-1, 1 << kind)
        # Views keep a reference to the `frombuffer` array, not to the memory under it, so this array is deleted last.
        array = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(array, free.append, memory).atexit = False
        return array
