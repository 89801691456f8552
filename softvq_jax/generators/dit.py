"""DiT, a transformer that predicts noise and variance, trained and sampled by DDPM (arXiv 2212.09748)."""

from functools import partial

import jax

from softvq_jax.config.fields import Field, one_of
from softvq_jax.diffusion import objectives, samplers
from softvq_jax.diffusion.schedules import BETAS, Schedule, make_schedule
from softvq_jax.generators import transformer
from softvq_jax.generators.family import Losses, Sampler, Settings
from softvq_jax.models.dit import DiT

OBJECTIVE_FIELDS = {"process": Field("linear", "Noise schedule of its 1,000 timesteps.", one_of(*BETAS))}


def make_losses(objective) -> Losses:
    """Returns the hybrid loss (improved DDPM, section 3.1): `loss = noise_error + variational_bound`, `[B]` each."""
    return partial(_losses, make_schedule(objective.process))


def _losses(schedule: Schedule, network: DiT, x, labels, key, training):
    loss = objectives.dit_loss(lambda x, t: network(x, t, labels), x, key, schedule=schedule)
    return {"loss": loss.total, "noise_error": loss.mse, "variational_bound": loss.vb}


def draw(
    network: DiT, labels, keys, guidance, *, settings: Settings, process: str, noise=None, step_noises=None
) -> jax.Array:
    """Draws normalized latents `[B, L, D]` by ancestral sampling; `process` is the noise schedule."""
    model, x, noise_fn = transformer.denoiser(network, labels, keys, guidance, noise, step_noises, settings)
    return samplers.ddpm(model, x, make_schedule(process, steps=settings.steps), noise_fn=noise_fn)


SAMPLERS = {
    "ddpm": Sampler(
        draw,
        frozenset({"guidance_interval", "noise", "step_noises"}),
        most_steps=lambda config: len(make_schedule("linear")),
    )
}

DIT = transformer.make_family(
    "dit",
    "DiT",
    learn_sigma=True,
    objective=OBJECTIVE_FIELDS,
    losses=make_losses,
    samplers=SAMPLERS,
    process_field="schedule",
    paper="2212.09748",
)
