"""The config of a study: a base config, its variants, and the measures. Nothing here imports jax."""

import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.fields import Field, Schema, defaults, integer, one_of
from softvq_jax.config.schemas import register_schema, schema_of

STEPS = 500
"""Steps of each run of a study whose base is `tiny_base`."""

STUDY: Schema = {
    "seeds": Field(
        1,
        "Runs of each variant, with the seeds base.seed, base.seed + 1 and so on; the table has their means and standard "
        "errors.",
        integer(1),
        "runs",
    ),
    "images": {
        "train": Field(1024, "Training crops for probes, neighbors and codebook usage.", integer(2), "images"),
        "neighbors": Field(
            8, "Held-out images in the pictures of nearest neighbors, one of each class.", integer(1), "images"
        ),
    },
    "map": Field("pca", 'How maps of latents are drawn; "umap" needs the extra umap.', one_of("pca", "umap")),
}
"""Fields of a study in addition to its base config, variants, table and figure."""

register_schema("study", lambda config: {"base": schema_of(config.base), **STUDY})


def tiny_base(study: str) -> ConfigDict:
    """Returns `configs/tiny.py`, shortened to `STEPS` steps, as the base of a study in `configs/studies/`.

    Args:
      study: the study's `__file__`.
    """
    path = pathlib.Path(study).parents[1] / "tiny.py"
    base = shortened(runpy.run_path(str(path))["get_config"](), STEPS)
    base.optim.warmup_epochs = 50.0
    return base


def shortened(base: ConfigDict, num_steps: int) -> ConfigDict:
    """Shortens a training config to `num_steps` steps, with frequent logs and only one evaluation, at the end."""
    base.train.num_steps = num_steps
    base.optim.ema_decay = 0.97  # a longer average would still contain the initial weights
    base.checkpoint.update(every_steps=100, keep=1)
    base.log.every_steps = 10
    base.evals.held_out.every_steps = 0
    return base


def variant(line: str, x: float, **change: Mapping[str, Any]) -> dict:
    """Returns one variant of a study.

    Args:
      line: name of the figure's line to which the variant adds a point.
      x: x coordinate of the point.
      change: fields that differ from the base config, by section, such as `model=dict(num_latent_tokens=32)`.
    """
    return {"line": line, "x": x, "change": change}


def study_config(
    name: str,
    base: ConfigDict,
    variants: Mapping[str, dict],
    *,
    measures: Sequence[str],
    x: str,
    columns: Sequence[str],
    panels: Sequence[str],
    log_x: bool = True,
    seeds: int = 1,
) -> ConfigDict:
    """Returns the locked config of a study.

    Args:
      name: name of the study.
      base: training config that all variants change; `--config.base.FIELD` on the command line.
      variants: variants by name, made by `variant`, in the order in which they run.
      measures: names of measures in `studies.measures.MEASURES`.
      x: label of the x axis.
      columns: names of measured values, for the columns of the table.
      panels: names of measured values, for the panels of the figure.
      log_x: whether the x axis is logarithmic.
      seeds: runs of each variant.
    """
    config = ConfigDict()
    config.task = "study"
    config.study = name
    config.base = base
    config.variants = {name: ConfigDict(fields) for name, fields in variants.items()}
    config.order = tuple(variants)  # because a ConfigDict sorts its keys
    config.measures = tuple(measures)
    config.table = dict(x=x, columns=tuple(columns))
    config.figure = dict(panels=tuple(panels), log_x=log_x)
    config.update(defaults(STUDY))
    config.seeds = seeds
    config.lock()
    return config


def variant_config(config: ConfigDict, name: str, seed: int = 0) -> ConfigDict:
    """Returns the training config of one variant, with `seed` added to its seed.

    Raises:
      ValueError: the variant changes a field that the base config does not have.
    """
    result = config.base.copy_and_resolve_references()
    try:
        result.update(config.variants[name].change)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"variant {name} changes a field that the base config does not have: {error}") from error
    result.seed += seed
    return result
