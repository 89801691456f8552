"""The bottlenecks without a codebook (KL, AE), and the registry of all bottlenecks."""

import importlib
from typing import ClassVar

import jax
import jax.numpy as jnp

from softvq_jax.models.bottleneck import Bottleneck, Bottlenecked
from softvq_jax.models.fsq import FSQ
from softvq_jax.models.nearest_code import VQ, SimVQ, TokenFlow
from softvq_jax.models.soft_codes import GumbelSoftmax, SoftVQ
from softvq_jax.parallel import batch_random


class KL(Bottleneck):
    """Diagonal Gaussian latents, sampled in training (Kingma and Welling, 2014); `z` is `[mean, log-variance]`."""

    loss_weights: ClassVar = {"kl": 1e-6}

    def __init__(self, dim):
        self.input_dim = 2 * dim

    @classmethod
    def from_config(cls, config, *, rngs):
        return cls(config.latent_dim, **dict(config.bottleneck_args))

    @classmethod
    def published_config(cls, tensors, fields):
        return dict(num_codebooks=1) if not _has_codebook(tensors) and _has_two_moments(tensors) else None

    def __call__(self, z, *, step=None, key=None):
        mean, log_variance = self.moments(z)
        kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance, axis=(1, 2))
        latents = mean if key is None else mean + jnp.exp(0.5 * log_variance) * batch_random.normal(key, mean.shape)
        stats = {"latent_std": jnp.mean(jnp.exp(0.5 * log_variance))}
        return Bottlenecked(latents, {"kl": jnp.mean(kl)}, stats=stats)

    def moments(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mean and log-variance, `[B, L, D]` each; the log-variance is clipped to [-30, 20]."""
        mean, log_variance = jnp.split(z, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def encode(self, z):
        return self.moments(z)[0]


class AE(Bottleneck):
    """No bottleneck: the latents are the encoder's output."""

    def __init__(self, dim):
        self.input_dim = dim

    @classmethod
    def from_config(cls, config, *, rngs):
        return cls(config.latent_dim, **dict(config.bottleneck_args))

    @classmethod
    def published_config(cls, tensors, fields):
        return None if _has_codebook(tensors) or _has_two_moments(tensors) else dict(num_codebooks=1)

    def __call__(self, z, *, step=None, key=None):
        return Bottlenecked(z, {})

    def encode(self, z):
        return z


def _has_codebook(tensors):
    return "quantize.embedding" in tensors or "quantize.embedding.weight" in tensors


def _has_two_moments(tensors):
    return tensors["quant_conv.weight"].shape[0] == 2 * tensors["post_quant_conv.weight"].shape[1]


BOTTLENECKS: dict[str, type[Bottleneck]] = {
    "softvq": SoftVQ,
    "vq": VQ,
    "simvq": SimVQ,
    "kl": KL,
    "ae": AE,
    "gumbel": GumbelSoftmax,
    "token_flow": TokenFlow,
    "fsq": FSQ,
}


def register_bottleneck(name: str, bottleneck: type[Bottleneck]) -> None:
    """Makes a bottleneck available as `config.model.bottleneck = name`.

    Raises:
      ValueError: another class is registered under this name.
    """
    if BOTTLENECKS.setdefault(name, bottleneck) is not bottleneck:
        raise ValueError(f"bottleneck {name!r} is already registered, as {BOTTLENECKS[name].__qualname__}")


def bottleneck_class(name: str) -> type[Bottleneck]:
    """Returns a bottleneck's class by its registered name or its import path, "package.module:Class".

    Raises:
      ValueError: there is no such bottleneck.
    """
    if name in BOTTLENECKS:
        return BOTTLENECKS[name]
    module, _, attribute = name.partition(":")
    if attribute:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"bottleneck {name!r} cannot be imported: {error}") from error
        if not (isinstance(found, type) and issubclass(found, Bottleneck)):
            raise ValueError(f"bottleneck {name!r} is {found!r}; expected a subclass of Bottleneck")
        return found
    raise ValueError(f"bottleneck is {name!r}; expected one of {', '.join(BOTTLENECKS)}, or package.module:Class")
