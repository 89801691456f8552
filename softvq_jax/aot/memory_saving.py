"""Options that save memory of a training step without changing its results, the fastest first.

Sharding the parameters over more chips costs communication, which can overlap with arithmetic. Recomputing activations
costs arithmetic. So for each remat option, more sharding is tried first.
"""

import math
from typing import NamedTuple

REMAT = ("none", "dots", "attention", "full")  # values of `config.model.remat`, in the order of decreasing memory
FSDP = 16


class MemoryOptions(NamedTuple):
    """The fields of a config that determine the memory that a step needs on a chip."""

    remat: str
    fsdp: int


def options_using_less(given: MemoryOptions, chips: int) -> list[MemoryOptions]:
    """Returns the options to try if `given` does not fit on slices of `chips` chips.

    They shard parameters over 16 chips (or over the greatest common divisor of `chips` and 16), and keep fewer
    activations.
    """
    shards = sorted({given.fsdp, max(given.fsdp, math.gcd(FSDP, chips))})
    return [MemoryOptions(remat, fsdp) for remat in REMAT[REMAT.index(given.remat) :] for fsdp in shards][1:]
