"""Bottlenecks that average codes in training: SoftVQ, Gumbel-softmax."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models.bottleneck import Bottleneck, Bottlenecked, Tensor
from softvq_jax.models.codebook import (
    entropy_loss,
    gather,
    mean_cosine,
    perplexity,
    segment,
    squared_distances,
    straight_through,
    uniform_codebook,
    unsegment,
)
from softvq_jax.parallel import batch_random
from softvq_jax.unit_vectors import unit_vectors

POSTERIORS = ("released", "paper")


class CodeAverage(Bottleneck):
    """Base class of bottlenecks that average codes with the weights of a softmax: the codebook and the logits.

    With `posterior="released"` the logits are `<z, c>`, without a gradient to the codebook: codes are trained only
    through the average. With `posterior="paper"` they are `-|z - c|`, with all gradients.

    Args:
      dim: channels `D` of a code.
      codebook_size, num_codebooks: `K` and `C`.
      temperature: of the softmax over codes.
      l2_normalize: normalize tokens and codes to unit length first.
      posterior: "released" or "paper".
    """

    has_codebook = True

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

    def unit_codebooks(self):
        return ("codebook",) if self.l2_normalize else ()

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


class SoftVQ(CodeAverage):
    """Soft vector quantization: a latent is the posterior average of all codes (SoftVQ-VAE, equations 3 and 4).

    The posterior is the softmax of the logits of `CodeAverage`, divided by the temperature tau.
    """

    has_temperature = True
    loss_weights: ClassVar = {"entropy": 0.01}

    @classmethod
    def tensors(cls, config):
        return {"codebook": Tensor("embedding")}

    @classmethod
    def published_config(cls, tensors, fields):
        if "quantize.embedding" not in tensors:
            return None
        count, size, _ = tensors["quantize.embedding"].shape
        return dict(num_codebooks=count, codebook_size=size, temperature=float(fields.get("tau", 0.07)))

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
            "quantizer_cosine": mean_cosine(z, latents),
            "perplexity": perplexity(indices, codes.shape[1]),
        }
        return Bottlenecked(latents, {"entropy": entropy_loss(logits, 1e-6)}, indices, stats)

    def encode(self, z, *, temperature=None):
        logits, codes = self.posterior_logits(z)
        probabilities = jax.nn.softmax(logits / (self.temperature if temperature is None else temperature))
        return unsegment(jnp.einsum("cblk,ckd->cbld", probabilities, codes))


class GumbelSoftmax(CodeAverage):
    """Gumbel-softmax (Jang et al., 2017): a sampled code in training, the most probable one in inference.

    The logits `l` of the codes are those of `CodeAverage`, divided by the temperature. In training, with `g` from the
    Gumbel distribution, a latent is the average of all codes with weights `softmax((l + g) / tau)` (equation 2), so that
    for tau -> 0 it is a code drawn from `softmax(l)`. tau falls from `start` to `floor` over `anneal_steps`, as half a
    cosine (DALL-E, arXiv 2102.12092, appendix A.2). The loss `prior` is the KL divergence of `softmax(l)` from the
    uniform distribution, summed over codes and averaged over tokens.

    Args:
      dim, codebook_size, num_codebooks, temperature, l2_normalize, posterior: see `CodeAverage`.
      start, floor: tau before the first step, and after `anneal_steps` steps.
      anneal_steps: number of steps over which tau falls.
      hard: whether the latents in training are the drawn codes themselves, `argmax(l + g)`, with the gradient of the
        average (straight-through), as in VQGAN's release (`GumbelQuantize`).
    """

    discrete = True
    loss_weights: ClassVar = {"prior": 5e-4}

    def __init__(self, *sizes, start=1.0, floor=0.0625, anneal_steps=150_000, hard=False, rngs: nnx.Rngs, **options):
        super().__init__(*sizes, **options, rngs=rngs)
        self.start, self.floor, self.anneal_steps, self.hard = start, floor, anneal_steps, hard

    @classmethod
    def check(cls, config):
        super().check(config)
        args = dict(config.bottleneck_args)
        for name in ("start", "floor", "anneal_steps"):
            if not args.get(name, 1) > 0:
                raise ValueError(f"bottleneck_args.{name} is {args[name]!r}; expected a number above 0")

    def tau(self, step: jax.Array | None) -> jax.Array | float:
        """Returns the temperature of the relaxation after `step` steps; None means after the last one."""
        if step is None:
            return self.floor
        share = jnp.minimum(step / self.anneal_steps, 1.0)
        return self.floor + (self.start - self.floor) * 0.5 * (1 + jnp.cos(math.pi * share))

    def __call__(self, z, *, step=None, key=None):
        logits, codes = self.posterior_logits(z)
        logits = logits / self.temperature
        log_p = jax.nn.log_softmax(logits)
        noisy = logits if key is None else logits + batch_random.gumbel(key, logits.shape, axis=1)
        tau = self.tau(step)
        weights = jax.nn.softmax(noisy / tau)
        indices = jnp.argmax(noisy, -1).swapaxes(0, 1).astype(jnp.int32)
        drawn = gather(codes, indices)
        latents = drawn
        if step is not None:
            average = unsegment(jnp.einsum("cblk,ckd->cbld", weights, codes))
            latents = straight_through(average, drawn) if self.hard else average
        prior = jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p + math.log(codes.shape[1])), -1))
        stats = {
            "gumbel_tau": jnp.asarray(tau, jnp.float32),
            "max_probability": jnp.mean(jnp.max(weights, -1)),
            "quantizer_cosine": mean_cosine(z, latents),
            "perplexity": perplexity(indices, codes.shape[1]),
        }
        return Bottlenecked(latents, {"prior": prior}, indices, stats)

    def encode_indices(self, z):
        logits, _ = self.posterior_logits(z)
        return jnp.argmax(logits, -1).swapaxes(0, 1).astype(jnp.int32)

    def lookup(self, indices):
        return gather(self.codes(), indices)

    def encode(self, z):
        return self.lookup(self.encode_indices(z))
