"""Measures what the latent tokens of a tokenizer do: the effect of a token, its attention, its nearest codes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.models.codebook import segment, squared_distances, unsegment
from softvq_jax.pixels import from_uint8, to_uint8
from softvq_jax.tokenizer import Tokenizer

REPLACEMENTS = ("zero", "mean", "swap")


@dataclasses.dataclass(frozen=True)
class Effects:
    """Reconstructions of `n` images with one of the `L` tokens replaced.

    Attributes:
      reconstructions: uint8 `[n, H, W, 3]`, with all tokens as they are.
      changed: uint8 `[n, L, H, W, 3]`; in `changed[i, l]` token `l` is replaced.
    """

    reconstructions: np.ndarray
    changed: np.ndarray

    @property
    def maps(self) -> np.ndarray:
        """The absolute change of each pixel in 8-bit levels, the mean over colors, float32 `[n, L, H, W]`."""
        difference = self.changed.astype(np.float32) - self.reconstructions[:, None]
        return np.abs(difference).mean(axis=-1)


def effects(tokenizer: Tokenizer, images: np.ndarray, replacement: str = "zero") -> Effects:
    """Replaces one token at a time, and decodes.

    Args:
      tokenizer: of any kind.
      images: uint8 `[n, H, W, 3]`.
      replacement: "zero"; "mean", of the same token in all images; or "swap", for the same token of the next image (for
        the last image, of the first).

    Raises:
      ValueError: the replacement is unknown, or needs more than one image.
    """
    if replacement not in REPLACEMENTS:
        raise ValueError(f"replacement is {replacement!r}; expected one of {', '.join(REPLACEMENTS)}")
    if replacement != "zero" and len(images) < 2:
        raise ValueError(f"replacement {replacement!r} needs at least 2 images, and there is one")
    latents = tokenizer.encode(jnp.asarray(images))
    others = {
        "zero": jnp.zeros_like(latents),
        "mean": jnp.broadcast_to(jnp.mean(latents, axis=0), latents.shape),
        "swap": jnp.roll(latents, -1, axis=0),
    }[replacement]
    one_replaced = jnp.eye(latents.shape[1], dtype=bool)[:, :, None]  # [L, L, 1]: row l marks token l
    changed = [
        to_uint8(np.asarray(tokenizer.decode(jnp.where(one_replaced, other, own))))
        for own, other in zip(latents, others, strict=True)
    ]
    return Effects(to_uint8(np.asarray(tokenizer.decode(latents))), np.stack(changed))


def attention(tokenizer: Tokenizer, images: np.ndarray, layer: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much each latent token attends to each patch in the encoder, and each patch to it in the decoder.

    Both are means over the heads, float32 `[n, L, g, g]` on the grid of the encoder's and of the decoder's patches. They
    do not sum to 1: attention to the class token, registers and tokens of the same kind is left out.

    Args:
      tokenizer: with a ViT encoder and decoder.
      images: uint8 `[n, H, W, 3]`.
      layer: the block, from 0; None for the mean over all blocks.

    Raises:
      ValueError: the tokenizer has other networks, or one of its transformers has no such block.
    """
    network = tokenizer.network
    encoder, decoder = getattr(network, "encoder", None), getattr(network, "decoder", None)
    if not (hasattr(encoder, "attention_to_patches") and hasattr(decoder, "attention_to_latents")):
        raise ValueError(f"attention maps need a tokenizer with a ViT encoder and decoder; this is {tokenizer!r}")
    levels = jnp.asarray(images)
    latents, scaled = tokenizer.encode(levels), from_uint8(levels)

    @nnx.jit
    def maps(network, images, latents):
        return network.encoder.attention_to_patches(images), network.decoder.attention_to_latents(latents)

    to_patches, to_latents = map(np.asarray, maps(network, scaled, latents))
    found = []
    for each in (to_patches, np.swapaxes(to_latents, 2, 3)):
        if layer is not None and not 0 <= layer < len(each):
            raise ValueError(f"layer is {layer}; expected 0 to {len(each) - 1}")
        chosen = each.mean(axis=0) if layer is None else each[layer]
        side = round(chosen.shape[-1] ** 0.5)
        found.append(chosen.reshape(*chosen.shape[:2], side, side))
    return found[0], found[1]


@dataclasses.dataclass(frozen=True)
class NearestCodes:
    """The nearest codes of every token, nearest first.

    Attributes:
      indices: int32 `[n, L, k]`, in the codebook of the token's segment.
      values: float32 `[n, L, k]`: probabilities where the bottleneck averages codes, else squared distances.
      are_probabilities: whether `values` are probabilities.
      reconstructions: uint8 `[n, H, W, 3]`, by the name of the codes that replace the tokens.
    """

    indices: np.ndarray
    values: np.ndarray
    are_probabilities: bool
    reconstructions: dict[str, np.ndarray]


def nearest_codes(
    tokenizer: Tokenizer, images: np.ndarray, count: int = 8, shown: Sequence[int] = (1, 2, 4)
) -> NearestCodes:
    """Returns the nearest codes of the tokens, and the images that they decode to.

    SoftVQ's latents are averages of all codes: `reconstructions` are of averages of only the `shown` most probable codes,
    weighted by their probabilities. For VQ and SimVQ, they are of the first, second, ... nearest code of each token.

    Args:
      tokenizer: with a codebook.
      images: uint8 `[n, H, W, 3]`.
      count: number of codes of each token, `k`.
      shown: numbers of codes to average; for VQ and SimVQ, which of the nearest codes to decode, from 1.

    Raises:
      ValueError: the bottleneck has no codebook.
    """
    bottleneck: Any = getattr(tokenizer.network, "bottleneck", None)
    if not hasattr(bottleneck, "codes"):
        raise ValueError(f"nearest codes need a tokenizer with a codebook, such as SoftVQ or VQ; this is {tokenizer!r}")
    levels = jnp.asarray(images)
    z, codes = tokenizer.pre_bottleneck(levels), bottleneck.codes()
    log_posterior = bottleneck.log_posterior(z)
    soft = log_posterior is not None
    if soft:
        values, indices = jax.lax.top_k(jnp.exp(log_posterior), min(count, codes.shape[1]))
    else:
        distances = squared_distances(segment(bottleneck.prepare(z), codes.shape[0]), codes)
        values, indices = jax.lax.top_k(-distances, min(count, codes.shape[1]))
        values = -values
    chosen = jax.vmap(lambda of_segment, i: of_segment[i])(codes, indices)  # [C, B, L/C, k, D]
    latents = {"all codes": tokenizer.encode(levels)} if soft else {}
    for number in (n for n in shown if n <= indices.shape[-1]):
        if soft:
            weights = values[..., :number] / jnp.sum(values[..., :number], axis=-1, keepdims=True)
            name, replaced = f"{number} most probable", jnp.einsum("cblk,cblkd->cbld", weights, chosen[..., :number, :])
        else:
            name, replaced = f"code {number} in distance", chosen[..., number - 1, :]
        latents[name] = unsegment(replaced)
    decoded = {name: to_uint8(np.asarray(tokenizer.decode(each))) for name, each in latents.items()}
    return NearestCodes(np.asarray(unsegment(indices)), np.asarray(unsegment(values)), soft, decoded)
