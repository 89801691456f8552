"""Masked token generators, networks that predict the masked codes of an image (MaskGIT, arXiv 2202.04200).

These are the two networks published with TiTok (arXiv 2406.07550): `ImageBert`, a BERT, and `UViTBert`, a transformer with
long skip connections (U-ViT, arXiv 2209.12152). The input of both is a sequence `[class, L codes]` with one vocabulary: the
`K` codes, the mask, the classes, "no class".
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers, mar
from softvq_jax.models.functional import Functional

BERT_EPS, UVIT_EPS = 1e-12, 1e-5
NETWORKS = ("bert", "uvit")


@dataclasses.dataclass(frozen=True)
class MaskGITConfig:
    """Shape of a masked token generator.

    Attributes:
      network: "bert" (`ImageBert`) or "uvit" (`UViTBert`).
      codebook_size: `K`; token `K` is the mask.
      num_tokens: `L`.
      num_codebooks: `C`, of the tokenizer; the codes of an image are `[C, L/C]` there and a sequence of `L` here.
      width, depth, num_heads, hidden: width, blocks, attention heads and the MLPs' hidden width. UViT has one more block,
        in the middle.
      num_classes: number of classes; the label `num_classes` means no class.
      dropout, attention_dropout: dropout rates of `ImageBert` in training; `UViTBert` has no dropout.
      dtype: type of the matmuls; parameters are float32.
      remat: activations that the blocks recompute in the backward pass, see `layers.scan_blocks`.
    """

    codebook_size: int
    num_tokens: int
    num_codebooks: int = 1
    network: str = "bert"
    width: int = 768
    depth: int = 24
    num_heads: int = 16
    hidden: int = 3072
    num_classes: int = 1000
    dropout: float = 0.1
    attention_dropout: float = 0.1
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.num_tokens % self.num_codebooks:
            raise ValueError(f"num_tokens {self.num_tokens} is not divisible by num_codebooks {self.num_codebooks}")
        if self.network not in NETWORKS:
            raise ValueError(f"network is {self.network!r}; expected one of {', '.join(NETWORKS)}")
        if self.network == "uvit" and self.depth % 2:
            raise ValueError(f"depth is {self.depth}; uvit pairs its blocks and needs an even depth")

    @property
    def channels(self) -> int:
        """A token is one number, its index."""
        return 1

    @property
    def mask_token(self) -> int:
        return self.codebook_size

    @property
    def vocabulary_size(self) -> int:
        """Number of codes, mask, classes and "no class"."""
        return self.codebook_size + self.num_classes + 2


def _sequence(config: MaskGITConfig, tokens: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the vocabulary indices `[B, 1 + L]` of the sequence `[class, codes]`."""
    return jnp.concatenate([config.codebook_size + 1 + labels[:, None], tokens], axis=1)


