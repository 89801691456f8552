"""What makes a training step fit a chip's memory: settings that change no number, from the one that costs least time.

To divide the parameters over more chips costs traffic, which the arithmetic can hide; to recompute activations costs
arithmetic, which nothing hides. So the first is tried before the second, with each remat setting.
"""

import math
from typing import NamedTuple

REMAT = ("none", "dots", "full")  # `config.model.remat`, each keeping less than the one before
FSDP = 16


class Setting(NamedTuple):
    """The fields of a config that decide how much of a step a chip holds."""

    remat: str
    fsdp: int


def settings(given: Setting, chips: int) -> list[Setting]:
    """What to try after `given` was refused on slices of `chips` chips: parameters over 16 chips, or over all if those
    are fewer (what divides them, if neither does), and remat settings that keep less."""
    parts = sorted({given.fsdp, max(given.fsdp, math.gcd(FSDP, chips))})
    return [Setting(remat, fsdp) for remat in REMAT[REMAT.index(given.remat) :] for fsdp in parts][1:]
