"""TiTok, which encodes an image as a short sequence of discrete (or Gaussian) tokens (arXiv 2406.07550).

There are three kinds of released tokenizers. In two-stage VQ, the token decoder predicts logits over the 1,024 codes of
MaskGIT's VQGAN (proxy codes), and the VQGAN's decoder predicts pixels. In one-stage VQ and VAE, the token decoder predicts
pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.maskgit_vqgan import PixelDecoder, PixelDecoderConfig
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel, refuse_other_starts
from softvq_jax.models.vit import Transformer, ViT, ViTConfig, unpatchify, with_prefix

NORM_EPS = 1e-5
SIZES = {  # of the published transformers
    "small": dict(width=512, depth=8, num_heads=8),
    "base": dict(width=768, depth=12, num_heads=12),
    "large": dict(width=1024, depth=24, num_heads=16),
}


@dataclasses.dataclass(frozen=True)
class TiTokConfig(TokenizerConfig):
    """Shape of a TiTok tokenizer. Bottlenecks in the release are "vq", with one codebook, and "kl" (its `vae`).

    Attributes:
      pixel_decoder: the VQGAN decoder of a two-stage tokenizer; None for one stage.

    Raises:
      ValueError: fields do not fit together.
    """

    latent_dim: int = 12
    bottleneck: str = "vq"
    codebook_size: int = 4096
    num_codebooks: int = 1
    pixel_decoder: PixelDecoderConfig | None = None

    def __post_init__(self):
        refuse_other_starts(self, "TiTok")
        super().__post_init__()
        if self.pixel_decoder and self.pixel_decoder.patch_size != self.decoder.patch_size:
            raise ValueError(
                f"the pixel decoder enlarges {self.pixel_decoder.patch_size} times, but the decoder's patch size is "
                f"{self.decoder.patch_size}; they must be equal"
            )

    @classmethod
    def from_dict(cls, fields: Mapping) -> "TiTokConfig":
        """Creates a config from nested fields, as in a config file."""
        fields = dict(fields)
        for name in ("encoder", "decoder"):
            fields[name] = ViTConfig(**fields[name])
        if pixels := fields.get("pixel_decoder"):
            fields["pixel_decoder"] = PixelDecoderConfig(**{**pixels, "multipliers": tuple(pixels["multipliers"])})
        return cls(**fields)

    @property
    def two_stage(self) -> bool:
        """Whether pixels are decoded from proxy codes. The release calls such tokenizers `is_legacy`."""
        return self.pixel_decoder is not None


class Encoder(nnx.Module):
    """Maps images `[B, H, W, 3]` in [0, 1] to latent tokens `[B, L, width]` after the last norm."""

    def __init__(self, config: TiTokConfig, *, rngs: nnx.Rngs):
        width = config.encoder.width
        self.vit = ViT(config.encoder, config.image_size, dtype=config.dtype, remat=config.remat, rngs=rngs)
        self.vit.cls_token = _token(rngs, 1, width)
        self.vit.pos_embed = _token(rngs, 1 + self.vit.grid**2, width)
        self.latent_tokens = _token(rngs, config.num_latent_tokens, width)
        self.latent_pos_embed = _token(rngs, config.num_latent_tokens, width)
        self.norm_pre = layers.layer_norm(width, eps=NORM_EPS, rngs=rngs)

    def __call__(self, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        tokens = self.vit.embed(images)
        latents = self.latent_tokens[...] + self.latent_pos_embed[...]
        latents = jnp.broadcast_to(latents, (tokens.shape[0], *latents.shape))
        tokens = self.norm_pre(jnp.concatenate([tokens, latents], axis=1))
        return self.vit.transformer(tokens, key=key)[:, -latents.shape[1] :]


class Decoder(nnx.Module):
    """Maps latents `[B, L, D]` to features of the image's patches, `[B, N, width]`, and these to pixels.

    One-D-Piece (arXiv 2501.10064) can decode the first `L' < L` latents alone, because it is trained to.
    """

    def __init__(self, config: TiTokConfig, *, rngs: nnx.Rngs):
        vit: ViTConfig = config.decoder
        options: dict[str, Any] = {"dtype": config.dtype, "rngs": rngs}
        self.vit, self.grid, pixels = vit, vit.grid(config.image_size), config.pixel_decoder
        self.two_stage = pixels is not None
        self.embed_latents = layers.linear(config.latent_dim, vit.width, **options)
        self.latent_pos_embed = _token(rngs, config.num_latent_tokens, vit.width)
        self.cls_token = _token(rngs, 1, vit.width)
        self.mask_token = _token(rngs, 1, vit.width)
        self.pos_embed = _token(rngs, 1 + self.grid**2, vit.width)
        self.norm_pre = layers.layer_norm(vit.width, eps=NORM_EPS, rngs=rngs)
        self.transformer = Transformer(vit, remat=config.remat, **options)
        if pixels is not None:
            self.to_hidden = layers.linear(vit.width, 2 * vit.width, **options)
            self.to_codes = layers.linear(2 * vit.width, pixels.num_codes, **options)
            self.pixel_decoder = PixelDecoder(pixels, **options)
        else:
            self.to_patches = layers.linear(vit.width, 3 * vit.patch_size**2, **options)
            self.conv_out = nnx.Conv(3, 3, (3, 3), **options)

    def __call__(self, latents: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        positions = self.latent_pos_embed[: latents.shape[1]]
        embedded = self.embed_latents(latents).astype(jnp.float32) + positions
        count = self.grid**2
        masks = jnp.broadcast_to(self.mask_token[...], (latents.shape[0], count, self.vit.width))
        tokens = with_prefix(masks, self.cls_token, self.pos_embed)
        tokens = self.norm_pre(jnp.concatenate([tokens, embedded], axis=1))
        return self.transformer(tokens, key=key)[:, 1 : 1 + count]

    def code_logits(self, decoded: jax.Array) -> jax.Array:
        """Maps features to logits over the proxy codes, `[B, N, num_codes]` float32; only for two-stage tokenizers."""
        return self.to_codes(jnp.tanh(self.to_hidden(decoded))).astype(jnp.float32)

    def to_pixels(self, decoded: jax.Array) -> jax.Array:
        """Maps features to images `[B, H, W, 3]` float32, about in [-1, 1] and not clipped."""
        if self.two_stage:
            codes = self.pixel_decoder.average(self.code_logits(decoded))
            images = self.pixel_decoder(codes.reshape(len(codes), self.grid, self.grid, -1))
        else:
            patches = self.to_patches(decoded).astype(jnp.float32)
            images = self.conv_out(unpatchify(patches, self.vit.patch_size, self.grid)).astype(jnp.float32)
        return 2.0 * images - 1.0


class TiTokModel(TokenizerModel):
    """A `TokenizerModel` with TiTok's encoder and decoder. Images are in [-1, 1]."""

    encoder_class = Encoder
    decoder_class = Decoder
    ends_linear = False

    def pre_bottleneck(self, images: jax.Array, *, key: jax.Array | None = None, **inputs: jax.Array) -> jax.Array:
        """Maps images `[B, H, W, 3]` to the bottleneck's input `[B, L, bottleneck.input_dim]`.

        Two-stage tokenizers reshape (not transpose) `[B, L, width]` to `[B, width, L]` before the last linear map, a
        mistake in the release with which their weights were trained.
        """
        tokens = self.encoder((images + 1.0) / 2.0, key=key, **inputs)
        if self.decoder.two_stage:
            batch, length, width = tokens.shape
            tokens = tokens.reshape(batch, width, length).swapaxes(1, 2)
        return self.to_latents(tokens)


def _token(rngs, count, width):
    """Returns learned vectors `[count, width]`, initialized as in the release."""
    return nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (count, width)))
