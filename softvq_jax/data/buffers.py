"""Memory that large arrays of the same kind take in turn."""

import collections
import mmap
import weakref

import numpy as np


class Buffers:
    """`take(n)` is an array of n bytes, whose memory is taken again when it and all views of it are gone.

    Fresh memory costs more than to copy an image into it: the system zeroes every page and maps it in.
    """

    def __init__(self):
        self._free: dict[int, list[mmap.mmap]] = collections.defaultdict(list)

    def take(self, size: int) -> np.ndarray:
        """uint8 `[size]`, with whatever was there before."""
        kind = max(size, mmap.PAGESIZE - 1).bit_length()
        free = self._free[kind]
        memory = free.pop() if free else mmap.mmap(-1, 1 << kind)
        # Views refer to the array that `frombuffer` makes, not through it to what owns the memory: it dies last.
        array = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(array, free.append, memory).atexit = False
        return array
