"""MAR's diffusion head, a small MLP that denoises one token given its condition (arXiv 2406.11838, section 3.3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.dit import FinalLayer, TimeEmbedding, modulate, reset_to_xavier, zero_linear


class HeadBlock(nnx.Module):
    """Residual block `x + gate * mlp(modulate(norm(x)))`; `silu_condition` `[..., width]` is SiLU of the condition."""

    def __init__(self, width: int, *, dtype=None, rngs: nnx.Rngs):
        self.norm = layers.layer_norm(width, rngs=rngs)
        self.modulation = zero_linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.mlp = layers.MLP(width, width, "silu", dtype=dtype, rngs=rngs)
        reset_to_xavier(self.mlp.fc1, rngs)
        reset_to_xavier(self.mlp.fc2, rngs)

    def __call__(self, x: jax.Array, silu_condition: jax.Array) -> jax.Array:
        shift, scale, gate = jnp.split(self.modulation(silu_condition).astype(jnp.float32), 3, axis=-1)
        return x + gate * self.mlp(modulate(self.norm(x), shift, scale))


class DiffusionHead(nnx.Module):
    """Predicts the noise and the variance of each token from its timestep and its condition."""

    def __init__(
        self, channels: int, condition_width: int, width: int, depth: int, *, dtype=None, remat="none", rngs: nnx.Rngs
    ):
        self.remat = remat
        self.time_embed = TimeEmbedding(width, dtype=dtype, rngs=rngs)
        self.cond_embed = reset_to_xavier(layers.linear(condition_width, width, dtype=dtype, rngs=rngs), rngs)
        self.input_proj = reset_to_xavier(layers.linear(channels, width, dtype=dtype, rngs=rngs), rngs)
        self.blocks = layers.stack(lambda rngs: HeadBlock(width, dtype=dtype, rngs=rngs), depth, rngs)
        self.final_layer = FinalLayer(width, 2 * channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array, z: jax.Array) -> jax.Array:
        """Predicts noise and variance `[..., 2D]` float32.

        Args:
          x: noisy tokens `[..., D]`.
          t: timesteps `[...]`.
          z: conditions `[..., condition_width]`.
        """
        silu_condition = jax.nn.silu((self.time_embed(t) + self.cond_embed(z)).astype(jnp.float32))
        x = self.input_proj(x).astype(jnp.float32)
        x = layers.scan_blocks(self.blocks, x, silu_condition, remat=self.remat)
        return self.final_layer(x, silu_condition)
