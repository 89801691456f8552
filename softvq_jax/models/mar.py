"""MAR: a masked autoencoder over latent tokens that conditions a diffusion head (arXiv 2406.11838).

The encoder gets the visible tokens, the decoder gets mask tokens for the others, and the head (`diffusion_head.py`)
samples each masked token given the output of the decoder at its position.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.diffusion_head import DiffusionHead
from softvq_jax.models.dit import reset_to_xavier


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Shape of a stack of transformer blocks."""

    width: int
    depth: int
    num_heads: int


@dataclasses.dataclass(frozen=True)
class MARConfig:
    """Shape of a MAR.

    Attributes:
      num_tokens, channels: `L` and `D` of the latents.
      encoder, decoder: the two stacks.
      head_width, head_depth: width and number of blocks of the diffusion head.
      num_classes: number of classes; the label `num_classes` means no class.
      buffer_size: copies of the class embedding before the tokens.
      dropout: dropout rate in training.
      dtype: type of the matmuls; parameters are float32.
      remat: what the blocks recompute in the backward pass; see `layers.scan_blocks`.
    """

    num_tokens: int
    channels: int
    encoder: StackConfig
    decoder: StackConfig
    head_width: int
    head_depth: int
    num_classes: int = 1000
    buffer_size: int = 64
    dropout: float = 0.1
    dtype: str = "float32"
    remat: str = "none"

    @classmethod
    def from_dict(cls, fields: Mapping) -> "MARConfig":
        """Creates a config from nested fields, as in a config file."""
        fields = dict(fields)
        stacks = {name: StackConfig(**fields.pop(name)) for name in ("encoder", "decoder")}
        return cls(**stacks, **fields)


class Attention(layers.Attention):
    """Self-attention with a mask of keys, and dropout on the attention probabilities."""

    def __call__(self, x: jax.Array, attended=None, *, dropout: float = 0.0, key: jax.Array | None = None) -> jax.Array:
        """Computes self-attention of tokens `x` `[B, N, width]`.

        Args:
          attended: `[B, N]`, False for tokens that no token attends to; None attends to all.
          dropout: rate.
          key: turns dropout on.
        """
        if attended is None and key is None:
            return super().__call__(x)
        batch, length, width = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(batch, length, 3, self.num_heads, -1), 2, 0)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        if attended is not None:
            logits = jnp.where(attended[:, None, None], logits, -jnp.inf)
        weights = layers.drop(jax.nn.softmax(logits), dropout, key).astype(v.dtype)
        return self.proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, width))


class MLP(layers.MLP):
    """`fc2(gelu(fc1(x)))`, with dropout after the activation if a key is given."""

    def __call__(self, x: jax.Array, *, dropout: float = 0.0, key: jax.Array | None = None) -> jax.Array:
        return self.fc2(layers.drop(layers.ACTIVATIONS[self.activation](self.fc1(x)), dropout, key))


