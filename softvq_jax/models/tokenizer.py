"""The SoftVQ-VAE tokenizer, which encodes an image as `L` latent tokens of `D` channels (arXiv 2412.10958, section 3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models import layers
from softvq_jax.models.bottleneck import Bottlenecked
from softvq_jax.models.grid_init import start_grid
from softvq_jax.models.local_init import start_local
from softvq_jax.models.quantizers import bottleneck_class
from softvq_jax.models.unit_init import start_unit
from softvq_jax.models.vit import (
    Transformer,
    ViT,
    ViTConfig,
    fresh_class_token,
    fresh_positions,
    unpatchify,
    with_prefix,
)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Shape of a tokenizer.

    Attributes:
      image_size: side of the square images, in pixels.
      encoder, decoder: shapes of the two transformers.
      num_latent_tokens, latent_dim: `L` and `D`.
      bottleneck: a name in `quantizers.BOTTLENECKS`, or "package.module:Class".
      codebook_size, num_codebooks: `K` and `C`; each codebook is used by `L/C` consecutive tokens.
      temperature: SoftVQ's tau.
      l2_normalize: whether SoftVQ and VQ compare and return unit vectors.
      posterior: the posterior of SoftVQ, "released" or "paper".
      train_codebook: whether SimVQ trains its codebook as well as the linear map.
      bottleneck_args: further arguments of the bottleneck's class, a mapping; stored as sorted pairs, to be hashable.
      local_init: whether new networks start as a linear code of every patch, see `models.local_init`.
      unit_init: whether new networks start with larger weights, see `models.unit_init`.
      grid_init: whether tokens start with places in the image, see `models.grid_init`.
      dtype: type of the matmuls; parameters are float32.
      remat: activations that the blocks recompute in the backward pass, see `layers.scan_blocks`.

    Raises:
      ValueError: fields do not fit together.
    """

    encoder: ViTConfig
    decoder: ViTConfig
    image_size: int = 256
    num_latent_tokens: int = 64
    latent_dim: int = 32
    bottleneck: str = "softvq"
    codebook_size: int = 8192
    num_codebooks: int = 4
    temperature: float = 0.07
    l2_normalize: bool = True
    posterior: str = "released"
    train_codebook: bool = False
    bottleneck_args: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    local_init: bool = False
    unit_init: bool = False
    grid_init: bool = False
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        args = ((name, _hashable(value)) for name, value in dict(self.bottleneck_args).items())
        object.__setattr__(self, "bottleneck_args", tuple(sorted(args)))
        bottleneck_class(self.bottleneck).check(self)
        if self.local_init and self.unit_init:
            raise ValueError("local_init and unit_init are both true; they are two ways to start, choose one")
        if self.local_init and self.grid_init:
            raise ValueError("local_init and grid_init are both true; they set the same parameters, choose one")
        for vit in (self.encoder, self.decoder):
            vit.grid(self.image_size)
            plain = vit.class_token and vit.absolute_positions and vit.rope_theta is None and not vit.modulated
            if (self.local_init or self.grid_init) and not plain:
                name = "local_init" if self.local_init else "grid_init"
                raise ValueError(
                    f"{name} is true; it needs a class token, absolute positions, no rotary positions and no modulation"
                )

    @classmethod
    def from_dict(cls, fields: Mapping) -> "TokenizerConfig":
        """Creates a config from nested fields, as in a config file."""
        fields = dict(fields)
        vits = {name: ViTConfig(**fields.pop(name)) for name in ("encoder", "decoder")}
        return cls(**vits, **fields)

    @property
    def has_codebook(self) -> bool:
        """Whether the bottleneck has `num_codebooks` codebooks of `codebook_size` codes."""
        return bottleneck_class(self.bottleneck).has_codebook

    @property
    def discrete(self) -> bool:
        """True if each latent is an entry of a codebook, so that its index is enough to decode it."""
        return bottleneck_class(self.bottleneck).discrete

    @property
    def has_temperature(self) -> bool:
        """Whether the latents are averages of codes, weighted by a softmax with a temperature."""
        return bottleneck_class(self.bottleneck).has_temperature


def refuse_other_starts(config: TokenizerConfig, kind: str) -> None:
    """Raises ValueError if a tokenizer of another kind is to start as only a SoftVQ-VAE can."""
    for name in ("local_init", "unit_init", "grid_init"):
        if getattr(config, name):
            raise ValueError(f"{name} is true, but a {kind} always starts as its authors' does: set {name} to False")


