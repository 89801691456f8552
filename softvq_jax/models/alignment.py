"""Alignment heads, which map latents to the teacher's features (SoftVQ-VAE, section 3.3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.vit import Transformer, ViTConfig

HEAD_WIDTH = 64  # channels of an attention head


class AlignmentHead(nnx.Module):
    """SiLU MLP of three layers, `D -> hidden -> hidden -> teacher width` on the last axis."""

    def __init__(self, latent_dim: int, hidden: int, teacher_width: int, *, dtype=None, rngs: nnx.Rngs):
        self.fc1 = layers.linear(latent_dim, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = layers.linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.fc3 = layers.linear(hidden, teacher_width, dtype=dtype, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        return self.fc3(jax.nn.silu(self.fc2(jax.nn.silu(self.fc1(latents)))))


class AlignmentTransformer(nnx.Module):
    """A transformer over all tokens, `[B, L, D] -> [B, L, teacher width]` (the semantic decoder of TokenFlow, 2412.03069).

    Args:
      length: `L`.
      latent_dim, hidden, teacher_width: `D`, the transformer's width, and the width of the output.
      depth: number of blocks.
    """

    def __init__(
        self, length: int, latent_dim: int, hidden: int, teacher_width: int, *, depth: int, dtype=None, rngs: nnx.Rngs
    ):
        config = ViTConfig(hidden, depth, max(1, hidden // HEAD_WIDTH), layer_scale=None)
        self.embed = layers.linear(latent_dim, hidden, dtype=dtype, rngs=rngs)
        normal = nnx.initializers.truncated_normal(stddev=layers.INIT_STD)
        self.pos_embed = nnx.Param(normal(rngs.params(), (length, hidden), jnp.float32))
        self.transformer = Transformer(config, dtype=dtype, rngs=rngs)
        self.project = layers.linear(hidden, teacher_width, dtype=dtype, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        tokens = self.embed(latents).astype(jnp.float32) + self.pos_embed[...]
        return self.project(self.transformer(tokens))
