"""The vision transformer used by the tokenizer's encoder and decoder, the teachers and the DINO trunk."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.rotary import patch_coordinates


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Shape of a pre-norm vision transformer.

    Attributes:
      width, depth, num_heads: width, number and attention heads of the blocks.
      patch_size: side of a patch in pixels.
      mlp_ratio: hidden width of the MLPs as a multiple of `width`.
      activation: "gelu" (exact), "gelu_tanh" or "swiglu".
      layer_scale: initial value of LayerScale; None for no LayerScale.
      drop_path: stochastic depth rate of the last block; the rate grows linearly from 0.
      num_registers: number of register tokens.
      norm_eps: epsilon of every LayerNorm.
      class_token: whether there is a class token.
      absolute_positions: whether learned positions are added to the tokens.
      rope_theta: base of fresh mixed rotary positions (`models.rotary`); None for no rotary positions.
      modulated: norms have no gains and biases, and a condition scales and shifts the last tokens after each norm (MoVQ,
        arXiv 2209.09002; the decoder of MAETok, arXiv 2502.03444).

    Raises:
      ValueError: the MLPs would have no hidden channels.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int = 16
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    layer_scale: float | None = 1e-5
    drop_path: float = 0.0
    num_registers: int = 0
    norm_eps: float = layers.LAYER_NORM_EPS
    class_token: bool = True
    absolute_positions: bool = True
    rope_theta: float | None = None
    modulated: bool = False

    def __post_init__(self):
        layers.check_hidden(self.width, self.mlp_ratio)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: the class token and registers."""
        return self.class_token + self.num_registers

    def grid(self, image_size: int) -> int:
        """Returns the number of patches along a side of a square image.

        Raises:
          ValueError: `patch_size` does not divide `image_size`.
        """
        if image_size % self.patch_size:
            raise ValueError(
                f"image size {image_size} is not divisible by the patch size {self.patch_size}: use a multiple of "
                f"{self.patch_size}, for instance {max(1, round(image_size / self.patch_size)) * self.patch_size}"
            )
        return image_size // self.patch_size


