"""A generator's network and a sampler made one program: labels and keys to normalised latents.

Pure functions of arrays, traceable; `Generator.sample` compiles them. All randomness comes from one key per example, so
an example does not depend on what else is in its batch or on which device it lies.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from softvq_jax.diffusion import masking, samplers
from softvq_jax.diffusion.guidance import guided
from softvq_jax.diffusion.paths import PATHS
from softvq_jax.diffusion.schedules import make_schedule

# family -> its samplers, the default first
SAMPLERS = {"sit": ("sde_euler_maruyama", "ode_euler", "ode_heun"), "dit": ("ddpm",), "mar": ("masked",)}
DEFAULT_STEPS = 250  # of denoising, SiT and DiT
DEFAULT_HEAD_STEPS = 100  # of denoising one token, MAR


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a sampling program is compiled for.

    Attributes:
      sampler: one of the family's `SAMPLERS`.
      steps: denoising steps (SiT, DiT) or iterations over the tokens (MAR).
      guided: whether guidance is on; its scale is an argument of the program.
      interval: `(low, high)`, the times at which it is (SiT, DiT).
      head_steps: denoising steps of each token (MAR).
    """

    sampler: str
    steps: int
    guided: bool
    interval: tuple[float, float] = (0.0, 1.0)
    head_steps: int = DEFAULT_HEAD_STEPS


def example_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """One key per example, a function of the run's key and the example's global index alone."""
    return jax.vmap(partial(jax.random.fold_in, key))(indices)


def sample_sit(network, labels, keys, guidance, noise, step_noises, *, settings: Settings, process: str) -> jax.Array:
    """Normalised latents `[B, L, D]` of a SiT; `process` is its path."""
    model, x, noise_fn = _denoiser(network, labels, keys, guidance, noise, step_noises, settings)
    if settings.sampler == "sde_euler_maruyama":
        return samplers.sde_euler_maruyama(model, x, settings.steps, path=PATHS[process], noise_fn=noise_fn)
    return {"ode_euler": samplers.ode_euler, "ode_heun": samplers.ode_heun}[settings.sampler](model, x, settings.steps)


def sample_dit(network, labels, keys, guidance, noise, step_noises, *, settings: Settings, process: str) -> jax.Array:
    """Normalised latents `[B, L, D]` of a DiT; `process` is its noise schedule."""
    model, x, noise_fn = _denoiser(network, labels, keys, guidance, noise, step_noises, settings)
    return samplers.ddpm(model, x, make_schedule(process, steps=settings.steps), noise_fn=noise_fn)


def _denoiser(network, labels, keys, guidance, noise, step_noises, settings):
    """The network as samplers take it, where they start, and their noise."""
    config = network.config
    shape = (config.num_tokens, config.channels)
    pair_labels = jnp.concatenate([labels, jnp.full_like(labels, config.num_classes)])
    with_guidance = guided(lambda x, t: network(x, t, pair_labels), guidance, config.channels)
    model = samplers.Model(
        lambda x, t: network(x, t, labels), with_guidance if settings.guided else None, *settings.interval
    )
    start_keys, step_keys = _split(keys, 2)
    x = samplers.noise_from_keys(start_keys, shape)(0) if noise is None else noise
    noise_fn = samplers.noise_from_keys(step_keys, shape) if step_noises is None else lambda step: step_noises[step]
    return model, x, noise_fn


def sample_mar(network, labels, keys, guidance, temperature, *, settings: Settings, process: str) -> jax.Array:
    """Normalised latents `[B, L, D]` of a MAR; `process` is the noise schedule of its head.

    With guidance, network and head run on a doubled batch: the first half has its classes, the second none.
    """
    config = network.config
    length, channels = config.num_tokens, config.channels
    order_keys, token_keys = _split(keys, 2)
    schedule = make_schedule(process, steps=settings.head_steps)

    def double(x):
        return jnp.concatenate([x, x]) if settings.guided else x

    all_labels = jnp.concatenate([labels, jnp.full_like(labels, config.num_classes)]) if settings.guided else labels

    def predict(latents, masked, positions, scale, iteration):
        z = network(double(latents), all_labels, double(masked), num_visible=length)
        z = jnp.take_along_axis(z, double(positions)[..., None], axis=1)
        head = lambda x, t: network.head(x, jnp.broadcast_to(t[:, None], x.shape[:2]), z)  # noqa: E731
        model = samplers.Model(head, guided(head, scale, channels) if settings.guided else None)
        shape = (positions.shape[1], channels)
        start_keys, step_keys = _split(_fold_in(token_keys, iteration), 2)
        x, noise_fn = samplers.noise_from_keys(start_keys, shape)(0), samplers.noise_from_keys(step_keys, shape)
        return samplers.ddpm(model, x, schedule, noise_fn=noise_fn, temperature=temperature)

    orders = masking.random_orders(order_keys, length)
    return masking.fill_tokens(predict, orders, channels, settings.steps, guidance)


def _split(keys, count):
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, count))(keys), 1, 0)


def _fold_in(keys, number):
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
