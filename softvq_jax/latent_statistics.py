"""The statistics that stand between a tokenizer's latents and a generator's data."""

import dataclasses
import math
from collections.abc import Mapping

import jax

FIELDS = ("vq_mean", "vq_std")  # in a published tokenizer's config.json, and in our generators'


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation over all latents of a data set; generators model `(latents - mean) / std`.

    Raises:
      ValueError: `std` is not positive, or one of the two is not finite.
    """

    mean: float
    std: float

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"latent statistics: mean {self.mean}, std {self.std}; expected finite, std positive")

    def normalize(self, latents: jax.Array) -> jax.Array:
        """A tokenizer's latents as a generator sees them."""
        return (latents - self.mean) / self.std

    def denormalize(self, latents: jax.Array) -> jax.Array:
        """A generator's samples as a tokenizer decodes them."""
        return latents * self.std + self.mean

    @classmethod
    def from_fields(cls, config: Mapping) -> "LatentStatistics | None":
        """Those that a `config.json` holds, None where it has none."""
        if any(config.get(field) is None for field in FIELDS):
            return None
        return cls(*(float(config[field]) for field in FIELDS))

    def to_fields(self) -> dict[str, float]:
        """The inverse of `from_fields`."""
        return dict(zip(FIELDS, (self.mean, self.std), strict=True))