class Block(nnx.Module):
    """A pre-norm transformer block, with dropout if a key is given."""

    def __init__(self, width: int, num_heads: int, dropout: float, *, dtype=None, rngs: nnx.Rngs):
        self.dropout = dropout
        self.norm1 = layers.layer_norm(width, rngs=rngs)
        self.attn = Attention(width, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = layers.layer_norm(width, rngs=rngs)
        self.mlp = MLP(width, 4 * width, dtype=dtype, rngs=rngs)
        for linear in (self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2):
            reset_to_xavier(linear, rngs)

    def __call__(self, x: jax.Array, attended: jax.Array | None, key: jax.Array | None = None) -> jax.Array:
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        y = self.attn(self.norm1(x), attended, dropout=self.dropout, key=keys[0])
        x = x + layers.drop(y, self.dropout, keys[1])
        y = self.mlp(self.norm2(x), dropout=self.dropout, key=keys[2])
        return x + layers.drop(y, self.dropout, keys[3])


class Stack(nnx.Module):
    """Blocks and a final norm, `[B, N, width] -> [B, N, width]` float32."""

    def __init__(self, shape: StackConfig, config: MARConfig, *, rngs: nnx.Rngs):
        self.remat, self.depth = config.remat, shape.depth
        sizes = (shape.width, shape.num_heads, config.dropout)
        self.blocks = layers.stack(lambda rngs: Block(*sizes, dtype=config.dtype, rngs=rngs), shape.depth, rngs)
        self.norm = layers.layer_norm(shape.width, rngs=rngs)

    def __call__(self, x: jax.Array, attended: jax.Array | None, key: jax.Array | None) -> jax.Array:
        per_block = () if key is None else (jax.random.split(key, self.depth),)
        return self.norm(layers.scan_blocks(self.blocks, x, attended, per_block=per_block, remat=self.remat))


class MAR(nnx.Module):
    """Encoder, decoder and diffusion head.

    Shapes must not depend on the number of masked tokens. The encoder runs on a fixed number of tokens, `num_visible`, an
    upper bound from the caller (`masking.max_visible` in training: 19 of 64). The visible tokens come first, by position;
    masked tokens, which no token attends to, fill the rest. With the buffer that is 83 tokens instead of 128, and one
    program for all masks.
    """

    def __init__(self, config: MARConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, decoder_width, dtype = config.encoder.width, config.decoder.width, config.dtype
        length = config.buffer_size + config.num_tokens

        def normal(*shape):
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

        self.class_embeddings, self.no_class = normal(config.num_classes, width), normal(width)
        self.z_proj = reset_to_xavier(layers.linear(config.channels, width, dtype=dtype, rngs=rngs), rngs)
        self.z_proj_norm = layers.layer_norm(width, rngs=rngs)
        self.encoder_positions = normal(length, width)
        self.encoder = Stack(config.encoder, config, rngs=rngs)
        self.decoder_embed = reset_to_xavier(layers.linear(width, decoder_width, dtype=dtype, rngs=rngs), rngs)
        self.mask_token = normal(decoder_width)
        self.decoder_positions = normal(length, decoder_width)
        self.decoder = Stack(config.decoder, config, rngs=rngs)
        self.head_positions = normal(config.num_tokens, decoder_width)
        head_sizes = (config.channels, decoder_width, config.head_width, config.head_depth)
        self.head = DiffusionHead(*head_sizes, dtype=dtype, remat=config.remat, rngs=rngs)

    def __call__(
        self,
        latents: jax.Array,
        labels: jax.Array,
        masked: jax.Array,
        *,
        num_visible: int,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the conditions of all tokens for the head.

        Args:
          latents: `[B, L, D]`; values at masked positions do not matter.
          labels: `[B]` integers; `num_classes` means no class.
          masked: `[B, L]` booleans, with at most `num_visible` False in each row.
          num_visible: number of tokens that the encoder runs on, see the class.
          key: turns dropout on, for training.

        Returns:
          `[B, L, decoder width]` float32.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        encoded = self.encode(latents, labels, masked, num_visible=num_visible, key=keys[0])
        return self.decode(encoded, masked, key=keys[1])

    def encode(self, latents, labels, masked, *, num_visible: int, key=None) -> jax.Array:
        """Encodes the buffer, then the visible tokens by position: `[B, buffer_size + num_visible, width]`."""
        batch, buffer = latents.shape[0], self.config.buffer_size
        known = jnp.minimum(labels, self.config.num_classes - 1)
        unlabeled = (labels == self.config.num_classes)[:, None]
        classes = jnp.where(unlabeled, self.no_class[...], self.class_embeddings[...][known])
        classes = jnp.broadcast_to(classes[:, None], (batch, buffer, classes.shape[-1]))
        tokens = jnp.concatenate([classes, self.z_proj(latents).astype(jnp.float32)], axis=1)
        tokens = self.z_proj_norm(tokens + self.encoder_positions[...])

        visible_first = jnp.argsort(masked, axis=1, stable=True)[:, :num_visible]
        visible = jnp.take_along_axis(tokens[:, buffer:], visible_first[..., None], axis=1)
        padding = jnp.take_along_axis(masked, visible_first, axis=1)
        attended = jnp.concatenate([jnp.ones((batch, buffer), bool), ~padding], axis=1)
        return self.encoder(jnp.concatenate([tokens[:, :buffer], visible], axis=1), attended, key)

    def decode(self, encoded: jax.Array, masked: jax.Array, *, key=None) -> jax.Array:
        """Decodes the output of `encode` to the conditions of all tokens, `[B, L, decoder width]`."""
        buffer = self.config.buffer_size
        embedded = self.decoder_embed(encoded).astype(jnp.float32)
        mask_token = jnp.broadcast_to(self.mask_token[...], (len(embedded), 1, embedded.shape[-1]))
        choices = jnp.concatenate([embedded[:, buffer:], mask_token], axis=1)
        choice = jnp.where(masked, choices.shape[1] - 1, jnp.cumsum(~masked, axis=1) - 1)
        tokens = jnp.take_along_axis(choices, choice[..., None], axis=1)
        tokens = jnp.concatenate([embedded[:, :buffer], tokens], axis=1) + self.decoder_positions[...]
        return self.decoder(tokens, None, key)[:, buffer:] + self.head_positions[...]
