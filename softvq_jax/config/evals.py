"""The fields of `config.evals`: the evaluators of a run, one section for each. Nothing here imports jax.

A section named after a built-in evaluator configures that evaluator. A section with another name needs the fields
`evaluator`, the "package.module:Class" of a subclass of `train.evaluator.Evaluator`, and `every_steps`; `add_evaluator`
adds such a section to a config.
"""

from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.fields import BOOLEAN, STEPS, Field, Schema, integer, text

HELD_OUT: Schema = {
    "every_steps": Field(
        5000, "Steps between evaluations on held-out samples; the last step is always evaluated.", STEPS, "steps"
    ),
    "num_images": Field(5000, "Number of held-out samples.", integer(1), "images"),
    "batch_size": Field(0, "Global batch size; 0 uses that of training.", integer(0), "images"),
    "raw_weights": Field(
        True, "Whether the weights of the last step are measured beside their moving average (`eval_..._raw`).", BOOLEAN
    ),
    "num_pictures": Field(16, "Number of images in each picture.", integer(0), "images"),
}
"""Losses or reconstruction quality on held-out samples, and pictures."""

FID: Schema = {
    "every_steps": Field(
        0, "Steps between FID measurements, which also run after the last step; 0 turns FID off.", STEPS, "steps"
    ),
    "weights": Field(
        "weights/pt_inception-2015-12-05-6726825d.pth",
        "Weights of the Inception network: a path, or hf://owner/name/file.",
        text(),
    ),
    "num_images": Field(
        5000, "Number of reconstructions or samples to compare with the reference.", integer(1), "images"
    ),
    "reference": Field(
        "", "Images (a folder, a pattern, an .npz) or statistics (an .npz); empty for the held-out images.", text()
    ),
}
"""FID of the averaged weights, as `tools.evaluate` measures it."""

NEAREST_CLASS: Schema = {
    "every_steps": Field(
        0, "Steps between evaluations, which also run after the last step; 0 turns them off.", STEPS, "steps"
    ),
    "num_samples": Field(64, "Number of samples to draw, with evenly spaced classes.", integer(1), "images"),
}
"""Share of samples whose colors resemble training images of their class; for class-conditional generators."""

EVALS: dict[str, Schema] = {"held_out": HELD_OUT, "fid": FID, "nearest_class": NEAREST_CLASS}
"""The fields of the built-in evaluators."""


def evals_schema(*names: str) -> Schema:
    """Returns the fields of `config.evals` for the built-in evaluators `names`."""
    return {name: EVALS[name] for name in names}


def add_evaluator(config: ConfigDict, name: str, evaluator: str, *, every_steps: int, **fields: Any) -> None:
    """Adds an evaluator to a config, locked or not.

    Args:
      config: a training config.
      name: name of the evaluator's section in `config.evals`.
      evaluator: "package.module:Class", a subclass of `train.evaluator.Evaluator`.
      every_steps: steps between evaluations; the last step is evaluated too.
      **fields: further fields of the section.
    """
    with config.unlocked():
        config.evals[name] = dict(evaluator=evaluator, every_steps=every_steps, **fields)