class BertBlock(nnx.Module):
    """A post-norm block: `x = norm1(x + attn(x))`, then `x = norm2(x + mlp(x))`, with dropout in training."""

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        width, options = config.width, _options(config, rngs)
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout
        self.attn = mar.Attention(width, config.num_heads, **options)
        self.norm1 = layers.layer_norm(width, eps=BERT_EPS, rngs=rngs)
        self.mlp = layers.MLP(width, config.hidden, **options)
        self.norm2 = layers.layer_norm(width, eps=BERT_EPS, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        y = self.attn(x, dropout=self.attention_dropout, key=keys[0])
        x = self.norm1(x + layers.drop(y, self.dropout, keys[1]))
        return self.norm2(x + layers.drop(self.mlp(x), self.dropout, keys[2]))


class ImageBert(nnx.Module):
    """BERT over `[class, L codes]` (the release's `model_type: ViT`)."""

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        self.config, width = config, config.width
        self.embeddings = _normal(rngs, config.vocabulary_size, width)
        self.positions = _normal(rngs, 1 + config.num_tokens, width)
        self.token_types = _normal(rngs, 2, width)  # only the first is used
        self.norm = layers.layer_norm(width, eps=BERT_EPS, rngs=rngs)
        self.blocks = layers.stack(lambda rngs: BertBlock(config, rngs=rngs), config.depth, rngs)
        self.to_logits = layers.linear(width, config.codebook_size, dtype=config.dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, labels: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Returns logits over the codes at every position.

        Args:
          tokens: `[B, L]` integers, codes or `mask_token`.
          labels: `[B]` integers; `num_classes` means no class.
          key: turns dropout on, for training.

        Returns:
          `[B, L, K]` float32.
        """
        config = self.config
        embedding_key, per_block = None, ()
        if key is not None:
            embedding_key, block_key = jax.random.split(key)
            per_block = (jax.random.split(block_key, config.depth),)
        x = self.embeddings[...][_sequence(config, tokens, labels)] + self.positions[...] + self.token_types[...][0]
        x = layers.drop(self.norm(x), config.dropout, embedding_key)
        x = layers.scan_blocks(self.blocks, x, per_block=per_block, remat=config.remat)
        return self.to_logits(x[:, 1:]).astype(jnp.float32)


class UViTBlock(nnx.Module):
    """A pre-norm block; with `skip`, a linear map first combines `x` and the output of an earlier block."""

    def __init__(self, config: MaskGITConfig, *, skip: bool = False, rngs: nnx.Rngs):
        width, options = config.width, _options(config, rngs)
        self.skip = layers.linear(2 * width, width, **options) if skip else None
        self.norm1 = layers.layer_norm(width, eps=UVIT_EPS, rngs=rngs)
        self.attn = layers.Attention(width, config.num_heads, qkv_bias=False, **options)
        self.norm2 = layers.layer_norm(width, eps=UVIT_EPS, rngs=rngs)
        self.mlp = layers.MLP(width, config.hidden, **options)

    def __call__(self, x: jax.Array, earlier: jax.Array | None = None) -> jax.Array:
        if self.skip is not None and earlier is not None:
            x = self.skip(jnp.concatenate([x, earlier], axis=-1)).astype(jnp.float32)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViTBert(nnx.Module):
    """U-ViT over `[class, L codes]`, with skip connections from the first block to the last, and so on inwards."""

    def __init__(self, config: MaskGITConfig, *, rngs: nnx.Rngs):
        self.config, width, half = config, config.width, config.depth // 2
        self.embeddings = _normal(rngs, config.vocabulary_size, width)
        self.positions = _normal(rngs, 1 + config.num_tokens, width)
        self.in_blocks = layers.stack(lambda rngs: UViTBlock(config, rngs=rngs), half, rngs)
        self.mid_block = UViTBlock(config, rngs=rngs)
        self.out_blocks = layers.stack(lambda rngs: UViTBlock(config, skip=True, rngs=rngs), half, rngs)
        self.norm = layers.layer_norm(width, eps=UVIT_EPS, rngs=rngs)
        self.to_logits = layers.linear(width, config.codebook_size, dtype=config.dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, labels: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Returns logits over the codes at every position; see `ImageBert`. There is no dropout, so `key` is not used."""
        config = self.config
        x = self.embeddings[...][_sequence(config, tokens, labels)] + self.positions[...]
        outputs = layers.scan_groups(self.in_blocks, x, config.depth // 2, remat=config.remat)
        x = self.mid_block(outputs[-1])
        x = layers.scan_blocks(self.out_blocks, x, per_block=(outputs[::-1],), remat=config.remat)
        return self.to_logits(self.norm(x)[:, 1:]).astype(jnp.float32)


@functools.cache
def functional(config: MaskGITConfig) -> Functional:
    """Returns the network `config.network` as a pure function of its parameters."""
    network = ImageBert if config.network == "bert" else UViTBert
    return Functional(lambda rngs: network(config, rngs=rngs))


def _options(config, rngs) -> dict[str, Any]:
    return {"dtype": config.dtype, "rngs": rngs}


def _normal(rngs, *shape):
    return nnx.Param(layers.INIT_STD * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, shape))
