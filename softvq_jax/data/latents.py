"""Latents as data: what `tools.encode_latents` writes, for generators to train on.

A record holds `latents` (float32 `[2, L, D]`: of a crop, and of its mirror image) and `label`. Which of the two a
training sample is depends on (seed, global sample index) alone.
"""

import dataclasses
import functools
import json
import os
import pathlib

import numpy as np

from softvq_jax.data import records
from softvq_jax.data.array_record import INDEX, ArrayRecordShards, read_record
from softvq_jax.data.samples import Read, read_each
from softvq_jax.data.source import UnreadableImage

SECTION = "latents"  # of `dataset.json`


@dataclasses.dataclass(frozen=True)
class LatentsInfo:
    """What a folder of latents says of them.

    Attributes:
      tokenizer: fingerprint of the weights that made them.
      num_tokens, channels: `L` and `D`.
      image_size: side of the crops in pixels.
      mean, std: over all their numbers.
      count: how many crops, mirror images not counted.
    """

    tokenizer: str
    num_tokens: int
    channels: int
    image_size: int
    mean: float
    std: float
    count: int


@dataclasses.dataclass(frozen=True)
class RecordedLatents:
    """One record of a shard."""

    shard: str
    position: int

    @property
    def where(self) -> str:
        return f"{self.shard} record {self.position}"

    def read(self) -> tuple[np.ndarray, int]:
        """float32 `[2, L, D]` and the class. Raises `UnreadableImage`."""
        try:
            example = read_record(self.shard, self.position)
            return example["latents"], int(example["label"])
        except (records.CorruptRecord, KeyError, RuntimeError, IndexError) as error:  # Riegeli's are RuntimeErrors
            raise UnreadableImage(self.where, f"{type(error).__name__}: {error}") from None


class LatentShards(ArrayRecordShards):
    """The latents of all shards of a folder, in order.

    Attributes:
      info: what they are.

    Raises:
      FileNotFoundError: for a folder without `dataset.json`, or one that lacks a shard.
      ValueError: for a shard whose size is not the listed one, or a folder without the statistics of its latents.
    """

    record = RecordedLatents

    def __init__(self, folder: str):
        super().__init__(folder)
        self.info = read_info(folder)


def read_info(folder: str | os.PathLike) -> LatentsInfo:
    """What the latents in a folder are, and their statistics.

    Raises:
      FileNotFoundError: no finished folder of latents.
      ValueError: something else is in it.
    """
    path = pathlib.Path(folder, INDEX)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {INDEX} in {str(folder)!r}: not a finished folder of latents. This makes one: python -m "
            f"softvq_jax.tools.encode_latents --from=<tokenizer> --data=<images> --out={folder}"
        )
    section = json.loads(path.read_text()).get(SECTION)
    if section is None:
        raise ValueError(
            f"{path} has no statistics of latents: a generator cannot train on them. Make the folder with "
            "tools.encode_latents; images are encoded on the fly with another data.source"
        )
    return LatentsInfo(**section)


def training(seed: int) -> Read:
    """Reads latents of the crop or of its mirror image, a function of `seed` and the global sample index alone."""
    return functools.partial(read_each, make=functools.partial(_either_flip, seed=seed))


def evaluation() -> Read:
    """Reads the latents of the crop itself."""
    return functools.partial(read_each, make=_unflipped)


def _either_flip(flips, index, *, seed):
    return flips[int(np.random.default_rng((seed, index)).integers(2))]


def _unflipped(flips, index):
    return flips[0]