def _hashable(value):
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


@flax.struct.dataclass
class TokenizerOutput:
    """The output of a tokenizer.

    Attributes:
      decoded: the decoder's last features `[B, N, width]`; `Decoder.to_pixels` converts them to images.
      bottlenecked: the output of the bottleneck.
    """

    decoded: jax.Array
    bottlenecked: Bottlenecked


class Encoder(nnx.Module):
    """A ViT with additional learned latent tokens, `[B, H, W, 3] -> [B, L, width]`."""

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        width, length = config.encoder.width, config.num_latent_tokens
        normal = nnx.initializers.truncated_normal(stddev=0.02)
        self.vit = ViT(config.encoder, config.image_size, dtype=config.dtype, remat=config.remat, rngs=rngs)
        self.latent_tokens = nnx.Param(normal(rngs.params(), (length, width), jnp.float32))
        self.latent_pos_embed = nnx.Param(normal(rngs.params(), (length, width), jnp.float32))

    def __call__(self, images: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.latents(self.vit.embed(images), key=key)

    def latents(self, tokens: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Returns the latent tokens after the last norm, given the image's embedded `tokens`."""
        tokens = self.vit.transformer(self.with_latents(tokens), grid=self.vit.grid, key=key)
        return tokens[:, -self.latent_tokens.shape[0] :]

    def with_latents(self, tokens: jax.Array) -> jax.Array:
        """Returns the transformer's input: the image's embedded `tokens`, then the learned latent tokens."""
        latents = self.latent_tokens[...] + self.latent_pos_embed[...]
        return jnp.concatenate([tokens, jnp.broadcast_to(latents, (tokens.shape[0], *latents.shape))], axis=1)

    def attention_to_patches(self, images: jax.Array) -> jax.Array:
        """Returns the attention of the latents to the patches in each block, averaged over heads, `[depth, B, L, N]`."""
        prefix, count = self.vit.num_prefix_tokens, self.vit.grid**2
        maps = self.vit.transformer.attention_maps(self.with_latents(self.vit.embed(images)), grid=self.vit.grid)
        return maps[:, :, prefix + count :, prefix : prefix + count]


class Decoder(nnx.Module):
    """A transformer over a mask token for each patch and the latents, `[B, L, D] -> [B, N, width]`.

    A modulated ViT has the latents themselves as its condition, which acts on the latent tokens. `to_patches` maps the
    features of a patch to its pixels, or to `num_outputs` numbers.
    """

    def __init__(self, config: TokenizerConfig, num_outputs: int | None = None, *, rngs: nnx.Rngs):
        vit = config.decoder
        self.config, self.grid = vit, vit.grid(config.image_size)
        normal = nnx.initializers.truncated_normal(stddev=0.02)
        self.embed_latents = layers.linear(config.latent_dim, vit.width, dtype=config.dtype, rngs=rngs)
        self.latent_pos_embed = nnx.Param(normal(rngs.params(), (config.num_latent_tokens, vit.width), jnp.float32))
        self.cls_token = fresh_class_token(vit, rngs)
        self.mask_token = nnx.Param(normal(rngs.params(), (1, vit.width), jnp.float32))
        self.pos_embed = fresh_positions(vit, self.grid, rngs)
        condition_dim = config.latent_dim if vit.modulated else None
        self.transformer = Transformer(
            vit, condition_dim=condition_dim, dtype=config.dtype, remat=config.remat, rngs=rngs
        )
        num_outputs = num_outputs or 3 * vit.patch_size**2
        self.to_patches = layers.linear(vit.width, num_outputs, dtype=config.dtype, rngs=rngs)

    def __call__(self, latents: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        tokens, condition = self._inputs(latents)
        tokens = self.transformer(tokens, grid=self.grid, condition=condition, key=key)
        prefix = self.config.num_prefix_tokens
        return tokens[:, prefix : prefix + self.grid**2]

    def attention_to_latents(self, latents: jax.Array) -> jax.Array:
        """Returns the attention of the patches to the latents in each block, averaged over heads, `[depth, B, N, L]`."""
        tokens, condition = self._inputs(latents)
        prefix, count = self.config.num_prefix_tokens, self.grid**2
        maps = self.transformer.attention_maps(tokens, grid=self.grid, condition=condition)
        return maps[:, :, prefix : prefix + count, prefix + count :]

    def _inputs(self, latents):
        """Returns the transformer's tokens, and its condition or None."""
        embedded = self.embed_latents(latents).astype(jnp.float32) + self.latent_pos_embed[...]
        masks = jnp.broadcast_to(self.mask_token[...], (latents.shape[0], self.grid**2, self.config.width))
        tokens = jnp.concatenate([with_prefix(masks, self.cls_token, self.pos_embed), embedded], axis=1)
        return tokens, latents.astype(jnp.float32) if self.config.modulated else None

    def to_pixels(self, decoded: jax.Array) -> jax.Array:
        """Maps features to images, `[B, N, width] -> [B, H, W, 3]` float32."""
        patches = self.to_patches(decoded).astype(jnp.float32)
        return unpatchify(patches, self.config.patch_size, self.grid)


class TokenizerModel(nnx.Module):
    """The whole network: encoder, linear map to the bottleneck's channels, bottleneck, decoder.

    Attributes:
      encoder_class, decoder_class: classes of the two parts, which a subclass may replace.
      ends_linear: whether pixels are a linear map of the decoder's features of each patch, as `gan.adaptive` assumes.
    """

    encoder_class: ClassVar[type[Any]] = Encoder
    decoder_class: ClassVar[type[Any]] = Decoder
    ends_linear: ClassVar[bool] = True

    def __init__(self, config: TokenizerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = self.encoder_class(config, rngs=rngs)
        self.bottleneck = bottleneck_class(config.bottleneck).from_config(config, rngs=rngs)
        # Always float32: it has few parameters, and its outputs are compared with the codebook.
        self.to_latents = layers.linear(config.encoder.width, self.bottleneck.input_dim, rngs=rngs)
        self.decoder = self.decoder_class(config, rngs=rngs)
        if config.unit_init:
            start_unit(self, rngs)
        if config.grid_init:
            start_grid(self)
        if config.local_init:
            start_local(self, rngs)

    def __call__(
        self, images: jax.Array, *, step: jax.Array | None = None, key: jax.Array | None = None, **inputs: jax.Array
    ) -> TokenizerOutput:
        """Encodes and decodes images, except for the last map to pixels.

        Args:
          images: `[B, H, W, 3]` in [-1, 1].
          step: number of completed training steps; None in evaluation.
          key: random key for noise and stochastic depth, in training; None in evaluation.
          inputs: further inputs of the encoder, such as a MAETok's `mask`.
        """
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        z = self.pre_bottleneck(images, key=keys[0], **inputs)
        bottlenecked = self.bottleneck(z, step=step, key=keys[1])
        return TokenizerOutput(self.decoder(bottlenecked.latents, key=keys[2]), bottlenecked)

    def pre_bottleneck(self, images: jax.Array, *, key: jax.Array | None = None, **inputs: jax.Array) -> jax.Array:
        """Returns the bottleneck's input, `[B, H, W, 3] -> [B, L, bottleneck.input_dim]`."""
        return self.to_latents(self.encoder(images, key=key, **inputs))

    def encode(self, images: jax.Array, **options: jax.Array) -> jax.Array:
        """Encodes images `[B, H, W, 3]` in [-1, 1] as latents `[B, L, D]`.

        `options` are those of the bottleneck: `temperature`, if it has one.
        """
        return self.bottleneck.encode(self.pre_bottleneck(images), **options)

    def posterior(self, images: jax.Array, **options: jax.Array) -> jax.Array:
        """Returns the probabilities `[B, C, L/C, K]` of the codes of each token, for bottlenecks that average codes."""
        log_posterior = self.bottleneck.log_posterior(self.pre_bottleneck(images), **options)
        assert log_posterior is not None, "the bottleneck averages codes"
        return jnp.moveaxis(jnp.exp(log_posterior), 0, 1)

    def encode_indices(self, images: jax.Array) -> jax.Array:
        """Encodes images `[B, H, W, 3]` as code indices `[B, C, L/C]`, for discrete bottlenecks."""
        return self.bottleneck.encode_indices(self.pre_bottleneck(images))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes latents `[B, L, D]` to images `[B, H, W, 3]`, not clipped to [-1, 1]."""
        return self.decoder.to_pixels(self.decoder(latents))

    def lookup(self, indices: jax.Array) -> jax.Array:
        """Returns the latents `[B, L, D]` of code indices `[B, C, L/C]`, for discrete bottlenecks."""
        return self.bottleneck.lookup(indices)

    def decode_indices(self, indices: jax.Array) -> jax.Array:
        """Decodes code indices `[B, C, L/C]` to images, for discrete bottlenecks."""
        return self.decode(self.lookup(indices))
