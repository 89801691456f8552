"""Mean and standard deviation of a tokenizer's latents, with which generators normalize their data."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from softvq_jax.metrics.feature_statistics import Moments

FIELDS = ("vq_mean", "vq_std")  # fields of config.json in published tokenizers, and in generators trained here


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation over all values of a data set's latents; generators model `(latents - mean) / std`.

    Raises:
      ValueError: the mean or `std` is not finite, or `std` is not positive.
    """

    mean: float
    std: float

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"latent statistics: mean {self.mean}, std {self.std}; expected finite, std positive")

    def normalize(self, latents: jax.Array) -> jax.Array:
        """Converts a tokenizer's latents, of any shape, to normalized latents, `(latents - mean) / std`."""
        return (latents - self.mean) / self.std

    def denormalize(self, latents: jax.Array) -> jax.Array:
        """Converts normalized latents, of any shape, to latents that the tokenizer decodes."""
        return latents * self.std + self.mean

    @classmethod
    def from_moments(cls, moments: Moments) -> "LatentStatistics":
        """Returns the statistics of measured latents; see `add_latents`."""
        return cls(float(moments.mean[0]), math.sqrt(moments.scatter[0, 0] / moments.count))

    @classmethod
    def from_fields(cls, config: Mapping[str, Any]) -> "LatentStatistics | None":
        """Returns the statistics in a `config.json`; None if it has none."""
        if any(config.get(field) is None for field in FIELDS):
            return None
        return cls(*(float(config[field]) for field in FIELDS))

    def to_fields(self) -> dict[str, float]:
        """Returns the fields of a `config.json`, the inverse of `from_fields`."""
        return dict(zip(FIELDS, (self.mean, self.std), strict=True))


def no_latents() -> Moments:
    """Returns the moments of an empty stream of latents."""
    return Moments(1)


def add_latents(moments: Moments, latents: np.ndarray) -> None:
    """Adds all values of latents `[..., D]` to the moments, in float64; the division into batches does not matter.

    Raises:
      ValueError: latents are not finite.
    """
    finite = np.isfinite(latents)
    if not finite.all():
        raise ValueError(
            f"{latents.size - finite.sum()} of {latents.size} latent values are not finite: the tokenizer's weights may "
            "be broken"
        )
    moments.update(latents.reshape(-1, 1))


def moments_to_fields(moments: Moments) -> dict[str, float]:
    """Returns moments of latents as JSON values."""
    return {"count": moments.count, "mean": float(moments.mean[0]), "scatter": float(moments.scatter[0, 0])}


def moments_from_fields(fields: Mapping[str, Any]) -> Moments:
    """Returns moments from JSON values, the lossless inverse of `moments_to_fields`."""
    moments = no_latents()
    moments.count, moments.mean[0], moments.scatter[0, 0] = fields["count"], fields["mean"], fields["scatter"]
    return moments
