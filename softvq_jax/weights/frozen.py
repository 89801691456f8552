"""The networks that a training run looks through but does not train: LPIPS' VGG16 and the discriminator's DINO.

Also the rules of the discriminators, whose layout is that of the released training code.
"""

import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.models.dino_trunk import DINO_S, NUM_FEATURES
from softvq_jax.models.lpips import STAGES
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights.layout import CONV1D, CONV2D, SAME, Layout, Rule, norm, read
from softvq_jax.weights.vit import vit_rules

VGG16_SOURCE = "huggingface.co/timm/vgg16.tv_in1k, model.safetensors, or torchvision's vgg16-397923af.pth"
HEADS_SOURCE = "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/vgg.pth"

_POINTWISE = Layout(lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])  # [1, C, 1, 1] <-> [C]


def lpips_rules() -> list[Rule]:
    """Rules of `LPIPS`: trunk as torchvision names it, heads as the `lpips` package does."""
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
    """Parameters of `LPIPS` from VGG16's convolutions and the five heads.

    Args:
      tensors: torchvision's `vgg16` and the heads of the `lpips` package together, or that package's whole model.
      expected: tree of shapes, as for `layout.read`.
      source: the files' names, for messages.

    Raises:
      WeightsError: a tensor is missing, or has another shape than VGG16's.
    """
    named = {}
    for key, tensor in tensors.items():
        # The package keeps torchvision's indices in its slices, and its heads twice: lin0 and lins.0.
        if trunk := re.search(r"\b(?:features|slice\d)\.(\d+\.(?:weight|bias))$", key):
            named[f"features.{trunk[1]}"] = tensor
        elif head := re.search(r"\blin(?:s\.)?(\d\.model\.1\.weight)$", key):
            named[f"lin{head[1]}"] = tensor
    return read(lpips_rules(), named, expected, source=source)


def dino_rules(config: ViTConfig = DINO_S) -> list[Rule]:
    """Rules of `DinoTrunk`, in the naming of DINO and timm."""
    return vit_rules(config, path="vit/")


def read_dino(tensors: Mapping[str, np.ndarray], expected: Mapping, *, source: str, config: ViTConfig = DINO_S) -> dict:
    """Parameters of `DinoTrunk` from DINO's weights, the k part of every qkv bias set to 0.

    Args:
      tensors: the backbone in the naming of DINO and timm, bare or behind `module.`, `backbone.`, `model.`, `dino.`.
      expected: tree of shapes, as for `layout.read`.
      source: the file's name, for messages.

    Raises:
      WeightsError: a tensor is missing or has another shape.
    """
    bare = {re.sub(r"^(?:(?:module|model|backbone|dino)\.)+", "", key): tensor for key, tensor in tensors.items()}
    params = read(dino_rules(config), bare, expected, source=source)
    # Softmax cannot see this bias; the discriminators of StyleGAN-T and VAR have none there.
    params["vit"]["transformer"]["blocks"]["attn"]["qkv"]["bias"][:, config.width : 2 * config.width] = 0
    return params


_HEAD_CONVS = {"pointwise/conv": ("0.0", 1), "circular/conv": ("1.fn.0", 9), "logit": ("2", 1)}
_HEAD_NORMS = {"pointwise/norm": "0.1", "circular/norm": "1.fn.1"}


def head_rules() -> list[Rule]:
    """Rules of `DinoDiscriminator`'s parameters."""
    rules = []
    for path, (key, _) in _HEAD_CONVS.items():
        path, key = f"heads/{path}", f"heads.{{i}}.{key}"
        rules += [
            Rule(f"{path}/kernel", f"{key}.weight_orig", CONV1D, NUM_FEATURES),
            Rule(f"{path}/bias", f"{key}.bias", SAME, NUM_FEATURES),
        ]
    for path, key in _HEAD_NORMS.items():
        rules += norm(f"heads/{path}", f"heads.{{i}}.{key}", NUM_FEATURES)
    return rules


def head_buffer_rules() -> list[Rule]:
    """Rules of `DinoDiscriminator`'s buffers: spectral norm's vectors and BatchNorm's running statistics."""
    rules = []
    for path, (key, size) in _HEAD_CONVS.items():
        path, key = f"heads/{path}", f"heads.{{i}}.{key}"
        rules += [
            Rule(f"{path}/u", f"{key}.weight_u", SAME, NUM_FEATURES),
            Rule(f"{path}/v", f"{key}.weight_v", _flat_windows(size), NUM_FEATURES),
        ]
    for path, key in _HEAD_NORMS.items():
        rules += _running(f"heads/{path}", f"heads.{{i}}.{key}", NUM_FEATURES)
    return rules


def _flat_windows(size):
    """[in * size] <-> [size, in]: spectral norm flattens the kernel there and keeps its axes here."""
    return Layout(lambda v: v.reshape(-1, size).T, lambda v: v.T.reshape(-1))


def _running(path, key, count=None):
    return [Rule(f"{path}/{name}", f"{key}.running_{name}", SAME, count) for name in ("mean", "var")]


def patchgan_rules(num_layers: int = 3) -> list[Rule]:
    """Rules of `PatchGAN`'s parameters."""
    first, last = "main.0", f"main.{3 * num_layers + 2}"
    rules = []
    for path, key in (("conv0", first), ("logit", last)):
        rules += [Rule(f"{path}/kernel", f"{key}.weight", CONV2D), Rule(f"{path}/bias", f"{key}.bias")]
    for i in range(1, num_layers + 1):
        rules += [Rule(f"conv{i}/kernel", f"main.{3 * i - 1}.weight", CONV2D), *norm(f"norm{i}", f"main.{3 * i}")]
    return rules


def patchgan_buffer_rules(num_layers: int = 3) -> list[Rule]:
    """Rules of `PatchGAN`'s buffers: BatchNorm's running statistics."""
    return [rule for i in range(1, num_layers + 1) for rule in _running(f"norm{i}", f"main.{3 * i}")]
