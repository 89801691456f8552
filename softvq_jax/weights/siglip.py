"""Weight rules of SigLIP's image encoder, in the naming of the Hugging Face Hub and in timm's.

A file may contain the text encoder and the pooling head too; they are not read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from softvq_jax.models.dinov2 import resample_patch_kernel, resample_positions
from softvq_jax.models.functional import functional
from softvq_jax.models.siglip import siglip_config
from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.weights import layout
from softvq_jax.weights.layout import LINEAR, PATCH, SAME, Rule, count_blocks, linear, norm
from softvq_jax.weights.vit import vit_rules

HUB_PREFIX = "vision_model."  # of the image encoder in a file of the Hub
ANCHORS = ("embeddings.patch_embedding.weight", "patch_embed.proj.weight")
_POSITIONS = {ANCHORS[0]: "embeddings.position_embedding.weight", ANCHORS[1]: "pos_embed"}
_BLOCKS = {ANCHORS[0]: "encoder.layers.", ANCHORS[1]: "blocks."}


def siglip_rules(config: ViTConfig, key: str = HUB_PREFIX) -> list[Rule]:
    """Returns the rules in the Hub's naming; `key` is the prefix of its keys. Those in timm's naming are `vit_rules`."""
    blocks, theirs, depth = "transformer/blocks", f"{key}encoder.layers.{{i}}", config.depth
    attention = f"{theirs}.self_attn.{{part}}_proj"
    rules = [
        Rule("patch_embed/kernel", f"{key}{ANCHORS[0]}", PATCH),
        Rule("patch_embed/bias", f"{key}embeddings.patch_embedding.bias"),
        Rule("pos_embed", f"{key}{_POSITIONS[ANCHORS[0]]}"),
        Rule(f"{blocks}/attn/qkv/kernel", f"{attention}.weight", LINEAR, depth, joined=("q", "k", "v")),
        Rule(f"{blocks}/attn/qkv/bias", f"{attention}.bias", SAME, depth, joined=("q", "k", "v")),
    ]
    rules += linear(f"{blocks}/attn/proj", f"{theirs}.self_attn.out_proj", depth)
    for name in ("fc1", "fc2"):
        rules += linear(f"{blocks}/mlp/{name}", f"{theirs}.mlp.{name}", depth)
    for number in (1, 2):
        rules += norm(f"{blocks}/norm{number}", f"{theirs}.layer_norm{number}", depth)
    return rules + norm("transformer/norm", f"{key}post_layernorm")


def read_siglip(
    tensors: Mapping[str, np.ndarray], *, patch_size: int, image_size: int, source: str
) -> tuple[tuple[ViTConfig, int], dict[str, Any]]:
    """Reads an image encoder, resampled to other patches and images as DINOv2 is.

    Args:
      tensors: its tensors in one of the two namings, without prefix.
      patch_size, image_size: in pixels.
      source: the file's name, for messages.

    Returns:
      The arguments of `ViT`, and its parameters.

    Raises:
      WeightsError: tensors are missing or have other shapes.
      KeyError, ValueError, IndexError: the tensors are not those of a SigLIP; see `layout.reading`.
    """
    kernel = next((anchor for anchor in ANCHORS if anchor in tensors), ANCHORS[0])
    config = _config_of(tensors, _BLOCKS[kernel], patch_size)
    grid, positions = config.grid(image_size), tensors[_POSITIONS[kernel]]
    rows = resample_positions(positions.reshape(-1, config.width), grid, class_position=False)
    resampled = dict(tensors) | {
        kernel: resample_patch_kernel(tensors[kernel], patch_size),
        _POSITIONS[kernel]: rows.reshape(*positions.shape[:-2], *rows.shape),
    }
    rules = siglip_rules(config, "") if kernel == ANCHORS[0] else vit_rules(config)
    layout.check_unused(tensors, {key for rule in rules for key in rule.keys}, source=source)
    params = layout.read(rules, resampled, functional(ViT, config, image_size).shapes, source=source)
    return (config, image_size), params


def _config_of(tensors, blocks, patch_size):
    hidden, width = tensors[f"{blocks}0.mlp.fc1.weight"].shape
    return siglip_config(width, count_blocks(tensors, blocks), hidden, patch_size=patch_size)
