"""Reads references and crops their images; runs in the reading threads and processes."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from softvq_jax.data import crops
from softvq_jax.data.decoding import DEFAULT, Decoding
from softvq_jax.data.source import Reference, UnreadableImage

AUGMENTS = {"random_crop": crops.random_crop, "random_region": crops.random_region}

Sample = tuple[np.ndarray, int]  # uint8 [S, S, 3], class
Read = Callable[[Sequence[Reference], Sequence[int]], Iterable[Sample | UnreadableImage]]


def training(size: int, augment: str, seed: int, decoding: Decoding = DEFAULT) -> Read:
    """Returns a function that reads random crops of `size` pixels.

    The function takes references and global sample indexes. A crop depends only on the image, `seed` and the sample
    index. The result for an unreadable image is the error.
    """
    if augment not in AUGMENTS:
        raise ValueError(f"data.augment={augment!r}: expected one of {', '.join(AUGMENTS)}")
    make = functools.partial(_training_crop, size=size, augment=augment, seed=seed)
    return functools.partial(read_each, make=make, decoding=decoding)


def evaluation(size: int, decoding: Decoding = DEFAULT) -> Read:
    """Returns a function that reads center crops of `size` pixels; see `training`."""
    return functools.partial(read_each, make=functools.partial(_evaluation_crop, size=size), decoding=decoding)


def read_each(
    references: Sequence[Reference], indexes: Sequence[int], *, make: Callable, decoding: Decoding = DEFAULT
) -> Iterator[Sample | UnreadableImage]:
    """Yields `(make(content, index), label)` for every reference, or the error if it cannot be read or made."""
    for reference, index in zip(references, indexes, strict=True):
        try:
            content, label = reference.read(decoding)
            made = make(content, index)
        except UnreadableImage as error:
            yield error
        except MemoryError:
            yield UnreadableImage(reference.where, "MemoryError: not enough memory to read and crop it")
        else:
            yield made, label


def _training_crop(image, index, *, size, augment, seed):
    rng = np.random.default_rng((seed, index))
    crop = AUGMENTS[augment](image, size, rng)
    return np.ascontiguousarray(crops.random_flip(crop, rng))


def _evaluation_crop(image, index, *, size):
    return crops.center_crop(image, size)
