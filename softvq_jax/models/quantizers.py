"""The built-in bottlenecks (SoftVQ, VQ, SimVQ, KL, AE), and the registry of bottlenecks."""

import importlib
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models.bottleneck import Bottleneck, Bottlenecked, Tensor
from softvq_jax.models.codebook import (
    entropy_loss,
    gather,
    perplexity,
    segment,
    squared_distances,
    uniform_codebook,
    unsegment,
)
from softvq_jax.unit_vectors import unit_vectors

POSTERIORS = ("released", "paper")


def _straight_through(z, z_q):
    return z + jax.lax.stop_gradient(z_q - z)


def _cosine(a, b):
    return jnp.mean(jnp.sum(unit_vectors(a) * unit_vectors(b), -1))


class SoftVQ(Bottleneck):
    """Soft vector quantization: a latent is the posterior average of all codes (SoftVQ-VAE, equations 3 and 4).

    `posterior="released"` is `softmax(<z, c> / tau)` with no gradient from the logits to the codebook: codes are trained
    only through the average. `posterior="paper"` is `softmax(-|z - c| / tau)`, with all gradients.

    Args:
      dim: channels `D` of a code.
      codebook_size, num_codebooks: `K` and `C`.
      temperature: tau.
      l2_normalize: normalize tokens and codes to unit length first.
      posterior: "released" or "paper".
    """

    has_codebook = has_temperature = True
    loss_weights: ClassVar = {"entropy": 0.01}

    def __init__(self, dim, codebook_size, num_codebooks, *, temperature, l2_normalize, posterior, rngs: nnx.Rngs):
        self.temperature, self.l2_normalize, self.posterior = temperature, l2_normalize, posterior
        self.codebook = nnx.Param(uniform_codebook(rngs, num_codebooks, codebook_size, dim))
        self.input_dim = dim

    @classmethod
    def from_config(cls, config, *, rngs):
        return cls(
            config.latent_dim,
            config.codebook_size,
            config.num_codebooks,
            temperature=config.temperature,
            l2_normalize=config.l2_normalize,
            posterior=config.posterior,
            **dict(config.bottleneck_args),
            rngs=rngs,
        )

    @classmethod
    def check(cls, config):
        super().check(config)
        if config.posterior not in POSTERIORS:
            raise ValueError(f"posterior is {config.posterior!r}; expected one of {', '.join(POSTERIORS)}")

    @classmethod
    def tensors(cls, config):
        return {"codebook": Tensor("embedding")}

    @classmethod
    def published_config(cls, tensors, fields):
        if "quantize.embedding" not in tensors:
            return None
        count, size, _ = tensors["quantize.embedding"].shape
        return dict(num_codebooks=count, codebook_size=size, temperature=float(fields.get("tau", 0.07)))

    def posterior_logits(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits before division by the temperature, `[C, B, L/C, K]`, and the codes to average, `[C, K, D]`."""
        codes = self.codebook[...]
        z = segment(z, codes.shape[0])
        if self.l2_normalize:
            z, codes = unit_vectors(z), unit_vectors(codes)
        if self.posterior == "released":
            return jnp.einsum("cbld,ckd->cblk", z, jax.lax.stop_gradient(codes)), codes
        # The square root has no gradient at 0: a floor of 1e-12 on the squared distance keeps it finite.
        return -jnp.sqrt(jnp.maximum(squared_distances(z, codes), 1e-12)), codes

    def codes(self) -> jax.Array:
        """Returns the codes that are averaged, `[C, K, D]`."""
        return unit_vectors(self.codebook[...]) if self.l2_normalize else self.codebook[...]

    def log_posterior(self, z, *, temperature=None):
        logits, _ = self.posterior_logits(z)
        return jax.nn.log_softmax(logits / (self.temperature if temperature is None else temperature))

    def __call__(self, z, *, step=None, key=None):
        logits, codes = self.posterior_logits(z)
        probabilities = jax.nn.softmax(logits / self.temperature)
        latents = unsegment(jnp.einsum("cblk,ckd->cbld", probabilities, codes))
        indices = jnp.argmax(logits, -1).swapaxes(0, 1).astype(jnp.int32)
        stats = {
            "max_probability": jnp.mean(jnp.max(probabilities, -1)),
            "quantizer_cosine": _cosine(z, latents),
            "perplexity": perplexity(indices, codes.shape[1]),
        }
        return Bottlenecked(latents, {"entropy": entropy_loss(logits, 1e-6)}, indices, stats)

    def encode(self, z, *, temperature=None):
        logits, codes = self.posterior_logits(z)
        probabilities = jax.nn.softmax(logits / (self.temperature if temperature is None else temperature))
        return unsegment(jnp.einsum("cblk,ckd->cbld", probabilities, codes))


class NearestCode(Bottleneck):
    """Base class of VQ and SimVQ: the nearest code by L2, straight-through, codebook and commitment losses."""

    has_codebook = discrete = True
    loss_weights: ClassVar = {"codebook": 1.0, "commitment": 0.25, "entropy": 0.01}

    @classmethod
    def tensors(cls, config):
        return {"codebook": Tensor("embedding.weight", squeezed=config.num_codebooks == 1)}

    @classmethod
    def published_config(cls, tensors, fields):
        if "quantize.embedding.weight" not in tensors:
            return None
        codebook = tensors["quantize.embedding.weight"]
        count = codebook.shape[0] if codebook.ndim == 3 else 1
        return dict(num_codebooks=count, codebook_size=codebook.shape[-2])

    def codes(self) -> jax.Array:
        """Returns the codes `[C, K, D]`."""
        raise NotImplementedError

    def prepare(self, z: jax.Array) -> jax.Array:
        """Returns the vectors `[B, L, D]` that are compared with the codes."""
        return z

    def __call__(self, z, *, step=None, key=None):
        z, codes = self.prepare(z), self.codes()
        distances = squared_distances(segment(z, codes.shape[0]), codes)
        indices = jnp.argmin(distances, -1).swapaxes(0, 1).astype(jnp.int32)
        z_q = gather(codes, indices)
        losses = {
            "codebook": jnp.mean(jnp.square(z_q - jax.lax.stop_gradient(z))),
            "commitment": jnp.mean(jnp.square(jax.lax.stop_gradient(z_q) - z)),
            "entropy": entropy_loss(-distances, 1e-5),
        }
        stats = {"quantizer_cosine": _cosine(z, z_q), "perplexity": perplexity(indices, codes.shape[1])}
        return Bottlenecked(_straight_through(z, z_q), losses, indices, stats)

    def encode_indices(self, z):
        codes = self.codes()
        distances = squared_distances(segment(self.prepare(z), codes.shape[0]), codes)
        return jnp.argmin(distances, -1).swapaxes(0, 1).astype(jnp.int32)

    def lookup(self, indices):
        return gather(self.codes(), indices)

    def encode(self, z):
        return self.lookup(self.encode_indices(z))


class VQ(NearestCode):
    """Vector quantization (van den Oord et al., 2017), on unit vectors if `l2_normalize`."""

    def __init__(self, dim, codebook_size, num_codebooks, *, l2_normalize, rngs: nnx.Rngs):
        self.l2_normalize, self.input_dim = l2_normalize, dim
        self.codebook = nnx.Param(uniform_codebook(rngs, num_codebooks, codebook_size, dim))

    @classmethod
    def from_config(cls, config, *, rngs):
        sizes = (config.latent_dim, config.codebook_size, config.num_codebooks)
        return cls(*sizes, l2_normalize=config.l2_normalize, **dict(config.bottleneck_args), rngs=rngs)

    @classmethod
    def published_config(cls, tensors, fields):
        return None if "quantize.embedding_proj.weight" in tensors else super().published_config(tensors, fields)

    def codes(self):
        return unit_vectors(self.codebook[...]) if self.l2_normalize else self.codebook[...]

    def prepare(self, z):
        return unit_vectors(z) if self.l2_normalize else z


class SimVQ(NearestCode):
    """Vector quantization with codes `codebook @ projection + bias` (SimVQ, arXiv 2411.02038).

    The codebook is drawn from a normal distribution and frozen by default; the linear map is trained.
    """

    def __init__(self, dim, codebook_size, num_codebooks, *, train_codebook, rngs: nnx.Rngs):
        self.train_codebook, self.input_dim = train_codebook, dim
        shape = (num_codebooks, codebook_size, dim)
        self.codebook = nnx.Param(dim**-0.5 * jax.random.normal(rngs.params(), shape))
        bound = dim**-0.5
        uniform = lambda shape: jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)  # noqa: E731
        self.projection = nnx.Param(uniform((dim, dim)))
        self.projection_bias = nnx.Param(uniform((dim,)))

    @classmethod
    def from_config(cls, config, *, rngs):
        sizes = (config.latent_dim, config.codebook_size, config.num_codebooks)
        return cls(*sizes, train_codebook=config.train_codebook, **dict(config.bottleneck_args), rngs=rngs)

    @classmethod
    def published_config(cls, tensors, fields):
        return super().published_config(tensors, fields) if "quantize.embedding_proj.weight" in tensors else None

    @classmethod
    def frozen_parameters(cls, config):
        return frozenset() if config.train_codebook else frozenset({"codebook"})

    @classmethod
    def tensors(cls, config):
        return super().tensors(config) | {
            "projection": Tensor("embedding_proj.weight", transposed=True),
            "projection_bias": Tensor("embedding_proj.bias"),
        }

    def codes(self):
        codebook = self.codebook[...] if self.train_codebook else jax.lax.stop_gradient(self.codebook[...])
        return codebook @ self.projection[...] + self.projection_bias[...]


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
        latents = mean if key is None else mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
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


BOTTLENECKS: dict[str, type[Bottleneck]] = {"softvq": SoftVQ, "vq": VQ, "simvq": SimVQ, "kl": KL, "ae": AE}


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
