"""Rules of the discriminator's DINO backbone, in the naming of DINO and timm."""

import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.models.dino_trunk import DINO_S
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights.layout import Rule, read
from softvq_jax.weights.vit import vit_rules


def dino_rules(config: ViTConfig = DINO_S) -> list[Rule]:
    """Rules of `DinoTrunk`."""
    return vit_rules(config, path="vit/")


def read_dino(tensors: Mapping[str, np.ndarray], expected: Mapping, *, source: str, config: ViTConfig = DINO_S) -> dict:
    """Parameters of `DinoTrunk` from DINO's weights, with the k part of every qkv bias set to 0.

    Args:
      tensors: the backbone in the naming of DINO and timm; prefixes such as `module.` and `backbone.` are removed.
      expected: tree of shapes, as for `layout.read`.
      source: the file's name, for messages.

    Raises:
      WeightsError: a tensor is missing or has another shape.
    """
    bare = {re.sub(r"^(?:(?:module|model|backbone|dino)\.)+", "", key): tensor for key, tensor in tensors.items()}
    params = read(dino_rules(config), bare, expected, source=source)
    # This bias does not change the softmax; the discriminators of StyleGAN-T and VAR omit it.
    params["vit"]["transformer"]["blocks"]["attn"]["qkv"]["bias"][:, config.width : 2 * config.width] = 0
    return params
