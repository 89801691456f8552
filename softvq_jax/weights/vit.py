"""Weight rules of a vision transformer, in the naming of timm and DINO."""

from collections.abc import Mapping

import numpy as np

from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights.layout import LEADING_ONE, PATCH, SAME, Layout, Rule, WeightsError, count_blocks, linear, norm

# [2, depth, ...] <-> [depth, 2, ...]
AXES_SWAPPED = Layout(lambda w: w.swapaxes(0, 1), lambda w: w.swapaxes(0, 1))


def transformer_rules(config: ViTConfig, path: str, key: str) -> list[Rule]:
    """Returns the rules of the blocks and the last norm, without rotary positions (`rotary_rules`).

    Args:
      config: shape of the transformer.
      path, key: prefixes of our paths and of PyTorch's keys, ending with a separator.
    """
    blocks, theirs, depth = f"{path}blocks", f"{key}blocks.{{i}}", config.depth
    if config.modulated:
        rules = linear(f"{blocks}/modulation", f"{theirs}.adaLN_modulation.1", depth)
    else:
        rules = norm(f"{path}norm", f"{key}norm")
        for name in ("norm1", "norm2"):
            rules += norm(f"{blocks}/{name}", f"{theirs}.{name}", depth)
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        rules += linear(f"{blocks}/{name.replace('.', '/')}", f"{theirs}.{name}", depth)
    if config.layer_scale is not None:
        rules += [Rule(f"{blocks}/{n}/gamma", f"{theirs}.{n}.gamma", SAME, depth) for n in ("ls1", "ls2")]
    return rules


def rotary_rules(config: ViTConfig, path: str, key: str) -> list[Rule]:
    """Returns the rule of the frequencies of rotary positions, if there are any; `path` is that of the transformer."""
    if config.rope_theta is None:
        return []
    return [Rule(f"{path}blocks/attn/freqs", f"{key}freqs", AXES_SWAPPED)]


def prefix_rules(config: ViTConfig, path: str, key: str) -> list[Rule]:
    """Returns the rules of the class token and the positions, as far as there are any."""
    rules = [Rule(f"{path}cls_token", f"{key}cls_token", LEADING_ONE)] if config.class_token else []
    if config.absolute_positions:
        rules.append(Rule(f"{path}pos_embed", f"{key}pos_embed", LEADING_ONE))
    return rules


def vit_rules(config: ViTConfig, path: str = "", key: str = "") -> list[Rule]:
    """Returns the rules of a whole `ViT`."""
    rules = prefix_rules(config, path, key) + transformer_rules(config, f"{path}transformer/", key)
    rules += [
        Rule(f"{path}patch_embed/kernel", f"{key}patch_embed.proj.weight", PATCH),
        Rule(f"{path}patch_embed/bias", f"{key}patch_embed.proj.bias"),
    ]
    if config.num_registers:
        rules.append(Rule(f"{path}registers", f"{key}register_tokens", LEADING_ONE))
    return rules


def vit_config_of(tensors: Mapping[str, np.ndarray], key: str = "", *, patch_size: int) -> ViTConfig:
    """Infers the shape of a transformer from its tensors with prefix `key`; assumes heads of width 64, as published.

    Raises:
      WeightsError: the width is not a multiple of 64, or blocks are not numbered from 0.
      KeyError, ValueError, IndexError: tensors are missing or have other numbers of axes.
    """
    blocks = f"{key}blocks."
    fc1, fc2 = tensors[f"{blocks}0.mlp.fc1.weight"], tensors[f"{blocks}0.mlp.fc2.weight"]
    if fc1.shape[1] % 64 or not fc1.shape[1]:
        raise WeightsError(f"'{blocks}0.mlp.fc1.weight' is of width {fc1.shape[1]}; expected a multiple of 64")
    gated = fc1.shape[0] != fc2.shape[1]
    registers = tensors.get(f"{key}register_tokens")
    return ViTConfig(
        width=fc1.shape[1],
        depth=count_blocks(tensors, blocks),
        num_heads=fc1.shape[1] // 64,
        patch_size=patch_size,
        # SwiGLU has two thirds of a plain MLP's hidden width; the ratio of the latter is 4 for every published size.
        mlp_ratio=4.0 if gated else fc1.shape[0] / fc1.shape[1],
        activation="swiglu" if gated else "gelu",
        layer_scale=1e-5 if any(name.startswith(blocks) and name.endswith(".ls1.gamma") for name in tensors) else None,
        num_registers=0 if registers is None else registers.shape[1],
    )
