"""Reads the latents that `tools.encode_latents` writes, to train generators.

A record holds a `label`, and for a crop and its mirror image either `latents`, float32 `[2, L, D]`, or the `indices` of a
discrete tokenizer, int32 `[2, L]`. Training uses the crop or its mirror image, chosen by seed and global sample index.
"""

import dataclasses
import functools
import math
import os
from typing import Any

import numpy as np

from softvq_jax.data import records
from softvq_jax.data.array_record import INDEX, LATENTS, ArrayRecordShards, class_in, read_index, read_record
from softvq_jax.data.decoding import DEFAULT, Decoding
from softvq_jax.data.samples import Read, read_each
from softvq_jax.data.source import UnreadableImage
from softvq_jax.storage.paths import as_path, expand

SECTION = LATENTS
_CHANNEL_FIELDS = ("channel_means", "channel_stds")
_INDEX_FIELDS = ("codebook_size", "num_codebooks")


@dataclasses.dataclass(frozen=True)
class LatentsInfo:
    """Metadata of a folder of latents.

    Attributes:
      tokenizer: fingerprint of the tokenizer's weights.
      num_tokens, channels: `L` and `D`.
      image_size: side of the crops in pixels.
      mean, std: mean and standard deviation of all values.
      channel_means, channel_stds: mean and standard deviation of each channel; empty in folders of older versions.
      count: number of crops, without mirror images.
      codebook_size, num_codebooks: `K` and `C` of stored indices, 0 for latents. The mean and the standard deviation of
        indices are not used.
    """

    tokenizer: str
    num_tokens: int
    channels: int
    image_size: int
    mean: float
    std: float
    count: int
    channel_means: tuple[float, ...] = ()
    channel_stds: tuple[float, ...] = ()
    codebook_size: int = 0
    num_codebooks: int = 0

    @property
    def discrete(self) -> bool:
        """True if the stored arrays are indices of codes, False if they are latents."""
        return self.codebook_size > 0

    def to_fields(self) -> dict[str, Any]:
        """Returns the section of `dataset.json`; without the fields of a codebook unless `discrete`."""
        return {name: value for name, value in vars(self).items() if self.discrete or name not in _INDEX_FIELDS}


@dataclasses.dataclass(frozen=True)
class RecordedLatents:
    """One record of a shard; `classes` is the number of classes of the data set."""

    shard: str
    position: int
    classes: int

    @property
    def where(self) -> str:
        return f"{self.shard} record {self.position}"

    def read(self, decoding: Decoding = DEFAULT) -> tuple[np.ndarray, int]:
        """Reads latents, float32 `[2, L, D]`, or indices, int32 `[2, L]`, and the class; raises `UnreadableImage`."""
        try:
            example = read_record(self.shard, self.position)
            return example["indices" if "indices" in example else "latents"], class_in(example, self.classes)
        except (records.CorruptRecord, KeyError, RuntimeError, IndexError) as error:  # Riegeli's are RuntimeErrors
            raise UnreadableImage(self.where, f"{type(error).__name__}: {error}") from None


class LatentShards(ArrayRecordShards):
    """The latents of all shards of a folder, in order.

    Attributes:
      info: metadata.

    Raises:
      FileNotFoundError: `dataset.json` or a shard is missing.
      ValueError: the size of a shard differs from `dataset.json`, or the folder has no latent statistics.
    """

    record = RecordedLatents
    latents = True

    def __init__(self, folder: str):
        self.info = read_info(folder)
        super().__init__(folder)


def read_info(folder: str | os.PathLike) -> LatentsInfo:
    """Reads the metadata of a folder of latents.

    Raises:
      FileNotFoundError: the folder is not a finished folder of latents.
      ValueError: the folder holds images, or its metadata are damaged.
    """
    path = as_path(expand(str(folder))) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"no {INDEX} in {str(folder)!r}: not a finished folder of latents. To make one: python -m "
            f"softvq_jax.tools.encode_latents --from=<tokenizer> --data=<images> --out={folder}"
        )
    section = read_index(path).get(SECTION)
    if section is None:
        raise ValueError(
            f"{path} has no statistics of latents: encode the images with tools.encode_latents, or train on them with "
            "another data.source"
        )
    fields = dataclasses.fields(LatentsInfo)
    wrong = [field.name for field in fields if not _fits(section, field)]
    if wrong:
        raise ValueError(
            f"{path}: the section {SECTION!r} lacks {', '.join(wrong)}, or has wrong values of them: encode the "
            "images again"
        )
    values: dict[str, Any] = {field.name: section[field.name] for field in fields if field.name in section}
    values |= {name: tuple(values[name]) for name in _CHANNEL_FIELDS if name in values}
    return LatentsInfo(**values)


def _fits(section, field):
    if isinstance(section, dict) and field.name in _INDEX_FIELDS and not any(name in section for name in _INDEX_FIELDS):
        return True  # a folder of latents
    value = section.get(field.name) if isinstance(section, dict) else None
    if field.name in _CHANNEL_FIELDS:
        positive = field.name == "channel_stds"
        return not value or _are_finite(value, section.get("channels"), positive)
    if field.type is str:
        return isinstance(value, str)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return field.name == "mean" or (value > 0 and (field.type is float or isinstance(value, int)))


def _are_finite(values, count, positive):
    if not isinstance(values, list) or len(values) != count:
        return False
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return numbers and (not positive or min(values) > 0)


def training(seed: int) -> Read:
    """Returns a function that reads the latents of the crop or its mirror image, chosen by `seed` and sample index."""
    return functools.partial(read_each, make=functools.partial(_either_flip, seed=seed))


def evaluation() -> Read:
    """Returns a function that reads the latents of the crop."""
    return functools.partial(read_each, make=_unflipped)


def _either_flip(flips, index, *, seed):
    return flips[int(np.random.default_rng((seed, index)).integers(2))]


def _unflipped(flips, index):
    return flips[0]
