"""TiTok: an image to a short sequence of discrete (or Gaussian) tokens, and back (arXiv 2406.07550).

The released tokenizers are of three kinds. Two-stage VQ: the token decoder gives logits over the 1,024 codes of
MaskGIT's VQGAN, whose decoder makes the pixels. One-stage VQ and VAE: the token decoder gives the pixels.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers, quantizers
from softvq_jax.models.maskgit_vqgan import PixelDecoder, PixelDecoderConfig
from softvq_jax.models.tokenizer import TokenizerOutput
from softvq_jax.models.vit import Transformer, ViT, ViTConfig, unpatchify, with_prefix

NORM_EPS = 1e-5
SIZES = {
    "small": dict(width=512, depth=8, num_heads=8),
    "base": dict(width=768, depth=12, num_heads=12),
    "large": dict(width=1024, depth=24, num_heads=16),
}
BOTTLENECKS = ("vq", "kl")


def vit_config(size: str, **fields) -> ViTConfig:
    """The transformer of a published size: "small", "base" or "large".

    Raises:
      ValueError: another size.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
    return ViTConfig(**dict(layer_scale=None, norm_eps=NORM_EPS) | SIZES[size] | fields)


@dataclasses.dataclass(frozen=True)
class TiTokConfig:
    """Shape of a TiTok tokenizer.

    Attributes:
      encoder, decoder: the two transformers.
      image_size: side of the square images, in pixels.
      num_latent_tokens, latent_dim: `L` and `D`.
      bottleneck: "vq" or "kl" (the release's `vae`).
      codebook_size: `K` of "vq".
      l2_normalize: "vq" compares and returns unit vectors.
      pixel_decoder: the VQGAN decoder of the two-stage kind, None for the one-stage kinds.
      dtype: type of the matmuls; parameters are float32.
      remat: what the blocks recompute in the backward pass, see `layers.scan_blocks`.
    """

    encoder: ViTConfig
    decoder: ViTConfig
    image_size: int = 256
    num_latent_tokens: int = 64
    latent_dim: int = 12
    bottleneck: str = "vq"
    codebook_size: int = 4096
    l2_normalize: bool = True
    pixel_decoder: PixelDecoderConfig | None = None
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.bottleneck not in BOTTLENECKS:
            raise ValueError(f"bottleneck is {self.bottleneck!r}; expected one of {', '.join(BOTTLENECKS)}")
        for vit in (self.encoder, self.decoder):
            vit.grid(self.image_size)
        if self.two_stage and self.pixel_decoder.patch_size != self.decoder.patch_size:
            raise ValueError(
                f"the pixel decoder enlarges {self.pixel_decoder.patch_size} times, but the decoder's patch size is "
                f"{self.decoder.patch_size}; they must be equal"
            )

    @classmethod
    def from_dict(cls, fields: Mapping) -> "TiTokConfig":
        """From nested fields, as in a config file."""
        fields = dict(fields)
        vits = {name: ViTConfig(**fields.pop(name)) for name in ("encoder", "decoder")}
        pixels = fields.pop("pixel_decoder", None)
        if pixels is not None:
            pixels = PixelDecoderConfig(**{**pixels, "multipliers": tuple(pixels["multipliers"])})
        return cls(**vits, pixel_decoder=pixels, **fields)

    @property
    def two_stage(self) -> bool:
        """Whether pixels come from proxy codes. The release calls these `is_legacy`."""
        return self.pixel_decoder is not None

    @property
    def discrete(self) -> bool:
        """Whether indices determine the latents."""
        return self.bottleneck == "vq"

    @property
    def num_codebooks(self) -> int:
        return 1


