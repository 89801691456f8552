"""Gaussian diffusion with a learned variance: forward process, hybrid loss, ancestral step.

The network predicts the noise and, per element, where between its two bounds the logarithm of the reverse variance lies
(improved DDPM, section 3.1). The arithmetic is float32; what would cancel is first simplified with float64 constants.
Steps are named by their index in the `Schedule`.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.diffusion.schedules import Schedule

HALF_BIN = 1 / 255
OPEN_BIN_EDGE = 0.999
PROBABILITY_FLOOR = 1e-12


@flax.struct.dataclass
class HybridLoss:
    """Losses per sample, `[B]`: `total = mse + vb`; `vb` is the variational bound's term in bits per element."""

    total: jax.Array
    mse: jax.Array
    vb: jax.Array


def add_noise(schedule: Schedule, x: jax.Array, noise: jax.Array, index: jax.Array) -> jax.Array:
    """`x_t` after the steps up to `index` `[B]` (DDPM, equation 4)."""
    return _at(np.sqrt(schedule.signal), index, x) * x + _at(np.sqrt(1 - schedule.signal), index, x) * noise


def split_output(output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The network's `[..., 2D]` as the predicted noise `[..., D]`, and the variance's place between its bounds.

    The place is in [0, 1] for outputs in [-1, 1].
    """
    noise, place = jnp.split(output, 2, axis=-1)
    return noise, (place + 1) / 2


def hybrid_loss(schedule: Schedule, output: jax.Array, x: jax.Array, noise: jax.Array, index: jax.Array) -> HybridLoss:
    """Mean squared error of the noise, plus the variational bound that trains the variance alone (improved DDPM, 3.1).

    Args:
      output: the network's `[B, ..., 2D]` at `add_noise(schedule, x, noise, index)`.
      x, noise: `[B, ..., D]`.
      index: `[B]`.
    """
    predicted, place = split_output(output.astype(jnp.float32))
    mse = _sample_mean((predicted - noise) ** 2)
    error = jax.lax.stop_gradient(predicted) - noise
    bound = jnp.where(
        _align(index, x) == 0,
        _discretised_nll(schedule, error, place, x, index),
        _posterior_kl(schedule, error, place, index),
    )
    vb = _sample_mean(bound) / math.log(2)
    return HybridLoss(mse + vb, mse, vb)


def _posterior_kl(schedule, error, place, index):
    """KL divergence of the predicted reverse step from the true one (DDPM, equation 5), in nats.

    Both means are `mean_on_x * x_t - mean_on_noise * noise`, so their difference is that of the noises, and the ratio
    of the variances depends on `place` alone.
    """
    log_ratio = -place * _at(_log_bounds_gap(schedule), index, error)
    weight = _at(schedule.mean_on_noise**2 / schedule.posterior_variance, index, error)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + weight * error**2 * jnp.exp(log_ratio))


def _discretised_nll(schedule, error, place, x, index):
    """`-log` of the probability of the 8-bit bin around `x` (DDPM, equation 13), in nats; for index 0 only.

    Both ends of a bin are mirrored to the side where the distribution function is small: differences of numbers near
    one would lose float32's digits.
    """
    from_mean = _at(schedule.mean_on_noise, index, x) * error
    inverse_std = jnp.exp(-0.5 * log_variance(schedule, place, index))

    def below(q):
        q = inverse_std * q
        return jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (q + 0.044715 * q**3))

    mirrored = -jnp.abs(from_mean)
    inside = below(mirrored + HALF_BIN) - below(mirrored - HALF_BIN)
    lowest, highest = below(from_mean + HALF_BIN), below(HALF_BIN - from_mean)
    probability = jnp.where(x < -OPEN_BIN_EDGE, lowest, jnp.where(x > OPEN_BIN_EDGE, highest, inside))
    return -jnp.log(jnp.maximum(probability, PROBABILITY_FLOOR))


def log_variance(schedule: Schedule, place: jax.Array, index: jax.Array) -> jax.Array:
    """Logarithm of the reverse variance: `place` of the way from the posterior's to beta (improved DDPM, eq. 15)."""
    return _at(np.log(schedule.posterior_variance), index, place) + place * _at(_log_bounds_gap(schedule), index, place)


def ancestral_step(
    schedule: Schedule, output: jax.Array, x: jax.Array, index: jax.Array, noise: jax.Array | None, temperature=1.0
) -> jax.Array:
    """`x_{t-1}` from `x_t` (DDPM, algorithm 2), without clipping; the mean alone where `noise` is None.

    Args:
      output: the network's `[B, ..., 2D]` at `x`.
      index: `[B]` or a scalar.
      temperature: factor on the noise.
    """
    predicted, place = split_output(output.astype(jnp.float32))
    mean = _at(schedule.mean_on_x, index, x) * x - _at(schedule.mean_on_noise, index, x) * predicted
    if noise is None:
        return mean
    return mean + temperature * jnp.exp(0.5 * log_variance(schedule, place, index)) * noise


def _log_bounds_gap(schedule):
    return np.log(schedule.betas / schedule.posterior_variance)


def _align(index, like):
    """`index` with as many axes as `like`, so that it broadcasts over all but the batch axis."""
    index = jnp.asarray(index)
    return index.reshape(index.shape + (1,) * (like.ndim - index.ndim))


def _at(constants, index, like):
    return jnp.asarray(constants, jnp.float32)[_align(index, like)]


def _sample_mean(x):
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
