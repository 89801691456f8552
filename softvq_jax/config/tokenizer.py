"""The training config of a tokenizer.

The defaults are the released recipe of SoftVQ-L-64 (SoftVQ-VAE, arXiv 2412.10958, appendix). A file in `configs/` calls
`tokenizer_config()` and changes the fields of its experiment. Nothing here imports jax.
"""

from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.evals import evals_schema
from softvq_jax.config.fields import Field, Schema, defaults, integer, one_of
from softvq_jax.config.kinds import kind_schema
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
      kind: "softvq", "titok" or "maetok".
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


register_schema("tokenizer", lambda config: tokenizer_schema(kind=config.model.get("kind", "softvq")))


def tokenizer_config(encoder: str = "L", decoder: str = "L", kind: str = "softvq") -> ConfigDict:
    """Returns a tokenizer's training config, locked: fields can be set, but not added.

    Args:
      encoder: "S", "B" or "L"; also the size of the teacher and of the encoder's initial weights.
      decoder: "S", "B" or "L".
      kind: "softvq", "titok" or "maetok".
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
