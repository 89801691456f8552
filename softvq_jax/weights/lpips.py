"""Weight rules of LPIPS: VGG16 in torchvision's naming, and five linear heads in the `lpips` package's naming."""

import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.models.lpips import STAGES
from softvq_jax.weights.layout import CONV2D, Layout, Rule, read

_POINTWISE = Layout(lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])  # [1, C, 1, 1] <-> [C]


def lpips_rules() -> list[Rule]:
    """Returns the rules of `LPIPS`."""
    rules, index = [], 0
    for stage, (_, depth) in enumerate(STAGES, 1):
        for layer in range(1, depth + 1):
            path, key = f"conv{stage}_{layer}", f"features.{index}"
            rules += [Rule(f"{path}/kernel", f"{key}.weight", CONV2D), Rule(f"{path}/bias", f"{key}.bias")]
            index += 2  # the convolution and its ReLU
        index += 1  # the pool
        rules.append(Rule(f"head{stage}", f"lin{stage - 1}.model.1.weight", _POINTWISE))
    return rules


def read_lpips(tensors: Mapping[str, np.ndarray], expected: Mapping, *, source: str) -> dict:
    """Returns the parameters of `LPIPS`, given VGG16's convolutions and the five heads.

    Args:
      tensors: torchvision's `vgg16` together with the heads of the `lpips` package, or that package's whole model.
      expected: tree of shapes, as for `layout.read`.
      source: the files' names, for messages.

    Raises:
      WeightsError: a tensor is missing or has another shape.
    """
    named = {}
    for key, tensor in tensors.items():
        # The package's slices have torchvision's indices, and its heads occur twice, as lin0 and lins.0.
        if trunk := re.search(r"\b(?:features|slice\d)\.(\d+\.(?:weight|bias))$", key):
            named[f"features.{trunk[1]}"] = tensor
        elif head := re.search(r"\blin(?:s\.)?(\d\.model\.1\.weight)$", key):
            named[f"lin{head[1]}"] = tensor
    return read(lpips_rules(), named, expected, source=source)
