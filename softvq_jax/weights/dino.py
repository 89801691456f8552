"""Weight rules of the discriminator's DINO backbone, in the naming of DINO and timm."""

import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.models.dino_trunk import DINO_S
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights.layout import Rule, read
from softvq_jax.weights.vit import vit_rules


def dino_rules(config: ViTConfig = DINO_S) -> list[Rule]:
    """Returns the rules of `DinoTrunk`."""
    return vit_rules(config, path="vit/")


def read_dino(tensors: Mapping[str, np.ndarray], expected: Mapping, *, source: str, config: ViTConfig = DINO_S) -> dict:
    """Returns the parameters of `DinoTrunk`, given DINO's weights; the biases of the keys are set to 0.

    Args:
      tensors: the backbone in the naming of DINO and timm, perhaps with prefixes such as `module.` and `backbone.`.
      expected: tree of shapes, as for `layout.read`.
      source: the file's name, for messages.

    Raises:
      WeightsError: a tensor is missing or has another shape.
    """
    bare = {re.sub(r"^(?:(?:module|model|backbone|dino)\.)+", "", key): tensor for key, tensor in tensors.items()}
    params = read(dino_rules(config), bare, expected, source=source)
    # Biases of keys do not change the softmax; the discriminators of StyleGAN-T and VAR omit them.
    params["vit"]["transformer"]["blocks"]["attn"]["qkv"]["bias"][:, config.width : 2 * config.width] = 0
    return params