class Encoder(nnx.Module):
    """Images `[B, H, W, 3]` in [0, 1] to latent tokens `[B, L, width]` after the last norm."""

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
    """Latents `[B, L, D]` to features of the image's patches, `[B, N, width]`, and those to pixels."""

    def __init__(self, config: TiTokConfig, *, rngs: nnx.Rngs):
        vit, options = config.decoder, dict(dtype=config.dtype, rngs=rngs)
        self.vit, self.grid, self.two_stage = vit, vit.grid(config.image_size), config.two_stage
        self.embed_latents = layers.linear(config.latent_dim, vit.width, **options)
        self.latent_pos_embed = _token(rngs, config.num_latent_tokens, vit.width)
        self.cls_token = _token(rngs, 1, vit.width)
        self.mask_token = _token(rngs, 1, vit.width)
        self.pos_embed = _token(rngs, 1 + self.grid**2, vit.width)
        self.norm_pre = layers.layer_norm(vit.width, eps=NORM_EPS, rngs=rngs)
        self.transformer = Transformer(vit, remat=config.remat, **options)
        if config.two_stage:
            self.to_hidden = layers.linear(vit.width, 2 * vit.width, **options)
            self.to_codes = layers.linear(2 * vit.width, config.pixel_decoder.num_codes, **options)
            self.pixel_decoder = PixelDecoder(config.pixel_decoder, **options)
        else:
            self.to_patches = layers.linear(vit.width, 3 * vit.patch_size**2, **options)
            self.conv_out = nnx.Conv(3, 3, (3, 3), **options)

    def __call__(self, latents: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        embedded = self.embed_latents(latents).astype(jnp.float32) + self.latent_pos_embed[...]
        count = self.grid**2
        masks = jnp.broadcast_to(self.mask_token[...], (latents.shape[0], count, self.vit.width))
        tokens = with_prefix(masks, self.cls_token[...], self.pos_embed[...])
        tokens = self.norm_pre(jnp.concatenate([tokens, embedded], axis=1))
        return self.transformer(tokens, key=key)[:, 1 : 1 + count]

    def code_logits(self, decoded: jax.Array) -> jax.Array:
        """Features to logits over the proxy codes, `[B, N, num_codes]` float32; two-stage tokenizers only."""
        return self.to_codes(jnp.tanh(self.to_hidden(decoded))).astype(jnp.float32)

    def to_pixels(self, decoded: jax.Array) -> jax.Array:
        """Features to images `[B, H, W, 3]` float32 in [-1, 1]; not clipped."""
        if self.two_stage:
            codes = self.pixel_decoder.average(self.code_logits(decoded))
            images = self.pixel_decoder(codes.reshape(len(codes), self.grid, self.grid, -1))
        else:
            patches = self.to_patches(decoded).astype(jnp.float32)
            images = self.conv_out(unpatchify(patches, self.vit.patch_size, self.grid)).astype(jnp.float32)
        return 2.0 * images - 1.0


class TiTokModel(nnx.Module):
    """Encoder, `to_latents` to the bottleneck's channels, bottleneck, decoder. Images are in [-1, 1]."""

    def __init__(self, config: TiTokConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        if config.bottleneck == "vq":
            sizes = (config.latent_dim, config.codebook_size, 1)
            self.bottleneck = quantizers.VQ(*sizes, l2_normalize=config.l2_normalize, rngs=rngs)
        else:
            self.bottleneck = quantizers.KL(config.latent_dim)
        # Few parameters and the numbers that a codebook is compared with: float32 whatever `dtype` says.
        self.to_latents = layers.linear(config.encoder.width, self.bottleneck.input_dim, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def __call__(self, images: jax.Array, *, key: jax.Array | None = None) -> TokenizerOutput:
        """Runs a training pass with a `key` (sampling, stochastic depth), an evaluation pass without."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        bottlenecked = self.bottleneck(self.pre_bottleneck(images, key=keys[0]), keys[1])
        return TokenizerOutput(self.decoder(bottlenecked.latents, key=keys[2]), bottlenecked)

    def pre_bottleneck(self, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Images `[B, H, W, 3]` to the bottleneck's input `[B, L, bottleneck.input_dim]`.

        The two-stage tokenizers read the memory of `[B, L, width]` as `[B, width, L]` before the last linear map: a
        mistake of the release that their weights were trained with.
        """
        tokens = self.encoder((images + 1.0) / 2.0, key=key)
        if self.config.two_stage:
            batch, length, width = tokens.shape
            tokens = tokens.reshape(batch, width, length).swapaxes(1, 2)
        return self.to_latents(tokens)

    def encode(self, images: jax.Array) -> jax.Array:
        """Images `[B, H, W, 3]` to latents `[B, L, D]`."""
        return self.bottleneck.encode(self.pre_bottleneck(images))

    def encode_indices(self, images: jax.Array) -> jax.Array:
        """Images `[B, H, W, 3]` to code indices `[B, 1, L]`, for "vq"."""
        return self.bottleneck.encode_indices(self.pre_bottleneck(images))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Latents `[B, L, D]` to images `[B, H, W, 3]`; not clipped to [-1, 1]."""
        return self.decoder.to_pixels(self.decoder(latents))

    def decode_indices(self, indices: jax.Array) -> jax.Array:
        """Code indices `[B, 1, L]` to images, for "vq"."""
        return self.decode(self.bottleneck.lookup(indices))


def _token(rngs, count, width):
    """Learned vectors `[count, width]`, initialized as in the release."""
    return nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (count, width)))
