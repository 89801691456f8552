"""Code for the published layout shared by several families: weight rules, and shapes read from tensors."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from softvq_jax.weights.layout import Rule, WeightsError, linear


def attention_and_mlp_rules(path: str, key: str, depth: int) -> list[Rule]:
    """Returns the rules of the linear maps in `depth` transformer blocks."""
    names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    return [rule for name in names for rule in linear(f"{path}/{name.replace('.', '/')}", f"{key}.{name}", depth)]


def time_rules(path: str, key: str) -> list[Rule]:
    """Returns the rules of a `TimeEmbedding`."""
    return linear(f"{path}/fc1", f"{key}.mlp.0") + linear(f"{path}/fc2", f"{key}.mlp.2")


def final_rules(path: str, key: str, *, first_half: bool = False) -> list[Rule]:
    """Returns the rules of a `FinalLayer`; see `Rule` for `first_half`."""
    outputs = [dataclasses.replace(rule, first_half=first_half) for rule in linear(f"{path}/linear", f"{key}.linear")]
    return outputs + linear(f"{path}/modulation", f"{key}.adaLN_modulation.1")


def check_tensors(tensors: Mapping[str, np.ndarray], needed: Iterable[str], network: str) -> None:
    """Raises WeightsError for the first of the `needed` tensors that is missing."""
    for key in needed:
        if key not in tensors:
            raise WeightsError(f"the weights have no tensor {key!r}, which {network} needs")


def num_heads(stated: Any, width: int, presets: Mapping[str, tuple[int, int]], model: str = "") -> int:
    """Returns the number of attention heads, which the shapes of tensors do not determine.

    Args:
      stated: the number in `config.json`; None if it has none.
      width: width of the blocks.
      presets: width and number of heads by size.
      model: the model's name in `config.json`, such as "SiT-XL/1", which may contain a size.

    Raises:
      WeightsError: the number is not stated, and no size has this name or width.
    """
    if stated is not None:
        return int(stated)
    named = re.search(rf"-({'|'.join(presets)})\b", model)
    if named:
        return presets[named[1]][1]
    for preset_width, heads in presets.values():
        if preset_width == width:
            return heads
    raise WeightsError(f"config.json has no number of heads, and no preset has width {width}: add num_heads to it")
