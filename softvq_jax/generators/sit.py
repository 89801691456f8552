"""SiT, a transformer that predicts the velocity of the path from data to noise (arXiv 2401.08740)."""

from functools import partial

import jax

from softvq_jax.config.fields import Field, one_of
from softvq_jax.diffusion import objectives, samplers
from softvq_jax.diffusion.paths import PATHS, TIME_DISTRIBUTIONS, Path
from softvq_jax.generators import transformer
from softvq_jax.generators.family import Losses, Sampler, Settings
from softvq_jax.models.dit import DiT

OBJECTIVE_FIELDS = {
    "process": Field("linear", "Path from data to noise.", one_of(*PATHS)),
    "time_distribution": Field(
        "uniform",
        "Distribution of the training times: uniform, or lognormal in the ratio of noise to signal.",
        one_of(*TIME_DISTRIBUTIONS),
    ),
}


def make_losses(objective) -> Losses:
    """Returns the flow matching loss (SiT, equation 5): `{"loss": [B]}`."""
    return partial(_losses, PATHS[objective.process], objective.time_distribution)


def _losses(path: Path, time_distribution, network: DiT, x, labels, key, training):
    velocity = lambda x, t: network(x, t, labels)  # noqa: E731
    return {"loss": objectives.sit_loss(velocity, x, key, path=path, time_distribution=time_distribution)}


def draw_sde(
    network: DiT, labels, keys, guidance, *, settings: Settings, process: str, noise=None, step_noises=None
) -> jax.Array:
    """Draws normalized latents `[B, L, D]` by Euler-Maruyama on the reverse SDE; `process` is the path."""
    model, x, noise_fn = transformer.denoiser(network, labels, keys, guidance, noise, step_noises, settings)
    return samplers.sde_euler_maruyama(model, x, settings.steps, path=PATHS[process], noise_fn=noise_fn)


def draw_ode(
    solver, network: DiT, labels, keys, guidance, *, settings: Settings, process: str, noise=None
) -> jax.Array:
    """Draws normalized latents `[B, L, D]` by a solver of the probability flow ODE."""
    model, x, _ = transformer.denoiser(network, labels, keys, guidance, noise, None, settings)
    return solver(model, x, settings.steps)


SAMPLERS = {
    "sde_euler_maruyama": Sampler(draw_sde, frozenset({"guidance_interval", "noise", "step_noises"}), least_steps=2),
    "ode_euler": Sampler(partial(draw_ode, samplers.ode_euler), frozenset({"guidance_interval", "noise"})),
    "ode_heun": Sampler(partial(draw_ode, samplers.ode_heun), frozenset({"guidance_interval", "noise"})),
}

SIT = transformer.make_family(
    "sit",
    "SiT",
    learn_sigma=False,
    objective=OBJECTIVE_FIELDS,
    losses=make_losses,
    samplers=SAMPLERS,
    process_field="path_type",
    paper="2401.08740",
)
