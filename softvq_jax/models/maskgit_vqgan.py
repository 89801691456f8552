"""The decoder of MaskGIT's VQGAN, from a grid of codes to pixels (arXiv 2202.04200; weights as in TiTok's release)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.parallel.mesh import constrain_batch

NUM_GROUPS, EPS = 32, 1e-6


@dataclasses.dataclass(frozen=True)
class PixelDecoderConfig:
    """Shape of a `PixelDecoder`; the defaults are those of the published decoder.

    Attributes:
      num_codes, code_dim: shape of the codebook, `[num_codes, code_dim]`.
      width: channels at the output resolution.
      multipliers: channels of each resolution as multiples of `width`, highest resolution first. The resolution doubles
        between them, so a code covers `2 ** (len(multipliers) - 1)` pixels in each direction.
      num_blocks: number of residual blocks at each resolution.
    """

    num_codes: int = 1024
    code_dim: int = 256
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_blocks: int = 2

    def __post_init__(self):
        if self.width % NUM_GROUPS:
            raise ValueError(f"pixel decoder width is {self.width}; expected a multiple of {NUM_GROUPS}")

    @property
    def patch_size(self) -> int:
        """Number of pixels that a code covers in each direction."""
        return 2 ** (len(self.multipliers) - 1)

    def level_name(self, level: int, block: int) -> str:
        """Returns the attribute name of a residual block."""
        return f"level{level}_block{block}"

    def upsample_name(self, level: int) -> str:
        """Returns the attribute name of the convolution after upsampling; level 0 has none."""
        return f"level{level}_upsample"


class ResidualBlock(nnx.Module):
    """Residual block `h + x`, or `h + shortcut(h)` if channels change; `h = conv2(swish(norm2(conv1(swish(norm1(x))))))`.

    In the published network, the shortcut acts on `h`, not on `x`.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype=None, rngs: nnx.Rngs):
        self.norm1 = _group_norm(inputs, rngs)
        self.conv1 = _conv(inputs, outputs, bias=False, dtype=dtype, rngs=rngs)
        self.norm2 = _group_norm(outputs, rngs)
        self.conv2 = _conv(outputs, outputs, bias=False, dtype=dtype, rngs=rngs)
        changed = inputs != outputs
        self.shortcut = _conv(outputs, outputs, 1, bias=False, dtype=dtype, rngs=rngs) if changed else None

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return constrain_batch(h + (x if self.shortcut is None else self.shortcut(h)))


class PixelDecoder(nnx.Module):
    """Decodes codes `[B, h, w, code_dim]` to pixels `[B, P h, P w, 3]` float32, about in [0, 1] and not clipped.

    `dtype` is the type of the convolutions; the norms are float32.
    """

    def __init__(self, config: PixelDecoderConfig, *, dtype=None, rngs: nnx.Rngs):
        self.config = config
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        channels = config.width * config.multipliers[-1]
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), (config.num_codes, config.code_dim)))
        self.conv_in = _conv(config.code_dim, channels, **options)
        self.mid_block0 = ResidualBlock(channels, channels, **options)
        self.mid_block1 = ResidualBlock(channels, channels, **options)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            outputs = config.width * multiplier
            for block in range(config.num_blocks):
                setattr(self, config.level_name(level, block), ResidualBlock(channels, outputs, **options))
                channels = outputs
            if level:
                setattr(self, config.upsample_name(level), _conv(channels, channels, **options))
        self.norm_out = _group_norm(channels, rngs)
        self.conv_out = _conv(channels, 3, **options)

    def average(self, logits: jax.Array) -> jax.Array:
        """Returns the average of the codes, `[..., code_dim]`, weighted by the softmax of `logits` `[..., num_codes]`."""
        return jax.nn.softmax(logits.astype(jnp.float32)) @ self.codebook[...]

    def __call__(self, codes: jax.Array) -> jax.Array:
        x = self.mid_block1(self.mid_block0(constrain_batch(self.conv_in(codes))))
        for level in reversed(range(len(self.config.multipliers))):
            for block in range(self.config.num_blocks):
                x = getattr(self, self.config.level_name(level, block))(x)
            if level:
                x = constrain_batch(getattr(self, self.config.upsample_name(level))(_double(x)))
        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


def _double(x):
    """Doubles height and width by nearest neighbors."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def _group_norm(channels, rngs):
    return nnx.GroupNorm(channels, NUM_GROUPS, epsilon=EPS, dtype=jnp.float32, rngs=rngs)


def _conv(inputs, outputs, size=3, *, bias=True, dtype=None, rngs):
    return nnx.Conv(inputs, outputs, (size, size), use_bias=bias, dtype=dtype, rngs=rngs)
