"""Gaussian diffusion with a learned variance: forward process, hybrid loss, ancestral step.

The network predicts the noise and, per element, the place of the reverse variance between its two bounds on a logarithmic
scale: 0 is the posterior variance, 1 is beta (improved DDPM, section 3.1). The arithmetic is float32; differences of
nearly equal terms are first simplified by hand, with float64 constants. `index` is the index of a step in the `Schedule`.
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
    """Losses per example, `[B]`: `total = mse + vb`, with the term `vb` of the variational bound in bits per element."""

    total: jax.Array
    mse: jax.Array
    vb: jax.Array


def add_noise(schedule: Schedule, x: jax.Array, noise: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the noisy sample `x_t` at the step `index` `[B]` (DDPM, equation 4)."""
    return _at(np.sqrt(schedule.signal), index, x) * x + _at(np.sqrt(1 - schedule.signal), index, x) * noise


def split_output(output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits the network's output `[..., 2D]` into the predicted noise `[..., D]` and the place of the variance.

    Outputs in [-1, 1] give places in [0, 1], from the lower bound of the variance to the upper one.
    """
    noise, place = jnp.split(output, 2, axis=-1)
    return noise, (place + 1) / 2


def hybrid_loss(schedule: Schedule, output: jax.Array, x: jax.Array, noise: jax.Array, index: jax.Array) -> HybridLoss:
    """Returns the noise's squared error plus the variational bound, which trains only the variance.

    Improved DDPM, section 3.1.

    Args:
      output: the network's output `[B, ..., 2D]` at `add_noise(schedule, x, noise, index)`.
      x, noise: `[B, ..., D]`.
      index: `[B]`.
    """
    predicted, place = split_output(output.astype(jnp.float32))
    mse = _sample_mean((predicted - noise) ** 2)
    error = jax.lax.stop_gradient(predicted) - noise
    bound = jnp.where(
        _align(index, x) == 0,
        _discretized_nll(schedule, error, place, x, index),
        _posterior_kl(schedule, error, place, index),
    )
    vb = _sample_mean(bound) / math.log(2)
    return HybridLoss(mse + vb, mse, vb)


def _posterior_kl(schedule, error, place, index):
    """Returns the KL divergence of the predicted reverse step from the true one (DDPM, equation 5), in nats.

    Both means are `mean_on_x * x_t - mean_on_noise * noise`, so their difference is proportional to the error of the
    noise. The ratio of the variances depends only on `place`.
    """
    log_ratio = -place * _at(_log_bounds_gap(schedule), index, error)
    weight = _at(schedule.mean_on_noise**2 / schedule.posterior_variance, index, error)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + weight * error**2 * jnp.exp(log_ratio))


def _discretized_nll(schedule, error, place, x, index):
    """Returns the negative log-probability of the 8-bit bin around `x` (DDPM, equation 13), in nats; for index 0 only.

    Both ends of a bin are mirrored to the side where the distribution function is small, because differences of numbers
    near 1 lose precision in float32.
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
    """Returns the log of the reverse variance, between the posterior variance and beta (improved DDPM, equation 15)."""
    return _at(np.log(schedule.posterior_variance), index, place) + place * _at(_log_bounds_gap(schedule), index, place)


def ancestral_step(
    schedule: Schedule, output: jax.Array, x: jax.Array, index: jax.Array, noise: jax.Array | None, temperature=1.0
) -> jax.Array:
    """Draws `x_{t-1}` given `x_t` (DDPM, algorithm 2), without clipping; returns the mean if `noise` is None.

    Args:
      output: the network's output `[B, ..., 2D]` at `x`.
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
    """Adds axes to `index` `[B]` until it broadcasts against `like` `[B, ...]`."""
    index = jnp.asarray(index)
    return index.reshape(index.shape + (1,) * (like.ndim - index.ndim))


def _at(constants, index, like):
    return jnp.asarray(constants, jnp.float32)[_align(index, like)]


def _sample_mean(x):
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
