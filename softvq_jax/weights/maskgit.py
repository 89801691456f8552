"""Weight rules of masked token generators in TiTok's layout: nested `config.json`, BERT's or U-ViT's tensor names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from softvq_jax.config.fields import BOOLEAN, integer, number, one_of
from softvq_jax.models.maskgit import MaskGITConfig
from softvq_jax.weights.config_json import section, stated
from softvq_jax.weights.layout import LEADING_ONE, LINEAR, SAME, Rule, WeightsError, count_blocks, linear, norm

MODEL_TYPES = {"bert": "ViT", "uvit": "UViT"}  # the release's `model_type` by our name
ANCHORS = ("model.lm_head.weight", "mid_block.attn.qkv.weight")
NETWORK_FIELDS = {  # the fields of `model.generator` on which the network depends
    "num_attention_heads": integer(1),
    "dropout": number(0, below=1),
    "attn_drop": number(0, below=1),
}
SAMPLING_FIELDS = {  # those on which sampling depends
    "num_steps": integer(1),
    "randomize_temperature": number(0),
    "guidance_scale": number(),
    "guidance_decay": one_of("linear", "power-cosine", "constant"),
    "softmax_temperature_annealing": BOOLEAN,
}
DEFAULT_SAMPLING = {  # of the published L-32 and S-128
    "bert": dict(num_steps=8, randomize_temperature=9.5, guidance_scale=4.5, guidance_decay="linear"),
    "uvit": dict(num_steps=64, randomize_temperature=2.8, guidance_scale=6.9, guidance_decay="power-cosine"),
}
_QKV = ("query", "key", "value")


def is_maskgit(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state dict has the naming of one of the two networks."""
    return "model.lm_head.weight" in tensors or {"lm_head.weight", "mid_block.attn.qkv.weight"} <= tensors.keys()


def maskgit_rules(config: MaskGITConfig) -> list[Rule]:
    """Returns the rules of an `ImageBert` or a `UViTBert`."""
    return _bert_rules(config) if config.network == "bert" else _uvit_rules(config)


def _bert_rules(config):
    embeddings, theirs, depth = "model.embeddings", "model.encoder.layer.{i}", config.depth
    rules = [
        Rule("embeddings", f"{embeddings}.word_embeddings.weight"),
        Rule("positions", f"{embeddings}.position_embeddings.weight"),
        Rule("token_types", f"{embeddings}.token_type_embeddings.weight"),
        Rule("blocks/attn/qkv/kernel", f"{theirs}.attention.self.{{part}}.weight", LINEAR, depth, joined=_QKV),
        Rule("blocks/attn/qkv/bias", f"{theirs}.attention.self.{{part}}.bias", SAME, depth, joined=_QKV),
    ]
    rules += norm("norm", f"{embeddings}.LayerNorm") + linear("to_logits", "model.lm_head")
    for ours, name in (("attn/proj", "attention.output"), ("mlp/fc1", "intermediate"), ("mlp/fc2", "output")):
        rules += linear(f"blocks/{ours}", f"{theirs}.{name}.dense", depth)
    for ours, name in (("norm1", "attention.output"), ("norm2", "output")):
        rules += norm(f"blocks/{ours}", f"{theirs}.{name}.LayerNorm", depth)
    return rules


def _uvit_rules(config):
    half = config.depth // 2
    rules = [Rule("embeddings", "embeddings.weight"), Rule("positions", "pos_embed", LEADING_ONE)]
    for path, key, count in (
        ("in_blocks", "in_blocks.{i}", half),
        ("mid_block", "mid_block", None),
        ("out_blocks", "out_blocks.{i}", half),
    ):
        for each in ("norm1", "norm2"):
            rules += norm(f"{path}/{each}", f"{key}.{each}", count)
        rules += linear(f"{path}/attn/qkv", f"{key}.attn.qkv", count, bias=False)
        for each in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            rules += linear(f"{path}/{each.replace('.', '/')}", f"{key}.{each}", count)
    rules += linear("out_blocks/skip", "out_blocks.{i}.skip_linear", half)
    return rules + norm("norm", "norm") + linear("to_logits", "lm_head")


