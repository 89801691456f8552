"""Options that save memory of a training step and change none of its results, the fastest first.

Sharding the parameters over more chips costs traffic, which can overlap with arithmetic; recomputing activations costs
arithmetic, which cannot. So with each remat option, more sharding is tried first.
"""

import math
from typing import NamedTuple

REMAT = ("none", "dots", "full")  # `config.model.remat`, each keeping less than the one before
FSDP = 16


class MemoryOptions(NamedTuple):
    """The fields of a config that determine how much memory of a chip a step needs."""

    remat: str
    fsdp: int


def options_using_less(given: MemoryOptions, chips: int) -> list[MemoryOptions]:
    """Returns the options to try after `given` did not fit on slices of `chips` chips.

    Parameters are sharded over 16 chips, or the largest divisor of `chips` in common with 16, and remat keeps less.
    """
    shards = sorted({given.fsdp, max(given.fsdp, math.gcd(FSDP, chips))})
    return [MemoryOptions(remat, fsdp) for remat in REMAT[REMAT.index(given.remat) :] for fsdp in shards][1:]
