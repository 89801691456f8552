"""Paths from data to noise: `x_t = alpha(t) x + sigma(t) e`, `t` from 0 (data) to 1 (noise) (SiT, arXiv 2401.08740).

Coefficients have the type of `t`: float64 NumPy arrays in samplers, traced JAX arrays in losses.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.parallel import batch_random

TIME_DISTRIBUTIONS = ("uniform", "lognormal")

Coefficient: TypeAlias = Callable[[Any], Any]
"""Maps times, a NumPy or JAX array, to an array of the same shape and library."""


@dataclasses.dataclass(frozen=True)
class Path:
    """A path from data to noise.

    Attributes:
      alpha, sigma: coefficients of data and noise, as functions of time.
      alpha_rate, sigma_rate: their time derivatives.
      time_of_ratio: the time at which `sigma / alpha` has a given value.
    """

    alpha: Coefficient
    sigma: Coefficient
    alpha_rate: Coefficient
    sigma_rate: Coefficient
    time_of_ratio: Coefficient

    def interpolate(self, x: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """Returns the point `x_t` of the path; `t` broadcasts against `x`."""
        return self.alpha(t) * x + self.sigma(t) * noise

    def velocity(self, x: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """Returns the time derivative of `x_t`, which the network is trained to predict."""
        return self.alpha_rate(t) * x + self.sigma_rate(t) * noise

    def score_coefficients(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(a, b)` of the score `a v + b x_t`, the gradient of the log density (SiT, section 2.4); t > 0."""
        ratio = self.alpha(t) / self.alpha_rate(t)
        scale = self.sigma(t) ** 2 - ratio * self.sigma_rate(t) * self.sigma(t)
        return ratio / scale, -1.0 / scale


LINEAR = Path(
    alpha=lambda t: 1.0 - t,
    sigma=lambda t: t,
    alpha_rate=lambda t: 0.0 * t - 1.0,
    sigma_rate=lambda t: 0.0 * t + 1.0,
    time_of_ratio=lambda ratio: ratio / (1.0 + ratio),
)


def _cos(t):
    return t.__array_namespace__().cos(math.pi / 2 * t)


def _sin(t):
    return t.__array_namespace__().sin(math.pi / 2 * t)


COSINE = Path(
    alpha=_cos,
    sigma=_sin,
    alpha_rate=lambda t: -math.pi / 2 * _sin(t),
    sigma_rate=lambda t: math.pi / 2 * _cos(t),
    time_of_ratio=lambda ratio: 2.0 / math.pi * jnp.arctan(ratio),
)

PATHS = {"linear": LINEAR, "cosine": COSINE}


def draw_times(path: Path, distribution: str, count: int, key: jax.Array) -> jax.Array:
    """Draws training times `[count]`: "uniform", or "lognormal" (`log(sigma / alpha)` is a standard normal).

    Raises:
      ValueError: unknown distribution.
    """
    if distribution == "uniform":
        return batch_random.uniform(key, (count,))
    if distribution == "lognormal":
        return path.time_of_ratio(jnp.exp(batch_random.normal(key, (count,))))
    raise ValueError(f"time distribution is {distribution!r}; expected one of {', '.join(TIME_DISTRIBUTIONS)}")
