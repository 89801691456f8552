"""The fields of a tokenizer's config that depend on its kind, `config.model.kind`. Nothing here imports jax."""

from typing import Any

from softvq_jax.config.fields import BOOLEAN, STEPS, Field, Schema, number, one_of, optional, with_defaults
from softvq_jax.config.networks import vit_schema

KINDS = ("softvq", "titok", "maetok")
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

AUXILIARY_LOSSES: Schema = {
    "hog_weight": Field(
        1.0,
        "Weight of the auxiliary decoder of HOG features; with 0 there is none. It needs patches of 16 pixels.",
        number(0),
    ),
    "dino_weight": Field(
        1.0, "Weight of the auxiliary decoder of DINOv2 features; with 0 there is none, and no teacher.", number(0)
    ),
}


def kind_schema(schema: Schema, kind: str) -> Schema:
    """Returns the fields of a tokenizer's config, given those of SoftVQ-VAE.

    Args:
      schema: the fields of SoftVQ-VAE's config.
      kind: "softvq", "titok" or "maetok".
    """
    kind_field = Field(
        kind, 'Kind of tokenizer: "softvq", "titok" or "maetok"; each has its own configs.', one_of(*KINDS)
    )
    schema = {**schema, "model": {"kind": kind_field, **_section(schema, "model")}}
    if kind == "softvq":
        return schema
    # Other encoders start from scratch.
    schema["weights"] = {name: field for name, field in _section(schema, "weights").items() if name != "encoder"}
    schema = dict(with_defaults(schema, {"loss": {"alignment_weight": 0.0, "entropy_weight": 0.0}}))
    if kind == "titok":
        vit = {"layer_scale": None, "norm_eps": 1e-5}
        changes = {"encoder": vit, "decoder": vit, "latent_dim": 64, "bottleneck": "vq", "num_codebooks": 1}
        return with_defaults(schema, {"model": changes | {"l2_normalize": False}})
    model = _section(schema, "model")
    sides = {name: {**_section(model, name), **VIT_OPTIONS} for name in ("encoder", "decoder")}
    auxiliary = with_defaults({**vit_schema("S"), **VIT_OPTIONS}, AUXILIARY_OPTIONS)
    masked = {"mask_token": Field(True, "Whether the encoder can be trained on masked images.", BOOLEAN)}
    schema["model"] = {**model, **sides, **masked, "auxiliary": auxiliary}
    schema["loss"] = {**_section(schema, "loss"), **AUXILIARY_LOSSES}
    schema["masking"] = MASKING
    changes = {"decoder": DECODER_OPTIONS | {"drop_path": 0.05}, "bottleneck": "ae", "num_codebooks": 1}
    return with_defaults(schema, {"model": changes | {"num_latent_tokens": 128}})


def _section(schema: Schema, name: str) -> Schema:
    section = schema[name]
    assert not isinstance(section, Field), "a section"
    return section
