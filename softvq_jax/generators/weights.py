"""Generators in the published layout: SiT and DiT as their authors name the tensors, MAR likewise."""

import re
from collections.abc import Mapping

import numpy as np

from softvq_jax.models import dit
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.mar import MARConfig, StackConfig
from softvq_jax.weights.layout import LEADING_ONE, Layout, Rule, WeightsError, linear, norm

GeneratorConfig = DiTConfig | MARConfig
TWO_LEADING_ONES = Layout(lambda w: w[0, 0], lambda w: w[None, None])  # [1, 1, ...] <-> [...]


def family_of(config: GeneratorConfig) -> str:
    """ "sit", "dit" or "mar"."""
    if isinstance(config, MARConfig):
        return "mar"
    return "dit" if config.learn_sigma else "sit"


def generator_rules(config: GeneratorConfig) -> list[Rule]:
    """Rules of a `DiT` (both families) or a `MAR`."""
    return mar_rules(config) if isinstance(config, MARConfig) else dit_rules(config)


def dit_rules(config: DiTConfig) -> list[Rule]:
    """Rules of a `DiT`, which SiT shares."""
    depth = config.depth
    rules = [
        Rule("pos_embed", "pos_embed", LEADING_ONE),
        Rule("label_embeddings", "y_embedder.embedding_table.weight"),
    ]
    rules += linear("x_embedder", "x_embedder") + _time_rules("t_embedder", "t_embedder")
    rules += _attention_and_mlp("blocks", "blocks.{i}", depth)
    rules += linear("blocks/modulation", "blocks.{i}.adaLN_modulation.1", depth)
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            rules += norm(f"blocks/attn/{name}", f"blocks.{{i}}.attn.{name}", depth)
    return rules + _final_rules("final_layer", "final_layer")


def mar_rules(config: MARConfig) -> list[Rule]:
    """Rules of a `MAR` with its diffusion head."""
    rules = [
        Rule("class_embeddings", "class_emb.weight"),
        Rule("no_class", "fake_latent", LEADING_ONE),
        Rule("encoder_positions", "encoder_pos_embed_learned", LEADING_ONE),
        Rule("mask_token", "mask_token", TWO_LEADING_ONES),
        Rule("decoder_positions", "decoder_pos_embed_learned", LEADING_ONE),
        Rule("head_positions", "diffusion_pos_embed_learned", LEADING_ONE),
    ]
    rules += linear("z_proj", "z_proj") + norm("z_proj_norm", "z_proj_ln") + linear("decoder_embed", "decoder_embed")
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        blocks = f"{name}_blocks.{{i}}"
        rules += _attention_and_mlp(f"{name}/blocks", blocks, stack.depth) + norm(f"{name}/norm", f"{name}_norm")
        for each in ("norm1", "norm2"):
            rules += norm(f"{name}/blocks/{each}", f"{blocks}.{each}", stack.depth)
    net, blocks = "diffloss.net", "diffloss.net.res_blocks.{i}"
    rules += _time_rules("head/time_embed", f"{net}.time_embed")
    rules += linear("head/cond_embed", f"{net}.cond_embed") + linear("head/input_proj", f"{net}.input_proj")
    rules += norm("head/blocks/norm", f"{blocks}.in_ln", config.head_depth)
    for ours, theirs in (("mlp/fc1", "mlp.0"), ("mlp/fc2", "mlp.2"), ("modulation", "adaLN_modulation.1")):
        rules += linear(f"head/blocks/{ours}", f"{blocks}.{theirs}", config.head_depth)
    return rules + _final_rules("head/final_layer", f"{net}.final_layer")


def _attention_and_mlp(path, key, depth):
    names = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    return [rule for n in names for rule in linear(f"{path}/{n.replace('.', '/')}", f"{key}.{n}", depth)]


def _time_rules(path, key):
    return linear(f"{path}/fc1", f"{key}.mlp.0") + linear(f"{path}/fc2", f"{key}.mlp.2")


def _final_rules(path, key):
    return linear(f"{path}/linear", f"{key}.linear") + linear(f"{path}/modulation", f"{key}.adaLN_modulation.1")


