"""The fields of a tokenizer's config that depend on its kind, `config.model.kind`. Nothing here imports jax."""

from collections.abc import Callable
from typing import Any

from softvq_jax.config.fields import BOOLEAN, STEPS, Field, Schema, number, one_of, optional, text, with_defaults
from softvq_jax.config.networks import vit_schema

ROPE_THETA = 10.0  # of the published MAEToks

VIT_OPTIONS: Schema = {
    "class_token": Field(True, "Whether there is a class token.", BOOLEAN),
    "absolute_positions": Field(True, "Whether learned positions are added to the tokens.", BOOLEAN),
    "rope_theta": Field(
        ROPE_THETA, "Base of fresh mixed rotary positions; None: no rotary positions.", optional(number(above=0))
    ),
    "modulated": Field(False, "Whether the latents modulate the norms, in place of gains and biases.", BOOLEAN),
}
"""Further fields of a MAETok's transformers."""

DECODER_OPTIONS: dict[str, Any] = dict(class_token=False, absolute_positions=False, modulated=True, layer_scale=None)
AUXILIARY_OPTIONS: dict[str, Any] = DECODER_OPTIONS | dict(class_token=True, width=192, depth=3, num_heads=3)

MASKING: Schema = {
    "least": Field(0.4, "Lowest share of patches that the encoder does not see.", number(0, 1), "share"),
    "most": Field(
        0.6,
        "Highest share. Each batch draws one from a normal distribution around it, of standard deviation 0.25.",
        number(0, 1),
        "share",
    ),
    "off_steps": Field(
        0,
        "Steps over which the share falls linearly to 0, for the last stage; 0: the share stays.",
        STEPS,
        "steps",
    ),
    "targets": Field("masked", "Patches whose features the auxiliary decoders predict.", one_of("masked", "all")),
}
"""The fields of `config.masking`."""

SIGLIP: Schema = {
    "siglip": Field(
        "hf://timm/vit_so400m_patch14_siglip_gap_224.webli/model.safetensors",
        "SigLIP, the teacher of a MAETok's auxiliary decoder. A path, or hf://owner/name/file.",
        text(),
    )
}
"""Further fields of a MAETok's `config.weights`."""

AUXILIARY_LOSSES: Schema = {
    "hog_weight": Field(
        1.0,
        "Weight of the auxiliary decoder of HOG features; with 0 there is none. It needs patches of 16 pixels.",
        number(0),
    ),
    "dino_weight": Field(
        1.0, "Weight of the auxiliary decoder of DINOv2 features; with 0 there is none, and no teacher.", number(0)
    ),
    "clip_weight": Field(
        1.0,
        "Weight of the auxiliary decoder of CLIP (SigLIP) features; with 0 there is none, and no SigLIP.",
        number(0),
    ),
}


def from_scratch(schema: Schema) -> dict[str, Field | Schema]:
    """Returns the fields of SoftVQ-VAE's config without `weights.encoder`, and without alignment and entropy losses."""
    changed = dict(with_defaults(schema, {"loss": {"alignment_weight": 0.0, "entropy_weight": 0.0}}))
    changed["weights"] = {name: field for name, field in _section(schema, "weights").items() if name != "encoder"}
    return changed


def titok_schema(schema: Schema) -> Schema:
    """Returns the fields of a TiTok's config, given those of SoftVQ-VAE."""
    vit = {"layer_scale": None, "norm_eps": 1e-5}
    changes = {"encoder": vit, "decoder": vit, "latent_dim": 64, "bottleneck": "vq", "num_codebooks": 1}
    return with_defaults(from_scratch(schema), {"model": changes | {"l2_normalize": False}})


def maetok_schema(schema: Schema) -> Schema:
    """Returns the fields of a MAETok's config, given those of SoftVQ-VAE."""
    schema = from_scratch(schema)
    model = _section(schema, "model")
    sides = {name: {**_section(model, name), **VIT_OPTIONS} for name in ("encoder", "decoder")}
    auxiliary = with_defaults({**vit_schema("S"), **VIT_OPTIONS}, AUXILIARY_OPTIONS)
    masked = {"mask_token": Field(True, "Whether the encoder can be trained on masked images.", BOOLEAN)}
    schema["model"] = {**model, **sides, **masked, "auxiliary": auxiliary}
    schema["loss"] = {**_section(schema, "loss"), **AUXILIARY_LOSSES}
    schema["weights"] = {**_section(schema, "weights"), **SIGLIP}
    schema["masking"] = MASKING
    changes = {"decoder": DECODER_OPTIONS | {"drop_path": 0.05}, "bottleneck": "ae", "num_codebooks": 1}
    return with_defaults(schema, {"model": changes | {"num_latent_tokens": 128}})


SCHEMAS: dict[str, Callable[[Schema], Schema]] = {
    "softvq": lambda schema: schema,
    "titok": titok_schema,
    "maetok": maetok_schema,
}
"""The fields of a config by the kind of tokenizer, as functions of SoftVQ-VAE's fields.

`weights.tokenizer_kinds.register_kind` adds those of user code.
"""


def kind_schema(schema: Schema, kind: str) -> Schema:
    """Returns the fields of a tokenizer's config, given those of SoftVQ-VAE.

    Args:
      schema: the fields of SoftVQ-VAE's config.
      kind: a name in `SCHEMAS`.

    Raises:
      ValueError: the kind is unknown.
    """
    if kind not in SCHEMAS:
        raise ValueError(f"config.model.kind={kind!r}: expected one of {', '.join(SCHEMAS)}, or a registered kind")
    doc = 'Kind of tokenizer: "softvq", "titok", "maetok", or a registered one; each has its own configs.'
    kind_field = Field(kind, doc, one_of(*SCHEMAS))
    return SCHEMAS[kind]({**schema, "model": {"kind": kind_field, **_section(schema, "model")}})


def _section(schema: Schema, name: str) -> Schema:
    section = schema[name]
    assert not isinstance(section, Field), "a section"
    return section
