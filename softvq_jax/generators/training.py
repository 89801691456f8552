"""The network of a generator run and what it is trained to minimise, for SiT, DiT and MAR alike."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
from flax import nnx

from softvq_jax.diffusion import masking, objectives
from softvq_jax.diffusion.paths import PATHS, TIME_DISTRIBUTIONS
from softvq_jax.diffusion.schedules import make_schedule
from softvq_jax.generators.config import FAMILIES
from softvq_jax.generators.weights import GeneratorConfig
from softvq_jax.models.dit import DiT, DiTConfig, sincos_positions
from softvq_jax.models.functional import Functional
from softvq_jax.models.mar import MAR, MARConfig

# (network, x [B, L, D], labels [B], key, training) -> losses [B] by name; "loss" is the one to minimise
Losses = Callable[[nnx.Module, jax.Array, jax.Array, jax.Array, bool], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class GeneratorNetwork:
    """A generator as training sees it.

    Attributes:
      config: shape of the network.
      process: SiT's path, or DiT's or MAR's noise schedule.
      losses: per sample, of the network on normalised latents.
      fixed: what belongs to the parameters but is not trained: the positions of SiT and DiT.
    """

    config: GeneratorConfig
    process: str
    functional: Functional
    losses: Losses
    fixed: dict

    def __call__(self, params) -> nnx.Module:
        """The network with these trained parameters."""
        return self.functional(params, self.fixed)


def build(config) -> GeneratorNetwork:
    """The network that a training config asks for.

    Raises:
      ValueError: an unknown family, process or distribution of times.
    """
    fields = config.model.to_dict()
    family, objective = fields.pop("family"), config.objective
    if family not in FAMILIES:
        raise ValueError(f"model.family is {family!r}; expected one of {', '.join(FAMILIES)}")
    if family == "mar":
        shape = MARConfig.from_dict(fields)
        losses = partial(_mar_losses, make_schedule(objective.process), objective.head_repeats)
        return GeneratorNetwork(shape, objective.process, Functional(lambda rngs: MAR(shape, rngs=rngs)), losses, {})
    shape = DiTConfig(**fields, learn_sigma=family == "dit")
    fixed = {"pos_embed": sincos_positions(shape.num_tokens, shape.width)}
    losses = _sit(objective) if family == "sit" else partial(_dit_losses, make_schedule(objective.process))
    return GeneratorNetwork(shape, objective.process, Functional(lambda rngs: DiT(shape, rngs=rngs)), losses, fixed)


def _sit(objective) -> Losses:
    known = {"process": PATHS, "time_distribution": TIME_DISTRIBUTIONS}
    for field, names in known.items():
        if objective[field] not in names:
            raise ValueError(f"objective.{field} is {objective[field]!r}; expected one of {', '.join(names)}")
    return partial(_sit_losses, PATHS[objective.process], objective.time_distribution)


def _sit_losses(path, time_distribution, network, x, labels, key, training):
    velocity = lambda x, t: network(x, t, labels)  # noqa: E731
    return {"loss": objectives.sit_loss(velocity, x, key, path=path, time_distribution=time_distribution)}


def _dit_losses(schedule, network, x, labels, key, training):
    loss = objectives.dit_loss(lambda x, t: network(x, t, labels), x, key, schedule=schedule)
    return {"loss": loss.total, "noise_error": loss.mse, "variational_bound": loss.vb}


def _mar_losses(schedule, repeats, network, x, labels, key, training):
    keys = jax.random.split(key, 3)
    mask = masking.draw_mask(*x.shape[:2], keys[0])
    visible = masking.max_visible(x.shape[1])
    z = network(x, labels, mask, num_visible=visible, key=keys[1] if training else None)
    return {"loss": objectives.mar_loss(network.head, x, z, mask, keys[2], schedule=schedule, repeats=repeats)}
