"""MAETok's training: the encoder sees masked images, and auxiliary decoders predict features (arXiv 2502.03444)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from softvq_jax.diffusion import masking
from softvq_jax.losses import hog, masked_features
from softvq_jax.models.dinov2 import patch_features
from softvq_jax.models.functional import Functional, functional
from softvq_jax.models.maetok import AuxiliaryDecoder, MAETokConfig
from softvq_jax.models.vit import ViT

FEATURES = ("hog", "dino", "clip")
"""The targets of auxiliary decoders; each has a weight `config.loss.NAME_weight`."""

TEACHERS = {"dino": "teacher", "clip": "siglip"}
"""The frozen networks that compute targets, by their names in `weights.pretrained`."""


def auxiliary_decoders(config, model: MAETokConfig, teacher_widths: Mapping[str, int]) -> dict[str, Functional]:
    """Returns the auxiliary decoders whose weights are positive, by their targets.

    Args:
      config: the training config.
      model: of the tokenizer.
      teacher_widths: channels of the frozen networks, by the targets that they compute.

    Raises:
      ValueError: HOG features with patches that are not 16 pixels wide, or `masking.least` above `masking.most`.
    """
    section, patch = config.masking, model.decoder.patch_size
    if section.least > section.most:
        raise ValueError(f"masking.least is {section.least}, above masking.most, {section.most}")
    widths = {"hog": hog.NUM_VALUES, **teacher_widths}
    wanted = [name for name in FEATURES if config.loss[f"{name}_weight"]]
    if "hog" in wanted and patch != hog.PATCH:
        raise ValueError(
            f"HOG features are of patches of {hog.PATCH} pixels, but model.decoder.patch_size is {patch}: set it to "
            f"{hog.PATCH}, or loss.hog_weight=0"
        )
    return {name: functional(AuxiliaryDecoder, model, widths[name]) for name in wanted}


def draw_mask(section, num_patches: int, batch: int, step: jax.Array, key: jax.Array) -> jax.Array:
    """Draws the mask `[B, N]`, True for patches that the encoder does not see.

    Args:
      section: `config.masking`.
      num_patches: `N`.
      batch: `B`.
      step: number of completed training steps.
      key: random key.
    """
    share_key, order_key = jax.random.split(key)
    share = masking.draw_share(share_key, section.least, section.most)
    if section.off_steps:
        share = share * jnp.maximum(0.0, 1.0 - step / section.off_steps)
    return masking.mask_share(batch, num_patches, share, order_key)


def auxiliary_terms(
    decoders: dict[str, Functional],
    params,
    images: jax.Array,
    latents: jax.Array,
    teachers: Mapping[str, ViT],
    mask: jax.Array | None,
) -> dict[str, jax.Array]:
    """Returns the losses of the auxiliary decoders, unweighted: squared error of HOG, negative cosine of the others.

    SigLIP's images are normalized as DINOv2's, by ImageNet's mean and standard deviation, as in the release.

    Args:
      decoders: by their targets.
      params: their parameters, by their targets.
      images: `[B, H, W, 3]` in [-1, 1].
      latents: `[B, L, D]`.
      teachers: the frozen networks with their parameters, by their names in `TEACHERS`.
      mask: `[B, N]`, patches whose losses count; None for all.
    """
    terms = {}
    for name, decoder in decoders.items():
        predicted = decoder(params[name])(latents)
        if name == "hog":
            terms[name] = masked_features.squared_error(predicted, hog.hog(images), mask)
        else:
            features = jax.lax.stop_gradient(patch_features(teachers[TEACHERS[name]], images))
            terms[name] = masked_features.negative_cosine(predicted, features, mask)
    return terms
