"""Finite scalar quantization."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.models.bottleneck import Bottleneck, Bottlenecked
from softvq_jax.models.codebook import mean_cosine, perplexity, straight_through

BOUND_MARGIN = 1e-3  # relative distance of the limits of tanh from the outermost levels


class FSQ(Bottleneck):
    """Finite scalar quantization (Mentzer et al., 2023, arXiv 2309.15505, section 3): channels rounded to few levels.

    Channel `i` is bounded by tanh and rounded to one of `levels[i]` integers, straight-through, and scaled to [-1, 1]. The
    index of a code numbers the combinations of levels; the first channel changes fastest. There is no codebook to learn,
    and there are no losses.

    Args:
      levels: number of levels of each channel, 2 or more, for `latent_dim` channels; their product is `codebook_size`.
    """

    has_codebook = discrete = True

    def __init__(self, levels):
        self.levels = tuple(levels)
        self.input_dim = len(self.levels)

    @classmethod
    def from_config(cls, config, *, rngs):
        return cls(**dict(config.bottleneck_args))

    @classmethod
    def check(cls, config):
        super().check(config)
        levels = dict(config.bottleneck_args).get("levels", ())
        if not levels or not all(isinstance(level, int) and level >= 2 for level in levels):
            raise ValueError(
                f"bottleneck_args.levels is {levels!r}; FSQ expects integers of at least 2, such as (8, 5, 5, 5)"
            )
        expected = dict(latent_dim=len(levels), codebook_size=math.prod(levels), num_codebooks=1)
        for name, value in expected.items():
            if getattr(config, name) != value:
                raise ValueError(f"{name} is {getattr(config, name):,}; FSQ with levels {levels} needs {value:,}")

    @property
    def _half_width(self) -> np.ndarray:
        return np.array(self.levels) // 2

    @property
    def _basis(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]])

    def bound(self, z: jax.Array) -> jax.Array:
        """Maps channels to the range of their levels; rounding gives `levels` integers, including 0."""
        levels = np.array(self.levels)
        half = (levels - 1) * (1 + BOUND_MARGIN) / 2
        offset = np.where(levels % 2, 0.0, 0.5)
        shift = np.arctanh(offset / half)
        return jnp.tanh(z + shift) * half - offset

    def __call__(self, z, *, step=None, key=None):
        bounded = self.bound(z)
        latents = straight_through(bounded, jnp.round(bounded)) / self._half_width
        indices = self._indices(jnp.round(bounded))
        stats = {
            "quantizer_cosine": mean_cosine(bounded, latents),
            "perplexity": perplexity(indices, math.prod(self.levels)),
        }
        return Bottlenecked(latents, {}, indices, stats)

    def _indices(self, integers):
        digits = integers.astype(jnp.int32) + self._half_width
        return jnp.sum(digits * self._basis, -1, dtype=jnp.int32)[:, None]

    def encode_indices(self, z):
        return self._indices(jnp.round(self.bound(z)))

    def lookup(self, indices):
        digits = indices[:, 0, :, None] // self._basis % np.array(self.levels)
        return ((digits - self._half_width) / self._half_width).astype(jnp.float32)

    def encode(self, z):
        return self.lookup(self.encode_indices(z))