def config_of(tensors: Mapping[str, np.ndarray], published: Mapping, **compute) -> GeneratorConfig:
    """The shape of a generator, read from its tensors; `config.json` gives only what shapes cannot: heads and dropout.

    `compute` are the fields that no file says: `dtype` and `remat`.

    Raises:
      WeightsError: the tensors are no generator's, or the number of heads cannot be told.
    """
    if "diffloss.net.input_proj.weight" in tensors:
        return _mar_config(tensors, published, compute)
    for key in ("x_embedder.weight", "pos_embed", "y_embedder.embedding_table.weight", "final_layer.linear.weight"):
        if key not in tensors:
            raise WeightsError(f"the weights have no tensor {key!r}: neither a SiT nor a DiT on 1-D latents, nor a MAR")
    width, channels = tensors["x_embedder.weight"].shape
    return DiTConfig(
        num_tokens=tensors["pos_embed"].shape[1],
        channels=channels,
        width=width,
        depth=_depth(tensors, "blocks."),
        num_heads=_num_heads(published.get("num_heads"), width, published.get("model", "")),
        learn_sigma=tensors["final_layer.linear.weight"].shape[0] == 2 * channels,
        num_classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        **compute,
    )


def _mar_config(tensors, published, compute):
    stacks = {}
    for name in ("encoder", "decoder"):
        width = tensors[f"{name}_norm.weight"].shape[0]
        heads = _num_heads(published.get(f"{name}_num_heads"), width, "")
        stacks[name] = StackConfig(width, _depth(tensors, f"{name}_blocks."), heads)
    num_tokens = tensors["diffusion_pos_embed_learned"].shape[1]
    return MARConfig(
        num_tokens=num_tokens,
        channels=tensors["z_proj.weight"].shape[1],
        **stacks,
        head_width=tensors["diffloss.net.input_proj.weight"].shape[0],
        head_depth=_depth(tensors, "diffloss.net.res_blocks."),
        num_classes=tensors["class_emb.weight"].shape[0],
        buffer_size=tensors["encoder_pos_embed_learned"].shape[1] - num_tokens,
        dropout=float(published.get("attn_dropout", MARConfig.dropout)),
        **compute,
    )


def _depth(tensors, prefix):
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in tensors if key.startswith(prefix))


def _num_heads(stated, width, model):
    """Heads leave no trace in shapes: the stated number, or that of the preset named, or of that width."""
    size = re.search(r"-(B|L|XL)\b", model)
    if stated is not None:
        return int(stated)
    if size:
        return dit.SIZES[size.group(1)]["num_heads"]
    for preset in dit.SIZES.values():
        if preset["width"] == width:
            return preset["num_heads"]
    raise WeightsError(f"config.json says no number of heads, and width {width} is none of the presets': add num_heads")


def published_fields(config: GeneratorConfig, process: str) -> dict:
    """The flat `config.json` of a generator trained here, in the fields that the published ones have."""
    if isinstance(config, MARConfig):
        return _mar_fields(config, process)
    family = "DiT" if config.learn_sigma else "SiT"
    sizes = [name for name, preset in dit.SIZES.items() if preset.items() <= vars(config).items()]
    return {
        "model": f"{family}-{sizes[0]}/1" if sizes else family,
        "in_channels": config.channels,
        "num_latent_tokens": config.num_tokens,
        "num_classes": config.num_classes,
        "hidden_size": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "qk_norm": config.qk_norm,
        "learn_sigma": config.learn_sigma,
        ("schedule" if config.learn_sigma else "path_type"): process,
    }


def _mar_fields(config, process):
    fields = {
        "vae_embed_dim": config.channels,
        "num_latent_tokens": config.num_tokens,
        "class_num": config.num_classes,
        "buffer_size": config.buffer_size,
        "diffloss_d": config.head_depth,
        "diffloss_w": config.head_width,
        "attn_dropout": config.dropout,
        "proj_dropout": config.dropout,
        "schedule": process,
    }
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        fields |= {
            f"{name}_embed_dim": stack.width,
            f"{name}_depth": stack.depth,
            f"{name}_num_heads": stack.num_heads,
        }
    return fields


def process_of(config: GeneratorConfig, published: Mapping) -> str:
    """SiT's path, or DiT's or MAR's noise schedule."""
    family = family_of(config)
    if family == "sit":
        return published.get("path_type", "linear")
    return published.get("schedule", "linear" if family == "dit" else "cosine")
