"""Initialization for small tokenizers from scratch: every token starts with a place in the image.

Positions usually start as independent noise, so a network has to learn from nothing which of them are neighbors, and for
each latent where to look. Here the positions of patches start as sines and cosines of their row and column (as fixed
positions in MAE, He et al., 2021), those of latents as the same functions of places on a coarser grid, and keys start
equal to queries. Tokens that are near each other then attend to each other at first. Unlike in `models.local_init`, a
latent is not the code of given patches: attention is wide, no map is a copy, and all of it is learned further.
Still, latents keep their places in training: see docs/studies.md.
"""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from softvq_jax.models.tokenizer import TokenizerModel

SHORTEST, LONGEST = 2.0, 32.0  # wavelengths of positions, in patches


def start_grid(model: "TokenizerModel") -> None:
    """Sets positions and keys of a new `models.tokenizer.TokenizerModel` as described in the module's docstring."""
    encoder, decoder = model.encoder, model.decoder
    _start(encoder.vit.transformer, encoder.vit.pos_embed, encoder.latent_pos_embed)
    _start(decoder.transformer, decoder.pos_embed, decoder.latent_pos_embed)


def _start(transformer, pos_embed: nnx.Param | None, latent_pos_embed: nnx.Param) -> None:
    assert pos_embed is not None, "checked by the config"
    width = pos_embed.shape[1]
    side = math.isqrt(pos_embed.shape[0] - 1)
    pos_embed[...] = pos_embed[...].at[1:].set(positions(side, side, side, width))
    latent_pos_embed[...] = positions(*rows_and_columns(latent_pos_embed.shape[0]), side, width)
    kernel = transformer.blocks.attn.qkv.kernel
    queries, _, values = jnp.split(kernel[...], 3, axis=-1)
    kernel[...] = jnp.concatenate([queries, queries, values], axis=-1)


def positions(rows: int, columns: int, side: int, width: int) -> jax.Array:
    """Returns positions of a grid of `rows` by `columns` over `side` by `side` patches, `[rows * columns, width]`.

    They are sines and cosines of the row and of the column, in patches, a quarter of the channels each. Channels that are
    left over if 4 does not divide `width` are 0.
    """
    number = width // 4
    frequencies = 2 * jnp.pi / jnp.geomspace(SHORTEST, LONGEST, number)
    row, column = jnp.meshgrid(_centers(rows, side), _centers(columns, side), indexing="ij")
    phases = [place.reshape(-1, 1) * frequencies for place in (row, column)]
    found = jnp.concatenate([wave(phase) for phase in phases for wave in (jnp.sin, jnp.cos)], axis=1)
    return jnp.pad(found, ((0, 0), (0, width - 4 * number)))


def rows_and_columns(count: int) -> tuple[int, int]:
    """Returns rows and columns of the most square grid of `count` places, with at least as many columns as rows."""
    rows = next(rows for rows in range(math.isqrt(count), 0, -1) if count % rows == 0)
    return rows, count // rows


def _centers(count, side):
    """Centers of `count` equal intervals of a side, in patches, with the center of the first patch at 0."""
    return (jnp.arange(count) + 0.5) * side / count - 0.5
