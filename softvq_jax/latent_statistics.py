"""Mean and standard deviation of latents: what stands between a tokenizer's latents and a generator's data."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from softvq_jax.metrics.latent_moments import LatentMoments

FIELDS = ("vq_mean", "vq_std")  # in the config.json of published tokenizers, and of generators trained here


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation over all values of a data set's latents; generators model `(latents - mean) / std`.

    Raises:
      ValueError: one of the two is not finite, or `std` is not positive.
    """

    mean: float
    std: float

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"latent statistics: mean {self.mean}, std {self.std}; expected finite, std positive")

    def normalize(self, latents: jax.Array) -> jax.Array:
        """A tokenizer's latents, of any shape, as a generator models them."""
        return (latents - self.mean) / self.std

    def denormalize(self, latents: jax.Array) -> jax.Array:
        """A generator's samples, of any shape, as a tokenizer decodes them."""
        return latents * self.std + self.mean

    @classmethod
    def from_moments(cls, moments: LatentMoments) -> "LatentStatistics":
        """The statistics of measured latents."""
        return cls(moments.mean, moments.std)

    @classmethod
    def from_fields(cls, config: Mapping[str, Any]) -> "LatentStatistics | None":
        """The statistics in the content of a `config.json`; None where it has none."""
        if any(config.get(field) is None for field in FIELDS):
            return None
        return cls(*(float(config[field]) for field in FIELDS))

    def to_fields(self) -> dict[str, float]:
        """The inverse of `from_fields`."""
        return dict(zip(FIELDS, (self.mean, self.std), strict=True))
