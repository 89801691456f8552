"""MAETok: a plain autoencoder whose encoder sees masked images in training (arXiv 2502.03444).

Encoder and decoder are the ViTs of `models.tokenizer` with mixed rotary positions; the blocks of the decoder are
modulated by the latents. In training, small auxiliary decoders predict features of the patches from the latents.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models.tokenizer import Decoder, Encoder, TokenizerConfig, TokenizerModel, refuse_other_starts
from softvq_jax.models.vit import ViTConfig


@dataclasses.dataclass(frozen=True)
class MAETokConfig(TokenizerConfig):
    """Shape of a MAETok tokenizer.

    Attributes:
      mask_token: whether the encoder has a mask token, which replaces masked patches in training. Published ones with
        `enc_token_drop` 0 have none.
      auxiliary: shape of the transformers of the auxiliary decoders, which only training needs.

    Raises:
      ValueError: fields do not fit together.
    """

    num_latent_tokens: int = 128
    bottleneck: str = "ae"
    num_codebooks: int = 1
    mask_token: bool = True
    auxiliary: ViTConfig | None = None

    def __post_init__(self):
        refuse_other_starts(self, "MAETok")
        super().__post_init__()
        if self.auxiliary is not None:
            self.auxiliary.grid(self.image_size)

    @classmethod
    def from_dict(cls, fields: Mapping) -> "MAETokConfig":
        """Creates a config from nested fields, as in a config file."""
        fields = dict(fields)
        for name in ("encoder", "decoder", "auxiliary"):
            if fields.get(name) is not None:
                fields[name] = ViTConfig(**fields[name])
        return cls(**fields)


class MaskedEncoder(Encoder):
    """The encoder of `TokenizerModel`, with a mask token instead of masked patches."""

    def __init__(self, config: MAETokConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        normal = nnx.initializers.truncated_normal(stddev=0.02)
        shape = (1, config.encoder.width)
        self.mask_token = nnx.Param(normal(rngs.params(), shape, jnp.float32)) if config.mask_token else None

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> jax.Array:
        """Maps images `[B, H, W, 3]` to latent tokens `[B, L, width]`; patches where `mask` `[B, N]` is true are masked.

        Raises:
          ValueError: there is a mask, but the encoder has no mask token.
        """
        if mask is None:
            return super().__call__(images, key=key)
        if self.mask_token is None:
            raise ValueError("this encoder has no mask token; set model.mask_token=True to train it on masked images")
        return self.latents(self.vit.embed(images, mask, self.mask_token[...]), key=key)


class MAETokModel(TokenizerModel):
    """A `TokenizerModel` that takes a `mask` `[B, N]`; patches where it is true are hidden from the encoder."""

    encoder_class = MaskedEncoder


class AuxiliaryDecoder(nnx.Module):
    """Predicts features of every patch from the latents, `[B, L, D] -> [B, N, num_features]` float32.

    Raises:
      ValueError: the config has no `auxiliary`.
    """

    def __init__(self, config: MAETokConfig, num_features: int, *, rngs: nnx.Rngs):
        if config.auxiliary is None:
            raise ValueError("the config has no auxiliary decoders; set model.auxiliary")
        self.decoder = Decoder(dataclasses.replace(config, decoder=config.auxiliary), num_features, rngs=rngs)

    def __call__(self, latents: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.decoder.to_patches(self.decoder(latents, key=key)).astype(jnp.float32)
