"""From a reference to a crop: the work that the reading processes do."""

import functools
from collections.abc import Callable

import numpy as np

from softvq_jax.data import crops
from softvq_jax.data.source import Reference

AUGMENTS = {"random_crop": crops.random_crop, "random_region": crops.random_region}

Read = Callable[[Reference, int], tuple[np.ndarray, int]]  # (reference, sample index) -> uint8 [S, S, 3], class


def training(size: int, augment: str, seed: int) -> Read:
    """Reads random crops of `size` pixels, a function of the picture, `seed` and the global sample index alone."""
    if augment not in AUGMENTS:
        raise ValueError(f"data.augment={augment!r}: expected one of {', '.join(AUGMENTS)}")
    return functools.partial(_training_crop, size=size, augment=augment, seed=seed)


def evaluation(size: int) -> Read:
    """Reads centre crops of `size` pixels."""
    return functools.partial(_evaluation_crop, size=size)


def _training_crop(reference, index, *, size, augment, seed):
    image, label = reference.read()
    rng = np.random.default_rng((seed, index))
    crop = AUGMENTS[augment](image, size, rng)
    return np.ascontiguousarray(crops.random_flip(crop, rng)), label


def _evaluation_crop(reference, index, *, size):
    image, label = reference.read()
    return crops.center_crop(image, size), label
