"""The config of a study: one base, its variants, what is measured of each. Nothing here imports jax."""

import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.fields import Field, integer, one_of
from softvq_jax.config.schemas import register_schema, schema_of

STUDY = {
    "images": {
        "train": Field(1024, "Training crops that probes are fitted on and codes are counted on.", integer(1), "crops"),
        "neighbours": Field(8, "Columns of the picture of nearest neighbors.", integer(1), "images"),
    },
    "map": Field("pca", 'Map of the latents; "umap" needs the extra of that name.', one_of("pca", "umap")),
}
register_schema("study", lambda config: {"base": schema_of(config.base), **STUDY})


def beside(study: str, name: str) -> ConfigDict:
    """The config `configs/NAME.py`, for a study's file in `configs/studies/`; `study` is that file's `__file__`."""
    return runpy.run_path(str(pathlib.Path(study).parents[1] / f"{name}.py"))["get_config"]()


def shortened(base: ConfigDict, num_steps: int) -> ConfigDict:
    """A training config made short: `num_steps` steps, whose gradients are logged often; evaluated at its end only."""
    base.train.num_steps = num_steps
    base.optim.ema_decay = 0.97  # a longer memory would hold on to the start
    base.checkpoint.update(every_steps=100, keep=1)
    base.log.every_steps = 10
    base.evals.held_out.every_steps = 0
    return base


def variant(line: str, x: float, **change: Mapping[str, Any]) -> dict:
    """One run of a study.

    Args:
      line: which line of the figure it is a point of.
      x: where on it.
      change: sections of the base config with the fields that differ: `model=dict(num_latent_tokens=32)`.
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
) -> ConfigDict:
    """A study's whole config, locked.

    Args:
      name: of the study.
      base: the training config that all variants start from; on the command line `--config.base...`.
      variants: by name, from `variant`; they run in this order.
      measures: what is measured of each, among `studies.measures.MEASURES`.
      x: what the variants' x is, in words.
      columns: of the table, among what the measures give.
      panels: of the figure, likewise.
      log_x: whether the figure's x axis is logarithmic.
    """
    config = ConfigDict()
    config.task = "study"
    config.study = name
    config.base = base
    config.variants = {name: ConfigDict(fields) for name, fields in variants.items()}
    config.order = tuple(variants)  # sections have none
    config.measures = tuple(measures)
    config.table = dict(x=x, columns=tuple(columns))
    config.figure = dict(panels=tuple(panels), log_x=log_x)
    config.images = dict(train=1024, neighbours=8)  # crops to fit probes and count codes on; columns of pictures
    config.map = "pca"  # or "umap", which needs the extra of that name
    config.lock()
    return config


def variant_config(config: ConfigDict, name: str) -> ConfigDict:
    """The training config of one variant.

    Raises:
      ValueError: it changes a field that the base does not have.
    """
    result = config.base.copy_and_resolve_references()
    try:
        result.update(config.variants[name].change)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"variant {name} changes a field that the base config does not have: {error}") from error
    return result
