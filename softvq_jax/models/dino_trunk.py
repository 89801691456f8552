"""Frozen DINO backbone of the discriminator: ViT-S/16 (Caron et al., 2021, arXiv 2104.14294)."""

import jax
import jax.numpy as jnp
from flax import nnx

from softvq_jax.models.dinov2 import imagenet_normalize
from softvq_jax.models.vit import ViT, ViTConfig

DINO_S = ViTConfig(width=384, depth=12, num_heads=6, patch_size=16, activation="gelu_tanh", layer_scale=None)
DINO_IMAGE_SIZE = 224
NUM_FEATURES = 5


class DinoTrunk(nnx.Module):
    """Features of images at five depths of a ViT: before the first block and after each quarter of the blocks.

    GELU is the tanh approximation, as in the discriminators of StyleGAN-T and VAR; DINO itself uses the exact GELU.

    Raises:
      ValueError: the depth is not divisible by 4, or the image size by the patch size.
    """

    def __init__(
        self,
        config: ViTConfig = DINO_S,
        image_size: int = DINO_IMAGE_SIZE,
        *,
        dtype=None,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        if config.depth % (NUM_FEATURES - 1):
            raise ValueError(f"depth is {config.depth}; expected a multiple of {NUM_FEATURES - 1}")
        self.image_size = image_size
        self.vit = ViT(config, image_size, dtype=dtype, remat=remat, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns patch tokens plus the class token, at five depths.

        Args:
          images: `[B, S, S, 3]` in [-1, 1]; S is `image_size`.

        Returns:
          `[5, B, N, width]` float32; N is the number of patches.
        """
        tokens = self.vit.embed(imagenet_normalize(images))
        quarters = self.vit.transformer.outputs_by_group(tokens, NUM_FEATURES - 1)
        depths = jnp.concatenate([tokens[None], quarters])
        return depths[:, :, 1:] + depths[:, :, :1]