class LayerScale(nnx.Module):
    """Learned gain per channel (Touvron et al., 2021)."""

    def __init__(self, width: int, init: float):
        self.gamma = nnx.Param(jnp.full((width,), init, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(x.dtype)


class Block(nnx.Module):
    """`x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`.

    A modulated block maps `silu(condition)` to a shift and a scale for each norm. They act on the last tokens, one for
    each of the condition: `norm(x) * scale + shift`, without the usual `1 +`, and start at 0.
    """

    def __init__(self, config: ViTConfig, condition_dim: int | None = None, *, dtype=None, rngs: nnx.Rngs):
        width = config.width
        norm = partial(layers.layer_norm, width, affine=not config.modulated, eps=config.norm_eps, rngs=rngs)
        self.norm1 = norm()
        self.attn = layers.Attention(width, config.num_heads, rope_theta=config.rope_theta, dtype=dtype, rngs=rngs)
        self.norm2 = norm()
        if config.activation == "swiglu":
            # DINOv2-g: two thirds of the usual hidden width, rounded up to a multiple of 8.
            hidden = (int(config.mlp_ratio * width * 2 / 3) + 7) // 8 * 8
            self.mlp = layers.SwiGLU(width, hidden, dtype=dtype, rngs=rngs)
        else:
            self.mlp = layers.MLP(width, int(config.mlp_ratio * width), config.activation, dtype=dtype, rngs=rngs)
        self.ls1 = LayerScale(width, config.layer_scale) if config.layer_scale is not None else None
        self.ls2 = LayerScale(width, config.layer_scale) if config.layer_scale is not None else None
        self.modulation = (
            layers.Linear(condition_dim, 4 * width, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)
            if condition_dim is not None
            else None
        )

    def __call__(
        self,
        x: jax.Array,
        coordinates: jax.Array | None = None,
        condition: jax.Array | None = None,
        drop_path=0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        modulations = self._modulations(condition)
        for norm, branch, scale, modulation, key in (
            (self.norm1, partial(self.attn, coordinates=coordinates), self.ls1, modulations[0], keys[0]),
            (self.norm2, self.mlp, self.ls2, modulations[1], keys[1]),
        ):
            y = branch(norm(x) if modulation is None else modulate_last(norm(x), modulation))
            x = x + layers.drop(scale(y) if scale is not None else y, drop_path, key, per_sample=True)
        return x

    def attention_probabilities(
        self, x: jax.Array, coordinates: jax.Array | None = None, condition: jax.Array | None = None
    ) -> jax.Array:
        """Returns the attention between the tokens in a call with the same arguments, `[B, H, T, T]` float32."""
        y, [modulation, _] = self.norm1(x), self._modulations(condition)
        return self.attn.probabilities(y if modulation is None else modulate_last(y, modulation), coordinates)

    def _modulations(self, condition):
        if self.modulation is None:
            return None, None
        assert condition is not None, "a modulated block needs a condition"
        return jnp.split(self.modulation(jax.nn.silu(condition)).astype(jnp.float32), 2, axis=-1)


def modulate_last(tokens: jax.Array, modulation: jax.Array) -> jax.Array:
    """`token * scale + shift` for the last `L` of `tokens` `[B, T, width]`; `modulation` `[B, L, 2 * width]` is
    `[shift, scale]`."""
    shift, scale = jnp.split(modulation, 2, axis=-1)
    count = shift.shape[1]
    return jnp.concatenate([tokens[:, :-count], tokens[:, -count:] * scale + shift], axis=1)


class Transformer(nnx.Module):
    """Blocks and last norm of a ViT, on tokens `[B, T, width]`.

    The last norm of a modulated transformer is not modulated: it would change tokens that nothing reads.

    Raises:
      ValueError: `modulated` without `condition_dim`, the channels of the condition, or the other way round.
    """

    def __init__(
        self,
        config: ViTConfig,
        *,
        condition_dim: int | None = None,
        dtype=None,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        if config.modulated != (condition_dim is not None):
            raise ValueError(
                f"modulated is {config.modulated}, but the condition has {condition_dim or 'no'} channels; only the "
                "decoder, which has the latents as condition, can be modulated"
            )
        self.config, self.remat = config, remat
        self.blocks = layers.stack(lambda r: Block(config, condition_dim, dtype=dtype, rngs=r), config.depth, rngs)
        self.norm = layers.layer_norm(config.width, affine=not config.modulated, eps=config.norm_eps, rngs=rngs)

    def __call__(
        self,
        tokens: jax.Array,
        *,
        grid: int | None = None,
        condition: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns tokens after the last norm, float32.

        Args:
          tokens: `[class, registers, patches, others]`, as far as there are any.
          grid: patches along a side of the image, for rotary positions.
          condition: `[B, L, condition_dim]`, which modulates the last `L` tokens.
          key: turns on stochastic depth, for training.
        """
        coordinates, per_block = self._coordinates(tokens, grid), ()
        if key is not None and self.config.drop_path:
            depth = self.config.depth
            per_block = (jnp.linspace(0.0, self.config.drop_path, depth), jax.random.split(key, depth))
        shared = (coordinates, condition)
        return self.norm(layers.scan_blocks(self.blocks, tokens, *shared, per_block=per_block, remat=self.remat))

    def attention_maps(
        self, tokens: jax.Array, *, grid: int | None = None, condition: jax.Array | None = None
    ) -> jax.Array:
        """Returns the attention between the tokens in each block, the mean over heads, `[depth, B, T, T]` float32."""
        graphdef, params = nnx.split(self.blocks)
        shared: Any = (self._coordinates(tokens, grid), condition)

        def step(x, params):
            block = nnx.merge(graphdef, params)
            return block(x, *shared), jnp.mean(block.attention_probabilities(x, *shared), axis=1)

        return jax.lax.scan(step, tokens, params)[1]

    def _coordinates(self, tokens, grid):
        if self.config.rope_theta is None:
            return None
        assert grid is not None, "rotary positions need the grid"
        prefix = self.config.num_prefix_tokens
        return patch_coordinates(grid, prefix, tokens.shape[1] - prefix - grid**2)

    def outputs_by_group(self, tokens: jax.Array, count: int) -> jax.Array:
        """Returns tokens `[count, B, T, width]` after each of `count` equal groups of blocks, without the last norm."""
        return layers.scan_groups(self.blocks, tokens, count, remat=self.remat)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cuts images into patches, row by row, `[B, H, W, C] -> [B, (H/P)(W/P), P*P*C]`; channels vary fastest."""
    batch, height, width, channels = images.shape
    x = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: jax.Array, patch: int, grid: int) -> jax.Array:
    """Joins `grid * grid` patches into square images, the inverse of `patchify`."""
    batch, _, numbers = patches.shape
    x = patches.reshape(batch, grid, grid, patch, patch, numbers // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid * patch, grid * patch, -1)


class ViT(nnx.Module):
    """A ViT: patch embedding, class token and positions, registers, blocks, last norm.

    Tokens are `[class, registers, patches]`; registers have no position embedding (Darcet et al., 2024).
    """

    def __init__(self, config: ViTConfig, image_size: int, *, dtype=None, remat: str = "none", rngs: nnx.Rngs):
        self.config, self.grid = config, config.grid(image_size)
        width = config.width
        self.patch_embed = layers.linear(3 * config.patch_size**2, width, dtype=dtype, rngs=rngs)
        self.cls_token = fresh_class_token(config, rngs)
        self.pos_embed = fresh_positions(config, self.grid, rngs)
        self.registers = (
            nnx.Param(1e-6 * jax.random.normal(rngs.params(), (config.num_registers, width)))
            if config.num_registers
            else None
        )
        self.transformer = Transformer(config, dtype=dtype, remat=remat, rngs=rngs)

    @property
    def num_prefix_tokens(self) -> int:
        return self.config.num_prefix_tokens

    def embed(self, images: jax.Array, mask: jax.Array | None = None, mask_token: jax.Array | None = None) -> jax.Array:
        """`[B, H, W, 3] -> [B, 1 + registers + N, width]` float32: the tokens before the first block.

        Patches where `mask` `[B, N]` is true are replaced by `mask_token` `[1, width]` before positions are added.
        """
        side = self.grid * self.config.patch_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images have shape {images.shape}; expected [B, {side}, {side}, 3]")
        patches = self.patch_embed(patchify(images, self.config.patch_size)).astype(jnp.float32)
        if mask is not None:
            assert mask_token is not None, "it replaces the masked patches"
            patches = jnp.where(mask[..., None], mask_token, patches)
        return with_prefix(patches, self.cls_token, self.pos_embed, self.registers)

    def __call__(self, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Returns all tokens after the last norm, `[B, 1 + registers + N, width]` float32."""
        return self.transformer(self.embed(images), grid=self.grid, key=key)


def fresh_class_token(config: ViTConfig, rngs: nnx.Rngs) -> nnx.Param | None:
    """`[1, width]`; None if the config is without a class token."""
    return nnx.Param(1e-6 * jax.random.normal(rngs.params(), (1, config.width))) if config.class_token else None


def fresh_positions(config: ViTConfig, grid: int, rngs: nnx.Rngs) -> nnx.Param | None:
    """Positions of the class token, if there is one, and of `grid * grid` patches, `[1 + N, width]` or `[N, width]`;
    None if the config is without absolute positions."""
    if not config.absolute_positions:
        return None
    normal = nnx.initializers.truncated_normal(stddev=0.02)
    return nnx.Param(normal(rngs.params(), (config.class_token + grid**2, config.width), jnp.float32))


def with_prefix(
    tokens: jax.Array,
    cls_token: nnx.Param | None,
    pos_embed: nnx.Param | None,
    registers: nnx.Param | None = None,
) -> jax.Array:
    """`[class + its position, registers, tokens + their positions]` for `tokens` `[B, N, width]`.

    None stands for what a network is without. Positions start with the class token's, if there is one.
    """
    prefix = []
    if cls_token is not None:
        prefix.append(cls_token[...] if pos_embed is None else cls_token[...] + pos_embed[:1])
    if registers is not None:
        prefix.append(registers[...])
    joined = jnp.concatenate(prefix) if len(prefix) > 1 else prefix[0] if prefix else None
    if joined is not None:
        joined = jnp.broadcast_to(joined, (tokens.shape[0], *joined.shape))
    if pos_embed is not None:
        tokens = tokens + pos_embed[int(cls_token is not None) :]
    return tokens if joined is None else jnp.concatenate([joined, tokens], axis=1)
