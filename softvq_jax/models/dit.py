"""The diffusion transformer of SiT and DiT, on 1-D latents (arXiv 2212.09748, section 3; arXiv 2401.08740).

The input is `L` tokens of `D` channels; position embeddings are fixed. Time and class enter through adaptive layer norms
with gates that start at zero (adaLN-Zero).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.models import layers

TIME_CHANNELS = 256
LONGEST_PERIOD = 10_000.0


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Shape of the transformer.

    Attributes:
      num_tokens, channels: `L` and `D` of the latents.
      width, depth, num_heads: width, number and attention heads of the blocks.
      learn_sigma: whether each token has `2D` outputs, noise and variance (DiT), or `D`, the velocity (SiT).
      num_classes: number of classes; the label `num_classes` means no class.
      mlp_ratio: hidden width of the MLPs, as a multiple of `width`.
      qk_norm: LayerNorm on the queries and keys of each head.
      dtype: type of the matmuls; parameters are float32.
      remat: what the blocks recompute in the backward pass; see `layers.scan_blocks`.

    Raises:
      ValueError: the width is odd, or the MLPs would have no hidden channels.
    """

    num_tokens: int
    channels: int
    width: int
    depth: int
    num_heads: int
    learn_sigma: bool = False
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    qk_norm: bool = False
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.width % 2:
            raise ValueError(f"width is {self.width}; expected an even number, for sines and cosines of positions")
        layers.check_hidden(self.width, self.mlp_ratio)

    @property
    def out_channels(self) -> int:
        return self.channels * (2 if self.learn_sigma else 1)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass on one example: matmuls with weights, and attention."""
        width, length, hidden = self.width, self.num_tokens, int(self.mlp_ratio * self.width)
        block = length * (4 * width**2 + 2 * width * hidden) + 2 * length**2 * width + 6 * width**2
        ends = length * width * (self.channels + self.out_channels) + 2 * width**2
        return self.depth * block + ends + width * (TIME_CHANNELS + width)


class FixedPositions(nnx.Variable):
    """Position embeddings that are saved with the weights but not trained."""


def sincos_positions(length: int, width: int) -> np.ndarray:
    """Returns embeddings `[L, width]` with sines in even and cosines in odd channels (Vaswani et al., 2017, sec. 3.5)."""
    angles = np.arange(length)[:, None] / LONGEST_PERIOD ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)


class TimeEmbedding(nnx.Module):
    """Embeds `t` `[B]` as `[B, width]`: 256 cosines and sines of `t`, unscaled, and a two-layer SiLU MLP."""

    def __init__(self, width: int, *, dtype=None, rngs: nnx.Rngs):
        self.fc1 = normal_linear(TIME_CHANNELS, width, dtype=dtype, rngs=rngs)
        self.fc2 = normal_linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, t: jax.Array) -> jax.Array:
        half = TIME_CHANNELS // 2
        # The published networks round the exponents to float32; the difference is visible at t = 999.
        exponents = -np.float32(np.log(LONGEST_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half)
        frequencies = jnp.asarray(np.exp(exponents.astype(np.float64)), jnp.float32)
        angles = t.astype(jnp.float32)[..., None] * frequencies
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return self.fc2(jax.nn.silu(self.fc1(features)))


class Block(nnx.Module):
    """A transformer block with adaLN-Zero; `silu_condition` `[B, width]` is SiLU of the condition."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.norm1 = layers.layer_norm(width, affine=False, rngs=rngs)
        self.attn = layers.Attention(width, config.num_heads, qk_norm=config.qk_norm, dtype=dtype, rngs=rngs)
        self.norm2 = layers.layer_norm(width, affine=False, rngs=rngs)
        self.mlp = layers.MLP(width, int(config.mlp_ratio * width), "gelu_tanh", dtype=dtype, rngs=rngs)
        self.modulation = zero_linear(width, 6 * width, dtype=dtype, rngs=rngs)
        for linear in (self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2):
            reset_to_xavier(linear, rngs)

    def __call__(self, x: jax.Array, silu_condition: jax.Array) -> jax.Array:
        modulation = self.modulation(silu_condition).astype(jnp.float32)[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nnx.Module):
    """Modulated norm and a linear map; both the modulation and the map start at zero."""

    def __init__(self, width: int, out_channels: int, *, dtype=None, rngs: nnx.Rngs):
        self.norm = layers.layer_norm(width, affine=False, rngs=rngs)
        self.modulation = zero_linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.linear = zero_linear(width, out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, silu_condition: jax.Array) -> jax.Array:
        shift, scale = jnp.split(self.modulation(silu_condition).astype(jnp.float32), 2, axis=-1)
        return self.linear(modulate(self.norm(x), shift, scale)).astype(jnp.float32)


