"""Training losses of the generators, per example. Callers drop labels by `guidance.drop_labels` first."""

import jax
import jax.numpy as jnp

from softvq_jax.diffusion import gaussian
from softvq_jax.diffusion.gaussian import HybridLoss
from softvq_jax.diffusion.guidance import ModelFn
from softvq_jax.diffusion.paths import Path, draw_times
from softvq_jax.diffusion.schedules import Schedule
from softvq_jax.parallel import batch_random


def sit_loss(velocity_fn: ModelFn, x: jax.Array, key: jax.Array, *, path: Path, time_distribution: str) -> jax.Array:
    """Returns the flow matching loss `[B]`, the squared error of the velocity at a random time (SiT, equation 5).

    Args:
      velocity_fn: predicts the velocity at `(x_t [B, L, D], t [B])`.
      x: normalized latents `[B, L, D]`.
      time_distribution: see `paths.draw_times`.
    """
    time_key, noise_key = jax.random.split(key)
    t = draw_times(path, time_distribution, x.shape[0], time_key)
    return velocity_error(velocity_fn, x, batch_random.normal(noise_key, x.shape), t, path)


def velocity_error(velocity_fn: ModelFn, x: jax.Array, noise: jax.Array, t: jax.Array, path: Path) -> jax.Array:
    """Returns `sit_loss` for given noise `[B, L, D]` and times `[B]`."""
    at = t[:, None, None]
    error = velocity_fn(path.interpolate(x, noise, at), t) - path.velocity(x, noise, at)
    return jnp.mean(error**2, axis=(1, 2))


def dit_loss(model_fn: ModelFn, x: jax.Array, key: jax.Array, *, schedule: Schedule) -> HybridLoss:
    """Returns the hybrid loss `[B]` at a random step (improved DDPM, section 3.1).

    Args:
      model_fn: predicts noise and variance `[B, L, 2D]` at `(x_t [B, L, D], timestep [B])`.
      x: normalized latents `[B, L, D]`.
    """
    index_key, noise_key = jax.random.split(key)
    index = batch_random.randint(index_key, x.shape[:1], 0, len(schedule))
    return denoising_loss(model_fn, x, batch_random.normal(noise_key, x.shape), index, schedule)


def denoising_loss(
    model_fn: ModelFn, x: jax.Array, noise: jax.Array, index: jax.Array, schedule: Schedule
) -> HybridLoss:
    """Returns `dit_loss` for given noise and steps `index` `[B]`; `x` `[B, ..., D]` may have any number of axes."""
    timesteps = jnp.asarray(schedule.timesteps, jnp.int32)[index]
    output = model_fn(gaussian.add_noise(schedule, x, noise, index), timesteps)
    return gaussian.hybrid_loss(schedule, output, x, noise, index)


def mar_loss(head_fn, x: jax.Array, z: jax.Array, mask: jax.Array, key: jax.Array, *, schedule: Schedule, repeats: int):
    """Returns MAR's diffusion loss `[B]`, the mean over each example's masked tokens (MAR, equation 2).

    The head also runs on visible tokens, and their losses are dropped. At most 3 in 10 tokens are visible, and their
    number differs from step to step while a compiled program has fixed shapes.

    Args:
      head_fn: the diffusion head, `(x_t [N, D], timestep [N], condition [N, W]) -> [N, 2D]`.
      x: normalized latents `[B, L, D]`.
      z: conditions of the tokens, `[B, L, W]`.
      mask: `[B, L]`, True for masked tokens.
      repeats: number of steps and noises drawn for each token; the head is cheap compared with the network that gives `z`.
    """
    index_key, noise_key = jax.random.split(key)
    shape = (repeats, *x.shape)
    index = batch_random.randint(index_key, shape[:-1], 0, len(schedule), axis=1).reshape(-1)
    noise = batch_random.normal(noise_key, shape, axis=1).reshape(-1, x.shape[-1])
    x, z = (jnp.tile(array.reshape(-1, array.shape[-1]), (repeats, 1)) for array in (x, z))
    losses = denoising_loss(lambda x, t: head_fn(x, t, z), x, noise, index, schedule).total
    return masked_mean(losses.reshape(repeats, *mask.shape).mean(axis=0), mask)


def masked_mean(losses: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of losses `[B, L]` over the masked tokens of each example, `[B]`."""
    return jnp.sum(losses * mask, axis=1) / jnp.sum(mask, axis=1)
