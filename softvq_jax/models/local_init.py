"""Initialization for small tokenizers trained from scratch: each latent starts as a linear code of its own patches.

A fresh ViT attends uniformly, so its latents start as averages of the whole image. A small network then spends most of
a run of minutes on learning which patches belong to which latent; the published tokenizers start from DINOv2 and do not
need this. Here attention starts as a copy (similar to the mimetic initialization of Trockman and Kolter, 2023, arXiv
2305.09828). Every second channel of a token holds its position, the others its content. The query of a latent selects
the patches at its position, the query of a patch selects its latent; values and the output map carry content. The
network thus starts as a linear map from patches to the bottleneck and from the bottleneck to patches.

A latent that has several patches gives each of them its own heads, if their number allows it: with 2 heads, one copies the
first patch and the other the second. Otherwise, or if 4 does not divide a head's width, all heads copy the mean of them.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models.unit_init import latent_norm, start_codes

if TYPE_CHECKING:
    from softvq_jax.models.tokenizer import TokenizerModel

QUERY_GAIN = 1.5  # gain of queries and keys: large enough that the matching position outweighs a few hundred others
EMBED_GAIN = 2.0  # gain of a patch's content relative to its position


def start_local(model: "TokenizerModel", rngs: nnx.Rngs) -> None:
    """Sets the parameters of a new `models.tokenizer.TokenizerModel` as described in the module's docstring."""
    encoder, decoder = model.encoder, model.decoder
    encoder_positions, decoder_positions = encoder.vit.pos_embed, decoder.pos_embed
    assert encoder_positions is not None and decoder_positions is not None, "checked by the config"
    _start_copying(encoder.vit.transformer, encoder_positions, encoder.latent_pos_embed, rngs)
    _start_copying(decoder.transformer, decoder_positions, decoder.latent_pos_embed, rngs)
    embed = encoder.vit.patch_embed.kernel
    into_content, gain = _content(embed.shape[1]), EMBED_GAIN / embed.shape[0] ** 0.5
    embed[...] = gain * jax.random.normal(rngs.params(), embed.shape) * into_content
    kernel = model.to_latents.kernel
    out_of_content = _content(kernel.shape[0])[:, None]
    kernel[...] = jax.random.normal(rngs.params(), kernel.shape) * out_of_content / (kernel.shape[0] / 2) ** 0.5
    start_codes(model.bottleneck)
    # Latents of a codebook are small: averages of unit codes are shorter than 1.
    kernel = decoder.embed_latents.kernel
    kernel[...] = jax.random.normal(rngs.params(), kernel.shape) * _content(kernel.shape[1]) / latent_norm(model, rngs)


def _start_copying(transformer, pos_embed: nnx.Param, latent_pos_embed: nnx.Param, rngs: nnx.Rngs) -> None:
    """Makes patches copy the content of their latents, and latents copy the content of their patches."""
    width, patches, latents = pos_embed.shape[1], pos_embed.shape[0] - 1, latent_pos_embed.shape[0]
    heads = transformer.config.num_heads
    if width // heads % 4:
        heads = 1  # both halves of a head's position channels must be equal: treat all heads as one
    content = _content(width)
    swap = jnp.kron(jnp.eye(heads), _swap(width // heads))
    positions = 2**0.5 * jax.random.normal(rngs.params(), (patches, width)) * (1 - content)
    pos_embed[...] = pos_embed[...].at[1:].set(positions)
    # A latent's position is the sum of its patches' positions, swapped. So a query matches tokens of the other kind.
    chosen = _patches_of_heads(latents, patches, heads)
    chosen = chosen / jnp.sum(chosen, axis=2, keepdims=True) ** 0.5
    of_heads = jnp.einsum("hln,nhd->lhd", chosen, positions.reshape(patches, heads, -1))
    latent_pos_embed[...] = of_heads.reshape(latents, width) @ swap
    attention = transformer.blocks.attn
    queries, keys, values = QUERY_GAIN * swap, QUERY_GAIN * jnp.diag(1 - content), jnp.diag(content)
    attention.qkv.kernel[...] = jnp.broadcast_to(
        jnp.concatenate([queries, keys, values], axis=1), attention.qkv.kernel.shape
    )
    attention.proj.kernel[...] = jnp.broadcast_to(values, attention.proj.kernel.shape)


def _content(width: int) -> jax.Array:
    """Returns 1 for content channels and 0 for position channels, `[width]`."""
    return jnp.arange(width, dtype=jnp.float32) % 2


def _swap(width: int) -> jax.Array:
    """Returns the matrix `[width, width]` that exchanges the two halves of the position channels of a head.

    It is its own inverse if 4 divides `width`.
    """
    position = jnp.arange(0, width, 2)
    return jnp.zeros((width, width)).at[position, jnp.roll(position, width // 4)].set(1.0)


def _patches_of_heads(latents: int, patches: int, heads: int) -> jax.Array:
    """Returns a matrix `[heads, latents, patches]`, 1 where a head of latent i copies patch j."""
    overlap = _overlap(latents, patches)
    each = patches // latents
    if patches % latents or heads % each:
        return jnp.broadcast_to(overlap, (heads, latents, patches))
    own = jnp.arange(heads)[:, None] % each == jnp.arange(patches) % each
    return overlap * own[:, None, :]


def _overlap(latents: int, patches: int) -> jax.Array:
    """Returns a matrix `[latents, patches]`, 1 where latent i and patch j overlap.

    The sequence of patches is divided into `latents` equal intervals; interval i belongs to latent i.
    """
    i, j = jnp.arange(latents)[:, None], jnp.arange(patches)
    return ((i * patches < (j + 1) * latents) & (j * latents < (i + 1) * patches)).astype(jnp.float32)
