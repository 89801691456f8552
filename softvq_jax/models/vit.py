"""The vision transformer used by the tokenizer's encoder and decoder, the DINOv2 teacher and the DINO trunk."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers


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
    """`x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`."""

    def __init__(self, config: ViTConfig, *, dtype=None, rngs: nnx.Rngs):
        width = config.width
        self.norm1 = layers.layer_norm(width, eps=config.norm_eps, rngs=rngs)
        self.attn = layers.Attention(width, config.num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = layers.layer_norm(width, eps=config.norm_eps, rngs=rngs)
        if config.activation == "swiglu":
            # DINOv2-g: two thirds of the usual hidden width, rounded up to a multiple of 8.
            hidden = (int(config.mlp_ratio * width * 2 / 3) + 7) // 8 * 8
            self.mlp = layers.SwiGLU(width, hidden, dtype=dtype, rngs=rngs)
        else:
            hidden = int(config.mlp_ratio * width)
            self.mlp = layers.MLP(width, hidden, config.activation, dtype=dtype, rngs=rngs)
        self.ls1 = None if config.layer_scale is None else LayerScale(width, config.layer_scale)
        self.ls2 = None if config.layer_scale is None else LayerScale(width, config.layer_scale)

    def __call__(self, x: jax.Array, drop_path=0.0, key: jax.Array | None = None) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        for norm, branch, scale, key in (
            (self.norm1, self.attn, self.ls1, keys[0]),
            (self.norm2, self.mlp, self.ls2, keys[1]),
        ):
            y = branch(norm(x))
            x = x + layers.drop(scale(y) if scale is not None else y, drop_path, key, per_sample=True)
        return x


class Transformer(nnx.Module):
    """The blocks and the last norm of a ViT, on tokens `[B, T, width]`."""

    def __init__(self, config: ViTConfig, *, dtype=None, remat: str = "none", rngs: nnx.Rngs):
        self.config, self.remat = config, remat
        self.blocks = layers.stack(lambda r: Block(config, dtype=dtype, rngs=r), config.depth, rngs)
        self.norm = layers.layer_norm(config.width, eps=config.norm_eps, rngs=rngs)

    def __call__(self, tokens: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Returns tokens after the last norm, float32. A `key` turns on stochastic depth, for training."""
        per_block = ()
        if key is not None and self.config.drop_path:
            depth = self.config.depth
            per_block = (jnp.linspace(0.0, self.config.drop_path, depth), jax.random.split(key, depth))
        return self.norm(layers.scan_blocks(self.blocks, tokens, per_block=per_block, remat=self.remat))

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
        normal = nnx.initializers.truncated_normal(stddev=0.02)
        self.patch_embed = layers.linear(3 * config.patch_size**2, width, dtype=dtype, rngs=rngs)
        self.cls_token = nnx.Param(1e-6 * jax.random.normal(rngs.params(), (1, width)))
        self.pos_embed = nnx.Param(normal(rngs.params(), (1 + self.grid**2, width), jnp.float32))
        self.registers = (
            nnx.Param(1e-6 * jax.random.normal(rngs.params(), (config.num_registers, width)))
            if config.num_registers
            else None
        )
        self.transformer = Transformer(config, dtype=dtype, remat=remat, rngs=rngs)

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.config.num_registers

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the tokens before the first block, `[B, H, W, 3] -> [B, 1 + registers + N, width]` float32."""
        side = self.grid * self.config.patch_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images have shape {images.shape}; expected [B, {side}, {side}, 3]")
        patches = self.patch_embed(patchify(images, self.config.patch_size)).astype(jnp.float32)
        registers = None if self.registers is None else self.registers[...]
        return with_prefix(patches, self.cls_token[...], self.pos_embed[...], registers)

    def __call__(self, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Returns all tokens after the last norm, `[B, 1 + registers + N, width]` float32."""
        return self.transformer(self.embed(images), key=key)


def with_prefix(tokens, cls_token, pos_embed, registers=None) -> jax.Array:
    """Adds position embeddings to `tokens` `[B, N, width]`, and puts the class token and registers before them."""
    batch = tokens.shape[0]
    prefix = cls_token + pos_embed[:1]
    if registers is not None:
        prefix = jnp.concatenate([prefix, registers])
    return jnp.concatenate([jnp.broadcast_to(prefix, (batch, *prefix.shape)), tokens + pos_embed[1:]], axis=1)