def config_of(tensors: Mapping[str, np.ndarray], published: Mapping, **compute) -> MaskGITConfig:
    """Infers the shape of a published generator from its tensors; only heads and dropout are read from `config.json`.

    Args:
      tensors: the state dict.
      published: the content of `config.json`, nested as in the release: `model.generator`.
      compute: the fields that files do not contain, `dtype` and `remat`.

    Raises:
      WeightsError: the tensors are not those of a generator, or `config.json` lacks the number of heads.
    """
    fields = stated(section(published, "model.generator", source="config.json"), NETWORK_FIELDS, source="config.json")
    if "num_attention_heads" not in fields:
        raise WeightsError("config.json has no model.generator.num_attention_heads, which the shapes do not determine")
    codebooks = section(published, "model.vq_model", source="config.json").get("num_codebooks")
    compute["num_codebooks"] = 1 if codebooks is None else int(codebooks)
    try:
        return _config_of(tensors, fields, **compute)
    except KeyError as error:
        raise WeightsError(f"the weights have no tensor {error}: not a masked token generator") from error


def _config_of(tensors, fields, **compute):
    if "model.lm_head.weight" in tensors:
        network, embeddings, head = "bert", "model.embeddings.word_embeddings.weight", "model.lm_head.weight"
        positions = tensors["model.embeddings.position_embeddings.weight"].shape[0]
        depth, hidden = count_blocks(tensors, "model.encoder.layer."), "model.encoder.layer.0.intermediate.dense.weight"
    else:
        network, embeddings, head = "uvit", "embeddings.weight", "lm_head.weight"
        positions = tensors["pos_embed"].shape[1]
        depth, hidden = 2 * count_blocks(tensors, "in_blocks."), "mid_block.mlp.fc1.weight"
    codebook_size, width = tensors[head].shape
    return MaskGITConfig(
        network=network,
        codebook_size=codebook_size,
        num_tokens=positions - 1,
        width=width,
        depth=depth,
        num_heads=int(fields["num_attention_heads"]),
        hidden=tensors[hidden].shape[0],
        num_classes=tensors[embeddings].shape[0] - codebook_size - 2,
        dropout=float(fields.get("dropout", MaskGITConfig.dropout)),
        attention_dropout=float(fields.get("attn_drop", MaskGITConfig.attention_dropout)),
        **compute,
    )


def sampling_of(published: Mapping) -> dict[str, Any]:
    """Returns the sampling settings in `model.generator`; missing ones have the values of the published models."""
    allowed = SAMPLING_FIELDS
    fields = stated(section(published, "model.generator", source="config.json"), allowed, source="config.json")
    network = "uvit" if fields.get("model_type") == MODEL_TYPES["uvit"] else "bert"
    known = {name: value for name, value in fields.items() if name in allowed}
    return {"softmax_temperature_annealing": False} | DEFAULT_SAMPLING[network] | known


def published_fields(config: MaskGITConfig, sampling: Mapping | None = None) -> dict:
    """Returns the nested `config.json` of a generator trained here.

    Args:
      config: shape of the network.
      sampling: the release's sampling fields; those of the published models by default.
    """
    generator = {
        "model_type": MODEL_TYPES[config.network],
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden,
        "dropout": config.dropout,
        "attn_drop": config.attention_dropout,
        "class_label_dropout": 0.1,
        "image_seq_len": config.num_tokens,
        "condition_num_classes": config.num_classes,
        **(DEFAULT_SAMPLING[config.network] if sampling is None else sampling),
    }
    vq_model = {
        "codebook_size": config.codebook_size,
        "num_latent_tokens": config.num_tokens,
        "num_codebooks": config.num_codebooks,
    }
    return {"model": {"vq_model": vq_model, "generator": generator}}
