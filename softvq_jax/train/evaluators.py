"""The evaluators of a run: the built-in ones, and those of user code in `config.evals`."""

import importlib
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.parallel.mesh import check_global_batch
from softvq_jax.train import notes
from softvq_jax.train.evaluator import EvaluatedRun, Evaluation, Evaluator
from softvq_jax.train.fid import Fid
from softvq_jax.train.nearest_class import NearestClass
from softvq_jax.train.task import data_of

LATENT_SPREAD = "eval_latent_spread"  # of tokenizers


class HeldOut(Evaluator):
    """Evaluates means over the held-out samples, and pictures; always runs after the last step.

    Metrics that end in `_raw` are those of the weights of the step; the others, and the pictures, of their average.
    """

    def __init__(self, section: ConfigDict, run: EvaluatedRun):
        super().__init__(section, run)
        self.better = run.task.better
        check_batch_size(run.config, run.mesh)

    def due(self, step: int) -> bool:
        every = self.section.every_steps
        return step == self.run.num_steps or (every > 0 and step % every == 0)

    def __call__(self, state: Any, step: int) -> Evaluation:
        run, measured, totals, first = self.run, [state.ema], [], None
        assert run.held_out_sums is not None, "set when training starts"
        if self.section.raw_weights:
            measured.append(state.params)
        data = data_of(run.task)
        with data.eval_batches(run.mesh) as batches:
            for batch in batches:
                run.check_preemption()
                inputs = run.inputs(batch, "valid", "index")
                found = [jax.device_get(run.held_out_sums(params, run.frozen, inputs)) for params in measured]
                sums = [sums for sums, _ in found]
                totals = jax.tree.map(np.add, totals, sums) if totals else sums
                first = found[0][1] if first is None else first
        run.check_preemption()
        metrics, images = run.task.summarize(state.ema, run.frozen, totals[0], first)
        readable = metrics.get("eval_images", metrics.get("eval_samples", 0))
        if unreadable := min(self.section.num_images, len(data.held_out)) - int(readable):
            metrics["eval_unreadable"] = unreadable
        warning = notes.collapse(metrics.get(LATENT_SPREAD, 1.0), run.config.model.get("kind", "softvq"))
        if warning and jax.process_index() == 0:
            logging.warning("step %d: %s", step, warning)
        for params, sums in zip(measured[1:], totals[1:], strict=True):
            raw, _ = run.task.summarize(params, run.frozen, sums, None)
            metrics |= {f"{name}_raw": value for name, value in raw.items() if name in run.task.better}
        return Evaluation(metrics, images)


def check_batch_size(config: ConfigDict, mesh: Mesh) -> None:
    """Raises ValueError if the batches of held-out samples cannot be sharded over the mesh."""
    size = config.evals.held_out.batch_size
    try:
        check_global_batch(size or config.train.batch_size, mesh)
    except ValueError as error:
        raise ValueError(f"evals.held_out.batch_size={size}: {error}, or 0 for that of training") from None


EVALUATORS: dict[str, type[Evaluator]] = {"held_out": HeldOut, "fid": Fid, "nearest_class": NearestClass}
"""The built-in evaluators."""


def open_evaluators(run: EvaluatedRun) -> dict[str, Evaluator]:
    """Constructs the evaluators of a run, by name.

    Raises:
      ValueError: an entry of `config.evals` has no evaluator.
      FileNotFoundError, ImportError: a file or package that an evaluator needs is missing.
    """
    evaluators = {}
    for name in sorted(run.config.evals, key=lambda name: (name != "held_out", name)):  # metrics of held_out come first
        section = run.config.evals[name]
        if path := section.get("evaluator"):
            kind = load_class(path, f"evals.{name}.evaluator")
        elif name in EVALUATORS:
            kind = EVALUATORS[name]
        else:
            raise ValueError(
                f"evals.{name} is not one of {', '.join(EVALUATORS)}: set evals.{name}.evaluator='package.module:Class'"
            )
        evaluators[name] = kind(section, run)
    return evaluators


def load_class(path: str, field: str) -> type:
    """Imports the class at `path`, "package.module:Class", the value of the config's `field`.

    Raises:
      ValueError: the path has another form, or the class cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ValueError(f"{field}={path!r}: {error}; expected 'package.module:Class'") from error
