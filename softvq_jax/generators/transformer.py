"""Code shared by SiT and DiT: sizes, config fields, guidance and files of the diffusion transformer (`models/dit.py`)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from softvq_jax.config.fields import BOOLEAN, Allowed, Field, Schema, integer, is_number, number, one_of, text
from softvq_jax.diffusion import samplers
from softvq_jax.diffusion.guidance import guided
from softvq_jax.generators.family import Family, Losses, Sampler, Settings
from softvq_jax.generators.published import (
    attention_and_mlp_rules,
    check_tensors,
    final_rules,
    num_heads,
    time_rules,
)
from softvq_jax.generators.sampling import split_keys
from softvq_jax.models.dit import DiT, DiTConfig, sincos_positions
from softvq_jax.models.functional import functional
from softvq_jax.weights.layout import LEADING_ONE, Rule, count_blocks, linear, norm

PRESETS = {  # S is DiT's; SoftVQ-VAE trains the others
    "S": dict(width=384, depth=12, num_heads=6),
    "B": dict(width=768, depth=12, num_heads=12),
    "L": dict(width=1024, depth=24, num_heads=16),
    "XL": dict(width=1152, depth=28, num_heads=16),
}

MODEL_FIELDS: Schema = {
    "width": Field(1152, "Width of the transformer.", integer(2), "channels"),
    "depth": Field(28, "Number of transformer blocks.", integer(1), "blocks"),
    "num_heads": Field(16, "Attention heads of each block; they divide the width.", integer(1), "heads"),
    "mlp_ratio": Field(4.0, "Hidden width of the MLPs, relative to the width.", number(above=0)),
    "qk_norm": Field(False, "LayerNorm on the queries and keys of each head.", BOOLEAN),
}

_INTERVAL = Allowed(
    "(low, high) with 0 <= low <= high <= 1",
    lambda x: (
        len(x) == 2 and all(map(is_number, x)) and 0 <= x[0] <= x[1] <= 1 if isinstance(x, tuple | list) else False
    ),
)


def sampling_fields(sampler_names: tuple[str, ...]) -> Schema:
    """Returns the fields of `config.sampling`; the first sampler is the default."""
    interval = "Guidance is on while low <= t <= high, where t goes from 1 (noise) to 0 (data)."
    return {
        "sampler": Field(sampler_names[0], "Method of integration.", one_of(*sampler_names)),
        "guidance_interval": Field((0.0, 0.7), interval, _INTERVAL),
    }


# 1e-4 without decay, as in SiT and DiT; 600 epochs are 3 M steps, 2.3 times fewer than SiT's 7 M (SoftVQ-VAE, abstract)
OPTIMIZER_DEFAULTS = dict(schedule="constant", warmup_epochs=0.0, beta2=0.999, weight_decay=0.0)
TRAIN_DEFAULTS = dict(num_epochs=600.0)


def fixed_positions(config: DiTConfig) -> dict[str, np.ndarray]:
    """Returns the position embeddings, which are parameters that are not trained."""
    return {"pos_embed": sincos_positions(config.num_tokens, config.width)}


def denoiser(
    network: DiT,
    labels: jax.Array,
    keys: jax.Array,
    guidance: jax.Array,
    noise: jax.Array | None,
    step_noises: jax.Array | None,
    settings: Settings,
) -> tuple[samplers.Model, jax.Array, samplers.NoiseFn]:
    """Returns the inputs of a sampler: the network, the initial noise `[B, L, D]`, and the noise of the steps.

    Args:
      labels, keys: `[B]`.
      guidance: guidance scale.
      noise: `[B, L, D]`; None draws it with `keys`.
      step_noises: `[steps - 1, B, L, D]`; None draws them with `keys`.
    """
    config = network.config
    shape = (config.num_tokens, config.channels)
    pair_labels = jnp.concatenate([labels, jnp.full_like(labels, config.num_classes)])
    with_guidance = guided(lambda x, t: network(x, t, pair_labels), guidance, config.channels)
    model = samplers.Model(
        lambda x, t: network(x, t, labels), with_guidance if settings.guided else None, *settings.guidance_interval
    )
    start_keys, step_keys = split_keys(keys, 2)
    x = samplers.noise_from_keys(start_keys, shape)(0) if noise is None else noise
    noise_fn = samplers.noise_from_keys(step_keys, shape) if step_noises is None else lambda step: step_noises[step]
    return model, x, noise_fn


def weight_rules(config: DiTConfig) -> list[Rule]:
    """Returns the rules of `DiT` in the naming of the authors of SiT and DiT."""
    depth = config.depth
    rules = [
        Rule("pos_embed", "pos_embed", LEADING_ONE),
        Rule("label_embeddings", "y_embedder.embedding_table.weight"),
    ]
    rules += linear("x_embedder", "x_embedder") + time_rules("t_embedder", "t_embedder")
    rules += attention_and_mlp_rules("blocks", "blocks.{i}", depth)
    rules += linear("blocks/modulation", "blocks.{i}.adaLN_modulation.1", depth)
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            rules += norm(f"blocks/attn/{name}", f"blocks.{{i}}.attn.{name}", depth)
    # A SiT that was saved with learn_sigma has twice the outputs; the velocity is the first half.
    return rules + final_rules("final_layer", "final_layer", first_half=not config.learn_sigma)


def read_config(
    tensors: Mapping[str, np.ndarray], published: Mapping[str, Any], *, dtype: str, remat: str
) -> DiTConfig | None:
    """Returns the config of a SiT or DiT, given its tensors; None if they belong to another network.

    Raises:
      WeightsError: a tensor is missing, or the number of heads is unknown.
    """
    if "x_embedder.weight" not in tensors:
        return None
    needed = ("pos_embed", "y_embedder.embedding_table.weight", "final_layer.linear.weight", "blocks.0.mlp.fc1.weight")
    check_tensors(tensors, needed, "a SiT or DiT on 1-D latents")
    width, channels = tensors["x_embedder.weight"].shape
    doubled = tensors["final_layer.linear.weight"].shape[0] == 2 * channels
    is_sit = "path_type" in published or str(published.get("model", "")).startswith("SiT")
    heads = {size: (preset["width"], preset["num_heads"]) for size, preset in PRESETS.items()}
    return DiTConfig(
        num_tokens=tensors["pos_embed"].shape[1],
        channels=channels,
        width=width,
        depth=count_blocks(tensors, "blocks."),
        num_heads=num_heads(published.get("num_heads"), width, heads, published.get("model", "")),
        learn_sigma=doubled and not is_sit,
        num_classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        dtype=dtype,
        remat=remat,
    )


def published_fields(config: DiTConfig, model: str) -> dict[str, Any]:
    """Returns the flat `config.json` of a SiT or DiT, without its process; `model` is "SiT" or "DiT"."""
    sizes = [size for size, preset in PRESETS.items() if preset.items() <= vars(config).items()]
    return {
        "model": f"{model}-{sizes[0]}/1" if sizes else model,
        "in_channels": config.channels,
        "num_latent_tokens": config.num_tokens,
        "num_classes": config.num_classes,
        "hidden_size": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "qk_norm": config.qk_norm,
        "learn_sigma": config.learn_sigma,
    }


def make_family(
    name: str,
    title: str,
    *,
    learn_sigma: bool,
    objective: Schema,
    losses: Callable[[ConfigDict], Losses],
    samplers: Mapping[str, Sampler],
    process_field: str,
    paper: str = "",
) -> Family:
    """Returns a family of generators with the network `DiT`.

    Args:
      name: name of the family.
      title: name of the family in the field `model` of `config.json`, "SiT" or "DiT".
      learn_sigma: whether the network also predicts the variance, see `DiTConfig`.
      objective: the fields of `config.objective`.
      losses, samplers, process_field, paper: see `Family`.
    """
    return Family(
        name=name,
        presets=PRESETS,
        fields={"model": MODEL_FIELDS, "objective": objective, "sampling": sampling_fields(tuple(samplers))},
        make_config=lambda fields: DiTConfig(**fields, learn_sigma=learn_sigma),
        matches_config=lambda config: isinstance(config, DiTConfig) and config.learn_sigma == learn_sigma,
        network=partial(functional, DiT),
        fixed_params=fixed_positions,
        losses=losses,
        samplers=samplers,
        weight_rules=weight_rules,
        read_config=read_config,
        published_fields=lambda config, process: published_fields(config, title) | {process_field: process},
        process_field=process_field,
        paper=paper,
        optimizer_defaults=OPTIMIZER_DEFAULTS,
        train_defaults=TRAIN_DEFAULTS,
        anchors=("x_embedder.weight",),
        config_json={"num_heads": integer(1), "model": text()},
    )