class DiT(nnx.Module):
    """The network: predicts the velocity (SiT), or noise and variance (DiT)."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, config.dtype
        self.x_embedder = reset_to_xavier(layers.linear(config.channels, width, dtype=dtype, rngs=rngs), rngs)
        self.pos_embed = FixedPositions(jnp.asarray(sincos_positions(config.num_tokens, width)))
        self.t_embedder = TimeEmbedding(width, dtype=dtype, rngs=rngs)
        table = 0.02 * jax.random.normal(rngs.params(), (config.num_classes + 1, width))
        self.label_embeddings = nnx.Param(table)
        self.blocks = layers.stack(lambda rngs: Block(config, rngs=rngs), config.depth, rngs)
        self.final_layer = FinalLayer(width, config.out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the prediction at `x_t`.

        Args:
          x: `[B, L, D]`.
          t: `[B]`, time in [0, 1] (SiT) or timestep (DiT).
          labels: `[B]` integers; `num_classes` means no class.

        Returns:
          `[B, L, D]`, or `[B, L, 2D]` with `learn_sigma`; float32.
        """
        tokens, silu_condition = self._embed(x, t, labels)
        tokens = layers.scan_blocks(self.blocks, tokens, silu_condition, remat=self.config.remat)
        return self.final_layer(tokens, silu_condition[:, None])

    def with_tokens(self, x: jax.Array, t: jax.Array, labels: jax.Array, *, block: int) -> tuple[jax.Array, jax.Array]:
        """Returns the prediction, and the tokens `[B, L, width]` after the first `block` blocks."""
        tokens, silu_condition = self._embed(x, t, labels)
        remat = self.config.remat
        tokens, kept = layers.scan_blocks_keeping(self.blocks, tokens, silu_condition, keep=block, remat=remat)
        return self.final_layer(tokens, silu_condition[:, None]), kept

    def _embed(self, x, t, labels):
        condition = self.t_embedder(t).astype(jnp.float32) + self.label_embeddings[...][labels]
        return self.x_embedder(x).astype(jnp.float32) + self.pos_embed[...], jax.nn.silu(condition)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns `x (1 + scale) + shift`."""
    return x * (1 + scale) + shift


def reset_to_xavier(linear: nnx.Linear, rngs: nnx.Rngs) -> nnx.Linear:
    """Replaces the kernel by a Xavier uniform one, as in DiT and MAR (`layers.linear` initializes as in ViT).

    Returns `linear`.
    """
    linear.kernel[...] = nnx.initializers.xavier_uniform()(rngs.params(), linear.kernel.shape)
    return linear


def normal_linear(in_features: int, out_features: int, *, dtype=None, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear map with a normal kernel of standard deviation 0.02, for the time embedding."""
    init = nnx.initializers.normal(0.02)
    return nnx.Linear(in_features, out_features, dtype=dtype, kernel_init=init, rngs=rngs)


def zero_linear(in_features: int, out_features: int, *, dtype=None, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear map that starts at zero, as in adaLN-Zero."""
    return nnx.Linear(in_features, out_features, dtype=dtype, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
