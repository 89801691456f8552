"""Bottlenecks that replace each token by the nearest code: VQ, SimVQ, TokenFlow's shared index."""

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
)
from softvq_jax.unit_vectors import unit_vectors


class NearestCode(Bottleneck):
    """Base class: the nearest code by L2 distance, with straight-through gradients, codebook and commitment losses."""

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

    def distances(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns the distances `[C, B, L/C, K]` of prepared vectors `z` to `codes`."""
        return squared_distances(segment(z, codes.shape[0]), codes)

    def __call__(self, z, *, step=None, key=None):
        z, codes = self.prepare(z), self.codes()
        distances = self.distances(z, codes)
        indices = jnp.argmin(distances, -1).swapaxes(0, 1).astype(jnp.int32)
        z_q = gather(codes, indices)
        losses = {
            "codebook": jnp.mean(jnp.square(z_q - jax.lax.stop_gradient(z))),
            "commitment": jnp.mean(jnp.square(jax.lax.stop_gradient(z_q) - z)),
            "entropy": entropy_loss(-distances, 1e-5),
        }
        stats = {"quantizer_cosine": mean_cosine(z, z_q), "perplexity": perplexity(indices, codes.shape[1])}
        return Bottlenecked(straight_through(z, z_q), losses, indices, stats)

    def encode_indices(self, z):
        distances = self.distances(self.prepare(z), self.codes())
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

    def unit_codebooks(self):
        return ("codebook",) if self.l2_normalize else ()

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


class TokenFlow(NearestCode):
    """TokenFlow's shared index (arXiv 2412.03069, section 3.1): one index for a semantic and a pixel code.

    The first `semantic_dim` channels of a token are compared with the semantic codebook `[K, Ds]` and the others with the
    pixel codebook `[K, Dp]`, all as unit vectors. One index has the smallest sum
    `|z_s - c_s|^2 + pixel_weight * |z_p - c_p|^2`; the latent is `[c_s, c_p]`. To align the semantic channels alone with a
    teacher, set `config.alignment.channels` to `semantic_dim`.

    Args:
      dim: channels of a latent, `Ds + Dp`.
      codebook_size, num_codebooks: `K` and `C`, of both codebooks.
      semantic_dim: `Ds`.
      pixel_weight: weight of the pixel distance, w in the paper.
    """

    def __init__(self, dim, codebook_size, num_codebooks, *, semantic_dim=32, pixel_weight=1.0, rngs: nnx.Rngs):
        self.input_dim, self.semantic_dim, self.pixel_weight = dim, semantic_dim, pixel_weight
        self.semantic = nnx.Param(uniform_codebook(rngs, num_codebooks, codebook_size, semantic_dim))
        self.pixel = nnx.Param(uniform_codebook(rngs, num_codebooks, codebook_size, dim - semantic_dim))

    @classmethod
    def from_config(cls, config, *, rngs):
        sizes = (config.latent_dim, config.codebook_size, config.num_codebooks)
        return cls(*sizes, **dict(config.bottleneck_args), rngs=rngs)

    @classmethod
    def check(cls, config):
        super().check(config)
        semantic_dim = dict(config.bottleneck_args).get("semantic_dim", 32)
        if not 0 < semantic_dim < config.latent_dim:
            raise ValueError(
                f"bottleneck_args.semantic_dim is {semantic_dim!r}; expected 1 to {config.latent_dim - 1}, because "
                f"latent_dim {config.latent_dim} is the sum of semantic and pixel channels"
            )

    @classmethod
    def tensors(cls, config):
        return {name: Tensor(name) for name in ("semantic", "pixel")}

    @classmethod
    def published_config(cls, tensors, fields):
        return None

    def unit_codebooks(self):
        return ("semantic", "pixel")

    def _unit_parts(self, x):
        """Scales the semantic and the pixel part of each vector to unit length."""
        return jnp.concatenate(
            [unit_vectors(x[..., : self.semantic_dim]), unit_vectors(x[..., self.semantic_dim :])], axis=-1
        )

    def codes(self):
        return self._unit_parts(jnp.concatenate([self.semantic[...], self.pixel[...]], axis=-1))

    def prepare(self, z):
        return self._unit_parts(z)

    def distances(self, z, codes):
        # Channels scaled by the root of their weight turn the weighted sum into one squared distance.
        scale = jnp.ones(z.shape[-1]).at[self.semantic_dim :].set(self.pixel_weight**0.5)
        return super().distances(z * scale, codes * scale)
