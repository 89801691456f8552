"""An initialisation for small tokenizers trained from scratch: every latent starts as a linear code of its own patches.

A fresh ViT attends evenly, so its latents start as averages of the whole image, and a small network spends most of a run
of minutes on finding out which patch is whose; the published tokenizers start from DINOv2 and need none of this. Here
attention starts as a copy. Of the channels of a token every second one holds its place, the others its content; queries
look for their own place among the other kind of tokens, values and the output map carry content (after the mimetic
initialisation of Trockman and Kolter, 2023, arXiv 2305.09828). The bottleneck is then reached by a linear map of a
patch and left by another, and training starts from there.
"""

import jax
import jax.numpy as jnp
from flax import nnx

QUERY_GAIN = 1.5  # of queries and of keys: a token's own place then outweighs a few hundred others
EMBED_GAIN = 2.0  # content of a patch beside its place


def start_local(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Sets the parameters of a fresh `models.tokenizer.TokenizerModel` as the module's text says."""
    encoder, decoder = model.encoder, model.decoder
    _start_copying(encoder.vit.transformer, encoder.vit.pos_embed, encoder.latent_pos_embed, rngs)
    _start_copying(decoder.transformer, decoder.pos_embed, decoder.latent_pos_embed, rngs)
    embed = encoder.vit.patch_embed.kernel
    into_content, gain = _content(embed.shape[1]), EMBED_GAIN / embed.shape[0] ** 0.5
    embed[...] = gain * jax.random.normal(rngs.params(), embed.shape) * into_content
    kernel = model.to_latents.kernel
    out_of_content = _content(kernel.shape[0])[:, None]
    kernel[...] = jax.random.normal(rngs.params(), kernel.shape) * out_of_content / (kernel.shape[0] / 2) ** 0.5
    kernel = (
        decoder.embed_latents.kernel
    )  # latents are short vectors: of norm 1 at most where they are mixtures of codes
    kernel[...] = jax.random.normal(rngs.params(), kernel.shape) * _content(kernel.shape[1])


def _start_copying(transformer, pos_embed: nnx.Param, latent_pos_embed: nnx.Param, rngs: nnx.Rngs) -> None:
    """Patches attend to their latents and latents to their patches, and what is copied is content."""
    width, patches, latents = pos_embed.shape[1], pos_embed.shape[0] - 1, latent_pos_embed.shape[0]
    content = _content(width)
    swap = _swap(width)
    positions = 2**0.5 * jax.random.normal(rngs.params(), (patches, width)) * (1 - content)
    pos_embed[...] = pos_embed[...].at[1:].set(positions)
    # A latent's place is its patches' place, swapped: a query finds the other kind of token, never itself.
    theirs = _overlap(latents, patches)
    latent_pos_embed[...] = theirs / jnp.sum(theirs, axis=1, keepdims=True) ** 0.5 @ positions @ swap
    attention = transformer.blocks.attn
    queries, keys, values = QUERY_GAIN * swap, QUERY_GAIN * jnp.diag(1 - content), jnp.diag(content)
    attention.qkv.kernel[...] = jnp.broadcast_to(
        jnp.concatenate([queries, keys, values], axis=1), attention.qkv.kernel.shape
    )
    attention.proj.kernel[...] = jnp.broadcast_to(values, attention.proj.kernel.shape)


def _content(width: int) -> jax.Array:
    """1 at the channels that hold content, 0 at those that hold the place."""
    return jnp.arange(width, dtype=jnp.float32) % 2


def _swap(width: int) -> jax.Array:
    """Exchanges two halves of the place's channels, `[width, width]`, its own inverse where 4 divides the width."""
    place = jnp.arange(0, width, 2)
    return jnp.zeros((width, width)).at[place, jnp.roll(place, width // 4)].set(1.0)


def _overlap(latents: int, patches: int) -> jax.Array:
    """`[latents, patches]`: 1 where the i-th part of `latents` of the image meets the j-th of `patches`."""
    i, j = jnp.arange(latents)[:, None], jnp.arange(patches)
    return ((i * patches < (j + 1) * latents) & (j * latents < (i + 1) * patches)).astype(jnp.float32)
