"""The training config of a tokenizer.

The defaults are the released recipe of SoftVQ-L-64 (SoftVQ-VAE, arXiv 2412.10958, appendix). A file in `configs/` calls
`tokenizer_config()` and changes the fields of its experiment. Nothing here imports jax.
"""

from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.evals import evals_schema
from softvq_jax.config.fields import Field, Schema, defaults, flatten, integer, one_of
from softvq_jax.config.kinds import SCHEMAS, kind_schema
from softvq_jax.config.losses import ALIGNMENT, GAN, LOSS
from softvq_jax.config.networks import VIT_SIZES, dinov2_weights, model_schema, vit_schema, weights_schema
from softvq_jax.config.optim import CODEBOOK_SCHEDULE, OPTIM
from softvq_jax.config.run import RUN
from softvq_jax.config.schemas import fields, register_schema
from softvq_jax.config.start import START

__all__ = ["VIT_SIZES", "dinov2_weights", "fields", "optim_section", "run_sections", "steps", "tokenizer_config", "vit"]

SEED = Field(0, "Seed of initial weights, of the data's order and crops, and of all noise.", integer(0, 2**32 - 1))


def tokenizer_schema(encoder: str = "L", decoder: str = "L", kind: str = "softvq") -> Schema:
    """Returns all fields of a tokenizer's config.

    Args:
      encoder: "S", "B" or "L"; also the size of the teacher and of the encoder's initial weights.
      decoder: "S", "B" or "L".
      kind: "softvq", "titok", "maetok" or a registered kind.
    """
    schema: Schema = {
        "task": Field("tokenizer", "What is trained.", one_of("tokenizer")),
        "seed": SEED,
        **START,
        "model": model_schema(encoder, decoder),
        "weights": weights_schema(encoder),
        "loss": LOSS,
        "alignment": ALIGNMENT,
        "gan": GAN,
        "optim": {**OPTIM, "codebook_schedule": CODEBOOK_SCHEDULE},
        **RUN,
        "evals": evals_schema("held_out", "fid"),
    }
    return kind_schema(schema, kind)


def check_kind_fields(config: ConfigDict, kind: str) -> None:
    """Raises ValueError if a config has not the fields of its kind of tokenizer, or has those of another kind."""
    declared = {name: set(flatten(tokenizer_schema(kind=name))) for name in SCHEMAS}
    differing = set.union(*declared.values()) - set.intersection(*declared.values())
    wrong = sorted(name for name in differing if _has_field(config, name) != (name in declared[kind]))
    if wrong:
        raise ValueError(
            f"model.kind is {kind!r}, but the config has the fields of another kind (see {wrong[0]}): start from a config "
            "of this kind, such as l64 (softvq), titok_bl64_vq8k or maetok_b128"
        )


def _has_field(config, name):
    """Returns whether the config has the field, or has None in place of its section, which is then not used."""
    for part in name.split("."):
        if config is None:
            return True
        if part not in config:
            return False
        config = config[part]
    return True


register_schema("tokenizer", lambda config: tokenizer_schema(kind=config.model.get("kind", "softvq")))


def tokenizer_config(encoder: str = "L", decoder: str = "L", kind: str = "softvq") -> ConfigDict:
    """Returns a tokenizer's training config, locked: fields can be set, but not added.

    Args:
      encoder: "S", "B" or "L"; also the size of the teacher and of the encoder's initial weights.
      decoder: "S", "B" or "L".
      kind: "softvq", "titok", "maetok" or a registered kind.
    """
    config = ConfigDict(defaults(tokenizer_schema(encoder, decoder, kind)))
    config.lock()
    config.model.bottleneck_args.unlock()
    return config


def vit(size: str, patch_size: int = 16) -> ConfigDict:
    """Returns the fields of a ViT-S, -B or -L."""
    return ConfigDict(defaults(vit_schema(size, patch_size)))


def optim_section(**values: Any) -> dict[str, Any]:
    """Returns the default values of `config.optim`, updated by `values`."""
    return defaults(OPTIM) | values


def run_sections() -> dict[str, Any]:
    """Returns the default values of the sections shared by all tasks."""
    return defaults({**RUN, "evals": evals_schema("held_out", "fid")})


def steps(config: ConfigDict, num_images: int) -> tuple[int, int]:
    """Returns the number of steps of the whole run, and of one epoch over `num_images`."""
    per_epoch = max(1, num_images // config.train.batch_size)
    return config.train.num_steps or max(
        1, round(config.train.num_epochs * num_images / config.train.batch_size)
    ), per_epoch
